//! A worker is emptied by the command line: planned, carried out as planned or not at all, and safe to stop in the end.
#![allow(clippy::unwrap_used, reason = "a test ends at whatever it did not expect")]

mod support;

use ferry_api::{DrainPlan, DrainStarted, Job, JobState, Machine, PlacementExplained, WorkerInfo};
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
