//! Changes of the records, each with the conditions under which it fits.
//!
//! The conditions are the fence of the crossing: a generation that was handed over is never taken back, whatever
//! is asked and however often. Where the records lie ([`Rows`]) is not known here.

use crate::leases;
use crate::records::{
    CrossingRecord, DrainRecord, FilesystemMark, ForkRecord, JobRecord, MachineRecord, MemoryMoves,
    ProcessMark, SourceRecord, Standing, VolumeRecord, WorkerRecord,
};
use crate::refusal::ChangeRefused;
use ferry_api::{
    Cordon, Desired, Exit, GroupName, JobId, Lease, LeaseId, MachineId, MachineName, Ownership, VolumeId,
    VolumeKey, VolumeName, WorkerName,
};
use std::num::NonZeroU64;

/// Where records are read and put: within one transaction, of which a caller that is told an error keeps nothing.
pub trait Rows {
    /// Why a row cannot be read or put.
    type Error: From<ChangeRefused>;

    /// The machine of that id.
    ///
    /// # Errors
    /// The row cannot be read. The same holds for all that follow.
    fn machine(&self, id: MachineId) -> Result<Option<MachineRecord>, Self::Error>;
    /// Whether a machine that is ours has that name.
    ///
    /// # Errors
    /// As above.
    fn is_name_taken(&self, name: &MachineName) -> Result<bool, Self::Error>;
    /// A copy of a volume.
    ///
    /// # Errors
    /// As above.
    fn volume(&self, key: VolumeKey) -> Result<Option<VolumeRecord>, Self::Error>;
    /// The job of that id.
    ///
    /// # Errors
    /// As above.
    fn job(&self, id: JobId) -> Result<Option<JobRecord>, Self::Error>;
    /// What is set for the worker.
    ///
    /// # Errors
    /// As above.
    fn worker(&self) -> Result<WorkerRecord, Self::Error>;

    /// Puts a machine in the place of the one of its id.
    ///
    /// # Errors
    /// The row cannot be put. The same holds for all that follow.
    fn put_machine(&mut self, machine: &MachineRecord) -> Result<(), Self::Error>;
    /// Removes a machine, if it is there.
    ///
    /// # Errors
    /// As above.
    fn remove_machine(&mut self, id: MachineId) -> Result<(), Self::Error>;
    /// Puts a copy of a volume in the place of the one of its key.
    ///
    /// # Errors
    /// As above.
    fn put_volume(&mut self, volume: &VolumeRecord) -> Result<(), Self::Error>;
    /// Removes a copy of a volume, if it is there.
    ///
    /// # Errors
    /// As above.
    fn remove_volume(&mut self, key: VolumeKey) -> Result<(), Self::Error>;
    /// Puts a job in the place of the one of its id.
    ///
    /// # Errors
    /// As above.
    fn put_job(&mut self, job: &JobRecord) -> Result<(), Self::Error>;
    /// Removes a job with its journal, if it is there.
    ///
    /// # Errors
    /// As above.
    fn remove_job(&mut self, id: JobId) -> Result<(), Self::Error>;
    /// Puts a move to this worker in the place of the one of its job.
    ///
    /// # Errors
    /// As above.
    fn put_crossing(&mut self, crossing: &CrossingRecord) -> Result<(), Self::Error>;
    /// Removes a move to this worker, if it is there.
    ///
    /// # Errors
    /// As above.
    fn remove_crossing(&mut self, job: JobId) -> Result<(), Self::Error>;
    /// Puts what is set for the worker.
    ///
    /// # Errors
    /// As above.
    fn put_worker(&mut self, worker: &WorkerRecord) -> Result<(), Self::Error>;
}

