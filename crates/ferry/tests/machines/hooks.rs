//! Machines that are told of their moves, by commands of theirs that are run inside them.

use super::support::cluster::Cluster;
use super::support::devices::needs_loop_devices;
use super::support::peers::path_text;
use super::support::{MKE2FS, needs, until};
use super::{create, wait_until_said};
use ferry_api::{Job, JobState, Machine};
use serde_json::Value;
use std::fmt::Write;

/// A hook that writes down on the machine's volume where and when it was run.
const TELLS: &str = "echo $FERRY_HOOK $(id -u) $(hostname) $FERRY_MOVE_FROM to $FERRY_MOVE_TO in $FERRY_HOOK_TIMEOUT_MS >> $PLACE/told";

#[test]
fn a_machine_is_told_inside_before_it_stops_and_after_it_was_started_elsewhere() {
    needs!(MKE2FS);
    needs_loop_devices!();
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let place = cluster.dir().join("data");
    let mut more = format!("user = \"4711\"\n[env]\nPLACE = {place:?}\n");
    for hook in ["before_move", "quiesce", "after_move"] {
        let _ = write!(more, "[hooks.{hook}]\ncommand = [\"sh\", \"-c\", {TELLS:?}]\ntimeout = \"1m\"\n");
    }
    // What it hears once it is asked to stop.
    let script = "echo up; trap 'echo heard; cat $PLACE/told; exit 0' TERM; while :; do sleep 0.02; done";
    let machine = create(w1, cluster.dir(), script, &more);
    wait_until_said(&machine, "up\n");
    let job = w1.moves("web", w2);
    let said = |hook: &str| format!("{hook} 4711 web w1 to w2 in 60000\n");
    wait_until_said(&machine, &format!("heard\n{}{}", said("before_move"), said("quiesce")));
    let there = w2.machine("web");
    wait_until_said(&there, "up\n");
    let _: Machine = w2.ask(&["machine", "stop", "web"]);
    wait_until_said(&there, &said("after_move"));

    let receipt: Value = w1.ask(&["job", "receipt", &job.id.to_string()]);
    let hooks: Vec<&str> =
        receipt["hooks"].as_array().unwrap().iter().map(|run| run["hook"].as_str().unwrap()).collect();
    assert_eq!(hooks, ["before_move", "quiesce", "after_move"]);
    let told = w1.ferry(&["job", "receipt", &job.id.to_string()]).stdout;
    assert!(told.contains("quiesce in "), "{told}");
}

#[test]
fn a_hook_that_hangs_is_killed_in_its_time_and_gives_up_the_move_if_that_is_asked() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let file = cluster.dir().join("db.toml");
    let told = cluster.dir().join("told");
    let spec = format!(
        "name = \"db\"\ncommand = [\"sleep\", \"1000\"]\n[env]\nTOLD = {told:?}\n\
         [hooks.quiesce]\ncommand = [\"sleep\", \"987654\"]\ntimeout = \"100ms\"\non_failure = \"abort\"\n\
         [hooks.resume]\ncommand = [\"sh\", \"-c\", \"echo $FERRY_HOOK > $TOLD\"]\n"
    );
    std::fs::write(&file, spec).unwrap();
    let made: Machine = w1.ask(&["machine", "create", "--file", path_text(&file)]);
    let said = w1.ferry(&["move", "db", "--to", "w2"]);
    let why = "the quiesce hook of machine db did not succeed: `sleep 987654` took longer than 100 ms";
    assert!(said.code != Some(0) && said.stderr.contains(why), "{said:?}");
    let now = w1.machine("db");
    assert_eq!(super::pid(&now), super::pid(&made), "it was stopped for nothing");
    assert_eq!(
        until("it is told", || std::fs::read_to_string(&told).ok().filter(|text| !text.is_empty())),
        "resume\n"
    );
    let sleeps = |pid: &u32| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x00987654\0")
    };
    until("nothing of the hook is left", || (!w1.processes().iter().any(sleeps)).then_some(()));

    // The same that is not asked to give up: the move goes on, and says so.
    let spec =
        std::fs::read_to_string(&file).unwrap().replace("\"db\"", "\"other\"").replace("abort", "go-on");
    std::fs::write(&file, spec).unwrap();
    let _: Machine = w1.ask(&["machine", "create", "--file", path_text(&file)]);
    let job: Job = w1.moves("other", w2);
    assert_eq!(job.state, JobState::Succeeded);
    let told = w1.ferry(&["job", "receipt", &job.id.to_string()]).stdout;
    assert!(told.contains("quiesce failed after ") && told.contains("took longer than 100 ms"), "{told}");
}
