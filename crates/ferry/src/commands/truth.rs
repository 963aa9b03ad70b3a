//! `ferry truth`

use anyhow::Result;
use ferry_agent::{StateDir, truth_at_rest};
use ferry_api::http::Client;
use ferry_api::{
    AgentApi, Claim, CopyWorth, Evidence, MachineStanding, MachineWorth, OnDisk, Ownership, Stands, Subject,
    SubjectTruth, Truth, TruthRef, Verdict, VolumePhase, WorkerName, Worth,
};

use super::utc;
use crate::exit::Exit;
use crate::output::bytes::Bytes;
use crate::output::{complain, say, say_json, table};

/// By what agents tell.
pub async fn ask(agent: &Client, json: bool, of: &TruthRef) -> Result<Exit> {
    show(json, of, &agent.truth(of).await?)
}

/// By the files of workers alone.
pub fn at_rest(json: bool, dirs: &[StateDir], of: &TruthRef) -> Result<Exit> {
    show(json, of, &truth_at_rest(dirs, of)?)
}

fn show(json: bool, of: &TruthRef, truth: &Truth) -> Result<Exit> {
    if json {
        say_json(truth)?;
    } else {
        let mut sheets: Vec<String> = truth.subjects.iter().map(sheet).collect();
        let silent =
            truth.silent.iter().map(|silent| format!("not heard: {} ({})", silent.worker, silent.reason));
        sheets.extend((!truth.silent.is_empty()).then(|| silent.collect::<Vec<_>>().join("\n")));
        say(sheets.join("\n\n"))?;
    }
    if truth.is_certain() {
        return Ok(Exit::Done);
    }
    complain(&format!("it is not certain which {of} is the real one; what is missing is told above"));
    Ok(Exit::NotCertain)
}

fn sheet(truth: &SubjectTruth) -> String {
    let mut lines = vec![heading(truth), format!("  {}", answer(truth))];
    lines.extend(truth.by.as_ref().map(|by| format!("  {}", because(by))));
    lines.extend(truth.gaps.iter().map(|gap| format!("  but: {gap}")));
    lines.extend(truth.advice.iter().map(|advice| format!("  so: {advice}")));
    if !truth.copies.is_empty() {
        let rows = truth.copies.iter().map(copy_row);
        lines.push(indented(&table::columns(["WORKER", "GENERATION", "STATE", "WORTH"], rows)));
    }
    if !truth.machines.is_empty() {
        let rows = truth.machines.iter().map(machine_row);
        lines.push(indented(&table::columns(["WORKER", "GENERATION", "STATE", "REAL"], rows)));
    }
    if matches!(truth.verdict, Verdict::Disputed { .. } | Verdict::Likely { .. }) {
        let rows = truth.claims.iter().map(claim_row);
        lines.push(indented(&table::columns(["GENERATION", "OWNER", "TOLD BY", "EVIDENCE"], rows)));
    }
    lines.join("\n")
}

fn heading(truth: &SubjectTruth) -> String {
    let (kind, id) = match truth.subject {
        Subject::Machine(id) => ("machine", id.to_string()),
        Subject::Volume(id) => ("volume", id.to_string()),
    };
    match &truth.name {
        Some(name) => format!("{kind} {name} ({id})"),
        None => format!("{kind} {id}"),
    }
}

fn answer(truth: &SubjectTruth) -> String {
    let real = match truth.subject {
        Subject::Machine(_) => "the real one",
        Subject::Volume(_) => "the real copy",
    };
    match &truth.verdict {
        Verdict::Known { owner, generation, stands } => {
            format!("{owner} has {real}, at generation {generation}: {}", stands_text(stands))
        }
        Verdict::Likely { owner, generation, .. } => {
            format!("NOT CERTAIN: as far as is known {owner} has {real}, at generation {generation}")
        }
        Verdict::Disputed { generation, owners } => {
            let owners: Vec<&str> = owners.iter().map(WorkerName::as_str).collect();
            format!("NOT CERTAIN: {} each have {real}, at generation {generation}", owners.join(" and "))
        }
        Verdict::Nobody => format!("NOT CERTAIN: nobody has {real}, by all that is known"),
    }
}

