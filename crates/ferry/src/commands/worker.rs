//! `ferry worker ...`

use anyhow::Result;
use ferry_api::http::Client;
use ferry_api::{AgentApi, AskCordon, Cordon, DriverInfo, Labels, WorkerInfo, WorkerName};

use super::{agent_meant, pace, utc};
use crate::exit::Exit;
use crate::output::bytes::Bytes;
use crate::output::{say, say_json, table};

pub async fn show(agent: &Client, json: bool) -> Result<Exit> {
    let worker = agent.worker().await?;
    if json {
        say_json(&worker)?;
        return Ok(Exit::Done);
    }
    let peers: Vec<String> =
        worker.peers.iter().map(|peer| format!("{} at {}", peer.name, peer.url)).collect();
    let room = &worker.room;
    let mut facts = vec![
        ("name", worker.name.to_string()),
        ("listens on", worker.listen.clone()),
        ("version", format!("{} (api {})", worker.program_version, worker.api_version)),
        ("agent", format!("pid {}, since {}", worker.pid, utc(worker.started_at_ms))),
        ("state", worker.state_dir.display().to_string()),
        ("takes machines", cordon_text(worker.cordon.as_ref())),
        ("region", worker.region.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)),
        ("labels", labels_text(&worker.labels)),
        ("budget", pace::budgets_text(&worker)),
        ("machines", worker.machines.to_string()),
        ("volumes", worker.volumes.to_string()),
        ("drivers", drivers_text(&worker.drivers)),
        (
            "room",
            room.limit_bytes.map_or_else(|| "as the disk has".to_owned(), |limit| Bytes(limit).to_string()),
        ),
        ("used", Bytes(room.used_bytes).to_string()),
        ("promised", Bytes(room.promised_bytes).to_string()),
        ("free", Bytes(room.free_bytes).to_string()),
        ("knows", if peers.is_empty() { "no other worker".to_owned() } else { peers.join(", ") }),
    ];
    facts.extend(worker.troubles.iter().map(|trouble| ("trouble", trouble.clone())));
    say(table::facts(facts))?;
    Ok(Exit::Done)
}

/// Has a worker take no machines.
pub async fn cordon(agent: &Client, json: bool, of: Option<&WorkerName>, ask: AskCordon) -> Result<Exit> {
    tell_cordon(json, &agent_meant(agent, of).await?.worker_cordon(ask).await?)
}

/// Has a worker take machines again.
pub async fn uncordon(agent: &Client, json: bool, of: Option<&WorkerName>) -> Result<Exit> {
    tell_cordon(json, &agent_meant(agent, of).await?.worker_uncordon().await?)
}

fn tell_cordon(json: bool, worker: &WorkerInfo) -> Result<Exit> {
    match json {
        true => say_json(worker)?,
        false => {
            say(format_args!(
                "worker {} takes machines: {}",
                worker.name,
                cordon_text(worker.cordon.as_ref())
            ))?;
        }
    }
    Ok(Exit::Done)
}

fn cordon_text(cordon: Option<&Cordon>) -> String {
    let Some(Cordon { since_ms, reason }) = cordon else { return "yes".to_owned() };
    let reason = reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!("no, it is cordoned since {}{reason}", utc(*since_ms))
}

fn labels_text(labels: &Labels) -> String {
    match labels.is_empty() {
        true => "none".to_owned(),
        false => labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "),
    }
}

fn drivers_text(drivers: &[DriverInfo]) -> String {
    let one = |driver: &DriverInfo| match (&driver.error, driver.limits.is_empty()) {
        (Some(error), _) => format!("not {}: {error}", driver.name),
        (None, is_unlimited) => {
            let limits = format!("limits {}", driver.limits.join(" "));
            let told = driver.found.iter().cloned().chain((!is_unlimited).then_some(limits));
            let told = told.collect::<Vec<_>>().join(", ");
            if told.is_empty() { driver.name.clone() } else { format!("{} ({told})", driver.name) }
        }
    };
    drivers.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Prints the figures as they are scraped.
pub async fn metrics(agent: &Client) -> Result<Exit> {
    say(agent.metrics().await?.trim_end())?;
    Ok(Exit::Done)
}
