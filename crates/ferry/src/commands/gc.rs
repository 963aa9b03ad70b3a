//! `ferry gc`

use anyhow::Result;
use ferry_api::http::Client;
use ferry_api::{AgentApi, Artefact, AskGarbage, Garbage, JobKind, Remnant};

use super::utc;
use crate::exit::Exit;
use crate::output::bytes::Bytes;
use crate::output::{complain, say, say_json, table};

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Which things.
    pub ask: AskGarbage,
    /// Whether nothing is removed.
    pub dry_run: bool,
    /// Whether what stays is told, too.
    pub all: bool,
}

pub async fn gc(agent: &Client, json: bool, wanted: Wanted) -> Result<Exit> {
    let garbage = match wanted.dry_run {
        true => agent.garbage(wanted.ask).await?,
        false => agent.garbage_clear(wanted.ask).await?,
    };
    match json {
        true => say_json(&garbage)?,
        false => show(&garbage, wanted)?,
    }
    if garbage.failed.is_empty() {
        return Ok(Exit::Done);
    }
    let list = if json { "`failed`" } else { "the list" };
    let many = garbage.failed.len();
    complain(&format!("not all could be removed: {list} says what was in the way of {}", things(many)));
    Ok(Exit::Failed)
}

fn show(garbage: &Garbage, wanted: Wanted) -> Result<()> {
    say_list(if wanted.dry_run { "WHY IT MAY GO" } else { "WHY IT WENT" }, &garbage.goes)?;
    say_list("WHY IT COULD NOT GO", &garbage.failed)?;
    if wanted.all {
        say_list("WHY IT STAYS", &garbage.stays)?;
    }
    let bytes = Bytes(garbage.goes.iter().map(|artefact| artefact.bytes).sum());
    let worker = &garbage.worker;
    let sentence = match (garbage.goes.len(), wanted.dry_run) {
        (0, _) => format!("there is nothing to clear away on worker {worker}"),
        (many, true) => {
            format!("{} would go from worker {worker}, with {bytes}; nothing has changed", things(many))
        }
        (many, false) => format!("{} went from worker {worker}, with {bytes}", things(many)),
    };
    let stays = match (garbage.stays.len(), wanted.all) {
        (0, _) | (_, true) => String::new(),
        (1, false) => "; 1 thing stays (--all tells why)".to_owned(),
        (many, false) => format!("; {} stay (--all tells why)", things(many)),
    };
    Ok(say(format_args!("{sentence}{stays}"))?)
}

fn say_list(why: &str, artefacts: &[Artefact]) -> Result<()> {
    if !artefacts.is_empty() {
        say(table::columns(["WHAT", "JOB", "SINCE", "BYTES", why], artefacts.iter().map(row)))?;
        say("")?;
    }
    Ok(())
}

fn things(many: usize) -> String {
    if many == 1 { "1 thing".to_owned() } else { format!("{many} things") }
}

fn row(artefact: &Artefact) -> [String; 5] {
    [
        what_text(&artefact.what),
        job_text(artefact),
        artefact.since_ms.map_or_else(|| "-".to_owned(), utc),
        Bytes(artefact.bytes).to_string(),
        artefact.why.clone(),
    ]
}

fn what_text(what: &Remnant) -> String {
    match what {
        Remnant::Retained { copy, name, to, .. } => {
            format!("kept copy of {name}, which is with {to} ({copy})")
        }
        Remnant::HandedOver { copy, name, to } => format!("copy of {name}, handed over to {to} ({copy})"),
        Remnant::Reservation { machine, from } => format!("room for machine {machine} from {from}"),
        Remnant::Clone { copy, name, from } => format!("clone of {name} from {from} ({copy})"),
        Remnant::Export { name, uri, .. } => format!("export of {name} at {uri}"),
        Remnant::Directory { path, .. } => format!("directory {}", path.display()),
        Remnant::HalfDeleted { path, .. } => format!("half-deleted directory {}", path.display()),
        Remnant::DeadFile { path, .. } => format!("file {}", path.display()),
        Remnant::Device { path, .. } => format!("device {}", path.display()),
        Remnant::VolumeServer { copy, pid } => format!("volume server {pid} of {copy}"),
        Remnant::MachineProcess { machine, pid } => format!("process {pid} of machine {machine}"),
        Remnant::MachineDirectory { path, .. } => format!("directory {}", path.display()),
        Remnant::Image { path } => format!("unpacked image {}", path.display()),
        Remnant::HalfUnpacked { path } => format!("half-unpacked image {}", path.display()),
    }
}

fn job_text(artefact: &Artefact) -> String {
    match (&artefact.job_does, artefact.job) {
        (Some(JobKind::Move { machine_name, from, to, .. }), Some(job)) => {
            format!("move of {machine_name} from {from} to {to} ({job})")
        }
        (Some(JobKind::Rebalance { from }), Some(job)) => format!("rebalance from {from} ({job})"),
        (Some(JobKind::Drain { from }), Some(job)) => format!("drain of {from} ({job})"),
        (Some(JobKind::Moves { from, to, .. }), Some(job)) => format!("moves from {from} to {to} ({job})"),
        (None, Some(job)) => format!("{job}, forgotten"),
        (_, None) => match artefact.what {
            // Forks, imports and images are no jobs', and what is not Ferry's has none.
            Remnant::Export { .. }
            | Remnant::Directory { copy: None, .. }
            | Remnant::Image { .. }
            | Remnant::HalfUnpacked { .. } => "-".to_owned(),
            Remnant::Retained { .. }
            | Remnant::HandedOver { .. }
            | Remnant::Reservation { .. }
            | Remnant::Clone { .. }
            | Remnant::Directory { copy: Some(_), .. }
            | Remnant::HalfDeleted { .. }
            | Remnant::DeadFile { .. }
            | Remnant::Device { .. }
            | Remnant::VolumeServer { .. }
            | Remnant::MachineProcess { .. }
            | Remnant::MachineDirectory { .. } => "forgotten".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::{Generation, JobId, MachineId, VolumeId, VolumeKey};

    fn half_deleted(job: Option<JobId>, job_does: Option<JobKind>) -> Artefact {
        let copy = VolumeKey { id: VolumeId::fresh(), generation: Generation(2) };
        Artefact {
            what: Remnant::HalfDeleted { copy, path: "/state/volumes/x.deleted".into() },
            job,
            job_does,
            since_ms: None,
            bytes: 1 << 20,
            why: "it was cut off".to_owned(),
        }
    }

    #[test]
    fn a_job_is_told_by_what_it_did_as_long_as_that_is_remembered() {
        let (job, machine) = (JobId::fresh(), MachineId::fresh());
        let did = JobKind::Move {
            machine,
            machine_name: "web".parse().unwrap(),
            from: "w1".parse().unwrap(),
            to: "w2".parse().unwrap(),
        };
        let told = |job, did| row(&half_deleted(job, did))[1].clone();
        assert_eq!(told(Some(job), Some(did)), format!("move of web from w1 to w2 ({job})"));
        assert_eq!(told(Some(job), None), format!("{job}, forgotten"));
        assert_eq!(told(None, None), "forgotten");
    }

    #[test]
    fn what_is_not_known_is_left_open() {
        let [what, _, since, bytes, why] = row(&half_deleted(None, None));
        assert_eq!(what, "half-deleted directory /state/volumes/x.deleted");
        assert_eq!((since.as_str(), bytes.as_str(), why.as_str()), ("-", "1 MiB", "it was cut off"));
    }
}
