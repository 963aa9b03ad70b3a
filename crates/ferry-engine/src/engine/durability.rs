//! Making things durable: flush, FUA, and telling the map.
//!
//! ```text
//!  written ─▶ unsynced ──┐
//!                        ├─▶ commit: SyncLocal ─▶ Persist (if it must) ─▶ waiters are answered
//!             synced ────┘              └── else: synced, told to the map later
//! ```
//!
//! One commit at a time; whoever comes while it runs shares the next one. Invariant: a block reaches the map only by
//! a commit whose `SyncLocal` was issued after the block's bytes were in the store. A commit must tell the map if the
//! guest has written to a block that the map does not know, or if enough has gathered, or for a command's sake. What the
//! guest is about to change ([`super::dirty`]) is told without a sync, in the next frame, whoever needs that.

use crate::blockset::BlockSet;
use crate::event::{Command, Errno, RequestId};
use crate::geometry::{BLOCK_BYTES, Blocks};
use crate::limits::{BACKGROUND_BACKOFF_MS, backoff_ms};
use crate::map::{MapRecord, Phase};
use crate::operation::{Notice, Operation};

use super::{Engine, Op, reply};

/// What is local but not in the map, and who waits for that.
#[derive(Debug)]
pub(super) struct Durability {
    unsynced: BlockSet,
    synced: BlockSet,
    /// Of all these and those in the commit: what the shell has noted, see [`super::notes`].
    pub(super) noted: BlockSet,
    /// Of all these and those in the commit: what a guest's write is changing or has changed, and is not noted. Nobody
    /// reads them: a server that is killed would take back what it has shown.
    pub(super) unknown: BlockSet,
    blocks_waiting: u64,
    /// The guest wrote to a block that is in neither the map nor the commit that runs.
    guest_dirty: bool,
    waiters: Vec<RequestId>,
    commit: Option<Commit>,
    /// A frame is being appended to the map.
    is_persisting: bool,
    /// Since when something waits to be told to the map.
    since_ms: Option<u64>,
    persist_failures: u32,
    /// Why the map could not be told the last time, until it can be.
    persist_failed: Option<Errno>,
    not_before_ms: u64,
    /// A sync failed: what the store holds beyond the map cannot be trusted any more.
    failed: Option<Errno>,
    /// Sealed without a word to the map, see [`super::as_is`].
    pub(super) sealed_as_is: bool,
}

#[derive(Debug)]
struct Commit {
    blocks: BlockSet,
    waiters: Vec<RequestId>,
    must_persist: bool,
    guest_dirty: bool,
    command: Option<Command>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Syncing,
    /// It waits until the map can be told.
    Synced,
    Persisting,
}

impl Durability {
    pub(super) const fn new() -> Durability {
        Durability {
            unsynced: BlockSet::new(),
            synced: BlockSet::new(),
            noted: BlockSet::new(),
            unknown: BlockSet::new(),
            blocks_waiting: 0,
            guest_dirty: false,
            waiters: Vec::new(),
            commit: None,
            is_persisting: false,
            since_ms: None,
            persist_failures: 0,
            persist_failed: None,
            not_before_ms: 0,
            failed: None,
            sealed_as_is: false,
        }
    }

    pub(super) fn failed(&self) -> Option<Errno> {
        self.failed
    }

    pub(super) fn persist_failed(&self) -> Option<Errno> {
        self.persist_failed
    }

    pub(super) fn blocks_unpersisted(&self) -> u64 {
        let in_commit = self.commit.as_ref().map_or(0, |commit| commit.blocks.block_count());
        self.blocks_waiting + in_commit
    }

    /// Whether a flush or a durable write waits for its answer.
    pub(super) fn somebody_waits(&self) -> bool {
        !self.waiters.is_empty() || self.commit.as_ref().is_some_and(|commit| !commit.waiters.is_empty())
    }

    pub(super) fn is_carrying_out(&self, command: Command) -> bool {
        self.commit.as_ref().is_some_and(|commit| commit.command == Some(command))
    }

    /// These blocks have just become local.
    pub(super) fn add(&mut self, blocks: Blocks, now_ms: u64) {
        self.unsynced.insert(blocks);
        self.blocks_waiting += blocks.count();
        self.since_ms.get_or_insert(now_ms);
    }

    /// The guest's bytes in these blocks may be in the store from now on.
    pub(super) fn guest_writes(&mut self, blocks: Blocks) {
        if self.failed.is_some() {
            return;
        }
        let unnoted = self.unpersisted(blocks).flat_map(|part| self.noted.gaps(part)).collect::<Vec<_>>();
        unnoted.into_iter().for_each(|part| self.unknown.insert(part));
    }

