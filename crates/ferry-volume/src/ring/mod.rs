//! A thin shell around the kernel: operations go in with a purpose, completions come out with it.
//!
//! Two backends do the same: [`uring`] on io_uring, and [`portable`] with `poll` and a few threads for hosts and
//! containers that forbid io_uring.
//!
//! Invariant: whatever an operation in flight needs (descriptor, buffers, I/O vectors) is held here until its
//! completion has been seen, so no caller can free it too early.
#![allow(unsafe_code, reason = "operations hand raw addresses to the kernel")]

mod patience;
mod portable;
#[cfg(test)]
pub(crate) mod recorder;
mod uring;

use crate::buffer::Buffer;
use patience::Patience;
use portable::Portable;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};
use uring::Uring;

/// A descriptor that lives at least as long as the operations on it.
pub(crate) type Descriptor = Rc<OwnedFd>;

/// How a volume server does its I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoBackend {
    /// io_uring where it is allowed, else [`IoBackend::Portable`].
    #[default]
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// `poll` and threads.
    Portable,
}

/// Tries whether io_uring is to be had.
///
/// # Errors
/// What the kernel says against it.
pub fn probe_io_uring() -> io::Result<()> {
    Uring::new().map(drop)
}

/// One piece of a vectored send.
pub(crate) struct Piece {
    pub(crate) buffer: Buffer,
    pub(crate) at: usize,
    pub(crate) len: usize,
}

/// An operation as the kernel sees it: numbers and addresses that `Held` keeps valid.
#[derive(Clone, Copy)]
enum Work {
    Read { fd: RawFd, address: *mut u8, len: u32, offset: u64 },
    Write { fd: RawFd, address: *mut u8, len: u32, offset: u64 },
    SyncData { fd: RawFd },
    SyncRange { fd: RawFd, offset: u64, len: u32, flags: u32 },
    Forget { fd: RawFd, offset: u64, len: u32 },
    Fallocate { fd: RawFd, mode: i32, offset: u64, len: u64 },
    Accept { fd: RawFd },
    Receive { fd: RawFd, address: *mut u8, len: u32, flags: i32 },
    Send { fd: RawFd, message: *const libc::msghdr },
    ReadEvent { fd: RawFd, address: *mut u8 },
}

/// What an operation keeps alive while the kernel works on it.
struct Held {
    _descriptor: Descriptor,
    _buffer: Option<Buffer>,
    _message: Option<Box<Message>>,
}

