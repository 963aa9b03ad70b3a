//! One worker: what its disk holds, what runs on it, and what its agent has in memory.
//!
//! Invariant: nothing here decides. Records change by [`ferry_crossing::Change`]; what is done follows from
//! [`ferry_crossing`] and [`ferry_fsm`]; this is the shell that the agent is in the product, without time and bytes.

use crate::ahead::{Copied, Mark};
use crate::books::Books;
use crate::memory::Memory;
use crate::names;
use crate::scope::{Bug, Cost, Scope};
use crate::source::Task;
use crate::target::{Based, Call};
use ferry_api::{
    CrossingState, Desired, ErrorCode, Generation, Hydration, JobId, Lineage, MachineId, ServerState, Volume,
    VolumeId, VolumeKey, VolumePhase, VolumeSource,
};
use ferry_crossing::minding::{Care, care};
use ferry_crossing::service::{self, Correction, Deletion, Service, Wish};
use ferry_crossing::{Change, CrossingRecord, Fence, ProcessMark, Subject, VolumeRecord, target};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Size of every volume of the model, in bytes: one block.
pub(crate) const SIZE_BYTES: u64 = 4096;

/// A worker.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// Its number.
    pub(crate) index: usize,
    /// Its agent's records.
    pub(crate) books: Rc<Books>,
    /// What a crash would leave of them, where that is less (see [`Bug::ActsBeforeDurable`]).
    pub(crate) durable: Option<Rc<Books>>,
    /// An older state of the records, kept elsewhere.
    pub(crate) backup: Option<Rc<Books>>,
    /// Directories of volumes. No backup is made of them.
    pub(crate) copies: BTreeMap<VolumeKey, Copy>,
    /// What it remembers of what it handed over. No backup is made of it either.
    pub(crate) fences: BTreeMap<Subject, Fence>,
    /// Machines that run.
    pub(crate) processes: Vec<Process>,
    /// Jobs that the agent is at: gone when it dies.
    pub(crate) tasks: BTreeMap<JobId, Task>,
    /// Whether the host was ever down: what ran then may still wait to be started again.
    pub(crate) was_down: bool,
}

/// What the directory of a volume holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    /// As its map says.
    pub(crate) phase: VolumePhase,
    /// The block: the number of the write it holds, or remote.
    pub(crate) block: Option<u8>,
    /// Whether a machine has written it since it was made.
    pub(crate) changed: bool,
    /// Its last mark, if that is still known.
    pub(crate) mark: Option<Mark>,
    /// Marks that it ever had.
    pub(crate) marks_made: u64,
    /// What it has copied ahead, while it stands by.
    pub(crate) copied: Option<Copied>,
}

impl Copy {
    /// One that nothing has happened to yet.
    pub(crate) const fn new(phase: VolumePhase, block: Option<u8>) -> Self {
        Self { phase, block, changed: false, mark: None, marks_made: 0, copied: None }
    }
}

/// A machine that runs, with the copies it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) keys: Vec<VolumeKey>,
    /// How its memory stands.
    pub(crate) memory: Memory,
    /// The job that had stopped it, if it was started for one that is undone.
    pub(crate) began_for: Option<JobId>,
}

/// What can happen at a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Input {
    /// The task of a job goes on by one act or one moment of a step.
    Tick(JobId),
    /// The call that a job waits for is answered.
    Answered(JobId, Result<Based, ErrorCode>),
    /// The call that a job waits for is given up.
    TimedOut(JobId),
    /// The job has looked at the target and found what it waits for.
    Found(JobId),
    /// A call arrives; `cut`: the agent dies right behind its transaction.
    Arrives { call: u8, cut: bool },
    /// The keeper of a copy looks at it.
    Keep(VolumeKey),
    /// The minder looks at the machine.
    Mind,
    /// The machine writes a volume, flushes, and is told that it is durable.
    Writes(VolumeId, u8),
    /// The block of a copy is fetched from its source.
    Fetched(VolumeKey, u8),
    /// A clone that copies ahead has read its source.
    Copied(VolumeKey, u8),
    /// Its sealed source tells it whether anything has changed since the mark.
    Told(VolumeKey, bool),
    /// It keeps what is right.
    Adopt(VolumeKey),
    /// The memory of a machine has been sent but for the rest, for which it is paused.
    MemoryCopied,
    /// The rest has been sent.
    RestSent,
    /// What was to take the memory is gone: the machine runs on.
    LinkBroken,
    /// All of it has come to a process that waits.
    MemoryArrives,
    /// A process that waits for memory dies.
    Dies,
    /// The job has asked the target, and nobody waits for the memory there any more.
    Unawaited(JobId),
    /// A retired copy has been kept long enough.
    Reap(VolumeKey),
    /// The source of an expected move says that it was undone.
    Undone(JobId),
    /// A move to here that is over is forgotten, since its source says that the job has ended.
    Forget(JobId),
    /// What a cut-off release left is removed.
    CleanUp,
    /// A person begins a move.
    Begin(JobId, usize),
    /// A person cancels one.
    Cancel(JobId),
    /// Its owner stops the machine, or starts it again.
    Desire(bool),
    /// Its owner destroys the machine: no job takes it any more, and it stops.
    Doom,
    /// What is left of a machine that is being destroyed is deleted.
    Bury,
    /// The agent dies and starts again.
    Crash,
    /// The host does.
    Reboot,
    /// A backup is made of the records.
    Backup,
    /// The host goes down and comes back with the backup for records.
    Restore,
}

