//! Agents that die, and people who cancel, while a hook of the machine runs: the move goes on or unwinds, and a hook that was cut off
//! is run again.

use crate::support::cluster::{Cluster, Worker};
use crate::support::peers::path_text;
use crate::support::until;
use ferry_api::{HookName, Job, JobId, JobState, Machine, MachineState};
use std::fmt::Write;
use std::path::PathBuf;

/// Two workers, and on the first one a machine whose hooks write down that they were begun. One of them then waits to be let go.
struct Held {
    cluster: Cluster,
    made: Machine,
}

impl Held {
    /// `held` waits; `failing` ends at once and asks to give up the move.
    fn by(held: HookName, failing: Option<HookName>) -> Self {
        let cluster = Cluster::two();
        let (told, go) = (cluster.dir().join("told"), cluster.dir().join("go"));
        let mut spec = format!(
            "name = \"web\"\ncommand = [\"sleep\", \"1000\"]\n[env]\nTOLD = {told:?}\nGO = {go:?}\n[volumes.data]\nsize = \"8MiB\"\n"
        );
        for hook in HookName::ALL {
            let then = match (hook == held, Some(hook) == failing) {
                (true, _) => "while [ ! -e $GO ]; do sleep 0.02; done",
                (_, true) => "exit 3",
                (false, false) => "exit 0",
            };
            let script = format!("echo $FERRY_HOOK >> $TOLD; {then}");
            let policy = if Some(hook) == failing { "abort" } else { "go-on" };
            let _ = write!(
                spec,
                "[hooks.{hook}]\ncommand = [\"sh\", \"-c\", {script:?}]\ntimeout = \"10m\"\non_failure = \"{policy}\"\n"
            );
        }
        let file = cluster.dir().join("web.toml");
        std::fs::write(&file, spec).unwrap();
        let made = cluster.workers[0].ask(&["machine", "create", "--file", path_text(&file)]);
        Self { cluster, made }
    }

    fn source(&self) -> &Worker {
        self.cluster.pair().0
    }

    fn target(&self) -> &Worker {
        self.cluster.pair().1
    }

    fn told_path(&self) -> PathBuf {
        self.cluster.dir().join("told")
    }

    /// The hooks that were begun so far, in their order.
    fn told(&self) -> Vec<String> {
        let told = std::fs::read_to_string(self.told_path()).unwrap_or_default();
        told.lines().map(str::to_owned).collect()
    }

    fn begin(&self) -> JobId {
        let job: Job = self.source().ask(&["move", "web", "--to", "w2", "--detach"]);
        job.id
    }

    /// Waits until a hook was begun so often.
    fn wait_until_begun(&self, hook: HookName, times: usize) {
        until(&format!("{hook} was begun {times} times"), || {
            (self.told().iter().filter(|told| **told == hook.as_str()).count() == times).then_some(())
        });
    }

    /// Lets go what waits, and follows the job to its end.
    fn let_go(&self, job: JobId) -> Job {
        std::fs::write(self.cluster.dir().join("go"), "").unwrap();
        self.follow(job)
    }

    fn follow(&self, job: JobId) -> Job {
        until("the move ends", || {
            let job: Job = self.source().ask(&["job", "show", &job.to_string()]);
            matches!(job.state, JobState::Succeeded | JobState::Failed | JobState::Cancelled).then_some(job)
        })
    }

    /// The machine runs on the target and nowhere else.
    fn assert_moved(&self, job: &Job) {
        assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
        let there = self.target().machine("web");
        assert!(matches!(there.state, MachineState::Running { .. }), "{there:?}");
        let before = pid(&self.made);
        assert!(!self.source().processes().contains(&before), "it still runs on the source");
    }

    /// The machine was never stopped, and was told in the end that it stays.
    fn assert_stayed(&self, job: &Job, ended: JobState) {
        assert_eq!(job.state, ended, "{job:#?}");
        assert_eq!(pid(&self.source().machine("web")), pid(&self.made), "it was stopped for nothing");
        assert_eq!(self.told().last().map(String::as_str), Some("resume"));
        let there: Vec<Machine> = self.target().ask(&["machine", "list"]);
        assert_eq!(there, []);
    }
}

