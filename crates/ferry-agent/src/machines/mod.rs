//! The machines of this worker: for each a minder that sees to it that it runs, or does not, as the records say.
//!
//! ```text
//!  records ──shall run?──▶ minder (one task a machine) ──▶ volumes open ──▶ driver: start · stop
//!                             ▲ poke · the process ended (pidfd)
//! ```
//!
//! Invariants: a machine runs only while the records say that it shall, and never twice: its process is in the
//! records before it does anything. Machines outlive the agent; the next one finds them by their marks.

mod disks;
mod filesystems;
mod frozen;
mod health;
mod hooks;
mod live;
pub(crate) mod log;
mod minder;
mod policy;
mod unneeded;

use crate::config::Config;
use crate::drivers::{Disk, DriverError, Launch, MountedVolume};
use crate::fences::{FenceError, Fences};
use crate::host::{Host, blocking};
use crate::records::{Change, MachineRecord, MemoryMoves, Records, RecordsError, Standing};
use crate::volumes::{Volumes, VolumesError};
use ferry_api::{
    ApiError, AskLog, Desired, DriverInfo, DriverKind, ErrorCode, Health, Machine, MachineId, MachineLog,
    MachineName, MachineRef, MachineSpec, MachineState, VolumeName, WorkerName,
};
use ferry_crossing::{Fence, Subject, minding};
pub use filesystems::NoFilesystem;
use minder::Minder;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What a machine waits for that came with its memory and lost it.
const LOST_ITS_MEMORY: &str = "its memory was lost on the way here, and the worker that it left has not said yet that it does not \
                               run there any more; if that worker is gone for good: ferry machine start MACHINE";

/// Name of the file a machine's output goes to.
pub(crate) const LOG: &str = "machine.log";

