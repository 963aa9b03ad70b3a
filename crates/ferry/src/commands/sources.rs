//! `ferry volume source`: the sources of a volume, the preferred one first.

use anyhow::Result;
use ferry_api::http::Client;
use ferry_api::{AgentApi, ChangeSources, StandIn, Volume, VolumeRef};

use crate::exit::Exit;
use crate::output::{say, say_json};

pub async fn change(agent: &Client, json: bool, volume: &VolumeRef, change: ChangeSources) -> Result<Exit> {
    let volume = agent.volume_change_sources(volume, change).await?;
    show(json, &volume)
}

pub async fn list(agent: &Client, json: bool, volume: &VolumeRef) -> Result<Exit> {
    let volume = agent.volume(volume).await?;
    show(json, &volume)
}

fn show(json: bool, volume: &Volume) -> Result<Exit> {
    let all = sources(volume);
    if json {
        say_json(&all)?;
    } else if all.is_empty() {
        say("the volume needs no source")?;
    }
    for source in all.iter().filter(|_| !json) {
        say(text(source))?;
    }
    Ok(Exit::Done)
}

fn sources(volume: &Volume) -> Vec<StandIn> {
    let Some(source) = &volume.source else { return Vec::new() };
    let first = StandIn {
        uri: source.uri.clone(),
        connected: source.connected == Some(true),
        last_error: source.last_error.clone(),
    };
    [first].into_iter().chain(source.more.iter().cloned()).collect()
}

/// One source in a line.
pub fn text(source: &StandIn) -> String {
    let link = if source.connected { "connected" } else { "away, tried again" };
    let trouble = source.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("{} ({link}{trouble})", source.uri)
}