/// A change of the records. Repeating one that was made changes nothing and is no error, unless said otherwise.
#[derive(Clone, Debug)]
pub enum Change {
    /// A machine becomes ours: a new one, or one that came here with a move (then its generation is above that of
    /// the record it replaces, if there is one). Not to be repeated.
    AddMachine(Box<MachineRecord>),
    /// The record of a machine goes.
    RemoveMachine(MachineId),
    /// A job takes hold of a machine. Refused while another one holds it, and for a machine that is not ours.
    Claim {
        /// The machine.
        machine: MachineId,
        /// The job.
        job: JobId,
    },
    /// A job lets go of a machine (nothing changes if it does not hold it); it also no longer keeps it down.
    Unclaim {
        /// The machine.
        machine: MachineId,
        /// The job.
        job: JobId,
    },
    /// The job that holds a machine keeps it down from now on, or no longer.
    Halt {
        /// The machine.
        machine: MachineId,
        /// The job; it must hold the machine.
        job: JobId,
        /// Whether it is kept down.
        halted: bool,
    },
    /// As [`Change::Halt`], but by pausing it: its process stays, with the memory that moves.
    Pause {
        /// The machine.
        machine: MachineId,
        /// The job; it must hold the machine.
        job: JobId,
        /// Whether it is kept paused.
        paused: bool,
    },
    /// The memory of a machine has left, or never will: what is left of its process here is ended. Nothing changes if it did
    /// not move away.
    MemoryLeft(MachineId),
    /// The memory of a machine has arrived: its process is the machine, since then; or it never will and runs nowhere: without a
    /// process the machine is started anew. Nothing changes if it was not waited for.
    MemoryArrived {
        /// The machine.
        machine: MachineId,
        /// When, in milliseconds since 1970.
        at_ms: u64,
    },
    /// A machine is to be destroyed, and to stop first. Refused for a machine that a job holds or that is not ours.
    Doom(MachineId),
    /// What the owner wants. Refused for a machine that a job holds.
    Desire {
        /// The machine.
        machine: MachineId,
        /// What is wanted.
        desired: Desired,
    },
    /// A process of a machine is about to run. Refused unless the machine is to run and no process is recorded.
    ProcessStarts {
        /// The machine.
        machine: MachineId,
        /// Its process.
        process: ProcessMark,
        /// How long it took to make it, its disks included, in milliseconds.
        took_ms: u64,
    },
    /// The process of a machine is gone.
    ProcessEnded {
        /// The machine.
        machine: MachineId,
        /// How it ended; none if it never ran.
        exit: Option<Exit>,
        /// Whether it ended by itself and its policy is to leave it: it is then wanted to be stopped.
        stays_down: bool,
    },
    /// A copy of a volume appears. Not to be repeated.
    AddVolume(Box<VolumeRecord>),
    /// The directory of a copy was made.
    Made(VolumeKey),
    /// What this worker may do with a copy changes. Refused unless it follows from what it is (see [`Ownership`]).
    Own {
        /// The copy.
        key: VolumeKey,
        /// What it becomes.
        ownership: Ownership,
    },
    /// A volume becomes a disk of a machine. Refused if it is one already or is not ours.
    Attach {
        /// The copy.
        key: VolumeKey,
        /// The machine.
        machine: MachineId,
        /// Its name there.
        name: VolumeName,
    },
    /// A volume is no longer a disk of a machine and has this name.
    Detach {
        /// The copy.
        key: VolumeKey,
        /// Its name.
        name: VolumeName,
    },
    /// The remote blocks of a copy come from elsewhere, or none are left (`None`: nothing more is expected either, and its
    /// base is let go).
    Source {
        /// The copy.
        key: VolumeKey,
        /// From where.
        source: Option<SourceRecord>,
    },
    /// The hydration of a copy that was handed over rests from now on.
    Rest(VolumeKey),
    /// A clone is about to read a snapshot of a copy that is ours.
    AddFork {
        /// The copy.
        key: VolumeKey,
        /// The clone.
        fork: Box<ForkRecord>,
    },
    /// A clone reads it no longer.
    RemoveFork {
        /// The copy.
        key: VolumeKey,
        /// The clone.
        fork: VolumeId,
    },
    /// A copy has grown.
    Size {
        /// The copy.
        key: VolumeKey,
        /// Its size in bytes.
        size_bytes: u64,
    },
    /// How far the file system of a copy is. Nothing changes for one that was not created to have one, and it never goes back.
    Filesystem {
        /// The copy.
        key: VolumeKey,
        /// How far it is.
        mark: FilesystemMark,
    },
    /// The record of a copy goes.
    RemoveVolume(VolumeKey),
    /// The deed: `job` hands over the machine it holds and all its volumes. Refused unless the machine is ours,
    /// held and kept down by the job, without a process or paused, and every volume is sealed by the job.
    HandOver {
        /// The job.
        job: JobId,
        /// The machine.
        machine: MachineId,
        /// The owner of the next generation.
        to: WorkerName,
    },
    /// A job is taken on. Not to be repeated.
    AddJob(Box<JobRecord>),
    /// A job has ended.
    FinishJob(JobId),
    /// A job that has ended is forgotten with its journal. May be repeated.
    ForgetJob(JobId),
    /// How a move stands of which this worker is the target.
    Crossing(Box<CrossingRecord>),
    /// A move to this worker is forgotten; only for one of which nobody can need that
    /// ([`is_spent`](crate::history::is_spent)).
    ForgetCrossing(JobId),
    /// The most that all hydrations together fetch in the background a second; none: as much as goes.
    Budget(Option<NonZeroU64>),
    /// The same of those that read from one other worker.
    PairBudget {
        /// That worker.
        from: WorkerName,
        /// The most; none: as much as goes.
        bytes_per_s: Option<NonZeroU64>,
    },
    /// The worker takes no machines from now on, by the word of a person, or takes some again.
    /// That it takes some again is refused while it is drained.
    Cordon(Option<Cordon>),
    /// A job empties the worker from now on, which takes no machines until that ends. Refused while another one does.
    DrainBegins {
        /// The job.
        job: JobId,
        /// When, in milliseconds since 1970.
        at_ms: u64,
    },
    /// The job that empties the worker begins no further move, or goes on. Refused if it does not empty it.
    DrainPaused {
        /// The job.
        job: JobId,
        /// Whether it begins none.
        paused: bool,
    },
    /// The job that empties the worker has ended: an emptied one stays cordoned, any other takes machines as before. Nothing changes if
    /// that job does not empty it.
    DrainEnds {
        /// The job.
        job: JobId,
        /// Whether the worker is empty.
        emptied: bool,
        /// When, in milliseconds since 1970.
        at_ms: u64,
    },
    /// A move may have a machine of a group down, and no other may. Refused while another one has the lease that is not the one
    /// which is over.
    GiveLease {
        /// The group.
        group: GroupName,
        /// What is given.
        lease: Lease,
        /// The one that is known to be over.
        instead_of: Option<LeaseId>,
    },
    /// A lease is over. Nothing changes if another one is given.
    EndLease {
        /// The group.
        group: GroupName,
        /// The lease.
        id: LeaseId,
    },
}

