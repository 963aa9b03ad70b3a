//! Requests of guests and other workers: from where they came to the engine, and back as replies.

use super::Server;
use super::command::AskedFlush;
use super::connection::{Connection, Next};
use super::doors::Door;
use super::mailbox::MailReply;
use crate::buffer::{BUFFER_BYTES_MAX, Buffer};
use crate::extents::file_extents;
use crate::heat;
use crate::ring::Descriptor;
use ferry_engine::{ByteRange, Errno, Event, Keeping, RequestId, RequestKind, Residence};
use ferry_nbd::limits::EXTENTS_PER_REPLY_SENT_MAX;
use ferry_nbd::server::{Negotiated, Part, Reply, Request};
use ferry_nbd::wire::{STATE_HOLE, STATE_ZERO};
use ferry_nbd::{CONTEXT_ALLOCATION, CONTEXT_CRC32C, CONTEXT_HEAT, Command, Context, Extent};
use std::time::Instant;

/// What was read last for the connection whose requests are being parsed.
pub(super) struct JustRead {
    request: RequestId,
    connection: u64,
    range: ferry_nbd::ByteRange,
    buffer: Buffer,
}

/// A request under way.
pub(super) struct Asked {
    kind: RequestKind,
    origin: Origin,
    pub(super) buffer: Option<Buffer>,
    /// When it came, if its latency is measured.
    pub(super) came: Option<Instant>,
}

/// Who asked, and what the answer needs.
pub(super) enum Origin {
    /// An NBD connection, of a guest or of another worker.
    Nbd { connection: u64, command: Command, reply: Reply },
    /// A frontend with threads of its own.
    Mail(MailReply),
    /// An agent, for a flush.
    Agent(AskedFlush),
}

impl Asked {
    fn changes_the_volume(&self) -> bool {
        match self.kind {
            RequestKind::Write { .. }
            | RequestKind::Trim { .. }
            | RequestKind::WriteZeroes { .. }
            | RequestKind::Flush => true,
            RequestKind::Read { .. } | RequestKind::ReadSnapshot { .. } | RequestKind::Cache { .. } => false,
        }
    }
}

impl Server {
    /// Lets something happen on a connection, then parses, starts and sends what can be.
    pub(super) fn with_connection(&mut self, id: u64, act: impl FnOnce(&mut Connection)) {
        let Some((door, connection)) = self.connections.get_mut(&id) else { return };
        let door = *door;
        act(connection);
        let offer = connection.is_shaking().then(|| self.offer(door));
        while let Some((_, connection)) = self.connections.get_mut(&id) {
            match connection.next(offer.as_ref(), &self.pool) {
                Ok(Next::Start { request, payload, reply }) => self.start(id, request, payload, reply),
                Ok(Next::Wait | Next::Close) => break,
                Err(e) => {
                    tracing::warn!(error = %e, ?door, "a connection was closed");
                    connection.close();
                }
            }
        }
        self.just_read = None;
        self.settle(id);
    }

    /// Keeps a connection's bytes flowing, or buries it when it is over.
    fn settle(&mut self, id: u64) {
        let Some((_, connection)) = self.connections.get_mut(&id) else { return };
        connection.flow(&mut self.ring);
        if connection.newly_ended() {
            // A peer that takes its leave still means what it has written; nobody waits for what it has not read.
            let gone = connection.peer_is_gone();
            self.cancel(gone, |origin| matches!(origin, Origin::Nbd { connection, .. } if *connection == id));
        }
        if self.connections.get(&id).is_some_and(|(_, connection)| connection.is_over()) {
            self.connections.remove(&id);
        }
    }

    /// Drops the requests of those who left, except for what they have written (unless that, too).
    pub(super) fn cancel(&mut self, writes_too: bool, of: impl Fn(&Origin) -> bool) {
        let is_idle = |asked: &Asked| of(&asked.origin) && (writes_too || !asked.changes_the_volume());
        let waiting: Vec<u64> =
            self.requests.iter().filter(|(_, asked)| is_idle(asked)).map(|(&id, _)| id).collect();
        for request in waiting {
            self.feed(Event::Cancel { id: RequestId(request) });
        }
    }

    fn start(&mut self, connection: u64, request: Request, payload: Option<Buffer>, reply: Reply) {
        let command = request.command;
        let (kind, buffer) = match command {
            Command::BlockStatus { range, only_one } => {
                return self.block_status(connection, command, range, only_one, reply);
            }
            Command::Read { range, .. } => {
                let buffer = self.pool.take(range.len_bytes() as usize);
                (self.read_kind(connection, bytes(range)), Some(buffer))
            }
            Command::Write { range, fua } => (RequestKind::Write { range: bytes(range), fua }, payload),
            Command::Flush => (RequestKind::Flush, None),
            Command::Trim { range, fua } => (RequestKind::Trim { range: bytes(range), fua }, None),
            Command::Cache { range } => (RequestKind::Cache { range: bytes(range) }, None),
            Command::WriteZeroes { range, fua, no_hole, .. } => {
                (RequestKind::WriteZeroes { range: bytes(range), fua, no_hole }, None)
            }
            Command::Disconnect => unreachable!("a disconnect is the connection's own affair"),
        };
        self.submit(kind, buffer, Origin::Nbd { connection, command, reply });
    }