/// Why something could not be done with a machine.
#[derive(Debug, thiserror::Error)]
pub enum MachinesError {
    /// The records refuse or failed.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// No such machine.
    #[error("there is no machine {0} here; `ferry machine list` shows those there are")]
    NotHere(String),
    /// The mark of a hand-over bars it.
    #[error("machine {name} is never started here again: {fence}; ask the agent of that worker")]
    Fenced {
        /// Its name.
        name: MachineName,
        /// What the mark says.
        fence: Fence,
    },
    /// The mark of a hand-over cannot be read or left.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// A volume of it is not ready.
    #[error("volume {name} is not ready")]
    Volume {
        /// Its name in the machine.
        name: VolumeName,
        /// Why.
        #[source]
        cause: Box<VolumesError>,
    },
    /// A volume of it is not open.
    #[error("volume {name} does not serve yet; wait until it does")]
    VolumeNotOpen {
        /// Its name in the machine.
        name: VolumeName,
    },
    /// It cannot be started or found.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// A volume of it cannot be mounted.
    #[error(transparent)]
    Filesystem(#[from] NoFilesystem),
    /// A file operation failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// It should not run and does.
    #[error("machine {name} does not stop; look at its processes")]
    DoesNotStop {
        /// Its name.
        name: String,
    },
    /// What was to be cleared away is needed.
    #[error("{what} of machine {machine} is not cleared away: {why}")]
    Needed {
        /// What.
        what: &'static str,
        /// Whose.
        machine: MachineId,
        /// Why it stays.
        why: String,
    },
    /// An image that was to be cleared away is needed.
    #[error("{} is not cleared away: {why}", path.display())]
    ImageNeeded {
        /// Where it is unpacked.
        path: PathBuf,
        /// Why it stays.
        why: String,
    },
    /// It should run and does not.
    #[error("machine {name} does not run yet: {waits_for}")]
    DoesNotRun {
        /// Its name.
        name: String,
        /// What it waits for.
        waits_for: String,
    },
}

impl From<MachinesError> for ApiError {
    fn from(error: MachinesError) -> Self {
        let code = match error {
            MachinesError::Records(records) => return records.into(),
            MachinesError::NotHere(_) => ErrorCode::NotFound,
            MachinesError::Fenced { .. } => ErrorCode::HandedOver,
            MachinesError::Needed { .. } | MachinesError::ImageNeeded { .. } => ErrorCode::Conflict,
            MachinesError::Driver(
                DriverError::NoProgram { .. }
                | DriverError::NoWorkdir { .. }
                | DriverError::NoRoot { .. }
                | DriverError::NoPlace { .. }
                | DriverError::NoUser { .. }
                | DriverError::NoTool { .. }
                | DriverError::TooOld { .. }
                | DriverError::NoModel { .. }
                | DriverError::NoKvm { .. }
                | DriverError::TooManyVcpus { .. }
                | DriverError::NoImage { .. }
                | DriverError::NotForVms
                | DriverError::NoWayIn
                | DriverError::AsksAnother { .. }
                | DriverError::NoGuestAgent
                | DriverError::LongPath { .. }
                | DriverError::NoCommand { .. }
                | DriverError::Image(_)
                | DriverError::NoRights
                | DriverError::NoLimit { .. }
                | DriverError::MoreThanThereIs { .. }
                | DriverError::NoNetwork { .. },
            )
            | MachinesError::Filesystem(_) => ErrorCode::InvalidRequest,
            MachinesError::Volume { .. }
            | MachinesError::VolumeNotOpen { .. }
            | MachinesError::DoesNotStop { .. }
            | MachinesError::DoesNotRun { .. } => ErrorCode::Unavailable,
            MachinesError::Driver(DriverError::Io { .. })
            | MachinesError::Fence(_)
            | MachinesError::Io { .. } => ErrorCode::Internal,
        };
        Self::because(code, &error)
    }
}

/// The machines of this worker.
#[derive(Clone)]
pub struct Machines {
    inner: Arc<Inner>,
}

struct Inner {
    worker: WorkerName,
    state_dir: PathBuf,
    records: Records,
    fences: Fences,
    volumes: Volumes,
    host: Arc<dyn Host>,
    minders: Mutex<BTreeMap<MachineId, Arc<Minder>>>,
    /// No machine runs any more, whatever the records say.
    is_going_down: AtomicBool,
}

impl Machines {
    /// The machines of the worker that `config` describes, run by the drivers of `host`. Nothing is looked at yet.
    #[must_use]
    pub fn new(
        config: &Config,
        records: Records,
        fences: Fences,
        volumes: Volumes,
        host: Arc<dyn Host>,
    ) -> Self {
        let (worker, state_dir) = (config.name.clone(), config.state_dir.clone());
        let (minders, is_going_down) = (Mutex::default(), AtomicBool::new(false));
        let inner = Inner { worker, state_dir, records, fences, volumes, host, minders, is_going_down };
        Self { inner: Arc::new(inner) }
    }

    /// Minds all machines in the records from now on: finds those that run and starts those that should.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn mind_all(&self) -> Result<(), MachinesError> {
        for record in self.inner.records.machines().await? {
            self.poke(record.id);
        }
        Ok(())
    }

    /// Has the minder of a machine look at the records again. To be called after they changed.
    pub fn poke(&self, machine: MachineId) {
        Inner::minder(&self.inner, machine).poke();
    }

    /// Says why a machine with this spec cannot run here, if it cannot.
    ///
    /// # Errors
    /// Its program is not there.
    pub async fn check(&self, spec: &MachineSpec) -> Result<(), MachinesError> {
        Ok(self.inner.host.driver(spec.driver.kind()).check(spec).await?)
    }

    /// Which of these drivers can run machines here, and why others cannot.
    pub async fn drivers(&self, kinds: &[DriverKind]) -> Vec<DriverInfo> {
        let mut drivers = Vec::new();
        for &kind in kinds {
            let driver = self.inner.host.driver(kind);
            let (found, error) = match driver.probe().await {
                Ok(found) => (Some(found).filter(|found| !found.is_empty()), None),
                Err(error) => (None, Some(ApiError::because(ErrorCode::Unavailable, &error).message)),
            };
            let live = match driver.live() {
                Some(live) => live.offers().await.ok(),
                None => None,
            };
            let limits = driver.limits().iter().map(ToString::to_string).collect();
            let models = driver.models().await;
            drivers.push(DriverInfo { name: kind.to_string(), found, limits, error, live, models });
        }
        drivers
    }

