//! What agents write in their records, for people, and what must be true when they do.

use crate::world::{HostIndex, State};
use ferry_agent::records::Change;
use ferry_api::{Desired, JobId, MachineId, VolumeId};
use ferry_engine::Phase;
use serde_json::Value;

/// A write in a few words.
#[must_use]
pub fn in_words(entries: &[String], changes: &[Change]) -> String {
    let mut words = Vec::new();
    for entry in entries.iter().filter_map(|entry| serde_json::from_str::<Value>(entry).ok()) {
        let word = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let error = entry.pointer("/error/message").and_then(Value::as_str).unwrap_or_default();
        let outcome = entry.get("outcome").map(ToString::to_string).unwrap_or_default();
        words.push(format!("{} {} {outcome}{error}", word("entry"), word("step")).trim().to_owned());
    }
    for change in changes {
        words.push(match change {
            Change::AddMachine(record) => format!("AddMachine {}", record.id),
            Change::AddVolume(record) => format!("AddVolume {} {:?}", record.key(), record.ownership),
            Change::AddJob(record) => format!("AddJob {}", record.id),
            Change::Crossing(record) => format!("Crossing {} {:?}", record.job, record.state),
            other => format!("{other:?}"),
        });
    }
    format!("writes {}", words.join("; "))
}

/// What was written is durable: a job that has just ended has left its machine where it belongs.
pub fn written(state: &mut State, host: HostIndex, entries: &[String], changes: &[Change]) {
    for change in changes {
        match change {
            Change::AddMachine(record) => drop(state.homes.entry(record.id).or_insert(host)),
            Change::HandOver { job, machine, to } => {
                state.handed_over.insert(*job);
                let to = state.host_named(to.as_str()).expect("machines go where a worker is");
                state.homes.insert(*machine, to);
                state.moves_live.remove(machine);
            }
            Change::Pause { machine, paused: true, .. } => drop(state.moves_live.insert(*machine, host)),
            Change::Pause { machine, paused: false, .. } => drop(state.moves_live.remove(machine)),
            Change::Desire { machine, desired: Desired::Stopped } => {
                state.asked_to_stop.insert(*machine);
            }
            Change::ProcessEnded { machine, .. } => {
                state.asked_to_stop.remove(machine);
            }
            _ => {}
        }
    }
    let entries = entries.iter().filter_map(|entry| serde_json::from_str::<Value>(entry).ok());
    for entry in entries.filter(|entry| entry.get("entry").and_then(Value::as_str) == Some("finished")) {
        let how = entry.pointer("/outcome/how").and_then(Value::as_str);
        let has_succeeded = how == Some("succeeded");
        state.count(match how {
            Some("succeeded") => "moves that succeeded",
            Some("cancelled") => "moves that were cancelled",
            _ => "moves that failed",
        });
        for change in changes {
            if let Change::Unclaim { machine, job } = change {
                check_end(state, host, *machine, *job, has_succeeded);
            }
        }
    }
}

/// A move that succeeded has handed its machine over; after any other the machine is at home, and may run there.
fn check_end(state: &mut State, host: HostIndex, machine: MachineId, job: JobId, has_succeeded: bool) {
    if state.handed_over.contains(&job) != has_succeeded {
        let how = if has_succeeded { "succeeds and did not hand over" } else { "fails and did hand over" };
        return state.find(format!("job {job} {how} machine {machine}"));
    }
    // Another job may have handed it over before this one got its turn.
    if has_succeeded || state.homes.get(&machine) != Some(&host) {
        return;
    }
    state.count("moves that ended at home");
    // One that has just arrived may still have to be opened.
    let is_open = |volume: VolumeId| {
        let mut copies = state.hosts[host].copies.iter().filter(|(key, _)| key.id == volume);
        copies.any(|(_, copy)| matches!(crate::server::state_of(copy).phase, Phase::Open | Phase::Standby))
    };
    let closed = state.disks.get(&machine).into_iter().flatten().copied().find(|volume| !is_open(*volume));
    if let Some(volume) = closed {
        state.find(format!("job {job} ends without a hand-over, and no copy of {volume} is open at home"));
    }
    let elsewhere = |process: &crate::process::Process| {
        let is_it = matches!(process.what, crate::process::What::Runs(runs) if runs == machine);
        is_it && process.has_guest()
    };
    let others = state.hosts.iter().enumerate().filter(|(other, _)| *other != host);
    if others.flat_map(|(_, host)| host.processes.values()).any(elsewhere) {
        state.find(format!("job {job} ends without a hand-over, and machine {machine} runs elsewhere"));
    }
}
