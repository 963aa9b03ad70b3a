//! `ferry directory`

use anyhow::Result;
use ferry_api::http::Client;
use ferry_api::{AboutWorker, AgentApi, DirectoryView, Hears, HearsBy, KnownMachine, KnownWorker};
use std::time::Duration;

use super::service::presence_text;
use crate::exit::Exit;
use crate::output::bytes::{Bytes, Span};
use crate::output::{say, say_json, table};

/// Tells what a worker has heard of all workers and their machines.
pub async fn show(agent: &Client, json: bool) -> Result<Exit> {
    let view = agent.directory().await?;
    match json {
        true => say_json(&view)?,
        false => say(sheet(&view))?,
    }
    Ok(Exit::Done)
}

fn sheet(view: &DirectoryView) -> String {
    let header = ["WORKER", "HEARD", "MACHINES", "LOAD", "FREE ROOM", "VERSION", "STATE"];
    let workers = table::columns(header, view.workers.iter().map(|worker| worker_row(view, worker)));
    let header = ["MACHINE", "ID", "OWNER", "GENERATION", "STATE", "HEARD"];
    let machines = table::columns(header, view.machines.iter().map(machine_row));
    let old = view.workers.iter().filter(|worker| !worker.is_fresh).map(old_text);
    let old: String = old.map(|line| format!("\n{line}")).collect();
    let troubles: String = view.troubles.iter().map(|trouble| format!("\n! {trouble}")).collect();
    format!(
        "as worker {} has heard it{}\n{workers}\n\n{machines}{old}{troubles}",
        view.of,
        by_text(&view.hears)
    )
}

fn by_text(hears: &Hears) -> String {
    let ignored = match hears.ignored {
        0 => String::new(),
        count => format!("; {count} values there were no member's and are ignored"),
    };
    match (&hears.by, hears.heard_ms_ago) {
        (HearsBy::Requests, _) => String::new(),
        (HearsBy::Gossip, _) => " by gossip".to_owned(),
        (HearsBy::Nats { .. }, None) => format!(" by {}, which was not read yet{ignored}", hears.by),
        (HearsBy::Nats { .. }, Some(ms)) => format!(" by {}, read {}{ignored}", hears.by, ago(ms)),
    }
}

fn worker_row(view: &DirectoryView, worker: &KnownWorker) -> [String; 7] {
    let of_it = |text: fn(&AboutWorker) -> String| worker.about.as_ref().map_or_else(|| "-".to_owned(), text);
    let heard = match worker.heard_ms_ago {
        _ if worker.name == view.of => "itself".to_owned(),
        heard => heard.map_or_else(|| "never".to_owned(), ago),
    };
    [
        worker.name.to_string(),
        heard,
        worker.machines.to_string(),
        of_it(|about| {
            let cpus = |millis: u64| millis as f64 / 1000.0;
            format!("{:.1} of {:.1}", cpus(about.busy_cpu_millis), cpus(about.capacity.cpu_millis))
        }),
        of_it(|about| Bytes(about.room.free_bytes).to_string()),
        of_it(|about| about.program_version.clone()),
        state_text(worker),
    ]
}

fn state_text(worker: &KnownWorker) -> String {
    match &worker.about {
        _ if worker.is_there == Some(false) => "gone".to_owned(),
        _ if !worker.is_fresh => "silent".to_owned(),
        Some(about) if !about.troubles.is_empty() => about.troubles.join("; "),
        Some(AboutWorker { cordon: Some(_), .. }) => "cordoned".to_owned(),
        Some(_) => "takes machines".to_owned(),
        None => "does not say".to_owned(),
    }
}

fn machine_row(known: &KnownMachine) -> [String; 6] {
    let certain = if known.is_certain { "" } else { " (uncertain)" };
    let by =
        if known.told_by == known.mapping.owner { String::new() } else { format!(" by {}", known.told_by) };
    [
        known.mapping.name.to_string(),
        known.mapping.machine.to_string(),
        known.mapping.owner.to_string(),
        known.mapping.generation.to_string(),
        format!("{}{certain}", presence_text(known.mapping.presence)),
        format!("{}{by}", ago(known.heard_ms_ago)),
    ]
}

fn old_text(worker: &KnownWorker) -> String {
    match worker.heard_ms_ago {
        Some(ms) => format!(
            "worker {} has said nothing for {}: what is told of it and its machines is that old; look whether its agent runs",
            worker.name,
            Span(Duration::from_millis(ms))
        ),
        None => format!("worker {} has said nothing yet; look whether its agent runs", worker.name),
    }
}

fn ago(ms: u64) -> String {
    match ms {
        0 => "now".to_owned(),
        ms => format!("{} ago", Span(Duration::from_millis(ms))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::{Mapping, Network, Presence};

    #[test]
    fn a_silent_worker_is_told_with_the_age_of_what_is_known_of_it() {
        let machine = KnownMachine {
            mapping: Mapping {
                machine: "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(),
                name: "db".parse().unwrap(),
                generation: ferry_api::Generation(3),
                owner: "w2".parse().unwrap(),
                services: Vec::new(),
                network: Network::Host,
                presence: Presence::Runs { since_ms: 1 },
            },
            told_by: "w2".parse().unwrap(),
            heard_ms_ago: 90_000,
            is_certain: false,
        };
        let silent = KnownWorker {
            name: "w2".parse().unwrap(),
            heard_ms_ago: Some(90_000),
            is_there: None,
            is_fresh: false,
            machines: 1,
            about: None,
        };
        let hears = Hears {
            by: HearsBy::Nats { bucket: "ferry".to_owned() },
            heard_ms_ago: Some(4_000),
            trouble: None,
            ignored: 2,
        };
        let view = DirectoryView {
            of: "w1".parse().unwrap(),
            hears,
            troubles: vec!["the connection is lost".to_owned()],
            workers: vec![silent],
            machines: vec![machine],
        };
        let sheet = sheet(&view);
        assert!(
            sheet.starts_with("as worker w1 has heard it by the NATS bucket ferry, read 4 s ago; 2 values"),
            "{sheet}"
        );
        assert!(sheet.ends_with("\n! the connection is lost"), "{sheet}");
        assert!(sheet.contains("uncertain"), "{sheet}");
        assert!(sheet.contains("worker w2 has said nothing for 1 min 30 s"), "{sheet}");
    }
}
