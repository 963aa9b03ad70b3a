//! The control socket of a volume server: how an agent talks to it.
//!
//! One JSON object a line, one answer a request, over the unix socket `control.sock` in the volume's directory.
//! Requests are few and small; bytes of the volume never travel here. The socket is only reachable for the user
//! that runs the agent (mode 0600).

mod base;
mod checks;
mod client;
mod loss;
mod marks;
mod precopy;

pub use base::BaseStatus;
pub use checks::{Check, CheckState, DIFFERING_MAX, Mismatch, Receipt, RootState};
pub use client::{Client, ControlError, Courier};
pub use loss::{BAD_RANGES_LISTED_MAX, BadRanges, LOSSES_LISTED_MAX, LossPolicy, Losses, Span, StandIn};
pub use marks::MarkStatus;
pub use precopy::{Adopted, PrecopyStatus};

use crate::base::Base;
use crate::frontend::{Frontend, FrontendKind, FrontendStatus};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;

/// Longest request line a server accepts, in bytes.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// What an agent may ask of a volume server. Every request but [`Request::Mark`] is idempotent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Tell how things stand.
    Status,
    /// Serve the guest from now on (durable). Refused for a sealed volume.
    Open,
    /// Make everything durable that was written so far: what is flushed now need not be when a seal is waited for.
    Flush,
    /// Refuse writes for good, make everything durable, keep serving reads. Answered when it is on disk.
    Seal,
    /// Take a seal back: only the undo of a move that was not handed over may do this.
    Unseal,
    /// Listen for other workers on `listen` (port 0: any free one, kept over restarts when possible).
    Export {
        /// Address to listen on.
        listen: SocketAddr,
        /// Also under `ULID@GENERATION+live` while the guest writes, until asked without or started again.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        live: bool,
    },
    /// Show other workers the certificates in this directory and answer none without TLS from now on, until the next start, which is
    /// told itself; connections without are dropped. Done, too, if a server has certificates.
    Certify {
        /// As `--tls` names it.
        dir: PathBuf,
    },
    /// Let one more read over TLS (durable, until withdrawn): once somebody is named, nobody else may.
    Admit {
        /// Who: the URI that its certificate names.
        reader: String,
    },
    /// Let it read no more (durable), and drop its connections. Done, too, if it was not admitted.
    Expel {
        /// Who, as it was admitted.
        reader: String,
    },
    /// Stop listening for other workers, drop their connections, and forget who was admitted.
    Withdraw,
    /// Read what is not local from here from now on (durable).
    SetSource {
        /// A source URI, see [`crate::SourceUri`].
        uri: String,
    },
    /// Read from here, too, when those that come before it are away or cannot give something (durable).
    AddSource {
        /// A source URI: of the same volume and generation as the source, or one that others vouch for.
        uri: String,
    },
    /// Read from here no more (durable). Refused for the source itself; done, too, if it is none.
    RemoveSource {
        /// The URI as it was added.
        uri: String,
    },
    /// Read from here what the source does not differ in from what it was made from (durable). The source is asked for the
    /// rest, and for all when the base is away, fails, or the source cannot tell.
    SetBase {
        /// None (`null`, never left out): from the source only.
        #[serde(deserialize_with = "Option::deserialize")]
        base: Option<Base>,
    },
    /// Forget the source (durable). Refused while blocks are still remote.
    DetachSource,
    /// Give up the source for good (durable): what only it has reads as zeroes from then on.
    AbandonSource {
        /// What that costs, as the server told it. None: tell it, and change nothing.
        lose_bytes: Option<u64>,
        /// Also while the source is connected.
        #[serde(default)]
        force: bool,
    },
    /// What becomes of guest requests that wait for a source that is away, over restarts, too (durable).
    SetLossPolicy {
        /// From now on.
        policy: LossPolicy,
    },
    /// Fetch only what the guest needs, until resumed or restarted.
    PauseHydration,
    /// Fetch in the background again, unless it is held.
    ResumeHydration,
    /// Fetch only what is read, until told otherwise, unsealed or restarted: an agent's wish beside that of a person who
    /// pauses, for a sealed copy whose reader has a base for what the copy lacks.
    HoldHydration {
        /// Whether it is held.
        held: bool,
    },
    /// Fetch at most so much in the background from now on, over restarts, too (durable). What the guest needs is
    /// never held back, but counts.
    SetBudget {
        /// None (`null`, never left out): as much as goes.
        #[serde(deserialize_with = "Option::deserialize")]
        bytes_per_s: Option<NonZeroU64>,
    },
    /// This volume's share of a budget that it has together with others: fetch at most so much in the background, beside
    /// what its own budget says. Not remembered, and dropped when nobody repeats it for a minute: it must not outlive
    /// the agent that divides.
    SetShare {
        /// None (`null`, never left out): no share.
        #[serde(deserialize_with = "Option::deserialize")]
        bytes_per_s: Option<NonZeroU64>,
    },
    /// Take the volume as it is now, for readers, while its guest writes on. What is not local yet is still fetched
    /// from the source, which is needed until the snapshot, too, has all of that. Not durable: a snapshot ends with its
    /// server, and an id is never used for another.
    Snapshot {
        /// Its name from then on, a ULID: the export is `VOLUME@GENERATION~ID`.
        id: String,
    },
    /// Keep nothing for this snapshot any more, and drop its readers.
    ForgetSnapshot {
        /// Its name.
        id: String,
    },
    /// Be larger from now on; the new bytes are zero (durable). Refused unless the volume is open; never shrinks.
    /// Whoever connects from then on sees the new size.
    Grow {
        /// The size in bytes, a multiple of 512.
        size_bytes: u64,
    },
    /// Copy what a source whose guest still writes holds, while this volume stands by; see the status for how far it is. Ended
    /// with the server, or when the volume is opened before it was adopted.
    Precopy {
        /// The live export (`ULID@GENERATION+live`).
        uri: String,
        /// The mark that was set there for this round.
        mark: u64,
        /// Copy what has changed since this mark, which is what is held; none: everything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<u64>,
    },
    /// The source is sealed: keep what it says not to have changed since the mark (durable).
    Adopt {
        /// The sealed export.
        uri: String,
        /// The mark of the last round.
        since: u64,
    },
    /// Set a mark (durable): from now on it is known what may have changed since, also over a crash. In any phase; a
    /// seal keeps it. Each sets a new one: whoever got no answer looks in the status and forgets what is too many.
    Mark,
    /// Forget a mark (durable). Done, too, if it is not kept.
    ForgetMark {
        /// Its id.
        mark: u64,
    },
    /// Attach a frontend, and again after each restart (durable). Answered when the guest can use it.
    Attach {
        /// Which, and how.
        frontend: Frontend,
    },
    /// Take a frontend away from the guest and forget it (durable). Answered when it is gone.
    Detach {
        /// Which.
        frontend: FrontendKind,
    },
    /// Hydration shall be complete at this time (durable): the guard lets through what that takes, a budget is kept all
    /// the same. Refused when it cannot be met as things stand.
    SetFinishBy {
        /// In milliseconds since 1970; none (`null`, never left out): whenever it comes to be.
        #[serde(deserialize_with = "Option::deserialize")]
        at_ms: Option<u64>,
    },
    /// Hold the background back from now on, over restarts, too (durable), while 99 of 100 requests of the guest take
    /// longer than this.
    SetGuard {
        /// In microseconds; none (`null`, never left out): no guard.
        #[serde(deserialize_with = "Option::deserialize")]
        bound_us: Option<NonZeroU64>,
    },
    /// Tell the root checksum of the volume as it was sealed at a generation: this copy's own, or the one that its bytes
    /// came from. The first time it may have to be computed; ask again.
    Receipt {
        /// The generation that was sealed.
        of_generation: u64,
        /// Of the regions from this one on.
        #[serde(default)]
        first_region: u64,
        /// Of so many; none: of all that follow.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        regions: Option<u64>,
    },
    /// Tell how the last check of the store ended, or how far it is.
    Verify {
        /// Begin another one, unless one is under way.
        anew: bool,
    },
    /// Detach what is attached until the next start, make everything durable and end the process.
    Shutdown,
}

