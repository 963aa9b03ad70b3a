//! A request in flight: what was asked, and what of it has been answered.
//!
//! Invariant: the pieces of a read are disjoint, inside its range, and not adjacent (adjacent ones are joined), so
//! that "answered wholly" is one piece equal to the range.

use super::reply::Failure;
use crate::command::{ByteRange, Command};
use crate::error::ProtocolError;
use crate::limits::READ_PIECES_MAX;
use std::collections::BTreeMap;

/// One request in flight.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) command: Command,
    /// The first error chunk.
    failure: Option<Failure>,
    /// Contexts that were answered.
    contexts: Vec<u32>,
    /// Answered bytes of a read: start to end.
    pieces: BTreeMap<u64, u64>,
}

impl Pending {
    pub(super) fn new(command: Command) -> Pending {
        Pending { command, failure: None, contexts: Vec::new(), pieces: BTreeMap::new() }
    }

    /// The range of a read.
    pub(super) fn read_range(&self) -> Option<ByteRange> {
        match self.command {
            Command::Read { range, .. } => Some(range),
            Command::Write { .. }
            | Command::Disconnect
            | Command::Flush
            | Command::Trim { .. }
            | Command::Cache { .. }
            | Command::WriteZeroes { .. }
            | Command::BlockStatus { .. } => None,
        }
    }

    /// Notes an error; the first one counts.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    /// Marks bytes of a read as answered. Refuses bytes that were not asked or were answered before.
    pub(super) fn claim(&mut self, offset: u64, len_bytes: u64) -> Result<ByteRange, ProtocolError> {
        let outside = ProtocolError::ChunkOutside { offset, len_bytes };
        let asked = self.read_range().ok_or(ProtocolError::UnexpectedReply("data for what is no read"))?;
        let piece = ByteRange::new(offset, len_bytes).ok_or(outside.clone())?;
        if !asked.contains(piece) {
            return Err(outside);
        }
        let (mut start, mut end) = (piece.offset(), piece.end());
        if let Some((&before_start, &before_end)) = self.pieces.range(..end).next_back() {
            if before_end > start {
                return Err(outside);
            }
            if before_end == start {
                start = before_start;
            }
        }
        if let Some(after_end) = self.pieces.remove(&end) {
            end = after_end;
        }
        self.pieces.insert(start, end);
        if self.pieces.len() > READ_PIECES_MAX {
            return Err(ProtocolError::TooManyPieces(READ_PIECES_MAX));
        }
        Ok(piece)
    }

    /// Marks a context as answered. Refuses a second answer.
    pub(super) fn claim_context(&mut self, id: u32) -> Result<(), ProtocolError> {
        if self.contexts.contains(&id) {
            return Err(ProtocolError::UnexpectedReply("a context's block status twice"));
        }
        self.contexts.push(id);
        Ok(())
    }

    /// How the request ended, now that the server says that it has.
    pub(super) fn finish(self) -> Result<Result<(), Failure>, ProtocolError> {
        if let Some(failure) = self.failure {
            return Ok(Err(failure));
        }
        if let Some(asked) = self.read_range() {
            let answered_bytes = self.pieces.iter().map(|(start, end)| end - start).sum();
            if answered_bytes != asked.len_bytes() {
                return Err(ProtocolError::ShortRead { asked_bytes: asked.len_bytes(), answered_bytes });
            }
        }
        Ok(Ok(()))
    }
}
