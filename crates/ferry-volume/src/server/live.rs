//! The export of a volume whose guest still writes, and what has changed of it since a mark.
//!
//! It has a name of its own, so that nobody takes what may still change for what was sealed, and it is there only while an
//! agent asks for it: a server that starts again has it no more. Checksums are not offered with it: a read and its
//! checksum are two requests, between which the guest may write. What came over it is held against the receipt of the
//! sealed volume in the end.

use super::Server;
use super::doors::Door;
use ferry_engine::{ByteRange, MarkId};
use ferry_nbd::{CONTEXT_BASE, CONTEXT_DIRTY, Extent, STATE_CHANGED};

impl Server {
    /// Offers the live export, or takes it back.
    pub(super) fn offer_live(&mut self, live: bool) {
        let is_over = self.is_live && !live;
        self.is_live = live;
        if is_over {
            self.close_connections(Door::Reader);
        }
    }

    /// What has changed of a range since the mark that the context names, or since the copy was made; none for a context of
    /// another kind.
    pub(super) fn changes(&self, context: &str, range: ByteRange, limit: usize) -> Option<Vec<Extent>> {
        let mark = match context.strip_prefix(CONTEXT_DIRTY) {
            Some(mark) => MarkId(mark.parse().ok()?),
            None => context.strip_prefix(CONTEXT_BASE).map(|_| MarkId::BIRTH)?,
        };
        let extent =
            |len_bytes, changed| Extent { len_bytes, flags: if changed { STATE_CHANGED } else { 0 } };
        // Forgotten since the handshake: then anything may have changed.
        let Some(runs) = self.engine.changed_since(mark, range) else {
            return Some(vec![extent(range.len_bytes(), true)]);
        };
        Some(runs.take(limit).map(|(run, changed)| extent(run.len_bytes(), changed)).collect())
    }
}
