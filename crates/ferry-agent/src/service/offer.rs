//! What a worker says of itself: to people, to those who would move a machine to it, and to the directory.

use super::{Agent, Answer};
use crate::placement;
use ferry_api::{API_VERSION, Bid, DriverKind, JobId, SPEC_VERSION, WorkerInfo};

impl Agent {
    /// The worker, with these of its drivers.
    pub(super) async fn worker_with(&self, drivers: &[DriverKind]) -> Answer<WorkerInfo> {
        let config = &self.core.config;
        let set = self.core.records.worker().await?;
        let machines = self.core.machines.list().await?;
        Ok(WorkerInfo {
            name: config.name.clone(),
            api_version: API_VERSION,
            spec_version: SPEC_VERSION,
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at_ms: self.started_at_ms,
            state_dir: config.state_dir.clone(),
            listen: config.listen.to_string(),
            room: self.core.volumes.room().await?,
            has: self.core.host.means().ok().map(|means| means.capacity()),
            region: config.region.clone(),
            labels: config.labels.clone(),
            cordon: set.cordon_now(),
            drivers: self.core.machines.drivers(drivers).await,
            direct_io: self.core.volumes.has_direct_io().await,
            budget_bytes_per_s: set.budget_bytes_per_s,
            pair_budgets_bytes_per_s: set.pair_budgets_bytes_per_s,
            machines: machines.len() as u64,
            volumes: self.core.records.volumes().await?.len() as u64,
            peers: self.core.peers.list(),
            troubles: self.core.host.disk_troubles().await,
        })
    }

    /// What this worker offers; what it holds for one move is as good as free.
    pub(super) async fn bid_but(&self, job: Option<JobId>, drivers: &[DriverKind]) -> Answer<Bid> {
        let troubles = self.shutdown.admit().err().map(|error| error.message);
        placement::bid(&self.core, self.worker_with(drivers).await?, troubles, job).await
    }
}
