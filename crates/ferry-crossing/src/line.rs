//! A move as a line of steps, and what each leaves in the journal for the later ones and for people.
//!
//! Invariant: `HandOver` has no body; its entry, with the change of the records in the same transaction, is the
//! deed. Before it failures unwind, behind it the move only goes forward.

use crate::live::MemoryCopied;
use ferry_api::{
    Arrival, Exit, Expected, Generation, HookRun, Hydration, Judged, LeaseId, LiveFacts, MachineId,
    MachineName, MachineSpec, MoveMode, VolumeBase, VolumeId, VolumeKey, VolumeName, WorkerName,
};
use ferry_fsm::{Backoff, Body, OnFailure, Policy, Step, Undo};
use serde::{Deserialize, Serialize};

/// Attempts at a step before the hand-over, in all: a person who waits for a move wants to know soon.
const ATTEMPTS_MAX: u32 = 3;
/// Attempts to start the machine on the target before a person is asked.
const BOOT_ATTEMPTS_MAX: u32 = 8;
/// Pauses between attempts of steps that wait for somebody else.
const PAUSE: Backoff = Backoff { first_ms: 250, cap_ms: 10_000 };
/// Pauses between attempts while the machine is down.
const PAUSE_WHILE_DOWN: Backoff = Backoff { first_ms: 50, cap_ms: 5_000 };

/// The steps of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveStep {
    /// Everything that can be checked while the machine still runs.
    Plan,
    /// The target sets room aside.
    Reserve,
    /// The target makes clones that stand by; the source listens for it.
    Prepare,
    /// The machine stops.
    Stop,
    /// The volumes become unchangeable.
    Seal,
    /// The deed.
    HandOver,
    /// The target owns machine and volumes and may write.
    Activate,
    /// The machine starts on the target.
    Boot,
    /// The disks follow.
    Hydrate,
    /// What arrived is held against what was sealed.
    Verify,
    /// The source serves nobody any more and keeps its copies for a while.
    Retire,
}

impl Step for MoveStep {
    const NAME: &'static str = "move";
    const VERSION: u16 = 1;
    const LINE: &'static [Self] = &[
        Self::Plan,
        Self::Reserve,
        Self::Prepare,
        Self::Stop,
        Self::Seal,
        Self::HandOver,
        Self::Activate,
        Self::Boot,
        Self::Hydrate,
        Self::Verify,
        Self::Retire,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Plan => "Plan",
            Self::Reserve => "Reserve",
            Self::Prepare => "Prepare",
            Self::Stop => "Stop",
            Self::Seal => "Seal",
            Self::HandOver => "HandOver",
            Self::Activate => "Activate",
            Self::Boot => "Boot",
            Self::Hydrate => "Hydrate",
            Self::Verify => "Verify",
            Self::Retire => "Retire",
        }
    }

    fn policy(self) -> Policy {
        let unwind = OnFailure::Unwind { attempts: ATTEMPTS_MAX };
        let work = |failure, undo, backoff| Policy { body: Body::Work, failure, undo, backoff };
        match self {
            Self::Plan => work(unwind, Undo::Nothing, PAUSE),
            Self::Reserve | Self::Prepare => work(unwind, Undo::Needed, PAUSE),
            Self::Stop | Self::Seal => work(unwind, Undo::Needed, PAUSE_WHILE_DOWN),
            Self::HandOver => Policy {
                body: Body::Deed,
                failure: OnFailure::Unwind { attempts: 1 },
                undo: Undo::Nothing,
                backoff: PAUSE_WHILE_DOWN,
            },
            Self::Activate => work(OnFailure::RetryForever, Undo::Nothing, PAUSE_WHILE_DOWN),
            Self::Boot => {
                work(OnFailure::Park { attempts: BOOT_ATTEMPTS_MAX }, Undo::Nothing, PAUSE_WHILE_DOWN)
            }
            Self::Hydrate | Self::Verify | Self::Retire => {
                work(OnFailure::RetryForever, Undo::Nothing, PAUSE)
            }
        }
    }
}

