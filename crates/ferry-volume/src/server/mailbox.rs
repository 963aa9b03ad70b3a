//! Requests of frontends that have threads of their own (FUSE, vhost-user-blk): letters in, replies out.
//!
//! ```text
//!  a frontend's threads ──post──▶ queue ──one bell a batch──▶ the server's loop ──▶ Engine
//!           ▲                                                      │
//!           └───────── reply (called on the loop's thread) ────────┘
//! ```
//!
//! Bytes do not have to be copied on the way: a letter may lend its memory, and a read that lends none is shown the
//! server's own. A reply runs on the loop's thread and must not wait for anything.
//!
//! Invariant: every letter is replied to exactly once, unless the server ends before.

use super::requests::Origin;
use super::{Server, ring_the_bell};
use crate::buffer::{BUFFER_BYTES_MAX, Buffer};
use crate::lent::Lent;
use ferry_engine::{Errno, RequestKind};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Guests of frontends at a time.
pub(crate) const MAIL_GUESTS_MAX: u64 = 64;
/// Letters of one guest without a reply; whoever posts more waits.
pub(crate) const LETTERS_IN_FLIGHT_MAX: usize = 1024;
/// Bytes of reads and writes of one guest without a reply, beside one letter, which always goes.
pub(crate) const LETTER_BYTES_IN_FLIGHT_MAX: usize = 64 << 20;

/// What becomes of a letter: why not, or done. A read that lent no memory gets to see its bytes; all others see none.
pub(crate) type Reply = Box<dyn FnOnce(Result<&[u8], Errno>) + Send>;

/// A request.
pub(crate) struct Letter {
    /// What is asked.
    pub(crate) kind: RequestKind,
    /// As many bytes as the range of a write (needed) or a read (if it has them) is long.
    pub(crate) memory: Option<Lent>,
    /// Called once.
    pub(crate) reply: Reply,
}

/// Where frontends come to post; clones are the same mailbox.
#[derive(Clone)]
pub(crate) struct Mailbox(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    bell: Arc<OwnedFd>,
    guests: AtomicU64,
}

#[derive(Default)]
struct Queue {
    next_guest: u64,
    mail: Vec<Mail>,
    /// Whether the bell was rung for what is here.
    rung: bool,
}

enum Mail {
    Letter(Arc<Window>, Letter),
    /// This guest left after all that it posted.
    Left(u64),
}

/// What a guest may still post, and how it hears of replies.
struct Window {
    guest: u64,
    used: Mutex<Used>,
    freed: Condvar,
    settled: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Used {
    letters: usize,
    bytes: usize,
}

/// One who posts. When it is dropped its reads are dropped, too, and what it has written stays.
pub(crate) struct MailGuest {
    window: Arc<Window>,
    mailbox: Mailbox,
}

/// What the server keeps of a letter until it replies.
pub(super) struct MailReply {
    window: Arc<Window>,
    bytes: usize,
    shown: bool,
    reply: Reply,
}

/// A panic of another thread leaves counters behind that are still right.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mailbox {
    /// A mailbox whose letters are announced by `bell`, an eventfd.
    pub(super) fn new(bell: Arc<OwnedFd>) -> Self {
        Self(Arc::new(Shared { queue: Mutex::default(), bell, guests: AtomicU64::new(0) }))
    }

    /// Lets somebody post; none when [`MAIL_GUESTS_MAX`] do. `settled` is called on the loop's thread after a turn in
    /// which letters of this guest were replied to: the place for one interrupt for all of them.
    pub(crate) fn connect(&self, settled: impl Fn() + Send + Sync + 'static) -> Option<MailGuest> {
        let mut queue = locked(&self.0.queue);
        if self.0.guests.load(Relaxed) >= MAIL_GUESTS_MAX {
            return None;
        }
        self.0.guests.fetch_add(1, Relaxed);
        queue.next_guest += 1;
        let (used, freed) = (Mutex::default(), Condvar::new());
        let window = Window { guest: queue.next_guest, used, freed, settled: Box::new(settled) };
        drop(queue);
        Some(MailGuest { window: Arc::new(window), mailbox: self.clone() })
    }

    /// How many may post now.
    pub(super) fn guests(&self) -> u32 {
        self.0.guests.load(Relaxed) as u32
    }

    fn put(&self, mail: &mut Vec<Mail>) {
        if mail.is_empty() {
            return;
        }
        let mut queue = locked(&self.0.queue);
        queue.mail.append(mail);
        let rung = std::mem::replace(&mut queue.rung, true);
        drop(queue);
        if !rung {
            ring_the_bell(&self.0.bell);
        }
    }

