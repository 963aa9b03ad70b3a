//! The target's side of a move: what a request leads to, given what the records say of its job.
//!
//! ```text
//!   reserve ─▶ Reserved ─▶ prepare ─▶ Prepared ─▶ activate ─▶ Activated ─▶ boot ─▶ Booted ─▶ settle ─▶ Settled
//!                  └──────── release ─────┴──▶ Released
//! ```
//!
//! Invariants: machine and volumes become the target's with the changes of `activate` and with no others. Each
//! request may be repeated at any time, also long after what it asked for: it then changes nothing. What was
//! released is never activated: a release of an unknown job is remembered.

use crate::change::Change;
use crate::fence::{Fence, Subject};
use crate::line::PlannedVolume;
use crate::reckoning::cordoned;
use crate::records::{
    AwaitedMachine, BaseRecord, CrossingRecord, MachineRecord, MemoryMoves, ProcessMark, SourceRecord,
    Standing, VolumeRecord,
};
use ferry_api::{
    API_VERSION, Activate, ApiError, Arrival, Cordon, CrossingState, Desired, ErrorCode, Generation, JobId,
    JobState, MachineId, MachineVolume, Ownership, Precopy, PrecopyVolume, Prepare, Reserve, ReserveVolume,
    VolumeId, VolumeKey, VolumeName, WorkerName,
};
use std::collections::{BTreeMap, BTreeSet};

/// What a request leads to: nothing if it is done already, else the move's new record and what comes with it, to be
/// made in one transaction.
pub type Next = Option<(CrossingRecord, Vec<Change>)>;

/// Whether the very same was reserved before.
///
/// # Errors
/// The job was released, or reserved with other facts.
pub fn reserved_before(known: Option<&CrossingRecord>, reserve: &Reserve) -> Result<bool, ApiError> {
    match known {
        None => Ok(false),
        Some(known) if known.state == CrossingState::Released => {
            Err(conflict(reserve.job, "was already released here; start a new one"))
        }
        Some(known) if known.reserve.as_ref() != Some(reserve) => {
            Err(conflict(reserve.job, "was already reserved here with other facts; cancel it"))
        }
        Some(_) => Ok(true),
    }
}

/// Refuses a source that speaks another language.
///
/// # Errors
/// `VersionMismatch`.
pub fn check_version(reserve: &Reserve) -> Result<(), ApiError> {
    if reserve.api_version == API_VERSION {
        return Ok(());
    }
    let message = format!(
        "this worker speaks version {API_VERSION} of the agents' language and worker {} version {}; \
         bring both to the same version of ferry",
        reserve.from, reserve.api_version
    );
    Err(ApiError::new(ErrorCode::VersionMismatch, message))
}

/// Refuses volumes whose bytes shall pass by the page cache where files `can` not do that.
///
/// # Errors
/// `InvalidRequest`.
pub fn check_direct(reserve: &Reserve, can: bool) -> Result<(), ApiError> {
    match reserve.volumes.iter().find(|volume| volume.direct && !can) {
        None => Ok(()),
        Some(volume) => Err(ApiError::new(ErrorCode::InvalidRequest, no_direct_io(&volume.name))),
    }
}

/// Why a volume cannot come here.
pub(crate) fn no_direct_io(volume: &VolumeName) -> String {
    format!(
        "volume {volume} uses direct I/O, which the filesystem of the target's state directory does not have; choose \
         another worker"
    )
}

/// Refuses a machine that is `here` already, or was at this generation or a later one.
///
/// # Errors
/// `AlreadyExists`, or `Unavailable` while a process of it is left from before.
pub fn check_machine(here: Option<&MachineRecord>, reserve: &Reserve) -> Result<(), ApiError> {
    match here {
        Some(here) if here.standing != Standing::Ours && here.process.is_some() => {
            let message = format!(
                "what is left of machine {} here since it moved away has not ended yet; try again in a moment",
                here.name
            );
            Err(ApiError::new(ErrorCode::Unavailable, message))
        }
        Some(here) if here.standing == Standing::Ours || here.generation >= reserve.machine_generation => {
            let message = format!(
                "machine {} is already here at generation {}, so generation {} cannot come; ask this worker's agent",
                here.name, here.generation, reserve.machine_generation
            );
            Err(ApiError::new(ErrorCode::AlreadyExists, message))
        }
        Some(_) | None => Ok(()),
    }
}