impl Input {
    /// What of the budget it uses up.
    pub(crate) fn cost(self) -> Option<Cost> {
        match self {
            Self::TimedOut(_) => Some(Cost::Timeout),
            Self::Writes(..) => Some(Cost::Write),
            Self::Begin(..) => Some(Cost::Move),
            Self::Cancel(_) => Some(Cost::Cancel),
            Self::Crash | Self::Arrives { cut: true, .. } => Some(Cost::Crash),
            Self::Desire(_) => Some(Cost::Desire),
            Self::Doom => Some(Cost::Destroy),
            Self::Reboot => Some(Cost::Reboot),
            Self::Backup => Some(Cost::Backup),
            Self::Restore => Some(Cost::Restore),
            Self::Forget(_) => Some(Cost::Forget),
            Self::Dies => Some(Cost::Death),
            Self::Tick(_)
            | Self::Answered(..)
            | Self::Found(_)
            | Self::Arrives { cut: false, .. }
            | Self::Keep(_)
            | Self::Mind
            | Self::Fetched(..)
            | Self::Copied(..)
            | Self::Told(..)
            | Self::Adopt(_)
            | Self::MemoryCopied
            | Self::RestSent
            | Self::LinkBroken
            | Self::MemoryArrives
            | Self::Unawaited(_)
            | Self::Reap(_)
            | Self::Undone(_)
            | Self::CleanUp
            | Self::Bury => None,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Stepped {
    pub(crate) host: Host,
    /// A call that goes out.
    pub(crate) sends: Option<Call>,
    /// What a call that arrived is answered; none if the agent died over it.
    pub(crate) answers: Option<Result<Based, ErrorCode>>,
    /// A promise that was broken by the act itself.
    pub(crate) broken: Option<&'static str>,
}

impl Stepped {
    pub(crate) fn to(host: Host) -> Self {
        Self { host, sends: None, answers: None, broken: None }
    }
}

impl Host {
    /// What happens at the worker; none if it cannot happen now.
    pub(crate) fn step(&self, scope: &Scope, input: Input, calls: &[Call]) -> Option<Stepped> {
        let mut host = self.clone();
        match input {
            Input::Tick(job) => return host.tick(scope, job),
            Input::Answered(job, answer) => host.answered(scope, job, answer)?,
            Input::TimedOut(job) => host.timed_out(scope, job)?,
            Input::Found(job) => host.found(scope, job)?,
            Input::Arrives { call, cut } => return host.arrives(scope, &calls[usize::from(call)], cut),
            Input::Keep(key) => host.keep(scope, key).then_some(())?,
            Input::Mind => host.mind(scope)?,
            Input::Writes(volume, number) => host.writes(volume, number)?,
            Input::Fetched(key, number) => host.copies.get_mut(&key)?.block = Some(number),
            Input::Copied(key, number) => host.copied(key, number)?,
            Input::Told(key, is_changed) => host.told(key, is_changed)?,
            Input::Adopt(key) => host.adopt(key)?,
            Input::MemoryCopied | Input::RestSent | Input::LinkBroken | Input::MemoryArrives => {
                host.memory_moves(input)?;
            }
            Input::Dies => host.awaited_dies()?,
            Input::Unawaited(job) => host.unawaited(scope, job)?,
            Input::Reap(key) => host.delete(scope, key)?,
            Input::Undone(job) => host.release(scope, job, false).map(drop).ok()?,
            Input::Forget(job) => host.forget(scope, job)?,
            Input::CleanUp => host.clean_up(scope)?,
            Input::Begin(job, to) => host.begin(scope, job, to)?,
            Input::Cancel(job) => host.cancel(job)?,
            Input::Desire(up) => host.desire(up)?,
            Input::Doom => host.change(&[Change::Doom(names::machine())]).ok()?,
            Input::Bury => host.bury(scope)?,
            Input::Crash => host.crash(),
            Input::Reboot => {
                host.go_down();
                host.crash();
            }
            Input::Backup => host.backup = Some(Rc::clone(&host.books)),
            Input::Restore => {
                host.go_down();
                host.books = host.backup.take()?;
                host.durable = None;
                host.crash();
            }
        }
        Some(Stepped::to(host))
    }

    fn go_down(&mut self) {
        self.processes.clear();
        self.forget_copied();
        self.was_down = true;
    }

    /// The agent dies and starts again: jobs that have not ended are found in the records.
    pub(crate) fn crash(&mut self) {
        if let Some(durable) = self.durable.take() {
            self.books = durable;
        }
        let unfinished = self.books.jobs.values().filter(|job| !job.finished);
        self.tasks = unfinished.map(|job| (job.id, Task::Deciding)).collect();
    }

    /// Makes changes of the records. Answers whether they fit.
    pub(crate) fn change(&mut self, changes: &[Change]) -> Result<(), ErrorCode> {
        self.books = self.books.transact(changes, None).map_err(|refused| refused.code())?;
        Ok(())
    }

    /// What the keeper of a copy does about it (`converge` in the agent). Answers whether anything changed.
    pub(crate) fn keep(&mut self, scope: &Scope, key: VolumeKey) -> bool {
        let Some(record) = self.books.volumes.get(&key).cloned() else { return false };
        let service = self.service(&record);
        if service == Service::None {
            return false;
        }
        let Ok(made) = self.serving(scope, &record) else { return false };
        let copy = self.copies.get_mut(&key).expect("a copy that is served is there");
        match service::correction(service, copy.phase, true) {
            Correction::Nothing | Correction::Export | Correction::Astray(_) => return made,
            Correction::Open => copy.open(),
            Correction::Unseal => copy.unseal(scope),
            Correction::Seal => copy.phase = VolumePhase::Sealed,
        }
        true
    }

    /// Has a server for a copy, which is made first if it never was. Answers whether it was made now.
    pub(crate) fn serving(&mut self, scope: &Scope, record: &VolumeRecord) -> Result<bool, ErrorCode> {
        let key = record.key();
        if self.bars(scope, Subject::Volume(key.id), key.generation)
            && !service::is_served_when_barred(self.service(record))
        {
            return Err(ErrorCode::HandedOver);
        }
        if record.made {
            // A directory that is missing is a loss, which no empty one may hide.
            return self.copies.contains_key(&key).then_some(false).ok_or(ErrorCode::Internal);
        }
        let phase = match self.service(record) {
            Service::Open => VolumePhase::Open,
            Service::None | Service::Standby | Service::Sealing | Service::Sealed => VolumePhase::Standby,
        };
        let block = if record.source.is_some() { None } else { Some(0) };
        // One that lies there already is taken as it is.
        self.copies.entry(key).or_insert(Copy::new(phase, block));
        self.change(&[Change::Made(key)])?;
        Ok(true)
    }

    /// Does what a job asks for a copy whose records must allow it.
    pub(crate) fn wish(&mut self, scope: &Scope, key: VolumeKey, wish: Wish) -> Result<(), ErrorCode> {
        let record = self.books.volumes.get(&key).cloned().ok_or(ErrorCode::NotFound)?;
        if !service::may(&record.ownership, self.is_base(key), wish) {
            return Err(ErrorCode::Conflict);
        }
        if wish == Wish::Retire {
            return Ok(());
        }
        self.serving(scope, &record)?;
        let copy = self.copies.get_mut(&key).expect("a copy that is served is there");
        match wish {
            Wish::Seal => copy.phase = VolumePhase::Sealed,
            Wish::Unseal => copy.unseal(scope),
            Wish::Export | Wish::Retire => {}
        }
        Ok(())
    }

    /// Whether another copy here reads this one beside its source.
    fn is_base(&self, key: VolumeKey) -> bool {
        let copies: Vec<VolumeRecord> = self.books.volumes.values().cloned().collect();
        service::is_base(key, &copies)
    }

    fn service(&self, record: &VolumeRecord) -> Service {
        service::wanted(&record.ownership, self.is_base(record.key()))
    }

    /// Deletes a copy and its record, if the records allow it.
    pub(crate) fn delete(&mut self, scope: &Scope, key: VolumeKey) -> Option<()> {
        let record = self.books.volumes.get(&key)?;
        let copy = self.copies.get(&key).filter(|_| scope.bug != Some(Bug::DeletesUnseen));
        let phase = copy.map(|copy| copy.phase);
        let is_base = self.is_base(key) && scope.bug != Some(Bug::DeletesBase);
        if service::deletion(&record.ownership, phase, self.is_handed_over(key), is_base) != Deletion::Fits {
            return None;
        }
        self.copies.remove(&key);
        if scope.bug == Some(Bug::ForgetsMark) {
            self.fences.clear();
        }
        self.change(&[Change::RemoveVolume(key)]).ok()
    }

    /// What the minder does about the machine.
    pub(crate) fn mind(&mut self, scope: &Scope) -> Option<()> {
        let id = names::machine();
        let record = self.books.machines.get(&id)?.clone();
        let marked = record.process.as_ref().map(|mark| mark.pid);
        let runs = marked.and_then(|pid| self.processes.iter().position(|process| process.pid == pid));
        if marked.is_some() && runs.is_none() {
            self.change(&[ended(id)]).ok()?;
            self.starts_unasked(scope);
            return Some(());
        }
        match (care(&record, runs.is_some()), runs) {
            (Care::Leave, _) | (Care::Rest, _) => None,
            (Care::Stop, None) => unreachable!("only what runs is stopped"),
            (Care::Stop, Some(at)) => {
                if scope.bug != Some(Bug::CallsItStopped) {
                    self.processes.remove(at);
                }
                self.change(&[ended(id)]).ok()
            }
            (Care::Start, _) if self.bars(scope, Subject::Machine(id), record.generation) => None,
            (Care::Start, _) => {
                let keys: Vec<VolumeKey> = record.volume_keys().collect();
                for &key in &keys {
                    self.keep(scope, key);
                    let copy = self.copies.get(&key);
                    let barred = self.bars(scope, Subject::Volume(key.id), key.generation);
                    if barred || copy.is_none_or(|copy| copy.phase != VolumePhase::Open) {
                        return None;
                    }
                }
                let pid = self.fresh_pid()?;
                let process = ProcessMark { pid, start_ticks: 0, boot_id: String::new(), started_at_ms: 0 };
                self.change(&[Change::ProcessStarts { machine: id, process, took_ms: 0 }]).ok()?;
                let began_for = record.job.filter(|job| self.has_stopped(*job));
                self.processes.push(Process { pid, keys, memory: Memory::Here, began_for });
                Some(())
            }
        }
    }

    /// What is heeded of what was handed over.
    pub(crate) fn heeded(&self, scope: &Scope) -> BTreeMap<Subject, Fence> {
        if scope.bug == Some(Bug::IgnoresMark) { BTreeMap::new() } else { self.fences.clone() }
    }

    fn bars(&self, scope: &Scope, subject: Subject, generation: Generation) -> bool {
        self.heeded(scope).get(&subject).is_some_and(|fence| fence.bars(generation))
    }

    /// Whether a copy is of a generation that was handed over, by what is remembered of that.
    pub(crate) fn is_handed_over(&self, key: VolumeKey) -> bool {
        self.fences.get(&Subject::Volume(key.id)).is_some_and(|fence| fence.bars(key.generation))
    }

    /// Remembers that something was handed over.
    pub(crate) fn raise(&mut self, subject: Subject, fence: Fence) {
        if fence.rises_above(self.fences.get(&subject)) {
            self.fences.insert(subject, fence);
        }
    }

    fn writes(&mut self, volume: VolumeId, number: u8) -> Option<()> {
        let key = self.writable(volume)?;
        let copy = self.copies.get_mut(&key)?;
        (copy.block, copy.changed) = (Some(number), true);
        copy.mark = copy.mark.map(|mark| Mark { is_changed: true, ..mark });
        Some(())
    }

    /// The copy of a volume that a machine here can write.
    pub(crate) fn writable(&self, volume: VolumeId) -> Option<VolumeKey> {
        let running = self.processes.iter().filter(|process| process.runs());
        let mut keys = running.flat_map(|process| &process.keys).copied();
        keys.find(|key| {
            key.id == volume && self.copies.get(key).is_some_and(|copy| copy.phase == VolumePhase::Open)
        })
    }

    fn desire(&mut self, up: bool) -> Option<()> {
        let desired = if up { Desired::Running } else { Desired::Stopped };
        self.change(&[Change::Desire { machine: names::machine(), desired }]).ok()
    }

    /// The rest of a destruction (`create::destroy` in the agent), which its owner asks for again until it is done.
    fn bury(&mut self, scope: &Scope) -> Option<()> {
        let machine = self.books.machines.get(&names::machine())?.clone();
        if !machine.doomed || !ferry_crossing::minding::is_down(&machine) {
            return None;
        }
        for key in
            machine.volume_keys().filter(|key| self.books.volumes.contains_key(key)).collect::<Vec<_>>()
        {
            self.delete(scope, key)?;
        }
        self.change(&[Change::RemoveMachine(machine.id)]).ok()
    }

    fn clean_up(&mut self, scope: &Scope) -> Option<()> {
        let awaits_in_vain = |crossing: &&CrossingRecord| {
            crossing.state == CrossingState::Released && crossing.awaited.is_some()
        };
        let in_vain = self.books.crossings.values().filter(awaits_in_vain).map(|crossing| crossing.job);
        let jobs: Vec<JobId> =
            self.books.volumes.values().filter_map(target::reserved_by).chain(in_vain).collect();
        let left = |host: &Self| (host.books.volumes.len(), host.books.crossings.clone());
        let before = left(self);
        for job in jobs {
            self.drop_clones(scope, job);
        }
        (left(self) != before).then_some(())
    }

    fn lineage(&self, record: &VolumeRecord) -> Lineage {
        // What was made for a move was made from the generation before.
        let born_from = Generation(record.generation.0 - 1);
        Lineage {
            born_from: self.copies.get(&record.key()).and(Some(born_from)).filter(|born| born.0 > 0),
            bytes_changed: None,
            base: None,
            rests: record.rests,
            precopied: None,
        }
    }

    /// A copy as the agent shows it.
    pub(crate) fn view(&self, key: VolumeKey) -> Option<Volume> {
        let record = self.books.volumes.get(&key)?;
        let copy = self.copies.get(&key).filter(|_| self.service(record) != Service::None);
        let whole = |copy: &Copy| copy.block.is_some();
        let hydration = |copy: &Copy| {
            let local = if whole(copy) { SIZE_BYTES } else { 0 };
            Hydration {
                complete: whole(copy),
                bytes_total: SIZE_BYTES,
                bytes_local: local,
                bytes_remote: SIZE_BYTES - local,
                bytes_to_copy: SIZE_BYTES - local,
                ..Hydration::default()
            }
        };
        let source = record.source.as_ref().map(|source| VolumeSource {
            uri: source.uri.clone(),
            worker: source.worker.clone(),
            connected: Some(true),
            last_error: None,
            is_gone: false,
            mismatches: Vec::new(),
            bad: ferry_api::BadRanges::default(),
            away_ms: None,
            requests_waiting: 0,
            slow_ms: None,
            more: Vec::new(),
        });
        Some(Volume {
            id: record.id,
            name: record.name.clone(),
            generation: record.generation,
            worker: names::worker(self.index),
            machine: record.machine,
            size_bytes: record.size_bytes,
            region_bytes: record.region_bytes,
            ownership: record.ownership.clone(),
            server: ServerState::NotNeeded,
            phase: copy.map(|copy| copy.phase),
            source,
            hydration: copy.map(hydration),
            pace: ferry_api::VolumePace::default(),
            frontends: Vec::new(),
            loss_policy: ferry_api::LossPolicy::default(),
            guest_uri: String::new(),
            export_uri: None,
            store: None,
            direct: false,
            store_bytes_allocated: copy.map(|_| 0),
            disk_trouble: None,
            readers: copy.map(|_| 0),
            forks: Vec::new(),
            lineage: self.lineage(record),
            created_at_ms: 0,
        })
    }
}

pub(crate) fn ended(machine: MachineId) -> Change {
    Change::ProcessEnded { machine, exit: None, stays_down: false }
}
