//! The one thread that takes a device's requests from the driver and answers them.
//!
//! ```text
//!  with the driver ──a request──▶ under way ──reply──▶ with the driver    (answering one request asks for the next)
//!        └──the device is stopped──▶ gone
//! ```
//!
//! Each tag is in one of these places; the thread ends when all are gone. The bytes of a write are copied out of the
//! guest's request here, those of a read are copied into it on the thread of the server's loop.
#![allow(unsafe_code, reason = "entries of io_uring are pushed as raw commands")]

use super::table::Table;
use crate::lent::Lent;
use crate::server::mailbox::{Letter, MailGuest, Mailbox, Reply};
use crate::server::ring_the_bell;
use crate::ublk::control::{COMMIT_AND_FETCH, FETCH, io_command};
use crate::ublk::{Ask, Range, Refusal, parse};
use ferry_engine::{ByteRange, Errno, RequestKind};
use io_uring::{IoUring, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::CapabilitySet;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Where the bytes of requests begin in the character device (UBLKSRV_IO_BUF_OFFSET), and how many bits of an address
/// are within one request (UBLK_IO_BUF_BITS).
const BYTES_FROM: u64 = 0x8000_0000;
const BYTES_SHIFT: u32 = 25;
/// What the bell's entry is called; others are called by their tags.
const BELL: u64 = u64::MAX;

/// A thread that serves the requests of one device.
pub(super) struct Queue {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Shared {
    size_bytes: AtomicU64,
    answered: AtomicU64,
    giving_up: AtomicBool,
    /// Rung for replies, and when all is given up.
    bell: Arc<OwnedFd>,
}

impl Queue {
    /// Starts the thread; when this returns, the driver has all tags of `device`, so that it can be started.
    pub(super) fn start(
        device: File,
        depth: u16,
        size_bytes: u64,
        mailbox: &Mailbox,
    ) -> Result<Self, String> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| format!("cannot make an eventfd for ublk: {e}; raise the limit on open files"))?;
        let bell = Arc::new(bell);
        let ours = bell.clone();
        let guest = mailbox
            .connect(move || ring_the_bell(&ours))
            .ok_or("too many guests use the volume; detach one")?;
        let (size_bytes, answered) = (AtomicU64::new(size_bytes), AtomicU64::new(0));
        let giving_up = AtomicBool::new(false);
        let shared = Arc::new(Shared { size_bytes, answered, giving_up, bell });
        let (ready_sender, ready) = channel();
        let seen = shared.clone();
        let body = move || match Serving::begin(device, depth, seen, guest) {
            Ok(mut serving) => {
                // Fails only when nobody waits any more.
                let _ = ready_sender.send(Ok(()));
                serving.run();
            }
            Err(e) => drop(ready_sender.send(Err(e))),
        };
        let thread = std::thread::Builder::new().name("ublk".to_owned()).spawn(body);
        let thread = thread.map_err(|e| format!("cannot start a thread for ublk: {e}"))?;
        let begun = ready.recv().unwrap_or_else(|_| Err(io::Error::other("its thread has panicked")));
        begun.map_err(|e| format!("the ublk device cannot be served: {e}; look at the kernel's log"))?;
        Ok(Self { shared, thread })
    }

    /// The volume has this size now.
    pub(super) fn grown(&self, size_bytes: u64) {
        self.shared.size_bytes.store(size_bytes, Ordering::Release);
    }

    /// How many requests were answered so far.
    pub(super) fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Acquire)
    }

    /// Lets all requests fail, those under way and those to come.
    pub(super) fn give_up(&self) {
        self.shared.giving_up.store(true, Ordering::Release);
        ring_the_bell(&self.shared.bell);
    }

    /// Waits for the end of the thread, once the device is stopped.
    pub(super) fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the thread of ublk has panicked");
        }
    }
}

/// The end of a letter.
struct Done {
    tag: u16,
    serial: u64,
    result: i32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    WithDriver,
    /// A request that is not answered, by its serial number.
    UnderWay(u64),
    Gone,
}