/// What is asked of a move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveInput {
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub machine_name: MachineName,
    /// The source: the worker on which the job runs.
    pub from: WorkerName,
    /// The target.
    pub to: WorkerName,
    /// How long the source keeps its copies after nobody needs them, in milliseconds.
    pub retention_ms: u64,
    /// What crosses before the machine stops.
    #[serde(default = "MoveMode::unsaid", skip_serializing_if = "MoveMode::is_cold")]
    pub mode: MoveMode,
    /// Whether the target takes the machine back if its health check fails there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undo_unhealthy: bool,
    /// Whether it is the way back of the machine's last move: a cordoned worker takes it all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub way_back: bool,
    /// Whether it passes workers that do not answer and may have a machine of its group that is down for a move.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// Memo of `Plan`: the machine and its volumes as they stood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Generation of the machine on the source.
    pub generation: Generation,
    /// What it runs.
    pub spec: MachineSpec,
    /// When it was created, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// Its disks.
    pub volumes: Vec<PlannedVolume>,
    /// How long it was expected to be down; none if an earlier version planned it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Expected>,
    /// How it runs, for one that moves with its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveFacts>,
}

impl Plan {
    /// The copies on the source.
    pub fn keys(&self) -> Vec<VolumeKey> {
        self.volumes.iter().map(PlannedVolume::key).collect()
    }
}

/// A disk of the machine that moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedVolume {
    /// The volume.
    pub id: VolumeId,
    /// Its name in the machine.
    pub name: VolumeName,
    /// Its generation on the source.
    pub generation: Generation,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Unit of copying in bytes.
    pub region_bytes: u32,
    /// Bytes its store occupies, or will once it is hydrated itself.
    pub bytes_in_use: u64,
    /// Whether its bytes pass by the page cache.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub direct: bool,
    /// The generation that this copy was made from, while it knows exactly what has changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born_from: Option<Generation>,
    /// The worker that this copy still reads that generation from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<WorkerName>,
}

impl PlannedVolume {
    /// The copy on the source.
    pub fn key(&self) -> VolumeKey {
        VolumeKey { id: self.id, generation: self.generation }
    }
}

/// Memo of `Reserve`: what the target has of the volumes already.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    /// In the order of the plan's volumes.
    pub volumes: Vec<ReservedVolume>,
}

/// What there is of a volume beside its copy on the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservedVolume {
    /// The copy on the target.
    pub key: VolumeKey,
    /// What the target reads that the source says has not changed since; none: all that is in use crosses.
    pub base: Option<VolumeBase>,
}

/// Memo of `Prepare`: where the target reads from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// NBD URIs, in the order of the plan's volumes.
    pub sources: Vec<String>,
    /// What was copied ahead; none for a cold move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<Ahead>,
    /// What came of the hooks that were run before the machine stopped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookRun>,
    /// That no other machine of its group is down while it is; none for a machine without a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
}

/// What was copied while the machine still ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ahead {
    /// Each round, of all volumes together.
    pub rounds: Vec<Round>,
    /// The marks of the last round, in the order of the plan's volumes; empty: nothing is held, the move is a cold one.
    pub marks: Vec<u64>,
    /// Why there was no further round, in one sentence.
    pub ended: String,
}

/// A round of copying ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// Bytes that were copied.
    pub bytes: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Bytes that the machine changed meanwhile: what another round would copy.
    pub bytes_left: u64,
}

/// What was copied of the disks of a machine while its memory crossed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptUp {
    /// How many rounds that were, of all volumes together.
    pub rounds: u64,
    /// Bytes that they copied.
    pub bytes: u64,
    /// How long they took together, in milliseconds.
    pub took_ms: u64,
    /// The last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Round>,
    /// The marks as of which the target holds something, in the order of the plan's volumes; empty: nothing is held any more.
    pub marks: Vec<u64>,
    /// Why there was no further round before the machine was paused, in one sentence; none: it was paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
}

