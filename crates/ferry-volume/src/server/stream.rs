//! One socket on the ring: what came in and is not parsed yet, what goes out and is not sent yet.
//!
//! A stream may be secured (`secure.rs`): then records stand between it and the socket, and [`Stream::refill`] opens them.
//! At most one receive and one send are in flight. Small pieces (headers) that are queued while a send is under
//! way are gathered, so that many replies leave in one system call.

use super::Purpose;
use super::secure::{Secured, drop_front};
use crate::buffer::{Buffer, Pool};
use crate::ring::{Descriptor, Piece, Ring, send_now, since_last_bytes};
use crate::tls::{PLAINTEXT_BYTES_MAX, Session, TlsError};
use rustix::net::Shutdown;
use std::collections::VecDeque;

/// Bytes of the receive buffer: many requests, or the beginning of one with a payload.
const INPUT_BYTES: usize = 128 * 1024;
/// Bytes of a buffer for queued headers.
const SMALL_BYTES: usize = 4096;
/// Pieces handed to the kernel in one send.
const PIECES_MAX: usize = 128;
/// Bytes of a payload received at a time: the loop is nobody else's meanwhile.
const LANDING_BYTES_AT_ONCE: usize = 256 * 1024;

/// Where the next received bytes belong.
pub(crate) struct Landing {
    pub(crate) buffer: Buffer,
    pub(crate) at: usize,
    pub(crate) left: usize,
}

pub(crate) struct Stream {
    fd: Descriptor,
    pool: Pool,
    input: Buffer,
    /// `input[start..end]` is received and not parsed.
    start: usize,
    end: usize,
    landing: Option<Landing>,
    receiving: bool,
    out: VecDeque<Piece>,
    out_bytes: usize,
    small: Option<(Buffer, usize)>,
    sending: bool,
    ended: bool,
    secured: Option<Box<Secured>>,
}

/// What a received chunk led to.
pub(crate) enum Received {
    /// There is more input to parse.
    Input,
    /// The landing is full.
    Landed,
    /// The landing wants more.
    Landing,
    /// The peer closed, or the socket failed.
    Ended,
}

/// The other side of a secured stream.
pub(crate) enum Peer {
    /// The handshake goes on.
    Unproven,
    /// It is whom its certificate names, if it names anybody.
    Proven(Option<String>),
}

impl Stream {
    pub(crate) fn new(fd: Descriptor, pool: &Pool) -> Self {
        Self {
            fd,
            pool: pool.clone(),
            input: pool.take(INPUT_BYTES),
            start: 0,
            end: 0,
            landing: None,
            receiving: false,
            out: VecDeque::new(),
            out_bytes: 0,
            small: None,
            sending: false,
            ended: false,
            secured: None,
        }
    }

    /// From here on the stream is TLS: what came in and is not parsed belongs to it, as do the bytes `received` elsewhere,
    /// and what is queued already goes out plain.
    pub(crate) fn secure(&mut self, session: Session, received: &[u8]) {
        assert!(
            self.secured.is_none() && !self.receiving && self.landing.is_none(),
            "a stream is secured once"
        );
        let unparsed = self.input.with_bytes(self.start, self.end - self.start, <[u8]>::to_vec);
        (self.start, self.end) = (0, 0);
        let received = [unparsed.as_slice(), received].concat();
        let queued = std::mem::take(&mut self.out);
        self.out_bytes = 0;
        self.secured = Some(Box::new(Secured::new(session, &received, queued, &self.pool)));
    }

    /// Whether the other side has proved who it is, and who that is, if its certificate tells. None on a plain stream.
    pub(crate) fn peer(&self) -> Option<Peer> {
        let session = self.secured.as_ref()?.session();
        Some(match session.is_shaking_hands() {
            true => Peer::Unproven,
            false => Peer::Proven(session.peer()),
        })
    }

