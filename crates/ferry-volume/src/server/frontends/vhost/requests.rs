//! From a guest's virtqueues to the engine, and back: what was made available becomes letters, replies become answers.
//!
//! The bytes of a read are copied into the guest's memory where they are, on the thread of the server's loop; those of a
//! write are copied out of it here. All letters of one turn are posted together, and the guest is told once.

use super::queue::{QueueBroken, UnderWay};
use super::session::Session;
use crate::lent::Lent;
use crate::server::mailbox::{LETTERS_IN_FLIGHT_MAX, Letter, MailGuest, Mailbox, Reply};
use crate::server::ring_the_bell;
use crate::virtio_blk::{Ask, Chain, Parsed, RANGES_MAX, Range, Refusal, Status, Unmapped, parse};
use ferry_engine::{ByteRange, RequestKind};
use rustix::event::{PollFd, PollFlags, poll};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Bytes of reads and writes under way beyond which no further request is taken. With one more request it stays below
/// what the mailbox lets one guest have, so that posting never waits.
const BYTES_UNDER_WAY_MAX: usize = 32 << 20;
/// Letters under way beyond which no further request is taken, for the same reason.
const LETTERS_UNDER_WAY_MAX: usize = LETTERS_IN_FLIGHT_MAX - RANGES_MAX as usize;

/// Names a request.
#[derive(Clone, Copy)]
struct Tag {
    queue: usize,
    head: u16,
    /// Bytes of its data.
    bytes: usize,
}

/// The end of a letter.
struct Done {
    tag: Tag,
    ok: bool,
}

/// The way to the engine and back.
pub(super) struct Replies {
    guest: MailGuest,
    sender: Sender<Done>,
    done: Receiver<Done>,
    bell: Arc<OwnedFd>,
    letters: usize,
    bytes: usize,
}

impl Replies {
    /// The way through `mailbox`; `bell`, an eventfd, is rung when there are replies.
    pub(super) fn new(mailbox: &Mailbox, bell: Arc<OwnedFd>) -> io::Result<Self> {
        let ours = bell.clone();
        let guest = mailbox
            .connect(move || ring_the_bell(&ours))
            .ok_or_else(|| io::Error::other("the volume has too many guests already"))?;
        let (sender, done) = channel();
        Ok(Self { guest, sender, done, bell, letters: 0, bytes: 0 })
    }

    /// What is readable when there are replies, or the disk has grown.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Waits for replies.
    ///
    /// # Errors
    /// The peer is gone.
    pub(super) fn wait(&self, peer: &UnixStream) -> io::Result<()> {
        let mut fds =
            [PollFd::from_borrowed_fd(self.bell(), PollFlags::IN), PollFd::new(peer, PollFlags::RDHUP)];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            result => result?,
        };
        if fds[1].revents().is_empty() { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }

    fn have_room(&self) -> bool {
        self.letters < LETTERS_UNDER_WAY_MAX && self.bytes < BYTES_UNDER_WAY_MAX
    }

    fn next(&mut self) -> Option<Done> {
        let done = self.done.try_recv().ok()?;
        self.letters -= 1;
        self.bytes -= done.tag.bytes;
        Some(done)
    }

    /// What to do with the reply to a letter that brings no bytes.
    fn plain(&self, tag: Tag) -> Reply {
        let sender = self.sender.clone();
        Box::new(move |result| drop(sender.send(Done { tag, ok: result.is_ok() })))
    }
}

/// What becomes of a request at first.
enum Begun {
    Letters(Vec<Letter>, Tag, u32),
    Answer(Status, u32),
}

impl Session {
    /// Takes what the guest's driver has made available, and posts it.
    pub(super) fn take_requests(&mut self) {
        let mut letters = Vec::new();
        let queues = self.queues.len();
        // Another queue comes first each time, so that none keeps the others from the engine.
        self.first = (self.first + 1) % queues;
        for number in (self.first..queues).chain(0..self.first) {
            self.queues[number].be_quiet(&self.memory);
            while self.replies.have_room() {
                let Some(head) = self.queues[number].next(&self.memory) else { break };
                if let Err(broken) = self.begin(number, head, &mut letters) {
                    self.queues[number].breaks(broken);
                }
            }
        }
        if !letters.is_empty() {
            self.replies.guest.post(letters);
        }
    }

