//! What keeps the host of a worker from being stopped, decided from what it has, and from what those who copy from it tell.
//!
//! Invariant: this worker's own facts decide whether something keeps it; what others tell only says for how long. So a
//! worker that cannot be asked never makes this one safe to stop.

use crate::records::CrossingRecord;
use ferry_api::{
    CrossingState, Generation, Job, JobKind, Machine, MachineId, MachineState, Ownership, ServerState,
    StepState, StillToCopy, StopReason, Volume, VolumeKey, WorkerName,
};
use std::collections::{BTreeMap, BTreeSet};

/// What is known. Read in this order: what is under way when something is read has left its mark in what is read later.
#[derive(Debug)]
pub struct Facts {
    /// Moves to this worker.
    pub crossings: Vec<CrossingRecord>,
    /// Jobs that this worker leads, or has led.
    pub jobs: Vec<Job>,
    /// Its machines.
    pub machines: Vec<Machine>,
    /// Its copies of volumes.
    pub volumes: Vec<Volume>,
    /// What the workers have that [`to_ask`] names; or why they do not tell, in one sentence.
    pub told: BTreeMap<WorkerName, Result<Vec<Volume>, String>>,
}

/// The workers that have clones of these copies: those who can tell how much is left.
#[must_use]
pub fn to_ask(volumes: &[Volume]) -> BTreeSet<WorkerName> {
    let owners = volumes.iter().filter_map(|volume| owner(&volume.ownership)).cloned();
    let forks = volumes.iter().flat_map(|volume| volume.forks.iter().map(|fork| fork.worker.clone()));
    owners.chain(forks).collect()
}

/// All that keeps the host from being stopped: first what would stall or cut off others.
#[must_use]
pub fn reasons(facts: &Facts) -> Vec<StopReason> {
    let copies = facts.volumes.iter().flat_map(|volume| of_volume(facts, volume));
    let jobs = facts.jobs.iter().filter(|job| !job.state.is_final()).filter_map(of_job);
    let arrivals = facts.crossings.iter().filter_map(of_crossing);
    let machines = facts.machines.iter().filter_map(of_machine);
    copies.chain(jobs).chain(arrivals).chain(machines).collect()
}

/// A reason in one clause, for whoever wants to stop the host.
#[must_use]
pub fn in_a_sentence(reason: &StopReason) -> String {
    match reason {
        StopReason::Copy { name, to, .. } => format!("worker {to} still copies volume {name} from here"),
        StopReason::Fork { name, fork_name, to, .. } => {
            format!("fork {fork_name} on worker {to} still copies from volume {name}")
        }
        StopReason::Readers { name, .. } => format!("volume {name} is read from elsewhere"),
        StopReason::Job { job, machine, to, .. } => {
            format!("job {job} moves machine {machine} to worker {to}")
        }
        StopReason::Arrival { machine, from, .. } => {
            format!("machine {machine} is on its way here from {from}")
        }
        StopReason::Machine { name, .. } => format!("machine {name} runs here"),
    }
}

/// The worker that owns the volume and still reads this copy of it.
fn owner(ownership: &Ownership) -> Option<&WorkerName> {
    match ownership {
        Ownership::HandedOver { to, .. } => Some(to),
        Ownership::Reserved { .. }
        | Ownership::Prepared { .. }
        | Ownership::Ours
        | Ownership::Sealed { .. }
        | Ownership::Retired { .. } => None,
    }
}

fn of_volume(facts: &Facts, volume: &Volume) -> Vec<StopReason> {
    let copy = VolumeKey { id: volume.id, generation: volume.generation };
    if let Some(to) = owner(&volume.ownership) {
        let next = VolumeKey { generation: copy.generation.next(), ..copy };
        let (name, left) = (volume.name.clone(), still_to_copy(facts, to, next));
        return vec![StopReason::Copy { copy, name, to: to.clone(), left }];
    }
    let forks = volume.forks.iter().map(|fork| StopReason::Fork {
        copy,
        name: volume.name.clone(),
        fork: fork.id,
        fork_name: fork.name.clone(),
        to: fork.worker.clone(),
        left: still_to_copy(facts, &fork.worker, VolumeKey { id: fork.id, generation: Generation::FIRST }),
    });
    let forks: Vec<_> = forks.collect();
    match of_readers(facts, volume, copy) {
        Some(readers) if forks.is_empty() => vec![readers],
        Some(_) | None => forks,
    }
}

