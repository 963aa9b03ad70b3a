//! Two workers made of memory that hold the rules of a crossing against whatever is done to them.
//!
//! Every call into this world and every append to the journal passes two *points*, before and after its effect,
//! counted from 0. A `Fault` happens at a point. The rules are asserted at every change, so no order of events
//! can break one unseen.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU64;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};

use ferry_api::{
    ApiError, Arrival, AskLease, AskRoot, BadRanges, Capacity, CopyRoot, Crossing, CrossingState,
    CrossingVolume, Desired, Driver, EndLease, ErrorCode, Generation, HookName, HookRun, Hooks, Hydration,
    Job, JobId, Judged, LeaseAnswer, LeaseId, Limits, LiveFacts, Machine, MachineId, MachineSpec,
    MachineState, MachineVolume, Notice, Ownership, Precopied, QemuSpec, Root, ServerState, Volume, VolumeId,
    VolumeKey, VolumePhase, VolumeSource, WorkerName,
};
use ferry_crossing::live::{Memory, MemoryCopied};
use ferry_placement::Market;
use tokio::sync::Notify;

use crate::jobs::{Emptied, Home, Looked, MoveInput, Occupant};
use crate::records::{Records, Standing};

/// Looks at the target until its clones are whole.
pub(super) const LOOKS_UNTIL_WHOLE: u32 = 3;
/// Looks at the memory that is copied until the machine is paused.
const PASSES_UNTIL_PAUSED: u64 = 3;
/// Size of each volume, in bytes.
pub(super) const SIZE_BYTES: u64 = 1 << 20;
/// What the machine changes in each volume between two looks at its memory that crosses, in bytes.
const CHANGES_BESIDE_BYTES: u64 = 4 << 20;
/// What the machine changes in each volume before the first mark, in bytes.
const CHANGES_BYTES: u64 = 16 << 20;
/// Size of each region, in bytes.
pub(super) const REGION_BYTES: u64 = 1 << 16;

/// What may go wrong at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The source's agent is killed.
    AgentDies,
    /// The source's host goes down, with machine, volume servers and agent.
    HostDies,
    /// The source's agent is killed, and its records come back from a backup: of this very moment, but made before a
    /// person had cancelled the move, so that copies which nobody owns elsewhere were opened again.
    OlderRecords,
    /// A call does not reach the other side, or its answer does not come back. An append cannot be that lucky:
    /// there it is `AgentDies`.
    Unreachable,
    /// Somebody asks to cancel the job.
    Cancel,
}

/// What became of the volumes on the target as soon as they were handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    /// They moved on and were retired.
    Retired,
    /// They were destroyed with their machine.
    Destroyed,
}

