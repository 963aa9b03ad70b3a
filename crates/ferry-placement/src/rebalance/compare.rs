//! Whether a plan still fits the world, so that it is carried out as it stands or not at all.

use super::evened;
use crate::compare::of_machine;
use crate::drain::Candidate;
use crate::market::Market;
use crate::requirements::Requirements;
use ferry_api::{BalanceBy, Deviation, DeviationKind, PlannedMove, RebalancePart, WorkerName};
use std::collections::BTreeMap;

/// In what the world is not as a worker's part of a plan says; nothing: it can be carried out as it stands. The bid of the worker
/// itself belongs to the market. Machines that came since do not matter as long as every move still makes the two workers more
/// alike.
#[must_use]
pub fn compare(
    part: &RebalancePart,
    by: BalanceBy,
    candidates: &[Candidate],
    mut market: Market,
) -> Vec<Deviation> {
    let here: BTreeMap<_, _> =
        candidates.iter().map(|candidate| (candidate.wants.machine, candidate)).collect();
    let found = part.moves.iter().flat_map(|planned| {
        let name = &planned.machine_name;
        let found = match here.get(&planned.machine) {
            None => {
                let what = format!("machine {name} is not on worker {} any more", part.from);
                vec![(DeviationKind::Gone, what)]
            }
            Some(now) => {
                let helps_no_more = helps_no_more(planned, now, by, &market);
                let mut found = of_machine(planned, now, &mut market, false);
                found.extend(helps_no_more);
                market.leave(&now.wants, &part.from);
                found
            }
        };
        found.into_iter().map(|(kind, what)| Deviation {
            machine: planned.machine,
            machine_name: name.clone(),
            kind,
            what,
        })
    });
    found.collect()
}

/// Says that a move makes its two workers no more alike, where both are known.
fn helps_no_more(
    planned: &PlannedMove,
    now: &Candidate,
    by: BalanceBy,
    market: &Market,
) -> Option<(DeviationKind, String)> {
    let to = planned.to.as_ref()?;
    let Requirements { name, from, .. } = &now.wants;
    let bid = |of: &WorkerName| market.bids().find(|(worker, _)| *worker == of).map(|(_, bid)| bid);
    let helps = evened(&now.wants, bid(from)?, bid(to)?, by).is_some();
    (!helps).then(|| {
        let what =
            format!("workers {from} and {to} would not become more alike by the move of machine {name}");
        (DeviationKind::HelpsNoMore, what)
    })
}
