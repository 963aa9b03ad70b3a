//! Two workers whose volumes are read over TLS.

use crate::house::{ip, machine, pid, workers};
use ferry_api::{AgentApi, ForkVolume, JobState, MachineState, StartMove};
use ferry_volume::client::{self, BlockClient};
use ferry_volume::{Credentials, SourceUri};

#[path = "../../../ferry-volume/tests/support/authority.rs"]
mod authority;

fn to(name: &str, worker: &str) -> StartMove {
    StartMove::new(name.parse().unwrap(), worker.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_follows_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    authority::Authority::new().sign(dir.path(), &ip().to_string());
    let tls = format!("tls = {:?}", dir.path());
    let [w1, w2] = workers([&tls, &tls]).await;
    let made = w1.door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    let disk = &made.volumes[0];
    let key = ferry_api::VolumeKey { id: disk.volume, generation: disk.generation };
    let export = w1.door().peer_export(key, None).await.unwrap();
    assert!(export.uri.starts_with(&format!("nbds://{}:", ip())), "{}", export.uri);
    let job = w1.door().move_start(to("web", "w2")).await.unwrap();
    let job = w1.finished(job.id).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
    assert!(matches!(w2.machine("web").await.state, MachineState::Running { .. }));
    w1.end().await;
    w2.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_without_certificates_is_found_out_before_the_machine_stops() {
    let dir = tempfile::tempdir().unwrap();
    authority::Authority::new().sign(dir.path(), &ip().to_string());
    let tls = format!("tls = {:?}", dir.path());
    let [w1, w2] = workers([&tls, ""]).await;
    let made = w1.door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    let job = w1.door().move_start(to("web", "w2")).await.unwrap();
    let job = w1.finished(job.id).await;
    assert!(matches!(job.state, JobState::Failed), "{job:#?}");
    assert!(format!("{job:?}").contains("no certificates"), "{job:#?}");
    assert_eq!(pid(&w1.machine("web").await), pid(&made), "it was never stopped");
    w1.end().await;
    w2.end().await;
}

fn copy_to(worker: &str) -> ForkVolume {
    ForkVolume { name: "copy".parse().unwrap(), to: Some(worker.parse().unwrap()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_follows_over_tls_and_one_to_a_worker_without_certificates_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    authority::Authority::new().sign(dir.path(), &ip().to_string());
    let tls = format!("tls = {:?}", dir.path());
    let [w1, w2, w3] = workers([&tls, &tls, ""]).await;
    w1.door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    let data = "data".parse().unwrap();
    let mut guest = BlockClient::connect_text(&w1.volume("data").await.guest_uri).unwrap();
    guest.write_at(0, &vec![1; 4 << 20]).unwrap();
    let refusal = w1.door().volume_fork(&data, copy_to("w3")).await.unwrap_err();
    assert!(refusal.message.contains("w3") && refusal.message.contains("no certificates"), "{refusal}");
    assert!(w1.volume("data").await.forks.is_empty() && w3.door().volumes().await.unwrap().is_empty());
    let copy = w1.door().volume_fork(&data, copy_to("w2")).await.unwrap();
    let source = copy.source.expect("it is a clone of a snapshot").uri;
    assert!(source.starts_with(&format!("nbds://{}:", ip())), "{source}");
    guest.write_at(0, &vec![2; 4 << 20]).unwrap();
    let whole = w2.volume_when("copy", |volume| volume.source.is_none()).await;
    assert!(whole.hydration.is_some_and(|hydration| hydration.bytes_verified >= 4 << 20), "{whole:?}");
    let mut bytes = vec![0; 4 << 20];
    BlockClient::connect_text(&whole.guest_uri).unwrap().read_at(0, &mut bytes).unwrap();
    assert!(bytes == vec![1; 4 << 20], "the fork is the volume as it was");
    w1.end().await;
    w2.end().await;
    w3.end().await;
}

/// A directory of certificates for each of two workers of a cluster.
fn members() -> [tempfile::TempDir; 2] {
    let authority = authority::Authority::new();
    ["w1", "w2"].map(|name| {
        let dir = tempfile::tempdir().unwrap();
        let named = format!("spiffe://c/worker/{name}");
        authority.sign_as(dir.path(), &ip().to_string(), Some(&named));
        dir
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_moves_is_read_by_the_worker_that_it_moves_to_and_by_nobody_else() {
    let [at_w1, at_w2] = members();
    let lines = [&at_w1, &at_w2].map(|dir| format!("tls = {:?}", dir.path()));
    let [w1, w2] = workers([lines[0].as_str(), lines[1].as_str()]).await;
    let made = w1.door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    assert_eq!(made.volumes.len(), 1);
    let mut guest = BlockClient::connect_text(&w1.volume("data").await.guest_uri).unwrap();
    guest.write_at(0, &vec![1; 4 << 20]).unwrap();
    drop(guest);
    let job = w1.door().move_start(to("web", "w2")).await.unwrap();
    let job = w1.finished(job.id).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
    let whole = w2.volume_when("data", |volume| volume.source.is_none()).await;
    assert!(whole.hydration.is_some_and(|hydration| hydration.bytes_verified >= 4 << 20), "{whole:?}");

    // Whoever may ask for an export without being a worker has it made for nobody but the worker that has the volume.
    let key = ferry_api::VolumeKey { id: whole.id, generation: whole.generation };
    let export: SourceUri = w2.door().peer_export(key, None).await.unwrap().uri.parse().unwrap();
    let read =
        |dir: &tempfile::TempDir| client::reach(&export, Some(&Credentials::load(dir.path()).unwrap()));
    assert!(read(&at_w1).is_err(), "it is a worker of the cluster, and the volume does not move to it");
    read(&at_w2).unwrap();
    w1.end().await;
    w2.end().await;
}