struct Message {
    header: libc::msghdr,
    vectors: Vec<libc::iovec>,
    _pieces: Vec<Piece>,
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

enum Backend {
    Uring(Box<Uring>),
    Portable(Box<Portable>),
}

/// What the kernel answered: the slot of the operation, and its result or negative errno.
type Answer = (usize, i32);

/// The ring, with operations of purposes `P`.
pub(crate) struct Ring<P> {
    // Dropped before what is in flight: no backend touches memory after its end.
    backend: Backend,
    in_flight: Vec<Option<InFlight<P>>>,
    free: Vec<usize>,
    answers: Vec<Answer>,
    patience: Patience,
}

impl<P> Ring<P> {
    /// Makes a ring for this thread.
    ///
    /// # Errors
    /// The backend is not to be had.
    pub(crate) fn new(wanted: IoBackend) -> io::Result<Self> {
        let backend = match wanted {
            IoBackend::Portable => Backend::Portable(Box::new(Portable::new()?)),
            IoBackend::IoUring => Backend::Uring(Box::new(Uring::new()?)),
            IoBackend::Auto => match Uring::new() {
                Ok(uring) => Backend::Uring(Box::new(uring)),
                Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::ENOSYS)) => {
                    tracing::info!("io_uring is forbidden here; using poll and threads");
                    Backend::Portable(Box::new(Portable::new()?))
                }
                Err(e) => return Err(e),
            },
        };
        Ok(Self {
            backend,
            in_flight: Vec::new(),
            free: Vec::new(),
            answers: Vec::new(),
            patience: Patience::default(),
        })
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
        let work =
            Work::Read { fd: fd.as_raw_fd(), address: buffer.address(at, len), len: len as u32, offset };
        self.push(work, held(fd, Some(buffer)), purpose);
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
        let work =
            Work::Write { fd: fd.as_raw_fd(), address: buffer.address(at, len), len: len as u32, offset };
        self.push(work, held(fd, Some(buffer)), purpose);
    }

    /// Makes the data of a file durable.
    pub(crate) fn sync_data(&mut self, fd: &Descriptor, purpose: P) {
        self.push(Work::SyncData { fd: fd.as_raw_fd() }, held(fd, None), purpose);
    }

    /// Begins to write what the page cache holds of a range to the disk. No promise of durability.
    pub(crate) fn begin_writeback(&mut self, fd: &Descriptor, offset: u64, len: u32, purpose: P) {
        let flags = libc::SYNC_FILE_RANGE_WRITE;
        self.push(Work::SyncRange { fd: fd.as_raw_fd(), offset, len, flags }, held(fd, None), purpose);
    }

    /// Waits for what [`Ring::begin_writeback`] began. No promise of durability.
    pub(crate) fn await_writeback(&mut self, fd: &Descriptor, offset: u64, len: u32, purpose: P) {
        let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE;
        self.push(Work::SyncRange { fd: fd.as_raw_fd(), offset, len, flags }, held(fd, None), purpose);
    }

    /// Takes what is written of a range out of the page cache.
    pub(crate) fn forget(&mut self, fd: &Descriptor, offset: u64, len: u32, purpose: P) {
        self.push(Work::Forget { fd: fd.as_raw_fd(), offset, len }, held(fd, None), purpose);
    }

    pub(crate) fn fallocate(&mut self, fd: &Descriptor, mode: i32, offset: u64, len: u64, purpose: P) {
        self.push(Work::Fallocate { fd: fd.as_raw_fd(), mode, offset, len }, held(fd, None), purpose);
    }

    pub(crate) fn accept(&mut self, fd: &Descriptor, purpose: P) {
        self.push(Work::Accept { fd: fd.as_raw_fd() }, held(fd, None), purpose);
    }

    pub(crate) fn receive(&mut self, fd: &Descriptor, buffer: &Buffer, at: usize, len: usize, purpose: P) {
        let (address, len) = (buffer.address(at, len), len as u32);
        let work = Work::Receive { fd: fd.as_raw_fd(), address, len, flags: 0 };
        self.push(work, held(fd, Some(buffer)), purpose);
    }

    /// Receives so many bytes, at best all of them together; may still give fewer.
    pub(crate) fn receive_all(
        &mut self,
        fd: &Descriptor,
        buffer: &Buffer,
        at: usize,
        len: usize,
        purpose: P,
    ) {
        let (address, len) = (buffer.address(at, len), len as u32);
        let work = Work::Receive { fd: fd.as_raw_fd(), address, len, flags: libc::MSG_WAITALL };
        self.push(work, held(fd, Some(buffer)), purpose);
    }

    /// Waits for an eventfd and takes its count into the first 8 bytes of the buffer.
    pub(crate) fn read_event(&mut self, fd: &Descriptor, buffer: &Buffer, purpose: P) {
        let work = Work::ReadEvent { fd: fd.as_raw_fd(), address: buffer.address(0, 8) };
        self.push(work, held(fd, Some(buffer)), purpose);
    }

    /// Sends the pieces one after the other as one message; may send fewer bytes than there are.
    pub(crate) fn send(&mut self, fd: &Descriptor, pieces: Vec<Piece>, purpose: P) {
        let vectors = vectors_of(pieces.iter());
        // SAFETY: all-zero is a valid message header: no name, no control data, no vectors.
        let mut message =
            Box::new(Message { header: unsafe { std::mem::zeroed() }, vectors, _pieces: pieces });
        message.header.msg_iov = message.vectors.as_mut_ptr();
        message.header.msg_iovlen = message.vectors.len();
        let work = Work::Send { fd: fd.as_raw_fd(), message: &raw const message.header };
        self.push(work, Held { _message: Some(message), ..held(fd, None) }, purpose);
    }

    /// Reads what the page cache holds, at once, without the ring: as many bytes from the first on as it has.
    pub(crate) fn read_now(fd: &Descriptor, buffer: &Buffer, at: usize, len: usize, offset: u64) -> usize {
        let vector = libc::iovec { iov_base: buffer.address(at, len).cast(), iov_len: len };
        // SAFETY: the vector lies inside the buffer, which outlives the call.
        let count = unsafe { libc::preadv2(fd.as_raw_fd(), &vector, 1, offset as i64, libc::RWF_NOWAIT) };
        usize::try_from(count).unwrap_or(0)
    }

    /// Writes at once, without the ring, however long it takes; none when not all of it was written.
    pub(crate) fn write_now(
        fd: &Descriptor,
        buffer: &Buffer,
        at: usize,
        len: usize,
        offset: u64,
    ) -> Option<()> {
        let write = || {
            let address = buffer.address(at, len).cast();
            // SAFETY: the bytes lie inside the buffer, which outlives the call.
            unsafe { libc::pwrite(fd.as_raw_fd(), address, len, offset as i64) }
        };
        #[cfg(not(test))]
        let count = write();
        #[cfg(test)]
        let count =
            buffer.with_bytes(at, len, |bytes| recorder::at_once(fd.as_raw_fd(), bytes, offset, write));
        (count == len as isize).then_some(())
    }

    /// Submits what was pushed, waits until something completed or `timeout` passed, and hands out completions.
    ///
    /// # Errors
    /// The backend failed; nothing can be done any more.
    pub(crate) fn wait(&mut self, timeout: Duration, completed: &mut Vec<Completion<P>>) -> io::Result<()> {
        let begun = Instant::now();
        self.look(begun + self.patience.look().min(timeout))?;
        if self.answers.is_empty() {
            match &mut self.backend {
                Backend::Uring(uring) => uring.wait(timeout, &mut self.answers)?,
                Backend::Portable(portable) => portable.wait(timeout, &mut self.answers)?,
            }
            self.patience.slept(begun.elapsed());
        } else {
            self.patience.found(begun.elapsed());
        }
        for (slot, answer) in self.answers.drain(..) {
            #[cfg(test)]
            recorder::ended(slot, answer);
            let InFlight { purpose, held } =
                self.in_flight[slot].take().expect("an answer names an operation");
            self.free.push(slot);
            drop(held);
            let result = u32::try_from(answer).map_err(|_| io::Error::from_raw_os_error(-answer));
            completed.push(Completion { purpose, result });
        }
        Ok(())
    }

    /// Looks for completions again and again until there is one, and lets others run between two looks: one of them may be
    /// whom we wait for.
    fn look(&mut self, until: Instant) -> io::Result<()> {
        while self.answers.is_empty() && Instant::now() < until {
            match &mut self.backend {
                Backend::Uring(uring) => uring.look(&mut self.answers)?,
                Backend::Portable(portable) => portable.look(&mut self.answers),
            }
            if self.answers.is_empty() {
                std::thread::yield_now();
            }
        }
        Ok(())
    }

    fn push(&mut self, work: Work, held: Held, purpose: P) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.in_flight.push(None);
            self.in_flight.len() - 1
        });
        #[cfg(test)]
        recorder::begun(slot, &work);
        self.in_flight[slot] = Some(InFlight { purpose, held });
        match &mut self.backend {
            Backend::Uring(uring) => uring.push(slot, work),
            Backend::Portable(portable) => portable.push(slot, work),
        }
    }
}

