//! The moves that make workers alike, as a document.

use super::{Tolerance, fills, rebalance};
use crate::drain::{Candidate, by_turn, give_turns, going, is_asked, reckon_times};
use crate::market::Market;
use crate::requirements::Requirements;
use crate::waves::AtOnce;
use ferry_api::{
    AskRebalance, BalanceBy, JobId, MachineId, PlannedMove, RebalancePart, RebalancePlan, Stays, WorkerFill,
    WorkerName,
};
use std::collections::BTreeMap;
use std::num::NonZeroU64;

/// What is known beside machines and bids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// When it is, in milliseconds since 1970.
    pub now_ms: u64,
    /// How many bytes a second have been seen to cross from each worker.
    pub rates_bytes_per_s: BTreeMap<WorkerName, NonZeroU64>,
}

/// What would be done to make workers alike; `fresh` gives the ids of its jobs. Machines that cannot move now are named if the gap
/// stays wider than what is tolerated.
#[must_use]
pub fn plan(
    ask: AskRebalance,
    circumstances: &Circumstances,
    candidates: &[Candidate],
    market: Market,
    mut fresh: impl FnMut() -> JobId,
) -> RebalancePlan {
    let asked = |candidate: &&Candidate| is_asked_of(&ask, candidate);
    let blocker = |candidate: &Candidate| {
        candidate.blockers.first().cloned().or_else(|| market.unsure_of(&candidate.wants))
    };
    let (stuck, free): (Vec<&Candidate>, Vec<&Candidate>) =
        candidates.iter().filter(asked).partition(|candidate| blocker(candidate).is_some());
    let wants: Vec<Requirements> = free.iter().map(|candidate| candidate.wants.clone()).collect();
    let tolerance = Tolerance { gap_permille: ask.tolerance_permille, moves_max: RebalancePlan::MOVES_MAX };
    let silent = market.silent().iter().map(|(worker, why)| (worker.clone(), why.clone())).collect();
    let stays = stuck.iter().map(|candidate| Stays {
        machine_name: candidate.wants.name.clone(),
        worker: candidate.wants.from.clone(),
        why: blocker(candidate).unwrap_or_default(),
    });
    let stays: Vec<Stays> = stays.collect();
    let before = market.clone();
    let done = rebalance(&wants, market, ask.by, tolerance);
    let stay = if done.gap_after_permille > ask.tolerance_permille { stays } else { Vec::new() };
    let moving: Vec<(&Candidate, WorkerName)> = done
        .moves
        .iter()
        .filter_map(|one| {
            Some((*free.iter().find(|free| free.wants.machine == one.machine)?, one.to.clone()))
        })
        .collect();
    let parts = parts(&ask, circumstances, moving, &mut fresh);
    let workers = workers(&before, &done.market, ask.by);
    RebalancePlan {
        format: RebalancePlan::FORMAT,
        made_at_ms: circumstances.now_ms,
        ask,
        workers,
        parts,
        stay,
        silent,
    }
}

/// Whether it was asked for a machine.
fn is_asked_of(ask: &AskRebalance, candidate: &Candidate) -> bool {
    is_asked(&ask.only, &ask.except, candidate.wants.machine, &candidate.wants.name)
}

/// What each giver does. Turns are given in one go, so that no two machines of a group have the same one, wherever they are.
fn parts(
    ask: &AskRebalance,
    circumstances: &Circumstances,
    moving: Vec<(&Candidate, WorkerName)>,
    fresh: &mut impl FnMut() -> JobId,
) -> Vec<RebalancePart> {
    let from: BTreeMap<MachineId, &WorkerName> =
        moving.iter().map(|(one, _)| (one.wants.machine, &one.wants.from)).collect();
    let mut machines: Vec<PlannedMove> = moving.into_iter().map(|(one, to)| going(one, Some(to))).collect();
    give_turns(&mut machines, |machine| from[&machine], AtOnce::from(ask));
    by_turn(&mut machines);
    let mut moves: BTreeMap<&WorkerName, Vec<PlannedMove>> = BTreeMap::new();
    for planned in machines {
        moves.entry(from[&planned.machine]).or_default().push(planned);
    }
    let parts = moves.into_iter().map(|(from, mut moves)| {
        let seen = circumstances.rates_bytes_per_s.get(from).copied();
        reckon_times(&mut moves, ask.bandwidth_bytes_per_s.or(seen));
        RebalancePart { from: from.clone(), job: fresh(), moves }
    });
    parts.collect()
}

fn workers(before: &Market, after: &Market, by: BalanceBy) -> Vec<WorkerFill> {
    let permille = |millionths: u32| millionths / super::PERMILLE;
    let after: BTreeMap<&WorkerName, u32> =
        fills(after, by).into_iter().map(|(fill, worker)| (worker, permille(fill))).collect();
    let both = fills(before, by).into_iter().map(|(fill, worker)| WorkerFill {
        worker: worker.clone(),
        before_permille: permille(fill),
        after_permille: after[worker],
    });
    both.collect()
}