impl KeptUp {
    /// A round more, with its marks.
    pub fn add(&mut self, round: Round, marks: Vec<u64>) {
        self.rounds += 1;
        self.bytes = self.bytes.saturating_add(round.bytes);
        self.took_ms = self.took_ms.saturating_add(round.took_ms);
        (self.last, self.marks) = (Some(round), marks);
    }
}

/// Memo of `Seal`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Of each volume how much of what was copied ahead is right; none for a cold move, and if that could not be found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<Vec<Adopted>>,
    /// Why it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_adopted: Option<String>,
}

/// What of a volume was on the target before the machine was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// The copy on the target.
    pub key: VolumeKey,
    /// Bytes that are there.
    pub bytes_held: u64,
    /// Bytes that are still at the source only.
    pub bytes_remote: u64,
}

/// Memo of `Stop`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// How the machine ended the last time that it did, which may have been long before; none if nobody knows.
    pub last_exit: Option<Exit>,
    /// What was copied of its memory until it was paused; none if it was stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryCopied>,
    /// What was copied of its disks meanwhile, in place of what `Prepare` tells of the marks; none if nothing was copied ahead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_up: Option<KeptUp>,
}

/// Memo of `HandOver`: who owns what from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedOver {
    /// The owner.
    pub to: WorkerName,
    /// The machine's generation there.
    pub machine_generation: Generation,
    /// The copies that are the true ones from now on.
    pub volumes: Vec<VolumeKey>,
}

/// Memo of `Activate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activated {
    /// When the target came to own the machine, by its clock, in milliseconds since 1970.
    pub activated_at_ms: Option<u64>,
}

/// Memo of `Boot`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booted {
    /// When the machine's first process ran on the target, by its clock, in milliseconds since 1970; none for a
    /// machine that is not wanted to run.
    pub booted_at_ms: Option<u64>,
    /// How it began there, if its memory was to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrival: Option<Arrival>,
}

/// Memo of `Hydrate`. A journal of before machines were judged, or told, says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hydrated {
    /// How the machine was found to be on the target, if the move was to be undone in case that it is not well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged: Option<Judged>,
    /// What came of telling the machine that it has arrived, if it wants that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_move: Option<HookRun>,
}

/// Memo of `Verify`: what arrived, volume by volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// One for each volume.
    pub volumes: Vec<VolumeReceipt>,
}

/// What arrived of one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeReceipt {
    /// The copy on the target.
    pub key: VolumeKey,
    /// Bytes in use on the source after it was sealed.
    pub bytes_in_use_on_source: Option<u64>,
    /// Bytes the target's store occupies.
    pub bytes_in_use_on_target: Option<u64>,
    /// What the target's volume server counted; none if the volume had moved on from there, or was destroyed, before
    /// it was asked.
    pub counted: Option<Hydration>,
    /// The roots of both sides; none if nobody was asked for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

/// The root checksums of a volume as it was sealed and as it arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Of what the sealed copy on the source holds, if it is known.
    pub root_on_source: Option<String>,
    /// Of what arrived on the target, if it is known.
    pub root_on_target: Option<String>,
    /// Why one of them is not known, in one sentence.
    pub unproven: Option<String>,
    /// Bytes that arrived.
    pub bytes_arrived: u64,
    /// Bytes that never crossed because they are zero.
    pub bytes_zero: u64,
    /// Bytes that never crossed because the machine wrote there first.
    pub bytes_told: u64,
    /// Checksums of what arrived were lost: of what was told some did arrive, and is not proven.
    pub is_gappy: bool,
}

impl Proof {
    /// The root, if both sides have the same.
    #[must_use]
    pub fn agreed_root(&self) -> Option<&str> {
        self.root_on_source.as_deref().filter(|root| self.root_on_target.as_deref() == Some(root))
    }
}

/// Memo of `Retire`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// When the source's copies are deleted, in milliseconds since 1970.
    pub until_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_move_keeps_the_rules_of_all_lines() {
        ferry_fsm::check_line::<MoveStep>().unwrap();
    }
}
