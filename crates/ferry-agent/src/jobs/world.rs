//! What a move needs of the two workers. The source's agent leads: `Home` is its own worker, `Target` the other.
//!
//! Invariant: every call may be repeated, also when nobody knows whether it took effect the last time.

use std::collections::BTreeSet;
use std::future::Future;
use std::num::NonZeroU64;
use std::sync::Arc;

use ferry_api::{
    Activate, AgentApi, ApiError, AskLease, AskRoot, CopyRoot, Crossing, DriverKind, EndLease, Expect,
    Generation, GroupName, HookRun, Job, JobId, LeaseAnswer, LeaseId, LiveFacts, Machine, MachineId,
    MachineName, Notice, Precopy, Prepare, Reserve, Volume, VolumeKey, WorkerInfo, WorkerName,
};

use ferry_crossing::MoveInput;
use ferry_crossing::live::Memory;
use ferry_placement::Market;

use super::Looked;

type Answer<T> = Result<T, ApiError>;

/// The worker on which the job runs: the source of a move.
pub trait Home: Send + Sync + 'static {
    /// How other workers are reached.
    type Target: Target;

    /// The worker of that name.
    ///
    /// # Errors
    /// `UnknownWorker`.
    fn target(&self, name: &WorkerName) -> Answer<Arc<Self::Target>>;

    /// The machine as it stands here.
    fn machine(&self, machine: MachineId) -> impl Future<Output = Answer<Machine>> + Send;

    /// The last moves from here that went through, the latest first.
    fn past_moves(&self) -> impl Future<Output = Answer<Vec<Job>>> + Send;

    /// A copy of a volume as it stands here.
    fn volume(&self, copy: VolumeKey) -> impl Future<Output = Answer<Volume>> + Send;

    /// Exports a copy to another worker (readable there once it is sealed), also after its server was lost.
    /// Answers the NBD URI.
    fn export(&self, copy: VolumeKey, to: WorkerName) -> impl Future<Output = Answer<String>> + Send;

    /// Exports the copy no longer.
    fn withdraw(&self, copy: VolumeKey) -> impl Future<Output = Answer<()>> + Send;

    /// Makes durable what the guest wrote so far, so that sealing has little left to do.
    fn flush(&self, copy: VolumeKey) -> impl Future<Output = Answer<()>> + Send;

    /// Exports a copy to another worker while its guest writes. Answers the NBD URI.
    fn export_live(&self, copy: VolumeKey, to: WorkerName) -> impl Future<Output = Answer<String>> + Send;

    /// Sets a mark on a copy: what its guest changes from then on is known.
    fn mark(&self, copy: VolumeKey) -> impl Future<Output = Answer<u64>> + Send;

    /// Forgets all marks of a copy but one, or all.
    fn forget_marks(&self, copy: VolumeKey, but: Option<u64>) -> impl Future<Output = Answer<()>> + Send;

    /// Bytes that may have changed since a mark; none if it is not kept.
    fn bytes_changed(&self, copy: VolumeKey, mark: u64) -> impl Future<Output = Answer<Option<u64>>> + Send;

    /// Stops the machine, which the records say is halted, with its own signal and grace time. Answers when it no
    /// longer runs.
    fn halt(&self, machine: MachineId) -> impl Future<Output = Answer<()>> + Send;

    /// How the machine runs, for a worker that is to take it with its memory; or why that cannot be, in one sentence.
    fn live_facts(
        &self,
        machine: MachineId,
    ) -> impl Future<Output = Answer<Result<LiveFacts, String>>> + Send;

    /// How the memory of the machine stands, after a moment if it is on its way; none if no process of it runs here.
    fn memory(&self, machine: MachineId) -> impl Future<Output = Answer<Option<Memory>>> + Send;

    /// Begins to send the memory of the machine to `to`, `HOST:PORT`.
    fn send_memory(&self, machine: MachineId, to: &str) -> impl Future<Output = Answer<()>> + Send;

    /// Lets the rest of the memory go that the job has handed over; answers how it stands then. Unless it has left, the machine is ended
    /// here.
    fn let_memory_go(
        &self,
        machine: MachineId,
        job: JobId,
    ) -> impl Future<Output = Answer<Option<Memory>>> + Send;

    /// Takes back that its memory moves: it runs on here. One that has ended meanwhile is left to [`Home::let_run`].
    fn keep_memory(&self, machine: MachineId) -> impl Future<Output = Answer<()>> + Send;

    /// Runs a hook of the machine, which ends in its time; none if it has no such hook, or does not run.
    fn tell(
        &self,
        machine: MachineId,
        notice: Notice,
    ) -> impl Future<Output = Answer<Option<HookRun>>> + Send;

    /// Starts the machine, which the records say is no longer halted, if it is wanted to run. Answers when it does.
    fn let_run(&self, machine: MachineId) -> impl Future<Output = Answer<()>> + Send;

    /// Makes the copy unchangeable. Answers when everything in it is durable.
    fn seal(&self, copy: VolumeKey) -> impl Future<Output = Answer<()>> + Send;

    /// Lets the guest write the copy again, which the records say was taken back. Never succeeds for a copy that
    /// was fenced.
    fn unseal(&self, copy: VolumeKey) -> impl Future<Output = Answer<()>> + Send;

    /// Leaves a durable mark that the copy was handed over, which outlives the copy and a restored backup of the records:
    /// from then on it is never unsealed, opened or made again.
    fn fence(&self, copy: VolumeKey, to: &WorkerName, job: JobId) -> impl Future<Output = Answer<()>> + Send;

    /// Leaves the like mark for the machine: it is not started here again at that generation or below.
    fn fence_machine(
        &self,
        machine: MachineId,
        generation: Generation,
        to: &WorkerName,
        job: JobId,
    ) -> impl Future<Output = Answer<()>> + Send;

    /// What the sealed copy knows of its checksums.
    fn root(&self, copy: VolumeKey, of: AskRoot) -> impl Future<Output = Answer<CopyRoot>> + Send;

    /// Ends export and server of a copy that nobody reads any more. The copy stays.
    fn retire(&self, copy: VolumeKey) -> impl Future<Output = Answer<()>> + Send;

    /// All other workers that are known here.
    fn others(&self) -> Vec<WorkerName>;

    /// A move asks for that lease from now on, or for none.
    fn asks_for_lease(&self, job: JobId, lease: Option<LeaseId>);

    /// Asks a worker, which may be this one, for the lease of a group.
    fn lease(&self, at: &WorkerName, ask: AskLease) -> impl Future<Output = Answer<LeaseAnswer>> + Send;

    /// Tells a worker, which may be this one, that a lease is over.
    fn end_lease(&self, at: &WorkerName, end: EndLease) -> impl Future<Output = Answer<()>> + Send;
}

