//! What the rooms of an agent share, and what jobs may do with it (see [`crate::jobs`]).

use crate::config::Config;
use crate::fences::Fences;
use crate::host::Host;
use crate::jobs::{Attic, Guests, Home, Targets, past_moves};
use crate::leases::Leases;
use crate::machines::{Machines, MachinesError};
use crate::peers::Peers;
use crate::records::{MachineRecord, Records, RecordsError, Touched};
use crate::services::Services;
use crate::target::Target;
use crate::volumes::Volumes;
use ferry_api::http::Client;
use ferry_api::{
    AgentApi, ApiError, AskLease, AskRoot, CopyRoot, CrossingState, EndLease, ErrorCode, Generation, HookRun,
    Job, JobId, JobState, LeaseAnswer, LeaseId, LiveFacts, Machine, MachineId, MachineRef, Notice, Volume,
    VolumeKey, WorkerName,
};
use ferry_crossing::live::Memory;
use ferry_crossing::{Fence, target};
use ferry_volume::Credentials;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::sync::broadcast::{self, error::RecvError};

type Answer<T> = Result<T, ApiError>;

/// What an agent stands on.
pub struct Ground {
    /// The host it runs on.
    pub host: Arc<dyn Host>,
    /// What its worker owns.
    pub records: Records,
    /// What its worker handed over.
    pub fences: Fences,
    /// The other workers.
    pub peers: Peers,
}

/// One worker: records, and the rooms that do what they say.
pub struct Core {
    /// How the agent is set up.
    pub config: Config,
    /// What this worker owns.
    pub records: Records,
    /// Its volumes.
    pub volumes: Volumes,
    /// Its machines.
    pub machines: Machines,
    /// The other workers.
    pub peers: Peers,
    /// Moves to this worker.
    pub target: Target,
    /// Which move may have a machine of a group down.
    pub leases: Leases,
    /// What of machines is reached on every worker.
    pub services: Services,
    /// Where it runs.
    pub host: Arc<dyn Host>,
    /// What it handed over.
    pub fences: Fences,
    /// Told when a copy was retired.
    retired: Notify,
}

impl Core {
    /// Puts the rooms together. Nothing is started yet.
    pub fn new(config: Config, ground: Ground, credentials: Option<Credentials>) -> Self {
        let Ground { host, records, fences, peers } = ground;
        let volumes = Volumes::new(
            &config,
            records.clone(),
            fences.clone(),
            peers.clone(),
            Arc::clone(&host),
            credentials,
        );
        let machines =
            Machines::new(&config, records.clone(), fences.clone(), volumes.clone(), Arc::clone(&host));
        let target = Target::new(
            &config,
            records.clone(),
            fences.clone(),
            volumes.clone(),
            machines.clone(),
            peers.clone(),
            host.clone(),
        );
        let leases = Leases::new(config.name.clone(), records.clone(), peers.clone());
        let (services, retired) = (Services::new(&config), Notify::new());
        Self { config, records, volumes, machines, peers, target, leases, services, host, fences, retired }
    }

    /// Has whoever keeps or minds something look at the records again each time they change, for ever.
    pub(crate) async fn dispatch(self: Arc<Self>, mut touched: broadcast::Receiver<Touched>) {
        loop {
            let result = match touched.recv().await {
                Ok(Touched::Machine(machine)) => {
                    self.machines.poke(machine);
                    Ok(())
                }
                Ok(Touched::MachineWithVolumes(machine)) => self.poke_with_volumes(machine).await,
                Ok(Touched::Volume(key)) => {
                    self.volumes.poke(key);
                    self.volumes.poke_copies(key.id);
                    self.retired.notify_one();
                    Ok(())
                }
                Err(RecvError::Lagged(_)) => self.poke_all().await,
                Err(RecvError::Closed) => return,
            };
            if let Err(error) = result {
                tracing::warn!(%error, "cannot tell what a change of the records was about");
            }
        }
    }

    async fn poke_with_volumes(&self, machine: MachineId) -> Result<(), RecordsError> {
        self.machines.poke(machine);
        if let Some(record) = self.records.machine(machine).await? {
            record.volume_keys().for_each(|key| self.volumes.poke(key));
        }
        Ok(())
    }

    /// Has everybody look at the records.
    pub(crate) async fn poke_all(&self) -> Result<(), RecordsError> {
        self.records.machines().await?.iter().for_each(|record| self.machines.poke(record.id));
        self.records.volumes().await?.iter().for_each(|record| self.volumes.poke(record.key()));
        self.retired.notify_one();
        Ok(())
    }

    /// The machine a person means.
    ///
    /// # Errors
    /// It is not here: says which worker has it, if any is known to.
    pub async fn meant(&self, machine: &MachineRef) -> Answer<MachineRecord> {
        match self.machines.find(machine).await {
            Err(refusal @ MachinesError::NotHere(_)) => Err(match self.services.elsewhere(machine) {
                Some(known) => ApiError::new(ErrorCode::NotFound, known.elsewhere()),
                None => refusal.into(),
            }),
            found => Ok(found?),
        }
    }
}

impl Home for Core {
    type Target = Client;

    fn target(&self, name: &WorkerName) -> Answer<Arc<Client>> {
        self.peers.client(name).map(Arc::new)
    }

    async fn machine(&self, machine: MachineId) -> Answer<Machine> {
        Ok(self.machines.show(machine).await?)
    }

    async fn past_moves(&self) -> Answer<Vec<Job>> {
        Ok(past_moves(&self.records).await?)
    }

    async fn volume(&self, copy: VolumeKey) -> Answer<Volume> {
        Ok(self.volumes.show(copy).await?)
    }