    pub(super) fn submit(&mut self, kind: RequestKind, buffer: Option<Buffer>, origin: Origin) {
        let id = self.next_id;
        self.next_id += 1;
        self.note_request(&kind);
        let came = self.arrival(&origin, kind);
        self.requests.insert(id, Asked { kind, origin, buffer, came });
        self.feed(Event::Request { id: RequestId(id), kind });
    }

    /// The engine is done with a request.
    pub(super) fn reply(&mut self, request: RequestId, result: Result<(), Errno>) {
        let Asked { origin, buffer, kind: _, came } =
            self.requests.remove(&request.0).expect("the engine replies once to each request");
        came.into_iter().for_each(|came| self.latency.answered(came));
        match origin {
            Origin::Agent(flush) => self.flushed(&flush, result),
            Origin::Mail(mail) => self.reply_by_mail(mail, buffer, result),
            Origin::Nbd { connection, command, reply } => {
                self.reply_by_nbd(request, connection, command, reply, buffer, result);
            }
        }
    }

    fn reply_by_nbd(
        &mut self,
        request: RequestId,
        id: u64,
        command: Command,
        reply: Reply,
        buffer: Option<Buffer>,
        result: Result<(), Errno>,
    ) {
        let Some((_, connection)) = self.connections.get_mut(&id) else { return };
        self.lately_answered.push(id);
        if let Err(errno) = result {
            let errno = ferry_nbd::Errno::from_linux(errno.0);
            connection.answer(&command, |out| reply.error(errno, "", out), None);
        } else {
            match command {
                Command::Read { range, .. } => {
                    connection.answer(&command, |out| reply.data(range, Part::Last, out), buffer.as_ref());
                    let just_read = |buffer| JustRead { request, connection: id, range, buffer };
                    self.just_read = buffer.map(just_read);
                }
                Command::BlockStatus { range, only_one } => {
                    let crc = buffer.map(|buffer| self.checksum(id, request, range.offset(), &buffer));
                    self.answer_status(id, &command, range, only_one, reply, crc);
                }
                Command::Write { .. }
                | Command::Disconnect
                | Command::Flush
                | Command::Trim { .. }
                | Command::Cache { .. }
                | Command::WriteZeroes { .. } => connection.answer(&command, |out| reply.done(out), None),
            }
        }
    }

    /// Block status is known at once, but a checksum must read the bytes first: unless they have just been read, as
    /// another worker asks for them.
    fn block_status(
        &mut self,
        id: u64,
        command: Command,
        range: ferry_nbd::ByteRange,
        only_one: bool,
        reply: Reply,
    ) {
        if !self.negotiated(id).is_some_and(|n| n.contexts.iter().any(|c| c.name == CONTEXT_CRC32C)) {
            return self.answer_status(id, &command, range, only_one, reply, None);
        }
        let len = range.len_bytes().min(BUFFER_BYTES_MAX as u64);
        let first = ByteRange::new(range.offset(), len).expect("a request's range is not empty");
        if let Some(read) = self.just_read.take_if(|read| read.connection == id && bytes(read.range) == first)
        {
            let crc = self.checksum(id, read.request, first.offset(), &read.buffer);
            return self.answer_status(id, &command, range, only_one, reply, Some(crc));
        }
        let buffer = Some(self.pool.take(len as usize));
        self.submit(self.read_kind(id, first), buffer, Origin::Nbd { connection: id, command, reply });
    }

    /// A read of the volume, or of the snapshot that the connection is for.
    fn read_kind(&self, connection: u64, range: ByteRange) -> RequestKind {
        match self.snapshot_read_by(connection) {
            Some(snapshot) => RequestKind::ReadSnapshot { snapshot, range },
            None => RequestKind::Read { range },
        }
    }

    /// The checksum of what a request read from `offset` on, and of how many bytes it is.
    fn checksum(
        &mut self,
        connection: u64,
        request: RequestId,
        offset: u64,
        buffer: &Buffer,
    ) -> (u32, usize) {
        let crc = buffer.with_bytes(0, buffer.len(), crc32c::crc32c);
        // A snapshot is not what was sealed.
        if self.snapshot_read_by(connection).is_none() {
            self.remember_sum(request, offset, buffer, crc);
        }
        (crc, buffer.len())
    }

    fn negotiated(&self, id: u64) -> Option<&Negotiated> {
        self.connections.get(&id).and_then(|(_, connection)| connection.negotiated())
    }

    fn contexts(&self, id: u64) -> Vec<Context> {
        self.negotiated(id).map(|n| n.contexts.clone()).unwrap_or_default()
    }