/// Refuses a machine while this worker is cordoned, unless it comes back from where its last move took it from `here`: the worker
/// that it belongs to as long as that move may be undone.
///
/// # Errors
/// `Conflict`.
pub fn check_cordon(
    worker: &WorkerName,
    cordon: Option<&Cordon>,
    here: Option<&MachineRecord>,
    reserve: &Reserve,
) -> Result<(), ApiError> {
    let Some(cordon) = cordon else { return Ok(()) };
    let comes_back = here.is_some_and(|here| {
        let went = matches!(&here.standing, Standing::HandedOver { to, .. } if *to == reserve.from);
        went && here.generation.next().next() == reserve.machine_generation
    });
    if comes_back {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::Conflict, cordoned(worker, cordon)))
}

/// A disk that is to come, as its source planned it.
#[must_use]
pub fn planned(volume: &ReserveVolume) -> PlannedVolume {
    PlannedVolume {
        id: volume.id,
        name: volume.name.clone(),
        generation: volume.generation,
        size_bytes: volume.size_bytes,
        region_bytes: volume.region_bytes,
        bytes_in_use: volume.bytes_in_use,
        direct: volume.direct,
        born_from: volume.born_from,
        origin: volume.origin.clone(),
    }
}

/// What a move would bring here.
#[must_use]
pub fn subjects_of(reserve: &Reserve) -> Vec<(Subject, Generation)> {
    let volumes = reserve.volumes.iter().map(|volume| (Subject::Volume(volume.id), volume.generation));
    [(Subject::Machine(reserve.machine), reserve.machine_generation)].into_iter().chain(volumes).collect()
}

/// Refuses what this worker, by its `fences`, has handed over already at that generation or a later one. Its records may
/// be from a backup and not know of that, and the call may be one that arrives late for the second time.
///
/// # Errors
/// `HandedOver`.
pub fn check_fences(reserve: &Reserve, fences: &BTreeMap<Subject, Fence>) -> Result<(), ApiError> {
    let barred = |(subject, generation)| {
        fences.get(&subject).filter(|fence| fence.bars(generation)).map(|fence| (subject, generation, fence))
    };
    match subjects_of(reserve).into_iter().find_map(barred) {
        None => Ok(()),
        Some((subject, generation, fence)) => {
            let message = format!(
                "{subject} cannot come here at generation {generation}: here {fence}; find out which copy is the real one"
            );
            Err(ApiError::new(ErrorCode::HandedOver, message))
        }
    }
}

/// What a volume that is to come needs not bring from its source: a copy of the generation that the source's was made
/// from. `kept` is the copy of that generation here, if its directory is as it was when it was retired; a worker that
/// cannot be `reached` gives nothing.
#[must_use]
pub fn base(
    volume: &ReserveVolume,
    kept: Option<&VolumeRecord>,
    reached: impl Fn(&WorkerName) -> bool,
) -> Option<BaseRecord> {
    let generation = volume.born_from.filter(|generation| *generation < volume.generation)?;
    let fits = |record: &&VolumeRecord| {
        let is_sealed = matches!(record.ownership, Ownership::HandedOver { .. } | Ownership::Retired { .. });
        let is_that = record.key() == VolumeKey { id: volume.id, generation };
        is_sealed && is_that && record.size_bytes == volume.size_bytes
    };
    if kept.filter(fits).is_some() {
        return Some(BaseRecord { generation, worker: None });
    }
    let origin = volume.origin.as_ref().filter(|origin| reached(origin))?;
    Some(BaseRecord { generation, worker: Some(origin.clone()) })
}