    /// Leaves a durable mark that a machine was handed over. From then on it is not started here at that generation,
    /// whatever the records say.
    ///
    /// # Errors
    /// The mark cannot be written.
    pub async fn fence(&self, machine: MachineId, fence: Fence) -> Result<(), MachinesError> {
        Ok(self.inner.fences.raise(Subject::Machine(machine), fence).await?)
    }

    /// Returns when everything was tried once that the records ask for a machine: when it has stopped, runs, or
    /// cannot yet be started.
    pub async fn settle(&self, machine: MachineId) {
        Inner::minder(&self.inner, machine).settle().await;
    }

    /// Waits until a machine that shall not run does not.
    ///
    /// # Errors
    /// It still runs, or the records say that it shall.
    pub async fn down(&self, machine: MachineId) -> Result<(), MachinesError> {
        self.settle(machine).await;
        let record = self.record(machine).await?;
        if !minding::is_down(&record) {
            return Err(MachinesError::DoesNotStop { name: record.name.to_string() });
        }
        Ok(())
    }

    /// Starts a machine if it shall run, at once even if it was waiting to be started again.
    ///
    /// # Errors
    /// It shall run and cannot be started yet; its minder goes on trying.
    pub async fn up(&self, machine: MachineId) -> Result<(), MachinesError> {
        let minder = Inner::minder(&self.inner, machine);
        minder.forgive();
        minder.settle().await;
        let record = self.record(machine).await?;
        if minding::is_up(&record) {
            return Ok(());
        }
        let waits_for = minder.trouble().unwrap_or_else(|| "it has ended again".to_owned());
        Err(MachinesError::DoesNotRun { name: record.name.to_string(), waits_for })
    }