    fn begin(&mut self, number: usize, head: u16, letters: &mut Vec<Letter>) -> Result<(), QueueBroken> {
        let queue = &mut self.queues[number];
        queue.begin(head, self.inflight.as_mut())?;
        let (table, size) = queue.table();
        let chain = Chain::walk(&*self.memory, table, size, head)?;
        let Parsed { status: at, ask } = parse(chain, &*self.memory, self.disk.size_bytes())?;
        match ask.map_or_else(refused, |ask| self.letters_of(number, head, ask)) {
            Begun::Letters(list, tag, written) => {
                let waits = UnderWay { status: at, written, letters: list.len() as u32, failed: false };
                self.queues[number].wait(head, waits);
                self.replies.letters += list.len();
                self.replies.bytes += tag.bytes;
                letters.extend(list);
            }
            Begun::Answer(status, written) => {
                let (memory, inflight) = (&self.memory, self.inflight.as_ref());
                self.queues[number].answer(head, (status, at), written, memory, inflight);
            }
        }
        Ok(())
    }

    fn letters_of(&self, queue: usize, head: u16, ask: Ask) -> Begun {
        let tag = Tag { queue, head, bytes: 0 };
        let plain = |kind| Letter { kind, memory: None, reply: self.replies.plain(tag) };
        match ask {
            Ask::Read { range, into } => {
                let tag = Tag { bytes: range.len as usize, ..tag };
                let (sender, memory) = (self.replies.sender.clone(), self.memory.clone());
                let written = into.len_bytes() + 1;
                let reply: Reply = Box::new(move |result| {
                    let ok = result.is_ok_and(|bytes| into.copy_in(&*memory, bytes).is_ok());
                    drop(sender.send(Done { tag, ok }));
                });
                let kind = RequestKind::Read { range: bytes(range) };
                Begun::Letters(vec![Letter { kind, memory: None, reply }], tag, written)
            }
            Ask::Write { range, from } => {
                let tag = Tag { bytes: range.len as usize, ..tag };
                let copied = Lent::filled(tag.bytes, |into| from.copy_out(&*self.memory, into));
                let Ok(memory) = copied else { return refused(Refusal::Unmapped(Unmapped)) };
                let kind = RequestKind::Write { range: bytes(range), fua: false };
                let reply = self.replies.plain(tag);
                Begun::Letters(vec![Letter { kind, memory: Some(memory), reply }], tag, 1)
            }
            Ask::Flush => Begun::Letters(vec![plain(RequestKind::Flush)], tag, 1),
            Ask::Discard(ranges) => {
                let trim = |&range: &Range| plain(RequestKind::Trim { range: bytes(range), fua: false });
                Begun::Letters(ranges.iter().map(trim).collect(), tag, 1)
            }
            Ask::WriteZeroes(ranges) => {
                let zero = |&(range, may_unmap): &(Range, bool)| {
                    let range = bytes(range);
                    plain(RequestKind::WriteZeroes { range, fua: false, no_hole: !may_unmap })
                };
                Begun::Letters(ranges.iter().map(zero).collect(), tag, 1)
            }
            Ask::Serial { into } => {
                let serial = &self.disk.serial[..self.disk.serial.len().min(into.len_bytes() as usize)];
                match into.copy_in(&*self.memory, serial) {
                    Ok(()) => Begun::Answer(Status::Ok, into.len_bytes() + 1),
                    Err(unmapped) => refused(unmapped.into()),
                }
            }
        }
    }

    /// Answers what was replied to, and tells the guest.
    pub(super) fn take_replies(&mut self) {
        // Its count does not matter: all replies are taken.
        let _ = rustix::io::read(&self.replies.bell, &mut [0; 8]);
        while let Some(Done { tag, ok }) = self.replies.next() {
            let queue = &mut self.queues[tag.queue];
            let Some(request) = queue.replied(tag.head, ok) else { continue };
            let UnderWay { status: at, written, failed, .. } = request;
            // What a failed read left in the guest's memory means nothing.
            let (status, written) = if failed { (Status::IoError, 1) } else { (Status::Ok, written) };
            queue.answer(tag.head, (status, at), written, &self.memory, self.inflight.as_ref());
        }
    }

    /// Tells the guest what was answered.
    pub(super) fn tell(&mut self) {
        self.queues.iter_mut().for_each(|queue| queue.tell(&self.memory));
    }
}

fn refused(refusal: Refusal) -> Begun {
    tracing::debug!("a request of the guest is refused: {refusal}");
    match refusal {
        Refusal::Unsupported => Begun::Answer(Status::Unsupported, 1),
        Refusal::Unmapped(_) | Refusal::Length | Refusal::OutOfRange => Begun::Answer(Status::IoError, 1),
    }
}

fn bytes(range: Range) -> ByteRange {
    ByteRange::new(range.offset, range.len).expect("a range of a request is not empty")
}