/// What a volume server answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// Done; nothing to tell.
    Done,
    /// Answer to [`Request::Status`].
    Status(Box<Status>),
    /// Answer to [`Request::Export`]: where the server listens.
    Exported {
        /// The bound address.
        listen: SocketAddr,
    },
    /// Answer to [`Request::Attach`]: where the guest finds the frontend.
    Attached {
        /// A block device or a socket.
        address: PathBuf,
    },
    /// Answer to [`Request::Receipt`].
    Receipt(Box<Receipt>),
    /// Answer to [`Request::Verify`].
    Check(Box<Check>),
    /// Answer to [`Request::AbandonSource`] without a figure: nothing has changed.
    Losing(Losses),
    /// Answer to [`Request::Adopt`].
    Adopted(Adopted),
    /// Answer to [`Request::Mark`].
    Marked {
        /// The mark's id.
        mark: u64,
    },
    /// Not done, and why, in one sentence.
    Refused {
        /// What was wrong and what to do.
        reason: String,
    },
}

/// Whether a volume serves its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Prepared, owned by nobody yet: serves no one and fetches nothing.
    Standby,
    /// Serves its guest.
    Open,
    /// Unchangeable at its generation; may be exported to other workers.
    Sealed,
}

/// How a volume stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Process id of the volume server.
    pub pid: u32,
    /// The volume's id.
    pub id: String,
    /// The generation this copy belongs to.
    pub generation: u64,
    /// Size of the volume, in bytes.
    pub size_bytes: u64,
    /// Whether it serves its guest.
    pub phase: Phase,
    /// Where remote blocks come from; none for a volume that never had or no longer needs a source.
    pub source: Option<SourceStatus>,
    /// Where other workers can read this volume, when it is exported.
    pub export: Option<SocketAddr>,
    /// Whether other workers are asked for a certificate, and shown one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secured: bool,
    /// The NBD socket for the guest.
    pub guest_socket: PathBuf,
    /// Connections to the guest socket, and guests of other frontends.
    pub guests: u32,
    /// Connections from other workers.
    pub readers: u32,
    /// How far the clone is.
    pub hydration: Hydration,
    /// The most that the background shall fetch a second, as it was set; none: no budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_bytes_per_s: Option<NonZeroU64>,
    /// Its share of the worker's budget: what it may fetch a second as long as others hydrate, too. The smaller one of
    /// both holds. None without a share, and once the volume is whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_bytes_per_s: Option<NonZeroU64>,
    /// The frontends that were attached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frontends: Vec<FrontendStatus>,
    /// What 99 of 100 requests of the guest may take before the background backs off, in microseconds; none: no guard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard_us: Option<NonZeroU64>,
    /// The most that the guard lets the background fetch a second now; none while it does not hold it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard_bytes_per_s: Option<u64>,
    /// What 99 of 100 requests of the guest took at most lately, in microseconds, without those that had to wait for
    /// the source; none as long as it asks for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_p99_us: Option<u64>,
    /// What the source has given with a wrong checksum again and again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mismatches: Vec<Mismatch>,
    /// What becomes of guest requests that wait for a source that is away.
    #[serde(default)]
    pub loss_policy: LossPolicy,
    /// What is kept for readers as it was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<SnapshotStatus>,
    /// When hydration shall be complete, in milliseconds since 1970; none: whenever it comes to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_by_ms: Option<u64>,
    /// When it will be complete if what is known to come goes on as lately, in milliseconds since 1970; none while nothing
    /// crosses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_end_ms: Option<u64>,
    /// The marks that are kept, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<MarkStatus>,
    /// The generation of the copy that this one was made from, while it is known in what they may differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born_from: Option<u64>,
    /// Bytes in which they may differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_changed: Option<u64>,
    /// What is read where the source does not differ from it, if there is such a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseStatus>,
    /// What was copied of a source whose guest still writes, until it is adopted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precopy: Option<PrecopyStatus>,
    /// An agent holds hydration: only what is read is fetched.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hydration_held: bool,
    /// What the server cannot write on its disk; none while all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_trouble: Option<DiskTrouble>,
    /// The store failed to make data durable: writes fail until the server is restarted.
    pub store_failed: bool,
    /// Bytes the store occupies on its filesystem.
    pub store_bytes_allocated: u64,
}