    /// Stops all machines for good, as far as this agent goes: each in its grace time, all at once. What the records want
    /// of them stays, so that the next agent starts them. Answers those that ran, as they are now.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn go_down(&self) -> Result<Vec<MachineRecord>, MachinesError> {
        let mut running = self.inner.records.machines().await?;
        self.inner.is_going_down.store(true, Ordering::Relaxed);
        running.retain(|record| record.process.is_some());
        let mut stopping = JoinSet::new();
        for id in self.inner.records.machines().await?.into_iter().map(|record| record.id) {
            let machines = self.clone();
            stopping.spawn(async move { machines.settle(id).await });
        }
        stopping.join_all().await;
        let mut stopped = Vec::new();
        for record in running {
            stopped.push(self.record(record.id).await?);
        }
        Ok(stopped)
    }

    /// The machine a person means.
    ///
    /// # Errors
    /// There is none.
    pub async fn find(&self, reference: &MachineRef) -> Result<MachineRecord, MachinesError> {
        let found = self.inner.records.find_machine(reference).await?;
        found.ok_or_else(|| MachinesError::NotHere(reference.to_string()))
    }

    /// Deletes a machine that does not run: its directory, then its record. Its volumes are to be gone already.
    ///
    /// # Errors
    /// A file operation failed; the records cannot be written.
    pub async fn forget(&self, machine: MachineId) -> Result<(), MachinesError> {
        let removed = self.inner.host.remove_machine_dir(machine).await;
        let failed = |cause| MachinesError::Io { doing: "remove", path: self.inner.dir(machine), cause };
        removed.map_err(failed)?;
        Ok(self.inner.records.change(vec![Change::RemoveMachine(machine)]).await?)
    }

    /// All machines in the records.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn list(&self) -> Result<Vec<Machine>, MachinesError> {
        let records = self.inner.records.machines().await?;
        Ok(records.into_iter().map(|record| self.view(record)).collect())
    }

    /// One machine.
    ///
    /// # Errors
    /// It is not here.
    pub async fn show(&self, machine: MachineId) -> Result<Machine, MachinesError> {
        Ok(self.view(self.record(machine).await?))
    }

    /// A piece of what a machine wrote here; waits for more if that is asked.
    ///
    /// # Errors
    /// There is no such machine; its log cannot be read.
    pub async fn log(&self, id: MachineId, ask: AskLog) -> Result<MachineLog, MachinesError> {
        let until = Instant::now() + Duration::from_millis(ask.wait_ms);
        let path = self.inner.dir(id).join(LOG);
        loop {
            let to = match self.record(id).await?.standing {
                Standing::Ours => None,
                Standing::HandedOver { to, .. } => Some(to),
            };
            let (from, worker) = (path.clone(), self.inner.worker.clone());
            let piece = blocking(move || log::read(&from, ask, worker, to)).await;
            let piece =
                piece.map_err(|cause| MachinesError::Io { doing: "read", path: path.clone(), cause })?;
            if !piece.text.is_empty() || piece.moved_to.is_some() || Instant::now() >= until {
                return Ok(piece);
            }
            tokio::time::sleep(log::FOLLOW_PAUSE).await;
        }
    }

    async fn record(&self, machine: MachineId) -> Result<MachineRecord, MachinesError> {
        let found = self.inner.records.machine(machine).await?;
        found.ok_or_else(|| MachinesError::NotHere(machine.to_string()))
    }

    fn view(&self, record: MachineRecord) -> Machine {
        Machine {
            health: self.health(&record),
            state: self.state(&record),
            log: self.inner.dir(record.id).join(LOG),
            id: record.id,
            address: Some(record.id.address()),
            name: record.name,
            worker: self.inner.worker.clone(),
            generation: record.generation,
            spec: record.spec,
            volumes: record.volumes,
            desired: record.desired,
            job: record.job,
            last_exit: record.last_exit,
            start_ms: record.start_ms,
            created_at_ms: record.created_at_ms,
        }
    }

    fn health(&self, record: &MachineRecord) -> Option<Health> {
        let runs = record.standing == Standing::Ours && record.process.is_some();
        let known =
            (runs && record.spec.health.is_some()).then(|| Inner::minder(&self.inner, record.id).health());
        known.map(|known| known.unwrap_or(Health::Starting { why: None }))
    }

    fn state(&self, record: &MachineRecord) -> MachineState {
        let is_paused = record.memory == Some(MemoryMoves::Away);
        match (&record.standing, &record.process, record.job) {
            (Standing::Ours, Some(_), Some(job)) if is_paused => MachineState::Halted { job },
            (Standing::HandedOver { to, .. }, _, _) => MachineState::HandedOver { to: to.clone() },
            (Standing::Ours, Some(process), _) => {
                MachineState::Running { pid: process.pid, since_ms: process.started_at_ms }
            }
            (Standing::Ours, None, Some(job)) if record.halted => MachineState::Halted { job },
            (Standing::Ours, None, _) if record.lost_its_memory() && record.desired == Desired::Running => {
                MachineState::Starting { waits_for: LOST_ITS_MEMORY.to_owned() }
            }
            (Standing::Ours, None, _) if record.shall_run() => {
                Inner::minder(&self.inner, record.id).waiting()
            }
            (Standing::Ours, None, _) => MachineState::Stopped,
        }
    }
}

impl Inner {
    /// The machine's own directory.
    fn dir(&self, machine: MachineId) -> PathBuf {
        self.state_dir.join("machines").join(machine.to_string())
    }

    /// What the driver must know; the machine's directory exists then.
    fn launch(
        &self,
        record: &MachineRecord,
        mounts: Vec<MountedVolume>,
        disks: Vec<Disk>,
    ) -> Result<Launch, MachinesError> {
        let failed = |cause| MachinesError::Io { doing: "make", path: self.dir(record.id), cause };
        let dir = self.host.machine_dir(record.id).map_err(failed)?;
        let mut env = BTreeMap::from([
            ("FERRY_MACHINE_ID".to_owned(), record.id.to_string()),
            ("FERRY_MACHINE_NAME".to_owned(), record.name.to_string()),
            ("FERRY_MACHINE_ADDRESS".to_owned(), record.id.address().to_string()),
        ]);
        for (volume, key) in record.volumes.iter().zip(record.volume_keys()) {
            env.insert(volume.name.environment_variable(), self.volumes.guest_uri(key));
        }
        let (name, spec) = (record.name.clone(), record.spec.clone());
        Ok(Launch { machine: record.id, name, spec, log: dir.join(LOG), dir, env, mounts, disks })
    }
}
