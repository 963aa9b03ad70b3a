//! What a move counts and checks: whether it can begin, how far it is, and whether all has arrived.
//!
//! Nothing here touches the world: facts in, a verdict out.

use ferry_api::{
    API_VERSION, Cordon, Crossing, CrossingVolume, DriverInfo, DriverKind, Hydration, Limit, MachineSpec,
    Ownership, Progress, ServerState, Volume, VolumeKey, WorkerInfo, WorkerName,
};
use ferry_fsm::StepError;
use std::num::NonZeroU64;

use crate::line::{MoveInput, Plan, PlannedVolume, VolumeReceipt};
use crate::target::no_direct_io;
use crate::unreadable::is_held_up;

/// The copy that the target gets.
pub fn target_key(planned: &PlannedVolume) -> VolumeKey {
    VolumeKey { id: planned.id, generation: planned.generation.next() }
}

/// Refuses a move to where the machine is.
pub fn check_elsewhere(input: &MoveInput) -> Result<(), StepError> {
    if input.to != input.from {
        return Ok(());
    }
    Err(StepError::fatal(format!("machine {} is already on {}", input.machine_name, input.to)))
}

/// Why a worker cannot take this machine at all, the first thing first; nothing if it can, as far as is known before it is
/// asked to reserve.
#[must_use]
pub fn against_worker(input: &MoveInput, info: &WorkerInfo, spec: &MachineSpec) -> Vec<StepError> {
    let cordon = if input.way_back { Ok(()) } else { check_cordon(info) };
    let checks = [check_target(input, info), cordon, check_undo(input, spec)];
    checks.into_iter().filter_map(Result::err).chain(against_spec(info, spec)).collect()
}

/// The same as far as it does not depend on the move: what the worker is, against what the machine is.
#[must_use]
pub fn against_spec(info: &WorkerInfo, spec: &MachineSpec) -> Vec<StepError> {
    let checks = [
        check_spec(info, spec),
        check_driver(info, spec),
        check_models(info, spec),
        check_limits(info, spec),
        check_means(info, spec),
    ];
    checks.into_iter().filter_map(Result::err).collect()
}

/// The same of the machine's volumes.
#[must_use]
pub fn against_volumes(info: &WorkerInfo, volumes: &[PlannedVolume]) -> Vec<StepError> {
    let checks = [check_room(info, volumes), check_direct(info, volumes)];
    checks.into_iter().filter_map(Result::err).collect()
}

/// Refuses a target that is not the one meant, or speaks another language.
fn check_target(input: &MoveInput, info: &WorkerInfo) -> Result<(), StepError> {
    if info.name != input.to {
        return Err(StepError::fatal(format!(
            "the agent that is configured as {} calls itself {}; correct the peer's url",
            input.to, info.name
        )));
    }
    if info.api_version != API_VERSION {
        return Err(StepError::fatal(format!(
            "worker {} speaks version {} of the agents' language and this worker version {API_VERSION}; bring both to \
             the same version of ferry",
            input.to, info.api_version
        )));
    }
    Ok(())
}

/// Refuses a target that takes no machines.
///
/// # Errors
/// It is cordoned.
pub fn check_cordon(info: &WorkerInfo) -> Result<(), StepError> {
    info.cordon.as_ref().map_or(Ok(()), |cordon| Err(StepError::fatal(cordoned(&info.name, cordon))))
}

/// What a worker that takes no machines says.
#[must_use]
pub fn cordoned(worker: &WorkerName, cordon: &Cordon) -> String {
    let reason = cordon.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!(
        "worker {worker} is cordoned{reason} and takes no machines; choose another worker, or let it take some again \
         (`ferry worker uncordon`)"
    )
}

/// Refuses a target that does not understand all of what the machine's spec says: it would lose the rest.
fn check_spec(info: &WorkerInfo, spec: &MachineSpec) -> Result<(), StepError> {
    if spec.version() <= info.spec_version {
        return Ok(());
    }
    Err(StepError::fatal(format!(
        "worker {} understands version {} of machine specs and this machine needs version {}; bring it to the same \
         version of ferry",
        info.name,
        info.spec_version,
        spec.version()
    )))
}