/// What is recorded of a reservation: the move, and copies that are not made yet, each with its base, if it has one.
#[must_use]
pub fn reservation(
    reserve: Reserve,
    bases: &BTreeMap<VolumeId, BaseRecord>,
    now_ms: u64,
) -> (CrossingRecord, Vec<VolumeRecord>) {
    let volumes = reserve.volumes.iter().map(|volume| VolumeRecord {
        id: volume.id,
        generation: volume.generation,
        name: volume.name.clone(),
        machine: Some(reserve.machine),
        size_bytes: volume.size_bytes,
        region_bytes: volume.region_bytes,
        ownership: Ownership::Reserved { job: reserve.job, from: reserve.from.clone() },
        source: None,
        base: bases.get(&volume.id).cloned(),
        rests: false,
        made: false,
        bytes_expected: volume.bytes_in_use,
        store: None,
        direct: volume.direct,
        filesystem: None,
        forks: Vec::new(),
        created_at_ms: now_ms,
    });
    let volumes = volumes.collect();
    let crossing = CrossingRecord {
        job: reserve.job,
        state: CrossingState::Reserved,
        reserve: Some(reserve),
        activated_at_ms: None,
        booted_at_ms: None,
        judged: None,
        awaited: None,
        after_move: None,
    };
    (crossing, volumes)
}

/// What was reserved with a job.
///
/// # Errors
/// Nothing was.
pub fn reserved(crossing: Option<CrossingRecord>, job: JobId) -> Result<(CrossingRecord, Reserve), ApiError> {
    let known = crossing.and_then(|crossing| crossing.reserve.clone().map(|reserve| (crossing, reserve)));
    known.ok_or_else(|| {
        let message = format!("job {job} has reserved nothing here; it must reserve first");
        ApiError::new(ErrorCode::NotFound, message)
    })
}

/// What asking for clones leads to.
///
/// # Errors
/// The job was released, or names other volumes.
pub fn prepare(crossing: &CrossingRecord, reserve: &Reserve, prepare: &Prepare) -> Result<Next, ApiError> {
    match crossing.state {
        CrossingState::Reserved | CrossingState::Prepared => {}
        CrossingState::Activated | CrossingState::Booted | CrossingState::Settled => return Ok(None),
        CrossingState::Released => {
            return Err(conflict(prepare.job, "was already released here; start a new one"));
        }
    }
    let sources: BTreeMap<_, _> = prepare.volumes.iter().map(|v| (v.id, &v.source)).collect();
    let keys = keys_of(reserve);
    if keys.iter().map(|key| key.id).collect::<BTreeSet<_>>() != sources.keys().copied().collect() {
        return Err(conflict(prepare.job, "names other volumes now than it reserved; cancel it"));
    }
    let mut changes = Vec::new();
    for key in keys {
        let worker = Some(reserve.from.clone());
        let source = Some(SourceRecord { uri: sources[&key.id].clone(), worker });
        changes.push(Change::Source { key, source });
        let ownership = Ownership::Prepared { job: prepare.job, from: reserve.from.clone() };
        changes.push(Change::Own { key, ownership });
    }
    let prepared = CrossingRecord { state: CrossingState::Prepared, ..crossing.clone() };
    changes.push(Change::Crossing(Box::new(prepared.clone())));
    Ok(Some((prepared, changes)))
}

/// Which clones are copied into ahead of the hand-over, and how.
///
/// # Errors
/// The job is not prepared here, or has handed over; it names other volumes.
pub fn precopy(
    crossing: &CrossingRecord,
    reserve: &Reserve,
    precopy: Precopy,
) -> Result<Vec<(VolumeKey, PrecopyVolume)>, ApiError> {
    match crossing.state {
        CrossingState::Prepared => {}
        CrossingState::Reserved => {
            return Err(conflict(precopy.job, "is reserved here and not yet prepared"));
        }
        CrossingState::Released => return Err(conflict(precopy.job, "was already released here")),
        CrossingState::Activated | CrossingState::Booted | CrossingState::Settled => {
            return Err(conflict(precopy.job, "has handed over the machine already"));
        }
    }
    let keys: BTreeMap<VolumeId, VolumeKey> = keys_of(reserve).into_iter().map(|key| (key.id, key)).collect();
    let of = |wish: PrecopyVolume| match keys.get(&wish.id) {
        Some(&key) => Ok((key, wish)),
        None => Err(conflict(precopy.job, "names other volumes now than it reserved; cancel it")),
    };
    precopy.volumes.into_iter().map(of).collect()
}