/// Readers that nothing else explains: not a fork, nor the target of a move.
fn of_readers(facts: &Facts, volume: &Volume, copy: VolumeKey) -> Option<StopReason> {
    let is_served_here = matches!(volume.ownership, Ownership::Ours | Ownership::Sealed { .. });
    if !is_served_here || volume.machine.is_some_and(|machine| is_moving(&facts.jobs, machine)) {
        return None;
    }
    match (volume.readers, &volume.server) {
        (Some(0), _) | (None, ServerState::NotNeeded) => None,
        (connections, _) => Some(StopReason::Readers { copy, name: volume.name.clone(), connections }),
    }
}

fn is_moving(jobs: &[Job], machine: MachineId) -> bool {
    jobs.iter().filter(|job| !job.state.is_final()).any(|job| {
        let JobKind::Move { machine: moved, .. } = job.kind else { return false };
        moved == machine
    })
}

fn still_to_copy(facts: &Facts, worker: &WorkerName, clone: VolumeKey) -> StillToCopy {
    let unknown = |why: String| StillToCopy { unknown: Some(why), ..StillToCopy::default() };
    let told = match facts.told.get(worker) {
        Some(Ok(told)) => told,
        Some(Err(why)) => return unknown(why.clone()),
        None => return unknown(format!("worker {worker} was not asked")),
    };
    let of_clone = |volume: &&Volume| volume.id == clone.id && volume.generation == clone.generation;
    let Some(found) = told.iter().find(of_clone) else {
        return unknown(format!("worker {worker} has no copy {clone}: not yet, or no longer"));
    };
    let is_whole = matches!(found.ownership, Ownership::Retired { .. })
        || found.hydration.is_some_and(|counted| counted.complete);
    if is_whole {
        return StillToCopy { bytes: Some(0), eta_ms: Some(0), unknown: None };
    }
    let Some(counted) = found.hydration else {
        return unknown(format!("the volume server of {clone} on worker {worker} does not answer"));
    };
    let bytes = counted.bytes_to_copy;
    // Without a byte that is known to be left the end is still to be noted, or the source still to be asked.
    let eta_ms = bytes.saturating_mul(1000).checked_div(counted.rate_bytes_per_s).filter(|_| bytes > 0);
    StillToCopy { bytes: Some(bytes), eta_ms, unknown: None }
}

/// A job that has children keeps the worker by them.
fn of_job(job: &Job) -> Option<StopReason> {
    let JobKind::Move { machine_name, to, .. } = &job.kind else { return None };
    let step = job.steps.iter().find(|step| step.state != StepState::Done);
    Some(StopReason::Job {
        job: job.id,
        machine: machine_name.clone(),
        to: to.clone(),
        step: step.map(|step| step.step.clone()),
        parked: job.state == ferry_api::JobState::Parked,
        eta_ms: job.progress.and_then(|progress| progress.eta_ms),
    })
}

/// Until it is booted here its source's job waits for this worker: after the hand-over with the machine down.
fn of_crossing(crossing: &CrossingRecord) -> Option<StopReason> {
    let reserve = crossing.reserve.as_ref()?;
    match crossing.state {
        CrossingState::Reserved | CrossingState::Prepared | CrossingState::Activated => {
            Some(StopReason::Arrival {
                job: crossing.job,
                machine: reserve.machine_name.clone(),
                from: reserve.from.clone(),
            })
        }
        CrossingState::Booted | CrossingState::Settled | CrossingState::Released => None,
    }
}

