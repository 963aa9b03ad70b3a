//! What a move would do if it were begun now: the checks of its first steps, without any of their effects.

use ferry_api::{
    ApiError, Expected, Job, JobKind, JobState, JobStep, Machine, MachineId, MachineState, MoveMode,
    MovePlan, Volume, VolumeKey,
};
use ferry_crossing::foresight::{Past, expected};
use ferry_crossing::reckoning::{
    against_volumes, against_worker, check_elsewhere, is_connecting, plan_volume,
};
use ferry_crossing::{MoveInput, MoveStep, Plan, Prepared, Reserved, Stopped};
use ferry_fsm::{Step, replay};

use super::Clock;
use super::journal::entries;
use super::mover::{LOOK_MS, Mover};
use super::task::Shows;
use super::view;
use super::world::{Home, Target};
use crate::records::{Records, RecordsError};

/// So many of the last jobs that have ended are looked at.
const PAST_MAX: u64 = 16;

/// So long a copy that has just come is given to reach its source before it is said that it cannot be moved on, in milliseconds.
const CONNECTING_MAX_MS: u64 = 5_000;

/// A machine as a move of it would find it here, whatever its target.
#[derive(Clone, Debug)]
pub struct Looked {
    /// The machine.
    pub machine: Machine,
    /// What a move plans with.
    pub plan: Plan,
    /// How it would go.
    pub mode: MoveMode,
    /// Why like that, in one sentence.
    pub why: String,
    /// How long it would be down.
    pub interruption: Expected,
    /// Why it cannot leave now, whoever would take it, each in one sentence.
    pub blockers: Vec<String>,
}

impl Looked {
    /// Bytes that its volumes have in use.
    pub fn bytes_in_use(&self) -> u64 {
        self.plan.volumes.iter().map(|planned| planned.bytes_in_use).sum()
    }

    /// Bytes of them that would cross before it stops.
    pub fn bytes_ahead(&self) -> u64 {
        match self.mode {
            MoveMode::Warm => self.bytes_in_use(),
            MoveMode::Cold | MoveMode::Auto | MoveMode::Live => 0,
        }
    }
}

impl<H: Home, C: Clock> Mover<H, C> {
    /// Looks at a machine that is to move, in the light of `past` moves.
    ///
    /// # Errors
    /// The machine or its volumes cannot be looked at.
    pub async fn look(&self, machine: MachineId, mode: MoveMode, past: &[Job]) -> Result<Looked, ApiError> {
        let machine = self.home.machine(machine).await?;
        let held = machine.job.map(|job| format!("machine {} is held by job {job}", machine.name));
        let mut blockers: Vec<String> = held.into_iter().collect();
        let mut volumes = Vec::new();
        for disk in &machine.volumes {
            let key = VolumeKey { id: disk.volume, generation: disk.generation };
            let volume = self.connected(key).await?;
            match plan_volume(&volume) {
                Ok(planned) => volumes.push(planned),
                Err(error) => blockers.push(error.message),
            }
        }
        let plan = Plan {
            generation: machine.generation,
            spec: machine.spec.clone(),
            created_at_ms: machine.created_at_ms,
            volumes,
            expected: None,
            live: None,
        };
        let why_cold = match mode {
            MoveMode::Cold => Some("it is asked for as a cold one".to_owned()),
            // What the target has of the volumes is known when it reserves.
            MoveMode::Warm | MoveMode::Auto | MoveMode::Live => {
                self.why_cold(machine.id, mode, &plan, &Reserved::default()).await?
            }
        };
        let is_warm = why_cold.is_none();
        let has_base = plan.volumes.iter().any(|planned| planned.born_from.is_some());
        let why = why_cold.unwrap_or_else(|| match has_base {
            true => "its disks can be copied while it runs; where its target has a base of them it is a cold one, and only \
                     what changed crosses"
                .to_owned(),
            false => "its disks can be copied while it runs".to_owned(),
        });
        let interruption = expect(past, &machine, mode);
        let mode = match mode {
            MoveMode::Live => MoveMode::Live,
            MoveMode::Cold | MoveMode::Warm | MoveMode::Auto if is_warm => MoveMode::Warm,
            MoveMode::Cold | MoveMode::Warm | MoveMode::Auto => MoveMode::Cold,
        };
        Ok(Looked { machine, plan, mode, why, interruption, blockers })
    }

