//! Two workers whose volumes are read over TLS.

use crate::house::{machine, pid, workers};
use ferry_api::{AgentApi, JobState, MachineState, StartMove};

#[path = "../../../ferry-volume/tests/support/authority.rs"]
mod authority;

fn to(name: &str, worker: &str) -> StartMove {
    StartMove { machine: name.parse().unwrap(), to: worker.parse().unwrap(), retention_hours: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_follows_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    authority::Authority::new().sign(dir.path(), "127.0.0.1");
    let tls = format!("tls = {:?}", dir.path());
    let [w1, w2] = workers([&tls, &tls]).await;
    let made = w1.door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    let disk = &made.volumes[0];
    let key = ferry_api::VolumeKey { id: disk.volume, generation: disk.generation };
    let export = w1.door().peer_export(key).await.unwrap();
    assert!(export.uri.starts_with("nbds://127.0.0.1:"), "{}", export.uri);
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
    authority::Authority::new().sign(dir.path(), "127.0.0.1");
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
