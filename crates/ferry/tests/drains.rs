//! Workers are emptied and made alike by the command line: planned, and carried out as planned or not at all.
#![allow(clippy::unwrap_used, reason = "a test ends at whatever it did not expect")]

mod support;

use ferry_api::{
    DrainPlan, DrainStarted, Job, JobState, Machine, PlacementExplained, RebalancePlan, Volume, WorkerInfo,
};
use support::cluster::{Cluster, Worker};

fn create(worker: &Worker, name: &str) {
    let words = ["machine", "create", name, "--volume", "data=64MiB", "--", "sleep", "1000000"];
    let _: Machine = worker.ask(&words);
}

#[test]
fn a_worker_is_emptied_by_its_plan_from_any_other_and_may_be_stopped_then() {
    let cluster = Cluster::of(&[("w1", ""), ("w2", ""), ("w3", "")]);
    let (w1, w2) = cluster.pair();
    create(w1, "db");
    create(w1, "web");
    let explained: PlacementExplained = w1.ask(&["placement", "explain", "db"]);
    assert_eq!(explained.workers.len(), 3);
    // Asked of another worker, the agent of the one that is meant is found.
    let plan: DrainPlan = w2.ask(&["drain", "w1", "--plan"]);
    assert_eq!((plan.from.as_str(), plan.moves().count()), ("w1", 2));
    let file = cluster.dir().join("plan.json");
    std::fs::write(&file, serde_json::to_string(&plan).unwrap()).unwrap();
    let apply = ["drain", "w1", "--apply", file.to_str().unwrap()];
    create(w1, "new");
    let said = w2.ferry(&[&apply[..], &["--json"]].concat());
    assert_eq!(said.code, Some(8), "{said:?}");
    let started: DrainStarted = serde_json::from_str(&said.stdout).unwrap();
    assert!(started.deviations[0].what.contains("machine new came"), "{started:?}");
    assert_eq!(w1.ferry(&["machine", "destroy", "new", "--stop"]).code, Some(0));
    let job: Job = w2.ask(&apply);
    assert_eq!((job.state, job.children.len()), (JobState::Succeeded, 2));
    assert_eq!(w1.ferry(&["worker", "safe-to-stop"]).code, Some(0));
    let info: WorkerInfo = w2.ask(&["worker", "uncordon", "w1"]);
    assert!(info.name.as_str() == "w1" && info.cordon.is_none());
    assert!(w1.refusal(&["drain", "w9", "--plan"], 1).contains("knows no worker w9"));
}

/// Enough that a worker with [`ROOM`] is an eighth fuller with it.
const USED: usize = 16 << 20;
const ROOM: &str = "room_bytes = 134217728";

fn create_filled<const N: usize>(cluster: &Cluster, worker: &Worker, names: [&str; N]) {
    let image = cluster.dir().join("image");
    std::fs::write(&image, vec![7; USED]).unwrap();
    for name in names {
        let _: Volume = worker.ask(&["volume", "import", name, "--from", image.to_str().unwrap()]);
        let disk = format!("data={name}");
        let _: Machine =
            worker.ask(&["machine", "create", name, "--volume", &disk, "--", "sleep", "1000000"]);
    }
}

/// The jobs of a plan that fits the world.
fn applied(worker: &Worker, apply: &[&str]) -> Vec<Job> {
    let told: serde_json::Value = worker.ask(apply);
    assert_eq!(told["deviations"].as_array().map(Vec::len), Some(0), "{told:#}");
    serde_json::from_value(told["jobs"].clone()).unwrap()
}

