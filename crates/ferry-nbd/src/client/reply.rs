//! Replies, header first. Every chunk is checked against the request it answers.

use super::pending::Pending;
use crate::bytes::Reader;
use crate::client::Session;
use crate::command::{ByteRange, Command, HeaderStyle};
use crate::errno::Errno;
use crate::error::ProtocolError;
use crate::export::Extent;
use crate::limits::{ERROR_CHUNK_BYTES_MAX, EXTENTS_PER_REPLY_MAX};
use crate::wire;

/// What [`Session::advance`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that are dealt with.
    pub consumed: usize,
    /// What happened. None: more input is needed.
    pub event: Option<Event>,
}

/// The server failed a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How.
    pub errno: Errno,
    /// The server's words, may be empty.
    pub message: String,
}

/// One step of one request's reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The next `range.len_bytes()` bytes of the stream are the data of these bytes of the export. They were asked by
    /// this request and were not answered before.
    Data {
        /// The request.
        cookie: u64,
        /// Which bytes of the export.
        range: ByteRange,
    },
    /// These bytes of the export are zeroes.
    Hole {
        /// The request.
        cookie: u64,
        /// Which bytes of the export.
        range: ByteRange,
    },
    /// The extents of one context, from the request's offset on: none without length, none beyond the range that was
    /// asked; all together they may cover less. At most once for each context and request.
    BlockStatus {
        /// The request.
        cookie: u64,
        /// The context's number, one of [`Session::contexts`].
        context_id: u32,
        /// The extents.
        extents: Vec<Extent>,
    },
    /// The one and only end of the request. If a read ends with `Ok`, all of its bytes were answered. After an error
    /// its bytes mean nothing.
    Done {
        /// The request.
        cookie: u64,
        /// How it ended.
        result: Result<(), Failure>,
    },
}

/// A block status chunk on its way in. It is read descriptor by descriptor, so that no buffer must hold it whole.
#[derive(Clone, Debug)]
pub(super) struct Status {
    cookie: u64,
    is_last: bool,
    /// None: a context that nobody asked for, skipped.
    context_id: Option<u32>,
    /// Descriptors that have not arrived, and how long each is.
    left: u64,
    descriptor_bytes: usize,
    extents: Vec<Extent>,
    extents_max: usize,
    /// Bytes of the request's range that no extent covers yet.
    uncovered_bytes: u64,
}

/// The head of a chunk.
struct Chunk {
    is_last: bool,
    kind: u16,
    cookie: u64,
    /// Bytes of payload.
    len_bytes: u64,
    header_bytes: usize,
}

/// One step through the input.
enum Step {
    NeedMore,
    Consumed(usize),
    Event(usize, Event),
}

impl Session {
    /// Reads one event. `input` begins with the first byte that was neither consumed nor payload; it must be able to
    /// grow to [`crate::limits::REPLY_BUFFER_BYTES`].
    ///
    /// Errors: close the connection; requests in flight are lost and may be asked again on another.
    pub fn advance(&mut self, input: &[u8]) -> Result<Progress, ProtocolError> {
        if let Some(cookie) = self.due.take() {
            return Ok(Progress { consumed: 0, event: Some(self.finish(cookie)?) });
        }
        let mut consumed = 0;
        loop {
            let rest = &input[consumed..];
            let step = match self.status.take() {
                Some(status) => self.descriptors(status, rest)?,
                None => self.header(rest)?,
            };
            match step {
                Step::NeedMore => return Ok(Progress { consumed, event: None }),
                Step::Consumed(bytes) => consumed += bytes,
                Step::Event(bytes, event) => {
                    return Ok(Progress { consumed: consumed + bytes, event: Some(event) });
                }
            }
            // An ended block status may have left nothing to tell but its end.
            if let Some(cookie) = self.due.take() {
                return Ok(Progress { consumed, event: Some(self.finish(cookie)?) });
            }
        }
    }

    fn pending(&mut self, cookie: u64) -> Result<&mut Pending, ProtocolError> {
        self.pending.get_mut(&cookie).ok_or(ProtocolError::UnknownCookie(cookie))
    }

    fn finish(&mut self, cookie: u64) -> Result<Event, ProtocolError> {
        let pending = self.pending.remove(&cookie).ok_or(ProtocolError::UnknownCookie(cookie))?;
        Ok(Event::Done { cookie, result: pending.finish()? })
    }