/// Refuses a target that cannot run machines of this kind at all. Whether it can run this one, it says when it reserves.
fn check_driver(info: &WorkerInfo, spec: &MachineSpec) -> Result<(), StepError> {
    let kind = spec.driver.kind();
    let told = info.drivers.iter().find(|driver| driver.name == kind.as_str());
    let why = match told {
        Some(DriverInfo { error: None, .. }) => return Ok(()),
        None if kind == DriverKind::Process => return Ok(()),
        Some(DriverInfo { error: Some(why), .. }) => why.as_str(),
        None => "its version of ferry does not know that driver",
    };
    Err(StepError::fatal(format!(
        "worker {} cannot run the machine, whose driver is {kind}: {why}; put that right or choose another worker",
        info.name
    )))
}

/// Refuses a target whose QEMU knows no such machine as the VM is, or no such CPU.
fn check_models(info: &WorkerInfo, spec: &MachineSpec) -> Result<(), StepError> {
    let Some(vm) = spec.driver.as_qemu() else { return Ok(()) };
    let told = info.drivers.iter().find(|driver| driver.name == DriverKind::Qemu.as_str());
    match told.and_then(|told| told.models.as_ref()).and_then(|models| models.lacks(vm)) {
        None => Ok(()),
        Some((field, name)) => Err(StepError::fatal(format!(
            "the QEMU of worker {} knows no {field} {name}; bring it to a version that does, or choose another worker",
            info.name
        ))),
    }
}

/// Refuses to undo a move if the machine is not well where nobody could tell.
fn check_undo(input: &MoveInput, spec: &MachineSpec) -> Result<(), StepError> {
    match input.undo_unhealthy && spec.health.is_none() {
        true => Err(StepError::fatal(format!(
            "machine {} has no health check, so that nobody can tell whether it is well on worker {}; create it with \
             [health], or move it without --undo-unhealthy",
            input.machine_name, input.to
        ))),
        false => Ok(()),
    }
}

/// Refuses a target that could not keep the machine to its limits.
fn check_limits(info: &WorkerInfo, spec: &MachineSpec) -> Result<(), StepError> {
    let kind = spec.driver.kind();
    let told = info.drivers.iter().find(|driver| driver.name == kind.as_str());
    let can = |limit: &Limit| told.is_some_and(|told| told.limits.iter().any(|name| name == limit.as_str()));
    let cannot: Vec<&str> = spec.limits.kinds().filter(|limit| !can(limit)).map(Limit::as_str).collect();
    match cannot.is_empty() {
        true => Ok(()),
        false => Err(StepError::fatal(format!(
            "worker {} cannot limit the {} of the machine; see `ferry doctor` there, or choose another worker",
            info.name,
            cannot.join(" and ")
        ))),
    }
}

/// Refuses a target that has less than the machine may take: whoever sets a limit counts on having that much.
fn check_means(info: &WorkerInfo, spec: &MachineSpec) -> Result<(), StepError> {
    let Some(has) = info.has else { return Ok(()) };
    let memory = spec.limits.memory_bytes.map(NonZeroU64::get);
    let cpu = spec.limits.cpu_millis.map(|millis| u64::from(millis.get()));
    let asked =
        [(memory, has.memory_bytes, "bytes of memory"), (cpu, has.cpu_millis, "thousandths of a processor")];
    let more = asked
        .into_iter()
        .find_map(|(wanted, has, unit)| Some((wanted.filter(|wanted| *wanted > has)?, has, unit)));
    match more {
        None => Ok(()),
        Some((wanted, has, unit)) => Err(StepError::fatal(format!(
            "worker {} has {has} {unit} and the machine is to have {wanted} at most; lower that limit, or choose another \
             worker",
            info.name
        ))),
    }
}

