//! Figures about copies of volumes, as `ferry volume show` tells them. What their servers count begins anew with each
//! server.

use super::VolumeFacts;
use super::page::{Labels, Page, label, seconds};
use ferry_api::{Ownership, ServerState, Volume, VolumePhase};
use std::fmt::Result;

const OWNERSHIPS: [&str; 6] = ["reserved", "prepared", "ours", "sealed", "handed_over", "retired"];
const PHASES: [&str; 4] = ["standby", "open", "sealed", "unknown"];

pub(super) fn write(page: &mut Page<'_>, copies: &[VolumeFacts]) -> Result {
    let owned = OWNERSHIPS.map(|name| {
        let number = copies.iter().filter(|copy| ownership(&copy.record.ownership) == name).count();
        (vec![label("ownership", name)], number as f64)
    });
    page.gauge("ferry_volumes", "Copies of volumes, by what the worker may do with them.", owned)?;
    let served: Vec<&VolumeFacts> = copies.iter().filter(|copy| is_served(copy)).collect();
    let phases = PHASES.map(|name| {
        let number = served.iter().filter(|copy| phase(copy) == name).count();
        (vec![label("phase", name)], number as f64)
    });
    page.gauge("ferry_volumes_served", "Copies that are to be served, by what their servers do.", phases)?;
    let up = served.iter().map(|copy| (labels(copy), f64::from(is_up(copy))));
    page.gauge("ferry_volume_server_up", "Whether the server of a copy answers.", up)?;
    let told: Vec<(Labels, &Volume)> =
        served.iter().filter_map(|copy| Some((labels(copy), copy.shown.as_ref()?))).collect();
    gauges(page, &told)?;
    counters(page, &told)
}

/// A figure of a volume; none where it has none.
type Figure<T> = (&'static str, &'static str, fn(&Volume) -> Option<T>);

fn gauges(page: &mut Page<'_>, told: &[(Labels, &Volume)]) -> Result {
    const GAUGES: [Figure<f64>; 17] = [
        ("ferry_volume_size_bytes", "Size of the volume.", |v| Some(v.size_bytes as f64)),
        ("ferry_volume_store_bytes", "What its store occupies.", |v| Some(v.store_bytes_allocated? as f64)),
        ("ferry_volume_hydrated", "Whether nothing is remote any more, durably.", |v| {
            Some(f64::from(u8::from(v.hydration?.complete)))
        }),
        ("ferry_volume_local_bytes", "What is local.", |v| Some(v.hydration?.bytes_local as f64)),
        ("ferry_volume_remote_bytes", "What is still remote.", |v| Some(v.hydration?.bytes_remote as f64)),
        ("ferry_volume_to_copy_bytes", "Data that is still to copy, as far as is known.", |v| {
            Some(v.hydration?.bytes_to_copy as f64)
        }),
        ("ferry_volume_abandoned_bytes", "What nobody has any more.", |v| {
            Some(v.hydration?.bytes_abandoned as f64)
        }),
        ("ferry_volume_rate_bytes_per_second", "What arrived a second lately.", |v| {
            Some(v.hydration?.rate_bytes_per_s as f64)
        }),
        ("ferry_volume_budget_bytes_per_second", "What it may fetch a second.", |v| {
            Some(v.pace.budget_bytes_per_s?.get() as f64)
        }),
        ("ferry_volume_source_connected", "Whether it is connected to its source.", |v| {
            Some(f64::from(u8::from(v.source.as_ref()?.connected?)))
        }),
        ("ferry_volume_source_away_seconds", "For how long its source has answered nothing.", |v| {
            Some(v.source.as_ref()?.away_ms.map_or(0.0, seconds))
        }),
        ("ferry_volume_source_slow_seconds", "The longest lately that its source let it wait.", |v| {
            Some(v.source.as_ref()?.slow_ms.map_or(0.0, seconds))
        }),
        ("ferry_volume_disk_trouble", "Whether its server cannot write what it must.", |v| {
            Some(f64::from(u8::from(v.disk_trouble.is_some())))
        }),
        ("ferry_volume_requests_waiting", "Requests of its machine that wait for the source.", |v| {
            Some(v.source.as_ref()?.requests_waiting as f64)
        }),
        ("ferry_volume_guest_p99_seconds", "What 99 of 100 requests of its machine took at most.", |v| {
            Some(v.pace.guest_p99_us? as f64 / 1e6)
        }),
        ("ferry_volume_readers", "Connections that read it over the network.", |v| Some(v.readers?.into())),
        ("ferry_volume_forks", "Clones that read a snapshot of it and are not whole yet.", |v| {
            Some(v.forks.len() as f64)
        }),
    ];
    for (name, help, figure) in GAUGES {
        page.gauge(name, help, told.iter().filter_map(|(labels, v)| Some((labels.clone(), figure(v)?))))?;
    }
    Ok(())
}

fn counters(page: &mut Page<'_>, told: &[(Labels, &Volume)]) -> Result {
    const COUNTERS: [Figure<u64>; 7] = [
        ("ferry_volume_fetched_bytes", "What crossed from its source.", |v| Some(v.hydration?.bytes_fetched)),
        ("ferry_volume_from_base_bytes", "What came from its base instead.", |v| {
            Some(v.hydration?.bytes_from_base)
        }),
        ("ferry_volume_zero_bytes", "What never crossed because it is zero.", |v| {
            Some(v.hydration?.bytes_zero)
        }),
        (
            "ferry_volume_verified_bytes",
            "Fetched bytes that were compared with the source's checksum.",
            |v| Some(v.hydration?.bytes_verified),
        ),
        ("ferry_volume_cold_reads", "Reads of its machine that had to wait for the source.", |v| {
            Some(v.hydration?.cold_reads)
        }),
        ("ferry_volume_fetch_errors", "Fetches that failed.", |v| Some(v.hydration?.fetch_errors)),
        ("ferry_volume_checksum_errors", "Fetches whose checksum was wrong.", |v| {
            Some(v.hydration?.checksum_errors)
        }),
    ];
    for (name, help, figure) in COUNTERS {
        page.counter(name, help, told.iter().filter_map(|(labels, v)| Some((labels.clone(), figure(v)?))))?;
    }
    Ok(())
}

/// What tells a copy from all others.
fn labels(copy: &VolumeFacts) -> Labels {
    let record = &copy.record;
    vec![
        label("volume", &record.name),
        label("id", record.id),
        label("generation", record.generation),
        label("ownership", ownership(&record.ownership)),
    ]
}

/// A copy that was not shown in time has a server that does not answer.
fn is_served(copy: &VolumeFacts) -> bool {
    copy.shown.as_ref().is_none_or(|volume| volume.server != ServerState::NotNeeded)
}

fn is_up(copy: &VolumeFacts) -> bool {
    copy.shown.as_ref().is_some_and(|volume| matches!(volume.server, ServerState::Running { .. }))
}

fn phase(copy: &VolumeFacts) -> &'static str {
    match copy.shown.as_ref().and_then(|volume| volume.phase) {
        Some(VolumePhase::Standby) => "standby",
        Some(VolumePhase::Open) => "open",
        Some(VolumePhase::Sealed) => "sealed",
        None => "unknown",
    }
}

fn ownership(ownership: &Ownership) -> &'static str {
    match ownership {
        Ownership::Reserved { .. } => "reserved",
        Ownership::Prepared { .. } => "prepared",
        Ownership::Ours => "ours",
        Ownership::Sealed { .. } => "sealed",
        Ownership::HandedOver { .. } => "handed_over",
        Ownership::Retired { .. } => "retired",
    }
}
