//! Finds a worker that takes a machine, and has it keep room for that.

use super::market;
use crate::core::Core;
use crate::jobs::{Clock, Looked, MoveInput, Mover};
use crate::records::MachineRecord;
use ferry_api::{AgentApi, ApiError, ErrorCode, Hold, JobId, MoveMode, WorkerName};
use ferry_crossing::moving;
use ferry_placement::{Market, Requirements};
use std::collections::BTreeSet;

/// What a machine that was looked at on worker `from` asks of another.
pub(crate) fn wants(from: &WorkerName, looked: &Looked) -> Requirements {
    Requirements {
        machine: looked.machine.id,
        name: looked.machine.name.clone(),
        from: from.clone(),
        spec: looked.plan.spec.clone(),
        volumes: looked.plan.volumes.clone(),
    }
}

/// The best worker that keeps room for the move that `input` will ask for, none of those in `but`, `force`d if no other does; when one refuses
/// the next one is asked.
///
/// # Errors
/// Nobody takes it; the sentence says why.
pub(crate) async fn choose(
    core: &Core,
    market: &Market,
    (job, looked, input): (JobId, &Looked, &MoveInput),
    but: &BTreeSet<WorkerName>,
    force: bool,
) -> Result<WorkerName, ApiError> {
    let wants = wants(&core.config.name, looked);
    // What one machine is refused another one may have.
    let mut market = market.clone();
    loop {
        let by_force = || market.best_by_force(&wants, but).filter(|_| force).map(|(to, _)| to);
        let Some(to) = market.best_but(&wants, but).or_else(by_force) else {
            return Err(nobody(&market, &wants));
        };
        match hold(core, (job, looked, input), &to, force).await {
            Ok(()) => return Ok(to),
            Err(error) => market.refuse(to, error.message),
        }
    }
}

/// Has a worker keep room for the move that `input` will ask for.
///
/// # Errors
/// It does not.
pub(crate) async fn hold(
    core: &Core,
    (job, looked, input): (JobId, &Looked, &MoveInput),
    to: &WorkerName,
    force: bool,
) -> Result<(), ApiError> {
    let input = MoveInput { to: to.clone(), ..input.clone() };
    let hold = Hold { reserve: moving::reserve(job, &input, &looked.plan), force };
    core.peers.client(to)?.peer_hold(hold).await
}

/// A worker that keeps room for a machine which is to move now.
///
/// # Errors
/// The machine cannot leave, or nobody takes it.
pub(crate) async fn choose_now<C: Clock>(
    core: &Core,
    mover: &Mover<Core, C>,
    job: JobId,
    machine: &MachineRecord,
    mode: MoveMode,
) -> Result<WorkerName, ApiError> {
    let looked = mover.look(machine.id, mode, &[]).await?;
    if let Some(blocker) = looked.blockers.first() {
        return Err(ApiError::new(ErrorCode::Conflict, blocker.clone()));
    }
    let input = MoveInput {
        machine: machine.id,
        machine_name: machine.name.clone(),
        from: core.config.name.clone(),
        to: core.config.name.clone(),
        retention_ms: 0,
        mode,
        undo_unhealthy: false,
        way_back: false,
        force: false,
    };
    choose(core, &market(core).await, (job, &looked, &input), &BTreeSet::new(), false).await
}

/// The worker that would be chosen by the bids alone.
///
/// # Errors
/// The machine cannot be looked at, or nobody takes it.
pub(crate) async fn best<C: Clock>(
    core: &Core,
    mover: &Mover<Core, C>,
    machine: &MachineRecord,
    mode: MoveMode,
) -> Result<WorkerName, ApiError> {
    let looked = mover.look(machine.id, mode, &[]).await?;
    let (market, wants) = (market(core).await, wants(&core.config.name, &looked));
    market.best(&wants).ok_or_else(|| nobody(&market, &wants))
}

fn nobody(market: &Market, wants: &Requirements) -> ApiError {
    ApiError::new(ErrorCode::Conflict, format!("machine {}: {}", wants.name, market.why_nobody(wants)))
}