/// Sends as much as the socket takes at once, without the ring. Nothing on any error: a send by the ring tells it.
pub(crate) fn send_now<'a>(fd: &Descriptor, pieces: impl Iterator<Item = &'a Piece>) -> usize {
    let mut vectors = vectors_of(pieces);
    // SAFETY: all-zero is a valid message header: no name, no control data, no vectors.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = vectors.as_mut_ptr();
    header.msg_iovlen = vectors.len();
    // SAFETY: header and vectors outlive the call, and the vectors lie inside buffers that the pieces hold.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    usize::try_from(sent).unwrap_or(0)
}

/// How long ago the kernel last received bytes on this socket, whether anybody has read them or not; none for what is no
/// TCP socket.
pub(crate) fn since_last_bytes(fd: &Descriptor) -> Option<Duration> {
    // SAFETY: all-zero is a valid structure of numbers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    let target = (&raw mut info).cast();
    // SAFETY: the kernel writes at most `len` bytes, which is the size of the structure.
    let failed =
        unsafe { libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, target, &mut len) };
    (failed == 0).then(|| Duration::from_millis(info.tcpi_last_data_recv.into()))
}

fn vectors_of<'a>(pieces: impl Iterator<Item = &'a Piece>) -> Vec<libc::iovec> {
    pieces.map(|p| libc::iovec { iov_base: p.buffer.address(p.at, p.len).cast(), iov_len: p.len }).collect()
}

