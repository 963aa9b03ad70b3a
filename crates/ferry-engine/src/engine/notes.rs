//! Noting what the map does not know yet, so that a server that is killed loses nothing that was answered.
//!
//! ```text
//!  guest's write done ─▶ in the map? ──────────────────────────────────▶ Reply
//!                            └── no: noted? ───────────────────────────▶ Reply
//!                                    └── no: Note ─▶ noted ────────────▶ Reply
//!                                              └── failed: as if durable: commit ─▶ Reply
//! ```
//!
//! Until the next commit only this process knows that a block which a guest's write made local is local. The store keeps
//! the bytes when the process is killed, as the page cache does; the note keeps the knowledge just as long, and needs no
//! sync: a host that loses power may lose both. What was copied in and not written is not noted, since the source has it.
//! Invariant: a block of which a write was answered is in the map or noted, unless a sync has failed: then what the map
//! does not know cannot be trusted, and no note is.
//! A read of a block that is in neither waits from the moment when a write's bytes may be in the store, on a full disk
//! until there is room again: else a server that is killed would take back what a guest has read.

use crate::event::{Errno, RequestId};
use crate::geometry::Blocks;
use crate::operation::Operation;

use super::{Engine, Op, reply};

impl Engine {
    /// What is noted and not in the map, in order: other notes are needed no more.
    pub fn noted(&self) -> impl Iterator<Item = Blocks> + '_ {
        self.durability.noted.runs()
    }

    /// The engine before this one had these blocks noted, and the store kept all that it was given since. Comes before
    /// [`Engine::store_may_hold_anything`] and any event.
    pub fn take_up_note(&mut self, blocks: Blocks) {
        for run in self.truth.remote_runs(blocks).collect::<Vec<_>>() {
            self.became_local(run);
            self.durability.guest_wrote(run);
            self.durability.noted.insert(run);
        }
    }

    /// Answers a write when all its blocks are noted; some are not in the map.
    pub(super) fn note_and_reply(&mut self, request: RequestId, blocks: Blocks, out: &mut Vec<Operation>) {
        let durability = &self.durability;
        let is_noted = durability.unpersisted(blocks).all(|part| durability.noted.gaps(part).is_empty());
        if is_noted || durability.failed().is_some() {
            return reply(request, Ok(()), out);
        }
        // Until it is answered nobody may be told that the volume is sealed.
        self.writes_in_flight += 1;
        let op = self.ops.insert(Op::Note { request, blocks });
        out.push(Operation::Note { op, blocks });
    }

    pub(super) fn note_ended(
        &mut self,
        request: RequestId,
        blocks: Blocks,
        result: Result<(), Errno>,
        out: &mut Vec<Operation>,
    ) {
        self.writes_in_flight -= 1;
        if result.is_err() {
            return self.start_flush(request, out);
        }
        // The map may have been told meanwhile.
        for part in self.durability.unpersisted(blocks).collect::<Vec<_>>() {
            self.durability.noted.insert(part);
        }
        self.became_known(blocks);
        reply(request, Ok(()), out);
    }
}
