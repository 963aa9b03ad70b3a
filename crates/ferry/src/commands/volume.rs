//! `ferry volume ...`

use std::collections::BTreeMap;

use anyhow::Result;
use ferry_api::http::Client;
use ferry_api::{
    AgentApi, ForkVolume, GrowVolume, Hydration, ImportVolume, MachineId, MachineName, Ownership,
    ServerState, Volume, VolumeFork, VolumePhase, VolumeRef, VolumeSource,
};

use super::{attach, base, loss, pace, proof, utc};
use crate::exit::Exit;
use crate::output::bytes::Bytes;
use crate::output::{Paint, say, say_json, table};

pub async fn import(agent: &Client, json: bool, import: ImportVolume) -> Result<Exit> {
    let volume = agent.volume_import(import).await?;
    if json {
        say_json(&volume)?;
    } else {
        let name = Paint::for_stdout().strong(volume.name.as_str());
        say(format_args!(
            "volume {name} of {} is usable now and hydrates from its source ({})",
            Bytes(volume.size_bytes),
            volume.id
        ))?;
    }
    Ok(Exit::Done)
}

pub async fn list(agent: &Client, json: bool) -> Result<Exit> {
    let volumes = agent.volumes().await?;
    if json {
        say_json(&volumes)?;
    } else {
        let machines = agent.machines().await?;
        let names: BTreeMap<MachineId, MachineName> =
            machines.into_iter().map(|machine| (machine.id, machine.name)).collect();
        let header = ["NAME", "SIZE", "ALLOCATED", "LOCAL", "STATE", "MACHINE", "VOLUME@GENERATION"];
        say(table::columns(header, volumes.iter().map(|volume| row(volume, &names))))?;
    }
    Ok(Exit::Done)
}

/// Where a volume's bytes lie, and how they get there.
fn store_text(volume: &Volume) -> String {
    let place = volume
        .store
        .as_ref()
        .map_or_else(|| "file".to_owned(), |device| format!("device {}", device.display()));
    if volume.direct { format!("{place}, direct I/O") } else { place }
}

pub async fn show(agent: &Client, json: bool, volume: &VolumeRef) -> Result<Exit> {
    let volume = agent.volume(volume).await?;
    if json {
        say_json(&volume)?;
        return Ok(Exit::Done);
    }
    let dash = || "-".to_owned();
    let mut facts = vec![
        ("name", volume.name.to_string()),
        ("id", volume.id.to_string()),
        ("generation", volume.generation.to_string()),
        ("worker", volume.worker.to_string()),
        ("machine", volume.machine.map_or_else(dash, |machine| machine.to_string())),
        ("size", Bytes(volume.size_bytes).to_string()),
        ("allocated", volume.store_bytes_allocated.map_or_else(dash, |bytes| Bytes(bytes).to_string())),
        ("store", store_text(&volume)),
        ("state", state_text(&volume)),
        ("server", server_text(&volume.server)),
        ("guest", volume.guest_uri.clone()),
        ("export", volume.export_uri.clone().unwrap_or_else(dash)),
        ("source", volume.source.as_ref().map_or_else(dash, source_text)),
        ("created", utc(volume.created_at_ms)),
    ];
    facts.extend(volume.disk_trouble.iter().map(|trouble| ("disk", trouble.clone())));
    facts.extend(attach::facts(&volume));
    facts.extend(pace::facts(&volume.pace));
    facts.extend(loss::facts(&volume));
    facts.extend(volume.source.iter().flat_map(proof::mismatch_facts));
    facts.extend(base::of_volume(&volume));
    facts.extend(volume.forks.iter().map(|fork| ("fork", fork_text(fork))));
    facts.extend(volume.hydration.iter().flat_map(hydration_facts));
    say(table::facts(facts))?;
    Ok(Exit::Done)
}

pub async fn fork(agent: &Client, json: bool, volume: &VolumeRef, fork: ForkVolume) -> Result<Exit> {
    let made = agent.volume_fork(volume, fork).await?;
    if json {
        say_json(&made)?;
    } else {
        let name = Paint::for_stdout().strong(made.name.as_str());
        say(format_args!(
            "volume {name} on {} is a fork of {volume}: usable now, whole by and by ({})",
            made.worker, made.id
        ))?;
    }
    Ok(Exit::Done)
}

pub async fn grow(agent: &Client, json: bool, volume: &VolumeRef, grow: GrowVolume) -> Result<Exit> {
    let volume = agent.volume_grow(volume, grow).await?;
    if json {
        say_json(&volume)?;
    } else {
        let name = Paint::for_stdout().strong(volume.name.as_str());
        let size = Bytes(volume.size_bytes);
        say(format_args!("volume {name} has {size} now; who is connected sees that after connecting again"))?;
    }
    Ok(Exit::Done)
}

pub async fn delete(agent: &Client, json: bool, volume: &VolumeRef) -> Result<Exit> {
    agent.volume_delete(volume).await?;
    if json {
        say_json(&serde_json::json!({ "deleted": volume.to_string() }))?;
    } else {
        say(format_args!("volume {} is deleted", Paint::for_stdout().strong(&volume.to_string())))?;
    }
    Ok(Exit::Done)
}