/// A volume as the plan holds it; refuses one that cannot move now.
pub fn plan_volume(volume: &Volume) -> Result<PlannedVolume, StepError> {
    let name = &volume.name;
    if volume.ownership != Ownership::Ours {
        return Err(StepError::fatal(format!(
            "volume {name} is not this worker's to move; see `ferry volume show`"
        )));
    }
    if let Some(fork) = volume.forks.first() {
        return Err(StepError::fatal(format!(
            "volume {name} is read by its fork {} on worker {}, which is not whole yet; move the machine when it is",
            fork.name, fork.worker
        )));
    }
    let (Some(hydration), Some(allocated)) = (volume.hydration, volume.store_bytes_allocated) else {
        let reason = match &volume.server {
            ServerState::Down { reason } => reason.as_str(),
            ServerState::NotNeeded | ServerState::Running { .. } => "it gives no status",
        };
        return Err(StepError::retry(format!("the volume server of {name} does not answer: {reason}")));
    };
    let source = volume.source.as_ref().filter(|_| !hydration.complete);
    if let Some(source) = source.filter(|source| source.connected == Some(false)) {
        let link = if source.last_error.is_some() { "cannot be reached" } else { "is not connected yet" };
        return Err(StepError::retry(format!(
            "volume {name} still needs {} bytes from {}, which {link}; move the machine when it can be read",
            hydration.bytes_remote, source.uri
        )));
    }
    let origin = source.and_then(|source| source.worker.clone());
    // What was lost with a source is not as it was there, whatever else is known.
    let born_from = volume.lineage.born_from.filter(|_| hydration.bytes_abandoned == 0);
    Ok(PlannedVolume {
        id: volume.id,
        name: name.clone(),
        generation: volume.generation,
        size_bytes: volume.size_bytes,
        region_bytes: volume.region_bytes,
        // What lies on a device counts as in use, whether it has arrived there or not.
        bytes_in_use: match volume.store {
            Some(_) => volume.size_bytes,
            None => allocated.saturating_add(hydration.bytes_to_copy),
        },
        direct: volume.direct,
        born_from,
        origin: origin.filter(|_| born_from.is_some()),
    })
}

/// Whether a copy has just come and is connecting to its source, or tries to for the first time: in a moment it can be read, or it
/// is known why not.
pub fn is_connecting(volume: &Volume) -> bool {
    let is_whole = volume.hydration.is_some_and(|counted| counted.complete);
    let source = volume.source.as_ref().filter(|_| !is_whole);
    source.is_some_and(|source| source.connected == Some(false) && source.last_error.is_none())
}

/// A volume may have grown between its plan and its seal; the target holds room for, and made, what was planned.
pub fn check_size(planned: &PlannedVolume, sealed: &Volume) -> Result<(), StepError> {
    if sealed.size_bytes == planned.size_bytes {
        return Ok(());
    }
    Err(StepError::fatal(format!(
        "volume {} grew from {} to {} bytes while its move began; move the machine again",
        planned.name, planned.size_bytes, sealed.size_bytes
    )))
}

/// A first look; the target checks again when it reserves.
fn check_room(info: &WorkerInfo, volumes: &[PlannedVolume]) -> Result<(), StepError> {
    let needed_bytes: u64 = volumes.iter().map(|planned| planned.bytes_in_use).sum();
    if needed_bytes > info.room.free_bytes {
        return Err(StepError::fatal(format!(
            "worker {} has room for {} bytes and the machine's volumes need {needed_bytes}; make room there or choose \
             another worker",
            info.name, info.room.free_bytes
        )));
    }
    Ok(())
}

/// A first look; the target checks again when it reserves.
fn check_direct(info: &WorkerInfo, volumes: &[PlannedVolume]) -> Result<(), StepError> {
    match volumes.iter().find(|planned| planned.direct && !info.direct_io) {
        None => Ok(()),
        Some(planned) => {
            Err(StepError::fatal(format!("worker {}: {}", info.name, no_direct_io(&planned.name))))
        }
    }
}

/// What the target counted of a volume; none where the volume server does not answer.
fn counted(volume: &CrossingVolume) -> Option<Hydration> {
    volume.volume.as_ref().and_then(|volume| volume.hydration)
}

/// Whether a volume has nothing to ask of its source any more, and nobody will count it again: it has moved on from
/// the target and was retired there after it was whole, or it was destroyed there with its machine.
pub fn is_gone(volume: &CrossingVolume) -> bool {
    volume.volume.as_ref().is_none_or(|volume| matches!(volume.ownership, Ownership::Retired { .. }))
}

/// Whether a volume that has arrived needs its source no longer.
pub fn is_whole(volume: &CrossingVolume) -> bool {
    is_gone(volume) || counted(volume).is_some_and(|counted| counted.complete)
}

/// Whether a clone that is not whole cannot read from its source.
pub fn lacks_source(volume: &CrossingVolume) -> bool {
    let source = volume.volume.as_ref().and_then(|volume| volume.source.as_ref());
    !is_whole(volume) && source.is_some_and(|source| source.connected == Some(false))
}

