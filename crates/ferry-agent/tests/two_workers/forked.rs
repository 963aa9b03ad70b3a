//! Volumes that are forked, here and to another worker.

use crate::house::{Worker, machine, workers};
use crate::stopped::{pace, web_comes_halfway};
use ferry_api::{AgentApi, ErrorCode, ForkVolume, JobState, StartMove, Volume};
use ferry_volume::client::BlockClient;

const MIB: u64 = 1 << 20;

async fn fork(worker: &Worker, name: &str, to: Option<&str>) -> Result<Volume, ferry_api::ApiError> {
    let fork = ForkVolume { name: name.parse().unwrap(), to: to.map(|to| to.parse().unwrap()) };
    worker.door().volume_fork(&"data".parse().unwrap(), fork).await
}

fn write(volume: &Volume, value: u8) {
    let mut guest = BlockClient::connect_text(&volume.guest_uri).unwrap();
    guest.write_at(0, &vec![value; 2 << 20]).unwrap();
}

fn first_byte(volume: &Volume) -> u8 {
    let mut byte = [0];
    BlockClient::connect_text(&volume.guest_uri).unwrap().read_at(MIB, &mut byte).unwrap();
    byte[0]
}

/// Waits until no snapshot is kept for anybody.
async fn until_nobody_reads(worker: &Worker) {
    worker.volume_when("data", |volume| volume.forks.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_machines_volume_is_forked_here_and_there_and_all_go_their_ways() {
    let [mut w1, w2] = workers(["", ""]).await;
    w1.door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    let origin = w1.volume("data").await;
    write(&origin, 1);
    let here = fork(&w1, "here", None).await.unwrap();
    write(&origin, 2);
    let there = fork(&w1, "there", Some("w2")).await.unwrap();
    write(&origin, 3);
    assert_eq!((here.worker.as_str(), there.worker.as_str()), ("w1", "w2"));
    assert!(here.machine.is_none() && here.id != origin.id);
    assert_eq!((first_byte(&here), first_byte(&there), first_byte(&origin)), (1, 2, 3));
    write(&here, 4);
    // Snapshots outlive an agent, and are forgotten once nobody reads them.
    w1.kill().await;
    w1.start().await;
    w1.volume_when("here", |volume| volume.source.is_none()).await;
    w2.volume_when("there", |volume| volume.source.is_none()).await;
    until_nobody_reads(&w1).await;
    let whole = [w1.volume("here").await, w2.volume("there").await, w1.volume("data").await];
    assert_eq!(whole.each_ref().map(first_byte), [4, 2, 3]);
    w1.door().volume_delete(&"here".parse().unwrap()).await.unwrap();
    w1.end().await;
    w2.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_that_cannot_be_leaves_nothing_behind() {
    let [w1, mut w2] = workers(["", ""]).await;
    w1.door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    fork(&w1, "copy", None).await.unwrap();
    let taken = fork(&w1, "copy", None).await.unwrap_err();
    assert_eq!(taken.code, ErrorCode::AlreadyExists);
    assert_eq!(fork(&w1, "other", Some("w9")).await.unwrap_err().code, ErrorCode::UnknownWorker);
    fork(&w1, "copy", Some("w2")).await.unwrap();
    let taken = fork(&w1, "copy", Some("w2")).await.unwrap_err();
    assert!(taken.message.contains("worker w2 cannot make the fork"), "{taken}");
    w2.kill().await;
    fork(&w1, "late", Some("w2")).await.unwrap_err();
    w2.start().await;
    until_nobody_reads(&w1).await;
    assert_eq!(w2.door().volumes().await.unwrap().len(), 1);
    w1.end().await;
    w2.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_a_fork_reads_is_neither_moved_nor_deleted() {
    let [w1, mut w2, mut w3] = workers(["", "", ""]).await;
    let coming = web_comes_halfway(&mut w3, "w1").await;
    fork(&w1, "copy", Some("w2")).await.unwrap();
    // Nobody can tell whether the fork still reads.
    w2.kill().await;
    let destroy = ferry_api::DestroyMachine { stop: true };
    let refusal = w1.door().machine_destroy(&"web".parse().unwrap(), destroy).await.unwrap_err();
    assert!(refusal.message.contains("its fork copy"), "{refusal}");
    w2.start().await;
    w3.start().await;
    pace(&w1, None).await;
    assert_eq!(w3.finished(coming).await.state, JobState::Succeeded);
    until_nobody_reads(&w1).await;
    let start = StartMove::new("web".parse().unwrap(), "w2".parse().unwrap());
    let job = w1.door().move_start(start).await.unwrap();
    assert_eq!(w1.finished(job.id).await.state, JobState::Succeeded);
    assert_eq!(fork(&w1, "again", None).await.unwrap_err().code, ErrorCode::Conflict);
    w1.end().await;
    w2.end().await;
    w3.end().await;
}