    fn take(&self) -> Vec<Mail> {
        let mut queue = locked(&self.0.queue);
        queue.rung = false;
        std::mem::take(&mut queue.mail)
    }
}

impl MailGuest {
    /// Posts letters together. Waits while too many are without a reply, so never from within a reply.
    pub(crate) fn post(&self, letters: impl IntoIterator<Item = Letter>) {
        let mut mail = Vec::new();
        for letter in letters {
            let bytes = payload_bytes(&letter.kind);
            if !self.window.take(bytes) {
                self.mailbox.put(&mut mail);
                self.window.wait(bytes);
            }
            mail.push(Mail::Letter(self.window.clone(), letter));
        }
        self.mailbox.put(&mut mail);
    }
}

impl Drop for MailGuest {
    fn drop(&mut self) {
        self.mailbox.0.guests.fetch_sub(1, Relaxed);
        self.mailbox.put(&mut vec![Mail::Left(self.window.guest)]);
    }
}

impl Used {
    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.letters < LETTERS_IN_FLIGHT_MAX
            && (self.letters == 0 || self.bytes + bytes <= LETTER_BYTES_IN_FLIGHT_MAX);
        if fits {
            self.letters += 1;
            self.bytes += bytes;
        }
        fits
    }
}

impl Window {
    fn take(&self, bytes: usize) -> bool {
        locked(&self.used).take(bytes)
    }

    fn wait(&self, bytes: usize) {
        let mut used = locked(&self.used);
        while !used.take(bytes) {
            used = self.freed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn free(&self, bytes: usize) {
        let mut used = locked(&self.used);
        used.letters -= 1;
        used.bytes -= bytes;
        drop(used);
        self.freed.notify_all();
    }
}

/// Bytes of memory that a request holds until it is replied to.
fn payload_bytes(kind: &RequestKind) -> usize {
    match kind {
        RequestKind::Read { range }
        | RequestKind::ReadSnapshot { range, .. }
        | RequestKind::Write { range, .. } => range.len_bytes() as usize,
        RequestKind::Flush
        | RequestKind::Trim { .. }
        | RequestKind::WriteZeroes { .. }
        | RequestKind::Cache { .. } => 0,
    }
}

impl Server {
    /// Takes what was posted.
    pub(super) fn take_mail(&mut self) {
        for mail in self.mailbox.take() {
            match mail {
                Mail::Letter(window, letter) => self.start_by_mail(window, letter),
                Mail::Left(guest) => {
                    self.cancel(false, |origin| matches!(origin, Origin::Mail(m) if m.window.guest == guest));
                }
            }
        }
    }

    fn start_by_mail(&mut self, window: Arc<Window>, letter: Letter) {
        let Letter { kind, memory, reply } = letter;
        let bytes = payload_bytes(&kind);
        let shown = matches!((&kind, &memory), (RequestKind::Read { .. }, None));
        let mail = MailReply { window, bytes, shown, reply };
        let lent = memory.as_ref().map_or(0, Lent::len);
        if bytes > BUFFER_BYTES_MAX || (!shown && lent != bytes) {
            return self.reply_by_mail(mail, None, Err(Errno::EINVAL));
        }
        let buffer = match memory {
            Some(lent) => Some(Buffer::borrow(lent)),
            None => shown.then(|| self.pool.take(bytes)),
        };
        self.submit(kind, buffer, Origin::Mail(mail));
    }

    pub(super) fn reply_by_mail(
        &mut self,
        mail: MailReply,
        buffer: Option<Buffer>,
        result: Result<(), Errno>,
    ) {
        let MailReply { window, bytes, shown, reply } = mail;
        match (result, buffer) {
            (Err(errno), _) => reply(Err(errno)),
            (Ok(()), Some(buffer)) if shown => buffer.with_bytes(0, bytes, |seen| reply(Ok(seen))),
            // Lent memory goes back before its owner hears of it.
            (Ok(()), buffer) => {
                drop(buffer);
                reply(Ok(&[]));
            }
        }
        window.free(bytes);
        if self.lately_mailed.last().is_none_or(|last| last.0.guest != window.guest) {
            self.lately_mailed.push(Settled(window));
        }
    }

    /// Tells those whose letters were replied to in this turn.
    pub(super) fn settle_mail(&mut self) {
        self.lately_mailed.sort_unstable_by_key(|settled| settled.0.guest);
        self.lately_mailed.dedup_by_key(|settled| settled.0.guest);
        self.lately_mailed.drain(..).for_each(|settled| (settled.0.settled)());
    }
}

/// A guest whose letters were replied to in this turn.
pub(super) struct Settled(Arc<Window>);

#[cfg(test)]
mod tests;