    fn answer_status(
        &mut self,
        id: u64,
        command: &Command,
        range: ferry_nbd::ByteRange,
        only_one: bool,
        reply: Reply,
        crc: Option<(u32, usize)>,
    ) {
        let contexts = self.contexts(id);
        let mut chunks = Vec::new();
        for context in &contexts {
            match (context.name.as_str(), crc) {
                (CONTEXT_ALLOCATION, _) => {
                    let limit = if only_one { 1 } else { EXTENTS_PER_REPLY_SENT_MAX };
                    let extents = self.allocation(id, bytes(range), limit);
                    // None: the snapshot that it reads is gone.
                    chunks.extend((!extents.is_empty()).then_some((context.id, extents)));
                }
                (CONTEXT_HEAT, _) => {
                    let limit = if only_one { 1 } else { EXTENTS_PER_REPLY_SENT_MAX };
                    chunks.push((context.id, heat::extents(self.engine.heat(), bytes(range), limit)));
                }
                (CONTEXT_CRC32C, Some((crc, len))) => {
                    chunks.push((context.id, vec![Extent { len_bytes: len as u64, flags: u64::from(crc) }]));
                }
                (name, _) => {
                    let limit = if only_one { 1 } else { EXTENTS_PER_REPLY_SENT_MAX };
                    let changes = self.changes(name, bytes(range), limit);
                    chunks.extend(changes.map(|extents| (context.id, extents)));
                }
            }
        }
        let Some((_, connection)) = self.connections.get_mut(&id) else { return };
        let last = chunks.len().saturating_sub(1);
        let write = |out: &mut Vec<u8>| {
            for (at, (context, extents)) in chunks.iter().enumerate() {
                let part = if at == last { Part::Last } else { Part::More };
                reply.block_status(*context, extents, part, out);
            }
            if chunks.is_empty() {
                reply.error(ferry_nbd::Errno::Invalid, "nothing is known of that", out);
            }
        };
        connection.answer(command, write, None);
        self.lately_answered.push(id);
    }

    /// The parts of a range as a connection reads it, each with the file it is in; none for what is still remote.
    fn files_of(
        &self,
        connection: u64,
        range: ByteRange,
    ) -> Box<dyn Iterator<Item = (ByteRange, Option<&Descriptor>)> + '_> {
        let Some(id) = self.snapshot_read_by(connection) else {
            return Box::new(self.engine.truth(range).map(|(part, residence)| match residence {
                Residence::Local => (part, Some(&self.store.data)),
                Residence::Remote => (part, None),
            }));
        };
        let parts = self.engine.snapshot(id, range).into_iter().flatten();
        Box::new(parts.map(move |(part, keeping)| match keeping {
            Keeping::Shared => (part, Some(&self.store.data)),
            Keeping::Kept => (part, self.sides.get(&id)),
            Keeping::Remote => (part, None),
        }))
    }

    /// Which parts of a range are holes. What is still remote counts as data: only the source knows.
    fn allocation(&self, connection: u64, range: ByteRange, limit: usize) -> Vec<Extent> {
        let hole = u64::from(STATE_HOLE | STATE_ZERO);
        let mut extents: Vec<Extent> = Vec::new();
        let mut add = |len_bytes: u64, flags: u64| match extents.last_mut() {
            Some(last) if last.flags == flags => last.len_bytes += len_bytes,
            Some(_) | None => extents.push(Extent { len_bytes, flags }),
        };
        let mut pieces = 0;
        for (piece, file) in self.files_of(connection, range) {
            if pieces > limit {
                break;
            }
            let look = |file: &Descriptor| file_extents(&**file, piece.offset(), piece.end(), limit + 1).ok();
            let Some(found) = file.and_then(look) else {
                add(piece.len_bytes(), 0);
                pieces += 1;
                continue;
            };
            for extent in &found {
                add(extent.end - extent.start, if extent.data { 0 } else { hole });
            }
            pieces += found.len();
            // The file had more stretches than were asked for: what follows is not known to be adjacent.
            if found.last().is_some_and(|extent| extent.end < piece.end()) {
                break;
            }
        }
        extents.truncate(limit);
        extents
    }

    /// Drops the connections that came through a door.
    pub(super) fn close_connections(&mut self, through: Door) {
        self.close_those(|(door, _)| *door == through);
    }

    /// Drops those connections.
    pub(super) fn close_those(&mut self, are: impl Fn(&(Door, Connection)) -> bool) {
        let ids: Vec<u64> =
            self.connections.iter().filter(|(_, connection)| are(connection)).map(|(&id, _)| id).collect();
        for id in ids {
            self.with_connection(id, Connection::close);
        }
    }
}

/// A range of the protocol as one of the engine's.
pub(super) fn bytes(range: ferry_nbd::ByteRange) -> ByteRange {
    ByteRange::new(range.offset(), range.len_bytes()).expect("a range is not empty")
}