/// What a server cannot write on its disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum DiskTrouble {
    /// Its file system takes no writes any more. Reads go on, writes and flushes fail, and a volume that is whole can be sealed as it is.
    ReadOnly,
    /// The map could not be appended to the last time, which is tried again: what has arrived or was written since the last time
    /// that it could is not in it, and flushes of such writes fail.
    MapUnwritten {
        /// What the system said.
        why: String,
    },
}

/// A snapshot of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// Its name (a ULID).
    pub id: String,
    /// Size of the volume when it was taken, in bytes.
    pub size_bytes: u64,
    /// Bytes that its side file occupies.
    pub bytes_kept: u64,
    /// Bytes that only the volume's source still has, and that the guest has overwritten here.
    #[serde(default)]
    pub bytes_owed: u64,
    /// Connections that read it.
    pub readers: u32,
}

/// How the link to the source stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// The source URI.
    pub uri: String,
    /// Whether the server is connected to it now.
    pub connected: bool,
    /// The last thing that went wrong with it, if anything did since the last connection.
    pub last_error: Option<String>,
    /// It was a snapshot, which has ended before this clone of it was whole, and will not come back.
    #[serde(default)]
    pub is_gone: bool,
    /// What it cannot give.
    #[serde(default)]
    pub bad: BadRanges,
    /// For how long it has answered nothing, in milliseconds; none while it is there.
    #[serde(default)]
    pub away_ms: Option<u64>,
    /// Guest requests that wait for it.
    #[serde(default)]
    pub requests_waiting: u64,
    /// The longest time in the last 10 to 20 seconds in which it has sent nothing although it was asked, in milliseconds; none if
    /// that was not long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_ms: Option<u64>,
    /// Those that stand in for it, in order; what is told of absence is true when all of them are away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<StandIn>,
}