/// What the news that the source's journal has handed over leads to: the one way in which anything becomes the
/// target's.
///
/// # Errors
/// The job is not prepared here, or hands over other volumes.
pub fn activate(
    crossing: &CrossingRecord,
    reserve: &Reserve,
    activate: &Activate,
    now_ms: u64,
) -> Result<Next, ApiError> {
    match crossing.state {
        CrossingState::Prepared => {}
        CrossingState::Activated | CrossingState::Booted | CrossingState::Settled => return Ok(None),
        CrossingState::Reserved => {
            return Err(conflict(activate.job, "is reserved here and not yet prepared"));
        }
        CrossingState::Released => return Err(conflict(activate.job, "was already released here")),
    }
    let keys = keys_of(reserve);
    let handed: BTreeSet<_> =
        activate.volumes.iter().map(|v| VolumeKey { id: v.id, generation: v.generation }).collect();
    if handed != keys.iter().copied().collect() {
        return Err(conflict(activate.job, "hands over other volumes than it reserved; ask for help"));
    }
    let mut changes = Vec::new();
    for volume in &activate.volumes {
        let key = VolumeKey { id: volume.id, generation: volume.generation };
        let source = SourceRecord { uri: volume.source.clone(), worker: Some(reserve.from.clone()) };
        changes.push(Change::Source { key, source: Some(source) });
        changes.push(Change::Own { key, ownership: Ownership::Ours });
    }
    changes.push(Change::AddMachine(Box::new(arriving(crossing, reserve, activate.desired))));
    let activated =
        CrossingRecord { state: CrossingState::Activated, activated_at_ms: Some(now_ms), ..crossing.clone() };
    changes.push(Change::Crossing(Box::new(activated.clone())));
    Ok(Some((activated, changes)))
}

/// Whether the machine is still to be booted for this job. `false`: it was.
///
/// # Errors
/// The machine is not the target's yet.
pub fn boots(crossing: &CrossingRecord) -> Result<bool, ApiError> {
    match crossing.state {
        CrossingState::Activated => Ok(true),
        CrossingState::Booted | CrossingState::Settled => Ok(false),
        CrossingState::Reserved | CrossingState::Prepared | CrossingState::Released => {
            Err(conflict(crossing.job, "has not handed over the machine yet"))
        }
    }
}

/// Whether the machine that is `here` is the one that arrived with the job: it may have moved on, or been destroyed,
/// since.
#[must_use]
pub fn is_still_here(here: &MachineRecord, reserve: &Reserve) -> bool {
    here.generation == reserve.machine_generation
}

/// Whether sources are still to be forgotten for this job. `false`: they were.
///
/// # Errors
/// The machine was not booted yet.
pub fn settles(crossing: &CrossingRecord) -> Result<bool, ApiError> {
    match crossing.state {
        CrossingState::Booted => Ok(true),
        CrossingState::Settled => Ok(false),
        CrossingState::Reserved
        | CrossingState::Prepared
        | CrossingState::Activated
        | CrossingState::Released => Err(conflict(crossing.job, "has not booted the machine yet")),
    }
}

/// What is recorded when a job that was reserved here, or never came to that, is undone.
///
/// # Errors
/// It has handed over the machine.
pub fn release(known: Option<CrossingRecord>, job: JobId) -> Result<CrossingRecord, ApiError> {
    let unknown = CrossingRecord {
        job,
        state: CrossingState::Reserved,
        reserve: None,
        activated_at_ms: None,
        booted_at_ms: None,
        judged: None,
        awaited: None,
        after_move: None,
    };
    let crossing = known.unwrap_or(unknown);
    match crossing.state {
        CrossingState::Reserved | CrossingState::Prepared | CrossingState::Released => {
            Ok(CrossingRecord { state: CrossingState::Released, ..crossing })
        }
        CrossingState::Activated | CrossingState::Booted | CrossingState::Settled => {
            Err(conflict(job, "has handed over the machine already and cannot be undone here"))
        }
    }
}