struct Serving {
    ring: IoUring,
    device: Arc<File>,
    table: Table,
    shared: Arc<Shared>,
    guest: MailGuest,
    sender: Sender<Done>,
    done: Receiver<Done>,
    places: Vec<Place>,
    next_serial: u64,
}

impl Serving {
    fn begin(device: File, depth: u16, shared: Arc<Shared>, guest: MailGuest) -> io::Result<Self> {
        be_untrusted()?;
        let table = Table::map(&device, depth)?;
        // Every tag has one entry at a time, and the bell has one.
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(u32::from(depth) * 2 + 2)
            .build(u32::from(depth) + 1)?;
        let (sender, done) = channel();
        let places = vec![Place::WithDriver; usize::from(depth)];
        let device = Arc::new(device);
        let mut serving = Self { ring, device, table, shared, guest, sender, done, places, next_serial: 0 };
        (0..depth).for_each(|tag| serving.tell_driver(FETCH, tag, 0));
        serving.listen();
        serving.ring.submit()?;
        // What the driver refuses has an answer at once; a device that is not started has no requests.
        let refused = serving.ring.completion().find(|end| end.user_data() != BELL && end.result() < 0);
        match refused {
            Some(end) => Err(io::Error::from_raw_os_error(-end.result())),
            None => Ok(serving),
        }
    }

    fn run(&mut self) {
        while self.places.iter().any(|&place| place != Place::Gone) {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {}
                // The driver lets the guest wait, as when this process dies.
                Err(e) => {
                    return tracing::error!(error = %e, "io_uring has failed; the device is no longer served");
                }
            }
            let ends: Vec<(u64, i32)> =
                self.ring.completion().map(|end| (end.user_data(), end.result())).collect();
            let mut letters = Vec::new();
            for (name, result) in ends {
                match u16::try_from(name) {
                    Ok(tag) if result == 0 => letters.extend(self.take(tag)),
                    Ok(tag) => self.lose(tag, result),
                    Err(_) => self.hear_the_bell(),
                }
            }
            self.guest.post(letters);
            self.answer_what_is_done();
        }
    }

    /// The driver no longer has a tag, and no request for it.
    fn lose(&mut self, tag: u16, result: i32) {
        self.places[usize::from(tag)] = Place::Gone;
        if result != -libc::ENODEV {
            let error = io::Error::from_raw_os_error(-result);
            tracing::error!(%error, tag, "the ublk driver refuses an answer, and its request is stuck");
        }
    }

    /// Takes a new request; one that cannot be begun is answered at once.
    fn take(&mut self, tag: u16) -> Option<Letter> {
        self.next_serial += 1;
        let serial = self.next_serial;
        self.places[usize::from(tag)] = Place::UnderWay(serial);
        let begun = match self.shared.giving_up.load(Ordering::Acquire) {
            true => Err(libc::EIO),
            false => self.letter(tag, serial),
        };
        begun.inspect_err(|&errno| self.answer(tag, -errno)).ok()
    }

    /// The letter for a request; or the number of an error.
    fn letter(&self, tag: u16, serial: u64) -> Result<Letter, i32> {
        let size_bytes = self.shared.size_bytes.load(Ordering::Acquire);
        let ask = parse(&self.table.copy(tag), size_bytes).map_err(|refusal| match refusal {
            Refusal::Unsupported => libc::EOPNOTSUPP,
            Refusal::Range => libc::EIO,
        })?;
        let plain = |kind, done| Letter { kind, memory: None, reply: self.reply(tag, serial, done) };
        Ok(match ask {
            Ask::Read(range) => {
                let (sender, device) = (self.sender.clone(), self.device.clone());
                let reply: Reply = Box::new(move |result| {
                    let copied = result
                        .and_then(|bytes| device.write_all_at(bytes, bytes_of(tag)).map_err(|_| Errno::EIO));
                    let result = copied.map_or_else(failed, |()| range.len as i32);
                    drop(sender.send(Done { tag, serial, result }));
                });
                Letter { kind: RequestKind::Read { range: bytes(range) }, memory: None, reply }
            }
            Ask::Write { range, fua } => {
                let copy = |into: &mut [u8]| self.device.read_exact_at(into, bytes_of(tag));
                let memory = Lent::filled(range.len as usize, copy).map_err(|_| libc::EIO)?;
                let kind = RequestKind::Write { range: bytes(range), fua };
                Letter { memory: Some(memory), ..plain(kind, range.len as i32) }
            }
            Ask::Flush => plain(RequestKind::Flush, 0),
            Ask::Discard(range) => plain(RequestKind::Trim { range: bytes(range), fua: false }, 0),
            Ask::WriteZeroes { range, fua, no_hole } => {
                plain(RequestKind::WriteZeroes { range: bytes(range), fua, no_hole }, 0)
            }
        })
    }

    /// What to do with the reply to a letter that brings no bytes.
    fn reply(&self, tag: u16, serial: u64, done: i32) -> Reply {
        let sender = self.sender.clone();
        Box::new(move |result| {
            let result = result.map_or_else(failed, |_| done);
            drop(sender.send(Done { tag, serial, result }));
        })
    }

    fn hear_the_bell(&mut self) {
        // Fails only if it was not rung.
        let _ = rustix::io::read(&self.shared.bell, &mut [0; 8]);
        self.listen();
        if self.shared.giving_up.load(Ordering::Acquire) {
            for tag in 0..self.places.len() as u16 {
                if matches!(self.places[usize::from(tag)], Place::UnderWay(_)) {
                    self.answer(tag, -libc::EIO);
                }
            }
        }
    }

    fn answer_what_is_done(&mut self) {
        while let Ok(Done { tag, serial, result }) = self.done.try_recv() {
            // A request that was given up is answered already.
            if self.places[usize::from(tag)] == Place::UnderWay(serial) {
                self.answer(tag, result);
            }
        }
    }

    /// Answers a request, and asks for the next.
    fn answer(&mut self, tag: u16, result: i32) {
        self.places[usize::from(tag)] = Place::WithDriver;
        self.shared.answered.fetch_add(1, Ordering::AcqRel);
        self.tell_driver(COMMIT_AND_FETCH, tag, result);
    }

    fn tell_driver(&mut self, number: u32, tag: u16, result: i32) {
        let entry = opcode::UringCmd16::new(types::Fd(self.device.as_raw_fd()), number)
            .cmd(io_command(tag, result))
            .build();
        self.push(&entry.user_data(u64::from(tag)));
    }

    fn listen(&mut self) {
        let entry =
            opcode::PollAdd::new(types::Fd(self.shared.bell.as_raw_fd()), libc::POLLIN as u32).build();
        self.push(&entry.user_data(BELL));
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the entries of this file name no memory, and files that live as long as the ring.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.expect("there is room for an entry of each tag and of the bell");
    }
}

