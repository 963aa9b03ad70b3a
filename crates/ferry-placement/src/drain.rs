//! What a drain would do, as a value: machines in, plan out.
//!
//! Invariant: every machine that was asked for is in the plan, with a target and a turn or with what is in its way.

use crate::lead::in_order as largest_first;
use crate::market::Market;
use crate::requirements::Requirements;
use crate::waves::{AtOnce, Turn, waves};
use ferry_api::{
    AskDrain, Departure, DrainPlan, Expected, Generation, MachineId, MachineName, MachineRef, MoveMode,
    PlannedMove, WorkerName,
};
use ferry_crossing::target::planned;
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

impl Candidate {
    /// One that its worker `from` tells of.
    #[must_use]
    pub fn of(from: &WorkerName, told: Departure) -> Self {
        let wants = Requirements {
            machine: told.machine,
            name: told.machine_name,
            from: from.clone(),
            spec: told.spec,
            volumes: told.volumes.iter().map(planned).collect(),
        };
        Self {
            wants,
            generation: told.generation,
            mode: told.mode,
            why: told.why,
            interruption: told.interruption,
            bytes_ahead: told.bytes_ahead,
            blockers: told.blockers,
        }
    }
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

/// Whether a machine is one of those that were asked for: all, or `only` some, without the `except`ed.
#[must_use]
pub fn is_asked(only: &[MachineRef], except: &[MachineRef], machine: MachineId, name: &MachineName) -> bool {
    let is_it = |reference: &MachineRef| match reference {
        MachineRef::Id(id) => *id == machine,
        MachineRef::Name(named) => named == name,
    };
    (only.is_empty() || only.iter().any(is_it)) && !except.iter().any(is_it)
}

/// What a drain would do. The largest machines choose first, since they find a place the least easily.
#[must_use]
pub fn plan(
    ask: AskDrain,
    circumstances: &Circumstances,
    candidates: &[Candidate],
    mut market: Market,
) -> DrainPlan {
    let asked = |candidate: &&Candidate| {
        is_asked(&ask.only, &ask.except, candidate.wants.machine, &candidate.wants.name)
    };
    let mut in_order: Vec<&Candidate> = candidates.iter().filter(asked).collect();
    largest_first(&mut in_order);
    let mut machines: Vec<PlannedMove> =
        in_order.into_iter().map(|candidate| place(candidate, ask.force, &mut market)).collect();
    give_turns(&mut machines, |_| &circumstances.from, AtOnce::from(&ask));
    by_turn(&mut machines);
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
    let mut planned = going(candidate, None);
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

/// A machine in a plan that goes to that target.
pub(crate) fn going(candidate: &Candidate, to: Option<WorkerName>) -> PlannedMove {
    let wants = &candidate.wants;
    PlannedMove {
        machine: wants.machine,
        machine_name: wants.name.clone(),
        generation: candidate.generation,
        group: wants.spec.placement.group.clone(),
        to,
        mode: candidate.mode,
        why: candidate.why.clone(),
        wave: None,
        interruption: candidate.interruption,
        bytes_in_use: wants.disk_bytes(),
        bytes_ahead: candidate.bytes_ahead,
        whole_after_ms: None,
        blockers: candidate.blockers.clone(),
        costs: Vec::new(),
    }
}

/// Gives those a turn that have a target; `from` tells which worker a machine leaves.
pub(crate) fn give_turns<'a>(
    machines: &mut [PlannedMove],
    from: impl Fn(MachineId) -> &'a WorkerName,
    at_once: AtOnce,
) {
    let turns = machines.iter().filter_map(|planned| {
        let to = planned.to.as_ref()?;
        Some(Turn { from: from(planned.machine), to, group: planned.group.as_ref() })
    });
    let turns = waves(turns, at_once);
    let going = machines.iter_mut().filter(|planned| planned.to.is_some());
    for (planned, wave) in going.zip(turns) {
        planned.wave = Some(wave);
    }
}

/// Those that move in the order in which they do, those that cannot last.
pub(crate) fn by_turn(machines: &mut [PlannedMove]) {
    machines.sort_by_cached_key(|planned| {
        (planned.wave.unwrap_or(u32::MAX), planned.machine_name.clone(), planned.machine)
    });
}

/// When each machine is whole on its target, at the latest: those of one wave share the network, and waves follow each other.
pub(crate) fn reckon_times(in_order: &mut [PlannedMove], rate_bytes_per_s: Option<NonZeroU64>) {
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
