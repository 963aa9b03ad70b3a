//! The one door: everything that can be asked of a worker's agent.

use crate::{
    AbandonSource, Activate, ApiError, ApiTokenMade, AskApiToken, AskCordon, AskDepartures, AskDrain,
    AskGarbage, AskJobs, AskJoinToken, AskLease, AskLog, AskMappings, AskNeed, AskRebalance, AskRoot,
    AskTestimony, AttachVolume, AttachedFrontend, Bid, CancelMove, ChangeSources, ClusterStatus, CopyRoot,
    CreateMachine, Crossing, Departures, DestroyMachine, DetachVolume, Digest, DirectoryView, DrainPlan,
    DrainStarted, DriverKind, EndLease, EventsAfter, Expect, ForkVolume, Garbage, GrowVolume, Hold,
    ImportVolume, Job, JobEvents, JobId, JobJournal, Join, JoinTokenMade, Joined, LeaseAnswer, LeaseNeed,
    Losses, Machine, MachineLog, MachineRef, Mappings, Membership, MovePlan, OnSourceLoss, PaceFrom,
    PaceVolume, PaceWorker, PauseDrain, PlacementExplained, Precopy, Prepare, RebalancePlan,
    RebalanceStarted, Renew, Renewed, Reserve, Revoke, RevokeDone, SafeToStop, ServiceStatus, ShutDownWorker,
    StartDrain, StartMove, StartMoves, StartRebalance, Testimony, Truth, TruthRef, UndoMove, VerifyVolume,
    Volume, VolumeCheck, VolumeExport, VolumeKey, VolumeRef, WorkerInfo, WorkerName, WorkerShutDown,
};
use std::future::Future;

/// The answer to a call.
type Answer<T> = Result<T, ApiError>;