/// What a change was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// A machine.
    Machine(MachineId),
    /// A machine and its volumes.
    MachineWithVolumes(MachineId),
    /// A copy of a volume.
    Volume(VolumeKey),
}

impl Change {
    /// What the change is about, if it is about a machine or a volume.
    pub fn touches(&self) -> Option<Touched> {
        match self {
            Self::AddMachine(record) => Some(Touched::Machine(record.id)),
            Self::RemoveMachine(machine)
            | Self::Doom(machine)
            | Self::Claim { machine, .. }
            | Self::Unclaim { machine, .. }
            | Self::Halt { machine, .. }
            | Self::Pause { machine, .. }
            | Self::MemoryLeft(machine)
            | Self::MemoryArrived { machine, .. }
            | Self::Desire { machine, .. }
            | Self::ProcessStarts { machine, .. }
            | Self::ProcessEnded { machine, .. } => Some(Touched::Machine(*machine)),
            Self::HandOver { machine, .. } => Some(Touched::MachineWithVolumes(*machine)),
            Self::AddVolume(record) => Some(Touched::Volume(record.key())),
            Self::Made(key)
            | Self::Own { key, .. }
            | Self::Attach { key, .. }
            | Self::Detach { key, .. }
            | Self::Source { key, .. }
            | Self::Rest(key)
            | Self::Filesystem { key, .. }
            | Self::Size { key, .. }
            | Self::AddFork { key, .. }
            | Self::RemoveFork { key, .. }
            | Self::RemoveVolume(key) => Some(Touched::Volume(*key)),
            Self::AddJob(_)
            | Self::FinishJob(_)
            | Self::ForgetJob(_)
            | Self::Crossing(_)
            | Self::ForgetCrossing(_)
            | Self::Budget(_)
            | Self::PairBudget { .. }
            | Self::Cordon(_)
            | Self::DrainBegins { .. }
            | Self::DrainPaused { .. }
            | Self::DrainEnds { .. }
            | Self::GiveLease { .. }
            | Self::EndLease { .. } => None,
        }
    }