fn stands_text(stands: &Stands) -> String {
    match stands {
        Stands::InUse => "it is in use there, or may be".to_owned(),
        Stands::Sealed { job } => format!("job {job} has sealed it there, and has not handed it over"),
        Stands::OnItsWay { job, from } => {
            format!("{from} has handed it over with job {job}, and it has not been taken over yet")
        }
    }
}

fn because(by: &Claim) -> String {
    let teller = &by.told_by;
    match &by.evidence {
        Evidence::Journal { job, seq, at_ms } => {
            format!("since {}, by entry {seq} of job {job} in the journal of {teller}", utc(*at_ms))
        }
        Evidence::Activated { job, at_ms } => {
            format!("since {}, when it took it over with job {job}", utc(*at_ms))
        }
        Evidence::Mark { job } => {
            format!("by the mark that {teller} left when it handed it over with job {job}")
        }
        Evidence::HandedOver { job: Some(job) } => {
            format!("by the records of {teller}, which handed it over with job {job}")
        }
        Evidence::HandedOver { job: None } => format!("by the records of {teller}, which handed it over"),
        Evidence::InUse { created_at_ms } => {
            format!("since {}, when it was made there, by the records of {teller}", utc(*created_at_ms))
        }
        Evidence::Sealed { job } => format!("by the records of {teller}, which say that job {job} sealed it"),
        Evidence::Directory => format!("by its directory on {teller}, which was open once"),
    }
}

fn claim_row(claim: &Claim) -> [String; 4] {
    let [generation, owner] = [claim.generation.to_string(), claim.owner.to_string()];
    [generation, owner, claim.told_by.to_string(), because(claim)]
}

fn copy_row(found: &CopyWorth) -> [String; 4] {
    let copy = &found.copy;
    let record = match &copy.ownership {
        None => "no record".to_owned(),
        Some(Ownership::Reserved { from, .. }) => format!("reserved, comes from {from}"),
        Some(Ownership::Prepared { from, .. }) => format!("prepared, comes from {from}"),
        Some(Ownership::Ours) => "in use".to_owned(),
        Some(Ownership::Sealed { .. }) => "sealed".to_owned(),
        Some(Ownership::HandedOver { to, .. }) => format!("handed over to {to}"),
        Some(Ownership::Retired { to, .. }) => format!("retired, {to} has it"),
    };
    let disk = match copy.on_disk {
        None => "no directory".to_owned(),
        Some(on_disk) => disk_text(on_disk),
    };
    let state = format!("{record}; {disk}");
    [found.worker.to_string(), copy.key.generation.to_string(), state, worth_text(found)]
}

fn disk_text(on_disk: OnDisk) -> String {
    let phase = match on_disk.phase {
        None => return "its map cannot be understood".to_owned(),
        Some(VolumePhase::Standby) => "never written",
        Some(VolumePhase::Open) => "open",
        Some(VolumePhase::Sealed) => "sealed",
    };
    format!("{phase}, {}", local_text(on_disk))
}

fn local_text(on_disk: OnDisk) -> String {
    let OnDisk { bytes_total, bytes_remote, .. } = on_disk;
    if bytes_remote == 0 || bytes_total == 0 {
        return "whole".to_owned();
    }
    let local = u128::from(bytes_total.saturating_sub(bytes_remote));
    let percent = local * 100 / u128::from(bytes_total);
    format!("{} % local, {} at its source", percent, Bytes(bytes_remote))
}