/// How the two workers stand.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) home_runs: bool,
    /// How the memory of the machine stands at home; none without a process.
    pub(super) memory: Option<Memory>,
    /// It is a VM, whose memory can be moved.
    pub(super) is_vm: bool,
    /// So often a volume at home is found that has just come and has not reached its own source.
    pub(super) looks_until_connected: u32,
    /// It writes to its memory faster than that crosses.
    pub(super) writes_fast: bool,
    /// The rest of its memory does not arrive.
    pub(super) rest_is_lost: bool,
    /// What waits for its memory on the target ends as soon as the machine is paused.
    pub(super) nobody_awaits: bool,
    /// A process on the target waits for its memory, or has it.
    pub(super) awaited: bool,
    /// All of its memory is on the target.
    pub(super) arrived: bool,
    /// How it began there, if its memory was to come.
    pub(super) arrival: Option<Arrival>,
    /// How often it was started anew.
    pub(super) reboots: u32,
    pub(super) home: HashMap<VolumeKey, HomeVolume>,
    pub(super) crossing: Option<CrossingState>,
    pub(super) target_runs: bool,
    pub(super) target_volumes: Vec<VolumeKey>,
    /// What was copied ahead into each of the target's volumes.
    pub(super) precopied: HashMap<VolumeKey, Precopied>,
    /// What of it was kept: bytes, and how often its source had been unsealed until then.
    pub(super) adopted: HashMap<VolumeKey, (u64, u64)>,
    /// The target's volume servers were started again and hold nothing.
    pub(super) forgets_what_was_copied: bool,
    /// They are, as soon as the memory of the machine begins to cross.
    pub(super) loses_what_was_copied_beside: bool,
    pub(super) desired: Option<Desired>,
    /// The hand-over is in the journal.
    pub(super) handed_over: bool,
    /// The machine is marked as handed over.
    pub(super) machine_fenced: bool,
    /// The target answers nobody.
    pub(super) target_away: bool,
    /// The target's volumes claim fewer checked bytes than arrived.
    pub(super) unchecked_bytes: u64,
    /// The source is gone and was given up on the target: so many bytes were lost of each volume.
    pub(super) abandoned_bytes: u64,
    /// A region that arrived otherwise than it was sealed.
    pub(super) wrong_region: Option<u64>,
    /// The target does not know what arrived.
    pub(super) root_is_lost: bool,
    /// The volumes are gone from the target.
    pub(super) gone: Option<Gone>,
    /// As soon as the machine is the target's it comes back with another move, and is destroyed at home.
    pub(super) destroyed_at_home: bool,
    /// The machine does not start on the target.
    pub(super) does_not_boot: bool,
    /// The machine has a health check, and is judged on the target some looks after all has arrived.
    pub(super) is_judged: bool,
    /// The target's room, in bytes.
    pub(super) room_bytes: u64,
    /// What the target's host has.
    pub(super) has: Option<Capacity>,
    /// Drivers of the target.
    pub(super) drivers: Vec<ferry_api::DriverInfo>,
    /// What the machine may have at most.
    pub(super) limits: Limits,
    /// What the machine has of hooks.
    pub(super) hooks: Hooks,
    /// Those that fail.
    pub(super) failing: Vec<HookName>,
    /// Those that were run, in their order.
    pub(super) told: Vec<HookName>,
    /// What came of the hook on the target.
    pub(super) after_move: Option<HookRun>,
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
    /// Marks that were set and not forgotten.
    pub(super) marks: Vec<u64>,
    /// The highest id of a mark.
    pub(super) last_mark: u64,
    /// How often it was opened again after a seal.
    pub(super) unseals: u64,
    /// What the machine changes between two marks, in bytes; half as much each time.
    pub(super) changes: u64,
    pub(super) fenced: bool,
    pub(super) retired: bool,
}

#[derive(Debug)]
pub(super) struct World {
    state: Mutex<State>,
    pub(super) machine: MachineId,
    pub(super) died: Notify,
    /// Somebody shall ask to cancel the job ...
    pub(super) cancel: Notify,
    /// ... and has asked.
    pub(super) cancel_asked: Notify,
    pub(super) now_ms: AtomicU64,
}

pub(super) fn worker(name: &str) -> WorkerName {
    name.parse().unwrap()
}

pub(super) fn error(code: ErrorCode, message: &str) -> ApiError {
    ApiError::new(code, message)
}

impl State {
    /// What a side that has `wrong` among its regions says of some of them.
    pub(super) fn root_of(&self, of: AskRoot, wrong: Option<u64>) -> CopyRoot {
        let regions = SIZE_BYTES / REGION_BYTES;
        let end = of.regions.map_or(regions, |count| of.first_region + count);
        let wrong = wrong.filter(|region| (of.first_region..end).contains(region));
        let root = format!("{:016x}{:016x}{wrong:?}", of.first_region, end);
        CopyRoot { root: Root::Known { root }, regions, region_bytes: REGION_BYTES, ..CopyRoot::default() }
    }

    /// Runs a hook.
    pub(super) fn tell(&mut self, hook: HookName) -> HookRun {
        self.told.push(hook);
        let failure = self.failing.contains(&hook).then(|| "it is busy".to_owned());
        HookRun { hook, took_ms: 1, failure }
    }

    /// Starts the machine at home, unless a process of it is there.
    fn start_at_home(&mut self) {
        if self.memory.is_none() {
            self.reboots += 1;
            (self.home_runs, self.memory) = (true, Some(Memory::Here));
        }
    }

    /// Goes on with what is being copied of the memory.
    fn copy_memory(&mut self) {
        let Some(Memory::Leaving(copied)) = &mut self.memory else { return };
        copied.passes += 1;
        if self.loses_what_was_copied_beside {
            self.precopied.clear();
        }
        self.home.values_mut().for_each(|volume| volume.changes += CHANGES_BESIDE_BYTES);
        if copied.passes >= PASSES_UNTIL_PAUSED && !self.writes_fast {
            assert!(self.home.values().all(|volume| !volume.sealed), "sealed before it is paused: {self:?}");
            self.memory = Some(Memory::Paused(MemoryCopied::default()));
            self.home_runs = false;
            self.awaited &= !self.nobody_awaits;
        }
    }