    /// Makes the change.
    ///
    /// # Errors
    /// It does not fit what the records say; or they cannot be read or written.
    pub fn apply<R: Rows>(&self, t: &mut R) -> Result<(), R::Error> {
        match self {
            Self::AddMachine(machine) => add_machine(t, machine),
            Self::RemoveMachine(id) => t.remove_machine(*id),
            Self::Claim { machine, job } => change_machine(t, *machine, |m| claim(m, *job)),
            Self::Unclaim { machine, job } => unclaim(t, *machine, *job),
            Self::Halt { machine, job, halted } => change_machine(t, *machine, |m| halt(m, *job, *halted)),
            Self::Pause { machine, job, paused } => change_machine(t, *machine, |m| pause(m, *job, *paused)),
            Self::MemoryLeft(machine) => memory_moved(t, *machine, MemoryMoves::Away, None),
            Self::MemoryArrived { machine, at_ms } => {
                memory_moved(t, *machine, MemoryMoves::Here, Some(*at_ms))
            }
            Self::Doom(machine) => change_machine(t, *machine, doom),
            Self::Desire { machine, desired } => change_machine(t, *machine, |m| desire(m, *desired)),
            Self::ProcessStarts { machine, process, took_ms } => {
                change_machine(t, *machine, |m| starts(m, process, *took_ms))
            }
            Self::ProcessEnded { machine, exit, stays_down } => change_machine(t, *machine, |m| {
                m.process = None;
                m.memory = m.memory.filter(|moves| *moves != MemoryMoves::Left);
                m.last_exit = exit.or(m.last_exit);
                if *stays_down {
                    m.desired = Desired::Stopped;
                }
                Ok(())
            }),
            Self::AddVolume(volume) => add_volume(t, volume),
            Self::Made(key) => change_volume(t, *key, |v| {
                v.made = true;
                Ok(())
            }),
            Self::Own { key, ownership } => change_volume(t, *key, |v| own(v, ownership)),
            Self::Attach { key, machine, name } => change_volume(t, *key, |v| attach(v, *machine, name)),
            Self::Detach { key, name } => change_volume(t, *key, |v| {
                v.machine = None;
                v.name.clone_from(name);
                Ok(())
            }),
            Self::Source { key, source } => change_volume(t, *key, |v| reads_from(v, source.as_ref())),
            Self::Filesystem { key, mark } => change_volume(t, *key, |v| filesystem(v, *mark)),
            Self::Rest(key) => change_volume(t, *key, |v| {
                v.rests = true;
                Ok(())
            }),
            Self::AddFork { key, fork } => change_volume(t, *key, |v| add_fork(v, fork)),
            Self::RemoveFork { key, fork } => change_volume(t, *key, |v| remove_fork(v, *fork)),
            Self::Size { key, size_bytes } => change_volume(t, *key, |v| {
                v.size_bytes = v.size_bytes.max(*size_bytes);
                Ok(())
            }),
            Self::RemoveVolume(key) => t.remove_volume(*key),
            Self::HandOver { job, machine, to } => hand_over(t, *job, *machine, to),
            Self::AddJob(job) => add_job(t, job),
            Self::FinishJob(id) => finish_job(t, *id),
            Self::ForgetJob(id) => forget_job(t, *id),
            Self::Crossing(crossing) => t.put_crossing(crossing),
            Self::ForgetCrossing(job) => t.remove_crossing(*job),
            Self::Budget(budget) => change_worker(t, |worker| budgets(worker, *budget)),
            Self::Cordon(cordon) => change_worker(t, |worker| cordons(worker, cordon.as_ref())),
            Self::DrainBegins { job, at_ms } => change_worker(t, |worker| drain_begins(worker, *job, *at_ms)),
            Self::DrainPaused { .. }
            | Self::DrainEnds { .. }
            | Self::PairBudget { .. }
            | Self::GiveLease { .. }
            | Self::EndLease { .. } => change_worker(t, |worker| of_worker(worker, self)),
        }
    }
}

fn change_worker<R: Rows>(
    t: &mut R,
    change: impl FnOnce(&mut WorkerRecord) -> Result<(), ChangeRefused>,
) -> Result<(), R::Error> {
    let mut worker = t.worker()?;
    change(&mut worker)?;
    t.put_worker(&worker)
}