fn fork_text(fork: &VolumeFork) -> String {
    let kept = fork
        .bytes_kept
        .map_or_else(|| "its snapshot is lost".to_owned(), |bytes| format!("{} kept", Bytes(bytes)));
    let owed = match fork.bytes_owed {
        0 => String::new(),
        bytes => format!(", {} still to come from the source", Bytes(bytes)),
    };
    format!("{} on {}, {kept}{owed}, {} connections ({})", fork.name, fork.worker, fork.readers, fork.id)
}

fn row(volume: &Volume, names: &BTreeMap<MachineId, MachineName>) -> [String; 7] {
    let dash = || "-".to_owned();
    [
        volume.name.to_string(),
        Bytes(volume.size_bytes).to_string(),
        volume.store_bytes_allocated.map_or_else(dash, |bytes| Bytes(bytes).to_string()),
        volume.hydration.as_ref().map_or_else(dash, local_text),
        state_text(volume),
        volume.machine.map_or_else(dash, |id| names.get(&id).map_or(id.to_string(), MachineName::to_string)),
        format!("{}@{}", volume.id, volume.generation),
    ]
}

/// How much is local; never rounded up to 100% while anything is remote.
fn local_text(hydration: &Hydration) -> String {
    if hydration.complete || hydration.bytes_total == 0 {
        return "100%".to_owned();
    }
    let per_thousand = u128::from(hydration.bytes_local) * 1000 / u128::from(hydration.bytes_total);
    let per_thousand = per_thousand.min(999);
    format!("{}.{}%", per_thousand / 10, per_thousand % 10)
}

fn state_text(volume: &Volume) -> String {
    let owned = match &volume.ownership {
        Ownership::Reserved { job: _, from } => format!("reserved, comes from {from}"),
        Ownership::Prepared { job: _, from } => format!("prepared, comes from {from}"),
        Ownership::Ours => match volume.phase {
            Some(VolumePhase::Open) => "open".to_owned(),
            Some(VolumePhase::Standby) => "standby".to_owned(),
            Some(VolumePhase::Sealed) => "sealed".to_owned(),
            None => "closed".to_owned(),
        },
        Ownership::Sealed { job } => format!("sealed by job {job}"),
        Ownership::HandedOver { to, job: _ } => format!("handed over to {to}"),
        Ownership::Retired { to, until_ms } => {
            format!("retired, {to} has it; deleted at {}", utc(*until_ms))
        }
    };
    match &volume.server {
        ServerState::Down { .. } => format!("{owned}, server down"),
        ServerState::NotNeeded | ServerState::Running { .. } if is_cut_off(volume) => {
            format!("{owned}, cut off")
        }
        ServerState::NotNeeded | ServerState::Running { .. } => owned,
    }
}

/// Whether it is a fork whose snapshot is gone before it was whole.
fn is_cut_off(volume: &Volume) -> bool {
    volume.source.as_ref().is_some_and(|source| source.is_gone)
}

fn server_text(server: &ServerState) -> String {
    match server {
        ServerState::NotNeeded => "none needed".to_owned(),
        ServerState::Running { pid } => format!("running, pid {pid}"),
        ServerState::Down { reason } => format!("down: {reason}"),
    }
}

fn source_text(source: &VolumeSource) -> String {
    let link = match source.connected {
        Some(true) => "connected",
        Some(false) if source.is_gone => "gone for good",
        Some(false) => "away, tried again",
        None => "unknown",
    };
    let worker = source.worker.as_ref().map(|worker| format!(" on {worker}")).unwrap_or_default();
    let trouble = source.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("{}{worker} ({link}{trouble})", source.uri)
}

fn hydration_facts(hydration: &Hydration) -> [(&'static str, String); 6] {
    let errors = format!(
        "{} failed, {} with a wrong checksum; each tried again",
        hydration.fetch_errors, hydration.checksum_errors
    );
    [
        ("local", format!("{} ({})", local_text(hydration), Bytes(hydration.bytes_local))),
        ("to copy", format!("{} at {}/s", Bytes(hydration.bytes_to_copy), Bytes(hydration.rate_bytes_per_s))),
        (
            "copied",
            format!("{}, {} verified", Bytes(hydration.bytes_fetched), Bytes(hydration.bytes_verified)),
        ),
        ("known zero", Bytes(hydration.bytes_zero).to_string()),
        ("cold reads", hydration.cold_reads.to_string()),
        ("fetches", errors),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_with_a_single_remote_block_is_not_shown_as_whole() {
        let mut hydration =
            Hydration { bytes_total: 1 << 40, bytes_local: (1 << 40) - 4096, ..Hydration::default() };
        assert_eq!(local_text(&hydration), "99.9%");
        hydration.complete = true;
        assert_eq!(local_text(&hydration), "100%");
        hydration = Hydration { bytes_total: 1000, bytes_local: 123, ..Hydration::default() };
        assert_eq!(local_text(&hydration), "12.3%");
    }
}
