//! `ferry worker safe-to-stop` and `ferry worker shutdown` as a person and a script meet it: an exit code, a table, one sentence.

use super::create;
use super::support::cluster::{Cluster, Worker};
use super::support::until;
use ferry_api::{Job, MachineState, SafeToStop, StopReason, Volume, WorkerShutDown};
use ferry_volume::client::BlockClient;
use std::collections::BTreeSet;

/// Asks in both ways; it must not be safe. Answers the table and what a script reads.
fn not_safe(worker: &Worker, words: &[&str], sentence: &str) -> (String, SafeToStop) {
    let plain = worker.ferry(&[&["worker", "safe-to-stop"], words].concat());
    let json = worker.ferry(&[&["worker", "safe-to-stop", "--json"], words].concat());
    for said in [&plain, &json] {
        assert_eq!((said.code, said.sentence().as_str()), (Some(6), sentence), "{said:?}");
    }
    (plain.stdout, serde_json::from_str(&json.stdout).unwrap())
}

fn safe(worker: &Worker, words: &[&str]) {
    let said = worker.ferry(&[&["worker", "safe-to-stop"], words].concat());
    let sentence = format!("worker {} is safe to stop\n", worker.name);
    assert_eq!((said.code, said.stdout.as_str(), said.stderr.as_str()), (Some(0), sentence.as_str(), ""));
    let told: SafeToStop = worker.ask(&[&["worker", "safe-to-stop"], words].concat());
    assert_eq!(told.reasons, []);
}

#[test]
fn a_worker_that_others_need_is_not_safe_to_stop_and_says_who_and_for_how_long() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    safe(w1, &[]);
    create(w1, "web", &["data=64MiB"]);
    let one = "worker w1 is not safe to stop: one thing keeps it; try again when that is done";
    let (table, told) = not_safe(w1, &[], one);
    assert!(table.contains("machine web   it runs here, or is to; move it away or stop it   -"), "{table}");
    assert!(matches!(&told.reasons[..], [StopReason::Machine { name, .. }] if name.as_str() == "web"));
    safe(w1, &["--machines-may-stop"]);

    let (disk, job) = web_moves_slowly(w1);
    let two = "worker w1 is not safe to stop: 2 things keep it; try again when they are done";
    let (table, _) = not_safe(w1, &[], two);
    let lines: Vec<&str> = table.lines().collect();
    let copy = format!("volume data ({}@1)   w2 still copies ", disk.id);
    assert!(lines[0].starts_with("WHAT") && lines[0].ends_with("ETA"), "{table}");
    assert!(lines[1].starts_with(&copy) && lines[1].contains("MiB from here"), "{table}");
    assert!(
        lines[2].starts_with(&format!("job {}", job.id))
            && lines[2].contains("it moves web to w2, at Hydrate"),
        "{table}"
    );

    // A worker that cannot be asked never makes another one safe to stop.
    w2.kill();
    let (table, _) = not_safe(w1, &["--machines-may-stop"], two);
    let copy = table.lines().nth(1).unwrap();
    assert!(copy.contains("w2 may still copy from here: ") && copy.ends_with("unknown"), "{table}");
    w2.start();
    let _: Volume = w2.ask(&["volume", "pace", "data", "--max", "none"]);
    let watched = w1.ferry(&["job", "watch", &job.id.to_string()]);
    assert_eq!(watched.code, Some(0), "{watched:?}");
    safe(w1, &[]);
}

/// Begins to move `web` to w2, with a disk that is full enough and so slow that it does not end while we look; answers when
/// w2 has begun to copy.
fn web_moves_slowly(w1: &Worker) -> (Volume, Job) {
    let disk = w1.volume("data");
    let mut guest = BlockClient::connect_text(&disk.guest_uri).unwrap();
    for mib in 0..48 {
        guest.write_at(mib << 20, &[7; 1 << 20]).unwrap();
    }
    drop(guest);
    let _: Volume = w1.ask(&["volume", "pace", "data", "--max", "64KiB"]);
    let job: Job = w1.ask(&["move", "web", "--to", "w2", "--detach"]);
    until("w2 has begun to copy", || {
        let said = w1.ferry(&["worker", "safe-to-stop", "--json"]);
        assert_eq!(said.code, Some(6), "{said:?}");
        let told: SafeToStop = serde_json::from_str(&said.stdout).unwrap();
        is_hydrating(&told.reasons).then_some(())
    });
    (disk, job)
}

/// Whether only the disk and its job are left, and it is known how much of the disk.
fn is_hydrating(reasons: &[StopReason]) -> bool {
    match reasons {
        [StopReason::Copy { left, .. }, StopReason::Job { step: Some(step), .. }] => {
            step == "Hydrate" && left.bytes.is_some_and(|bytes| bytes > 0)
        }
        _ => false,
    }
}

#[test]
fn a_worker_that_others_need_is_shut_down_by_force_only_and_its_machines_start_again_with_the_next_agent() {
    let cluster = Cluster::two();
    let (w1, _) = cluster.pair();
    create(w1, "web", &["data=64MiB"]);
    let before = w1.belongings();
    let refused = w1.ferry(&["worker", "shutdown"]);
    assert_eq!(refused.code, Some(6), "{refused:?}");
    assert_eq!(
        refused.sentence(),
        "worker w1 is not shut down: one thing keeps it; try again when that is done, or --force it at that cost"
    );
    assert!(refused.stdout.contains("WHAT --force WOULD COST"), "{refused:?}");
    assert!(refused.stdout.contains("it is down until this worker is back"), "{refused:?}");
    assert_eq!(w1.belongings(), before, "a refusal changes nothing");

    let said = w1.ferry(&["worker", "shutdown", "--machines-may-stop"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.starts_with("machine web has stopped (by signal 15)\n"), "{said:?}");
    assert!(said.stdout.contains("volume servers that have ended, with everything durable: 1\n"), "{said:?}");
    assert!(w1.wait_for_end().success(), "the agent ends well");
    assert_eq!(w1.processes(), BTreeSet::new(), "nothing of the worker runs");

    w1.start();
    until("web runs again", || matches!(w1.machine("web").state, MachineState::Running { .. }).then_some(()));
    let told: WorkerShutDown = w1.ask(&["worker", "shutdown", "--force"]);
    assert!(told.done && told.left.is_empty(), "{told:?}");
    assert!(matches!(&told.reasons[..], [StopReason::Machine { .. }]), "{told:?}");
    assert!(w1.wait_for_end().success());
    assert_eq!(w1.processes(), BTreeSet::new());
}

#[test]
fn a_move_whose_source_is_shut_down_by_force_goes_on_with_the_next_agent() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    create(w1, "web", &["data=64MiB"]);
    let (_, job) = web_moves_slowly(w1);
    let refused = w1.ferry(&["worker", "shutdown", "--machines-may-stop"]);
    assert_eq!(refused.code, Some(6), "{refused:?}");
    assert!(refused.stdout.contains("if it never is, that is lost"), "{refused:?}");
    let told: WorkerShutDown = w1.ask(&["worker", "shutdown", "--force"]);
    assert!(told.done && told.left.is_empty() && told.reasons.len() == 2, "{told:?}");
    assert!(w1.wait_for_end().success());
    assert_eq!(w1.processes(), BTreeSet::new());
    assert!(matches!(w2.machine("web").state, MachineState::Running { .. }));

    w1.start();
    let _: Volume = w2.ask(&["volume", "pace", "data", "--max", "none"]);
    let watched = w1.ferry(&["job", "watch", &job.id.to_string()]);
    assert_eq!(watched.code, Some(0), "{watched:?}");
    safe(w1, &[]);
}