/// What is set for the worker as a whole changes.
fn of_worker(worker: &mut WorkerRecord, change: &Change) -> Result<(), ChangeRefused> {
    if let Change::DrainPaused { job, paused } = change {
        drain_pauses(worker, *job, *paused)?;
    }
    if let Change::DrainEnds { job, emptied, at_ms } = change {
        drain_ends(worker, *job, *emptied, *at_ms)?;
    }
    if let Change::PairBudget { from, bytes_per_s } = change {
        match bytes_per_s {
            Some(most) => drop(worker.pair_budgets_bytes_per_s.insert(from.clone(), *most)),
            None => drop(worker.pair_budgets_bytes_per_s.remove(from)),
        }
    }
    if let Change::EndLease { group, id } = change {
        leases::end(worker, group, *id);
    }
    if let Change::GiveLease { group, lease, instead_of } = change {
        leases::give(worker, group, lease, *instead_of)?;
    }
    Ok(())
}

fn budgets(worker: &mut WorkerRecord, budget: Option<NonZeroU64>) -> Result<(), ChangeRefused> {
    worker.budget_bytes_per_s = budget;
    Ok(())
}

fn cordons(worker: &mut WorkerRecord, cordon: Option<&Cordon>) -> Result<(), ChangeRefused> {
    match (cordon, &worker.drain) {
        (None, Some(drain)) => Err(ChangeRefused::Drained(drain.job)),
        (Some(_), _) | (None, None) => {
            worker.cordon = cordon.cloned();
            Ok(())
        }
    }
}

fn drain_begins(worker: &mut WorkerRecord, job: JobId, at_ms: u64) -> Result<(), ChangeRefused> {
    match &worker.drain {
        Some(drain) if drain.job != job => Err(ChangeRefused::Drained(drain.job)),
        Some(_) => Ok(()),
        None => {
            worker.drain = Some(DrainRecord { job, since_ms: at_ms, paused: false });
            Ok(())
        }
    }
}

fn drain_pauses(worker: &mut WorkerRecord, job: JobId, paused: bool) -> Result<(), ChangeRefused> {
    let drain = worker.drain.as_mut().filter(|drain| drain.job == job);
    drain.ok_or(ChangeRefused::NotDrained(job))?.paused = paused;
    Ok(())
}

fn drain_ends(worker: &mut WorkerRecord, job: JobId, emptied: bool, at_ms: u64) -> Result<(), ChangeRefused> {
    if worker.drain.take_if(|drain| drain.job == job).is_some() && emptied {
        let drained = || Cordon { since_ms: at_ms, reason: Some(format!("job {job} has drained it")) };
        worker.cordon.get_or_insert_with(drained);
    }
    Ok(())
}

fn add_machine<R: Rows>(t: &mut R, machine: &MachineRecord) -> Result<(), R::Error> {
    if let Some(here) = t.machine(machine.id)? {
        let comes_back = here.standing != Standing::Ours && here.generation < machine.generation;
        if !comes_back {
            return Err(ChangeRefused::MachineHere(machine.id).into());
        }
    }
    if t.is_name_taken(&machine.name)? {
        return Err(ChangeRefused::MachineNameTaken(machine.name.clone()).into());
    }
    t.put_machine(machine)
}

fn halt(machine: &mut MachineRecord, job: JobId, halted: bool) -> Result<(), ChangeRefused> {
    held_by(machine, job)?;
    machine.halted = halted;
    Ok(())
}

fn pause(machine: &mut MachineRecord, job: JobId, paused: bool) -> Result<(), ChangeRefused> {
    halt(machine, job, paused)?;
    machine.memory = paused.then_some(MemoryMoves::Away);
    Ok(())
}

fn starts(machine: &mut MachineRecord, process: &ProcessMark, took_ms: u64) -> Result<(), ChangeRefused> {
    ours(machine)?;
    if !machine.shall_run() || machine.process.is_some() {
        return Err(ChangeRefused::MayNotStart(machine.name.clone()));
    }
    machine.process = Some(process.clone());
    machine.start_ms = Some(took_ms);
    Ok(())
}

fn desire(machine: &mut MachineRecord, desired: Desired) -> Result<(), ChangeRefused> {
    ours(machine)?;
    free(machine)?;
    spared(machine)?;
    let was_told = machine.desired == Desired::Running;
    machine.desired = desired;
    if desired == Desired::Running && was_told && machine.lost_its_memory() {
        // Who starts it though it was to run knows why it does not, and that it runs nowhere else.
        machine.memory = None;
    }
    Ok(())
}

