//! How a copy of a volume looks from outside.

use super::attach::frontends;
use super::{Volumes, VolumesError};
use crate::config::volume_dir;
use crate::records::{ForkRecord, VolumeRecord};
use ferry_api::{
    BadRanges, Generation, Hydration, Lineage, LossPolicy, Precopied, ServerState, Span, StandIn, Volume,
    VolumeBase, VolumeFork, VolumeKey, VolumePace, VolumePhase, VolumeSource,
};
use ferry_crossing::service::{Service, wanted};
use ferry_volume::control::{self, Phase, Status};
use ferry_volume::directory::GUEST_SOCKET;

impl Volumes {
    /// All copies on this worker.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn list(&self) -> Result<Vec<Volume>, VolumesError> {
        let mut volumes = Vec::new();
        for record in self.inner.records.volumes().await? {
            volumes.push(self.view(record).await);
        }
        Ok(volumes)
    }

    /// One copy.
    ///
    /// # Errors
    /// It is not here.
    pub async fn show(&self, key: VolumeKey) -> Result<Volume, VolumesError> {
        Ok(self.view(self.inner.record(key).await?).await)
    }

    /// The NBD URI under which the guest finds a copy.
    #[must_use]
    pub fn guest_uri(&self, key: VolumeKey) -> String {
        format!("nbd+unix:///?socket={}", percent_encoded(&self.guest_socket(key).to_string_lossy()))
    }

    /// The socket where the guest finds a copy, by NBD.
    pub(crate) fn guest_socket(&self, key: VolumeKey) -> std::path::PathBuf {
        volume_dir(&self.inner.state_dir, key).join(GUEST_SOCKET)
    }

    fn forks(&self, record: &VolumeRecord, status: Option<&Status>) -> Vec<VolumeFork> {
        let of = |fork: &ForkRecord| {
            let id = fork.id.to_string();
            let snapshot = status.and_then(|s| s.snapshots.iter().find(|snapshot| snapshot.id == id));
            VolumeFork {
                id: fork.id,
                name: fork.name.clone(),
                worker: fork.to.clone().unwrap_or_else(|| self.inner.worker.clone()),
                bytes_kept: snapshot.map(|snapshot| snapshot.bytes_kept),
                bytes_owed: snapshot.map_or(0, |snapshot| snapshot.bytes_owed),
                readers: snapshot.map_or(0, |snapshot| snapshot.readers),
            }
        };
        record.forks.iter().map(of).collect()
    }

    async fn view(&self, record: VolumeRecord) -> Volume {
        let key = record.key();
        let service = self.inner.service(&record).await.unwrap_or(wanted(&record.ownership, false));
        let status = match service {
            Service::None => None,
            Service::Standby | Service::Open | Service::Sealing | Service::Sealed => {
                Some(self.inner.status(key).await)
            }
        };
        let server = match &status {
            None => ServerState::NotNeeded,
            Some(Ok(status)) if has_failed(status) => ServerState::Down {
                reason:
                    "its disk failed to make data durable, so it takes no more writes; see its server.log"
                        .to_owned(),
            },
            Some(Ok(status)) => ServerState::Running { pid: status.pid },
            Some(Err(_)) if self.inner.trouble(key).is_some() => {
                ServerState::Down { reason: self.inner.trouble(key).unwrap_or_default() }
            }
            Some(Err(error)) => ServerState::Down { reason: error.to_string() },
        };
        let status = status.and_then(Result::ok);
        let status = status.as_ref();
        Volume {
            id: record.id,
            generation: record.generation,
            worker: self.inner.worker.clone(),
            machine: record.machine,
            size_bytes: record.size_bytes,
            region_bytes: record.region_bytes,
            server,
            phase: status.map(|s| phase(s.phase)),
            source: source(&record, status),
            hydration: status.map(|s| hydration(&s.hydration, record.bytes_expected)),
            pace: status.map(pace).unwrap_or_default(),
            frontends: status.map(frontends).unwrap_or_default(),
            loss_policy: status.map(|s| loss_policy(s.loss_policy)).unwrap_or_default(),
            guest_uri: self.guest_uri(key),
            export_uri: status.and_then(|s| s.export).map(|address| self.inner.export_uri(key, address)),
            store: record.store.clone(),
            direct: record.direct,
            store_bytes_allocated: status.map(|s| s.store_bytes_allocated),
            disk_trouble: status.and_then(|s| s.disk_trouble.as_ref()).map(disk_trouble),
            readers: status.map(|s| s.readers),
            forks: self.forks(&record, status),
            lineage: lineage(&record, status),
            created_at_ms: record.created_at_ms,
            name: record.name,
            ownership: record.ownership,
        }
    }
}

/// One that takes no writes any more serves all the same.
fn has_failed(status: &Status) -> bool {
    status.store_failed && status.disk_trouble != Some(control::DiskTrouble::ReadOnly)
}