    /// At most one worker writes, at most one machine runs, and the deed comes first.
    pub(super) fn hold_the_rules(&self) {
        assert!(!(self.home_runs && self.target_runs), "the machine runs twice: {self:?}");
        assert!(!(self.home_runs && self.handed_over), "a machine that was handed over runs: {self:?}");
        let owned_there = self
            .crossing
            .is_some_and(|state| (CrossingState::Activated..CrossingState::Released).contains(&state));
        assert!(!owned_there || self.handed_over, "the target owns what was not handed over: {self:?}");
        assert!(self.memory != Some(Memory::Left) || owned_there, "memory left too early: {self:?}");
        assert!(!self.target_runs || owned_there, "the target runs what it does not own: {self:?}");
        assert!(self.machine_fenced || !owned_there, "owned elsewhere and not fenced: {self:?}");
        assert!(!self.machine_fenced || self.handed_over, "fenced and not handed over: {self:?}");
        for volume in self.home.values() {
            assert!(volume.sealed || !owned_there, "owned elsewhere and still writable: {self:?}");
            assert!(volume.sealed || !self.target_runs, "two may write: {self:?}");
            assert!(volume.fenced || !owned_there, "owned elsewhere and not fenced: {self:?}");
            assert!(!(self.home_runs && volume.sealed), "the machine runs on a sealed volume: {self:?}");
        }
    }
}

impl HomeVolume {
    /// The guest writes again, and with the seal the marks end.
    fn unseal(&mut self) {
        if std::mem::take(&mut self.sealed) {
            self.unseals += 1;
            self.marks.clear();
        }
    }
}