fn memory_moved<R: Rows>(
    t: &mut R,
    machine: MachineId,
    moved: MemoryMoves,
    began_at_ms: Option<u64>,
) -> Result<(), R::Error> {
    let known = t.machine(machine)?;
    let Some(mut record) = known.filter(|record| record.memory == Some(moved)) else { return Ok(()) };
    record.memory = (moved == MemoryMoves::Away && record.process.is_some()).then_some(MemoryMoves::Left);
    if let (Some(process), Some(at_ms)) = (&mut record.process, began_at_ms) {
        process.started_at_ms = at_ms;
    }
    t.put_machine(&record)
}

fn claim(machine: &mut MachineRecord, job: JobId) -> Result<(), ChangeRefused> {
    ours(machine)?;
    spared(machine)?;
    if machine.job != Some(job) {
        free(machine)?;
    }
    if machine.memory == Some(MemoryMoves::Here) {
        // It may still run where it comes from, and nothing but that worker's word says that it does not.
        return Err(ChangeRefused::Arriving(machine.name.clone()));
    }
    machine.job = Some(job);
    Ok(())
}

fn unclaim<R: Rows>(t: &mut R, machine: MachineId, job: JobId) -> Result<(), R::Error> {
    match t.machine(machine)? {
        Some(mut record) if record.job == Some(job) => {
            record.job = None;
            record.halted = false;
            record.memory = record.memory.filter(|moves| *moves == MemoryMoves::Here);
            t.put_machine(&record)
        }
        // Gone, or another job's by now (it may have come back meanwhile).
        Some(_) | None => Ok(()),
    }
}

fn ours(machine: &MachineRecord) -> Result<(), ChangeRefused> {
    match &machine.standing {
        Standing::Ours => Ok(()),
        Standing::HandedOver { to, job } => {
            Err(ChangeRefused::MachineHandedOver { name: machine.name.clone(), to: to.clone(), job: *job })
        }
    }
}

fn free(machine: &MachineRecord) -> Result<(), ChangeRefused> {
    match machine.job {
        None => Ok(()),
        Some(job) => Err(ChangeRefused::Held { name: machine.name.clone(), job }),
    }
}

fn doom(machine: &mut MachineRecord) -> Result<(), ChangeRefused> {
    ours(machine)?;
    free(machine)?;
    (machine.doomed, machine.desired) = (true, Desired::Stopped);
    Ok(())
}

fn spared(machine: &MachineRecord) -> Result<(), ChangeRefused> {
    if machine.doomed { Err(ChangeRefused::Doomed(machine.name.clone())) } else { Ok(()) }
}

fn held_by(machine: &MachineRecord, job: JobId) -> Result<(), ChangeRefused> {
    ours(machine)?;
    if machine.job == Some(job) {
        return Ok(());
    }
    Err(ChangeRefused::NotHeld { name: machine.name.clone(), job })
}

fn add_volume<R: Rows>(t: &mut R, volume: &VolumeRecord) -> Result<(), R::Error> {
    if t.volume(volume.key())?.is_some() {
        return Err(ChangeRefused::VolumeHere(volume.key()).into());
    }
    t.put_volume(volume)
}

fn own(volume: &mut VolumeRecord, becomes: &Ownership) -> Result<(), ChangeRefused> {
    use Ownership::{HandedOver, Ours, Prepared, Reserved, Retired, Sealed};
    let fits = match (&volume.ownership, becomes) {
        (is, becomes) if is == becomes => true,
        (Reserved { job: a, .. }, Prepared { job: b, .. })
        | (Sealed { job: a }, HandedOver { job: b, .. }) => a == b,
        (Prepared { .. } | Sealed { .. }, Ours) | (Ours, Sealed { .. }) => true,
        (HandedOver { to: a, .. }, Retired { to: b, .. }) => a == b,
        (
            Reserved { .. } | Prepared { .. } | Ours | Sealed { .. } | HandedOver { .. } | Retired { .. },
            _,
        ) => false,
    };
    if !fits {
        let (is, becomes) = (word(&volume.ownership), word(becomes));
        return Err(ChangeRefused::Ownership { key: volume.key(), is, becomes });
    }
    volume.ownership = becomes.clone();
    if let Retired { .. } = becomes {
        volume.base = None;
    }
    Ok(())
}

fn remove_fork(volume: &mut VolumeRecord, fork: VolumeId) -> Result<(), ChangeRefused> {
    volume.forks.retain(|reader| reader.id != fork);
    Ok(())
}

