//! The few moves that make workers alike, by room or by load.
//!
//! Invariants: every move brings the two workers that it touches closer together, so the gap between the fullest and the
//! emptiest worker never grows; a machine moves at most once; nothing moves once the gap is within the tolerance.

use crate::judge::{Verdict, permille};
use crate::market::Market;
use crate::requirements::Requirements;
use ferry_api::{Bid, MachineId, MachineName, WorkerName};
use std::collections::{BTreeMap, BTreeSet};

/// By what workers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The part of their room that is taken.
    Room,
    /// The part of their processors that their machines are known to take.
    Load,
}

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
pub fn rebalance(machines: &[Requirements], mut market: Market, by: By, tolerance: Tolerance) -> Rebalance {
    let gap_before_permille = gap(&market, by);
    let mut at: BTreeMap<MachineId, &Requirements> =
        machines.iter().map(|wants| (wants.machine, wants)).collect();
    let mut moves = Vec::new();
    while moves.len() < tolerance.moves_max && gap(&market, by) > tolerance.gap_permille {
        let Some((wants, to)) = next(&at, &market, by) else { break };
        market.leave(wants, &wants.from);
        market.take(wants, &to);
        at.remove(&wants.machine);
        moves.push(RebalanceMove {
            machine: wants.machine,
            machine_name: wants.name.clone(),
            from: wants.from.clone(),
            to,
        });
    }
    Rebalance { moves, gap_before_permille, gap_after_permille: gap(&market, by) }
}

/// How full workers are, in thousandths, the fullest first.
fn fills(market: &Market, by: By) -> Vec<(u32, &WorkerName)> {
    let counted = market.bids().filter(|(_, bid)| bid.worker.cordon.is_none());
    let mut fills: Vec<_> = counted.map(|(worker, bid)| (fill(bid, by, 0), worker)).collect();
    fills.sort_by(|(one, first), (other, second)| other.cmp(one).then_with(|| first.cmp(second)));
    fills
}

fn gap(market: &Market, by: By) -> u32 {
    let fills = fills(market, by);
    match (fills.first(), fills.last()) {
        (Some((most, _)), Some((least, _))) => most - least,
        (None, _) | (_, None) => 0,
    }
}

/// How full a worker would be with so much more, or less, of what is compared.
fn fill(bid: &Bid, by: By, more: i128) -> u32 {
    let room = &bid.worker.room;
    let (taken, all) = match by {
        By::Room => {
            let taken = room.used_bytes.saturating_add(room.promised_bytes);
            (taken, taken.saturating_add(room.free_bytes))
        }
        By::Load => {
            let taken = bid.residents.iter().filter_map(|there| there.demand.cpu_millis);
            (taken.fold(0, u64::saturating_add), bid.capacity.cpu_millis)
        }
    };
    permille(u64::try_from((i128::from(taken) + more).max(0)).unwrap_or(u64::MAX), all)
}

/// The move that helps most: from a worker as full as possible, to one as empty as possible, of the machine after which the
/// fuller of both is the least full.
fn next<'a>(
    movable: &BTreeMap<MachineId, &'a Requirements>,
    market: &Market,
    by: By,
) -> Option<(&'a Requirements, WorkerName)> {
    let bids: BTreeMap<_, _> = market.bids().collect();
    let fills = fills(market, by);
    for (full, source) in &fills {
        let here: BTreeSet<MachineId> = bids[source].residents.iter().map(|there| there.machine).collect();
        let leaving: Vec<&&Requirements> = movable
            .values()
            .filter(|wants| wants.from == **source && here.contains(&wants.machine))
            .collect();
        for (empty, target) in fills.iter().rev().take_while(|(empty, _)| empty < full) {
            let after = |wants: &Requirements| {
                let weight = i128::from(weight(wants, by));
                let (left, filled) = (fill(bids[source], by, -weight), fill(bids[target], by, weight));
                (left > *empty && left.max(filled) < *full).then_some(left.max(filled))
            };
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

fn weight(wants: &Requirements, by: By) -> u64 {
    match by {
        By::Room => wants.disk_bytes(),
        By::Load => wants.spec.demand().cpu_millis.unwrap_or(0),
    }
}
