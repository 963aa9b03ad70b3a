//! Two workers made of memory that hold the rules of a crossing against whatever is done to them.
//!
//! Every call into this world and every append to the journal passes two *points*, before and after its effect,
//! counted from 0. A `Fault` happens at a point. The rules are asserted at every change, so no order of events
//! can break one unseen.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use ferry_api::{
    API_VERSION, Activate, ApiError, Crossing, CrossingState, CrossingVolume, Desired, ErrorCode, Generation,
    Hydration, JobId, Machine, MachineId, MachineSpec, MachineState, MachineVolume, Ownership, Prepare,
    Reserve, Room, ServerState, Volume, VolumeId, VolumeKey, VolumePhase, VolumeSource, WorkerInfo,
    WorkerName,
};
use serde_json::Value;
use tokio::sync::Notify;

use crate::jobs::{Clock, Home, Journal, Target};
use crate::records::{
    Change, JobRecord, JournalRow, MachineRecord, Records, RecordsError, Standing, VolumeRecord,
};

/// Looks at the target until its clones are whole.
const LOOKS_UNTIL_WHOLE: u32 = 3;
/// Size of each volume, in bytes.
const SIZE_BYTES: u64 = 1 << 20;

/// What may go wrong at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The source's agent is killed.
    AgentDies,
    /// The source's host goes down, with machine, volume servers and agent.
    HostDies,
    /// A call does not reach the other side, or its answer does not come back. An append cannot be that lucky:
    /// there it is `AgentDies`.
    Unreachable,
    /// Somebody asks to cancel the job.
    Cancel,
}

/// How the two workers stand.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) home_runs: bool,
    pub(super) home: HashMap<VolumeKey, HomeVolume>,
    pub(super) crossing: Option<CrossingState>,
    pub(super) target_runs: bool,
    pub(super) target_volumes: Vec<VolumeKey>,
    pub(super) desired: Option<Desired>,
    /// The hand-over is in the journal.
    pub(super) handed_over: bool,
    /// The target answers nobody.
    pub(super) target_away: bool,
    /// The target's volumes claim fewer checked bytes than arrived.
    pub(super) unchecked_bytes: u64,
    /// The machine does not start on the target.
    pub(super) does_not_boot: bool,
    /// The target's room, in bytes.
    pub(super) room_bytes: u64,
    pub(super) looks: u32,
    pub(super) points: u64,
    pub(super) faults: Vec<(u64, Fault)>,
    /// The agent is dead: whatever it still does has no effect.
    pub(super) dead: Option<Fault>,
}

#[derive(Debug, Default)]
pub(super) struct HomeVolume {
    pub(super) sealed: bool,
    pub(super) exported: bool,
    pub(super) fenced: bool,
    pub(super) retired: bool,
}

#[derive(Debug)]
pub(super) struct World {
    state: Mutex<State>,
    pub(super) machine: MachineId,
    pub(super) died: Notify,
    pub(super) cancel: Notify,
    now_ms: AtomicU64,
}

pub(super) fn worker(name: &str) -> WorkerName {
    name.parse().unwrap()
}

fn error(code: ErrorCode, message: &str) -> ApiError {
    ApiError::new(code, message)
}

impl State {
    /// At most one worker writes, at most one machine runs, and the deed comes first.
    fn hold_the_rules(&self) {
        assert!(!(self.home_runs && self.target_runs), "the machine runs twice: {self:?}");
        assert!(!(self.home_runs && self.handed_over), "a machine that was handed over runs: {self:?}");
        let owned_there = self
            .crossing
            .is_some_and(|state| (CrossingState::Activated..CrossingState::Released).contains(&state));
        assert!(!owned_there || self.handed_over, "the target owns what was not handed over: {self:?}");
        assert!(!self.target_runs || owned_there, "the target runs what it does not own: {self:?}");
        let runs_on = self
            .crossing
            .is_some_and(|state| (CrossingState::Booted..CrossingState::Released).contains(&state));
        for volume in self.home.values() {
            assert!(volume.sealed || !self.handed_over, "handed over and still writable: {self:?}");
            assert!(volume.sealed || !self.target_runs, "two may write: {self:?}");
            assert!(volume.fenced || !runs_on, "runs elsewhere and not fenced: {self:?}");
            assert!(!(self.home_runs && volume.sealed), "the machine runs on a sealed volume: {self:?}");
        }
    }
}

