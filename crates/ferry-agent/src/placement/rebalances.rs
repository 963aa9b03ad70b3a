//! Making workers alike: which machines might leave this one, which moves would help, and this worker's part of a plan.

use super::drains::asked_of;
use super::market;
use crate::core::Core;
use crate::jobs::{Clock, Home, Looked, Mover, Office, begin_rebalance};
use crate::placement::plan::{looked_at, rate_bytes_per_s};
use crate::records::{Records, Standing};
use ferry_api::{
    AgentApi, ApiError, AskDepartures, AskRebalance, Bid, Departure, Departures, Deviation, ErrorCode, JobId,
    JobKind, MachineId, MachineRef, RebalancePart, RebalancePlan, RebalanceStarted, StartRebalance,
    WorkerName,
};
use ferry_crossing::moving;
use ferry_crossing::rebalance::RebalanceInput;
use ferry_placement::drain::{Candidate, is_asked};
use ferry_placement::rebalance::{Circumstances, compare, plan};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a worker may take to look at all its machines, until it counts as silent.
const DEPARTURES_MAX: Duration = Duration::from_secs(30);

/// The machines of this worker as moves of them would find them.
///
/// # Errors
/// One cannot be looked at.
pub(crate) async fn departures<C: Clock>(
    core: &Core,
    mover: &Mover<Core, C>,
    ask: AskDepartures,
) -> Result<Departures, ApiError> {
    let past = core.past_moves().await?;
    let mut machines = Vec::new();
    for machine in here_now(core).await? {
        machines.extend(looked_at(mover, machine, ask.mode, &past).await?.map(departure));
    }
    Ok(Departures { machines, rate_bytes_per_s: rate_bytes_per_s(&past) })
}

/// The machines that are this worker's.
async fn here_now(core: &Core) -> Result<Vec<MachineId>, ApiError> {
    let machines = core.records.machines().await?.into_iter();
    let here = machines.filter(|record| record.standing == Standing::Ours && !record.doomed);
    Ok(here.map(|record| record.id).collect())
}

fn departure(looked: Looked) -> Departure {
    Departure {
        machine: looked.machine.id,
        machine_name: looked.machine.name.clone(),
        generation: looked.plan.generation,
        volumes: moving::reserved_volumes(&looked.plan),
        mode: looked.mode,
        why: looked.why.clone(),
        interruption: looked.interruption,
        bytes_ahead: looked.bytes_ahead(),
        blockers: looked.blockers,
        spec: looked.plan.spec,
    }
}

/// Which moves would make all workers alike that are known here; `here` is the bid of this one.
///
/// # Errors
/// A machine that is named is on no worker that answers; those here cannot be looked at.
pub(crate) async fn plan_rebalance<C: Clock>(
    core: &Core,
    mover: &Mover<Core, C>,
    here: Bid,
    ask: AskRebalance,
    now_ms: u64,
) -> Result<RebalancePlan, ApiError> {
    let own = core.config.name.clone();
    let asked = AskDepartures { mode: ask.mode };
    let mut market = market(core).await;
    market.join(own.clone(), here);
    let mut told = vec![(own.clone(), Ok(departures(core, mover, asked).await?))];
    let others = market.bids().map(|(worker, _)| worker.clone()).filter(|worker| *worker != own);
    told.extend(departures_of(core, others.collect(), asked).await);
    let (mut candidates, mut rates_bytes_per_s) = (Vec::new(), BTreeMap::new());
    for (worker, told) in told {
        match told {
            Ok(told) => {
                rates_bytes_per_s.extend(told.rate_bytes_per_s.map(|rate| (worker.clone(), rate)));
                candidates.extend(told.machines.into_iter().map(|one| Candidate::of(&worker, one)));
            }
            Err(why) => market.refuse(worker, why),
        }
    }
    check_names(&ask, &candidates)?;
    Ok(plan(ask, &Circumstances { now_ms, rates_bytes_per_s }, &candidates, market, JobId::fresh))
}

/// What other workers tell of their machines, or what is heard instead, in one sentence.
async fn departures_of(
    core: &Core,
    workers: Vec<WorkerName>,
    asked: AskDepartures,
) -> Vec<(WorkerName, Result<Departures, String>)> {
    let mut asking = JoinSet::new();
    for worker in workers {
        let Ok(client) = core.peers.client(&worker) else { continue };
        asking.spawn(async move {
            let told = match timeout(DEPARTURES_MAX, client.departures(asked)).await {
                Ok(told) => told.map_err(|error| error.message),
                Err(_) => {
                    Err(format!("it did not tell of its machines within {} s", DEPARTURES_MAX.as_secs()))
                }
            };
            (worker, told)
        });
    }
    asking.join_all().await
}

/// Every machine that is named is somewhere.
fn check_names(ask: &AskRebalance, candidates: &[Candidate]) -> Result<(), ApiError> {
    let is_there = |named: &&MachineRef| {
        let named = std::slice::from_ref(*named);
        candidates.iter().any(|one| is_asked(named, &[], one.wants.machine, &one.wants.name))
    };
    match ask.only.iter().chain(&ask.except).find(|named| !is_there(named)) {
        None => Ok(()),
        Some(named) => {
            let message =
                format!("no worker that answers has a machine {named}; `ferry directory` lists them");
            Err(ApiError::new(ErrorCode::NotFound, message))
        }
    }
}

