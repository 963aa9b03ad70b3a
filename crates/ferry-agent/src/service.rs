//! The agent: the door's other side. The life of its process is in `life`.

mod life;
mod offer;

pub use life::run;

use crate::arrivals::{Arrived, tell_arrived};
use crate::ballast::Ballast;
use crate::cluster::{self, Cluster, ClusterError};
use crate::config::Config;
use crate::core::{Core, Ground};
use crate::create;
use crate::drivers::{Channel, LaunchError, Launcher};
use crate::entrances::{self, EntranceError};
use crate::fences::{FenceError, Fences};
use crate::garbage;
use crate::hearing::{self, Hearing, HearingError};
use crate::host::ThisHost;
use crate::identity::{self, IdentityError};
use crate::jobs::{
    AgeClock, Clock, HostClock, MOVES, MoveInput, MoveStep, Mover, Office, Queues, begin_fleet, begin_move,
    begin_move_with, forget, judge_arrivals, reap, sweep,
};
use crate::machines::MachinesError;
use crate::metrics;
use crate::moments::{self, When};
use crate::peers::Peers;
use crate::placement;
use crate::records::{Change, MachineRecord, Records, RecordsError, StateLock, VolumeRecord};
use crate::services::NoServices;
use crate::shutdown::Shutdown;
use crate::stopping;
use crate::truth;
use crate::volumes::VolumesError;
use ferry_api::http::ClientError;
use ferry_api::{
    AbandonSource, Activate, AgentApi, ApiError, ApiTokenMade, AskApiToken, AskCordon, AskDepartures,
    AskDrain, AskGarbage, AskJobs, AskJoinToken, AskLease, AskLog, AskMappings, AskNeed, AskRebalance,
    AskRoot, AskTestimony, AttachVolume, AttachedFrontend, Bid, CancelMove, ChangeSources, ClusterStatus,
    CopyRoot, CreateMachine, Crossing, Departures, Desired, DestroyMachine, DetachVolume, Digest,
    DirectoryView, DrainPlan, DrainStarted, DriverKind, EndLease, ErrorCode, EventsAfter, Expect, ForkVolume,
    Garbage, GrowVolume, Hold, ImportVolume, Job, JobEvents, JobId, JobJournal, JobKind, JobState, Join,
    JoinTokenMade, Joined, LeaseAnswer, LeaseNeed, Losses, Machine, MachineId, MachineLog, MachineRef,
    Mappings, Membership, MoveMode, MovePlan, MoveTo, OnSourceLoss, Ownership, PaceFrom, PaceVolume,
    PaceWorker, PauseDrain, PlacementExplained, Precopy, Prepare, RebalancePlan, RebalanceStarted, Renew,
    Renewed, Reserve, Revoke, RevokeDone, SafeToStop, ServiceStatus, ShutDownWorker, StartDrain, StartMove,
    StartMoves, StartRebalance, StepState, StopReason, Testimony, Truth, TruthRef, UndoMove, VerifyVolume,
    Volume, VolumeCheck, VolumeExport, VolumeKey, VolumeRef, WorkerInfo, WorkerName, WorkerShutDown,
};
use ferry_crossing::back;
use ferry_crossing::fleet::{FleetInput, FleetMove};
use ferry_crossing::history::Keep;
use ferry_fsm::{Step, Terms};
use ferry_volume::{Credentials, CredentialsError};
use std::io;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Milliseconds in an hour.
const HOUR_MS: u64 = 60 * 60 * 1000;

type Answer<T> = Result<T, ApiError>;
type Jobs = Office<Records, HostClock, Core>;

