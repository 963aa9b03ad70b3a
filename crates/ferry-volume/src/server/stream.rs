//! One socket on the ring: what came in and is not parsed yet, what goes out and is not sent yet.
//!
//! At most one receive and one send are in flight. Small pieces (headers) that are queued while a send is under
//! way are gathered, so that many replies leave in one system call.

use super::Purpose;
use crate::buffer::{Buffer, Pool};
use crate::ring::{Descriptor, Piece, Ring};
use rustix::net::Shutdown;
use std::collections::VecDeque;

/// Bytes of the receive buffer: many requests, or the beginning of one with a payload.
const INPUT_BYTES: usize = 128 * 1024;
/// Bytes of a buffer for queued headers.
const SMALL_BYTES: usize = 4096;
/// Pieces handed to the kernel in one send.
const PIECES_MAX: usize = 128;

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
        self.receiving = true;
        if let Some(landing) = &self.landing {
            return ring.receive(&self.fd, &landing.buffer, landing.at, landing.left, purpose);
        }
        if self.start > 0 {
            let len = self.unparsed();
            let (input, start) = (self.input.clone(), self.start);
            input.copy_from(0, &input, start, len);
            (self.start, self.end) = (0, len);
        }
        assert!(self.end < INPUT_BYTES, "a parser left a full buffer unparsed");
        ring.receive(&self.fd, &self.input, self.end, INPUT_BYTES - self.end, purpose);
    }

    /// Takes note of what a receive gave.
    pub(crate) fn received(&mut self, result: std::io::Result<u32>) -> Received {
        self.receiving = false;
        let Ok(count @ 1..) = result else {
            self.ended = true;
            return Received::Ended;
        };
        let count = count as usize;
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
        self.out_bytes
    }

    /// Sends what is queued, unless a send is under way: what the socket takes at once without the ring's round trip,
    /// the rest by the ring.
    pub(crate) fn send(&mut self, ring: &mut Ring<Purpose>, purpose: Purpose) {
        if self.sending || self.ended || self.out.is_empty() {
            return;
        }
        let count = Ring::<Purpose>::send_now(&self.fd, self.out.iter().take(PIECES_MAX));
        self.went_out(count);
        if self.out.is_empty() {
            return;
        }
        self.sending = true;
        let pieces = self
            .out
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

    fn went_out(&mut self, mut count: usize) {
        self.out_bytes -= count;
        while count > 0 {
            let first = self.out.front_mut().expect("no more is sent than was queued");
            let done = count.min(first.len);
            first.at += done;
            first.len -= done;
            count -= done;
            if first.len == 0 {
                self.out.pop_front();
            }
        }
    }

    /// Ends the stream: operations in flight complete with an error or nothing.
    pub(crate) fn close(&mut self) {
        self.ended = true;
        // Fails only when the peer is gone already.
        let _ = rustix::net::shutdown(&*self.fd, Shutdown::Both);
    }
}