#[test]
fn a_plan_with_two_givers_is_begun_by_both_or_by_neither() {
    let cluster = Cluster::of(&[("w1", ROOM), ("w2", ROOM), ("w3", ROOM)]);
    let (w1, w2) = cluster.pair();
    create_filled(&cluster, w1, ["a", "b", "c"]);
    create_filled(&cluster, w2, ["d", "e", "f"]);
    let plan: RebalancePlan = w1.ask(&["rebalance", "--plan"]);
    let from: Vec<&str> = plan.parts.iter().map(|part| part.from.as_str()).collect();
    assert_eq!(from, ["w1", "w2"], "{plan:#?}");
    let file = cluster.dir().join("plan.json");
    let apply = ["rebalance", "--apply", file.to_str().unwrap()];
    let mut other = plan.clone();
    other.parts[1].moves[0].generation = ferry_api::Generation(9);
    std::fs::write(&file, serde_json::to_string(&other).unwrap()).unwrap();
    let said = w1.ferry(&apply);
    assert_eq!((said.code, said.stdout.contains("and was at 9")), (Some(8), true), "{said:?}");
    let said = w1.ferry(&[&apply[..], &["--json"]].concat());
    let told: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(
        (told["jobs"].clone(), told["deviations"].as_array().unwrap().len()),
        (serde_json::json!([]), 1)
    );
    let first = plan.parts[0].job.to_string();
    assert!(w1.refusal(&["job", "show", &first], 1).contains("no job"), "neither has begun");
    std::fs::write(&file, serde_json::to_string(&plan).unwrap()).unwrap();
    let jobs = applied(w1, &apply);
    let ended: Vec<_> = jobs.iter().map(|job| (job.id, job.state)).collect();
    assert_eq!(ended, plan.parts.iter().map(|part| (part.job, JobState::Succeeded)).collect::<Vec<_>>());
    let there: Vec<Machine> = cluster.workers[2].ask(&["machine", "list"]);
    assert_eq!(there.len(), 2);
    let second: RebalancePlan = w1.ask(&["rebalance", "--plan"]);
    assert_eq!(second.moves().count(), 0, "{second:#?}");
}

#[test]
fn workers_become_alike_by_a_plan_that_is_done_once_or_not_at_all() {
    let cluster = Cluster::of(&[("w1", ROOM), ("w2", ROOM), ("w3", ROOM)]);
    let (w1, w2) = cluster.pair();
    create_filled(&cluster, w1, ["a", "b", "c"]);
    let plan: RebalancePlan = w2.ask(&["rebalance", "--plan", "--tolerance", "5"]);
    assert_eq!(plan.moves().count(), 2, "{plan:#?}");
    let file = cluster.dir().join("plan.json");
    std::fs::write(&file, serde_json::to_string(&plan).unwrap()).unwrap();
    let apply = ["rebalance", "--apply", file.to_str().unwrap()];
    // One that no longer fits is not begun, and each difference is a line.
    let gone = plan.moves().next().unwrap().1.machine_name.to_string();
    let elsewhere = w1.moves(&gone, w2);
    assert_eq!(elsewhere.state, JobState::Succeeded);
    let said = w2.ferry(&apply);
    assert_eq!((said.code, said.stdout.contains("not on worker w1 any more")), (Some(8), true), "{said:?}");
    let plan: RebalancePlan = w2.ask(&["rebalance", "--plan", "--tolerance", "5"]);
    std::fs::write(&file, serde_json::to_string(&plan).unwrap()).unwrap();
    let jobs = applied(w2, &apply);
    assert_eq!((jobs.len(), jobs[0].state, jobs[0].children.len()), (1, JobState::Succeeded, 1));
    let again = applied(w2, &apply);
    assert_eq!(again[0].id, jobs[0].id, "what is done is not done again");
    let said = w1.ferry(&["rebalance", "--plan", "--tolerance", "5"]);
    assert_eq!(
        (said.code, said.stdout.starts_with("nothing is to be done by room")),
        (Some(0), true),
        "{said:?}"
    );
    assert!(w1.refusal(&["rebalance"], 2).contains("--plan"));
    // What is no terminal is not redrawn.
    let said = w1.ferry(&["top"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    for worker in ["w1", "w2", "w3"] {
        assert!(said.stdout.lines().any(|line| line.starts_with(worker)), "{said:?}");
    }
    cluster.workers[2].kill();
    let seen: serde_json::Value = w1.ask(&["top"]);
    assert_eq!(seen["workers"].as_array().unwrap().len(), 3);
    let sick = seen["workers"][2]["sick"][0].as_str().unwrap();
    assert!(sick.contains("worker w3 does not answer"), "{sick}");
    assert!(w2.refusal(&["drain", "w1", "--watch"], 1).contains("worker w1 is not being drained"));
}