/// A machine in the records of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupant {
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub name: MachineName,
    /// Its group.
    pub group: Option<GroupName>,
    /// The job that holds it.
    pub job: Option<JobId>,
    /// Whether it is the worker's; if not, it was handed over.
    pub is_here: bool,
}

/// A worker that is emptied: what a drain needs of it, beside its moves.
pub trait Emptied: Home {
    /// All machines of which it has records.
    fn machines(&self) -> impl Future<Output = Answer<Vec<Occupant>>> + Send;

    /// How many machines are on their way here.
    fn arriving(&self) -> impl Future<Output = Answer<usize>> + Send;

    /// Whether a person has paused the drain.
    fn is_paused(&self, drain: JobId) -> impl Future<Output = Answer<bool>> + Send;

    /// What all other workers offer.
    fn market(&self) -> impl Future<Output = Market> + Send;

    /// Finds a worker, none of those in `but`, that keeps room for a move; or says why there is none, in one sentence.
    fn choose(
        &self,
        market: &mut Market,
        asked: (JobId, &Looked, &MoveInput),
        but: &BTreeSet<WorkerName>,
        force: bool,
    ) -> impl Future<Output = Result<WorkerName, String>> + Send;

    /// Has a worker keep room for a move; or says why it does not, in one sentence.
    fn hold(
        &self,
        market: &mut Market,
        asked: (JobId, &Looked, &MoveInput),
        to: &WorkerName,
        force: bool,
    ) -> impl Future<Output = Result<(), String>> + Send;