    /// Those of these blocks that nobody may read yet, since only this process knows what is there.
    pub(super) fn unknown(&self, blocks: Blocks) -> impl Iterator<Item = Blocks> {
        self.unknown.within(blocks)
    }

    pub(super) fn has_unknown(&self, blocks: Blocks) -> bool {
        self.unknown.intersects(blocks)
    }

    /// The guest's bytes in these blocks are in the store. Tells whether the map lacks any of them.
    pub(super) fn guest_wrote(&mut self, blocks: Blocks) -> bool {
        let in_commit = self.commit.as_ref().is_some_and(|commit| commit.blocks.intersects(blocks));
        let is_news = in_commit || self.unsynced.intersects(blocks) || self.synced.intersects(blocks);
        self.guest_dirty |= is_news;
        is_news
    }

    /// Those of these blocks that are local but not in the map.
    pub(super) fn unpersisted(&self, blocks: Blocks) -> impl Iterator<Item = Blocks> {
        let in_commit = self.commit.as_ref().map(|commit| &commit.blocks);
        [&self.unsynced, &self.synced].into_iter().chain(in_commit).flat_map(move |set| set.within(blocks))
    }

    fn is_empty(&self) -> bool {
        self.unsynced.is_empty() && self.synced.is_empty()
    }

    /// What was synced is told to the map by a later commit.
    fn put_back(&mut self, blocks: BlockSet, now_ms: u64) {
        if !blocks.is_empty() {
            self.blocks_waiting += blocks.block_count();
            self.since_ms.get_or_insert(now_ms);
            self.synced.absorb(blocks);
        }
    }
}

impl Engine {
    pub(super) fn start_flush(&mut self, id: RequestId, out: &mut Vec<Operation>) {
        if self.durability.failed.is_some() {
            return reply(id, Err(Errno::EIO), out);
        }
        self.durability.waiters.push(id);
    }

    /// Starts a commit if anybody waits for one or enough has gathered.
    pub(super) fn pump_commit(&mut self, out: &mut Vec<Operation>) {
        let command = self.ready_command(out);
        if self.durability.commit.is_some() || self.durability.failed.is_some() {
            return;
        }
        let due = self.persist_is_due();
        if command == Some(Command::Mark) {
            self.begin_mark();
        }
        let durability = &mut self.durability;
        if durability.waiters.is_empty() && command.is_none() && !due {
            return;
        }
        let mut blocks = std::mem::take(&mut durability.synced);
        blocks.absorb(std::mem::take(&mut durability.unsynced));
        durability.blocks_waiting = 0;
        let guest_dirty = std::mem::take(&mut durability.guest_dirty);
        let must_persist = due || guest_dirty || command.is_some();
        if must_persist {
            durability.since_ms = None;
        }
        let waiters = std::mem::take(&mut durability.waiters);
        durability.commit =
            Some(Commit { blocks, waiters, must_persist, guest_dirty, command, stage: Stage::Syncing });
        let op = self.ops.insert(Op::Sync);
        out.push(Operation::SyncLocal { op });
    }

    fn persist_is_due(&self) -> bool {
        let durability = &self.durability;
        if durability.is_empty() || durability.not_before_ms > self.now_ms {
            return false;
        }
        let runs = durability.unsynced.run_count() + durability.synced.run_count();
        self.truth.is_complete()
            || durability.blocks_waiting * BLOCK_BYTES >= self.limits.persist_every_bytes
            || runs >= self.limits.persist_every_runs
            || durability.since_ms.is_some_and(|since| since + self.limits.persist_every_ms <= self.now_ms)
    }

    pub(super) fn synced(&mut self, result: Result<(), Errno>, out: &mut Vec<Operation>) {
        let commit = self.durability.commit.as_mut().expect("a sync belongs to a commit");
        commit.stage = Stage::Synced;
        let has_news = commit.must_persist && (!commit.blocks.is_empty() || commit.command.is_some());
        if let Err(errno) = result {
            return self.store_failed(errno, out);
        }
        if !has_news {
            self.end_commit(Ok(()), out);
        }
    }

    /// Tells the map what a commit has made durable and what the guest is about to change, whichever there is.
    pub(super) fn pump_persist(&mut self, out: &mut Vec<Operation>) {
        if self.durability.is_persisting || self.durability.failed.is_some() {
            return;
        }
        let mut records: Vec<MapRecord> = Vec::new();
        let mut command = None;
        if let Some(commit) = self.durability.commit.as_mut().filter(|commit| commit.stage == Stage::Synced) {
            commit.stage = Stage::Persisting;
            command = commit.command;
            records.extend(commit.blocks.runs().map(MapRecord::Local));
        }
        if command == Some(Command::Mark) {
            records.extend(self.dirty.mark_records());
        }
        records.extend(self.dirty.take_wishes(self.now_ms));
        if command == Some(Command::Unseal) {
            records.extend(self.marks().ending_with_a_seal().map(MapRecord::MarkForgotten));
        }
        // The last one, so that it is never told without the others.
        records.extend(command.and_then(command_record));
        if records.is_empty() {
            return;
        }
        self.durability.is_persisting = true;
        let op = self.ops.insert(Op::Persist);
        out.push(Operation::Persist { op, records });
    }