/// What can be asked of a worker's agent. Implemented by the agent itself and by [`crate::http::Client`].
///
/// Calls that begin with `peer_` are what one agent asks of another for a move; each is idempotent and keyed by
/// its job, so that it may be repeated until an answer arrives. A call that changes something is done to its end,
/// also when whoever asked goes away before it is answered.
pub trait AgentApi: Send + Sync + 'static {
    /// The worker and its room.
    fn worker(&self) -> impl Future<Output = Answer<WorkerInfo>> + Send;
    /// The same, with only this driver asked for what it can: the others may have to run programs to tell.
    fn worker_for(&self, driver: DriverKind) -> impl Future<Output = Answer<WorkerInfo>> + Send;
    /// Sets the budget that all hydrations of the worker share.
    fn worker_pace(&self, pace: PaceWorker) -> impl Future<Output = Answer<WorkerInfo>> + Send;
    /// Has the worker take no machines from now on, over restarts. Moves to it that have reserved their room still come, and a
    /// machine may be taken back that left here with its last move.
    fn worker_cordon(&self, ask: AskCordon) -> impl Future<Output = Answer<WorkerInfo>> + Send;
    /// Has the worker take machines again.
    fn worker_uncordon(&self) -> impl Future<Output = Answer<WorkerInfo>> + Send;
    /// What the worker offers to machines: facts at this moment, and no promise.
    fn bid(&self) -> impl Future<Output = Answer<Bid>> + Send;
    /// Says what it would take to empty this worker, and changes nothing.
    fn drain_plan(&self, ask: AskDrain) -> impl Future<Output = Answer<DrainPlan>> + Send;
    /// Takes on the job that empties this worker; answers as soon as that is durable. Asked twice, it answers with the same job.
    /// Refused while another drain is under way, and, unless a plan is given, if a machine cannot leave.
    fn drain_start(&self, start: StartDrain) -> impl Future<Output = Answer<DrainStarted>> + Send;
    /// Has the drain of this worker begin no further move, or go on. Answers with the job.
    fn drain_pause(&self, pause: PauseDrain) -> impl Future<Output = Answer<Job>> + Send;
    /// Asks the drain of this worker to end: moves that are not past their hand-over are undone.
    fn drain_cancel(&self) -> impl Future<Output = Answer<Job>> + Send;
    /// The machines of this worker as moves of them would find them. Changes nothing.
    fn departures(&self, ask: AskDepartures) -> impl Future<Output = Answer<Departures>> + Send;
    /// Says which moves would make all workers alike that this one knows, and changes nothing.
    fn rebalance_plan(&self, ask: AskRebalance) -> impl Future<Output = Answer<RebalancePlan>> + Send;
    /// Takes on this worker's part of a plan as a job, if the world is as the plan says; answers as soon as that is durable. Asked
    /// twice, it answers with the same job. Refused while another part is done here.
    fn rebalance_start(&self, start: StartRebalance)
    -> impl Future<Output = Answer<RebalanceStarted>> + Send;
    /// What keeps the host of this worker from being stopped. Asks the workers that still copy from here how far they are;
    /// one that does not answer is told as unknown.
    fn worker_safe_to_stop(&self) -> impl Future<Output = Answer<SafeToStop>> + Send;

    /// Stops the machines, each in its grace time, ends the volume servers and then the agent, unless something keeps the
    /// worker from being stopped. Answers when all has ended but the agent. Machines are still wanted to run: the next agent
    /// starts them.
    fn worker_shut_down(&self, wish: ShutDownWorker) -> impl Future<Output = Answer<WorkerShutDown>> + Send;

    /// The figures of the worker, its jobs, machines and volumes, as text in the format of OpenMetrics 1.0.
    fn metrics(&self) -> impl Future<Output = Answer<String>> + Send;

    /// What jobs and killed processes have left on this worker: what would go, and what stays and why. Changes nothing. Asks
    /// other workers how moves to here stand, and, for retained copies, whether the volume is whole.
    fn garbage(&self, ask: AskGarbage) -> impl Future<Output = Answer<Garbage>> + Send;

    /// Removes what [`AgentApi::garbage`] would tell now, each decided again as it goes. Answers what has gone.
    fn garbage_clear(&self, ask: AskGarbage) -> impl Future<Output = Answer<Garbage>> + Send;

    /// Which copy of a volume, or which worker's machine, is the real one. Asks all other workers what lies on their disks;
    /// one that does not answer is told as silent.
    fn truth(&self, of: &TruthRef) -> impl Future<Output = Answer<Truth>> + Send;

    /// All services that this worker knows of, and how it serves them.
    fn services(&self) -> impl Future<Output = Answer<Vec<ServiceStatus>>> + Send;

    /// Creates a machine with its volumes, and starts it if asked. All or nothing.
    fn machine_create(&self, create: CreateMachine) -> impl Future<Output = Answer<Machine>> + Send;
    /// All machines this worker has records of, also those it handed over and still keeps a copy for.
    fn machines(&self) -> impl Future<Output = Answer<Vec<Machine>>> + Send;
    /// One machine.
    fn machine(&self, machine: &MachineRef) -> impl Future<Output = Answer<Machine>> + Send;
    /// Where a machine could go: all workers that are known here are asked what they offer.
    fn machine_placement(
        &self,
        machine: &MachineRef,
    ) -> impl Future<Output = Answer<PlacementExplained>> + Send;
    /// What a machine wrote on this worker, a piece at a time.
    fn machine_log(
        &self,
        machine: &MachineRef,
        ask: AskLog,
    ) -> impl Future<Output = Answer<MachineLog>> + Send;
    /// Wants the machine to run; answers when it does (or when it is known what it waits for).
    fn machine_start(&self, machine: &MachineRef) -> impl Future<Output = Answer<Machine>> + Send;
    /// Wants the machine to be stopped; answers when it is.
    fn machine_stop(&self, machine: &MachineRef) -> impl Future<Output = Answer<Machine>> + Send;
    /// Deletes the machine and its volumes. Refused while it runs, unless asked to stop it.
    fn machine_destroy(
        &self,
        machine: &MachineRef,
        destroy: DestroyMachine,
    ) -> impl Future<Output = Answer<()>> + Send;

    /// Makes a volume that is usable at once and hydrates from a raw file or an NBD server.
    fn volume_import(&self, import: ImportVolume) -> impl Future<Output = Answer<Volume>> + Send;
    /// All copies of volumes on this worker.
    fn volumes(&self) -> impl Future<Output = Answer<Vec<Volume>>> + Send;
    /// One volume; if several generations of it are here, the highest.
    fn volume(&self, volume: &VolumeRef) -> impl Future<Output = Answer<Volume>> + Send;
    /// Sets the pace of a volume's hydration. Refused for a copy that nobody serves.
    fn volume_pace(
        &self,
        volume: &VolumeRef,
        pace: PaceVolume,
    ) -> impl Future<Output = Answer<Volume>> + Send;
    /// Makes an independent clone of a volume as it is now, usable at once. Refused for a copy that is not this worker's,
    /// not whole, or about to move.
    fn volume_fork(
        &self,
        volume: &VolumeRef,
        fork: ForkVolume,
    ) -> impl Future<Output = Answer<Volume>> + Send;
    /// Makes a volume larger, also while it is in use. Refused for a copy that is not this worker's, or about to move.
    fn volume_grow(
        &self,
        volume: &VolumeRef,
        grow: GrowVolume,
    ) -> impl Future<Output = Answer<Volume>> + Send;
    /// Gives a volume a frontend; its guest can use it when this answers. Refused for a copy that is not this worker's.
    fn volume_attach(
        &self,
        volume: &VolumeRef,
        attach: AttachVolume,
    ) -> impl Future<Output = Answer<AttachedFrontend>> + Send;
    /// Takes frontends away. Refused while a guest holds the device.
    fn volume_detach(
        &self,
        volume: &VolumeRef,
        detach: DetachVolume,
    ) -> impl Future<Output = Answer<Volume>> + Send;
    /// Says what becomes of requests that wait for a source that is away. Refused for a copy that nobody serves.
    fn volume_on_source_loss(
        &self,
        volume: &VolumeRef,
        wish: OnSourceLoss,
    ) -> impl Future<Output = Answer<Volume>> + Send;
    /// Adds or takes away a source that stands in for the first. Refused for one of another volume or generation.
    fn volume_change_sources(
        &self,
        volume: &VolumeRef,
        change: ChangeSources,
    ) -> impl Future<Output = Answer<Volume>> + Send;
    /// Tells what giving up the source of a volume costs; with that figure, gives it up. Refused while the source is
    /// connected, unless forced.
    fn volume_abandon_source(
        &self,
        volume: &VolumeRef,
        abandon: AbandonSource,
    ) -> impl Future<Output = Answer<Losses>> + Send;
    /// Checks what a volume holds on its disk against what arrived (on a sealed copy: what was sealed), or tells how that
    /// stands; answers at once.
    fn volume_verify(
        &self,
        volume: &VolumeRef,
        verify: VerifyVolume,
    ) -> impl Future<Output = Answer<VolumeCheck>> + Send;
    /// Deletes a volume that belongs to no machine.
    fn volume_delete(&self, volume: &VolumeRef) -> impl Future<Output = Answer<()>> + Send;

    /// Takes on the move of a machine to another worker; answers as soon as the job is durable.
    fn move_start(&self, start: StartMove) -> impl Future<Output = Answer<Job>> + Send;
    /// Says what such a move would do if it were begun now, and changes nothing.
    fn move_plan(&self, start: StartMove) -> impl Future<Output = Answer<MovePlan>> + Send;
    /// Takes on the moves of several machines as children of one job; answers as soon as that is durable.
    fn moves_start(&self, start: StartMoves) -> impl Future<Output = Answer<Job>> + Send;
    /// Takes on the move of a machine back to where its last move brought it from. Refused with `HandedOver` where the
    /// machine no longer is, and for one that never came here or is about to move.
    fn move_undo(&self, undo: UndoMove) -> impl Future<Output = Answer<Job>> + Send;
    /// Cancels the move that a machine is about to make; answers when that is durable. Refused after the hand-over.
    fn move_cancel(&self, cancel: CancelMove) -> impl Future<Output = Answer<Job>> + Send;
    /// Jobs of this worker, the latest first: all that have not ended, and so many that have.
    fn jobs(&self, asked: AskJobs) -> impl Future<Output = Answer<Vec<Job>>> + Send;
    /// A job with its journal as it lies in the records.
    fn job_journal(&self, job: JobId) -> impl Future<Output = Answer<JobJournal>> + Send;
    /// One job.
    fn job(&self, job: JobId) -> impl Future<Output = Answer<Job>> + Send;
    /// What happened in a job after an event. Waits for the next event if asked to; answers at once when there is
    /// one or the job has ended.
    fn job_events(&self, job: JobId, events: EventsAfter) -> impl Future<Output = Answer<JobEvents>> + Send;
    /// Asks a job to undo itself. Refused after the hand-over.
    fn job_cancel(&self, job: JobId) -> impl Future<Output = Answer<Job>> + Send;
    /// Lets a parked job go on.
    fn job_resume(&self, job: JobId) -> impl Future<Output = Answer<Job>> + Send;

    /// Target: keep room for a machine for a minute, so that its move finds it. Refused where that would be, or would break a
    /// rule of placement.
    fn peer_hold(&self, hold: Hold) -> impl Future<Output = Answer<()>> + Send;
    /// Target: set aside room for a machine. Refused without room, and for names and ids in use.
    fn peer_reserve(&self, reserve: Reserve) -> impl Future<Output = Answer<Crossing>> + Send;
    /// Target: make the clones and start their servers in standby.
    fn peer_prepare(&self, prepare: Prepare) -> impl Future<Output = Answer<Crossing>> + Send;
    /// Target: copy into the clones while the machine still runs on its source; answered when that has begun, and then looked
    /// at by [`AgentApi::peer_crossing`]. Once the source is sealed: keep what is right; answered when that is durable.
    fn peer_precopy(&self, precopy: Precopy) -> impl Future<Output = Answer<Crossing>> + Send;

    /// Makes a machine on the target that waits for its memory, or another one in its place: each attempt at sending has its own.
    fn peer_expect(&self, expect: Expect) -> impl Future<Output = Answer<Crossing>> + Send;

    /// No more of the memory will come: a machine on the target that still waits for it is ended. `peer_boot` starts it anew
    /// from its disks.
    fn peer_forsake(&self, job: JobId) -> impl Future<Output = Answer<Crossing>> + Send;
    /// Target: own machine and volumes from now on. Durable when answered; refused for an unknown reservation.
    fn peer_activate(&self, activate: Activate) -> impl Future<Output = Answer<Crossing>> + Send;
    /// Target: start the machine if it shall run; answers when its first process runs.
    fn peer_boot(&self, job: JobId) -> impl Future<Output = Answer<Crossing>> + Send;
    /// Target: how the move stands.
    fn peer_crossing(&self, job: JobId) -> impl Future<Output = Answer<Crossing>> + Send;
    /// Target: everything is hydrated and verified; forget the source. Refused while anything is still remote.
    fn peer_settle(&self, job: JobId) -> impl Future<Output = Answer<Crossing>> + Send;
    /// Target: undo reservation and clones. Done also for an unknown job (then nothing of it will be accepted
    /// later either); refused after `peer_activate`.
    fn peer_release(&self, job: JobId) -> impl Future<Output = Answer<()>> + Send;
    /// Target: which worker leads a move to here, if it is known here. Not asked over a wire: it is looked up before what a worker
    /// asks for a move is done, so that none meddles with another's.
    fn peer_leads(&self, job: JobId) -> impl Future<Output = Answer<Option<WorkerName>>> + Send {
        let _ = job;
        std::future::ready(Ok(None))
    }
    /// Source: where a sealed copy can be read now, by the worker that asks. Which one that is, is known by its connection: a
    /// client does not tell it.
    fn peer_export(
        &self,
        copy: VolumeKey,
        reader: Option<WorkerName>,
    ) -> impl Future<Output = Answer<VolumeExport>> + Send;
    /// What this worker has heard of all workers and their machines.
    fn directory(&self) -> impl Future<Output = Answer<DirectoryView>> + Send;
    /// In which state whose map of machines is, as far as this worker has heard; nothing where workers do not gossip.
    fn peer_digest(&self) -> impl Future<Output = Answer<Digest>> + Send;
    /// Where the machines are of which this worker has records. Waits for a change if asked to.
    fn peer_mappings(&self, ask: AskMappings) -> impl Future<Output = Answer<Mappings>> + Send;
    /// What lies on this worker's disk about machines and volumes; answers also for what it does not know.
    fn peer_testimony(&self, ask: AskTestimony) -> impl Future<Output = Answer<Testimony>> + Send;
    /// Lets no machine of a group down but the one that is asked for, or says which one is in the way. Durable when answered.
    fn peer_lease(&self, ask: AskLease) -> impl Future<Output = Answer<LeaseAnswer>> + Send;
    /// A lease is over. Done also for one that was never given here.
    fn peer_lease_end(&self, end: EndLease) -> impl Future<Output = Answer<()>> + Send;
    /// Source: whether a move still needs a lease.
    fn peer_lease_need(&self, ask: AskNeed) -> impl Future<Output = Answer<LeaseNeed>> + Send;
    /// Target: what is fetched from a worker keeps to this together, for a minute.
    fn peer_pace(&self, pace: PaceFrom) -> impl Future<Output = Answer<()>> + Send;
    /// What a copy knows of the volume as it was sealed; answers at once.
    fn peer_root(&self, copy: VolumeKey, of: AskRoot) -> impl Future<Output = Answer<CopyRoot>> + Send;

    /// How the cluster stands that this worker belongs to.
    fn cluster(&self) -> impl Future<Output = Answer<ClusterStatus>> + Send;
    /// Keeper: a token by which a worker may join.
    fn cluster_token(&self, ask: AskJoinToken) -> impl Future<Output = Answer<JoinTokenMade>> + Send;
    /// Keeper: a token for people and programs.
    fn cluster_api_token(&self, ask: AskApiToken) -> impl Future<Output = Answer<ApiTokenMade>> + Send;
    /// Keeper: let somebody in no longer. Durable when answered, and told to all that can be reached.
    fn cluster_revoke(&self, revoke: Revoke) -> impl Future<Output = Answer<RevokeDone>> + Send;
    /// Keeper: take a worker in that has the secret of a token. Its token is spent, durably, before it is answered.
    fn cluster_join(&self, join: Join) -> impl Future<Output = Answer<Joined>> + Send;
    /// Keeper: a new certificate of the key that the roster has for a worker.
    fn cluster_renew(&self, renew: Renew) -> impl Future<Output = Answer<Renewed>> + Send;
    /// What a member knows of the cluster, for what this one knows.
    fn peer_membership(&self, told: Membership) -> impl Future<Output = Answer<Membership>> + Send;
}
