//! Whether a plan still fits the world, so that it is carried out as it stands or not at all.

use crate::drain::{Candidate, is_asked};
use crate::market::Market;
use ferry_api::{Deviation, DeviationKind, DrainPlan, PlannedMove};
use std::collections::BTreeMap;

/// A machine may have so many bytes more in use than was planned, and a quarter of that beside, before it is said.
const GROWN_BYTES: u64 = 64 << 20;

/// In what the world is not as a plan says; nothing: the plan can be carried out as it stands. Machines that the plan leaves
/// where they are need not be there any more.
#[must_use]
pub fn compare(plan: &DrainPlan, candidates: &[Candidate], mut market: Market) -> Vec<Deviation> {
    let here: BTreeMap<_, _> =
        candidates.iter().map(|candidate| (candidate.wants.machine, candidate)).collect();
    let mut deviations = Vec::new();
    for planned in plan.moves() {
        let found = match here.get(&planned.machine) {
            Some(candidate) => of_machine(planned, candidate, &mut market, plan.ask.force),
            None => {
                vec![(DeviationKind::Gone, format!("machine {} is not here any more", planned.machine_name))]
            }
        };
        deviations.extend(found.into_iter().map(|(kind, what)| Deviation {
            machine: planned.machine,
            machine_name: planned.machine_name.clone(),
            kind,
            what,
        }));
    }
    let is_planned = |candidate: &&Candidate| {
        plan.machines.iter().any(|planned| planned.machine == candidate.wants.machine)
    };
    let came = candidates.iter().filter(|candidate| {
        is_asked(&plan.ask.only, &plan.ask.except, candidate.wants.machine, &candidate.wants.name)
            && !is_planned(candidate)
    });
    deviations.extend(came.map(|candidate| Deviation {
        machine: candidate.wants.machine,
        machine_name: candidate.wants.name.clone(),
        kind: DeviationKind::Came,
        what: format!("machine {} came after the plan was made", candidate.wants.name),
    }));
    deviations
}

/// In what a machine, or its target, is not as planned. What its target takes is counted.
pub(crate) fn of_machine(
    planned: &PlannedMove,
    now: &Candidate,
    market: &mut Market,
    force: bool,
) -> Vec<(DeviationKind, String)> {
    let name = &planned.machine_name;
    let mut found = Vec::new();
    if now.generation != planned.generation {
        found.push((
            DeviationKind::ChangedHands,
            format!(
                "machine {name} is here at generation {} and was at {}",
                now.generation, planned.generation
            ),
        ));
    }
    let unsure = market.unsure_of(&now.wants).filter(|_| !force);
    found.extend(now.blockers.iter().cloned().chain(unsure).map(|blocker| (DeviationKind::Blocked, blocker)));
    found.extend(of_target(planned, now, market, force));
    if now.mode != planned.mode {
        let how = |mode| format!("{mode:?}").to_lowercase();
        found.push((
            DeviationKind::OtherMode,
            format!("machine {name} would go {} and not {}: {}", how(now.mode), how(planned.mode), now.why),
        ));
    }
    let bytes = now.wants.disk_bytes();
    let most = planned.bytes_in_use.saturating_add(planned.bytes_in_use / 4).saturating_add(GROWN_BYTES);
    if bytes > most {
        found.push((
            DeviationKind::Grew,
            format!("machine {name} has {bytes} bytes in use and had {}", planned.bytes_in_use),
        ));
    }
    found
}

fn of_target(
    planned: &PlannedMove,
    now: &Candidate,
    market: &mut Market,
    force: bool,
) -> Option<(DeviationKind, String)> {
    let to = planned.to.as_ref()?;
    let Some(fits) = market.fits(&now.wants, to, force) else {
        let why = market.silent().get(to).map_or("it is not known here any more", String::as_str);
        return Some((DeviationKind::TargetSilent, format!("worker {to} gives no bid: {why}")));
    };
    match fits {
        Ok(()) => {
            market.take(&now.wants, to);
            None
        }
        Err(why) => Some((DeviationKind::TargetRefuses, why)),
    }
}
