//! The same operations with `poll` for sockets and a few threads for files: for hosts that forbid io_uring.
//!
//! A thread gets an address, not a buffer: the ring holds the buffer until the thread's answer has been seen.

use super::{Answer, Work};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Threads that wait for files.
const FILE_THREADS: usize = 4;

/// Work that a thread may do.
struct FileWork {
    slot: usize,
    work: Work,
}

// SAFETY: the addresses stay valid, and are used by nobody else, until the answer has been seen (the ring's
// invariant); a thread only passes them to the kernel.
unsafe impl Send for FileWork {}

pub(super) struct Portable {
    to_threads: Sender<FileWork>,
    from_threads: Receiver<Answer>,
    bell: Arc<OwnedFd>,
    waiting: Vec<(usize, Work)>,
}

impl Portable {
    pub(super) fn new() -> io::Result<Self> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (to_threads, queue) = channel::<FileWork>();
        let (answers, from_threads) = channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..FILE_THREADS {
            let (queue, answers, bell) = (queue.clone(), answers.clone(), bell.clone());
            std::thread::Builder::new()
                .name("file".to_owned())
                .spawn(move || serve_files(&queue, &answers, &bell))?;
        }
        Ok(Self { to_threads, from_threads, bell, waiting: Vec::new() })
    }

    pub(super) fn push(&mut self, slot: usize, work: Work) {
        match work {
            Work::Read { .. }
            | Work::Write { .. }
            | Work::SyncData { .. }
            | Work::SyncRange { .. }
            | Work::Forget { .. }
            | Work::Fallocate { .. } => {
                self.to_threads
                    .send(FileWork { slot, work })
                    .expect("the threads live as long as this sender");
            }
            Work::Accept { .. } | Work::Receive { .. } | Work::Send { .. } | Work::ReadEvent { .. } => {
                self.waiting.push((slot, work));
            }
        }
    }

    /// Takes what is complete, without waiting.
    pub(super) fn look(&mut self, answers: &mut Vec<Answer>) {
        self.try_sockets(answers);
        answers.extend(self.from_threads.try_iter());
    }

    pub(super) fn wait(&mut self, timeout: Duration, answers: &mut Vec<Answer>) -> io::Result<()> {
        self.look(answers);
        if !answers.is_empty() {
            return Ok(());
        }
        self.poll(timeout)?;
        let mut count = [0; 8];
        // Nonblocking: an empty bell is no news.
        let _ = rustix::io::read(&*self.bell, &mut count);
        self.look(answers);
        Ok(())
    }

    fn poll(&self, timeout: Duration) -> io::Result<()> {
        let mut polled: Vec<PollFd<'_>> = Vec::with_capacity(self.waiting.len() + 1);
        polled.push(PollFd::new(&*self.bell, PollFlags::IN));
        for (_, work) in &self.waiting {
            let (fd, flags) = match *work {
                Work::Send { fd, .. } => (fd, PollFlags::OUT),
                Work::Accept { fd } | Work::Receive { fd, .. } | Work::ReadEvent { fd, .. } => {
                    (fd, PollFlags::IN)
                }
                Work::Read { .. }
                | Work::Write { .. }
                | Work::SyncData { .. }
                | Work::SyncRange { .. }
                | Work::Forget { .. }
                | Work::Fallocate { .. } => {
                    continue;
                }
            };
            // SAFETY: the ring holds the descriptor of everything that waits.
            polled.push(PollFd::from_borrowed_fd(unsafe { BorrowedFd::borrow_raw(fd) }, flags));
        }
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Does what can be done without waiting.
    fn try_sockets(&mut self, answers: &mut Vec<Answer>) {
        self.waiting.retain(|&(slot, work)| match try_socket(work) {
            None => true,
            Some(answer) => {
                answers.push((slot, answer));
                false
            }
        });
    }
}

/// One try at a socket; none when it would wait.
fn try_socket(work: Work) -> Option<i32> {
    // SAFETY: descriptors, addresses and headers are held by the ring until the answer has been seen.
    let result = unsafe {
        match work {
            Work::Accept { fd } => {
                if !is_ready(fd) {
                    return None;
                }
                let none = std::ptr::null_mut();
                libc::accept4(fd, none, none.cast(), libc::SOCK_CLOEXEC) as isize
            }
            Work::ReadEvent { fd, address } => {
                if !is_ready(fd) {
                    return None;
                }
                libc::read(fd, address.cast(), 8)
            }
            Work::Receive { fd, address, len, .. } => {
                libc::recv(fd, address.cast(), len as usize, libc::MSG_DONTWAIT)
            }
            Work::Send { fd, message } => libc::sendmsg(fd, message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL),
            Work::Read { .. }
            | Work::Write { .. }
            | Work::SyncData { .. }
            | Work::SyncRange { .. }
            | Work::Forget { .. }
            | Work::Fallocate { .. } => {
                unreachable!("files are for the threads")
            }
        }
    };
    match answer_of(result) {
        answer if answer == -libc::EAGAIN || answer == -libc::EINTR => None,
        answer => Some(answer),
    }
}

/// Whether a descriptor has input; listeners and eventfds may be blocking ones.
fn is_ready(fd: RawFd) -> bool {
    // SAFETY: the ring holds the descriptor of everything that waits.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}

/// A thread's life: until the queue is closed.
fn serve_files(queue: &Mutex<Receiver<FileWork>>, answers: &Sender<Answer>, bell: &OwnedFd) {
    loop {
        let next = queue.lock().expect("no thread panics while it waits for work").recv();
        let Ok(FileWork { slot, work }) = next else { return };
        if answers.send((slot, do_file(work))).is_err() {
            return;
        }
        // Fails only when the bell is full of rings already.
        let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
    }
}

fn do_file(work: Work) -> i32 {
    // SAFETY: descriptors and addresses are held by the ring until the answer has been seen.
    let result = unsafe {
        match work {
            Work::Read { fd, address, len, offset } => {
                libc::pread(fd, address.cast(), len as usize, offset as i64)
            }
            Work::Write { fd, address, len, offset } => {
                libc::pwrite(fd, address.cast(), len as usize, offset as i64)
            }
            Work::SyncData { fd } => libc::fdatasync(fd) as isize,
            Work::SyncRange { fd, offset, len, flags } => {
                libc::sync_file_range(fd, offset as i64, i64::from(len), flags) as isize
            }
            Work::Forget { fd, offset, len } => {
                // Unlike the others it returns its error.
                return -libc::posix_fadvise(fd, offset as i64, i64::from(len), libc::POSIX_FADV_DONTNEED);
            }
            Work::Fallocate { fd, mode, offset, len } => {
                libc::fallocate(fd, mode, offset as i64, len as i64) as isize
            }
            Work::Accept { .. } | Work::Receive { .. } | Work::Send { .. } | Work::ReadEvent { .. } => {
                unreachable!("sockets are polled")
            }
        }
    };
    answer_of(result)
}

fn answer_of(result: isize) -> i32 {
    match i32::try_from(result) {
        Ok(value @ 0..) => value,
        Ok(_) | Err(_) => -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO),
    }
}
