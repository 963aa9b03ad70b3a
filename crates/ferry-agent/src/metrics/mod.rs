//! The figures of a worker for those who watch many: gathered when somebody asks, written in the format of OpenMetrics.
//!
//! ```text
//!   records · jobs · machines · volumes ──gather──▶ Facts ──write──▶ text
//! ```
//!
//! Invariant: figures decide nothing. What is counted of jobs lies in the records and survives every restart; what volume
//! servers count, and how long appends took, begins anew with their processes. All names are in docs/operating.md.

mod directory;
mod jobs;
mod page;
mod process;
mod services;
mod volumes;

use crate::core::Core;
use crate::jobs::QueueFigures;
use crate::records::{CountRow, VolumeRecord};
use ferry_api::{ApiError, Hears, Job, Machine, MachineState, ServiceStatus, Volume, WorkerInfo};
use page::{Page, label};
use process::Process;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long a volume server may take to tell its figures; after that the page goes without them.
const VOLUME_MAX: Duration = Duration::from_secs(2);

/// All that the page is made of.
#[derive(Debug)]
struct Facts {
    worker: WorkerInfo,
    process: Process,
    records_bytes: u64,
    append_seconds: Histogram,
    counts: Vec<CountRow>,
    jobs: Vec<Job>,
    jobs_ended: u64,
    queues: Vec<QueueFigures>,
    machines: Vec<Machine>,
    volumes: Vec<VolumeFacts>,
    services: Vec<ServiceStatus>,
    hears: Hears,
}

/// A copy of a volume.
#[derive(Debug)]
struct VolumeFacts {
    record: VolumeRecord,
    /// How it looks; none when that was not told in time.
    shown: Option<Volume>,
}

/// The page of the worker that `worker` tells of; `jobs` are those that have not ended.
///
/// # Errors
/// The records cannot be read.
pub(crate) async fn page(
    core: &Core,
    worker: WorkerInfo,
    jobs: Vec<Job>,
    queues: Vec<QueueFigures>,
) -> Result<String, ApiError> {
    let records = &core.records;
    let facts = Facts {
        worker,
        process: Process::this(),
        records_bytes: records.size_bytes().await?,
        append_seconds: records.append_seconds(),
        counts: records.counts().await?,
        jobs,
        jobs_ended: records.ended_count().await?,
        queues,
        machines: core.machines.list().await?,
        volumes: copies(core).await?,
        services: core.services.list(),
        hears: core.services.hearing(),
    };
    Ok(facts.written())
}

/// All copies, asked at once: one whose server is stuck holds up no other.
async fn copies(core: &Core) -> Result<Vec<VolumeFacts>, ApiError> {
    let mut asked = JoinSet::new();
    for record in core.records.volumes().await? {
        let volumes = core.volumes.clone();
        asked.spawn(async move {
            let shown = tokio::time::timeout(VOLUME_MAX, volumes.show(record.key())).await;
            VolumeFacts { record, shown: shown.ok().and_then(Result::ok) }
        });
    }
    let mut copies = asked.join_all().await;
    copies.sort_by_key(|copy| copy.record.key());
    Ok(copies)
}

impl Facts {
    fn written(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut page = String::new();
        text::encode(&mut page, &registry).expect("a string takes everything");
        page
    }
}

impl Collector for Facts {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut page = Page::new(encoder);
        self.worker(&mut page)?;
        jobs::write(&mut page, self)?;
        self.machines(&mut page)?;
        volumes::write(&mut page, &self.volumes)?;
        services::write(&mut page, &self.services)?;
        directory::write(&mut page, &self.hears)
    }
}

impl Facts {
    fn worker(&self, page: &mut Page<'_>) -> std::fmt::Result {
        let worker = &self.worker;
        let build = vec![
            label("version", &worker.program_version),
            label("api_version", worker.api_version),
            label("worker", &worker.name),
        ];
        page.gauge("ferry_build_info", "The program and the worker it runs for.", [(build, 1.0)])?;
        let begun = page::seconds(worker.started_at_ms);
        page.one("process_start_time_seconds", "When the agent started, since 1970.", begun)?;
        if let Some(bytes) = self.process.resident_bytes {
            page.one("process_resident_memory_bytes", "Memory of the agent's process.", bytes as f64)?;
        }
        if let Some(open) = self.process.open_fds {
            page.one("process_open_fds", "Files and sockets that the agent has open.", open as f64)?;
        }
        page.one("ferry_records_bytes", "The agent's records on disk.", self.records_bytes as f64)?;
        page.histogram(
            "ferry_journal_append_seconds",
            "From when entries of a journal were handed to the records until they were durable.",
            &self.append_seconds,
        )?;
        let troubles = worker.troubles.len() as f64;
        page.one("ferry_disk_troubles", "What is wrong with the disks of the worker.", troubles)?;
        let room = &worker.room;
        page.one("ferry_room_used_bytes", "What volumes occupy.", room.used_bytes as f64)?;
        page.one("ferry_room_promised_bytes", "Promised and not yet occupied.", room.promised_bytes as f64)?;
        page.one("ferry_room_free_bytes", "Left for further volumes.", room.free_bytes as f64)?;
        let budget = worker.budget_bytes_per_s.map(|budget| (Vec::new(), budget.get() as f64));
        page.gauge("ferry_budget_bytes_per_second", "What all hydrations may fetch together.", budget)
    }

    fn machines(&self, page: &mut Page<'_>) -> std::fmt::Result {
        const STATES: [&str; 6] = ["stopped", "starting", "running", "restarting", "halted", "handed_over"];
        let count = |state: &'static str| {
            let machines = self.machines.iter().filter(|machine| state_of(machine) == state);
            (vec![label("state", state)], machines.count() as f64)
        };
        page.gauge("ferry_machines", "Machines in the records.", STATES.map(count))
    }
}

fn state_of(machine: &Machine) -> &'static str {
    match machine.state {
        MachineState::Stopped => "stopped",
        MachineState::Starting { .. } => "starting",
        MachineState::Running { .. } => "running",
        MachineState::Restarting { .. } => "restarting",
        MachineState::Halted { .. } => "halted",
        MachineState::HandedOver { .. } => "handed_over",
    }
}