fn worth_text(found: &CopyWorth) -> String {
    let next = found.copy.key.generation.next();
    let remote = found.copy.on_disk.is_some_and(|on_disk| on_disk.bytes_remote > 0);
    let needs = match &found.copy.source {
        Some(source) if remote => format!("; without the copy on {source} it is not whole"),
        Some(_) | None => String::new(),
    };
    match &found.worth {
        Worth::Real => format!("the real one{needs}"),
        Worth::PerhapsReal => format!("the real one, if that can be confirmed{needs}"),
        Worth::Source { bytes_needed: Some(0) } => {
            format!("equal to generation {next} at its hand-over; kept until its move ends")
        }
        Worth::Source { bytes_needed: Some(bytes) } => {
            format!("equal to generation {next} at its hand-over, which needs up to {} of it", Bytes(*bytes))
        }
        Worth::Source { bytes_needed: None } => {
            format!("equal to generation {next} at its hand-over, which may need all of it")
        }
        Worth::Base { until_ms } => {
            format!(
                "equal to generation {next} at its hand-over; its move needs it no more; deleted at {}",
                utc(*until_ms)
            )
        }
        Worth::Older => "older than that; nobody needs it".to_owned(),
        Worth::Reserved => "none: room for a copy that never came".to_owned(),
        Worth::Clone => format!("none yet: nobody has written it{needs}"),
        Worth::Overtaken => "overtaken: older than the real one, never to be started".to_owned(),
        Worth::Unrecorded => "unknown: no record tells of it".to_owned(),
        Worth::Missing => "lost: its directory is missing".to_owned(),
    }
}

fn machine_row(found: &MachineWorth) -> [String; 4] {
    let machine = &found.machine;
    let state = match &machine.standing {
        MachineStanding::Ours if machine.barred => "its records are older than its hand-over".to_owned(),
        MachineStanding::Ours => match machine.pid {
            Some(pid) => format!("in use, process {pid}"),
            None => "in use, no process".to_owned(),
        },
        MachineStanding::HandedOver { to, .. } => format!("handed over to {to}"),
        MachineStanding::Expected { from, prepared: true, .. } => format!("prepared, comes from {from}"),
        MachineStanding::Expected { from, prepared: false, .. } => format!("reserved, comes from {from}"),
    };
    let real = if found.is_real { "yes" } else { "no" };
    [found.worker.to_string(), machine.generation.to_string(), state, real.to_owned()]
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::{CopyTold, Generation, JobId, VolumeId, VolumeKey};

    fn known() -> SubjectTruth {
        let id = VolumeId::fresh();
        let subject = Subject::Volume(id);
        let (owner, told_by, generation): (WorkerName, WorkerName, _) =
            ("w2".parse().unwrap(), "w1".parse().unwrap(), Generation(2));
        let evidence = Evidence::Journal { job: JobId::fresh(), seq: 14, at_ms: 1_700_000_000_123 };
        let by = Claim { subject, generation, owner: owner.clone(), told_by, evidence };
        let copy = CopyTold {
            key: VolumeKey { id, generation },
            name: Some("data".parse().unwrap()),
            machine: None,
            ownership: Some(Ownership::Ours),
            barred: false,
            source: Some("w1".parse().unwrap()),
            made: true,
            on_disk: Some(OnDisk {
                phase: Some(VolumePhase::Open),
                bytes_total: 10 << 20,
                bytes_remote: 6 << 20,
            }),
        };
        SubjectTruth {
            subject,
            name: Some("data".to_owned()),
            verdict: Verdict::Known { owner: owner.clone(), generation, stands: Stands::InUse },
            by: Some(by.clone()),
            copies: vec![CopyWorth { worker: owner, copy, worth: Worth::Real }],
            machines: Vec::new(),
            claims: vec![by],
            gaps: Vec::new(),
            advice: Vec::new(),
        }
    }

    #[test]
    fn the_answer_comes_first_then_why_then_the_copies() {
        let text = sheet(&known());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "  w2 has the real copy, at generation 2: it is in use there, or may be");
        assert!(lines[2].starts_with("  since 2023-11-14 22:13:20Z, by entry 14 of job "), "{text}");
        assert!(lines[3].starts_with("  WORKER") && lines.len() == 5, "{text}");
        assert!(
            lines[4].ends_with("in use; open, 40 % local, 6 MiB at its source   the real one; without the copy on w1 it is not whole"),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_certain_says_so_and_shows_all_evidence() {
        let why = "worker w2 was not heard".to_owned();
        let truth = SubjectTruth {
            verdict: Verdict::Likely {
                owner: "w2".parse().unwrap(),
                generation: Generation(2),
                why: why.clone(),
            },
            gaps: vec![why],
            advice: vec!["do not start it on any other worker".to_owned()],
            ..known()
        };
        let text = sheet(&truth);
        for part in
            ["NOT CERTAIN: as far as is known w2 has", "but: worker w2 was", "so: do not start", "EVIDENCE"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