/// How far a clone has become local. Counters begin at zero with each start of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hydration {
    /// Nothing is remote, and the map on disk says so.
    pub complete: bool,
    /// Size of the volume, in bytes.
    pub bytes_total: u64,
    /// Bytes that are local (fetched, written by the guest, or known zero).
    pub bytes_local: u64,
    /// Bytes that are still remote. What the source knows to be zero leaves this number soon after connecting.
    pub bytes_remote: u64,
    /// Bytes that crossed from the source.
    pub bytes_fetched: u64,
    /// Bytes that came from the base instead.
    #[serde(default)]
    pub bytes_from_base: u64,
    /// Bytes that never crossed because the source knows them to be zero.
    pub bytes_zero: u64,
    /// Bytes that became local because the guest wrote, trimmed or zeroed them.
    pub bytes_written_by_guest: u64,
    /// Fetched bytes whose checksum was compared with the source's.
    pub bytes_verified: u64,
    /// Bytes that the source has failed to give so far (tried again from time to time).
    pub bytes_sick: u64,
    /// Bytes that were asked for before a guest that reads in sequence wanted them.
    #[serde(default)]
    pub bytes_read_ahead: u64,
    /// Ranges that the source's guest touched often, and that come before the rest.
    #[serde(default)]
    pub hot_ranges: u64,
    /// Bytes that nobody has any more, because the source was given up: they read as zeroes unless the guest wrote them
    /// since.
    #[serde(default)]
    pub bytes_abandoned: u64,
    /// Guest reads that had to wait for the source.
    pub cold_reads: u64,
    /// Fetches that failed (each is retried).
    pub fetch_errors: u64,
    /// Fetches whose checksum differed from the source's (each is fetched again).
    pub checksum_errors: u64,
    /// Bytes a second that arrived lately.
    pub rate_bytes_per_s: u64,
}

impl Phase {
    pub(crate) fn to_map(self) -> ferry_engine::Phase {
        match self {
            Self::Standby => ferry_engine::Phase::Standby,
            Self::Open => ferry_engine::Phase::Open,
            Self::Sealed => ferry_engine::Phase::Sealed,
        }
    }

    /// A phase of the engine, in the words of the control socket.
    #[must_use]
    pub fn of_map(phase: ferry_engine::Phase) -> Self {
        match phase {
            ferry_engine::Phase::Standby => Self::Standby,
            ferry_engine::Phase::Open => Self::Open,
            ferry_engine::Phase::Sealed => Self::Sealed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_taken_away_only_by_saying_so() {
        let read = |line: &str| serde_json::from_str::<Request>(line).ok();
        let none = r#"{"ask":"set_budget","bytes_per_s":null}"#;
        assert_eq!(read(none), Some(Request::SetBudget { bytes_per_s: None }));
        let some = r#"{"ask":"set_budget","bytes_per_s":7}"#;
        assert_eq!(read(some), Some(Request::SetBudget { bytes_per_s: NonZeroU64::new(7) }));
        for vague in [
            r#"{"ask":"set_budget"}"#,
            r#"{"ask":"set_budget","bytes_per_s":0}"#,
            r#"{"ask":"set_guard"}"#,
            r#"{"ask":"set_share"}"#,
        ] {
            assert_eq!(read(vague), None, "{vague}");
        }
    }
}