impl World {
    pub(super) fn new(volumes: &[VolumeKey], desired: Desired) -> Arc<Self> {
        let state = State {
            home_runs: desired == Desired::Running,
            home: volumes.iter().map(|key| (*key, HomeVolume::default())).collect(),
            desired: Some(desired),
            room_bytes: u64::MAX,
            ..State::default()
        };
        Arc::new(Self {
            state: Mutex::new(state),
            machine: MachineId::fresh(),
            died: Notify::new(),
            cancel: Notify::new(),
            now_ms: AtomicU64::new(1_000),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Passes a point. Never returns in an agent that is dead.
    async fn point(&self) -> Result<(), ApiError> {
        let fault = {
            let mut state = self.state();
            let at = state.points;
            state.points += 1;
            match state.dead {
                Some(fault) => Some(fault),
                None => state.faults.iter().find(|(point, _)| *point == at).map(|(_, fault)| *fault),
            }
        };
        match fault {
            None => Ok(()),
            Some(Fault::Unreachable) => Err(error(ErrorCode::Unreachable, "nobody answers")),
            Some(Fault::Cancel) => {
                self.cancel.notify_one();
                Ok(())
            }
            Some(fault @ (Fault::AgentDies | Fault::HostDies)) => {
                self.state().dead = Some(fault);
                self.died.notify_one();
                std::future::pending().await
            }
        }
    }

    /// One call: `effect` between two points.
    async fn call<T>(&self, effect: impl FnOnce(&mut State) -> Result<T, ApiError>) -> Result<T, ApiError> {
        self.point().await?;
        let answer = {
            let mut state = self.state();
            let answer = effect(&mut state);
            state.hold_the_rules();
            answer
        };
        self.point().await?;
        answer
    }

    async fn call_target<T>(
        &self,
        effect: impl FnOnce(&mut State) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        self.call(|state| {
            if state.target_away {
                return Err(error(ErrorCode::Unreachable, "beta does not answer"));
            }
            effect(state)
        })
        .await
    }

    /// What comes up again after the agent, or its host, went down: the machine as the records want it.
    pub(super) async fn come_back(&self, records: &Records) {
        let shall_run = records.machine(self.machine).await.unwrap().unwrap().shall_run();
        let mut state = self.state();
        if state.dead.take() == Some(Fault::HostDies) {
            state.home_runs = false;
        }
        state.home_runs |= shall_run && state.home.values().all(|volume| !volume.sealed);
        state.hold_the_rules();
    }

    fn crossing(&self, state: &State, job: JobId) -> Crossing {
        let volumes = state
            .target_volumes
            .iter()
            .map(|key| CrossingVolume { key: *key, volume: Some(self.target_volume(state, *key)) });
        Crossing {
            job,
            from: worker("alpha"),
            machine: self.machine,
            state: state.crossing.unwrap_or(CrossingState::Released),
            activated_at_ms: Some(7),
            booted_at_ms: state.target_runs.then_some(8),
            machine_now: None,
            volumes: volumes.collect(),
        }
    }

    fn target_volume(&self, state: &State, key: VolumeKey) -> Volume {
        let whole = state.looks >= LOOKS_UNTIL_WHOLE;
        let bytes_local = if whole { SIZE_BYTES } else { 0 };
        let counted = Hydration {
            complete: whole,
            bytes_total: SIZE_BYTES,
            bytes_local,
            bytes_remote: SIZE_BYTES - bytes_local,
            bytes_fetched: bytes_local,
            bytes_verified: bytes_local.saturating_sub(state.unchecked_bytes),
            ..Hydration::default()
        };
        let source_is_there = state.home.values().all(|volume| volume.exported);
        let source = VolumeSource {
            uri: String::new(),
            worker: Some(worker("alpha")),
            connected: Some(source_is_there),
            last_error: None,
        };
        Volume { source: Some(source), hydration: Some(counted), ..volume(key, self.machine, "beta") }
    }
}

fn volume(key: VolumeKey, machine: MachineId, on: &str) -> Volume {
    Volume {
        id: key.id,
        name: "data".parse().unwrap(),
        generation: key.generation,
        worker: worker(on),
        machine: Some(machine),
        size_bytes: SIZE_BYTES,
        region_bytes: 1 << 16,
        ownership: Ownership::Ours,
        server: ServerState::Running { pid: 1 },
        phase: Some(VolumePhase::Open),
        source: None,
        hydration: Some(Hydration { complete: true, bytes_total: SIZE_BYTES, ..Hydration::default() }),
        guest_uri: String::new(),
        export_uri: None,
        store_bytes_allocated: Some(SIZE_BYTES / 2),
        created_at_ms: 1,
    }
}

/// The source, as the mover sees it.
#[derive(Debug, Clone)]
pub(super) struct Alpha(pub(super) Arc<World>);

/// The target, as the mover sees it.
#[derive(Debug)]
pub(super) struct Beta(Arc<World>);

impl Alpha {
    async fn change<T>(
        &self,
        copy: VolumeKey,
        change: impl FnOnce(&mut HomeVolume) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let missing = || error(ErrorCode::NotFound, "no such copy");
        self.0.call(|state| change(state.home.get_mut(&copy).ok_or_else(missing)?)).await
    }
}

impl Home for Alpha {
    type Target = Beta;

    fn target(&self, name: &WorkerName) -> Result<Arc<Beta>, ApiError> {
        if *name != worker("beta") {
            return Err(error(ErrorCode::UnknownWorker, "no worker of that name is configured here"));
        }
        Ok(Arc::new(Beta(self.0.clone())))
    }

    async fn machine(&self, machine: MachineId) -> Result<Machine, ApiError> {
        let (keys, desired) = {
            let state = self.0.state();
            (state.home.keys().copied().collect::<Vec<_>>(), state.desired.unwrap())
        };
        let volumes = keys.into_iter().map(|key| MachineVolume {
            name: "data".parse().unwrap(),
            volume: key.id,
            generation: key.generation,
        });
        let machine = Machine {
            id: machine,
            name: "db".parse().unwrap(),
            worker: worker("alpha"),
            generation: Generation::FIRST,
            spec: MachineSpec::process("sleep", ["1"]),
            volumes: volumes.collect(),
            desired,
            state: MachineState::Stopped,
            job: None,
            last_exit: None,
            log: "log".into(),
            created_at_ms: 1,
        };
        self.0.call(|_| Ok(machine)).await
    }

    async fn volume(&self, copy: VolumeKey) -> Result<Volume, ApiError> {
        self.0.call(|_| Ok(volume(copy, self.0.machine, "alpha"))).await
    }

    async fn export(&self, copy: VolumeKey) -> Result<String, ApiError> {
        self.change(copy, |volume| {
            assert!(!volume.retired, "a retired copy is exported again");
            volume.exported = true;
            Ok(format!("nbd://127.0.0.1:1/{copy}"))
        })
        .await
    }

    async fn withdraw(&self, copy: VolumeKey) -> Result<(), ApiError> {
        self.change(copy, |volume| {
            volume.exported = false;
            Ok(())
        })
        .await
    }

    async fn flush(&self, copy: VolumeKey) -> Result<(), ApiError> {
        self.change(copy, |_| Ok(())).await
    }

    async fn halt(&self, _machine: MachineId) -> Result<(), ApiError> {
        self.0
            .call(|state| {
                state.home_runs = false;
                Ok(())
            })
            .await
    }

    async fn let_run(&self, _machine: MachineId) -> Result<(), ApiError> {
        self.0
            .call(|state| {
                state.home_runs = state.desired == Some(Desired::Running);
                Ok(())
            })
            .await
    }

    async fn seal(&self, copy: VolumeKey) -> Result<(), ApiError> {
        self.change(copy, |volume| {
            volume.sealed = true;
            Ok(())
        })
        .await
    }

    async fn unseal(&self, copy: VolumeKey) -> Result<(), ApiError> {
        self.change(copy, |volume| {
            assert!(!volume.fenced, "a fenced copy is to be unsealed");
            volume.sealed = false;
            Ok(())
        })
        .await
    }

    async fn fence(&self, copy: VolumeKey, _to: &WorkerName, _job: JobId) -> Result<(), ApiError> {
        self.change(copy, |volume| {
            volume.fenced = true;
            Ok(())
        })
        .await
    }

    async fn retire(&self, copy: VolumeKey) -> Result<(), ApiError> {
        self.0
            .call(|state| {
                assert_eq!(state.crossing, Some(CrossingState::Settled), "the target still reads");
                let volume = state.home.get_mut(&copy).unwrap();
                (volume.exported, volume.retired) = (false, true);
                Ok(())
            })
            .await
    }
}

impl Target for Beta {
    async fn worker(&self) -> Result<WorkerInfo, ApiError> {
        self.0
            .call_target(|state| {
                Ok(WorkerInfo {
                    name: worker("beta"),
                    api_version: API_VERSION,
                    program_version: String::new(),
                    pid: 1,
                    started_at_ms: 1,
                    state_dir: "state".into(),
                    listen: String::new(),
                    room: Room {
                        limit_bytes: None,
                        used_bytes: 0,
                        promised_bytes: 0,
                        free_bytes: state.room_bytes,
                    },
                    machines: 0,
                    volumes: 0,
                    peers: Vec::new(),
                })
            })
            .await
    }

    async fn reserve(&self, reserve: Reserve) -> Result<Crossing, ApiError> {
        self.0
            .call_target(|state| {
                if state.crossing == Some(CrossingState::Released) {
                    return Err(error(ErrorCode::Conflict, "the move was undone"));
                }
                state.crossing.get_or_insert(CrossingState::Reserved);
                let keys = reserve
                    .volumes
                    .iter()
                    .map(|volume| VolumeKey { id: volume.id, generation: volume.generation });
                state.target_volumes = keys.collect();
                Ok(self.0.crossing(state, reserve.job))
            })
            .await
    }

    async fn prepare(&self, prepare: Prepare) -> Result<Crossing, ApiError> {
        self.0
            .call_target(|state| {
                assert!(state.home.values().all(|volume| volume.exported), "nothing to reach");
                assert!(state.crossing >= Some(CrossingState::Reserved), "prepared and not reserved");
                assert_eq!(prepare.volumes.len(), state.home.len());
                state.crossing = state.crossing.max(Some(CrossingState::Prepared));
                Ok(self.0.crossing(state, prepare.job))
            })
            .await
    }

    async fn activate(&self, activate: Activate) -> Result<Crossing, ApiError> {
        self.0
            .call_target(|state| {
                assert!(state.crossing >= Some(CrossingState::Prepared), "activated and not prepared");
                assert!(activate.volumes.iter().all(|volume| volume.generation == Generation::FIRST.next()));
                state.crossing = state.crossing.max(Some(CrossingState::Activated));
                Ok(self.0.crossing(state, activate.job))
            })
            .await
    }

    async fn boot(&self, job: JobId) -> Result<Crossing, ApiError> {
        self.0
            .call_target(|state| {
                if state.does_not_boot {
                    return Err(error(ErrorCode::Internal, "there is no program sleep"));
                }
                state.crossing = state.crossing.max(Some(CrossingState::Booted));
                state.target_runs = state.desired == Some(Desired::Running);
                Ok(self.0.crossing(state, job))
            })
            .await
    }

    async fn crossing(&self, job: JobId) -> Result<Crossing, ApiError> {
        self.0
            .call_target(|state| {
                // Bytes arrive only while the source is there.
                state.looks += u32::from(state.home.values().all(|volume| volume.exported));
                Ok(self.0.crossing(state, job))
            })
            .await
    }

    async fn settle(&self, job: JobId) -> Result<Crossing, ApiError> {
        self.0
            .call_target(|state| {
                assert!(state.looks >= LOOKS_UNTIL_WHOLE, "settled with bytes still remote");
                state.crossing = Some(CrossingState::Settled);
                Ok(self.0.crossing(state, job))
            })
            .await
    }

    async fn release(&self, _job: JobId) -> Result<(), ApiError> {
        self.0
            .call_target(|state| {
                let owned = state.crossing.is_some_and(|crossing| {
                    (CrossingState::Activated..CrossingState::Released).contains(&crossing)
                });
                assert!(!owned, "what the target owns is released");
                state.crossing = Some(CrossingState::Released);
                Ok(())
            })
            .await
    }
}

/// Real records, with a point before and after every append.
#[derive(Debug)]
pub(super) struct FaultyJournal {
    pub(super) records: Records,
    pub(super) world: Arc<World>,
}

impl FaultyJournal {
    async fn point(&self) -> Result<(), RecordsError> {
        self.world.point().await.map_err(|_| RecordsError::Lost { reason: "the disk is gone".to_owned() })
    }
}

impl Journal for FaultyJournal {
    async fn append(
        &self,
        job: JobId,
        seq: u64,
        entries: &[Value],
        changes: Vec<Change>,
    ) -> Result<(), RecordsError> {
        self.point().await?;
        self.records.append(job, seq, entries, changes).await?;
        {
            let mut state = self.world.state();
            for entry in entries {
                state.handed_over |= entry["entry"] == "done" && entry["step"] == "HandOver";
                state.hold_the_rules();
                if entry["entry"] == "finished" {
                    assert!(
                        state.handed_over || state.home_runs == (state.desired == Some(Desired::Running))
                    );
                }
            }
        }
        self.point().await
    }

    async fn journal(&self, job: JobId, after: u64) -> Result<Vec<JournalRow>, RecordsError> {
        self.records.journal(job, after).await
    }

    async fn unfinished_jobs(&self) -> Result<Vec<JobRecord>, RecordsError> {
        self.records.unfinished_jobs().await
    }

    async fn jobs(&self) -> Result<Vec<JobRecord>, RecordsError> {
        self.records.jobs().await
    }

    async fn job(&self, id: JobId) -> Result<Option<JobRecord>, RecordsError> {
        self.records.job(id).await
    }
}

/// A clock that is moved by those who wait for it.
#[derive(Debug, Clone)]
pub(super) struct Hourglass(pub(super) Arc<World>);

impl Clock for Hourglass {
    fn now_ms(&self) -> u64 {
        self.0.now_ms.load(Ordering::SeqCst)
    }

    async fn sleep_until(&self, at_ms: u64) {
        // Whoever else is ready goes first, as in a real pause.
        tokio::task::yield_now().await;
        self.0.now_ms.fetch_max(at_ms, Ordering::SeqCst);
    }
}

/// The records of the source before the move.
pub(super) async fn furnish(records: &Records, world: &World) {
    let (keys, desired) = {
        let state = world.state();
        (state.home.keys().copied().collect::<Vec<_>>(), state.desired.unwrap())
    };
    let disks = keys.iter().map(|key| MachineVolume {
        name: "data".parse().unwrap(),
        volume: key.id,
        generation: key.generation,
    });
    let machine = MachineRecord {
        id: world.machine,
        name: "db".parse().unwrap(),
        spec: MachineSpec::process("sleep", ["1"]),
        volumes: disks.collect(),
        desired,
        generation: Generation::FIRST,
        standing: Standing::Ours,
        job: None,
        halted: false,
        process: None,
        last_exit: None,
        created_at_ms: 1,
    };
    let mut changes = vec![Change::AddMachine(Box::new(machine))];
    for key in keys {
        changes.push(Change::AddVolume(Box::new(VolumeRecord {
            id: key.id,
            generation: key.generation,
            name: "data".parse().unwrap(),
            machine: Some(world.machine),
            size_bytes: SIZE_BYTES,
            region_bytes: 1 << 16,
            ownership: Ownership::Ours,
            source: None,
            bytes_expected: 0,
            made: true,
            created_at_ms: 1,
        })));
    }
    records.change(changes).await.unwrap();
}

pub(super) fn fresh_keys(count: usize) -> Vec<VolumeKey> {
    let fresh = |_| VolumeKey { id: VolumeId::fresh(), generation: Generation::FIRST };
    (0..count).map(fresh).collect()
}
