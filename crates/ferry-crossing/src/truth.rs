//! Which copy of a volume, and which worker's machine, is the real one: what each worker's disk tells, and the verdict over
//! all of that.
//!
//! ```text
//!   records · marks · directories · deeds ──testimony──▶ claims, copies      on each worker, of its own disk
//!   testimonies ──judge──▶ owner, evidence, worth of each copy, gaps, advice  wherever they were gathered
//! ```
//!
//! Invariants: of all that any disk says of who owns something, the highest generation names the owner. That is sure only
//! if the owner itself was heard and has it: nobody else can hand it on, and whoever hands on leaves a mark that no backup
//! of records takes away. So a worker that cannot be asked never makes anything surer, and never less sure what is not
//! its own.

mod advice;
mod subjects;
mod testimony;
mod worth;

pub use subjects::{resolve, to_ask};
pub use testimony::{Deed, OnOneDisk, testimony};

use ferry_api::{
    Claim, CopyTold, Generation, MachineStanding, MachineTold, MachineWorth, Ownership, SilentWorker, Stands,
    Subject, SubjectTruth, Testimony, Truth, Verdict, VolumePhase, WorkerName,
};
use std::borrow::Borrow;
use std::collections::BTreeSet;

/// Which is the real one of each of these, by what was told and by whom nothing was.
#[must_use]
pub fn truth(subjects: &[Subject], told: &[Testimony], silent: Vec<SilentWorker>) -> Truth {
    Truth {
        subjects: subjects.iter().map(|subject| judge(*subject, told, &silent)).collect(),
        told: told.iter().map(|testimony| testimony.worker.clone()).collect(),
        silent,
    }
}

/// Which is the real one, with everything that says so.
#[must_use]
pub fn judge(subject: Subject, told: &[Testimony], silent: &[SilentWorker]) -> SubjectTruth {
    let claims = claims_of(subject, told);
    let verdict = verdict(subject, told, silent);
    let by = owner(&verdict)
        .and_then(|(owner, generation)| {
            claims.iter().find(|claim| claim.generation == generation && claim.owner == *owner)
        })
        .cloned();
    let copies = worth::copies(subject, &verdict, told);
    let machines = machines(subject, &verdict, told);
    let gaps = advice::gaps(subject, &verdict, told);
    let advice = advice::advice(&verdict, &copies, &machines);
    let name = worth::name(subject, told);
    SubjectTruth { subject, name, verdict, by, copies, machines, claims, gaps, advice }
}

/// Who owns something, and how sure that is.
#[must_use]
pub fn verdict<T: Borrow<Testimony>>(subject: Subject, told: &[T], silent: &[SilentWorker]) -> Verdict {
    let all = || told.iter().map(Borrow::borrow);
    let claims = || all().flat_map(|told: &Testimony| &told.claims).filter(|claim| claim.subject == subject);
    let Some(generation) = claims().map(|claim| claim.generation).max() else { return Verdict::Nobody };
    let owners: BTreeSet<&WorkerName> =
        claims().filter(|claim| claim.generation == generation).map(|claim| &claim.owner).collect();
    let owner = match owners.iter().next() {
        Some(owner) if owners.len() == 1 => (*owner).clone(),
        _ => return Verdict::Disputed { generation, owners: owners.into_iter().cloned().collect() },
    };
    let Some(own) = all().find(|testimony| testimony.worker == owner) else {
        let reason = silent.iter().find(|silent| silent.worker == owner).map(|silent| silent.reason.as_str());
        let reason = reason.unwrap_or("nobody knows how to ask it");
        let why = format!(
            "worker {owner} was not heard ({reason}): only it can tell whether it has handed it on since"
        );
        return Verdict::Likely { owner, generation, why };
    };
    if let Some(trouble) = own.troubles.first() {
        let why = format!("not all of worker {owner} can be read: {trouble}");
        return Verdict::Likely { owner, generation, why };
    }
    match confirmed(subject, generation, own) {
        Ok(stands) => Verdict::Known { owner, generation, stands },
        Err(why) => Verdict::Likely { owner, generation, why },
    }
}