impl World {
    pub(super) fn new(volumes: &[VolumeKey], desired: Desired) -> Arc<Self> {
        let state = State {
            home_runs: desired == Desired::Running,
            memory: (desired == Desired::Running).then_some(Memory::Here),
            home: volumes
                .iter()
                .map(|key| (*key, HomeVolume { changes: CHANGES_BYTES, ..HomeVolume::default() }))
                .collect(),
            desired: Some(desired),
            room_bytes: u64::MAX,
            drivers: Vec::new(),
            ..State::default()
        };
        Arc::new(Self {
            state: Mutex::new(state),
            machine: MachineId::fresh(),
            died: Notify::new(),
            cancel: Notify::new(),
            cancel_asked: Notify::new(),
            now_ms: AtomicU64::new(1_000),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Passes a point. Never returns in an agent that is dead.
    pub(super) async fn point(&self) -> Result<(), ApiError> {
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
                // It happens at this point, however long whoever asks takes to get there.
                self.cancel_asked.notified().await;
                Ok(())
            }
            Some(fault @ (Fault::AgentDies | Fault::HostDies | Fault::OlderRecords)) => {
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

    pub(super) async fn call_target<T>(
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
        let machine = records.machine(self.machine).await.unwrap().unwrap();
        let shall_run = machine.shall_run();
        let mut state = self.state();
        // Its last entry may be durable though it was never told so.
        state.handed_over |= matches!(machine.standing, Standing::HandedOver { .. });
        match state.dead.take() {
            Some(Fault::HostDies) => {
                (state.home_runs, state.memory) = (false, None);
                state.awaited &= state.arrived;
            }
            Some(Fault::OlderRecords) if state.crossing < Some(CrossingState::Activated) => {
                state.home.values_mut().for_each(HomeVolume::unseal);
            }
            Some(Fault::OlderRecords | Fault::AgentDies | Fault::Unreachable | Fault::Cancel) | None => {}
        }
        if shall_run && state.home.values().all(|volume| !volume.sealed) {
            state.start_at_home();
        }
        state.hold_the_rules();
    }

    pub(super) fn crossing(&self, state: &State, job: JobId) -> Crossing {
        let is_ours = state.crossing >= Some(CrossingState::Activated);
        let volumes = state.target_volumes.iter().map(|key| {
            let volume = self.target_volume(state, *key);
            let volume = match state.gone.filter(|_| is_ours) {
                None => Some(volume),
                Some(Gone::Retired) => {
                    let ownership = Ownership::Retired { to: worker("gamma"), until_ms: 1 };
                    Some(Volume { ownership, source: None, hydration: None, ..volume })
                }
                Some(Gone::Destroyed) => None,
            };
            CrossingVolume { key: *key, volume }
        });
        Crossing {
            job,
            from: worker("alpha"),
            machine: self.machine,
            state: state.crossing.unwrap_or(CrossingState::Released),
            activated_at_ms: Some(7),
            booted_at_ms: state.target_runs.then_some(8),
            memory_to: (state.awaited && state.arrival.is_none()).then(|| "beta:1".to_owned()),
            arrival: state.arrival,
            after_move: state.after_move.clone(),
            machine_now: None,
            volumes: volumes.collect(),
            judged: (state.is_judged && state.looks > 2 * LOOKS_UNTIL_WHOLE).then(taken_back),
        }
    }

    /// A copy that has just come to its worker.
    fn connecting(&self, found: Volume) -> Volume {
        let source = Some(self.source(false));
        let hydration = Some(Hydration { bytes_total: SIZE_BYTES, ..Hydration::default() });
        Volume { source, hydration, ..found }
    }

    fn source(&self, is_connected: bool) -> VolumeSource {
        VolumeSource {
            uri: String::new(),
            worker: Some(worker("alpha")),
            connected: Some(is_connected),
            last_error: None,
            is_gone: false,
            mismatches: Vec::new(),
            bad: BadRanges::default(),
            away_ms: None,
            requests_waiting: 0,
            slow_ms: None,
            more: Vec::new(),
        }
    }

    fn target_volume(&self, state: &State, key: VolumeKey) -> Volume {
        let is_ours = state.crossing >= Some(CrossingState::Activated);
        let whole = (is_ours && state.looks >= LOOKS_UNTIL_WHOLE) || state.abandoned_bytes > 0;
        let bytes_local = if whole { SIZE_BYTES } else { state.adopted.get(&key).map_or(0, |kept| kept.0) };
        let counted = Hydration {
            complete: whole,
            bytes_total: SIZE_BYTES,
            bytes_local,
            bytes_remote: SIZE_BYTES - bytes_local,
            bytes_fetched: bytes_local,
            bytes_verified: bytes_local.saturating_sub(state.unchecked_bytes),
            bytes_abandoned: state.abandoned_bytes,
            ..Hydration::default()
        };
        let source = self.source(state.home.values().all(|volume| volume.exported));
        let lineage = ferry_api::Lineage {
            precopied: state.precopied.get(&key).cloned(),
            ..ferry_api::Lineage::default()
        };
        Volume {
            source: Some(source),
            hydration: Some(counted),
            lineage,
            ..volume(key, self.machine, "beta")
        }
    }
}

/// What the target says of a machine that was not well.
pub(super) fn taken_back() -> Judged {
    Judged::TakenBack {
        job: "01JD7Q0000000000000000000B".parse().unwrap(),
        why: "it is ill".to_owned(),
        at_ms: 9,
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
        region_bytes: REGION_BYTES as u32,
        ownership: Ownership::Ours,
        server: ServerState::Running { pid: 1 },
        phase: Some(VolumePhase::Open),
        source: None,
        hydration: Some(Hydration { complete: true, bytes_total: SIZE_BYTES, ..Hydration::default() }),
        pace: ferry_api::VolumePace::default(),
        frontends: Vec::new(),
        loss_policy: ferry_api::LossPolicy::Wait,
        guest_uri: String::new(),
        export_uri: None,
        store: None,
        direct: false,
        store_bytes_allocated: Some(SIZE_BYTES / 2),
        disk_trouble: None,
        readers: Some(0),
        forks: Vec::new(),
        lineage: ferry_api::Lineage::default(),
        created_at_ms: 1,
    }
}

/// The source, as the mover sees it.
#[derive(Debug, Clone)]
pub(super) struct Alpha(pub(super) Arc<World>);

/// The target, as the mover sees it.
#[derive(Debug)]
pub(super) struct Beta(pub(super) Arc<World>);

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

impl Emptied for Alpha {
    async fn machines(&self) -> Result<Vec<Occupant>, ApiError> {
        Ok(Vec::new())
    }

    async fn arriving(&self) -> Result<usize, ApiError> {
        Ok(0)
    }

    async fn is_paused(&self, _: JobId) -> Result<bool, ApiError> {
        Ok(false)
    }

    async fn market(&self) -> Market {
        Market::default()
    }

    async fn choose(
        &self,
        _: &mut Market,
        _: (JobId, &Looked, &MoveInput),
        _: &BTreeSet<WorkerName>,
        _: bool,
    ) -> Result<WorkerName, String> {
        Ok(worker("beta"))
    }

    async fn hold(
        &self,
        _: &mut Market,
        _: (JobId, &Looked, &MoveInput),
        _: &WorkerName,
        _: bool,
    ) -> Result<(), String> {
        Ok(())
    }

    async fn pace(&self, _: &WorkerName, _: Option<NonZeroU64>) -> Result<(), ApiError> {
        Ok(())
    }

    async fn owes(&self, _: Vec<Job>) -> Result<Vec<String>, ApiError> {
        Ok(Vec::new())
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
        let (keys, desired, runs, spec) = {
            let state = self.0.state();
            let health = state.is_judged.then(|| ferry_api::Probe::Tcp(1.try_into().unwrap()).into());
            let mut spec = MachineSpec::process("sleep", ["1"]);
            if state.is_vm {
                spec.driver = Driver::Qemu(QemuSpec { cpu: "Haswell".parse().ok(), ..QemuSpec::default() });
            }
            spec = MachineSpec { health, hooks: state.hooks.clone(), limits: state.limits, ..spec };
            (state.home.keys().copied().collect::<Vec<_>>(), state.desired.unwrap(), state.home_runs, spec)
        };
        let state = if runs { MachineState::Running { pid: 1, since_ms: 1 } } else { MachineState::Stopped };
        let volumes = keys.into_iter().map(|key| MachineVolume {
            name: "data".parse().unwrap(),
            volume: key.id,
            generation: key.generation,
        });
        let machine = Machine {
            id: machine,
            address: None,
            name: "db".parse().unwrap(),
            worker: worker("alpha"),
            generation: Generation::FIRST,
            spec,
            volumes: volumes.collect(),
            desired,
            state,
            health: None,
            job: None,
            last_exit: None,
            start_ms: None,
            log: "log".into(),
            created_at_ms: 1,
        };
        let known = |state: &mut State| match state.crossing {
            Some(crossing) if state.destroyed_at_home && crossing >= CrossingState::Activated => {
                Err(error(ErrorCode::NotFound, "there is no such machine here"))
            }
            Some(_) | None => Ok(machine),
        };
        self.0.call(known).await
    }

    async fn past_moves(&self) -> Result<Vec<Job>, ApiError> {
        Ok(Vec::new())
    }

    async fn volume(&self, copy: VolumeKey) -> Result<Volume, ApiError> {
        self.0
            .call(|state| {
                let found = volume(copy, self.0.machine, "alpha");
                let is_lost = state.handed_over && state.abandoned_bytes > 0;
                let hydration = found.hydration.filter(|_| !is_lost);
                if let Some(left) = state.looks_until_connected.checked_sub(1) {
                    state.looks_until_connected = left;
                    return Ok(self.0.connecting(found));
                }
                Ok(Volume { hydration, ..found })
            })
            .await
    }

    async fn export(&self, copy: VolumeKey, _to: WorkerName) -> Result<String, ApiError> {
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

    async fn export_live(&self, copy: VolumeKey, _to: WorkerName) -> Result<String, ApiError> {
        self.change(copy, |volume| {
            assert!(!volume.sealed, "nobody writes to a sealed copy");
            Ok(format!("nbd://127.0.0.1:1/{copy}+live"))
        })
        .await
    }

    async fn mark(&self, copy: VolumeKey) -> Result<u64, ApiError> {
        self.change(copy, |volume| {
            volume.last_mark += 1;
            volume.marks.push(volume.last_mark);
            volume.changes /= 2;
            Ok(volume.last_mark)
        })
        .await
    }

    async fn forget_marks(&self, copy: VolumeKey, but: Option<u64>) -> Result<(), ApiError> {
        self.change(copy, |volume| {
            volume.marks.retain(|mark| Some(*mark) == but);
            Ok(())
        })
        .await
    }

    async fn bytes_changed(&self, copy: VolumeKey, mark: u64) -> Result<Option<u64>, ApiError> {
        self.change(copy, |volume| Ok(volume.marks.contains(&mark).then_some(volume.changes))).await
    }

    async fn halt(&self, _machine: MachineId) -> Result<(), ApiError> {
        self.0
            .call(|state| {
                assert!(state.memory.is_none() || !state.is_vm, "it is paused, not stopped");
                (state.home_runs, state.memory) = (false, None);
                Ok(())
            })
            .await
    }

    async fn tell(&self, _machine: MachineId, notice: Notice) -> Result<Option<HookRun>, ApiError> {
        self.0
            .call(|state| {
                assert!(!state.home.values().any(|volume| volume.sealed), "told of it when it was sealed");
                Ok(state.home_runs.then(|| state.tell(notice.hook)))
            })
            .await
    }

    async fn let_run(&self, _machine: MachineId) -> Result<(), ApiError> {
        self.0
            .call(|state| {
                if state.desired == Some(Desired::Running) {
                    state.start_at_home();
                }
                Ok(())
            })
            .await
    }

    async fn live_facts(&self, _machine: MachineId) -> Result<Result<LiveFacts, String>, ApiError> {
        self.0
            .call(|state| match state.memory {
                Some(_) => Ok(Ok(facts())),
                None => Ok(Err("machine db does not run".to_owned())),
            })
            .await
    }

    async fn memory(&self, _machine: MachineId) -> Result<Option<Memory>, ApiError> {
        self.0
            .call(|state| {
                state.copy_memory();
                Ok(state.memory.clone())
            })
            .await
    }

    async fn send_memory(&self, _machine: MachineId, to: &str) -> Result<(), ApiError> {
        assert_eq!(to, "beta:1");
        self.0
            .call(|state| {
                assert!(state.awaited, "sent to nobody: {state:?}");
                assert!(
                    matches!(state.memory, Some(Memory::Here | Memory::Failed { .. })),
                    "sent twice: {state:?}"
                );
                state.memory = Some(Memory::Leaving(MemoryCopied::default()));
                Ok(())
            })
            .await
    }

    async fn let_memory_go(&self, _machine: MachineId, _job: JobId) -> Result<Option<Memory>, ApiError> {
        self.0
            .call(|state| {
                assert!(state.crossing >= Some(CrossingState::Activated), "let go too early: {state:?}");
                if let Some(Memory::Paused(_)) = state.memory {
                    state.arrived = state.awaited && !state.rest_is_lost;
                    state.memory = state.arrived.then_some(Memory::Left);
                }
                Ok(state.memory.clone())
            })
            .await
    }

    async fn keep_memory(&self, _machine: MachineId) -> Result<(), ApiError> {
        self.0
            .call(|state| {
                assert!(!state.handed_over, "kept behind the hand-over: {state:?}");
                if let Some(Memory::Leaving(_) | Memory::Paused(_)) = state.memory {
                    state.memory = Some(Memory::Failed { why: "it was taken back".to_owned() });
                    (state.home_runs, state.awaited) = (true, false);
                }
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
            volume.unseal();
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

    async fn fence_machine(
        &self,
        _machine: MachineId,
        _generation: Generation,
        _to: &WorkerName,
        _job: JobId,
    ) -> Result<(), ApiError> {
        self.0
            .call(|state| {
                state.machine_fenced = true;
                Ok(())
            })
            .await
    }

    async fn root(&self, copy: VolumeKey, of: AskRoot) -> Result<CopyRoot, ApiError> {
        assert_eq!(of.of_generation, copy.generation.0);
        self.0.call(|state| Ok(state.root_of(of, None))).await
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

    fn others(&self) -> Vec<WorkerName> {
        vec![worker("beta")]
    }

    fn asks_for_lease(&self, _: JobId, _: Option<LeaseId>) {}

    async fn lease(&self, _: &WorkerName, _: AskLease) -> Result<LeaseAnswer, ApiError> {
        Ok(LeaseAnswer::Given)
    }

    async fn end_lease(&self, _: &WorkerName, _: EndLease) -> Result<(), ApiError> {
        Ok(())
    }
}

/// How machines run on both workers.
pub(super) fn facts() -> LiveFacts {
    LiveFacts { program: "QEMU 10".to_owned(), kvm: false, cpu: None, tls: true, local: false }
}

pub(super) fn fresh_keys(count: usize) -> Vec<VolumeKey> {
    let fresh = |_| VolumeKey { id: VolumeId::fresh(), generation: Generation::FIRST };
    (0..count).map(fresh).collect()
}
