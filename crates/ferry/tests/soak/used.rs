//! What workers take of their host after so many moves, and whether that grows.

use crate::Soak;
use crate::support::cluster::Worker;
use ferry_api::WorkerInfo;
use std::fmt::{self, Display, Formatter};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A line is fitted through so many points at least.
const FIT_MIN: usize = 10;

/// What all workers take together.
pub struct Used {
    moves: u64,
    pub agents_kib: u64,
    pub servers_kib: u64,
    servers: usize,
    copies: usize,
    pub volumes_kib: u64,
    pub records_kib: u64,
    crossed_kib: u64,
}

impl Used {
    /// Now.
    pub fn of(soak: &Soak) -> Self {
        let workers = &soak.cluster.workers;
        let info = |worker: &Worker| worker.ask::<WorkerInfo>(&["worker", "show"]).pid;
        let servers = soak.processes("volume-server");
        let records = ["records.db", "records.db-wal"];
        let records = workers.iter().flat_map(|worker| records.map(|file| worker.dir.join(file)));
        Self {
            moves: soak.tally.moved,
            agents_kib: workers.iter().map(|worker| resident_kib(info(worker))).sum(),
            servers_kib: servers.iter().map(|(_, pid)| resident_kib(*pid)).sum(),
            servers: servers.len(),
            copies: soak.volume_dirs().len(),
            volumes_kib: soak.volume_dirs().iter().map(|dir| disk_kib(dir)).sum(),
            records_kib: records.map(|file| disk_kib(&file)).sum(),
            crossed_kib: soak.crossed_bytes / 1024,
        }
    }
}

impl Display for Used {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "agents {} KiB, {} volume servers {} KiB of memory; {} copies {} KiB, records {} KiB of disk; {} KiB crossed in \
             moves that were waited for",
            self.agents_kib,
            self.servers,
            self.servers_kib,
            self.copies,
            self.volumes_kib,
            self.records_kib,
            self.crossed_kib
        )
    }
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn disk_kib(path: &Path) -> u64 {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return 0 };
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    metadata.blocks() / 2 + entries.map(|entry| disk_kib(&entry.path())).sum::<u64>()
}

/// How fast something grows over the second half of `all`, in KiB in a thousand moves: the slope of the line that fits
/// best. None of too few.
pub fn growth_kib(all: &[Used], of: impl Fn(&Used) -> u64) -> Option<i64> {
    let late = &all[all.len() / 2..];
    let points = || late.iter().map(|used| (used.moves as f64, of(used) as f64));
    let count = late.len() as f64;
    let (sum_x, sum_y) = points().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    let (mean_x, mean_y) = (sum_x / count, sum_y / count);
    let spread: f64 = points().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let along: f64 = points().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    (late.len() >= FIT_MIN).then(|| (1000.0 * along / spread).round() as i64)
}