/// Takes on this worker's part of a plan, if it may begin; `here` is its own bid.
///
/// # Errors
/// As [`part_of`]; the records cannot be written.
pub(crate) async fn start_rebalance<C: Clock>(
    core: &Core,
    mover: &Mover<Core, C>,
    jobs: &Office<Records, C, Core>,
    here: Bid,
    start: StartRebalance,
    retention_ms: u64,
) -> Result<RebalanceStarted, ApiError> {
    let _one_after_the_other = jobs.rebalancing.lock().await;
    let only_check = start.only_check;
    let (job, deviations) = match part_of(core, mover, here, start, retention_ms).await? {
        Part::Begin(_) if only_check => (None, Vec::new()),
        Part::Begin(input) => (Some(begin_rebalance(&jobs.rebalances, *input).await?), Vec::new()),
        Part::Already(job) => (Some(jobs.job(job).await?), Vec::new()),
        Part::Deviates(deviations) => (None, deviations),
    };
    Ok(RebalanceStarted { job, deviations })
}

/// What is to be done about a part of a plan.
enum Part {
    /// It may begin.
    Begin(Box<RebalanceInput>),
    /// It is done, or has been.
    Already(JobId),
    /// The world is not as the plan says.
    Deviates(Vec<Deviation>),
}

/// Whether this worker's part of a plan may begin; `here` is its own bid.
///
/// # Errors
/// The plan has no part for this worker, or one that is none; another part is done here.
async fn part_of<C: Clock>(
    core: &Core,
    mover: &Mover<Core, C>,
    here: Bid,
    start: StartRebalance,
    retention_ms: u64,
) -> Result<Part, ApiError> {
    let own = &core.config.name;
    let part = check_part(own, &start.plan)?.clone();
    let input = RebalanceInput { ask: start.plan.ask, part, retention_ms };
    let id = input.part.job;
    if let Some(known) = core.records.job(id).await? {
        let is_this = known.kind == JobKind::Rebalance { from: own.clone() };
        if is_this && asked_of(core, id).await?.as_ref() == Some(&input) {
            return Ok(Part::Already(id));
        }
        let message = format!("job {id} was begun with another plan; make a new plan");
        return Err(ApiError::new(ErrorCode::Conflict, message));
    }
    let other = core.records.unfinished_jobs().await?;
    if let Some(other) = other.iter().find(|job| matches!(job.kind, JobKind::Rebalance { .. })) {
        let message = format!(
            "worker {own} still moves machines for another plan by job {0}; watch that (`ferry job watch {0}`), or cancel it \
             (`ferry job cancel {0}`)",
            other.id
        );
        return Err(ApiError::new(ErrorCode::Busy, message));
    }
    let mut candidates = Vec::new();
    for machine in here_now(core).await? {
        if input.part.moves.iter().any(|planned| planned.machine == machine) {
            let looked = looked_at(mover, machine, input.ask.mode, &[]).await?;
            candidates.extend(looked.map(|looked| super::candidate(own, &looked)));
        }
    }
    let mut market = market(core).await;
    market.join(own.clone(), here);
    let deviations = compare(&input.part, input.ask.by, &candidates, market);
    Ok(if deviations.is_empty() { Part::Begin(Box::new(input)) } else { Part::Deviates(deviations) })
}

/// The part of a plan that is this worker's, if it can be carried out at all.
fn check_part<'a>(own: &WorkerName, plan: &'a RebalancePlan) -> Result<&'a RebalancePart, ApiError> {
    let invalid = |wrong: String| ApiError::new(ErrorCode::InvalidRequest, wrong);
    if plan.format != RebalancePlan::FORMAT {
        let (has, knows) = (plan.format, RebalancePlan::FORMAT);
        return Err(invalid(format!(
            "the plan has format {has} and this version knows {knows}; make it again"
        )));
    }
    let part = plan.parts.iter().find(|part| part.from == *own);
    let part =
        part.ok_or_else(|| invalid(format!("the plan moves nothing from worker {own}; ask another")))?;
    let most = RebalancePlan::MOVES_MAX;
    if part.moves.is_empty() || part.moves.len() > most {
        return Err(invalid(format!(
            "the plan has {} moves from worker {own}, and from 1 to {most} are allowed; make it again",
            part.moves.len()
        )));
    }
    for (at, planned) in part.moves.iter().enumerate() {
        let name = &planned.machine_name;
        if planned.to.is_none() {
            return Err(invalid(format!(
                "the plan has no target for machine {name}; add one, or leave it out"
            )));
        }
        if part.moves[..at].iter().any(|before| before.machine == planned.machine) {
            return Err(invalid(format!("the plan moves machine {name} twice; remove one of both")));
        }
    }
    Ok(part)
}
