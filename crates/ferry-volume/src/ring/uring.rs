//! Operations on io_uring.

use super::{Answer, Work};
use io_uring::{IoUring, opcode, squeue, types};
use std::io;
use std::time::Duration;

/// Entries of the submission queue; more operations than this may be in flight, they are only submitted in turns.
const SUBMISSION_ENTRIES: u32 = 256;
/// Threads of the kernel that wait for files. By default there are four for each core: few enough that what waits for
/// a slow disk keeps what only wants the page cache from its turn.
const FILE_THREADS_MAX: u32 = 64;

pub(super) struct Uring {
    ring: IoUring,
}

impl Uring {
    pub(super) fn new() -> io::Result<Self> {
        let tuned = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(SUBMISSION_ENTRIES * 8)
            .build(SUBMISSION_ENTRIES);
        let ring = match tuned {
            // Kernels before 6.1 do not know these flags; they only cost speed.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => IoUring::new(SUBMISSION_ENTRIES)?,
            other => other?,
        };
        // Kernels before 5.15 do not know this, and then the default must do.
        let _ = ring.submitter().register_iowq_max_workers(&mut [FILE_THREADS_MAX, 0]);
        Ok(Self { ring })
    }

    /// Hands what was pushed to the kernel and takes what is complete, without waiting.
    pub(super) fn look(&mut self, answers: &mut Vec<Answer>) -> io::Result<()> {
        let queue = self.ring.submission();
        let has_work = !queue.is_empty() || queue.taskrun();
        drop(queue);
        if has_work {
            self.enter(0, Duration::ZERO)?;
        }
        self.take(answers);
        Ok(())
    }

    pub(super) fn push(&mut self, slot: usize, work: Work) {
        let entry = entry_of(work).user_data(slot as u64);
        // SAFETY: the addresses in the entry belong to what the ring's `in_flight` holds until the completion.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            // The queue is full: hand it to the kernel without waiting. Failure shows again in `wait`.
            if self.ring.submit().is_err() {
                std::thread::yield_now();
            }
        }
    }

    pub(super) fn wait(&mut self, timeout: Duration, answers: &mut Vec<Answer>) -> io::Result<()> {
        self.enter(1, timeout)?;
        self.take(answers);
        Ok(())
    }

    fn enter(&mut self, completions_wanted: usize, timeout: Duration) -> io::Result<()> {
        let pause = types::Timespec::from(timeout);
        let args = types::SubmitArgs::new().timespec(&pause);
        match self.ring.submitter().submit_with_args(completions_wanted, &args) {
            Ok(_) => Ok(()),
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) =>
            {
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    fn take(&mut self, answers: &mut Vec<Answer>) {
        answers.extend(self.ring.completion().map(|entry| (entry.user_data() as usize, entry.result())));
    }
}

fn entry_of(work: Work) -> squeue::Entry {
    match work {
        Work::Read { fd, address, len, offset } => {
            opcode::Read::new(types::Fd(fd), address, len).offset(offset).build()
        }
        Work::Write { fd, address, len, offset } => {
            opcode::Write::new(types::Fd(fd), address, len).offset(offset).build()
        }
        Work::SyncData { fd } => opcode::Fsync::new(types::Fd(fd)).flags(types::FsyncFlags::DATASYNC).build(),
        Work::SyncRange { fd, offset, len, flags } => {
            opcode::SyncFileRange::new(types::Fd(fd), len).offset(offset).flags(flags).build()
        }
        Work::Forget { fd, offset, len } => {
            opcode::Fadvise::new(types::Fd(fd), len as libc::off_t, libc::POSIX_FADV_DONTNEED)
                .offset(offset)
                .build()
        }
        Work::Fallocate { fd, mode, offset, len } => {
            opcode::Fallocate::new(types::Fd(fd), len).offset(offset).mode(mode).build()
        }
        Work::Accept { fd } => opcode::Accept::new(types::Fd(fd), std::ptr::null_mut(), std::ptr::null_mut())
            .flags(libc::SOCK_CLOEXEC)
            .build(),
        Work::Receive { fd, address, len, flags } => {
            opcode::Recv::new(types::Fd(fd), address, len).flags(flags).build()
        }
        Work::Send { fd, message } => {
            opcode::SendMsg::new(types::Fd(fd), message).flags(libc::MSG_NOSIGNAL as u32).build()
        }
        // An eventfd has no position; this offset asks for "where it is".
        Work::ReadEvent { fd, address } => {
            opcode::Read::new(types::Fd(fd), address, 8).offset(u64::MAX).build()
        }
    }
}