fn add_fork(volume: &mut VolumeRecord, fork: &ForkRecord) -> Result<(), ChangeRefused> {
    if volume.ownership != Ownership::Ours {
        let is = word(&volume.ownership);
        return Err(ChangeRefused::Ownership { key: volume.key(), is, becomes: "the origin of a fork" });
    }
    volume.forks.retain(|reader| reader.id != fork.id);
    volume.forks.push(fork.clone());
    Ok(())
}

fn reads_from(volume: &mut VolumeRecord, source: Option<&SourceRecord>) -> Result<(), ChangeRefused> {
    volume.source = source.cloned();
    if source.is_none() {
        volume.bytes_expected = 0;
        volume.base = None;
    }
    Ok(())
}

fn attach(volume: &mut VolumeRecord, machine: MachineId, name: &VolumeName) -> Result<(), ChangeRefused> {
    if let Some(other) = volume.machine.filter(|&other| other != machine) {
        return Err(ChangeRefused::Attached { name: volume.name.clone(), machine: other });
    }
    if volume.ownership != Ownership::Ours {
        let is = word(&volume.ownership);
        return Err(ChangeRefused::Ownership { key: volume.key(), is, becomes: "a disk of a machine here" });
    }
    volume.machine = Some(machine);
    volume.name = name.clone();
    Ok(())
}

fn hand_over<R: Rows>(t: &mut R, job: JobId, machine: MachineId, to: &WorkerName) -> Result<(), R::Error> {
    let mut keys = Vec::new();
    change_machine(t, machine, |m| {
        held_by(m, job)?;
        let is_paused = m.memory == Some(MemoryMoves::Away);
        if (m.process.is_some() && !is_paused) || !m.halted {
            return Err(ChangeRefused::StillRuns(m.name.clone()));
        }
        m.standing = Standing::HandedOver { to: to.clone(), job };
        m.job = None;
        m.halted = false;
        m.memory = m.memory.filter(|_| m.process.is_some());
        keys = m.volume_keys().collect();
        Ok(())
    })?;
    for key in keys {
        change_volume(t, key, |v| own(v, &Ownership::HandedOver { to: to.clone(), job }))?;
    }
    Ok(())
}

fn add_job<R: Rows>(t: &mut R, job: &JobRecord) -> Result<(), R::Error> {
    if t.job(job.id)?.is_some() {
        return Err(ChangeRefused::JobThere(job.id).into());
    }
    t.put_job(job)
}

fn finish_job<R: Rows>(t: &mut R, id: JobId) -> Result<(), R::Error> {
    let mut job = t.job(id)?.ok_or(ChangeRefused::NoJob(id))?;
    job.finished = true;
    t.put_job(&job)
}

fn forget_job<R: Rows>(t: &mut R, id: JobId) -> Result<(), R::Error> {
    match t.job(id)? {
        Some(job) if !job.finished => Err(ChangeRefused::JobNotOver(id).into()),
        Some(_) => t.remove_job(id),
        None => Ok(()),
    }
}

fn change_machine<R: Rows>(
    t: &mut R,
    id: MachineId,
    change: impl FnOnce(&mut MachineRecord) -> Result<(), ChangeRefused>,
) -> Result<(), R::Error> {
    let mut machine = t.machine(id)?.ok_or(ChangeRefused::NoMachine(id))?;
    change(&mut machine)?;
    t.put_machine(&machine)
}

fn filesystem(volume: &mut VolumeRecord, mark: FilesystemMark) -> Result<(), ChangeRefused> {
    volume.filesystem = volume.filesystem.map(|known| known.max(mark));
    Ok(())
}

fn change_volume<R: Rows>(
    t: &mut R,
    key: VolumeKey,
    change: impl FnOnce(&mut VolumeRecord) -> Result<(), ChangeRefused>,
) -> Result<(), R::Error> {
    let mut volume = t.volume(key)?.ok_or(ChangeRefused::NoVolume(key))?;
    change(&mut volume)?;
    t.put_volume(&volume)
}

fn word(ownership: &Ownership) -> &'static str {
    match ownership {
        Ownership::Reserved { .. } => "reserved for a move",
        Ownership::Prepared { .. } => "prepared for a move",
        Ownership::Ours => "ours",
        Ownership::Sealed { .. } => "sealed by a move",
        Ownership::HandedOver { .. } => "handed over",
        Ownership::Retired { .. } => "retired",
    }
}
