//! What does not fit together in what was told, and what follows for a person.

use super::owner;
use ferry_api::{
    CopyWorth, Generation, MachineStanding, MachineWorth, Stands, Subject, Testimony, Verdict, WorkerName,
    Worth,
};
use std::collections::BTreeSet;

/// What is missing or contradicts itself, in one sentence each.
pub(super) fn gaps(subject: Subject, verdict: &Verdict, told: &[Testimony]) -> Vec<String> {
    let mut gaps = Vec::new();
    if let Verdict::Likely { why, .. } = verdict {
        gaps.push(why.clone());
    }
    if let Verdict::Disputed { generation, owners } = verdict {
        let owners: Vec<&str> = owners.iter().map(WorkerName::as_str).collect();
        gaps.push(format!(
            "workers {} both own generation {generation} by what lies on disks",
            owners.join(" and ")
        ));
    }
    gaps.extend(told.iter().filter_map(|testimony| overtaken(subject, testimony)));
    let claims =
        || told.iter().flat_map(|testimony| &testimony.claims).filter(|claim| claim.subject == subject);
    let known: BTreeSet<Generation> = claims().map(|claim| claim.generation).collect();
    let pairs = known.iter().zip(known.iter().skip(1));
    gaps.extend(pairs.filter(|(low, high)| low.next() < **high).map(|(low, high)| {
        format!("nothing that was heard tells who owned it between generation {low} and generation {high}")
    }));
    let troubles = told
        .iter()
        .flat_map(|testimony| testimony.troubles.iter().map(|trouble| (&testimony.worker, trouble)));
    gaps.extend(
        troubles
            .filter(|(worker, _)| owner(verdict).is_none_or(|(owner, _)| owner != *worker))
            .map(|(worker, trouble)| format!("not all of worker {worker} can be read: {trouble}")),
    );
    gaps
}

/// A worker whose records say that it owns something of a generation that it remembers to have handed over.
fn overtaken(subject: Subject, testimony: &Testimony) -> Option<String> {
    let worker = &testimony.worker;
    let generation = match subject {
        Subject::Machine(id) => {
            let mut here = testimony.machines.iter().filter(|machine| machine.id == id && machine.barred);
            here.find(|machine| machine.standing == MachineStanding::Ours)?.generation
        }
        Subject::Volume(id) => {
            let mut here = testimony.copies.iter().filter(|copy| copy.key.id == id && copy.barred);
            let ours = |ownership: &ferry_api::Ownership| {
                matches!(ownership, ferry_api::Ownership::Ours | ferry_api::Ownership::Sealed { .. })
            };
            here.find(|copy| copy.ownership.as_ref().is_some_and(ours))?.key.generation
        }
    };
    Some(format!(
        "the records of worker {worker} still have it at generation {generation}, which it remembers to have handed \
         over: they are from a backup"
    ))
}

/// What follows for a person, in one sentence each.
pub(super) fn advice(verdict: &Verdict, copies: &[CopyWorth], machines: &[MachineWorth]) -> Vec<String> {
    let mut advice = Vec::new();
    match verdict {
        Verdict::Known { stands: Stands::InUse, .. } => {}
        Verdict::Known { owner, stands: Stands::Sealed { job }, .. } => advice.push(format!(
            "job {job} of worker {owner} is about to hand it over: leave it to that job, or cancel it there"
        )),
        Verdict::Known { owner, stands: Stands::OnItsWay { job, from }, .. } => advice.push(format!(
            "start the agents of {from} and {owner}: job {job} goes on by itself; do not start it on {from}"
        )),
        Verdict::Likely { owner, .. } => advice.push(format!(
            "do not start it on any other worker before worker {owner} was heard, or before you know that {owner} is gone for good"
        )),
        Verdict::Disputed { owners, .. } => {
            let owners: Vec<&str> = owners.iter().map(WorkerName::as_str).collect();
            advice.push(format!(
                "start it nowhere: keep what {} have, and find out from the evidence which one was written last",
                owners.join(" and ")
            ));
        }
        Verdict::Nobody => advice.push("nothing here may be started: ask the workers that had it".to_owned()),
    }
    advice.extend(copies.iter().filter_map(|copy| about_copy(copy, verdict)));
    let overtaken =
        machines.iter().filter(|found| !found.is_real && found.machine.standing == MachineStanding::Ours);
    advice.extend(overtaken.map(|found| {
        let (worker, generation) = (&found.worker, found.machine.generation);
        format!("do not start it on {worker}: generation {generation} is no longer the real one")
    }));
    advice
}

fn about_copy(found: &CopyWorth, verdict: &Verdict) -> Option<String> {
    let (worker, key) = (&found.worker, found.copy.key);
    match &found.worth {
        Worth::Overtaken => {
            Some(format!("do not start it on {worker}: its copy {key} is no longer the real one"))
        }
        Worth::Source { bytes_needed: None | Some(1..) } => {
            let reader = owner(verdict).map(|(owner, _)| format!(": worker {owner} may still need it"));
            Some(format!("keep {key} on {worker}{}", reader.unwrap_or_default()))
        }
        Worth::Unrecorded => {
            Some(format!("keep {key} on {worker} until you know what it is: no record there tells of it"))
        }
        Worth::Source { bytes_needed: Some(0) }
        | Worth::Real
        | Worth::PerhapsReal
        | Worth::Base { .. }
        | Worth::Older
        | Worth::Reserved
        | Worth::Clone
        | Worth::Missing => None,
    }
}