/// Why an agent does not run, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It cannot hear the other workers of its cluster.
    #[error(transparent)]
    Hearing(#[from] HearingError),
    /// The state directory is not to be had, or the records cannot be opened or were lost.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// What was handed over cannot be remembered.
    #[error(transparent)]
    Fences(#[from] FenceError),
    /// Whose the state directory is cannot be noted.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// What is on disk of volumes cannot be looked at.
    #[error(transparent)]
    Volumes(#[from] VolumesError),
    /// What the records say of machines cannot be looked at.
    #[error(transparent)]
    Machines(#[from] MachinesError),
    /// A peer's URL is not one.
    #[error(transparent)]
    Peer(#[from] ClientError),
    /// The worker's part in its cluster cannot be taken up.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Volume servers cannot be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Nobody can be listened to, or everybody.
    #[error(transparent)]
    Entrance(#[from] EntranceError),
    /// Services of machines cannot be served.
    #[error(transparent)]
    Services(#[from] NoServices),
    /// The process cannot be told to end.
    #[error("the agent cannot hear signals")]
    Signals(#[source] io::Error),
    /// The journal cannot be kept.
    #[error("the agent stops, since its journal cannot be kept: {reason}; mend that and start it again")]
    Journal {
        /// Why.
        reason: String,
    },
}

/// One worker's agent. Dropping it stops everything it does, as a crash would; machines and volume servers go on.
pub struct Agent {
    core: Arc<Core>,
    jobs: Jobs,
    shutdown: Shutdown,
    /// The worker's part in its cluster, if it belongs to one.
    cluster: Option<Cluster>,
    /// By what it hears of the others there.
    hearing: Option<Hearing>,
    clock: HostClock,
    age: AgeClock<HostClock>,
    started_at_ms: u64,
    _chores: JoinSet<()>,
}

impl Agent {
    /// Takes the state directory, finds everything that runs, and goes on with what the records say.
    ///
    /// # Errors
    /// Another agent has the state directory; the records cannot be opened.
    pub async fn start(mut config: Config, launcher: Launcher) -> Result<Self, AgentError> {
        let lock = StateLock::take(&config.state_dir)?;
        let cluster = Cluster::open(&config)?;
        entrances::check(&config, cluster.is_some())?;
        hearing::check(&config, cluster.is_some())?;
        identity::note(&config.state_dir, &config.name)?;
        if let Some(cluster) = &cluster {
            config.tls = Some(cluster.tls_dir());
        }
        let credentials = config.tls.as_deref().map(Credentials::load).transpose()?;
        let launcher = launcher.with_tls(config.tls.clone());
        let (listen, names_workers) = (config.export_listen.ip(), cluster.is_some());
        let channel = Channel { listen, tls: config.tls.clone(), names_workers };
        let ballast = Ballast::keep(&config.state_dir);
        let ground = Ground {
            host: Arc::new(ThisHost::new(&config.state_dir, launcher, credentials.clone(), channel)),
            records: Records::open_held(&config.state_dir, lock, ballast.clone())?,
            fences: Fences::open_on(&config.state_dir, ballast)?,
            peers: match &cluster {
                Some(cluster) => cluster.peers().clone(),
                None => Peers::new(&config.peers)?,
            },
        };
        let mut agent = Self::start_on(config, ground, credentials).await?;
        let Core { config, services, records, peers, volumes, .. } = &*agent.core;
        let secured = cluster.as_ref().map(Cluster::secured).transpose()?;
        services.open(records, peers, secured, &mut agent._chores).await?;
        if let Some(cluster) = &cluster {
            agent._chores.spawn(cluster.clone().keep_up());
            agent._chores.spawn(cluster.clone().expel_from(volumes.clone()));
        }
        let hearing = match &cluster {
            Some(cluster) => Hearing::open(config, cluster, services, &mut agent._chores).await?,
            None => None,
        };
        Ok(Self { cluster, hearing, ..agent })
    }

    /// Goes on with what the records say, on ground that nobody else uses.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn start_on(
        config: Config,
        ground: Ground,
        credentials: Option<Credentials>,
    ) -> Result<Self, AgentError> {
        let (host, records) = (Arc::clone(&ground.host), ground.records.clone());
        let clock = HostClock(Arc::clone(&host));
        let core = Arc::new(Core::new(config, ground, credentials));
        let mut chores = JoinSet::new();
        chores.spawn(Arc::clone(&core).dispatch(core.records.touched()));
        core.volumes.keep_all().await?;
        core.machines.mind_all().await?;
        let queues = Queues::new([(MOVES.to_owned(), core.config.moves_at_once.get())]);
        let jobs = Office::open(Arc::new(records), clock.clone(), Arc::clone(&core), queues).await?;
        let age = AgeClock::new(clock.clone());
        let watched = age.clone();
        chores.spawn(async move { watched.watch().await });
        let (attic, looks) = (Arc::clone(&core), age.clone());
        chores.spawn(async move { reap(&*attic, &looks).await });
        let volumes = core.volumes.clone();
        chores.spawn(async move { volumes.share_budget().await });
        chores.spawn(tell_arrived(Arc::clone(&core)));
        let guests = Arc::clone(&core);
        let (past, others) = (core.records.clone(), Arc::clone(&core));
        let keep = Keep {
            for_ms: core.config.job_retention_days.saturating_mul(24 * HOUR_MS),
            jobs: core.config.jobs_kept,
        };
        let forgets = age.clone();
        chores.spawn(async move { forget(&past, &others.fences, &*others, keep, &forgets).await });
        let sweeps = clock.clone();
        chores.spawn(async move { sweep(&*guests, &sweeps).await });
        let retention_ms = core.config.retention_hours.saturating_mul(HOUR_MS);
        let arrived = Arrived { core: Arc::clone(&core), moves: Arc::clone(&jobs.moves), retention_ms };
        let judges = clock.clone();
        chores.spawn(async move { judge_arrivals(&arrived, &judges).await });
        let shutdown = Shutdown::default();
        let started_at_ms = host.now_ms();
        Ok(Self {
            core,
            jobs,
            shutdown,
            cluster: None,
            hearing: None,
            clock,
            age,
            started_at_ms,
            _chores: chores,
        })
    }

    /// What keeps this worker from being stopped, without asking the others for how long.
    async fn worker_needed_here(&self) -> Answer<Vec<StopReason>> {
        let crossings = self.core.records.crossings_under_way().await?;
        let jobs = self.jobs.unfinished().await?;
        stopping::needed_here(&self.core, crossings, jobs).await
    }

    /// Resolves with the reason when the journal cannot be kept and the agent must stop.
    pub async fn failure(&self) -> String {
        tokio::select! {
            biased;
            reason = self.core.records.failure() => reason,
            reason = self.jobs.failure() => reason,
        }
    }

    fn in_cluster(&self) -> Answer<&Cluster> {
        self.cluster.as_ref().ok_or_else(cluster::in_none)
    }

    fn mover(&self) -> Mover<Core, HostClock> {
        Mover::new(Arc::clone(&self.core), self.clock.clone())
    }

    fn input(
        &self,
        record: MachineRecord,
        to: WorkerName,
        retention_hours: Option<u64>,
        mode: MoveMode,
    ) -> Answer<MoveInput> {
        self.check_way(&record, &to)?;
        Ok(MoveInput {
            machine: record.id,
            machine_name: record.name,
            from: self.core.config.name.clone(),
            to,
            retention_ms: self.retention_ms(retention_hours),
            mode,
            undo_unhealthy: false,
            way_back: false,
            force: false,
        })
    }

    fn check_way(&self, machine: &MachineRecord, to: &WorkerName) -> Answer<()> {
        if *to == self.core.config.name {
            let message = format!("machine {} is already on {to}; choose another worker", machine.name);
            return Err(ApiError::new(ErrorCode::InvalidRequest, message));
        }
        self.core.peers.client(to).map(drop)
    }

    fn retention_ms(&self, hours: Option<u64>) -> u64 {
        hours.unwrap_or(self.core.config.retention_hours).saturating_mul(HOUR_MS)
    }

    /// What people say of when a move begins and how long it may take, by this worker's clock.
    fn terms(&self, at_ms: Option<u64>, after_ms: Option<u64>, within_ms: Option<u64>) -> Terms {
        let after_ms = after_ms.map(|after_ms| self.clock.now_ms().saturating_add(after_ms));
        Terms { not_before_ms: at_ms.or(after_ms), within_ms, ..Terms::default() }
    }

    /// The machines that several moves are about: each once, and all of them here.
    async fn each_once(&self, start: &StartMoves) -> Answer<Vec<MachineRecord>> {
        if start.machines.is_empty() || start.machines.len() > StartMoves::MACHINES_MAX {
            let message = format!("name from 1 to {} machines to move as one job", StartMoves::MACHINES_MAX);
            return Err(ApiError::new(ErrorCode::InvalidRequest, message));
        }
        let mut records: Vec<MachineRecord> = Vec::new();
        for machine in &start.machines {
            let record = self.core.meant(machine).await?;
            self.check_way(&record, &start.to)?;
            if records.iter().any(|other| other.id == record.id) {
                let message = format!("machine {} is named twice; name it once", record.name);
                return Err(ApiError::new(ErrorCode::InvalidRequest, message));
            }
            records.push(record);
        }
        Ok(records)
    }

    /// The first move of a machine that is to begin later, and does not hold it yet.
    async fn move_for_later(&self, machine: MachineId) -> Answer<Option<JobId>> {
        for record in self.core.records.unfinished_jobs().await? {
            let moves = matches!(record.kind, JobKind::Move { machine: moved, .. } if moved == machine);
            if moves && self.jobs.job(record.id).await?.state == JobState::Waiting {
                return Ok(Some(record.id));
            }
        }
        Ok(None)
    }

    /// Lets the moves go on that a machine which is back here has overtaken: one that waited for a person because the
    /// machine did not start over there has nothing to wait for any more.
    async fn resume_overtaken(&self, machine: MachineId) -> Answer<()> {
        let holder = self.core.records.machine(machine).await?.and_then(|record| record.job);
        for record in self.core.records.unfinished_jobs().await? {
            let moves = matches!(record.kind, JobKind::Move { machine: moved, .. } if moved == machine);
            if !moves || holder == Some(record.id) {
                continue;
            }
            let job = self.jobs.job(record.id).await?;
            if job.state == JobState::Parked && is_at(&job, MoveStep::Boot) {
                tracing::info!(job = %job.id, "its machine is back; the job goes on");
                self.jobs.resume(job.id).await?;
            }
        }
        Ok(())
    }

    async fn find_volume(&self, reference: &VolumeRef) -> Answer<VolumeRecord> {
        let missing = || {
            let message =
                format!("there is no volume {reference} here; `ferry volume list` shows those there are");
            ApiError::new(ErrorCode::NotFound, message)
        };
        let name = match reference {
            VolumeRef::Id(id) => return self.core.records.latest_volume(*id).await?.ok_or_else(missing),
            VolumeRef::Name(name) => name,
        };
        let mut named = self.core.records.volumes().await?;
        named.retain(|record| record.name == *name);
        // Of each volume the latest generation, and what is ours before what was handed over.
        named.sort_by_key(|record| (record.id, std::cmp::Reverse(record.generation)));
        named.dedup_by_key(|record| record.id);
        if named.iter().any(|record| record.ownership == Ownership::Ours) {
            named.retain(|record| record.ownership == Ownership::Ours);
        }
        if named.len() > 1 {
            let ids: Vec<String> = named.iter().map(|record| record.id.to_string()).collect();
            let message =
                format!("several volumes here are named {name}; say which by its id ({})", ids.join(", "));
            return Err(ApiError::new(ErrorCode::InvalidRequest, message));
        }
        named.pop().ok_or_else(missing)
    }
}

/// Whether a job has not done this step yet, and all before it.
fn is_at(job: &Job, step: MoveStep) -> bool {
    let at = job.steps.iter().find(|step| step.state != StepState::Done);
    at.is_some_and(|at| at.step == step.name())
}

/// Answers a peer, with a moment on either side.
async fn answering<T>(call: &str, answer: impl Future<Output = Answer<T>>) -> Answer<T> {
    moments::call(When::Before, call).await;
    let answer = answer.await;
    moments::call(When::After, call).await;
    answer
}

impl AgentApi for Agent {
    async fn worker(&self) -> Answer<WorkerInfo> {
        self.worker_with(&DriverKind::ALL).await
    }

    async fn worker_for(&self, driver: DriverKind) -> Answer<WorkerInfo> {
        self.worker_with(&[driver]).await
    }

    async fn worker_pace(&self, pace: PaceWorker) -> Answer<WorkerInfo> {
        match pace.from {
            None => self.core.volumes.set_budget(pace.budget_bytes_per_s).await?,
            Some(from) => {
                self.core.peers.client(&from)?;
                self.core.volumes.set_pair_budget(from, pace.budget_bytes_per_s).await?;
            }
        }
        self.worker().await
    }

    async fn worker_cordon(&self, ask: AskCordon) -> Answer<WorkerInfo> {
        placement::cordon(&self.core, ask).await?;
        self.worker().await
    }

    async fn worker_uncordon(&self) -> Answer<WorkerInfo> {
        self.core.records.change(vec![Change::Cordon(None)]).await?;
        self.worker().await
    }

    async fn bid(&self) -> Answer<Bid> {
        self.bid_but(None, &DriverKind::ALL).await
    }

    async fn drain_plan(&self, ask: AskDrain) -> Answer<DrainPlan> {
        let known = placement::know(&self.core, &self.mover(), &ask, self.clock.now_ms()).await?;
        Ok(known.plan(ask))
    }

    async fn drain_start(&self, start: StartDrain) -> Answer<DrainStarted> {
        self.shutdown.admit()?;
        let (retention_ms, now_ms) = (self.retention_ms(start.retention_hours), self.clock.now_ms());
        placement::start_drain(&self.core, &self.mover(), &self.jobs, start, retention_ms, now_ms).await
    }

    async fn drain_pause(&self, pause: PauseDrain) -> Answer<Job> {
        let job = placement::drain_of(&self.core).await?;
        let paused = Change::DrainPaused { job, paused: pause.paused };
        self.core.records.change(vec![paused]).await?;
        let now = self.jobs.job(job).await?;
        if !pause.paused && now.state == JobState::Parked { self.jobs.resume(job).await } else { Ok(now) }
    }

    async fn drain_cancel(&self) -> Answer<Job> {
        self.jobs.cancel(placement::drain_of(&self.core).await?).await
    }

    async fn departures(&self, ask: AskDepartures) -> Answer<Departures> {
        placement::departures(&self.core, &self.mover(), ask).await
    }

    async fn rebalance_plan(&self, ask: AskRebalance) -> Answer<RebalancePlan> {
        let (here, now_ms) = (self.bid().await?, self.clock.now_ms());
        placement::plan_rebalance(&self.core, &self.mover(), here, ask, now_ms).await
    }

    async fn rebalance_start(&self, start: StartRebalance) -> Answer<RebalanceStarted> {
        self.shutdown.admit()?;
        let (here, retention_ms) = (self.bid().await?, self.retention_ms(start.retention_hours));
        placement::start_rebalance(&self.core, &self.mover(), &self.jobs, here, start, retention_ms).await
    }

    async fn worker_safe_to_stop(&self) -> Answer<SafeToStop> {
        let crossings = self.core.records.crossings_under_way().await?;
        let jobs = self.jobs.unfinished().await?;
        stopping::safe_to_stop(&self.core, crossings, jobs).await
    }

    async fn worker_shut_down(&self, wish: ShutDownWorker) -> Answer<WorkerShutDown> {
        self.shutdown.run(&self.core, wish, self.worker_safe_to_stop(), self.jobs.leave()).await
    }

    async fn metrics(&self) -> Answer<String> {
        let jobs = self.jobs.unfinished().await?;
        metrics::page(&self.core, self.worker_with(&[]).await?, jobs, self.jobs.queues()).await
    }

    async fn garbage(&self, ask: AskGarbage) -> Answer<Garbage> {
        garbage::look(&self.core, ask, self.age.now_ms()).await
    }

    async fn garbage_clear(&self, ask: AskGarbage) -> Answer<Garbage> {
        self.shutdown.admit()?;
        garbage::clear(&self.core, ask, self.age.now_ms()).await
    }

    async fn directory(&self) -> Answer<DirectoryView> {
        let about = self.core.services.about(self.bid_but(None, &[])).await?;
        Ok(self.core.services.view(about))
    }

    async fn services(&self) -> Answer<Vec<ServiceStatus>> {
        Ok(self.core.services.list())
    }

    async fn truth(&self, of: &TruthRef) -> Answer<Truth> {
        truth::truth(&self.core, of).await
    }

    async fn machine_create(&self, create: CreateMachine) -> Answer<Machine> {
        self.shutdown.admit()?;
        create::machine(&self.core, create).await
    }

    async fn machines(&self) -> Answer<Vec<Machine>> {
        Ok(self.core.machines.list().await?)
    }

    async fn machine(&self, machine: &MachineRef) -> Answer<Machine> {
        let record = self.core.meant(machine).await?;
        Ok(self.core.machines.show(record.id).await?)
    }

    async fn machine_placement(&self, machine: &MachineRef) -> Answer<PlacementExplained> {
        let record = self.core.meant(machine).await?;
        placement::explain(&self.core, &self.mover(), &record, self.bid().await?).await
    }

    async fn machine_log(&self, machine: &MachineRef, ask: AskLog) -> Answer<MachineLog> {
        let id = self.core.meant(machine).await?.id;
        Ok(self.core.machines.log(id, ask).await?)
    }

    async fn machine_start(&self, machine: &MachineRef) -> Answer<Machine> {
        self.shutdown.admit()?;
        let id = self.core.meant(machine).await?.id;
        self.core.records.change(vec![Change::Desire { machine: id, desired: Desired::Running }]).await?;
        match self.core.machines.up(id).await {
            // What it waits for is in its state, and its minder goes on trying.
            Ok(()) | Err(MachinesError::DoesNotRun { .. }) => Ok(self.core.machines.show(id).await?),
            Err(error) => Err(error.into()),
        }
    }

    async fn machine_stop(&self, machine: &MachineRef) -> Answer<Machine> {
        let id = self.core.meant(machine).await?.id;
        self.core.records.change(vec![Change::Desire { machine: id, desired: Desired::Stopped }]).await?;
        self.core.machines.down(id).await?;
        Ok(self.core.machines.show(id).await?)
    }

    async fn machine_destroy(&self, machine: &MachineRef, destroy: DestroyMachine) -> Answer<()> {
        let record = self.core.meant(machine).await?;
        if record.process.is_some() && record.job.is_none() && !destroy.stop {
            let message =
                format!("machine {} runs; stop it first, or ask to stop it too (--stop)", record.name);
            return Err(ApiError::new(ErrorCode::Conflict, message));
        }
        create::destroy(&self.core, &record).await
    }

    async fn volume_import(&self, import: ImportVolume) -> Answer<Volume> {
        self.shutdown.admit()?;
        create::import(&self.core, import).await
    }

    async fn volumes(&self) -> Answer<Vec<Volume>> {
        Ok(self.core.volumes.list().await?)
    }

    async fn volume(&self, volume: &VolumeRef) -> Answer<Volume> {
        let key = self.find_volume(volume).await?.key();
        Ok(self.core.volumes.show(key).await?)
    }

    async fn volume_pace(&self, volume: &VolumeRef, pace: PaceVolume) -> Answer<Volume> {
        let key = self.find_volume(volume).await?.key();
        self.core.volumes.pace(key, pace).await?;
        Ok(self.core.volumes.show(key).await?)
    }

    async fn volume_fork(&self, volume: &VolumeRef, fork: ForkVolume) -> Answer<Volume> {
        self.shutdown.admit()?;
        let key = self.find_volume(volume).await?.key();
        create::fork(&self.core, key, fork).await
    }

    async fn volume_grow(&self, volume: &VolumeRef, grow: GrowVolume) -> Answer<Volume> {
        let key = self.find_volume(volume).await?.key();
        self.core.volumes.grow(key, grow.size_bytes).await?;
        Ok(self.core.volumes.show(key).await?)
    }

    async fn volume_attach(&self, volume: &VolumeRef, attach: AttachVolume) -> Answer<AttachedFrontend> {
        let key = self.find_volume(volume).await?.key();
        Ok(self.core.volumes.attach(key, attach.frontend).await?)
    }

    async fn volume_detach(&self, volume: &VolumeRef, detach: DetachVolume) -> Answer<Volume> {
        let key = self.find_volume(volume).await?.key();
        self.core.volumes.detach(key, detach.frontend).await?;
        Ok(self.core.volumes.show(key).await?)
    }

    async fn volume_on_source_loss(&self, volume: &VolumeRef, wish: OnSourceLoss) -> Answer<Volume> {
        let key = self.find_volume(volume).await?.key();
        self.core.volumes.on_source_loss(key, wish.policy).await?;
        Ok(self.core.volumes.show(key).await?)
    }

    async fn volume_change_sources(&self, volume: &VolumeRef, change: ChangeSources) -> Answer<Volume> {
        let key = self.find_volume(volume).await?.key();
        self.core.volumes.change_sources(key, change).await?;
        Ok(self.core.volumes.show(key).await?)
    }

    async fn volume_abandon_source(&self, volume: &VolumeRef, abandon: AbandonSource) -> Answer<Losses> {
        let key = self.find_volume(volume).await?.key();
        Ok(self.core.volumes.abandon_source(key, abandon).await?)
    }

    async fn volume_verify(&self, volume: &VolumeRef, verify: VerifyVolume) -> Answer<VolumeCheck> {
        let key = self.find_volume(volume).await?.key();
        Ok(self.core.volumes.verify(key, verify.anew).await?)
    }

    async fn volume_delete(&self, volume: &VolumeRef) -> Answer<()> {
        let record = self.find_volume(volume).await?;
        if let Ownership::Retired { to, until_ms: _ } = &record.ownership {
            let message = format!(
                "volume {} has moved to worker {to}; the copy kept here is deleted by itself at the time that `ferry \
                 volume list` tells",
                record.name
            );
            return Err(ApiError::new(ErrorCode::Conflict, message));
        }
        let machine = match record.machine {
            Some(id) => self.core.records.machine(id).await?,
            None => None,
        };
        if let Some(machine) = machine {
            let message = format!(
                "volume {} is a disk of machine {}; destroy the machine to delete it",
                record.name, machine.name
            );
            return Err(ApiError::new(ErrorCode::Conflict, message));
        }
        if record.ownership == Ownership::Ours {
            self.core.volumes.refuse_if_forked(record.key()).await?;
        }
        Ok(self.core.volumes.delete(record.key()).await?)
    }

    async fn move_start(&self, start: StartMove) -> Answer<Job> {
        let record = self.core.meant(&start.machine).await?;
        let terms = self.terms(start.at_ms, start.after_ms, start.within_ms);
        let job = JobId::fresh();
        self.shutdown.admit()?;
        let to = match start.to {
            MoveTo::Worker(to) => to,
            MoveTo::Auto if terms.not_before_ms.is_some() => {
                let message =
                    "a worker is chosen when the move begins, and this one is to begin later; name one";
                return Err(ApiError::new(ErrorCode::InvalidRequest, message));
            }
            MoveTo::Auto => {
                placement::choose_now(&self.core, &self.mover(), job, &record, start.mode).await?
            }
        };
        let input = self.input(record, to, start.retention_hours, start.mode)?;
        let input = MoveInput { undo_unhealthy: start.undo_unhealthy, force: start.force, ..input };
        Ok(begin_move_with(&self.jobs.moves, job, input, terms, Vec::new()).await?)
    }

    async fn move_plan(&self, start: StartMove) -> Answer<MovePlan> {
        let record = self.core.meant(&start.machine).await?;
        let to = match start.to {
            MoveTo::Worker(to) => to,
            MoveTo::Auto => placement::best(&self.core, &self.mover(), &record, start.mode).await?,
        };
        let input = self.input(record, to, start.retention_hours, start.mode)?;
        let input = MoveInput { undo_unhealthy: start.undo_unhealthy, force: start.force, ..input };
        self.mover().foresee(&input).await
    }

    async fn moves_start(&self, start: StartMoves) -> Answer<Job> {
        self.shutdown.admit()?;
        let machines = self.each_once(&start).await?;
        let moves = machines.into_iter().map(|record| FleetMove {
            job: JobId::fresh(),
            machine: record.id,
            machine_name: record.name,
        });
        let input = FleetInput {
            from: self.core.config.name.clone(),
            moves: moves.collect(),
            retention_ms: self.retention_ms(start.retention_hours),
            mode: start.mode,
            undo_unhealthy: start.undo_unhealthy,
            force: start.force,
            terms: self.terms(start.at_ms, start.after_ms, start.within_ms),
            to: start.to,
        };
        Ok(begin_fleet(&self.jobs.fleets, input).await?)
    }

    async fn move_undo(&self, undo: UndoMove) -> Answer<Job> {
        let record = self.core.meant(&undo.machine).await?;
        let (_, from) = back::came_from(&record, &self.core.records.crossings_of(record.id).await?, undo.of)?;
        let input = self.input(record, from, undo.retention_hours, MoveMode::Cold)?;
        self.shutdown.admit()?;
        Ok(begin_move(&self.jobs.moves, MoveInput { way_back: true, ..input }, Terms::default()).await?)
    }

    async fn move_cancel(&self, cancel: CancelMove) -> Answer<Job> {
        let record = self.core.meant(&cancel.machine).await?;
        let job = match (record.job, self.move_for_later(record.id).await?) {
            (None, Some(later)) => later,
            (Some(_), _) | (None, None) => back::cancellable(&record)?,
        };
        self.jobs.cancel(job).await
    }

    async fn jobs(&self, asked: AskJobs) -> Answer<Vec<Job>> {
        self.jobs.jobs(asked).await
    }

    async fn job_journal(&self, job: JobId) -> Answer<JobJournal> {
        self.jobs.journal_of(job).await
    }

    async fn job(&self, job: JobId) -> Answer<Job> {
        self.jobs.job(job).await
    }

    async fn job_events(&self, job: JobId, events: EventsAfter) -> Answer<JobEvents> {
        self.jobs.events(job, events).await
    }

    async fn job_cancel(&self, job: JobId) -> Answer<Job> {
        self.jobs.cancel(job).await
    }

    async fn job_resume(&self, job: JobId) -> Answer<Job> {
        self.jobs.resume(job).await
    }

    async fn peer_hold(&self, hold: Hold) -> Answer<()> {
        self.shutdown.admit()?;
        let Reserve { job, spec, .. } = &hold.reserve;
        let bid = self.bid_but(Some(*job), &[spec.driver.kind()]).await?;
        answering("hold", self.core.target.hold(hold, &bid)).await
    }

    async fn peer_reserve(&self, reserve: Reserve) -> Answer<Crossing> {
        self.shutdown.admit()?;
        answering("reserve", self.core.target.reserve(reserve)).await
    }

    async fn peer_prepare(&self, prepare: Prepare) -> Answer<Crossing> {
        answering("prepare", self.core.target.prepare(prepare)).await
    }

    async fn peer_precopy(&self, precopy: Precopy) -> Answer<Crossing> {
        answering("precopy", self.core.target.precopy(precopy)).await
    }

    async fn peer_expect(&self, expect: Expect) -> Answer<Crossing> {
        answering("expect", self.core.target.expect(expect)).await
    }

    async fn peer_activate(&self, activate: Activate) -> Answer<Crossing> {
        let activated = answering("activate", self.core.target.activate(activate)).await?;
        if let Err(error) = self.resume_overtaken(activated.machine).await {
            tracing::warn!(machine = %activated.machine, %error, "a move that the machine has overtaken does not go on");
        }
        Ok(activated)
    }

    async fn peer_boot(&self, job: JobId) -> Answer<Crossing> {
        answering("boot", self.core.target.boot(job)).await
    }

    async fn peer_forsake(&self, job: JobId) -> Answer<Crossing> {
        answering("forsake", self.core.target.forsake(job)).await
    }

    async fn peer_crossing(&self, job: JobId) -> Answer<Crossing> {
        answering("crossing", self.core.target.crossing(job)).await
    }

    async fn peer_settle(&self, job: JobId) -> Answer<Crossing> {
        answering("settle", self.core.target.settle(job)).await
    }

    async fn peer_release(&self, job: JobId) -> Answer<()> {
        answering("release", self.core.target.release(job)).await
    }

    async fn peer_leads(&self, job: JobId) -> Answer<Option<WorkerName>> {
        let crossing = self.core.records.crossing(job).await?;
        Ok(crossing.and_then(|crossing| crossing.reserve).map(|reserve| reserve.from))
    }

    async fn peer_digest(&self) -> Answer<Digest> {
        Ok(self.hearing.as_ref().map(Hearing::digest).unwrap_or_default())
    }

    async fn peer_mappings(&self, ask: AskMappings) -> Answer<Mappings> {
        let mut told = self.core.services.told(ask).await?;
        told.about = Some(self.core.services.about(self.bid_but(None, &[])).await?);
        Ok(told)
    }

    async fn peer_testimony(&self, ask: AskTestimony) -> Answer<Testimony> {
        truth::testimony(&self.core, ask).await
    }

    async fn peer_pace(&self, pace: PaceFrom) -> Answer<()> {
        self.core.volumes.pace_from(pace);
        Ok(())
    }

    async fn peer_lease(&self, ask: AskLease) -> Answer<LeaseAnswer> {
        self.core.leases.give(ask).await
    }

    async fn peer_lease_end(&self, end: EndLease) -> Answer<()> {
        self.core.leases.end(end).await
    }

    async fn peer_lease_need(&self, ask: AskNeed) -> Answer<LeaseNeed> {
        self.core.leases.need(ask).await
    }

    async fn peer_root(&self, copy: VolumeKey, of: AskRoot) -> Answer<CopyRoot> {
        answering("root", async { Ok(self.core.volumes.root(copy, of).await?) }).await
    }

    async fn peer_export(&self, copy: VolumeKey, reader: Option<WorkerName>) -> Answer<VolumeExport> {
        let export = async {
            Ok(VolumeExport { key: copy, uri: self.core.volumes.export(copy, reader.as_ref()).await? })
        };
        answering("export", export).await
    }

    async fn cluster(&self) -> Answer<ClusterStatus> {
        let mut status = self.in_cluster()?.status().await;
        status.troubles.extend(self.core.services.hearing().trouble);
        Ok(status)
    }

    async fn cluster_token(&self, ask: AskJoinToken) -> Answer<JoinTokenMade> {
        self.in_cluster()?.token(ask).await
    }

    async fn cluster_api_token(&self, ask: AskApiToken) -> Answer<ApiTokenMade> {
        self.in_cluster()?.api_token(ask).await
    }

    async fn cluster_revoke(&self, revoke: Revoke) -> Answer<RevokeDone> {
        self.in_cluster()?.revoke(revoke).await
    }

    async fn cluster_join(&self, join: Join) -> Answer<Joined> {
        self.in_cluster()?.join(join).await
    }

    async fn cluster_renew(&self, renew: Renew) -> Answer<Renewed> {
        self.in_cluster()?.renew(renew).await
    }

    async fn peer_membership(&self, told: Membership) -> Answer<Membership> {
        self.in_cluster()?.hear(told).await
    }
}
