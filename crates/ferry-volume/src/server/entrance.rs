//! Who comes in: accepting connections at the doors, and closing these in the end.

use super::asks::Asker;
use super::connection::Connection;
use super::doors::{Door, Offer, listen_tcp, tune_tcp};
use super::{Purpose, Server};
use crate::directory::{CONTROL_SOCKET, GUEST_SOCKET};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Connections through one door at a time, of guests or of other workers.
const CONNECTIONS_MAX: usize = 64;
/// Connections of agents at a time.
const ASKERS_MAX: usize = 32;
/// Pause after an `accept` that failed, for example because descriptors ran out.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

impl Server {
    /// Listens for other workers where the server before this one did.
    pub(super) fn listen_again(&mut self) {
        if let Some(kept) = self.store.config.export
            && let Err(e) =
                self.listen_for_readers(kept).or_else(|_| self.listen_for_readers((kept.ip(), 0).into()))
        {
            tracing::error!(error = %e, address = %kept, "cannot listen for other workers");
        }
    }

    pub(super) fn accept(&mut self, door: Door) {
        let listener = match door {
            Door::Guest => &self.guest_door,
            Door::Control => &self.control_door,
            Door::Reader => match &self.reader_door {
                Some((listener, _)) => listener,
                None => return,
            },
        };
        self.ring.accept(listener, Purpose::Accepted(door));
    }

    pub(super) fn accepted(&mut self, door: Door, result: io::Result<u32>) {
        match result {
            Ok(raw) => {
                self.enter(door, raw);
                self.accept(door);
            }
            // The listener was withdrawn; a new one, if there is one, has its own accept under way.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ECANCELED | libc::EBADF)) => {}
            Err(e) => {
                tracing::warn!(error = %e, ?door, "cannot accept a connection");
                self.paused_doors.push((door, Instant::now() + ACCEPT_PAUSE));
            }
        }
    }

    #[allow(unsafe_code, reason = "a descriptor accepted by io_uring is a number until somebody owns it")]
    fn enter(&mut self, door: Door, raw: u32) {
        // SAFETY: the kernel made this descriptor for this completion; nobody else knows its number.
        let socket = unsafe { OwnedFd::from_raw_fd(raw as i32) };
        let id = self.next_id;
        self.next_id += 1;
        if door == Door::Control {
            if self.askers.len() < ASKERS_MAX {
                self.askers.insert(id, Asker::new(Rc::new(socket), &self.pool));
                self.with_asker(id, |_| {});
            }
            return;
        }
        if self.connections_through(door) >= CONNECTIONS_MAX {
            tracing::warn!(?door, "a connection was closed: {CONNECTIONS_MAX} are open already");
            return;
        }
        if door == Door::Reader
            && let Err(e) = tune_tcp(&socket)
        {
            tracing::warn!(error = %e, "a connection cannot be tuned");
        }
        let credentials = match door {
            Door::Reader => self.credentials.clone(),
            // Unix sockets, which only our own user can reach.
            Door::Guest | Door::Control => None,
        };
        let connection = Connection::new(id, Rc::new(socket), &self.pool, credentials);
        self.connections.insert(id, (door, connection));
        self.with_connection(id, |_| {});
    }

    pub(super) fn listen_for_readers(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        let (listener, bound) = listen_tcp(address)?;
        self.store
            .describe_at_least_for_now(|config| config.export = Some(bound))
            .map_err(io::Error::other)?;
        self.reader_door = Some((listener, bound));
        self.accept(Door::Reader);
        Ok(bound)
    }

    pub(super) fn connections_through(&self, door: Door) -> usize {
        self.connections.values().filter(|(through, _)| *through == door).count()
    }

    pub(super) fn offer(&self, door: Door) -> Offer {
        Offer {
            door,
            id: self.store.config.id.clone(),
            generation: self.store.config.generation,
            size_bytes: self.store.config.size_bytes,
            snapshots: self.snapshot_exports(),
            phase: self.phase(),
            is_live: self.is_live,
            marks: self.marks_of_agents().map(|(mark, _)| mark.0).collect(),
            born_from: self.born_from(),
            readers: self.store.config.readers.clone(),
        }
    }

    /// Stops listening, so that nobody waits at a door that will not be opened.
    pub(super) fn close_doors(&mut self) {
        let reader_door = self.reader_door.take().map(|(listener, _)| listener);
        for door in [Some(self.guest_door.clone()), Some(self.control_door.clone()), reader_door]
            .into_iter()
            .flatten()
        {
            // Fails only for a listener that is closed already.
            let _ = rustix::net::shutdown(&*door, rustix::net::Shutdown::Both);
        }
        for socket in [GUEST_SOCKET, CONTROL_SOCKET] {
            if let Err(e) = std::fs::remove_file(self.store.dir.join(socket)) {
                tracing::warn!(error = %e, socket, "a socket cannot be removed");
            }
        }
    }
}
