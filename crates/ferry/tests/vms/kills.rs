//! A VM that moves live, warm and cold by turns while an agent is killed at some moment of each move: whatever comes of one, the VM
//! runs once, with every record that it acknowledged, and with its memory where that was not lost.
//!
//! As a test it is two moves; `cargo xtask soak --what vm-kills` is the same for as many as somebody wants.

use super::dice::Dice;
use super::live::{boot_id, follow, memo, said};
use super::support::cluster::Worker;
use super::support::moments::{Die, Wish};
use super::support::{DEBUGFS, E2FSCK, MKE2FS, QEMU, needs, skip, test_name, until};
use super::{guest, kept, pid, records, wait_for_more};
use ferry_api::{Arrival, Job, JobState, Machine, MachineState};
use std::collections::BTreeSet;

/// How many moves are enough for a test.
const MOVES: usize = 2;
const MODES: [&str; 3] = ["live", "warm", "cold"];
/// What the agent of the source writes, and that of the target answers, in a move; not all of it in each mode.
const STEPS: [&str; 10] =
    ["Plan", "Reserve", "Prepare", "Stop", "Seal", "Activate", "Boot", "Hydrate", "Verify", "Retire"];
const CALLS: [&str; 8] =
    ["reserve", "prepare", "precopy", "expect", "activate", "boot", "crossing", "settle"];

/// Which agent dies, and when.
struct Death {
    at_source: bool,
    moment: String,
}

impl Death {
    fn of(dice: &mut Dice) -> Self {
        let at_source = dice.once_in(2);
        let one_of = |dice: &mut Dice, words: &[&str]| words[dice.below(words.len())].to_owned();
        let moment = match at_source {
            true => {
                let entry = one_of(dice, &["after begun", "before done", "after done"]);
                format!("{entry}:{}", one_of(dice, &STEPS))
            }
            false => format!("{} call {}", one_of(dice, &["before", "after"]), one_of(dice, &CALLS)),
        };
        Self { at_source, moment }
    }
}

/// Starts the agents of both anew, one of which dies at its moment.
fn armed(death: &Death, source: &Worker, target: &Worker) {
    let wishes = [Die(&death.moment)];
    for (worker, dies) in [(source, death.at_source), (target, !death.at_source)] {
        worker.kill();
        worker.start_wishing(if dies { &wishes[..] } else { &[] as &[Wish<'_>] });
    }
}

/// Moves the VM, and has agents that die meanwhile come back, to the end of that.
fn moves(source: &Worker, target: &Worker, mode: &str) -> Job {
    let before: Vec<Job> = source.ask(&["job", "list"]);
    let is_known = |job: &Job| before.iter().any(|known| known.id == job.id);
    // An agent that dies over it may leave that without an answer.
    let asked = source.ferry(&["move", "vm", "--to", &target.name, "--mode", mode, "--detach"]);
    until("the move has ended", || {
        for worker in [source, target] {
            if worker.has_ended() {
                worker.start();
            }
        }
        let told = source.ferry(&["job", "list", "--json"]);
        // It may have died just now.
        let jobs: Vec<Job> = serde_json::from_str(&told.stdout).ok()?;
        let job = jobs.into_iter().find(|job| !is_known(job));
        assert!(job.is_some() || asked.code != Some(0), "a move was taken on and is not known: {asked:?}");
        job.filter(|job| job.state.is_final())
    })
}

#[test]
fn a_vm_that_moves_while_agents_are_killed_runs_once_and_keeps_every_record_it_acknowledged() {
    needs!(QEMU, MKE2FS, E2FSCK, DEBUGFS);
    super::support::devices::needs_loop_devices!();
    if guest().is_none() {
        return skip(test_name!(), "target/lab/vm (cargo xtask lab vm)");
    }
    let told = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let mut dice = Dice::new(told("FERRY_SOAK_SEED").unwrap_or(5));
    let (cluster, _) = super::live::lab().expect("the guest is there");
    let (mut here, mut there) = cluster.pair();
    let mut acknowledged = BTreeSet::new();
    let mut boot = boot_id(here, said(here).len());
    for turn in 0..told(super::MOVES_VARIABLE).map_or(MOVES, |typed| typed as usize) {
        let (mode, death) = (MODES[turn % MODES.len()], Death::of(&mut dice));
        let whom = if death.at_source { "source" } else { "target" };
        let what = format!("move {turn}, {mode}, the agent of the {whom} dies {}", death.moment);
        armed(&death, here, there);
        let job = moves(here, there, mode);
        assert_eq!(follow(here, &job).state, job.state);
        acknowledged.extend(kept(here));
        let arrival = match job.state {
            JobState::Succeeded => {
                std::mem::swap(&mut here, &mut there);
                memo(&job, "Boot")["arrival"].clone()
            }
            JobState::Failed => serde_json::Value::Null,
            JobState::Waiting
            | JobState::Running
            | JobState::Unwinding
            | JobState::Parked
            | JobState::Cancelled => {
                panic!("{what}: {job:#?}")
            }
        };
        wait_for_more(here);
        let now = boot_id(here, said(here).len());
        let keeps = mode == "live" && arrival != serde_json::to_value(Arrival::Rebooted).unwrap();
        assert!(!keeps || now == boot, "{what}: it lost its memory: {job:#?}");
        boot = now;
        // Once: nothing of it is left where it was.
        let machine: Machine = here.machine("vm");
        let MachineState::Running { .. } = machine.state else { panic!("{what}: {machine:?}") };
        until("nothing of it runs elsewhere", || {
            (!there.processes().iter().any(|pid| super::live::is_qemu(*pid))).then_some(())
        });
        assert!(here.processes().contains(&pid(&machine)), "{what}");
    }
    let stopped: Machine = here.ask(&["machine", "stop", "vm"]);
    assert_eq!(stopped.last_exit.map(|exit| exit.code), Some(Some(0)), "it was not shut down: {stopped:?}");
    acknowledged.extend(kept(here));
    let found = records(here);
    assert_eq!(acknowledged.difference(&found).collect::<Vec<_>>(), Vec::<&u64>::new());
    assert_eq!(found.len() as u64, *found.last().unwrap(), "a record is missing in between");
}