fn of_machine(machine: &Machine) -> Option<StopReason> {
    match machine.state {
        MachineState::Stopped | MachineState::HandedOver { .. } => None,
        MachineState::Starting { .. }
        | MachineState::Running { .. }
        | MachineState::Restarting { .. }
        | MachineState::Halted { .. } => {
            Some(StopReason::Machine { machine: machine.id, name: machine.name.clone() })
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ferry_api::{
        Desired, Hydration, JobId, JobState, LossPolicy, MachineSpec, Progress, VolumeFork, VolumeId,
        VolumePace,
    };

    fn w(name: &str) -> WorkerName {
        name.parse().unwrap()
    }

    fn none() -> Facts {
        Facts {
            crossings: Vec::new(),
            jobs: Vec::new(),
            machines: Vec::new(),
            volumes: Vec::new(),
            told: BTreeMap::new(),
        }
    }

    pub(crate) fn volume(ownership: Ownership) -> Volume {
        Volume {
            id: VolumeId::fresh(),
            name: "data".parse().unwrap(),
            generation: Generation(4),
            worker: w("w1"),
            machine: None,
            size_bytes: 1 << 30,
            region_bytes: 1 << 20,
            ownership,
            server: ServerState::Running { pid: 1 },
            phase: None,
            source: None,
            hydration: None,
            pace: VolumePace::default(),
            frontends: Vec::new(),
            loss_policy: LossPolicy::default(),
            guest_uri: String::new(),
            export_uri: None,
            store: None,
            direct: false,
            store_bytes_allocated: Some(0),
            disk_trouble: None,
            readers: Some(0),
            forks: Vec::new(),
            lineage: ferry_api::Lineage::default(),
            created_at_ms: 0,
        }
    }

    fn handed_over() -> Volume {
        volume(Ownership::HandedOver { to: w("w2"), job: JobId::fresh() })
    }

    /// The copy that `w2` has of a volume that was handed over to it.
    fn arrived(sealed: &Volume, hydration: Option<Hydration>) -> Volume {
        let generation = sealed.generation.next();
        Volume { worker: w("w2"), generation, ownership: Ownership::Ours, hydration, ..sealed.clone() }
    }

    fn hydration(bytes_to_copy: u64, rate_bytes_per_s: u64) -> Hydration {
        Hydration { bytes_remote: 1 << 29, bytes_to_copy, rate_bytes_per_s, ..Hydration::default() }
    }

    /// What is left to copy of the only volume when `w2` tells this.
    fn left_if(sealed: &Volume, told: Result<Vec<Volume>, String>) -> StillToCopy {
        let facts =
            Facts { volumes: vec![sealed.clone()], told: BTreeMap::from([(w("w2"), told)]), ..none() };
        match &reasons(&facts)[..] {
            [StopReason::Copy { to, left, .. }] if *to == w("w2") => left.clone(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn machine(state: MachineState) -> Machine {
        Machine {
            address: None,
            id: MachineId::fresh(),
            name: "web".parse().unwrap(),
            worker: w("w1"),
            generation: Generation::FIRST,
            spec: MachineSpec::process("sleep", ["1"]),
            volumes: Vec::new(),
            desired: Desired::Running,
            state,
            health: None,
            job: None,
            last_exit: None,
            start_ms: None,
            log: "machine.log".into(),
            created_at_ms: 0,
        }
    }

    fn job(machine: MachineId, state: JobState) -> Job {
        let machine_name = "web".parse().unwrap();
        Job {
            id: JobId::fresh(),
            kind: JobKind::Move { machine, machine_name, from: w("w1"), to: w("w2") },
            state,
            steps: Vec::new(),
            reason: None,
            progress: Some(Progress { eta_ms: Some(7), ..Progress::default() }),
            waiting: None,
            deadline_at_ms: None,
            parent: None,
            children: Vec::new(),
            created_at_ms: 0,
            finished_at_ms: None,
            last_seq: 1,
        }
    }

    #[test]
    fn a_worker_that_has_only_what_rests_is_safe_to_stop() {
        let gone = MachineState::HandedOver { to: w("w2") };
        let facts = Facts {
            jobs: vec![job(MachineId::fresh(), JobState::Succeeded)],
            machines: vec![machine(MachineState::Stopped), machine(gone)],
            volumes: vec![
                volume(Ownership::Ours),
                Volume { readers: None, ..volume(Ownership::Retired { to: w("w2"), until_ms: 1 }) },
            ],
            ..none()
        };
        assert_eq!(reasons(&facts), []);
        assert!(to_ask(&facts.volumes).is_empty());
    }

    #[test]
    fn a_copy_that_another_worker_hydrates_from_keeps_it_for_as_long_as_that_one_tells() {
        let sealed = handed_over();
        let left = left_if(&sealed, Ok(vec![arrived(&sealed, Some(hydration(3 << 20, 1 << 20)))]));
        assert_eq!(left, StillToCopy { bytes: Some(3 << 20), eta_ms: Some(3000), unknown: None });
        let still = left_if(&sealed, Ok(vec![arrived(&sealed, Some(hydration(3 << 20, 0)))]));
        assert_eq!((still.bytes, still.eta_ms), (Some(3 << 20), None));
        let uncounted = left_if(&sealed, Ok(vec![arrived(&sealed, Some(hydration(0, 1 << 20)))]));
        assert_eq!((uncounted.bytes, uncounted.eta_ms), (Some(0), None));
        assert_eq!(to_ask(&[sealed]), BTreeSet::from([w("w2")]));
    }

    #[test]
    fn a_copy_is_needed_until_it_is_retired_even_if_its_reader_is_whole() {
        let sealed = handed_over();
        let whole = Hydration { complete: true, ..Hydration::default() };
        let moved_on = Ownership::Retired { to: w("w3"), until_ms: 1 };
        for clone in [
            arrived(&sealed, Some(whole)),
            Volume { ownership: moved_on, hydration: None, ..arrived(&sealed, None) },
        ] {
            let left = left_if(&sealed, Ok(vec![clone]));
            assert_eq!(left, StillToCopy { bytes: Some(0), eta_ms: Some(0), unknown: None });
        }
    }

    #[test]
    fn a_reader_that_cannot_be_asked_makes_nothing_safe() {
        let sealed = handed_over();
        let other_generation = Volume { generation: sealed.generation, ..arrived(&sealed, None) };
        for (told, says) in [
            (Err("the agent cannot be reached".to_owned()), "cannot be reached"),
            (Ok(Vec::new()), "has no copy"),
            (Ok(vec![other_generation]), "has no copy"),
            (Ok(vec![arrived(&sealed, None)]), "does not answer"),
        ] {
            let left = left_if(&sealed, told);
            assert_eq!((left.bytes, left.eta_ms), (None, None));
            assert!(left.unknown.as_ref().unwrap().contains(says), "{left:?}");
        }
        let facts = Facts { volumes: vec![sealed], ..none() };
        assert_eq!(reasons(&facts).len(), 1, "nobody was asked at all");
    }

    #[test]
    fn forks_that_are_not_whole_keep_it_here_and_there() {
        let fork = |worker: &str| VolumeFork {
            id: VolumeId::fresh(),
            name: "copy".parse().unwrap(),
            worker: w(worker),
            bytes_kept: None,
            bytes_owed: 0,
            readers: 1,
        };
        let (here, there) = (fork("w1"), fork("w2"));
        let origin = Volume { forks: vec![here.clone(), there], readers: Some(2), ..volume(Ownership::Ours) };
        let own = Volume {
            id: here.id,
            generation: Generation::FIRST,
            hydration: Some(hydration(1 << 20, 1 << 20)),
            ..volume(Ownership::Ours)
        };
        assert_eq!(to_ask(std::slice::from_ref(&origin)), BTreeSet::from([w("w1"), w("w2")]));
        let told = BTreeMap::from([(w("w1"), Ok(vec![own])), (w("w2"), Err("away".to_owned()))]);
        let found = reasons(&Facts { volumes: vec![origin], told, ..none() });
        let left = |reason: &StopReason| {
            let StopReason::Fork { left, .. } = reason else { panic!("{reason:?}") };
            (left.bytes, left.eta_ms)
        };
        let lefts: Vec<_> = found.iter().map(left).collect();
        assert_eq!(lefts, [(Some(1 << 20), Some(1000)), (None, None)]);
    }

    #[test]
    fn readers_that_nothing_explains_keep_it_and_so_does_a_server_that_does_not_tell() {
        let read = Volume { readers: Some(2), ..volume(Ownership::Ours) };
        let mute = Volume {
            readers: None,
            server: ServerState::Down { reason: "gone".to_owned() },
            ..volume(Ownership::Ours)
        };
        let found = reasons(&Facts { volumes: vec![read.clone(), mute], ..none() });
        let connections = |reason: &StopReason| {
            let StopReason::Readers { connections, .. } = reason else { panic!("{reason:?}") };
            *connections
        };
        let connections: Vec<_> = found.iter().map(connections).collect();
        assert_eq!(connections, [Some(2), None]);
        // The target of a move that is prepared: the job is the reason.
        let moving = MachineId::fresh();
        let facts = Facts {
            jobs: vec![job(moving, JobState::Running)],
            volumes: vec![Volume { machine: Some(moving), ..read }],
            ..none()
        };
        assert!(matches!(reasons(&facts)[..], [StopReason::Job { eta_ms: Some(7), parked: false, .. }]));
    }

    #[test]
    fn jobs_that_have_not_ended_keep_it_also_those_that_wait_for_a_person() {
        for (state, keeps) in [
            (JobState::Waiting, true),
            (JobState::Running, true),
            (JobState::Unwinding, true),
            (JobState::Parked, true),
            (JobState::Failed, false),
            (JobState::Cancelled, false),
        ] {
            let found = reasons(&Facts { jobs: vec![job(MachineId::fresh(), state)], ..none() });
            assert_eq!(!found.is_empty(), keeps, "{state:?}");
        }
    }

    #[test]
    fn a_machine_keeps_it_from_its_reservation_here_until_it_stops_or_is_another_workers() {
        let states = [
            MachineState::Starting { waits_for: "its volumes".to_owned() },
            MachineState::Running { pid: 1, since_ms: 1 },
            MachineState::Restarting { retry_at_ms: 1, restarts: 1 },
            MachineState::Halted { job: JobId::fresh() },
        ];
        let machines: Vec<_> = states.map(machine).into();
        assert_eq!(reasons(&Facts { machines, ..none() }).len(), 4);
        for (state, keeps) in [
            (CrossingState::Reserved, true),
            (CrossingState::Prepared, true),
            (CrossingState::Activated, true),
            (CrossingState::Booted, false),
            (CrossingState::Settled, false),
            (CrossingState::Released, false),
        ] {
            let found = reasons(&Facts { crossings: vec![crossing(state)], ..none() });
            assert_eq!(!found.is_empty(), keeps, "{state:?}");
        }
    }

    fn crossing(state: CrossingState) -> CrossingRecord {
        let job = JobId::fresh();
        let reserve = ferry_api::Reserve {
            job,
            from: w("w2"),
            api_version: ferry_api::API_VERSION,
            machine: MachineId::fresh(),
            machine_name: "web".parse().unwrap(),
            machine_generation: Generation(2),
            spec: MachineSpec::process("sleep", ["1"]),
            created_at_ms: 0,
            volumes: Vec::new(),
            undo_unhealthy: false,
        };
        CrossingRecord {
            job,
            state,
            reserve: Some(reserve),
            activated_at_ms: None,
            booted_at_ms: None,
            judged: None,
            awaited: None,
            after_move: None,
        }
    }
}
