//! A blocking connection, plain or secured: how a connection begins, and all that the blocking client needs.

use super::{RECORD_BYTES_MAX, Session, Then, TlsError, sealed_bytes_max};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// A socket that is read and written in turn.
pub(crate) struct Wire {
    socket: File,
    secured: Option<Secured>,
}

struct Secured {
    session: Session,
    /// Received, and not opened yet.
    sealed: Vec<u8>,
    /// Opened, and not read yet.
    plain: Vec<u8>,
}

impl Wire {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket: socket.into(), secured: None }
    }

    /// Shakes hands. `received`: what was read already and is the other side's.
    ///
    /// # Errors
    /// The connection broke, or the other side is not accepted (then the cause is a [`TlsError`]).
    pub(crate) fn secure(&mut self, session: Session, received: Vec<u8>) -> io::Result<()> {
        assert!(self.secured.is_none(), "a wire is secured once");
        let mut secured = Secured { session, sealed: received, plain: Vec::new() };
        while secured.open(&mut self.socket)? == Then::Handshake {
            secured.receive(&mut self.socket)?;
        }
        self.secured = Some(secured);
        Ok(())
    }

    /// From now on a read or write that does not go on for so long fails ([`io::ErrorKind::WouldBlock`]); none: it may
    /// take for ever.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        for direction in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&self.socket, direction, patience)?;
        }
        Ok(())
    }

    /// The socket; if it is secured, also its session and what was received and not opened yet.
    ///
    /// # Panics
    /// If something was opened and not read.
    pub(crate) fn into_parts(self) -> (OwnedFd, Option<(Session, Vec<u8>)>) {
        let secured = self.secured.map(|secured| {
            assert!(secured.plain.is_empty(), "what was opened is read first");
            (secured.session, secured.sealed)
        });
        (self.socket.into(), secured)
    }
}

impl Secured {
    /// Opens all that is here.
    fn open(&mut self, socket: &mut File) -> io::Result<Then> {
        loop {
            let mut answer = Vec::new();
            let opened =
                self.session.open(&mut self.sealed, &mut answer, |bytes| self.plain.extend_from_slice(bytes));
            // Also after an error: an alert tells the other side why.
            socket.write_all(&answer)?;
            let opened = opened.map_err(refused)?;
            self.sealed.drain(..opened.consumed);
            if opened.then != Then::Again {
                return Ok(opened.then);
            }
        }
    }

    fn receive(&mut self, socket: &mut File) -> io::Result<()> {
        let mut chunk = [0; RECORD_BYTES_MAX];
        match socket.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.sealed.extend_from_slice(&chunk[..count]);
                Ok(())
            }
        }
    }
}

impl Read for Wire {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let Some(secured) = &mut self.secured else { return self.socket.read(to) };
        while secured.plain.is_empty() && !to.is_empty() {
            if secured.open(&mut self.socket)? == Then::Closed {
                return Ok(0);
            }
            if secured.plain.is_empty() {
                secured.receive(&mut self.socket)?;
            }
        }
        let count = to.len().min(secured.plain.len());
        to[..count].copy_from_slice(&secured.plain[..count]);
        secured.plain.drain(..count);
        Ok(count)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(secured) = &mut self.secured else { return self.socket.write(bytes) };
        let mut records = vec![0; sealed_bytes_max(bytes.len())];
        let count = secured.session.seal(bytes, &mut records).map_err(refused)?;
        self.socket.write_all(&records[..count])?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn refused(error: TlsError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
