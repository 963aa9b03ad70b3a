//! The few moves that make workers alike, by room or by load.
//!
//! Invariants: every move brings the two workers that it touches closer together, so the gap between the fullest and the
//! emptiest worker never grows; a machine moves at most once; nothing moves once the gap is within the tolerance. A worker gives
//! machines or takes them, never both: so a giver is never emptier and a taker never fuller than when its move was chosen,
//! whichever others are left out or come later, and all of this holds for any part of the moves in any order.

mod compare;
mod plan;

pub use compare::compare;
pub use plan::{Circumstances, plan};

use crate::judge::Verdict;
use crate::market::Market;
use crate::requirements::Requirements;
use ferry_api::{BalanceBy, Bid, MachineId, MachineName, WorkerName};
use std::collections::{BTreeMap, BTreeSet};

/// Workers are compared in millionths, so that a small machine on a large worker still counts. So many are a thousandth.
const PERMILLE: u32 = 1_000;
/// A move has to lower the fuller one of both by at least one of so many parts of what it carries.
const GAIN_PART: u32 = 4;

/// When enough is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tolerance {
    /// A gap that is left alone, in thousandths of a worker.
    pub gap_permille: u32,
    /// The most moves.
    pub moves_max: usize,
}

/// What rebalancing would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebalance {
    /// The moves in order.
    pub moves: Vec<RebalanceMove>,
    /// The gap between the fullest and the emptiest worker, in thousandths, before.
    pub gap_before_permille: u32,
    /// And after.
    pub gap_after_permille: u32,
    /// The market after it.
    pub market: Market,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebalanceMove {
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub machine_name: MachineName,
    /// Where it is.
    pub from: WorkerName,
    /// Where it goes.
    pub to: WorkerName,
}

/// Which machines to move so that workers become alike. A worker that takes no machines counts in no comparison: whoever
/// cordoned it means it to be as it is.
#[must_use]
pub fn rebalance(
    machines: &[Requirements],
    mut market: Market,
    by: BalanceBy,
    tolerance: Tolerance,
) -> Rebalance {
    let gap_before_permille = gap(&market, by).div_ceil(PERMILLE);
    let mut at: BTreeMap<MachineId, &Requirements> =
        machines.iter().map(|wants| (wants.machine, wants)).collect();
    let mut moves: Vec<RebalanceMove> = Vec::new();
    let mut roles = Roles::default();
    while moves.len() < tolerance.moves_max
        && gap(&market, by) > tolerance.gap_permille.saturating_mul(PERMILLE)
    {
        let Some((wants, to)) = next(&at, &market, by, &roles) else { break };
        market.leave(wants, &wants.from);
        market.take(wants, &to);
        at.remove(&wants.machine);
        roles.give.insert(wants.from.clone());
        roles.take.insert(to.clone());
        moves.push(RebalanceMove {
            machine: wants.machine,
            machine_name: wants.name.clone(),
            from: wants.from.clone(),
            to,
        });
    }
    let gap_after_permille = gap(&market, by).div_ceil(PERMILLE);
    Rebalance { moves, gap_before_permille, gap_after_permille, market }
}

/// Who gives machines so far, and who takes them.
#[derive(Default)]
struct Roles {
    give: BTreeSet<WorkerName>,
    take: BTreeSet<WorkerName>,
}

/// How full workers are, in millionths, the fullest first.
fn fills(market: &Market, by: BalanceBy) -> Vec<(u32, &WorkerName)> {
    let counted = market.bids().filter(|(_, bid)| bid.worker.cordon.is_none());
    let mut fills: Vec<_> = counted.map(|(worker, bid)| (fill(bid, by, 0), worker)).collect();
    fills.sort_by(|(one, first), (other, second)| other.cmp(one).then_with(|| first.cmp(second)));
    fills
}

fn gap(market: &Market, by: BalanceBy) -> u32 {
    let fills = fills(market, by);
    match (fills.first(), fills.last()) {
        (Some((most, _)), Some((least, _))) => most - least,
        (None, _) | (_, None) => 0,
    }
}

/// How full a worker would be with so much more, or less, of what is compared, in millionths.
fn fill(bid: &Bid, by: BalanceBy, more: i128) -> u32 {
    let room = &bid.worker.room;
    let (taken, all) = match by {
        BalanceBy::Room => {
            let taken = room.used_bytes.saturating_add(room.promised_bytes);
            (taken.saturating_sub(room.handed_over_bytes), taken.saturating_add(room.free_bytes))
        }
        BalanceBy::Load => {
            let taken = bid.residents.iter().filter_map(|there| there.demand.cpu_millis);
            (taken.fold(0, u64::saturating_add), bid.capacity.cpu_millis)
        }
    };
    let taken = u128::try_from((i128::from(taken) + more).max(0)).unwrap_or(0);
    let millionths = (taken * 1_000_000).checked_div(u128::from(all)).unwrap_or(0);
    u32::try_from(millionths.min(1_000_000)).expect("a million is less than that")
}

/// The move that helps most: from a worker as full as possible, to one as empty as possible, of the machine after which the
/// fuller of both is the least full.
fn next<'a>(
    movable: &BTreeMap<MachineId, &'a Requirements>,
    market: &Market,
    by: BalanceBy,
    roles: &Roles,
) -> Option<(&'a Requirements, WorkerName)> {
    let bids: BTreeMap<_, _> = market.bids().collect();
    let fills = fills(market, by);
    for (full, source) in fills.iter().filter(|(_, worker)| !roles.take.contains(*worker)) {
        let here: BTreeSet<MachineId> = bids[source].residents.iter().map(|there| there.machine).collect();
        let leaving: Vec<&&Requirements> = movable
            .values()
            .filter(|wants| wants.from == **source && here.contains(&wants.machine))
            .collect();
        let emptier = fills.iter().rev().take_while(|(empty, _)| empty < full);
        for (_, target) in emptier.filter(|(_, worker)| !roles.give.contains(*worker)) {
            let after = |wants: &Requirements| evened(wants, bids[source], bids[target], by);
            let fits = |wants: &Requirements| matches!(market.judge(wants, target), Some(Verdict::Yes(_)));
            let helping = leaving.iter().filter_map(|wants| Some((after(wants)?, **wants)));
            let best = helping.filter(|(_, wants)| fits(wants)).min_by(|(one, first), (other, second)| {
                one.cmp(other).then_with(|| first.name.cmp(&second.name))
            });
            if let Some((_, wants)) = best {
                return Some((wants, (*target).clone()));
            }
        }
    }
    None
}

/// How full the fuller one of two workers is after a move that brings them closer together; none if it does not.
fn evened(wants: &Requirements, source: &Bid, target: &Bid, by: BalanceBy) -> Option<u32> {
    let weight = i128::from(weight(wants, by));
    let (full, empty) = (fill(source, by, 0), fill(target, by, 0));
    let (left, filled) = (fill(source, by, -weight), fill(target, by, weight));
    let after = left.max(filled);
    let is_worth_it = || (full - after).saturating_mul(GAIN_PART) >= full - left;
    (left > empty && after < full && is_worth_it()).then_some(after)
}

fn weight(wants: &Requirements, by: BalanceBy) -> u64 {
    match by {
        BalanceBy::Room => wants.disk_bytes(),
        BalanceBy::Load => wants.spec.demand().cpu_millis.unwrap_or(0),
    }
}
