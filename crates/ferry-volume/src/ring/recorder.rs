//! For tests: what a thread asks of its disk, in the order in which it was begun and ended, so that every image that a
//! power loss may leave can be made from it.

use super::Work;
use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::{Arc, Mutex};

/// What was asked of a file.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    Write { offset: u64, bytes: Vec<u8> },
    Zero { offset: u64, len: u64 },
    Sync,
}

/// One event of a recording.
#[derive(Clone, Debug)]
pub(crate) enum Recorded {
    Begun {
        number: u64,
        inode: u64,
        asked: Asked,
    },
    /// `bytes`: how many were written; none for a failure.
    Ended {
        number: u64,
        bytes: Option<u32>,
    },
    /// Put here by the test.
    Mark(u64),
}

/// A recording that the test and the recorded thread share.
pub(crate) type Recording = Arc<Mutex<Vec<Recorded>>>;

struct Recorder {
    recording: Recording,
    next_number: u64,
    under_way: HashMap<usize, u64>,
}

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// Records what this thread does from now on.
pub(crate) fn record(recording: &Recording) {
    let recorder = Recorder { recording: Arc::clone(recording), next_number: 0, under_way: HashMap::new() };
    RECORDER.set(Some(recorder));
}

/// The operation in `slot` is handed to the kernel.
pub(super) fn begun(slot: usize, work: &Work) {
    with(|recorder| {
        let Some((fd, asked)) = asked(work) else { return };
        let number = recorder.note_begun(fd, asked);
        recorder.under_way.insert(slot, number);
    });
}

/// The kernel has answered for `slot`.
pub(super) fn ended(slot: usize, answer: i32) {
    with(|recorder| {
        if let Some(number) = recorder.under_way.remove(&slot) {
            recorder.note(Recorded::Ended { number, bytes: u32::try_from(answer).ok() });
        }
    });
}

/// A write that did not go over the ring: told before and after.
pub(super) fn at_once(fd: RawFd, bytes: &[u8], offset: u64, write: impl FnOnce() -> isize) -> isize {
    let number = with(|recorder| recorder.note_begun(fd, Asked::Write { offset, bytes: bytes.to_vec() }));
    let count = write();
    if let Some(number) = number {
        with(|recorder| recorder.note(Recorded::Ended { number, bytes: u32::try_from(count).ok() }));
    }
    count
}

fn with<R>(act: impl FnOnce(&mut Recorder) -> R) -> Option<R> {
    RECORDER.with_borrow_mut(|recorder| recorder.as_mut().map(act))
}

impl Recorder {
    fn note_begun(&mut self, fd: RawFd, asked: Asked) -> u64 {
        // SAFETY: whoever asks holds the descriptor open.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let inode = rustix::fs::fstat(fd).expect("an open file has facts").st_ino;
        let number = self.next_number;
        self.next_number += 1;
        self.note(Recorded::Begun { number, inode, asked });
        number
    }

    fn note(&self, recorded: Recorded) {
        self.recording.lock().expect("nobody panics while recording").push(recorded);
    }
}

fn asked(work: &Work) -> Option<(RawFd, Asked)> {
    match *work {
        Work::Write { fd, address, len, offset } => {
            // SAFETY: the operation holds the buffer, and nobody writes to what is being written from.
            let bytes = unsafe { std::slice::from_raw_parts(address, len as usize) }.to_vec();
            Some((fd, Asked::Write { offset, bytes }))
        }
        Work::SyncData { fd } => Some((fd, Asked::Sync)),
        Work::Fallocate { fd, offset, len, .. } => Some((fd, Asked::Zero { offset, len })),
        Work::Read { .. }
        | Work::SyncRange { .. }
        | Work::Forget { .. }
        | Work::Accept { .. }
        | Work::Receive { .. }
        | Work::Send { .. }
        | Work::ReadEvent { .. } => None,
    }
}
