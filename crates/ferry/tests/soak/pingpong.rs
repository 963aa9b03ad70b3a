//! There and back, again and again: nothing is lost, nothing is left behind, nothing grows. Some moves begin while the
//! disk of the last one still follows.
//!
//! As a test it is ten moves; `cargo xtask soak --what pingpong --moves 1000` is as many as somebody wants.

use super::{Soak, has_booted, told};
use crate::support::until;
use ferry_api::{Job, JobState, Ownership, Volume, WorkerInfo};
use std::fmt::{self, Display, Formatter};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

const MOVES: u64 = 10;
/// All data and every record is checked after so many moves, and at the end.
const CHECK_EVERY: u64 = 10;
/// The next move begins while the disk still follows, once in so many.
const HURRIES_ONCE_IN: usize = 4;
/// What the memory of an agent may differ by from one moment to another, whatever is done.
const MEMORY_SLACK_KIB: u64 = 48 * 1024;

#[test]
fn a_machine_that_moves_there_and_back_loses_nothing_and_leaves_nothing_behind() {
    let seed = told("FERRY_SOAK_SEED").unwrap_or(1);
    let moves = told("FERRY_SOAK_MOVES").unwrap_or(MOVES);
    let begun = Instant::now();
    // What a move leaves is kept for the way back.
    let mut soak = Soak::start(seed, "");
    let mut early = None;
    for done in 1..=moves {
        soak.hop(done);
        if done % CHECK_EVERY == 0 || done == moves {
            soak.all_jobs_end();
            soak.check();
            let used = Used::of(&soak);
            println!("pingpong: {done} moves, {} s: {used}", begun.elapsed().as_secs());
            early.get_or_insert(used);
        }
    }
    let (early, late) = (early.unwrap(), Used::of(&soak));
    soak.assert_one_copy_and_one_kept();
    assert!(late.agents_kib <= early.agents_kib + MEMORY_SLACK_KIB, "{early}, later {late}");
    assert!(late.servers_kib <= early.servers_kib + MEMORY_SLACK_KIB, "{early}, later {late}");
}

/// What all workers take.
struct Used {
    agents_kib: u64,
    servers_kib: u64,
    servers: usize,
    copies: usize,
    volumes_kib: u64,
    records_kib: u64,
    crossed_kib: u64,
}

impl Used {
    fn of(soak: &Soak) -> Self {
        let workers = &soak.cluster.workers;
        let info = |worker: &super::Worker| worker.ask::<WorkerInfo>(&["worker", "show"]).pid;
        let servers = soak.processes("volume-server");
        let records = ["records.db", "records.db-wal"];
        let records = workers.iter().flat_map(|worker| records.map(|file| worker.dir.join(file)));
        Self {
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

impl Soak {
    /// One move, by turns as the way back and as any other.
    fn hop(&mut self, number: u64) {
        let to = self.cluster.workers[1 - self.here].name.clone();
        let words: &[&str] = match number % 2 {
            0 => &["move", "--undo", "writer", "--detach"],
            _ => &["move", "writer", "--to", &to, "--detach"],
        };
        let job: Job = self.here().ask(words);
        let hurries = self.dice.once_in(HURRIES_ONCE_IN);
        let ended = until("the move gets on", || {
            let job: Job = self.here().ask(&["job", "show", &job.id.to_string()]);
            let goes_on = matches!(job.state, JobState::Waiting | JobState::Running | JobState::Succeeded);
            assert!(goes_on, "{job:#?}");
            (job.state == JobState::Succeeded || (hurries && has_booted(&job))).then_some(job)
        });
        self.crossed_bytes += crossed_bytes(&ended);
        self.tally.moved += 1;
        self.here = 1 - self.here;
        self.wait_for_records();
    }

    fn all_jobs_end(&self) {
        for worker in &self.cluster.workers {
            until("all jobs end", || {
                let jobs: Vec<Job> = worker.ask(&["job", "list"]);
                jobs.iter().all(|job| job.state == JobState::Succeeded).then_some(())
            });
        }
    }

    /// The machine's own copy, and what it left where it came from.
    fn assert_one_copy_and_one_kept(&self) {
        let here: Vec<Volume> = self.here().ask(&["volume", "list"]);
        let there: Vec<Volume> = self.cluster.workers[1 - self.here].ask(&["volume", "list"]);
        assert!(matches!(&here[..], [one] if one.ownership == Ownership::Ours), "{here:#?}");
        assert!(
            matches!(&there[..], [one] if matches!(one.ownership, Ownership::Retired { .. })),
            "{there:#?}"
        );
        assert_eq!((self.volume_dirs().len(), self.processes("volume-server").len()), (2, 1));
    }
}

fn crossed_bytes(job: &Job) -> u64 {
    let verified = job.steps.iter().find(|step| step.step == "Verify").and_then(|step| step.memo.as_ref());
    let fetched = verified.and_then(|memo| memo["volumes"][0]["counted"]["bytes_fetched"].as_u64());
    fetched.unwrap_or(0)
}