    fn header(&mut self, input: &[u8]) -> Result<Step, ProtocolError> {
        let mut reader = Reader::new(input);
        let Some(magic) = reader.u32() else { return Ok(Step::NeedMore) };
        match (magic, self.style) {
            (wire::SIMPLE_REPLY_MAGIC, HeaderStyle::Simple | HeaderStyle::Structured) => {
                let (Some(error), Some(cookie)) = (reader.u32(), reader.u64()) else {
                    return Ok(Step::NeedMore);
                };
                Ok(Step::Event(wire::SIMPLE_REPLY_BYTES, self.simple(error, cookie)?))
            }
            (wire::STRUCTURED_REPLY_MAGIC, HeaderStyle::Structured)
            | (wire::EXTENDED_REPLY_MAGIC, HeaderStyle::Extended) => {
                let Some(chunk) = Chunk::read(reader, self.style) else { return Ok(Step::NeedMore) };
                self.chunk(&chunk, &input[chunk.header_bytes..])
            }
            (
                wire::SIMPLE_REPLY_MAGIC | wire::STRUCTURED_REPLY_MAGIC | wire::EXTENDED_REPLY_MAGIC,
                HeaderStyle::Simple | HeaderStyle::Structured | HeaderStyle::Extended,
            ) => Err(ProtocolError::UnexpectedReply("a reply of a style that was not negotiated")),
            _ => Err(ProtocolError::BadMagic { place: "a reply", found: magic.into() }),
        }
    }

    fn simple(&mut self, error: u32, cookie: u64) -> Result<Event, ProtocolError> {
        let style = self.style;
        let pending = self.pending(cookie)?;
        if error != 0 {
            pending.fail(Failure { errno: Errno::from_wire(error), message: String::new() });
            return self.finish(cookie);
        }
        match pending.command {
            Command::Read { range, .. } if style == HeaderStyle::Simple => {
                let range = pending.claim(range.offset(), range.len_bytes())?;
                self.due = Some(cookie);
                Ok(Event::Data { cookie, range })
            }
            Command::Read { .. } => Err(ProtocolError::UnexpectedReply(
                "a simple reply to a read after structured replies were agreed",
            )),
            Command::BlockStatus { .. } => {
                Err(ProtocolError::UnexpectedReply("a simple reply to a block status"))
            }
            Command::Write { .. }
            | Command::Disconnect
            | Command::Flush
            | Command::Trim { .. }
            | Command::Cache { .. }
            | Command::WriteZeroes { .. } => self.finish(cookie),
        }
    }

    /// Takes a chunk whose head is read. `payload` is what has arrived behind the head.
    fn chunk(&mut self, chunk: &Chunk, payload: &[u8]) -> Result<Step, ProtocolError> {
        let cookie = chunk.cookie;
        let pending = self.pending(cookie)?;
        match chunk.kind {
            wire::REPLY_TYPE_NONE => {
                if chunk.len_bytes != 0 || !chunk.is_last {
                    return Err(ProtocolError::Malformed("an empty reply chunk"));
                }
                Ok(Step::Event(chunk.header_bytes, self.finish(cookie)?))
            }
            wire::REPLY_TYPE_OFFSET_DATA => {
                let data_bytes = chunk.len_bytes.checked_sub(8).filter(|bytes| *bytes > 0);
                let data_bytes = data_bytes.ok_or(ProtocolError::Malformed("a data chunk"))?;
                let Some(offset) = Reader::new(payload).u64() else { return Ok(Step::NeedMore) };
                let range = pending.claim(offset, data_bytes)?;
                self.due = chunk.is_last.then_some(cookie);
                Ok(Step::Event(chunk.header_bytes + 8, Event::Data { cookie, range }))
            }
            wire::REPLY_TYPE_OFFSET_HOLE => {
                if chunk.len_bytes != 12 {
                    return Err(ProtocolError::Malformed("a hole chunk"));
                }
                let mut reader = Reader::new(payload);
                let (Some(offset), Some(hole_bytes)) = (reader.u64(), reader.u32()) else {
                    return Ok(Step::NeedMore);
                };
                let range = pending.claim(offset, hole_bytes.into())?;
                self.due = chunk.is_last.then_some(cookie);
                Ok(Step::Event(chunk.header_bytes + 12, Event::Hole { cookie, range }))
            }
            wire::REPLY_TYPE_BLOCK_STATUS | wire::REPLY_TYPE_BLOCK_STATUS_EXT => {
                self.block_status(chunk, payload)
            }
            kind if kind & wire::REPLY_TYPE_FLAG_ERROR != 0 => self.error_chunk(chunk, payload),
            kind => Err(ProtocolError::UnknownChunk(kind)),
        }
    }

    /// All error chunks begin alike, so unknown ones are understood well enough.
    fn error_chunk(&mut self, chunk: &Chunk, payload: &[u8]) -> Result<Step, ProtocolError> {
        let max_bytes = u64::from(ERROR_CHUNK_BYTES_MAX);
        if chunk.len_bytes > max_bytes {
            let (what, len_bytes) = ("an error chunk", chunk.len_bytes);
            return Err(ProtocolError::TooLong { what, len_bytes, max_bytes });
        }
        let Some(payload) = Reader::new(payload).take(chunk.len_bytes as usize) else {
            return Ok(Step::NeedMore);
        };
        let mut reader = Reader::new(payload);
        let (Some(error), Some(message_bytes)) = (reader.u32(), reader.u16()) else {
            return Err(ProtocolError::Malformed("an error chunk"));
        };
        let message = reader.take(message_bytes.into()).ok_or(ProtocolError::Malformed("an error chunk"))?;
        let message = String::from_utf8_lossy(message).into_owned();
        self.pending(chunk.cookie)?.fail(Failure { errno: Errno::from_wire(error), message });
        let bytes = chunk.header_bytes + payload.len();
        if chunk.is_last {
            return Ok(Step::Event(bytes, self.finish(chunk.cookie)?));
        }
        Ok(Step::Consumed(bytes))
    }