/// How far the disks are, all together.
pub fn progress(plan: &Plan, crossing: &Crossing) -> Progress {
    let mut sum = Progress::default();
    let expected = plan.volumes.iter().zip(&crossing.volumes);
    for (planned, arrived) in expected.filter(|(_, arrived)| !is_gone(arrived)) {
        let Some(counted) = counted(arrived) else {
            sum.bytes_total = sum.bytes_total.saturating_add(planned.bytes_in_use);
            continue;
        };
        let arrived_bytes = counted.bytes_fetched.saturating_add(counted.bytes_from_base);
        let unseen = planned.bytes_in_use.saturating_sub(arrived_bytes).min(counted.bytes_remote);
        let left = if counted.complete { 0 } else { unseen.max(counted.bytes_to_copy) };
        sum.bytes_done = sum.bytes_done.saturating_add(arrived_bytes);
        sum.bytes_from_base = sum.bytes_from_base.saturating_add(counted.bytes_from_base);
        sum.bytes_total = sum.bytes_total.saturating_add(arrived_bytes).saturating_add(left);
        sum.rate_bytes_per_s = sum.rate_bytes_per_s.saturating_add(counted.rate_bytes_per_s);
        sum.cold_reads = sum.cold_reads.saturating_add(counted.cold_reads);
        sum.bytes_verified = sum.bytes_verified.saturating_add(counted.bytes_verified);
    }
    let left = sum.bytes_total.saturating_sub(sum.bytes_done);
    sum.held_up = is_held_up(crossing);
    sum.eta_ms = left.saturating_mul(1000).checked_div(sum.rate_bytes_per_s);
    sum
}

/// Holds what arrived of one volume against what was sealed.
pub fn receipt(
    planned: &PlannedVolume,
    sealed: &Volume,
    crossing: &Crossing,
) -> Result<VolumeReceipt, StepError> {
    let key = target_key(planned);
    let name = &planned.name;
    let silent = || StepError::retry(format!("the volume server of {name} on the target does not answer"));
    let arrived = crossing.volumes.iter().find(|volume| volume.key == key).ok_or_else(silent)?;
    let bytes_in_use_on_source = sealed.store_bytes_allocated;
    if is_gone(arrived) {
        return Ok(VolumeReceipt {
            key,
            bytes_in_use_on_source,
            bytes_in_use_on_target: None,
            counted: None,
            proof: None,
        });
    }
    let counted = counted(arrived).ok_or_else(silent)?;
    let bytes_in_use_on_target = arrived.volume.as_ref().and_then(|volume| volume.store_bytes_allocated);
    // One that rests never will be: its reader has the rest from elsewhere, each block checked as it came.
    let source_is_whole = sealed.hydration.is_some_and(|counted| counted.complete) || sealed.lineage.rests;
    if counted.bytes_abandoned > 0 {
        // A person gave up the source: there is nothing to hold what arrived against, and the receipt says so.
        return Ok(VolumeReceipt {
            key,
            bytes_in_use_on_source,
            bytes_in_use_on_target,
            counted: Some(counted),
            proof: None,
        });
    }
    // A source that is a clone itself must be whole before anybody may forget it: others may still read it.
    if !source_is_whole {
        return Err(StepError::retry(format!("this worker's own copy of {name} is not whole yet")));
    }
    if !counted.complete || counted.bytes_remote > 0 || counted.bytes_local < planned.size_bytes {
        return Err(StepError::fatal(format!(
            "volume {name} should be whole on the target, but of {} bytes {} are local and {} remote; the source keeps \
             its copy",
            planned.size_bytes, counted.bytes_local, counted.bytes_remote
        )));
    }
    if counted.bytes_verified < counted.bytes_fetched.saturating_add(counted.bytes_from_base) {
        return Err(StepError::fatal(format!(
            "of volume {name} {} bytes crossed, but only {} were checked against the source; the source keeps its copy",
            counted.bytes_fetched.saturating_add(counted.bytes_from_base),
            counted.bytes_verified
        )));
    }
    Ok(VolumeReceipt {
        key,
        bytes_in_use_on_source,
        bytes_in_use_on_target,
        counted: Some(counted),
        proof: None,
    })
}
