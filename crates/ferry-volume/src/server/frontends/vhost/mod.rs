//! The frontend for virtual machines: a socket that speaks vhost-user-blk (QEMU, Cloud Hypervisor, crosvm ...).
//!
//! ```text
//!  guest's driver ──virtqueues, in shared memory──▶ queue ──▶ requests ──▶ mailbox ──▶ Engine
//!  VMM ──messages, on vhost.sock──▶ session ──────────┘          └── inflight (kept by the VMM)
//! ```
//!
//! One thread does all of it, for one VMM at a time, without a lock that anybody waits for: it waits for messages, for
//! the drivers' bells and for replies, and does what there is to do. When the VMM is gone it listens for the next one.
//! What was under way then is done again when the VMM comes back and brings its table of requests.

mod channel;
mod inflight;
mod log;
mod memory;
mod queue;
mod requests;
mod session;

use super::{Ground, Running};
use crate::directory::VHOST_SOCKET;
use crate::server::doors::listen_unix;
use crate::server::entrance::ACCEPT_PAUSE;
use crate::server::mailbox::Mailbox;
use crate::server::ring_the_bell;
use crate::virtio_blk::{Device, SERIAL_BYTES, config};
use requests::Replies;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::net::Shutdown;
use session::Session;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use vhost::vhost_user::BackendReqHandler;

/// Queues that a VMM may use. One that it does not use costs nothing; most VMMs want one for each virtual CPU.
const QUEUES: u16 = 64;

/// The disk as all guests see it.
struct Disk {
    serial: [u8; SERIAL_BYTES],
    size_bytes: AtomicU64,
    queues: u16,
}

impl Disk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire)
    }

    fn device(&self) -> Device {
        Device { size_bytes: self.size_bytes(), queues: self.queues }
    }
}

/// Why a VMM is no longer served.
enum End {
    Left,
    Refused(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Refused(error)
    }
}

struct Shared {
    disk: Arc<Disk>,
    mailbox: Mailbox,
    listener: UnixListener,
    /// Rung for replies, and when the disk has grown.
    bell: Arc<OwnedFd>,
    ending: AtomicBool,
    /// The VMM that is served.
    peer: Mutex<Option<UnixStream>>,
}

/// A socket on which VMMs are served.
pub(super) struct VhostUserBlk {
    address: PathBuf,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

/// Listens for VMMs.
pub(super) fn start(ground: Ground) -> Result<Box<dyn Running>, String> {
    let address = ground.dir.join(VHOST_SOCKET);
    let listener = listen_unix(&address).map_err(|e| e.to_string())?;
    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| {
        format!("cannot make an eventfd for vhost-user-blk: {e}; raise the limit on open files")
    })?;
    let disk = Disk {
        serial: config::serial(&ground.id),
        size_bytes: AtomicU64::new(ground.size_bytes),
        queues: QUEUES,
    };
    let shared = Arc::new(Shared {
        disk: Arc::new(disk),
        mailbox: ground.mailbox,
        listener: UnixListener::from(listener),
        bell: Arc::new(bell),
        ending: AtomicBool::new(false),
        peer: Mutex::default(),
    });
    let ours = shared.clone();
    let thread = std::thread::Builder::new().name("vhost-user-blk".to_owned()).spawn(move || ours.run());
    let thread = thread.map_err(|e| format!("cannot start a thread for vhost-user-blk: {e}"))?;
    Ok(Box::new(VhostUserBlk { address, shared, thread }))
}

impl Running for VhostUserBlk {
    fn address(&self) -> PathBuf {
        self.address.clone()
    }

    fn grown(&self, size_bytes: u64) -> Box<dyn FnOnce() -> Result<(), String> + Send> {
        self.shared.disk.size_bytes.store(size_bytes, Ordering::Release);
        ring_the_bell(&self.shared.bell);
        Box::new(|| Ok(()))
    }

    fn stop(self: Box<Self>) {
        self.shared.ending.store(true, Ordering::Release);
        // Fails only when it is shut down already.
        let _ = rustix::net::shutdown(&self.shared.listener, Shutdown::Both);
        if let Some(peer) = &*locked(&self.shared.peer) {
            let _ = peer.shutdown(std::net::Shutdown::Both);
        }
        if self.thread.join().is_err() {
            tracing::error!("the thread of vhost-user-blk has panicked");
        }
        if let Err(e) = std::fs::remove_file(&self.address) {
            tracing::warn!(error = %e, "the socket of vhost-user-blk cannot be removed");
        }
    }
}

impl Shared {
    fn run(&self) {
        while !self.is_ending() {
            match self.listener.accept() {
                Ok((socket, _)) => self.serve(socket),
                Err(_) if self.is_ending() => {}
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept a VMM");
                    std::thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    }

    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    fn serve(&self, socket: UnixStream) {
        let end = self.admit(&socket).and_then(|session| converse(&socket, &Arc::new(Mutex::new(session))));
        *locked(&self.peer) = None;
        match end {
            Ok(()) | Err(End::Left) => tracing::info!("the VMM has left"),
            Err(End::Refused(why)) => tracing::warn!(error = %why, "the VMM was sent away"),
        }
    }

    fn admit(&self, socket: &UnixStream) -> Result<Session, End> {
        *locked(&self.peer) = Some(socket.try_clone()?);
        // Looked at after the peer is known: a stop in between either sees it, or is seen here.
        if self.is_ending() {
            return Err(End::Left);
        }
        let replies = Replies::new(&self.mailbox, self.bell.clone())?;
        Ok(Session::new(self.disk.clone(), replies, socket.try_clone()?))
    }
}

/// What there is to do.
struct Ready {
    message: bool,
    replies: bool,
}

/// Serves a VMM until it leaves.
fn converse(socket: &UnixStream, session: &Arc<Mutex<Session>>) -> Result<(), End> {
    let mut messages = BackendReqHandler::from_stream(socket.try_clone()?, session.clone());
    loop {
        let ready = wait(socket, &mut locked(session))?;
        if ready.message {
            match channel::take(socket)? {
                Some(channel) => locked(session).channel = Some(channel),
                None => messages.handle_request()?,
            }
        }
        let mut session = locked(session);
        if ready.replies {
            session.take_replies();
            session.notice_growth();
        }
        session.take_requests();
        session.tell();
    }
}

/// Waits until something is to be done, and takes note of the drivers' bells.
fn wait(socket: &UnixStream, session: &mut Session) -> Result<Ready, End> {
    let mut fds = vec![
        PollFd::new(socket, PollFlags::IN),
        PollFd::from_borrowed_fd(session.replies.bell(), PollFlags::IN),
    ];
    let bells: Vec<usize> =
        (0..session.queues.len()).filter(|&q| session.queues[q].bell().is_some()).collect();
    let bell = |&q: &usize| {
        session.queues[q].bell().map(|bell| PollFd::from_borrowed_fd(bell.as_fd(), PollFlags::IN))
    };
    fds.extend(bells.iter().filter_map(bell));
    match poll(&mut fds, None) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok(Ready { message: false, replies: false }),
        Err(e) => return Err(End::Refused(e.into())),
    }
    let is_ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
    bells
        .iter()
        .zip(&is_ready[2..])
        .filter(|(_, ready)| **ready)
        .for_each(|(&q, _)| session.queues[q].kicked());
    Ok(Ready { message: is_ready[0], replies: is_ready[1] })
}

/// The one who would panic with it held is the one who uses it next.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
