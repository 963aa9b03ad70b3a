//! A thin shell around io_uring: operations go in with a purpose, completions come out with it.
//!
//! Invariant: whatever an operation in flight needs (descriptor, buffers, I/O vectors) is held here until its
//! completion has been seen, so no caller can free it too early.
#![allow(unsafe_code, reason = "submitting to io_uring hands raw addresses to the kernel")]

use crate::buffer::Buffer;
use io_uring::{IoUring, opcode, squeue, types};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

/// Entries of the submission queue; more operations than this may be in flight, they are only submitted in turns.
const SUBMISSION_ENTRIES: u32 = 256;

/// A descriptor that lives at least as long as the operations on it.
pub(crate) type Descriptor = Rc<OwnedFd>;

/// One piece of a vectored send.
pub(crate) struct Piece {
    pub(crate) buffer: Buffer,
    pub(crate) at: usize,
    pub(crate) len: usize,
}

/// What an operation keeps alive while the kernel works on it.
enum Held {
    Descriptor(#[allow(dead_code, reason = "held only")] Descriptor),
    Buffer(
        #[allow(dead_code, reason = "held only")] Descriptor,
        #[allow(dead_code, reason = "held only")] Buffer,
    ),
    Vector(
        #[allow(dead_code, reason = "held only")] Descriptor,
        #[allow(dead_code, reason = "held only")] Vec<Piece>,
        #[allow(dead_code, reason = "held only")] Box<Message>,
    ),
}

struct Message {
    header: libc::msghdr,
    vectors: Vec<libc::iovec>,
}

struct InFlight<P> {
    purpose: P,
    held: Held,
}

/// A finished operation.
pub(crate) struct Completion<P> {
    pub(crate) purpose: P,
    /// Bytes moved, or a descriptor for an accept.
    pub(crate) result: io::Result<u32>,
}

/// The ring, with operations of purposes `P`.
pub(crate) struct Ring<P> {
    ring: IoUring,
    in_flight: Vec<Option<InFlight<P>>>,
    free: Vec<usize>,
}

impl<P> Ring<P> {
    /// Makes a ring for this thread.
    pub(crate) fn new() -> io::Result<Self> {
        let tuned = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .setup_cqsize(SUBMISSION_ENTRIES * 8)
            .build(SUBMISSION_ENTRIES);
        let ring = match tuned {
            Ok(ring) => ring,
            // Kernels before 6.1 do not know these flags; they only cost speed.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => IoUring::new(SUBMISSION_ENTRIES)?,
            Err(e) => return Err(e),
        };
        Ok(Self { ring, in_flight: Vec::new(), free: Vec::new() })
    }

    pub(crate) fn read_at(
        &mut self,
        fd: &Descriptor,
        buffer: &Buffer,
        at: usize,
        len: usize,
        offset: u64,
        purpose: P,
    ) {
        let entry =
            opcode::Read::new(types::Fd(fd.as_raw_fd()), buffer.address(at, len), len as u32).offset(offset);
        self.push(entry.build(), Held::Buffer(fd.clone(), buffer.clone()), purpose);
    }

    pub(crate) fn write_at(
        &mut self,
        fd: &Descriptor,
        buffer: &Buffer,
        at: usize,
        len: usize,
        offset: u64,
        purpose: P,
    ) {
        let entry =
            opcode::Write::new(types::Fd(fd.as_raw_fd()), buffer.address(at, len), len as u32).offset(offset);
        self.push(entry.build(), Held::Buffer(fd.clone(), buffer.clone()), purpose);
    }

    /// Makes the data of a file durable.
    pub(crate) fn sync_data(&mut self, fd: &Descriptor, purpose: P) {
        let entry = opcode::Fsync::new(types::Fd(fd.as_raw_fd())).flags(types::FsyncFlags::DATASYNC);
        self.push(entry.build(), Held::Descriptor(fd.clone()), purpose);
    }

    pub(crate) fn fallocate(&mut self, fd: &Descriptor, mode: i32, offset: u64, len: u64, purpose: P) {
        let entry = opcode::Fallocate::new(types::Fd(fd.as_raw_fd()), len).offset(offset).mode(mode);
        self.push(entry.build(), Held::Descriptor(fd.clone()), purpose);
    }

    pub(crate) fn accept(&mut self, fd: &Descriptor, purpose: P) {
        let entry =
            opcode::Accept::new(types::Fd(fd.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut())
                .flags(libc::SOCK_CLOEXEC);
        self.push(entry.build(), Held::Descriptor(fd.clone()), purpose);
    }

    pub(crate) fn receive(&mut self, fd: &Descriptor, buffer: &Buffer, at: usize, len: usize, purpose: P) {
        let entry = opcode::Recv::new(types::Fd(fd.as_raw_fd()), buffer.address(at, len), len as u32);
        self.push(entry.build(), Held::Buffer(fd.clone(), buffer.clone()), purpose);
    }

    /// Sends the pieces one after the other as one message; may send fewer bytes than there are.
    pub(crate) fn send(&mut self, fd: &Descriptor, pieces: Vec<Piece>, purpose: P) {
        let vectors = pieces
            .iter()
            .map(|p| libc::iovec { iov_base: p.buffer.address(p.at, p.len).cast(), iov_len: p.len })
            .collect();
        // SAFETY: all-zero is a valid message header: no name, no control data, no vectors.
        let mut message = Box::new(Message { header: unsafe { std::mem::zeroed() }, vectors });
        message.header.msg_iov = message.vectors.as_mut_ptr();
        message.header.msg_iovlen = message.vectors.len();
        let entry = opcode::SendMsg::new(types::Fd(fd.as_raw_fd()), &raw const message.header)
            .flags(libc::MSG_NOSIGNAL as u32);
        self.push(entry.build(), Held::Vector(fd.clone(), pieces, message), purpose);
    }

    /// Submits what was pushed, waits until something completed or `timeout` passed, and hands out completions.
    pub(crate) fn wait(&mut self, timeout: Duration, completed: &mut Vec<Completion<P>>) -> io::Result<()> {
        let pause = types::Timespec::from(timeout);
        let args = types::SubmitArgs::new().timespec(&pause);
        match self.ring.submitter().submit_with_args(1, &args) {
            Ok(_) => {}
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) => {}
            Err(e) => return Err(e),
        }
        for entry in self.ring.completion() {
            let slot = entry.user_data() as usize;
            let InFlight { purpose, held } =
                self.in_flight[slot].take().expect("a completion names an operation");
            self.free.push(slot);
            drop(held);
            let result =
                u32::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()));
            completed.push(Completion { purpose, result });
        }
        Ok(())
    }

    fn push(&mut self, entry: squeue::Entry, held: Held, purpose: P) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.in_flight.push(None);
            self.in_flight.len() - 1
        });
        self.in_flight[slot] = Some(InFlight { purpose, held });
        let entry = entry.user_data(slot as u64);
        // SAFETY: the addresses in the entry belong to what `in_flight` holds until its completion is seen.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            // The queue is full: hand it to the kernel without waiting. Failure shows again in `wait`.
            if self.ring.submit().is_err() {
                std::thread::yield_now();
            }
        }
    }
}

impl<P> Drop for Ring<P> {
    fn drop(&mut self) {
        // The kernel may still write into held buffers until the ring is closed, which happens after this body;
        // leaking them is the only safe order when operations are still in flight (the process is ending).
        for flight in self.in_flight.drain(..).flatten() {
            std::mem::forget(flight.held);
        }
    }
}
