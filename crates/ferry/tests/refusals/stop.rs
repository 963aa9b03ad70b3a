//! `ferry worker safe-to-stop` as a person and a script meet it: an exit code, a table, one sentence.

use super::create;
use super::support::cluster::{Cluster, Worker};
use ferry_api::{SafeToStop, StopReason, Volume, WorkerInfo};
use ferry_volume::client::BlockClient;

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

    let disk = w1.volume("data");
    let mut guest = BlockClient::connect_text(&disk.guest_uri).unwrap();
    for mib in 0..48 {
        guest.write_at(mib << 20, &[7; 1 << 20]).unwrap();
    }
    let _: WorkerInfo = w2.ask(&["worker", "pace", "--max", "64KiB"]);
    let _: Volume = w1.ask(&["volume", "fork", "data", "copy", "--to", "w2"]);
    let (table, told) = not_safe(w1, &["--machines-may-stop"], one);
    let who = format!("volume data ({}@1)   its fork copy on w2 still copies ", disk.id);
    assert!(table.starts_with("WHAT") && table.contains(&who), "{table}");
    assert!(matches!(told.reasons[..], [StopReason::Fork { .. }]), "{told:?}");
    let two = "worker w1 is not safe to stop: 2 things keep it; try again when they are done";
    assert_eq!(not_safe(w1, &[], two).1.reasons.len(), 2);

    // A worker that cannot be asked never makes another one safe to stop.
    w2.kill();
    let (table, _) = not_safe(w1, &["--machines-may-stop"], one);
    assert!(
        table.contains("its fork copy on w2 may still copy from here: ") && table.contains("unknown"),
        "{table}"
    );
    w2.start();
    let _: WorkerInfo = w2.ask(&["worker", "pace", "--max", "none"]);
    w1.wait_for_volume("data", "is read by nobody", |volume| {
        volume.forks.is_empty() && volume.readers == Some(0)
    });
    safe(w1, &["--machines-may-stop"]);
}
