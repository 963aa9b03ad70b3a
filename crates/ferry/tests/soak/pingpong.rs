//! There and back, again and again: nothing is lost, nothing is left behind, nothing grows. Some moves begin while the
//! disk of the last one still follows. The machine writes records straight to its volume, or is a database on a
//! filesystem.
//!
//! As tests it is ten moves each; `cargo xtask soak --what pingpong --moves 1000` and `--what database` is as many as
//! somebody wants.

use super::used::{Used, growth_kib};
use super::{Soak, guest, has_booted, told};
use crate::support::devices::{loop_devices_below, mounts_below, needs_loop_devices};
use crate::support::{E2FSCK, MKE2FS, UNSHARE, needs, succeed, until};
use ferry_api::{AttachedFrontend, Job, JobState, Machine, Ownership, Volume};
use std::time::Instant;

const MOVES: u64 = 10;
/// Everything is checked and measured after so many moves, and at the end.
const CHECK_EVERY: u64 = 10;
/// The next move begins while the disk still follows, once in so many.
const HURRIES_ONCE_IN: usize = 4;
/// What the memory of an agent may differ by from one moment to another, whatever is done.
const MEMORY_SLACK_KIB: u64 = 48 * 1024;

#[test]
fn a_machine_that_moves_there_and_back_loses_nothing_and_leaves_nothing_behind() {
    // What a move leaves is kept for the way back.
    let mut soak = Soak::start(told("FERRY_SOAK_SEED").unwrap_or(1), "");
    soak.ping_pong(Soak::check);
    soak.assert_one_copy_and_one_kept();
}

#[test]
fn a_database_that_moves_there_and_back_keeps_every_commit_it_acknowledged() {
    needs!(UNSHARE, MKE2FS, E2FSCK);
    needs_loop_devices!();
    // Of the jobs as many are remembered as a fit over some hundreds of moves should not see.
    let mut soak = Soak::empty(told("FERRY_SOAK_SEED").unwrap_or(1), "jobs_kept = 100");
    soak.create_database();
    // It looks for every commit itself, each time it starts.
    soak.ping_pong(|_| {});
    let diary = std::fs::read_to_string(soak.diary()).unwrap();
    let last = |word| diary.lines().rev().find_map(|line| line.strip_prefix(word)).unwrap_or("0");
    println!(
        "database: {} moves, {} commits acknowledged, all of them found by {} starts, 0 lost",
        soak.tally.moved,
        last("ack "),
        diary.lines().filter(|line| line.starts_with("found ")).count()
    );
    let _: Machine = soak.here().ask(&["machine", "stop", "writer"]);
    let device = soak.here().ask::<AttachedFrontend>(&["volume", "attach", "data"]).address.unwrap();
    succeed("e2fsck", &["-fn", device.to_str().unwrap()]);
    assert_eq!(soak.here().ferry(&["volume", "detach", "data"]).code, Some(0));
    soak.assert_one_copy_and_one_kept();
    let dir = soak.cluster.dir();
    assert_eq!((loop_devices_below(dir), mounts_below(dir)), (vec![], 0));
    let processes: usize = soak.cluster.workers.iter().map(|worker| worker.processes().len()).sum();
    assert_eq!(processes, 1, "the volume's server is all that runs");
}

impl Soak {
    /// A machine on the first worker that is a database on a filesystem on its volume.
    fn create_database(&self) {
        let create =
            ["machine", "create", "writer", "--volume", "data=128MiB", "--restart", "never", "--stopped"];
        let diary = self.diary();
        let test = std::env::current_exe().unwrap();
        let [diary, test] = [&diary, &test].map(|path| path.to_str().expect("paths here are plain"));
        let command = ["--", "/bin/sh", "-c", guest::MACHINE, diary, env!("CARGO_BIN_EXE_ferry"), test];
        let _: Machine = self.here().ask(&[&create[..], &command].concat());
        let device = self.here().ask::<AttachedFrontend>(&["volume", "attach", "data"]).address.unwrap();
        succeed("mke2fs", &["-q", "-t", "ext4", device.to_str().unwrap()]);
        let _: Machine = self.here().ask(&["machine", "start", "writer"]);
        self.wait_for_records();
    }

    /// As many moves as somebody wants, looked at now and then; nothing may grow.
    fn ping_pong(&mut self, check: impl Fn(&mut Self)) {
        let moves = told("FERRY_SOAK_MOVES").unwrap_or(MOVES);
        let begun = Instant::now();
        let mut all = Vec::new();
        for done in 1..=moves {
            self.hop(done);
            if done % CHECK_EVERY == 0 || done == moves {
                self.all_jobs_end();
                check(self);
                let used = Used::of(self);
                println!("pingpong: {done} moves, {} s: {used}", begun.elapsed().as_secs());
                all.push(used);
            }
        }
        type Figure = fn(&Used) -> u64;
        let kinds: [(&str, Figure); 4] = [
            ("agents' memory", |used| used.agents_kib),
            ("volume servers' memory", |used| used.servers_kib),
            ("copies on disk", |used| used.volumes_kib),
            ("records on disk", |used| used.records_kib),
        ];
        for (what, of) in kinds {
            if let Some(kib) = growth_kib(&all, of) {
                println!("pingpong: {what}: {kib:+} KiB in 1000 moves, fitted over the second half");
            }
        }
        let (early, late) = (&all[0], &all[all.len() - 1]);
        assert!(late.agents_kib <= early.agents_kib + MEMORY_SLACK_KIB, "{early}, later {late}");
        assert!(late.servers_kib <= early.servers_kib + MEMORY_SLACK_KIB, "{early}, later {late}");
    }

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