/// The job that reserved or prepared a copy, as long as nothing else has become of it.
#[must_use]
pub fn reserved_by(volume: &VolumeRecord) -> Option<JobId> {
    match volume.ownership {
        Ownership::Reserved { job, .. } | Ownership::Prepared { job, .. } => Some(job),
        Ownership::Ours
        | Ownership::Sealed { .. }
        | Ownership::HandedOver { .. }
        | Ownership::Retired { .. } => None,
    }
}

/// Whether a copy is one that `job` reserved or prepared. The same copy may be expected with a later job by now.
#[must_use]
pub fn is_reserved_by(volume: &VolumeRecord, job: JobId) -> bool {
    reserved_by(volume) == Some(job)
}

/// Whether the machine of a move is still expected.
#[must_use]
pub fn is_expected(crossing: &CrossingRecord) -> bool {
    crossing.state < CrossingState::Activated
}

/// Whether nothing more happens to a move here, but that its source repeats itself.
#[must_use]
pub fn is_over(state: CrossingState) -> bool {
    match state {
        CrossingState::Settled | CrossingState::Released => true,
        CrossingState::Reserved
        | CrossingState::Prepared
        | CrossingState::Activated
        | CrossingState::Booted => false,
    }
}

/// Whether what was reserved may be given up without being told, when the source says that its job stands so.
#[must_use]
pub fn is_undone(job: JobState) -> bool {
    match job {
        JobState::Failed | JobState::Cancelled => true,
        JobState::Waiting
        | JobState::Running
        | JobState::Unwinding
        | JobState::Parked
        | JobState::Succeeded => false,
    }
}

/// The copies that are to come.
#[must_use]
pub fn keys_of(reserve: &Reserve) -> Vec<VolumeKey> {
    reserve.volumes.iter().map(|volume| VolumeKey { id: volume.id, generation: volume.generation }).collect()
}

/// Refuses a machine that would wait for its memory where none can come, or no more.
///
/// # Errors
/// The job is not prepared here, or has handed over.
pub fn check_expects(crossing: &CrossingRecord) -> Result<(), ApiError> {
    match crossing.state {
        CrossingState::Prepared => Ok(()),
        CrossingState::Reserved => Err(conflict(crossing.job, "is reserved here and not yet prepared")),
        CrossingState::Released => Err(conflict(crossing.job, "was already released here")),
        CrossingState::Activated | CrossingState::Booted | CrossingState::Settled => {
            Err(conflict(crossing.job, "has handed over the machine already"))
        }
    }
}

/// Whether a machine is on its way here with its memory, and has a process already.
#[must_use]
pub fn awaits(crossing: &CrossingRecord, machine: MachineId) -> bool {
    let is_it = crossing.reserve.as_ref().is_some_and(|reserve| reserve.machine == machine);
    is_it && crossing.awaited.is_some() && is_expected(crossing)
}

/// How a machine began whose memory was to come, by the process that is the machine now.
#[must_use]
pub fn arrival(awaited: &AwaitedMachine, now: Option<&ProcessMark>) -> Arrival {
    match now {
        Some(process) if process.is_of_the_same(&awaited.process) => Arrival::Live,
        Some(_) | None => Arrival::Rebooted,
    }
}

/// The machine as it arrives.
#[must_use]
pub fn arriving(crossing: &CrossingRecord, reserve: &Reserve, desired: Desired) -> MachineRecord {
    let process = crossing.awaited.as_ref().map(|awaited| awaited.process.clone());
    let volumes = reserve.volumes.iter().map(|volume| MachineVolume {
        name: volume.name.clone(),
        volume: volume.id,
        generation: volume.generation,
    });
    MachineRecord {
        id: reserve.machine,
        name: reserve.machine_name.clone(),
        spec: reserve.spec.clone(),
        volumes: volumes.collect(),
        desired,
        generation: reserve.machine_generation,
        standing: Standing::Ours,
        job: None,
        halted: false,
        doomed: false,
        memory: process.as_ref().map(|_| MemoryMoves::Here),
        process,
        last_exit: None,
        start_ms: None,
        created_at_ms: reserve.created_at_ms,
    }
}

/// A request that does not fit how the job stands here.
#[must_use]
pub fn conflict(job: JobId, what: &str) -> ApiError {
    ApiError::new(ErrorCode::Conflict, format!("job {job} {what}"))
}
