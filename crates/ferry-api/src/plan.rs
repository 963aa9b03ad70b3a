//! What a move would do if it were begun now.

use crate::{MachineName, MoveMode, WorkerName};
use serde::{Deserialize, Serialize};

/// What a move would do. Nothing is changed to find out, and nothing is promised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovePlan {
    /// The machine.
    pub machine_name: MachineName,
    /// Where it is.
    pub from: WorkerName,
    /// Where it would go.
    pub to: WorkerName,
    /// Cold or warm.
    pub mode: MoveMode,
    /// Why it would be that, in one sentence.
    pub why: String,
    /// Why it would be refused now, each in one sentence; none: it would be taken on.
    pub blockers: Vec<String>,
    /// Bytes that its volumes have in use here: what the target needs room for, and the most that crosses.
    pub bytes_in_use: u64,
    /// Bytes of them that cross before the machine stops, without what it writes again meanwhile.
    pub bytes_ahead: u64,
    /// Rounds that its last warm move from here took; none if there was none.
    pub rounds: Option<u64>,
    /// How long it would be down.
    pub interruption: Expected,
}

/// What a move adds to a machine's own stop and start at most, in milliseconds, as ARCHITECTURE.md promises and `cargo xtask bench --what
/// interruption` measures.
pub const ADDED_MS_MAX: u64 = 100;

/// How long each part of an interruption is expected to take, in milliseconds: medians of what was, none where nothing was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Until it has stopped; it is not down yet. By its own stops.
    pub stop_ms: Option<u64>,
    /// Its volumes become unchangeable. By its own moves, else by those of others.
    pub seal_ms: Option<u64>,
    /// The target hears that it owns machine and volumes. By its own moves, else by those of others.
    pub hand_over_ms: Option<u64>,
    /// Until its first process runs there. By its own moves, else by its last start where it is.
    pub start_ms: Option<u64>,
    /// How long it is down at most by what is promised, where nothing was moved from its worker that could have been measured: its start and
    /// [`ADDED_MS_MAX`]. None where that is known better, or nobody has seen it start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promised_ms: Option<u64>,
    /// So many of its own moves from this worker were looked at.
    pub own_moves: u64,
}

impl Expected {
    /// How long it is expected to be down, in milliseconds; none where a part is not known.
    #[must_use]
    pub fn down_ms(&self) -> Option<u64> {
        Some(self.seal_ms? + self.hand_over_ms? + self.start_ms?)
    }
}