    pub(super) fn persisted(&mut self, result: Result<(), Errno>, out: &mut Vec<Operation>) {
        self.durability.is_persisting = false;
        self.durability.persist_failed = result.err();
        if let Err(errno) = result {
            out.push(Operation::Notice(Notice::PersistFailed { errno }));
        }
        self.listing_ended(result, out);
        if self.durability.commit.as_ref().is_none_or(|commit| commit.stage != Stage::Persisting) {
            return;
        }
        match result {
            Err(Errno::EROFS) => return self.store_failed(Errno::EROFS, out),
            Ok(()) => {
                self.durability.persist_failures = 0;
                let commit = self.durability.commit.as_mut().expect("a persist belongs to a commit");
                let told = std::mem::take(&mut commit.blocks);
                for run in told.runs() {
                    self.durability.noted.remove(run);
                    self.became_known(run);
                }
            }
            Err(_) => {
                self.durability.persist_failures += 1;
                let pause_ms = backoff_ms(BACKGROUND_BACKOFF_MS, self.durability.persist_failures);
                self.durability.not_before_ms = self.now_ms + pause_ms;
            }
        }
        self.end_commit(result, out);
    }

    /// Blocks that are still in the commit have not been told to the map.
    fn end_commit(&mut self, result: Result<(), Errno>, out: &mut Vec<Operation>) {
        let commit = self.durability.commit.take().expect("only a commit ends");
        self.durability.put_back(commit.blocks, self.now_ms);
        if result.is_err() {
            self.durability.guest_dirty |= commit.guest_dirty;
        }
        // Replies first: when a volume is said to be sealed, no write is left without its answer.
        for request in commit.waiters {
            reply(request, result, out);
        }
        if let Some(command) = commit.command {
            self.command_ended(command, result, out);
        }
    }

    /// After a failed sync the kernel may have dropped what it could not write and forgotten that it did, so a later
    /// sync that succeeds proves nothing. Nothing more is told to the map.
    fn store_failed(&mut self, errno: Errno, out: &mut Vec<Operation>) {
        self.durability.failed = Some(errno);
        // Nobody is told anything more that could be waited for.
        self.durability.unknown = BlockSet::new();
        self.wake = true;
        out.push(Operation::Notice(Notice::StoreFailed { errno }));
        let command = self.durability.commit.as_ref().and_then(|commit| commit.command);
        if command.is_some_and(|command| self.as_is(command).is_some()) {
            // It is still the first to be judged.
            self.durability.commit.iter_mut().for_each(|commit| commit.command = None);
        }
        self.end_commit(Err(errno), out);
        for request in std::mem::take(&mut self.durability.waiters) {
            reply(request, Err(Errno::EIO), out);
        }
        self.refuse_waiting_puts(Errno::EIO, out);
    }

    /// Says once that the source is no longer needed, when the map knows.
    pub(super) fn announce_completion(&mut self, out: &mut Vec<Operation>) {
        let all_told =
            self.durability.is_empty() && self.durability.commit.as_ref().is_none_or(|c| c.blocks.is_empty());
        if !self.complete && !self.lacks_anything() && all_told {
            self.complete = true;
            out.push(Operation::Notice(Notice::HydrationComplete));
        }
    }
}

/// What the map learns from a command.
fn command_record(command: Command) -> Option<MapRecord> {
    match command {
        Command::Open | Command::Unseal => Some(MapRecord::Phase(Phase::Open)),
        Command::Seal => Some(MapRecord::Phase(Phase::Sealed)),
        Command::DetachSource => Some(MapRecord::SourceDetached),
        Command::Grow { size_bytes } => Some(MapRecord::Grown { size_bytes }),
        Command::ForgetMark { mark } => Some(MapRecord::MarkForgotten(mark)),
        // It comes before what has changed since: see `mark_records`.
        Command::Mark => None,
        // Every commit tells what has become local.
        Command::Adopt => None,
        Command::PauseHydration
        | Command::ResumeHydration
        | Command::SetBudget { .. }
        | Command::SetGuard { .. }
        | Command::SetFinishBy { .. }
        | Command::Snapshot { .. }
        | Command::ForgetSnapshot { .. }
        | Command::SetLossPolicy { .. } => None,
        Command::AbandonSource => Some(MapRecord::Abandoned),
    }
}
