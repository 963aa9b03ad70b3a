//! What a drain would do, as a value: machines in, plan out.
//!
//! Invariant: every machine that was asked for is in the plan, with a target and a turn or with what is in its way.

use crate::lead::in_order as largest_first;
use crate::market::Market;
use crate::requirements::Requirements;
use crate::waves::{AtOnce, Turn, waves};
use ferry_api::{
    AskDrain, DrainPlan, Expected, Generation, MachineId, MachineName, MachineRef, MoveMode, PlannedMove,
    WorkerName,
};
use std::collections::BTreeSet;
use std::num::NonZeroU64;

/// A machine that is to move, with what a move of it was foreseen to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What it asks of a worker.
    pub wants: Requirements,
    /// Its generation where it is.
    pub generation: Generation,
    /// How it goes.
    pub mode: MoveMode,
    /// Why it goes like that, in one sentence.
    pub why: String,
    /// How long it would be down.
    pub interruption: Expected,
    /// Bytes that cross before it stops.
    pub bytes_ahead: u64,
    /// Why it cannot leave now, whoever would take it, each in one sentence.
    pub blockers: Vec<String>,
}

/// What is known beside machines and bids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// The worker that is emptied.
    pub from: WorkerName,
    /// When it is, in milliseconds since 1970.
    pub now_ms: u64,
    /// How many bytes a second have been seen to cross from here; none if nothing has been seen.
    pub rate_bytes_per_s: Option<NonZeroU64>,
}

/// Whether a drain that was asked for so is about this machine.
#[must_use]
pub fn is_asked(ask: &AskDrain, machine: MachineId, name: &MachineName) -> bool {
    let is_it = |reference: &MachineRef| match reference {
        MachineRef::Id(id) => *id == machine,
        MachineRef::Name(named) => named == name,
    };
    (ask.only.is_empty() || ask.only.iter().any(is_it)) && !ask.except.iter().any(is_it)
}

/// What a drain would do. The largest machines choose first, since they find a place the least easily.
#[must_use]
pub fn plan(
    ask: AskDrain,
    circumstances: &Circumstances,
    candidates: &[Candidate],
    mut market: Market,
) -> DrainPlan {
    let asked = |candidate: &&Candidate| is_asked(&ask, candidate.wants.machine, &candidate.wants.name);
    let mut in_order: Vec<&Candidate> = candidates.iter().filter(asked).collect();
    largest_first(&mut in_order);
    let mut machines: Vec<PlannedMove> =
        in_order.into_iter().map(|candidate| place(candidate, ask.force, &mut market)).collect();
    give_turns(&mut machines, &ask);
    machines.sort_by(|one, other| {
        let key = |planned: &PlannedMove| (planned.wave.unwrap_or(u32::MAX), planned.machine);
        let by_name = |planned: &PlannedMove| planned.machine_name.clone();
        key(one)
            .0
            .cmp(&key(other).0)
            .then_with(|| by_name(one).cmp(&by_name(other)))
            .then(key(one).1.cmp(&key(other).1))
    });
    reckon_times(&mut machines, ask.bandwidth_bytes_per_s.or(circumstances.rate_bytes_per_s));
    let silent = market.silent().iter().map(|(worker, reason)| (worker.clone(), reason.clone())).collect();
    DrainPlan {
        format: DrainPlan::FORMAT,
        from: circumstances.from.clone(),
        made_at_ms: circumstances.now_ms,
        ask,
        machines,
        silent,
    }
}

/// Finds a target for a machine and takes it.
fn place(candidate: &Candidate, force: bool, market: &mut Market) -> PlannedMove {
    let wants = &candidate.wants;
    let mut planned = PlannedMove {
        machine: wants.machine,
        machine_name: wants.name.clone(),
        generation: candidate.generation,
        group: wants.spec.placement.group.clone(),
        to: None,
        mode: candidate.mode,
        why: candidate.why.clone(),
        wave: None,
        interruption: candidate.interruption,
        bytes_in_use: wants.disk_bytes(),
        bytes_ahead: candidate.bytes_ahead,
        whole_after_ms: None,
        blockers: candidate.blockers.clone(),
        costs: Vec::new(),
    };
    planned.blockers.extend(market.unsure_of(wants).filter(|_| !force));
    if !planned.blockers.is_empty() {
        return planned;
    }
    let forced = |market: &Market| if force { market.best_by_force(wants, &BTreeSet::new()) } else { None };
    match market.best(wants).map(|to| (to, Vec::new())).or_else(|| forced(market)) {
        Some((to, costs)) => {
            market.take(wants, &to);
            planned.to = Some(to);
            planned.costs = costs;
        }
        None => planned.blockers.push(market.why_nobody(wants)),
    }
    planned
}

fn give_turns(machines: &mut [PlannedMove], ask: &AskDrain) {
    let at_once = AtOnce { all: ask.max_parallel, per_link: ask.max_parallel_per_link };
    let turns = machines
        .iter()
        .filter_map(|planned| planned.to.as_ref().map(|to| Turn { to, group: planned.group.as_ref() }));
    let turns = waves(turns, at_once);
    let going = machines.iter_mut().filter(|planned| planned.to.is_some());
    for (planned, wave) in going.zip(turns) {
        planned.wave = Some(wave);
    }
}

/// When each machine is whole on its target, at the latest: those of one wave share the network, and waves follow each other.
fn reckon_times(in_order: &mut [PlannedMove], rate_bytes_per_s: Option<NonZeroU64>) {
    let Some(rate) = rate_bytes_per_s else { return };
    let mut bytes = 0_u128;
    for wave in in_order.chunk_by_mut(|one, other| one.wave == other.wave) {
        if wave[0].wave.is_none() {
            return;
        }
        bytes += wave.iter().map(|planned| u128::from(planned.bytes_in_use)).sum::<u128>();
        let ms = (bytes * 1_000).div_ceil(u128::from(rate.get()));
        for planned in wave {
            planned.whole_after_ms = Some(u64::try_from(ms).unwrap_or(u64::MAX));
        }
    }
}