    /// Tells a target what all that it fetches from here may take a second together, for a minute.
    fn pace(
        &self,
        to: &WorkerName,
        bytes_per_s: Option<NonZeroU64>,
    ) -> impl Future<Output = Answer<()>> + Send;

    /// What keeps its host from being stopped, each in one clause, when these jobs have not ended.
    fn owes(&self, jobs: Vec<Job>) -> impl Future<Output = Answer<Vec<String>>> + Send;
}

/// The worker a machine moves to. Every agent's door is one.
pub trait Target: Send + Sync + 'static {
    /// See [`AgentApi::worker_for`].
    fn worker(&self, driver: DriverKind) -> impl Future<Output = Answer<WorkerInfo>> + Send;
    /// See [`AgentApi::peer_reserve`].
    fn reserve(&self, reserve: Reserve) -> impl Future<Output = Answer<Crossing>> + Send;
    /// See [`AgentApi::peer_prepare`].
    fn prepare(&self, prepare: Prepare) -> impl Future<Output = Answer<Crossing>> + Send;
    /// See [`AgentApi::peer_precopy`].
    fn precopy(&self, precopy: Precopy) -> impl Future<Output = Answer<Crossing>> + Send;
    /// See [`AgentApi::peer_expect`].
    fn expect(&self, expect: Expect) -> impl Future<Output = Answer<Crossing>> + Send;
    /// See [`AgentApi::peer_forsake`].
    fn forsake(&self, job: JobId) -> impl Future<Output = Answer<Crossing>> + Send;
    /// See [`AgentApi::peer_activate`].
    fn activate(&self, activate: Activate) -> impl Future<Output = Answer<Crossing>> + Send;
    /// See [`AgentApi::peer_boot`].
    fn boot(&self, job: JobId) -> impl Future<Output = Answer<Crossing>> + Send;
    /// See [`AgentApi::peer_crossing`].
    fn crossing(&self, job: JobId) -> impl Future<Output = Answer<Crossing>> + Send;
    /// See [`AgentApi::peer_root`].
    fn root(&self, copy: VolumeKey, of: AskRoot) -> impl Future<Output = Answer<CopyRoot>> + Send;
    /// See [`AgentApi::peer_settle`].
    fn settle(&self, job: JobId) -> impl Future<Output = Answer<Crossing>> + Send;
    /// See [`AgentApi::peer_release`].
    fn release(&self, job: JobId) -> impl Future<Output = Answer<()>> + Send;
}

impl<A: AgentApi> Target for A {
    async fn worker(&self, driver: DriverKind) -> Answer<WorkerInfo> {
        self.worker_for(driver).await
    }

    async fn reserve(&self, reserve: Reserve) -> Answer<Crossing> {
        self.peer_reserve(reserve).await
    }

    async fn prepare(&self, prepare: Prepare) -> Answer<Crossing> {
        self.peer_prepare(prepare).await
    }

    async fn precopy(&self, precopy: Precopy) -> Answer<Crossing> {
        self.peer_precopy(precopy).await
    }

    async fn expect(&self, expect: Expect) -> Answer<Crossing> {
        self.peer_expect(expect).await
    }

    async fn forsake(&self, job: JobId) -> Answer<Crossing> {
        self.peer_forsake(job).await
    }

    async fn activate(&self, activate: Activate) -> Answer<Crossing> {
        self.peer_activate(activate).await
    }

    async fn boot(&self, job: JobId) -> Answer<Crossing> {
        self.peer_boot(job).await
    }

    async fn crossing(&self, job: JobId) -> Answer<Crossing> {
        self.peer_crossing(job).await
    }

    async fn root(&self, copy: VolumeKey, of: AskRoot) -> Answer<CopyRoot> {
        self.peer_root(copy, of).await
    }

    async fn settle(&self, job: JobId) -> Answer<Crossing> {
        self.peer_settle(job).await
    }

    async fn release(&self, job: JobId) -> Answer<()> {
        self.peer_release(job).await
    }
}
