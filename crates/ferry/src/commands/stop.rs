//! `ferry worker safe-to-stop` and `ferry worker shutdown`

use std::time::Duration;

use anyhow::Result;
use ferry_api::http::Client;
use ferry_api::{AgentApi, ShutDownWorker, StillToCopy, StopReason, VolumeKey, VolumeName, WorkerName};

use crate::exit::Exit;
use crate::output::bytes::{Bytes, Span};
use crate::output::{complain, say, say_json, table};

pub async fn check(agent: &Client, json: bool, machines_may_stop: bool) -> Result<Exit> {
    let mut told = agent.worker_safe_to_stop().await?;
    if machines_may_stop {
        told.reasons.retain(|reason| !matches!(reason, StopReason::Machine { .. }));
    }
    if json {
        say_json(&told)?;
    } else if !told.reasons.is_empty() {
        say(table::columns(["WHAT", "WHY", "ETA"], told.reasons.iter().map(|r| row(r, &told.worker))))?;
    }
    let worker = &told.worker;
    match told.reasons.len() {
        0 => {
            if !json {
                say(format_args!("worker {worker} is safe to stop"))?;
            }
            return Ok(Exit::Done);
        }
        1 => complain(&format!(
            "worker {worker} is not safe to stop: one thing keeps it; try again when that is done"
        )),
        many => complain(&format!(
            "worker {worker} is not safe to stop: {many} things keep it; try again when they are done"
        )),
    }
    Ok(Exit::NotSafe)
}

/// Shuts the worker down, unless something keeps it: then tells what, and what forcing it would cost.
pub async fn shut_down(agent: &Client, json: bool, wish: ShutDownWorker) -> Result<Exit> {
    let answer = agent.worker_shut_down(wish).await?;
    let (worker, reasons) = (&answer.worker, &answer.reasons);
    if json {
        say_json(&answer)?;
    } else if !reasons.is_empty() {
        let rows = reasons.iter().map(|reason| {
            let [what, why, eta] = row(reason, worker);
            [what, why, eta, cost(reason).to_owned()]
        });
        let costs = if answer.done { "WHAT IT COSTS" } else { "WHAT --force WOULD COST" };
        say(table::columns(["WHAT", "WHY", "ETA", costs], rows))?;
    }
    if !answer.done {
        let things = if reasons.len() == 1 { "one thing keeps it" } else { "what is listed keeps it" };
        complain(&format!(
            "worker {worker} is not shut down: {things}; try again when that is done, or --force it at that cost"
        ));
        return Ok(Exit::NotSafe);
    }
    if !json {
        for stopped in &answer.machines {
            say(format_args!("machine {} has stopped ({})", stopped.name, exit_text(stopped.exit)))?;
        }
        let servers = answer.volumes.len();
        say(format_args!("volume servers that have ended, with everything durable: {servers}"))?;
        say(format_args!("the agent of worker {worker} ends; the next one starts the machines again"))?;
    }
    if answer.left.is_empty() {
        return Ok(Exit::Done);
    }
    complain(&format!("worker {worker} is not wholly down: {}", answer.left.join("; ")));
    Ok(Exit::Failed)
}

/// What is lost, and until when, if the worker goes down all the same.
fn cost(reason: &StopReason) -> &'static str {
    match reason {
        StopReason::Copy { .. } => {
            "reads of what has not arrived wait there until this worker is back; if it never is, that is lost"
        }
        StopReason::Fork { .. } => {
            "what the fork does not have by then it will never have: the snapshot ends with the volume server"
        }
        StopReason::Readers { .. } => "their connections break",
        StopReason::Job { .. } => {
            "it waits until this worker is back, behind its hand-over with the machine down until it is booted"
        }
        StopReason::Arrival { .. } => {
            "its move fails and is undone, or waits with the machine down until this worker is back"
        }
        StopReason::Machine { .. } => "it is down until this worker is back",
    }
}

fn exit_text(exit: Option<ferry_api::Exit>) -> String {
    match exit.map(|exit| (exit.code, exit.signal)) {
        Some((Some(code), _)) => format!("with code {code}"),
        Some((None, Some(9))) => "killed when its grace time was over".to_owned(),
        Some((None, Some(signal))) => format!("by signal {signal}"),
        Some((None, None)) | None => "how is not known".to_owned(),
    }
}