/// How it stands on its owner, if what lies there says that it owns it; else why not.
fn confirmed(subject: Subject, generation: Generation, own: &Testimony) -> Result<Stands, String> {
    match subject {
        Subject::Machine(id) => {
            let here =
                own.machines.iter().find(|machine| machine.id == id && machine.generation == generation);
            machine_stands(here, &own.worker)
        }
        Subject::Volume(id) => {
            let here = own.copies.iter().find(|copy| copy.key.id == id && copy.key.generation == generation);
            copy_stands(here, &own.worker)
        }
    }
}

fn machine_stands(here: Option<&MachineTold>, owner: &WorkerName) -> Result<Stands, String> {
    let absent = "its records are from a backup, or it was destroyed there";
    match here.map(|machine| (&machine.standing, machine.barred)) {
        Some((MachineStanding::Ours, false)) => Ok(Stands::InUse),
        Some((MachineStanding::Expected { from, job, prepared: true }, false)) => {
            Ok(Stands::OnItsWay { job: *job, from: from.clone() })
        }
        Some((
            MachineStanding::Expected { .. } | MachineStanding::Ours | MachineStanding::HandedOver { .. },
            _,
        )) => Err(format!("the records of worker {owner} say otherwise; they are from a backup")),
        None => Err(format!("worker {owner} has no record of it at that generation: {absent}")),
    }
}

fn copy_stands(here: Option<&CopyTold>, owner: &WorkerName) -> Result<Stands, String> {
    let Some(copy) = here else {
        return Err(format!("worker {owner} has no such copy: it was deleted there, or is lost"));
    };
    let Some(ownership) = &copy.ownership else {
        return Err(format!(
            "the records of worker {owner} do not know of its directory; they are from a backup"
        ));
    };
    if copy.made && copy.on_disk.is_none() {
        return Err(format!("its directory is missing on worker {owner}"));
    }
    let phase = copy.on_disk.and_then(|on_disk| on_disk.phase);
    if copy.on_disk.is_some() && phase.is_none() {
        return Err(format!("its map on worker {owner} cannot be understood"));
    }
    match ownership {
        Ownership::Ours if !copy.barred => Ok(Stands::InUse),
        Ownership::Sealed { job } if !copy.barred => Ok(Stands::Sealed { job: *job }),
        Ownership::Prepared { job, from }
            if !copy.barred && matches!(phase, None | Some(VolumePhase::Standby)) =>
        {
            Ok(Stands::OnItsWay { job: *job, from: from.clone() })
        }
        Ownership::Ours
        | Ownership::Sealed { .. }
        | Ownership::Prepared { .. }
        | Ownership::Reserved { .. }
        | Ownership::HandedOver { .. }
        | Ownership::Retired { .. } => {
            Err(format!("the records of worker {owner} say otherwise; they are from a backup"))
        }
    }
}

/// The owner that a verdict names.
fn owner(verdict: &Verdict) -> Option<(&WorkerName, Generation)> {
    match verdict {
        Verdict::Known { owner, generation, .. } | Verdict::Likely { owner, generation, .. } => {
            Some((owner, *generation))
        }
        Verdict::Disputed { .. } | Verdict::Nobody => None,
    }
}

/// All claims to something: the highest generation first, and of one generation first what says most.
fn claims_of(subject: Subject, told: &[Testimony]) -> Vec<Claim> {
    let mut claims: Vec<Claim> = told
        .iter()
        .flat_map(|testimony| &testimony.claims)
        .filter(|claim| claim.subject == subject)
        .cloned()
        .collect();
    claims.sort_by(|a, b| {
        let key = |claim: &Claim| (std::cmp::Reverse(claim.generation), claim.evidence.clone());
        key(a).cmp(&key(b))
    });
    claims
}

fn machines(subject: Subject, verdict: &Verdict, told: &[Testimony]) -> Vec<MachineWorth> {
    let Subject::Machine(id) = subject else { return Vec::new() };
    let of = |testimony: &Testimony| {
        let here = testimony.machines.iter().filter(|machine| machine.id == id).cloned();
        let worker = testimony.worker.clone();
        here.map(|machine| {
            let is_real = owner(verdict) == Some((&worker, machine.generation));
            MachineWorth { worker: worker.clone(), machine, is_real }
        })
        .collect::<Vec<_>>()
    };
    let mut machines: Vec<MachineWorth> = told.iter().flat_map(of).collect();
    machines.sort_by_key(|found| std::cmp::Reverse((found.machine.generation, found.is_real)));
    machines
}

#[cfg(test)]
mod tests;
