//! Letters from other threads, to a server that runs.

use super::*;
use crate::control::Client;
use crate::server::ServeOptions;
use crate::{CreateOptions, IoBackend, SourceUri};
use ferry_engine::ByteRange;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

const SIZE_BYTES: u64 = 8 << 20;

/// A server on a thread, and its mailbox.
fn served(dir: &Path, source: Option<SourceUri>) -> (Mailbox, JoinHandle<()>) {
    let options = CreateOptions {
        dir: dir.to_owned(),
        id: "01JD9Z6M4Q5R6S7T8V9WAXBYCZ".to_owned(),
        size_bytes: SIZE_BYTES,
        region_bytes: 1 << 20,
        generation: 1,
        phase: crate::control::Phase::Open,
        source,
        born_from: None,
        base: None,
        device: None,
        direct: false,
    };
    crate::create(&options).unwrap();
    let (sender, mailbox) = channel();
    let serve = ServeOptions { dir: dir.to_owned(), io: IoBackend::Auto, tls: None, count_heat: true };
    let server = std::thread::spawn(move || {
        let mut server = Server::open(&serve).unwrap();
        sender.send(server.mailbox.clone()).unwrap();
        server.run().unwrap();
    });
    (mailbox.recv().unwrap(), server)
}

type Answer = Result<Vec<u8>, Errno>;

fn letter(kind: RequestKind, memory: Option<Lent>) -> (Letter, Receiver<Answer>) {
    let (sender, answer) = channel();
    // Not every test wants to know.
    let reply: Reply = Box::new(move |result| _ = sender.send(result.map(<[u8]>::to_vec)));
    (Letter { kind, memory, reply }, answer)
}

fn range(offset: u64, len: u64) -> ByteRange {
    ByteRange::new(offset, len).unwrap()
}

fn read(offset: u64, len: u64) -> RequestKind {
    RequestKind::Read { range: range(offset, len) }
}

fn write(offset: u64, len: u64) -> RequestKind {
    RequestKind::Write { range: range(offset, len), fua: false }
}

#[test]
fn letters_from_another_thread_are_served_and_settled() {
    let dir = tempfile::tempdir().unwrap();
    let (mailbox, server) = served(dir.path(), None);
    let settled = Arc::new(AtomicUsize::new(0));
    let counted = settled.clone();
    let guest = mailbox.connect(move || _ = counted.fetch_add(1, Relaxed)).unwrap();
    let mut control = Client::connect(dir.path()).unwrap();
    assert_eq!(control.status().unwrap().guests, 1);

    let (written, done) = letter(write(1000, 5000), Some(Lent::copy_of(&[7; 5000])));
    let (flush, flushed) = letter(RequestKind::Flush, None);
    guest.post([written, flush]);
    assert_eq!((done.recv().unwrap(), flushed.recv().unwrap()), (Ok(vec![]), Ok(vec![])));

    let (shown, seen) = letter(read(999, 5002), None);
    let (lends, lent) = letter(read(0, 4096), Some(Lent::copy_of(&[9; 4096])));
    let zeroes = RequestKind::WriteZeroes { range: range(4096, 4096), fua: false, no_hole: false };
    guest.post([shown, lends]);
    let seen = seen.recv().unwrap().unwrap();
    assert_eq!((seen[0], seen[1], seen[5000], seen[5001]), (0, 7, 7, 0));
    assert_eq!(lent.recv().unwrap(), Ok(vec![]), "lent memory is not shown");
    let (zero, zeroed) = letter(zeroes, None);
    guest.post([zero]);
    assert_eq!(zeroed.recv().unwrap(), Ok(vec![]));

    let wrong = [
        letter(read(SIZE_BYTES - 1, 2), None),
        letter(write(0, 4096), None),
        letter(write(0, 4096), Some(Lent::copy_of(&[0; 100]))),
        letter(read(0, BUFFER_BYTES_MAX as u64 + 1), None),
    ];
    let (letters, answers): (Vec<_>, Vec<_>) = wrong.into_iter().unzip();
    guest.post(letters);
    answers.iter().for_each(|answer| assert_eq!(answer.recv().unwrap(), Err(Errno::EINVAL)));
    drop(guest);
    assert_eq!(control.status().unwrap().guests, 0);
    assert!(settled.load(Relaxed) >= 4, "each batch is settled at least once");
    control.shutdown().unwrap();
    server.join().unwrap();
}

#[test]
fn a_guest_that_leaves_waits_for_nothing_and_what_it_wrote_stays() {
    let dir = tempfile::tempdir().unwrap();
    let nobody: SourceUri = "nbd://127.0.0.1:1/nobody".parse().unwrap();
    let (mailbox, server) = served(dir.path(), Some(nobody));
    let guest = mailbox.connect(|| ()).unwrap();
    let (remote, answer) = letter(read(1 << 20, 4096), None);
    let (written, _) = letter(write(0, 4096), Some(Lent::copy_of(&[5; 4096])));
    guest.post([remote, written]);
    drop(guest);
    assert_eq!(answer.recv().unwrap(), Err(Errno::ECANCELED));
    let next = mailbox.connect(|| ()).unwrap();
    let (back, seen) = letter(read(0, 4096), None);
    next.post([back]);
    assert_eq!(seen.recv().unwrap(), Ok(vec![5; 4096]));
    Client::connect(dir.path()).unwrap().shutdown().unwrap();
    server.join().unwrap();
}

#[test]
fn a_guest_may_hold_so_many_letters_and_bytes_and_no_more() {
    let mut used = Used::default();
    assert!(used.take(2 * LETTER_BYTES_IN_FLIGHT_MAX), "one always goes");
    assert!(!used.take(0));
    let mut used = Used::default();
    assert_eq!((0..).take_while(|_| used.take(4096)).count(), LETTERS_IN_FLIGHT_MAX);
    let mut used = Used::default();
    assert_eq!((0..).take_while(|_| used.take(1 << 20)).count(), LETTER_BYTES_IN_FLIGHT_MAX >> 20);
}

#[test]
fn guests_are_counted_and_limited() {
    let bell = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let mailbox = Mailbox::new(Arc::new(bell));
    let guests: Vec<_> = (0..MAIL_GUESTS_MAX).map(|_| mailbox.connect(|| ()).unwrap()).collect();
    assert!(mailbox.connect(|| ()).is_none());
    drop(guests);
    assert_eq!(mailbox.guests(), 0);
    assert!(mailbox.connect(|| ()).is_some());
}