fn pid(machine: &Machine) -> u32 {
    let MachineState::Running { pid, .. } = machine.state else { panic!("{machine:?}") };
    pid
}

fn the_source_dies_while_it_runs(hook: HookName) {
    let held = Held::by(hook, None);
    let job = held.begin();
    held.wait_until_begun(hook, 1);
    held.source().restart();
    held.wait_until_begun(hook, 2);
    held.assert_moved(&held.let_go(job));
    let told = held.told();
    assert_eq!(told.last().map(String::as_str), Some("after_move"), "{told:?}");
    assert!(!told.contains(&"resume".to_owned()), "{told:?}");
}

#[test]
fn a_move_goes_on_and_its_notice_is_given_again_after_the_source_died_while_that_was_given() {
    the_source_dies_while_it_runs(HookName::BeforeMove);
}

#[test]
fn a_move_goes_on_and_its_machine_is_quiesced_again_after_the_source_died_while_it_was_quiesced() {
    the_source_dies_while_it_runs(HookName::Quiesce);
}

#[test]
fn a_move_goes_on_after_the_target_died_while_the_machine_was_quiesced_on_the_source() {
    let held = Held::by(HookName::Quiesce, None);
    let job = held.begin();
    held.wait_until_begun(HookName::Quiesce, 1);
    held.target().restart();
    held.assert_moved(&held.let_go(job));
    assert_eq!(held.told(), ["before_move", "quiesce", "after_move"]);
}

#[test]
fn a_machine_is_told_again_that_it_has_arrived_after_the_target_died_while_it_was_told() {
    let held = Held::by(HookName::AfterMove, None);
    let job = held.begin();
    held.wait_until_begun(HookName::AfterMove, 1);
    held.target().restart();
    held.wait_until_begun(HookName::AfterMove, 2);
    held.assert_moved(&held.let_go(job));
    assert_eq!(held.told(), ["before_move", "quiesce", "after_move", "after_move"]);
}

#[test]
fn a_machine_is_told_once_that_it_has_arrived_though_the_source_died_meanwhile() {
    let held = Held::by(HookName::AfterMove, None);
    let job = held.begin();
    held.wait_until_begun(HookName::AfterMove, 1);
    held.source().restart();
    held.assert_moved(&held.let_go(job));
    assert_eq!(held.told(), ["before_move", "quiesce", "after_move"]);
}

#[test]
fn a_machine_that_cannot_be_quiesced_goes_on_at_home_though_the_source_died_while_it_was_told_so() {
    let held = Held::by(HookName::Resume, Some(HookName::Quiesce));
    let job = held.begin();
    held.wait_until_begun(HookName::Resume, 1);
    held.source().restart();
    held.wait_until_begun(HookName::Resume, 2);
    held.assert_stayed(&held.let_go(job), JobState::Failed);
    assert_eq!(held.told(), ["before_move", "quiesce", "resume", "resume"]);
}

fn it_is_cancelled_while_it_runs(hook: HookName) {
    let held = Held::by(hook, None);
    let job = held.begin();
    held.wait_until_begun(hook, 1);
    let cancelled = held.source().ferry(&["job", "cancel", &job.to_string()]);
    assert_eq!(cancelled.code, Some(0), "{cancelled:?}");
    // Nobody lets it go.
    held.assert_stayed(&held.follow(job), JobState::Cancelled);
    let waits = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("while [ ! -e $GO ]")
    };
    until("nothing of the hook is left", || (!held.source().processes().iter().any(waits)).then_some(()));
}

#[test]
fn a_cancelled_move_does_not_wait_for_the_notice_and_leaves_the_machine_running_at_home() {
    it_is_cancelled_while_it_runs(HookName::BeforeMove);
}

#[test]
fn a_cancelled_move_does_not_wait_until_the_machine_is_quiesced_and_leaves_it_running_at_home() {
    it_is_cancelled_while_it_runs(HookName::Quiesce);
}