/// What keeps `here` from being stopped, why, and until when.
fn row(reason: &StopReason, here: &WorkerName) -> [String; 3] {
    match reason {
        StopReason::Copy { copy, name, to, left } => {
            [volume_text(name, *copy), copying_text(to.as_str(), left), eta_text(left.eta_ms)]
        }
        StopReason::Fork { copy, name, fork_name, to, left, fork: _ } => {
            let who = if to == here {
                format!("its fork {fork_name}")
            } else {
                format!("its fork {fork_name} on {to}")
            };
            [volume_text(name, *copy), copying_text(&who, left), eta_text(left.eta_ms)]
        }
        StopReason::Readers { copy, name, connections } => {
            let why = match connections {
                None => "its server does not answer, so nobody knows who reads it".to_owned(),
                Some(1) => "1 connection reads it".to_owned(),
                Some(many) => format!("{many} connections read it"),
            };
            [volume_text(name, *copy), why, eta_text(None)]
        }
        StopReason::Job { job, machine, to, step, parked, eta_ms } => {
            let at = step.as_ref().map(|step| format!(", at {step}")).unwrap_or_default();
            let waits = if *parked { "; it waits for a person (ferry job show)" } else { "" };
            [format!("job {job}"), format!("it moves {machine} to {to}{at}{waits}"), eta_text(*eta_ms)]
        }
        StopReason::Arrival { job, machine, from } => [
            format!("machine {machine}"),
            format!("it is on its way here from {from} (job {job})"),
            eta_text(None),
        ],
        StopReason::Machine { name, machine: _ } => {
            let why = "it runs here, or is to; move it away or stop it";
            [format!("machine {name}"), why.to_owned(), "-".to_owned()]
        }
    }
}

fn volume_text(name: &VolumeName, copy: VolumeKey) -> String {
    format!("volume {name} ({copy})")
}

fn copying_text(who: &str, left: &StillToCopy) -> String {
    match left {
        StillToCopy { unknown: Some(why), .. } => format!("{who} may still copy from here: {why}"),
        StillToCopy { bytes: Some(0), eta_ms: Some(_), .. } => {
            format!("{who} has all of it, which is yet to be noted here")
        }
        StillToCopy { bytes: Some(0) | None, .. } => {
            format!("{who} still copies from here, how much is not counted yet")
        }
        StillToCopy { bytes: Some(bytes), .. } => format!("{who} still copies {} from here", Bytes(*bytes)),
    }
}

/// Never more exact than it is known.
fn eta_text(eta_ms: Option<u64>) -> String {
    match eta_ms.map(|ms| ms.div_ceil(1000)) {
        None => "unknown".to_owned(),
        Some(0) => "soon".to_owned(),
        Some(seconds @ 1..60) => format!("about {seconds} s"),
        Some(seconds @ 60..7200) => format!("about {} min", seconds.div_ceil(60)),
        Some(seconds) => format!("about {}", Span(Duration::from_secs(seconds))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::{Generation, JobId, VolumeId};

    fn copy() -> VolumeKey {
        VolumeKey { id: VolumeId::fresh(), generation: Generation(4) }
    }

    fn copied(left: StillToCopy) -> [String; 3] {
        let (name, to) = ("data".parse().unwrap(), "w2".parse().unwrap());
        row(&StopReason::Copy { copy: copy(), name, to, left }, &"w1".parse().unwrap())
    }

    #[test]
    fn who_still_copies_from_here_is_told_with_how_much_and_for_how_long() {
        let left = StillToCopy { bytes: Some(3 << 30), eta_ms: Some(119_000), unknown: None };
        let [what, why, eta] = copied(left);
        assert!(what.starts_with("volume data (") && what.ends_with("@4)"), "{what}");
        assert_eq!((why.as_str(), eta.as_str()), ("w2 still copies 3 GiB from here", "about 2 min"));
    }

    #[test]
    fn what_is_not_known_is_called_unknown() {
        let away = StillToCopy { unknown: Some("it cannot be reached".to_owned()), ..StillToCopy::default() };
        let [_, why, eta] = copied(away);
        assert_eq!(
            (why.as_str(), eta.as_str()),
            ("w2 may still copy from here: it cannot be reached", "unknown")
        );
        let uncounted = StillToCopy { bytes: Some(0), ..StillToCopy::default() };
        let [_, why, eta] = copied(uncounted);
        assert_eq!(
            (why.as_str(), eta.as_str()),
            ("w2 still copies from here, how much is not counted yet", "unknown")
        );
    }

    #[test]
    fn times_are_told_roughly() {
        let told = [None, Some(0), Some(1), Some(59_000), Some(60_000), Some(7_199_000), Some(7_200_000)]
            .map(eta_text);
        let expected =
            ["unknown", "soon", "about 1 s", "about 59 s", "about 1 min", "about 120 min", "about 2 h 0 min"];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_fork_here_is_told_without_its_worker_and_a_parked_job_with_who_it_waits_for() {
        let fork = |to: &str| StopReason::Fork {
            copy: copy(),
            name: "data".parse().unwrap(),
            fork: VolumeId::fresh(),
            fork_name: "copy".parse().unwrap(),
            to: to.parse().unwrap(),
            left: StillToCopy { bytes: Some(1 << 20), eta_ms: Some(0), unknown: None },
        };
        let here = "w1".parse().unwrap();
        let whys = [fork("w1"), fork("w2")].map(|reason| row(&reason, &here)[1].clone());
        assert_eq!(
            whys,
            [
                "its fork copy still copies 1 MiB from here",
                "its fork copy on w2 still copies 1 MiB from here"
            ]
        );
        let job = StopReason::Job {
            job: JobId::fresh(),
            machine: "web".parse().unwrap(),
            to: "w2".parse().unwrap(),
            step: Some("Boot".to_owned()),
            parked: true,
            eta_ms: None,
        };
        assert_eq!(
            row(&job, &here)[1],
            "it moves web to w2, at Boot; it waits for a person (ferry job show)"
        );
    }
}