fn held(descriptor: &Descriptor, buffer: Option<&Buffer>) -> Held {
    Held { _descriptor: descriptor.clone(), _buffer: buffer.cloned(), _message: None }
}

impl<P> Drop for Ring<P> {
    fn drop(&mut self) {
        // The kernel may still write into held buffers until the backend is gone, which is after this body; leaking
        // them is the only safe order when operations are still in flight (the server is ending). Descriptors are
        // the kernel's own business.
        for flight in self.in_flight.drain(..).flatten() {
            let Held { _descriptor, _buffer, _message } = flight.held;
            std::mem::forget((_buffer, _message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Pool;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn both(test: impl Fn(&mut Ring<&'static str>, &Pool)) {
        for backend in [IoBackend::IoUring, IoBackend::Portable] {
            match Ring::new(backend) {
                Ok(mut ring) => test(&mut ring, &Pool::new()),
                Err(e) => panic!("{backend:?} is not to be had: {e}"),
            }
        }
    }

    fn one(ring: &mut Ring<&'static str>) -> (&'static str, io::Result<u32>) {
        let mut completed = Vec::new();
        while completed.is_empty() {
            ring.wait(Duration::from_secs(60), &mut completed).unwrap();
        }
        assert_eq!(completed.len(), 1);
        let Completion { purpose, result } = completed.remove(0);
        (purpose, result)
    }

    #[test]
    fn a_file_reads_back_what_was_written_punched_and_synced() {
        both(|ring, pool| {
            let file: Descriptor = Rc::new(tempfile::tempfile().unwrap().into());
            let buffer = pool.take(8192);
            buffer.copy_in(0, &[7; 8192]);
            ring.write_at(&file, &buffer, 0, 8192, 4096, "write");
            assert!(matches!(one(ring), ("write", Ok(8192))));
            ring.sync_data(&file, "sync");
            assert!(matches!(one(ring), ("sync", Ok(0))));
            let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            ring.fallocate(&file, punch, 4096, 4096, "punch");
            assert!(matches!(one(ring), ("punch", Ok(0))));
            ring.read_at(&file, &buffer, 0, 8192, 4096, "read");
            assert!(matches!(one(ring), ("read", Ok(8192))));
            buffer.with_bytes(0, 4096, |bytes| assert!(bytes.iter().all(|&b| b == 0)));
            buffer.with_bytes(4096, 4096, |bytes| assert!(bytes.iter().all(|&b| b == 7)));
            ring.read_at(&file, &buffer, 0, 1, 1 << 40, "beyond");
            assert!(matches!(one(ring), ("beyond", Ok(0))));
        });
    }

    #[test]
    fn a_socket_carries_bytes_both_ways_and_its_end() {
        both(|ring, pool| {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let ours: Descriptor = Rc::new(ours.into());
            let buffer = pool.take(4096);
            ring.receive(&ours, &buffer, 0, 4096, "receive");
            theirs.write_all(b"hello").unwrap();
            assert!(matches!(one(ring), ("receive", Ok(5))));
            let pieces = [(0, 2), (2, 3)].map(|(at, len)| Piece { buffer: buffer.clone(), at, len });
            ring.send(&ours, Vec::from(pieces), "send");
            assert!(matches!(one(ring), ("send", Ok(5))));
            let mut back = [0; 5];
            theirs.read_exact(&mut back).unwrap();
            assert_eq!(&back, b"hello");
            drop(theirs);
            ring.receive(&ours, &buffer, 0, 4096, "end");
            assert!(matches!(one(ring), ("end", Ok(0) | Err(_))));
        });
    }

    #[test]
    fn nothing_to_do_ends_with_the_timeout() {
        both(|ring, _| {
            let mut completed = Vec::new();
            ring.wait(Duration::from_millis(1), &mut completed).unwrap();
            assert!(completed.is_empty());
        });
    }
}
