//! What is done to the copies of a worker whose records and directories disagree.

use super::*;

use crate::drivers::{Channel, Launcher};
use crate::host::ThisHost;
use ferry_api::{Generation, Ownership, VolumeId};
use ferry_volume::{CreateOptions, create};

const SIZE_BYTES: u64 = 1 << 20;

/// A worker that has one copy, by its records of this ownership and by its map in this phase.
async fn worker(
    dir: &std::path::Path,
    ownership: Ownership,
    phase: Phase,
) -> (Volumes, VolumeRecord, PathBuf) {
    let text = format!(
        "name = \"w2\"\nstate_dir = {:?}\nlisten = \"127.0.0.1:1\"\nexport_listen = \"127.0.0.1:0\"\n",
        dir.display()
    );
    let config = Config::parse(std::path::Path::new("ferry.toml"), &text).unwrap();
    let records = Records::open(dir).unwrap();
    let peers = Peers::new(&config.peers).unwrap();
    // No server is to be started by these tests.
    let channel = Channel { listen: config.export_listen.ip(), tls: None, names_workers: false };
    let volumes = Volumes::new(
        &config,
        records.clone(),
        Fences::open(dir).unwrap(),
        peers,
        Arc::new(ThisHost::new(dir, Launcher::new("/bin/false"), None, channel)),
        None,
    );
    let record = VolumeRecord {
        id: VolumeId::fresh(),
        generation: Generation(2),
        name: "data".parse().unwrap(),
        machine: None,
        size_bytes: SIZE_BYTES,
        region_bytes: 1 << 20,
        ownership,
        source: None,
        base: None,
        rests: false,
        made: true,
        bytes_expected: 0,
        store: None,
        direct: false,
        filesystem: None,
        forks: Vec::new(),
        created_at_ms: 0,
    };
    let copy = volume_dir(dir, record.key());
    std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
    let options = CreateOptions {
        dir: copy.clone(),
        id: record.id.to_string(),
        size_bytes: SIZE_BYTES,
        region_bytes: record.region_bytes,
        generation: 2,
        phase,
        source: None,
        born_from: None,
        base: None,
        device: None,
        direct: false,
    };
    create(&options).unwrap();
    records.change(vec![Change::AddVolume(Box::new(record.clone()))]).await.unwrap();
    (volumes, record, copy)
}

fn prepared() -> Ownership {
    Ownership::Prepared { job: JobId::fresh(), from: "w1".parse().unwrap() }
}

#[tokio::test]
async fn a_reservation_that_a_machine_has_written_is_not_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (volumes, record, copy) = worker(dir.path(), prepared(), Phase::Open).await;
    let refused = volumes.delete(record.key()).await.unwrap_err();
    assert!(matches!(refused, VolumesError::Precious { .. }), "{refused}");
    assert!(copy.join("data").exists() && volumes.inner.record(record.key()).await.is_ok());
}

#[tokio::test]
async fn a_reservation_that_nobody_has_written_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (volumes, record, copy) = worker(dir.path(), prepared(), Phase::Standby).await;
    volumes.delete(record.key()).await.unwrap();
    assert!(!copy.exists() && volumes.inner.record(record.key()).await.is_err());
}

#[tokio::test]
async fn a_copy_that_was_handed_over_is_not_deleted_though_the_records_say_it_is_ours() {
    let dir = tempfile::tempdir().unwrap();
    let (volumes, record, copy) = worker(dir.path(), Ownership::Ours, Phase::Sealed).await;
    volumes.fence(record.key(), &"w1".parse().unwrap(), JobId::fresh()).await.unwrap();
    let refused = volumes.delete(record.key()).await.unwrap_err();
    assert!(matches!(refused, VolumesError::Precious { .. }), "{refused}");
    assert!(copy.join("data").exists());
}

#[tokio::test]
async fn a_copy_that_was_handed_over_and_deleted_is_not_made_again_though_the_records_say_it_is_ours() {
    let dir = tempfile::tempdir().unwrap();
    let to: WorkerName = "w1".parse().unwrap();
    let retired = Ownership::Retired { to: to.clone(), until_ms: 0 };
    let (volumes, record, copy) = worker(dir.path(), retired, Phase::Sealed).await;
    volumes.fence(record.key(), &to, JobId::fresh()).await.unwrap();
    volumes.delete(record.key()).await.unwrap();
    assert!(!copy.exists());
    // From a backup of before, and by a call that came for the second time.
    for ownership in [prepared(), Ownership::Ours] {
        let back = VolumeRecord { ownership, made: false, ..record.clone() };
        volumes.inner.records.change(vec![Change::AddVolume(Box::new(back))]).await.unwrap();
        let refused = volumes.converge(record.key()).await.unwrap_err();
        assert!(matches!(refused, VolumesError::Fenced { .. }) && !copy.exists(), "{refused}");
        // What is not there may go from the records.
        volumes.delete(record.key()).await.unwrap();
    }
}

#[tokio::test]
async fn a_volume_that_comes_back_is_not_barred_by_the_mark_of_when_it_left() {
    let dir = tempfile::tempdir().unwrap();
    let (volumes, record, copy) = worker(dir.path(), Ownership::Ours, Phase::Open).await;
    let left = VolumeKey { id: record.id, generation: Generation(1) };
    volumes.fence(left, &"w1".parse().unwrap(), JobId::fresh()).await.unwrap();
    // Its server cannot be started in this test, which is all that is wrong with it.
    let refused = volumes.converge(record.key()).await.unwrap_err();
    assert!(!matches!(refused, VolumesError::Fenced { .. }), "{refused}");
    volumes.delete(record.key()).await.unwrap();
    assert!(!copy.exists());
}
