//! The secured part of a stream: records that came in and are not opened, records that go out and are not sent.
//!
//! Invariant: what is in `output` goes to the socket as it is and in this order. That includes plain bytes that were
//! queued before the stream was secured.

use crate::buffer::{Buffer, Pool};
use crate::ring::{Descriptor, Piece};
use crate::tls::{PLAINTEXT_BYTES_MAX, RECORD_BYTES_MAX, Session, Then, TlsError, sealed_bytes_max};
use std::collections::VecDeque;

/// Bytes of the buffer for records that came in.
const INPUT_BYTES: usize = 256 * 1024;
/// Bytes of a buffer of records that go out: with what sealing adds they fill one size class of the pool.
const OUTPUT_BYTES: usize = 256 * 1024;
/// Records in such a buffer.
const OUTPUT_RECORDS: usize = 15;

const _: () = assert!(INPUT_BYTES >= RECORD_BYTES_MAX);
const _: () = assert!(sealed_bytes_max(OUTPUT_RECORDS * PLAINTEXT_BYTES_MAX) <= OUTPUT_BYTES);

pub(super) struct Secured {
    session: Session,
    pool: Pool,
    input: Buffer,
    /// `input[start..end]` is received and not opened.
    start: usize,
    end: usize,
    output: VecDeque<Piece>,
    output_bytes: usize,
    /// The other side has taken its leave: nothing it sends counts any more.
    closed: bool,
}

impl Secured {
    /// `received`: bytes of the other side's that came before the stream was secured. `queued`: plain bytes of so many
    /// that go out before the first record.
    pub(super) fn new(session: Session, received: &[u8], queued: VecDeque<Piece>, pool: &Pool) -> Self {
        let input = pool.take(INPUT_BYTES);
        input.copy_in(0, received);
        let output_bytes = queued.iter().map(|piece| piece.len).sum();
        Self {
            session,
            pool: pool.clone(),
            input,
            start: 0,
            end: received.len(),
            output: queued,
            output_bytes,
            closed: false,
        }
    }

    /// Where the next received bytes belong: position and room. No room: what is here must be opened first.
    pub(super) fn landing(&mut self) -> (&Buffer, usize, usize) {
        if self.start > 0 {
            let len = self.end - self.start;
            self.input.copy_from(0, &self.input.clone(), self.start, len);
            (self.start, self.end) = (0, len);
        }
        (&self.input, self.end, INPUT_BYTES - self.end)
    }

    pub(super) fn received(&mut self, count: usize) {
        self.end += count;
    }

    /// Opens the next record, if a whole one is here. Tells whether there may be another.
    pub(super) fn open(&mut self, take: impl FnMut(&[u8])) -> Result<bool, TlsError> {
        if self.closed {
            (self.start, self.end) = (0, 0);
            return Ok(false);
        }
        let mut answer = Vec::new();
        let session = &mut self.session;
        let opened = self.input.with_bytes_mut(self.start, self.end - self.start, |input| {
            session.open(input, &mut answer, take)
        });
        self.queue(&answer);
        let opened = opened?;
        self.start += opened.consumed;
        self.closed = opened.then == Then::Closed;
        Ok(opened.then == Then::Again)
    }

    fn queue(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            let buffer = self.pool.take(bytes.len());
            buffer.copy_in(0, bytes);
            self.output_bytes += bytes.len();
            self.output.push_back(Piece { buffer, at: 0, len: bytes.len() });
        }
    }

    /// Seals what is queued in `plain`, as much as fits one buffer; gives how many bytes of it are done with.
    pub(super) fn seal(&mut self, plain: &mut VecDeque<Piece>) -> Result<usize, TlsError> {
        if self.session.is_shaking_hands() || plain.is_empty() {
            return Ok(0);
        }
        let output = self.pool.take(OUTPUT_BYTES);
        let (mut records_bytes, mut plain_bytes) = (0, 0);
        for _ in 0..OUTPUT_RECORDS {
            let Some(first) = plain.front() else { break };
            let (session, room) = (&mut self.session, OUTPUT_BYTES - records_bytes);
            let mut seal =
                |bytes: &[u8]| output.with_bytes_mut(records_bytes, room, |to| session.seal(bytes, to));
            let (sealed, taken) = if first.len >= PLAINTEXT_BYTES_MAX {
                (first.buffer.with_bytes(first.at, PLAINTEXT_BYTES_MAX, seal)?, PLAINTEXT_BYTES_MAX)
            } else {
                // Small pieces share a record.
                let gathered = gather(plain);
                (seal(&gathered)?, gathered.len())
            };
            records_bytes += sealed;
            plain_bytes += taken;
            drop_front(plain, taken);
        }
        self.output_bytes += records_bytes;
        self.output.push_back(Piece { buffer: output, at: 0, len: records_bytes });
        Ok(plain_bytes)
    }

    pub(super) fn output(&mut self) -> &mut VecDeque<Piece> {
        &mut self.output
    }

    pub(super) fn output_bytes(&mut self) -> &mut usize {
        &mut self.output_bytes
    }

    pub(super) fn unsent_bytes(&self) -> usize {
        self.output_bytes
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// Tries to tell the other side why the connection ends.
    pub(super) fn say_why(&self, fd: &Descriptor) {
        crate::ring::send_now(fd, self.output.iter());
    }
}

/// The first bytes of what is queued, at most a record's worth.
fn gather(plain: &VecDeque<Piece>) -> Vec<u8> {
    let mut gathered = Vec::with_capacity(PLAINTEXT_BYTES_MAX);
    for piece in plain {
        let len = piece.len.min(PLAINTEXT_BYTES_MAX - gathered.len());
        if len == 0 {
            break;
        }
        piece.buffer.with_bytes(piece.at, len, |bytes| gathered.extend_from_slice(bytes));
    }
    gathered
}

/// Takes `count` bytes from the front of a queue.
pub(super) fn drop_front(queue: &mut VecDeque<Piece>, mut count: usize) {
    while count > 0 {
        let first = queue.front_mut().expect("no more is taken than was queued");
        let done = count.min(first.len);
        first.at += done;
        first.len -= done;
        count -= done;
        if first.len == 0 {
            queue.pop_front();
        }
    }
}