    /// A volume, once it has reached its source or is known not to.
    async fn connected(&self, key: VolumeKey) -> Result<Volume, ApiError> {
        let until_ms = self.clock.now_ms().saturating_add(CONNECTING_MAX_MS);
        loop {
            let volume = self.home.volume(key).await?;
            let now_ms = self.clock.now_ms();
            if !is_connecting(&volume) || now_ms >= until_ms {
                return Ok(volume);
            }
            self.clock.sleep_until(now_ms.saturating_add(*LOOK_MS.start())).await;
        }
    }

    /// Says what a move would do.
    ///
    /// # Errors
    /// The machine or its volumes cannot be looked at.
    pub async fn foresee(&self, input: &MoveInput) -> Result<MovePlan, ApiError> {
        let past = self.home.past_moves().await?;
        let looked = self.look(input.machine, input.mode, &past).await?;
        let mut blockers = looked.blockers.clone();
        blockers.extend(check_elsewhere(input).err().map(|error| error.message));
        let target = match self.home.target(&input.to) {
            Ok(target) => target.worker(looked.plan.spec.driver.kind()).await,
            Err(error) => Err(error),
        };
        match target {
            Ok(info) => {
                let spec = &looked.plan.spec;
                blockers.extend(self.against_live(input, spec, Some(&info)).await?.1);
                let against = against_worker(input, &info, spec).into_iter();
                let against = against.chain(against_volumes(&info, &looked.plan.volumes));
                blockers.extend(against.map(|error| error.message));
            }
            Err(error) => blockers.push(error.message),
        }
        Ok(MovePlan {
            from: input.from.clone(),
            to: input.to.clone(),
            blockers,
            bytes_in_use: looked.bytes_in_use(),
            bytes_ahead: looked.bytes_ahead(),
            rounds: past.iter().filter(|job| is_of(job, input.machine)).find_map(rounds),
            machine_name: looked.machine.name,
            mode: looked.mode,
            why: looked.why,
            interruption: looked.interruption,
        })
    }
}

/// How long a machine will be down, by the moves from here.
///
/// One that is paused is no measure for one that is stopped and started.
pub(super) fn expect(past: &[Job], machine: &Machine, mode: MoveMode) -> Expected {
    let alike = past.iter().filter(|job| was_paused(job) == mode.is_live());
    let measured = alike.map(|job| Past {
        is_own: is_of(job, machine.id),
        stop_ms: took_ms(job, MoveStep::Stop),
        seal_ms: took_ms(job, MoveStep::Seal),
        hand_over_ms: took_ms(job, MoveStep::Activate),
        start_ms: took_ms(job, MoveStep::Boot),
    });
    // What does not run, or is paused, is not started there.
    let starts = matches!(machine.state, MachineState::Running { .. }) && !mode.is_live();
    let last_start_ms = machine.start_ms.filter(|_| starts);
    expected(&measured.collect::<Vec<_>>(), last_start_ms)
}

/// The last moves from this worker that went through, the latest first.
///
/// # Errors
/// The records cannot be read.
pub(crate) async fn past_moves(records: &Records) -> Result<Vec<Job>, RecordsError> {
    let mut past = Vec::new();
    for record in records.ended_before(None, PAST_MAX).await? {
        let JobKind::Move { .. } = record.kind else { continue };
        let rows = records.journal(record.id, 0).await?;
        // One that cannot be read tells nothing.
        let Ok(standing) = replay::<MoveStep>(&entries(&rows)) else { continue };
        let job = view::job(record.id, &record.kind, &standing, Shows::default(), 0);
        past.extend((job.state == JobState::Succeeded).then_some(job));
    }
    Ok(past)
}

fn is_of(job: &Job, machine: MachineId) -> bool {
    matches!(job.kind, JobKind::Move { machine: of, .. } if of == machine)
}

fn was_paused(job: &Job) -> bool {
    let memo = step(job, MoveStep::Stop).and_then(|step| step.memo.clone());
    let stopped = memo.and_then(|memo| serde_json::from_value::<Stopped>(memo).ok());
    stopped.is_some_and(|stopped| stopped.memory.is_some())
}

fn step(job: &Job, step: MoveStep) -> Option<&JobStep> {
    job.steps.iter().find(|found| found.step == step.name())
}

fn took_ms(job: &Job, of: MoveStep) -> Option<u64> {
    let step = step(job, of)?;
    Some(step.finished_at_ms?.saturating_sub(step.started_at_ms?))
}

fn rounds(job: &Job) -> Option<u64> {
    let memo = step(job, MoveStep::Prepare)?.memo.clone()?;
    let ahead = serde_json::from_value::<Prepared>(memo).ok()?.ahead?;
    (!ahead.rounds.is_empty()).then_some(ahead.rounds.len() as u64)
}