fn disk_trouble(trouble: &control::DiskTrouble) -> String {
    match trouble {
        control::DiskTrouble::ReadOnly => {
            "its file system is read-only: its machine reads, and gets an error for each write and flush; move the machine away (what \
             it wrote and did not flush before may be missing then, as after a power failure), or stop it and mend the disk"
                .to_owned()
        }
        control::DiskTrouble::MapUnwritten { why } => format!(
            "its map cannot be written ({why}): what has arrived since may have to be copied again, and flushes of its machine \
             fail; make room on its disk"
        ),
    }
}

fn pace(status: &Status) -> VolumePace {
    VolumePace {
        budget_bytes_per_s: status.budget_bytes_per_s,
        share_bytes_per_s: status.share_bytes_per_s,
        guard_us: status.guard_us,
        guard_bytes_per_s: status.guard_bytes_per_s,
        guest_p99_us: status.guest_p99_us,
        finish_by_ms: status.finish_by_ms,
        expected_end_ms: status.expected_end_ms,
    }
}

fn lineage(record: &VolumeRecord, status: Option<&Status>) -> Lineage {
    let base = record.base.as_ref().map(|base| {
        let link = status.and_then(|s| s.base.as_ref());
        VolumeBase {
            generation: base.generation,
            worker: base.worker.clone(),
            is_used: status.map(|_| link.is_some_and(|link| link.is_used)),
            last_error: link.and_then(|link| link.last_error.clone()),
        }
    });
    Lineage {
        born_from: status.and_then(|s| s.born_from).map(Generation),
        bytes_changed: status.and_then(|s| s.bytes_changed),
        base,
        rests: record.rests,
        precopied: status.and_then(|s| s.precopy.as_ref()).map(precopied),
    }
}

fn precopied(status: &control::PrecopyStatus) -> Precopied {
    Precopied {
        held_since: status.held_since,
        copies: status.copies,
        bytes_to_copy: status.bytes_to_copy,
        bytes_copied: status.bytes_copied,
        failure: status.failure.clone(),
    }
}

/// A phase as others hear of it.
pub(crate) fn phase(phase: Phase) -> VolumePhase {
    match phase {
        Phase::Standby => VolumePhase::Standby,
        Phase::Open => VolumePhase::Open,
        Phase::Sealed => VolumePhase::Sealed,
    }
}

fn stand_in(link: &control::StandIn) -> StandIn {
    let control::StandIn { uri, connected, last_error } = link.clone();
    StandIn { uri, connected, last_error }
}

fn source(record: &VolumeRecord, status: Option<&Status>) -> Option<VolumeSource> {
    let link = status.and_then(|s| s.source.as_ref());
    record.source.as_ref().map(|source| VolumeSource {
        uri: link.map_or_else(|| source.uri.clone(), |link| link.uri.clone()),
        worker: source.worker.clone(),
        connected: link.map(|link| link.connected),
        last_error: link.and_then(|link| link.last_error.clone()),
        is_gone: link.is_some_and(|link| link.is_gone),
        mismatches: status.map(|s| super::proof::mismatches(&s.mismatches)).unwrap_or_default(),
        bad: link.map(|link| bad_ranges(&link.bad)).unwrap_or_default(),
        away_ms: link.and_then(|link| link.away_ms),
        requests_waiting: link.map_or(0, |link| link.requests_waiting),
        slow_ms: link.and_then(|link| link.slow_ms),
        more: link.map(|link| link.more.iter().map(stand_in).collect()).unwrap_or_default(),
    })
}

fn loss_policy(policy: control::LossPolicy) -> LossPolicy {
    match policy {
        control::LossPolicy::Wait => LossPolicy::Wait,
        control::LossPolicy::FailAfterMs(ms) => LossPolicy::FailAfterMs(ms),
    }
}

fn bad_ranges(bad: &control::BadRanges) -> BadRanges {
    let span = |span: &control::Span| Span { offset: span.offset, len_bytes: span.len_bytes };
    BadRanges { bytes: bad.bytes, count: bad.count, listed: bad.listed.iter().map(span).collect() }
}

fn hydration(h: &control::Hydration, bytes_expected: u64) -> Hydration {
    // Until the source was asked everything is remote; what it said to hold when the clone was made bounds that.
    let bytes_to_copy = match bytes_expected {
        0 => h.bytes_remote,
        expected => h.bytes_remote.min(expected),
    };
    Hydration {
        complete: h.complete,
        bytes_total: h.bytes_total,
        bytes_local: h.bytes_local,
        bytes_remote: h.bytes_remote,
        bytes_to_copy,
        bytes_fetched: h.bytes_fetched,
        bytes_from_base: h.bytes_from_base,
        bytes_zero: h.bytes_zero,
        bytes_verified: h.bytes_verified,
        bytes_abandoned: h.bytes_abandoned,
        cold_reads: h.cold_reads,
        fetch_errors: h.fetch_errors,
        checksum_errors: h.checksum_errors,
        rate_bytes_per_s: h.rate_bytes_per_s,
    }
}

/// A path as it may stand in a query of a URI.
pub(crate) fn percent_encoded(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~@:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
