//! `ferry cluster ...` and `ferry agent join`

use std::path::Path;

use anyhow::Result;
use ferry_agent::cluster::Entered;
use ferry_agent::{Config, cluster};
use ferry_api::http::Client;
use ferry_api::{
    AgentApi, ApiTokenTold, AskApiToken, AskJoinToken, ClusterStatus, ClusterWorker, Revoke, Revoked,
};
use serde_json::json;

use super::utc;
use crate::exit::Exit;
use crate::output::{say, say_json, table};

/// Makes a cluster of the worker with that configuration.
pub fn init(config: &Path, json: bool) -> Result<Exit> {
    let config_read = Config::read(config)?;
    let entered = cluster::found(&config_read)?;
    say_entered(&entered, config, json)
}

/// Has the worker with that configuration join.
pub async fn join(config: &Path, token: &str, address: Option<&str>, json: bool) -> Result<Exit> {
    let config_read = Config::read(config)?;
    let entered = cluster::join(&config_read, token, address).await?;
    say_entered(&entered, config, json)
}

fn say_entered(entered: &Entered, config: &Path, json: bool) -> Result<Exit> {
    let Entered { cluster, worker, url, is_local, others } = entered;
    if json {
        say_json(&json!({ "cluster": cluster, "worker": worker, "url": url, "others": others }))?;
        return Ok(Exit::Done);
    }
    let others: Vec<&str> = others.iter().map(|other| other.as_str()).collect();
    let with = if others.is_empty() { String::new() } else { format!(" with {}", others.join(", ")) };
    say(format!("{worker} belongs to cluster {cluster}{with}; others reach it at {url}"))?;
    if *is_local {
        say(
            "only this host reaches that; for workers elsewhere give `listen` another address, remove the directory `cluster`, and do this again",
        )?;
    }
    say(format!("start its agent (again): ferry agent --config {}", config.display()))?;
    Ok(Exit::Done)
}

/// Prints a token by which a worker may join.
pub async fn token(agent: &Client, json: bool, ask: AskJoinToken) -> Result<Exit> {
    let made = agent.cluster_token(ask).await?;
    if json {
        say_json(&made)?;
    } else {
        say(&made.token)?;
    }
    Ok(Exit::Done)
}

/// Prints a token for people and programs.
pub async fn api_token(agent: &Client, json: bool, ask: AskApiToken) -> Result<Exit> {
    let made = agent.cluster_api_token(ask).await?;
    if json {
        say_json(&made)?;
    } else {
        say(&made.token)?;
    }
    Ok(Exit::Done)
}

/// Lets somebody in no longer.
pub async fn revoke(agent: &Client, json: bool, revoke: Revoke) -> Result<Exit> {
    let who = match &revoke.what {
        Revoked::Worker(name) => format!("worker {name}"),
        Revoked::ApiToken(name) => format!("API token {name}"),
    };
    let done = agent.cluster_revoke(revoke).await?;
    if json {
        say_json(&done)?;
        return Ok(Exit::Done);
    }
    say(format!("{who} is let in no longer (version {} of the roster)", done.status.roster_version))?;
    if !done.unreached.is_empty() {
        let unreached: Vec<&str> = done.unreached.iter().map(|name| name.as_str()).collect();
        say(format!("not told yet, since they do not answer: {}", unreached.join(", ")))?;
    }
    Ok(Exit::Done)
}

/// Prints how the cluster stands.
pub async fn status(agent: &Client, json: bool) -> Result<Exit> {
    let status = agent.cluster().await?;
    if json {
        say_json(&status)?;
        return Ok(Exit::Done);
    }
    let ClusterStatus { cluster, worker, keeper, authority, roster_version, workers, api_tokens, .. } =
        &status;
    say(table::facts([
        ("cluster", cluster.clone()),
        ("told by", worker.to_string()),
        ("key kept by", keeper.to_string()),
        ("authority", authority.clone()),
        ("roster", format!("version {roster_version}")),
        ("certificate", format!("until {}", utc(status.certificate_until_ms))),
    ]))?;
    say("")?;
    say(table::columns(["WORKER", "URL", "JOINED", "STATE"], workers.iter().map(worker_row)))?;
    if !api_tokens.is_empty() {
        say("")?;
        say(table::columns(["API TOKEN", "ROLE", "MADE", "EXPIRES"], api_tokens.iter().map(token_row)))?;
    }
    for trouble in &status.troubles {
        say(format!("! {trouble}"))?;
    }
    Ok(Exit::Done)
}

fn worker_row(worker: &ClusterWorker) -> [String; 4] {
    let state = match (worker.revoked_ms, &worker.reason) {
        (None, _) => "member".to_owned(),
        (Some(at_ms), None) => format!("revoked {}", utc(at_ms)),
        (Some(at_ms), Some(reason)) => format!("revoked {} ({reason})", utc(at_ms)),
    };
    [worker.name.to_string(), worker.url.clone(), utc(worker.joined_ms), state]
}

fn token_row(token: &ApiTokenTold) -> [String; 4] {
    [token.name.to_string(), token.role.to_string(), utc(token.made_ms), utc(token.expires_ms)]
}