    /// Opens records as long as there is room for what is in them. Does nothing on a plain stream.
    ///
    /// # Errors
    /// The other side is not accepted; the connection must be closed.
    pub(crate) fn refill(&mut self) -> Result<(), TlsError> {
        while self.secured.is_some() && self.has_room_for_a_record() {
            let Some(secured) = &mut self.secured else { break };
            let (input, end, landing) = (&self.input, &mut self.end, &mut self.landing);
            let opened = secured.open(|mut plain| {
                if let Some(wants) = landing {
                    let len = wants.left.min(plain.len());
                    wants.buffer.copy_in(wants.at, &plain[..len]);
                    (wants.at, wants.left) = (wants.at + len, wants.left - len);
                    plain = &plain[len..];
                    if wants.left == 0 {
                        *landing = None;
                    }
                }
                input.copy_in(*end, plain);
                *end += plain.len();
            });
            match opened {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => {
                    secured.say_why(&self.fd);
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    fn has_room_for_a_record(&mut self) -> bool {
        if INPUT_BYTES - self.end < PLAINTEXT_BYTES_MAX {
            self.close_ranks();
        }
        INPUT_BYTES - self.end >= PLAINTEXT_BYTES_MAX
    }

    /// Moves what is not parsed to the front of the input.
    fn close_ranks(&mut self) {
        if self.start > 0 {
            let len = self.unparsed();
            let (input, start) = (self.input.clone(), self.start);
            input.copy_from(0, &input, start, len);
            (self.start, self.end) = (0, len);
        }
    }

    /// Looks at the unparsed input; `parse` tells how many bytes of it are done with.
    pub(crate) fn parse<R>(&mut self, parse: impl FnOnce(&[u8]) -> (usize, R)) -> R {
        let (used, result) = self.input.with_bytes(self.start, self.end - self.start, parse);
        self.consume(used);
        result
    }

    /// Whether bytes of a payload are still to come.
    pub(crate) fn is_landing(&self) -> bool {
        self.landing.is_some()
    }

    /// Whether the peer closed, the socket failed, or [`Stream::close`] was called.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn unparsed(&self) -> usize {
        self.end - self.start
    }

    /// Drops up to `len` bytes of unparsed input; returns how many.
    pub(crate) fn skip(&mut self, len: usize) -> usize {
        let skipped = len.min(self.unparsed());
        self.consume(skipped);
        skipped
    }

    fn consume(&mut self, used: usize) {
        assert!(used <= self.unparsed(), "a parser used more than there is");
        self.start += used;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// The next `len` bytes of the stream belong at `at` of `buffer`. Returns whether all were already here.
    pub(crate) fn land(&mut self, buffer: &Buffer, at: usize, len: usize) -> bool {
        assert!(self.landing.is_none(), "one payload at a time");
        let here = len.min(self.unparsed());
        buffer.copy_from(at, &self.input, self.start, here);
        self.consume(here);
        if here < len {
            self.landing = Some(Landing { buffer: buffer.clone(), at: at + here, left: len - here });
        }
        here == len
    }

    /// Asks the kernel for more bytes, unless that is already under way.
    pub(crate) fn receive(&mut self, ring: &mut Ring<Purpose>, purpose: Purpose) {
        if self.receiving || self.ended {
            return;
        }
        if let Some(secured) = &mut self.secured {
            let (buffer, at, room) = secured.landing();
            if room > 0 {
                self.receiving = true;
                ring.receive(&self.fd, buffer, at, room, purpose);
            }
            return;
        }
        self.receiving = true;
        if let Some(landing) = &self.landing {
            let len = landing.left.min(LANDING_BYTES_AT_ONCE);
            return ring.receive_all(&self.fd, &landing.buffer, landing.at, len, purpose);
        }
        self.close_ranks();
        assert!(self.end < INPUT_BYTES, "a parser left a full buffer unparsed");
        ring.receive(&self.fd, &self.input, self.end, INPUT_BYTES - self.end, purpose);
    }

    /// For how long nothing at all has come in, as the kernel knows it: a receive under way may hold bytes that
    /// nobody has been told of. None where only those who receive know.
    pub(crate) fn silence(&self) -> Option<std::time::Duration> {
        since_last_bytes(&self.fd)
    }

    /// Takes note of what a receive gave.
    pub(crate) fn received(&mut self, result: std::io::Result<u32>) -> Received {
        self.receiving = false;
        let Ok(count @ 1..) = result else {
            self.ended = true;
            return Received::Ended;
        };
        let count = count as usize;
        if let Some(secured) = &mut self.secured {
            secured.received(count);
            return Received::Input;
        }
        match &mut self.landing {
            Some(landing) => {
                landing.at += count;
                landing.left -= count;
                if landing.left > 0 {
                    return Received::Landing;
                }
                self.landing = None;
                Received::Landed
            }
            None => {
                self.end += count;
                Received::Input
            }
        }
    }

    /// Queues a few bytes (a header) to be sent.
    pub(crate) fn queue_bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (buffer, used) = self.small.take().unwrap_or_else(|| (self.pool.take(SMALL_BYTES), 0));
            let len = bytes.len().min(SMALL_BYTES - used);
            buffer.copy_in(used, &bytes[..len]);
            self.queue_small(&buffer, used, len);
            if used + len < SMALL_BYTES {
                self.small = Some((buffer, used + len));
            }
            bytes = &bytes[len..];
        }
    }

    fn queue_small(&mut self, buffer: &Buffer, at: usize, len: usize) {
        self.out_bytes += len;
        if let Some(last) = self.out.back_mut()
            && last.at + last.len == at
            && last.buffer.address(0, 0) == buffer.address(0, 0)
        {
            last.len += len;
            return;
        }
        self.out.push_back(Piece { buffer: buffer.clone(), at, len });
    }

    /// Queues a payload to be sent from where it lies.
    pub(crate) fn queue_payload(&mut self, buffer: &Buffer, at: usize, len: usize) {
        if len > 0 {
            self.out_bytes += len;
            self.out.push_back(Piece { buffer: buffer.clone(), at, len });
        }
    }

    /// Bytes queued or being sent.
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.out_bytes + self.secured.as_ref().map_or(0, |secured| secured.unsent_bytes())
    }

    /// Sends what is queued, unless a send is under way: what the socket takes at once without the ring's round trip,
    /// the rest by the ring.
    pub(crate) fn send(&mut self, ring: &mut Ring<Purpose>, purpose: Purpose) {
        if self.sending || self.ended {
            return;
        }
        loop {
            if let Err(e) = self.seal() {
                tracing::warn!(error = %e, "a connection was closed");
                return self.close();
            }
            if self.wire_queue().is_empty() {
                return;
            }
            let fd = self.fd.clone();
            let count = send_now(&fd, self.wire_queue().iter().take(PIECES_MAX));
            self.went_out(count);
            if !self.wire_queue().is_empty() {
                break;
            }
        }
        self.sending = true;
        let pieces = self
            .wire_queue()
            .iter()
            .take(PIECES_MAX)
            .map(|p| Piece { buffer: p.buffer.clone(), at: p.at, len: p.len })
            .collect();
        ring.send(&self.fd, pieces, purpose);
    }

    /// Takes note of what a send gave; false when the socket failed.
    pub(crate) fn sent(&mut self, result: std::io::Result<u32>) -> bool {
        self.sending = false;
        let Ok(count) = result else {
            self.ended = true;
            return false;
        };
        self.went_out(count as usize);
        true
    }

    /// What goes to the socket as it is.
    fn wire_queue(&mut self) -> &mut VecDeque<Piece> {
        match &mut self.secured {
            Some(secured) => secured.output(),
            None => &mut self.out,
        }
    }

    /// Makes records of what is queued, a buffer at a time, when the last ones are sent. Does nothing on a plain stream.
    fn seal(&mut self) -> Result<(), TlsError> {
        if let Some(secured) = &mut self.secured
            && secured.output().is_empty()
        {
            self.out_bytes -= secured.seal(&mut self.out)?;
        }
        Ok(())
    }

    fn went_out(&mut self, count: usize) {
        match &mut self.secured {
            Some(secured) => *secured.output_bytes() -= count,
            None => self.out_bytes -= count,
        }
        drop_front(self.wire_queue(), count);
    }

    /// Ends the stream: operations in flight complete with an error or nothing.
    pub(crate) fn close(&mut self) {
        self.ended = true;
        // Fails only when the peer is gone already.
        let _ = rustix::net::shutdown(&*self.fd, Shutdown::Both);
    }
}