/// Gives up the right to administer on this thread. It needs it for nothing, and the driver lets nobody look for partitions
/// on a device that is served without it: what a guest wrote there is not for the host to read, and a device can be
/// started while its first block waits for a source that is away.
fn be_untrusted() -> io::Result<()> {
    let mut rights = rustix::thread::capabilities(None)?;
    rights.effective.remove(CapabilitySet::SYS_ADMIN);
    Ok(rustix::thread::set_capabilities(None, rights)?)
}

/// Where the bytes of a request of the only queue are in the character device.
fn bytes_of(tag: u16) -> u64 {
    BYTES_FROM + (u64::from(tag) << BYTES_SHIFT)
}

fn bytes(range: Range) -> ByteRange {
    ByteRange::new(range.offset, range.len).expect("a range on the disk has an end")
}

fn failed(errno: Errno) -> i32 {
    -errno.0
}

#[cfg(test)]
mod tests {
    use crate::server::mailbox::{LETTER_BYTES_IN_FLIGHT_MAX, LETTERS_IN_FLIGHT_MAX};
    use crate::ublk::{DEPTH, REQUEST_BYTES_MAX};

    #[test]
    fn a_full_queue_fits_in_the_mailbox() {
        assert!(usize::from(DEPTH) <= LETTERS_IN_FLIGHT_MAX);
        assert!(usize::from(DEPTH) * REQUEST_BYTES_MAX as usize <= LETTER_BYTES_IN_FLIGHT_MAX);
    }
}