    async fn export(&self, copy: VolumeKey, to: WorkerName) -> Answer<String> {
        Ok(self.volumes.export(copy, Some(&to)).await?)
    }

    async fn withdraw(&self, copy: VolumeKey) -> Answer<()> {
        Ok(self.volumes.withdraw(copy).await?)
    }

    async fn flush(&self, copy: VolumeKey) -> Answer<()> {
        Ok(self.volumes.flush_ahead(copy).await?)
    }

    async fn export_live(&self, copy: VolumeKey, to: WorkerName) -> Answer<String> {
        Ok(self.volumes.export_live(copy, &to).await?)
    }

    async fn mark(&self, copy: VolumeKey) -> Answer<u64> {
        Ok(self.volumes.mark(copy).await?)
    }

    async fn forget_marks(&self, copy: VolumeKey, but: Option<u64>) -> Answer<()> {
        Ok(self.volumes.forget_marks(copy, but).await?)
    }

    async fn bytes_changed(&self, copy: VolumeKey, mark: u64) -> Answer<Option<u64>> {
        Ok(self.volumes.bytes_changed_since(copy, mark).await?)
    }

    async fn halt(&self, machine: MachineId) -> Answer<()> {
        Ok(self.machines.down(machine).await?)
    }

    async fn live_facts(&self, machine: MachineId) -> Answer<Result<LiveFacts, String>> {
        Ok(self.machines.live_facts(machine).await?)
    }

    async fn memory(&self, machine: MachineId) -> Answer<Option<Memory>> {
        Ok(self.machines.memory(machine).await?)
    }

    async fn send_memory(&self, machine: MachineId, to: &str) -> Answer<()> {
        Ok(self.machines.send_memory(machine, to).await?)
    }

    async fn let_memory_go(&self, machine: MachineId, job: JobId) -> Answer<Option<Memory>> {
        Ok(self.machines.let_memory_go(machine, job).await?)
    }

    async fn keep_memory(&self, machine: MachineId) -> Answer<()> {
        Ok(self.machines.keep_memory(machine).await?)
    }

    async fn tell(&self, machine: MachineId, notice: Notice) -> Answer<Option<HookRun>> {
        Ok(self.machines.tell(machine, &notice).await?)
    }

    async fn let_run(&self, machine: MachineId) -> Answer<()> {
        Ok(self.machines.up(machine).await?)
    }

    async fn seal(&self, copy: VolumeKey) -> Answer<()> {
        Ok(self.volumes.seal(copy).await?)
    }

    async fn unseal(&self, copy: VolumeKey) -> Answer<()> {
        Ok(self.volumes.unseal(copy).await?)
    }

    async fn fence(&self, copy: VolumeKey, to: &WorkerName, job: JobId) -> Answer<()> {
        Ok(self.volumes.fence(copy, to, job).await?)
    }

    async fn fence_machine(
        &self,
        machine: MachineId,
        generation: Generation,
        to: &WorkerName,
        job: JobId,
    ) -> Answer<()> {
        Ok(self.machines.fence(machine, Fence { generation, to: to.clone(), job }).await?)
    }

    async fn root(&self, copy: VolumeKey, of: AskRoot) -> Answer<CopyRoot> {
        Ok(self.volumes.root(copy, of).await?)
    }

    async fn retire(&self, copy: VolumeKey) -> Answer<()> {
        Ok(self.volumes.retire(copy).await?)
    }

    fn others(&self) -> Vec<WorkerName> {
        self.peers.list().into_iter().map(|peer| peer.name).collect()
    }

    fn asks_for_lease(&self, job: JobId, lease: Option<LeaseId>) {
        self.leases.asks(job, lease);
    }

    async fn lease(&self, at: &WorkerName, ask: AskLease) -> Answer<LeaseAnswer> {
        self.leases.ask(at, ask).await
    }

    async fn end_lease(&self, at: &WorkerName, end: EndLease) -> Answer<()> {
        self.leases.tell_end(at, end).await
    }
}

impl Attic for Core {
    async fn retired(&self) -> Answer<Vec<(VolumeKey, u64)>> {
        Ok(self.volumes.retired().await?)
    }

    async fn delete(&self, copy: VolumeKey) -> Answer<()> {
        Ok(self.volumes.delete(copy).await?)
    }

    async fn news(&self) {
        self.retired.notified().await;
    }
}

impl Targets for Core {
    async fn is_free_of(&self, to: &WorkerName, job: JobId) -> bool {
        // One that is no longer configured asks nobody here.
        let Ok(peer) = self.peers.client(to) else { return true };
        match peer.peer_crossing(job).await {
            Ok(crossing) if crossing.state == CrossingState::Released => true,
            Ok(_) => peer.peer_release(job).await.is_ok(),
            Err(error) => error.code == ErrorCode::NotFound,
        }
    }
}

impl Guests for Core {
    async fn expected(&self) -> Answer<Vec<(JobId, WorkerName)>> {
        let crossings = self.records.crossings_under_way().await?;
        let expected = crossings.into_iter().filter(target::is_expected);
        Ok(expected.filter_map(|crossing| Some((crossing.job, crossing.reserve?.from))).collect())
    }

    async fn asked(&self, from: &WorkerName, job: JobId) -> Answer<JobState> {
        Ok(self.peers.client(from)?.job(job).await?.state)
    }

    async fn release(&self, job: JobId) -> Answer<()> {
        self.target.release(job).await
    }

    async fn clean_up(&self) -> Answer<()> {
        self.target.clean_up().await
    }
}
