//! What a move would do if it were begun now: the checks of its first steps, without any of their effects.

use ferry_api::{ApiError, Expected, Job, JobKind, JobState, JobStep, MachineId, MoveMode, MovePlan};
use ferry_crossing::foresight::{Past, expected};
use ferry_crossing::reckoning::{against_volumes, against_worker, check_elsewhere, plan_volume};
use ferry_crossing::{MoveInput, MoveStep, Plan, Prepared, Reserved, Stopped};
use ferry_fsm::{Step, replay};

use super::Clock;
use super::journal::entries;
use super::mover::Mover;
use super::view;
use super::world::{Home, Target};
use crate::records::{Records, RecordsError};
use ferry_api::VolumeKey;

/// So many of the last jobs that have ended are looked at.
const PAST_MAX: u64 = 16;

impl<H: Home, C: Clock> Mover<H, C> {
    /// Says what a move would do.
    ///
    /// # Errors
    /// The machine or its volumes cannot be looked at.
    pub async fn foresee(&self, input: &MoveInput) -> Result<MovePlan, ApiError> {
        let machine = self.home.machine(input.machine).await?;
        let mut blockers: Vec<String> = Vec::new();
        let held = machine.job.map(|job| format!("machine {} is held by job {job}", machine.name));
        blockers.extend(held);
        blockers.extend(check_elsewhere(input).err().map(|error| error.message));
        let mut volumes = Vec::new();
        for disk in &machine.volumes {
            let volume = self.home.volume(VolumeKey { id: disk.volume, generation: disk.generation }).await?;
            match plan_volume(&volume) {
                Ok(planned) => volumes.push(planned),
                Err(error) => blockers.push(error.message),
            }
        }
        let target = match self.home.target(&input.to) {
            Ok(target) => target.worker().await,
            Err(error) => Err(error),
        };
        match target {
            Ok(info) => {
                blockers.extend(self.against_live(input, &machine.spec, Some(&info)).await?.1);
                let against = against_worker(input, &info, &machine.spec).into_iter();
                let against = against.chain(against_volumes(&info, &volumes));
                blockers.extend(against.map(|error| error.message));
            }
            Err(error) => blockers.push(error.message),
        }
        let past = self.home.past_moves().await?;
        let plan = Plan {
            generation: machine.generation,
            spec: machine.spec,
            created_at_ms: machine.created_at_ms,
            volumes,
            expected: None,
            live: None,
        };
        let bytes_in_use = plan.volumes.iter().map(|planned| planned.bytes_in_use).sum();
        let why_cold = match input.mode {
            MoveMode::Cold => Some("it is asked for as a cold one".to_owned()),
            // What the target has of the volumes is known when it reserves.
            MoveMode::Warm | MoveMode::Auto | MoveMode::Live => {
                self.why_cold(input, &plan, &Reserved::default()).await?
            }
        };
        let is_warm = why_cold.is_none();
        let has_base = plan.volumes.iter().any(|planned| planned.born_from.is_some());
        let why = why_cold.unwrap_or_else(|| match has_base {
            true => format!(
                "its disks can be copied while it runs; where {} has a base of them it is a cold one, and only what changed crosses",
                input.to
            ),
            false => "its disks can be copied while it runs".to_owned(),
        });
        Ok(MovePlan {
            machine_name: machine.name,
            from: input.from.clone(),
            to: input.to.clone(),
            mode: match input.mode {
                MoveMode::Live => MoveMode::Live,
                MoveMode::Cold | MoveMode::Warm | MoveMode::Auto if is_warm => MoveMode::Warm,
                MoveMode::Cold | MoveMode::Warm | MoveMode::Auto => MoveMode::Cold,
            },
            why,
            blockers,
            bytes_in_use,
            bytes_ahead: if is_warm { bytes_in_use } else { 0 },
            rounds: past.iter().filter(|job| is_of(job, input.machine)).find_map(rounds),
            interruption: expect(&past, input),
        })
    }
}

/// How long a machine will be down, by the moves from here.
///
/// One that is paused is no measure for one that is stopped and started.
pub(super) fn expect(past: &[Job], input: &MoveInput) -> Expected {
    let alike = past.iter().filter(|job| was_paused(job) == input.mode.is_live());
    let measured = alike.map(|job| Past {
        is_own: is_of(job, input.machine),
        stop_ms: took_ms(job, MoveStep::Stop),
        seal_ms: took_ms(job, MoveStep::Seal),
        hand_over_ms: took_ms(job, MoveStep::Activate),
        start_ms: took_ms(job, MoveStep::Boot),
    });
    expected(&measured.collect::<Vec<_>>())
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
        let job = view::job(record.id, &record.kind, &standing, None, 0);
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