    fn block_status(&mut self, chunk: &Chunk, payload: &[u8]) -> Result<Step, ProtocolError> {
        let malformed = ProtocolError::Malformed("a block status chunk");
        let extended = self.style == HeaderStyle::Extended;
        if extended != (chunk.kind == wire::REPLY_TYPE_BLOCK_STATUS_EXT) {
            return Err(ProtocolError::UnexpectedReply("a block status of a style that was not negotiated"));
        }
        let (head_bytes, descriptor_bytes) = if extended { (8, 16) } else { (4, 8) };
        let body_bytes = chunk.len_bytes.checked_sub(head_bytes).ok_or(malformed.clone())?;
        let left = body_bytes / descriptor_bytes;
        if left == 0 || body_bytes % descriptor_bytes != 0 {
            return Err(malformed);
        }
        let mut reader = Reader::new(payload);
        let Some(id) = reader.u32() else { return Ok(Step::NeedMore) };
        if extended {
            match reader.u32() {
                None => return Ok(Step::NeedMore),
                Some(count) if count != 0 && u64::from(count) != left => return Err(malformed),
                Some(_) => {}
            }
        }
        let known = self.contexts.iter().any(|context| context.id == id);
        let pending = self.pending(chunk.cookie)?;
        let Command::BlockStatus { range, only_one } = pending.command else {
            return Err(ProtocolError::UnexpectedReply("a block status that was not asked"));
        };
        if known {
            pending.claim_context(id)?;
        }
        self.status = Some(Status {
            cookie: chunk.cookie,
            is_last: chunk.is_last,
            context_id: known.then_some(id),
            left,
            descriptor_bytes: descriptor_bytes as usize,
            extents: Vec::new(),
            extents_max: if only_one { 1 } else { EXTENTS_PER_REPLY_MAX },
            uncovered_bytes: range.len_bytes(),
        });
        Ok(Step::Consumed(chunk.header_bytes + head_bytes as usize))
    }

    fn descriptors(&mut self, mut status: Status, input: &[u8]) -> Result<Step, ProtocolError> {
        let mut consumed = 0;
        for descriptor in input.chunks_exact(status.descriptor_bytes) {
            if status.left == 0 {
                break;
            }
            status.take(descriptor);
            consumed += descriptor.len();
        }
        if status.left > 0 {
            self.status = Some(status);
            return Ok(if consumed == 0 { Step::NeedMore } else { Step::Consumed(consumed) });
        }
        self.due = status.is_last.then_some(status.cookie);
        Ok(match status.context_id {
            Some(context_id) => {
                let (cookie, extents) = (status.cookie, status.extents);
                Step::Event(consumed, Event::BlockStatus { cookie, context_id, extents })
            }
            None => Step::Consumed(consumed),
        })
    }
}

impl Status {
    /// Takes one descriptor. Hostile and careless servers send extents without length, or longer than what was
    /// asked: the former are dropped, the latter cut.
    fn take(&mut self, descriptor: &[u8]) {
        self.left -= 1;
        let mut reader = Reader::new(descriptor);
        let (len_bytes, flags) = if self.descriptor_bytes == 16 {
            (reader.u64(), reader.u64())
        } else {
            (reader.u32().map(u64::from), reader.u32().map(u64::from))
        };
        let (Some(len_bytes), Some(flags)) = (len_bytes, flags) else { return };
        let len_bytes = len_bytes.min(self.uncovered_bytes);
        if len_bytes > 0 && self.context_id.is_some() && self.extents.len() < self.extents_max {
            self.uncovered_bytes -= len_bytes;
            self.extents.push(Extent { len_bytes, flags });
        }
    }
}

impl Chunk {
    /// Reads the head of a chunk behind its magic.
    fn read(mut reader: Reader<'_>, style: HeaderStyle) -> Option<Chunk> {
        let (flags, kind, cookie) = (reader.u16()?, reader.u16()?, reader.u64()?);
        let (len_bytes, header_bytes) = if style == HeaderStyle::Extended {
            // The offset repeats the request's and tells nothing.
            reader.u64()?;
            (reader.u64()?, wire::EXTENDED_REPLY_BYTES)
        } else {
            (reader.u32()?.into(), wire::STRUCTURED_REPLY_BYTES)
        };
        let is_last = flags & wire::REPLY_FLAG_DONE != 0;
        Some(Chunk { is_last, kind, cookie, len_bytes, header_bytes })
    }
}
