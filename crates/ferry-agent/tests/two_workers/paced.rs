//! What moves may take of the network: of a drain as a whole, and between two workers.

use crate::house::{Worker, create, end, fill, sleeper, until, workers};
use ferry_api::{AgentApi, AskDrain, JobState, MoveMode, PaceWorker, StartDrain, StartMove, Volume};
use std::num::NonZeroU64;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// What each machine has on its disk.
const USED: u64 = 32 * MIB;

fn rate(bytes_per_s: u64) -> Option<NonZeroU64> {
    NonZeroU64::new(bytes_per_s)
}

/// A machine with a filled disk.
async fn create_filled(worker: &Worker, name: &str) {
    create(worker, sleeper(name)).await;
    fill(worker, name, USED).await;
}

async fn following(worker: &Worker) -> Vec<Volume> {
    let mut volumes = worker.door().volumes().await.unwrap();
    volumes.retain(|volume| volume.source.is_some());
    volumes
}

/// Waits until so many disks follow to a worker, each with that share.
async fn shares_are(worker: &Worker, count: usize, share: Option<NonZeroU64>) {
    until(async || {
        let volumes = following(worker).await;
        let is =
            volumes.len() == count && volumes.iter().all(|volume| volume.pace.share_bytes_per_s == share);
        is.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_moves_of_a_drain_have_equal_parts_of_its_bandwidth_and_none_when_it_is_over() {
    let mut workers = workers(["", ""]).await;
    for name in ["a", "b"] {
        create_filled(&workers[0], name).await;
    }
    let ask =
        AskDrain { bandwidth_bytes_per_s: rate(256 * KIB), mode: MoveMode::Cold, ..AskDrain::default() };
    let start = StartDrain { ask, ..StartDrain::default() };
    let job = workers[0].door().drain_start(start).await.unwrap().job.unwrap();
    shares_are(&workers[1], 2, rate(128 * KIB)).await;
    // Neither agent knows anything of it when it is started anew, and yet it is kept.
    for index in [0, 1] {
        workers[index].kill().await;
        workers[index].start().await;
        shares_are(&workers[1], 2, rate(128 * KIB)).await;
    }
    workers[0].door().drain_cancel().await.unwrap();
    assert_eq!(workers[0].finished(job.id).await.state, JobState::Cancelled);
    for child in workers[0].door().job(job.id).await.unwrap().children {
        assert_eq!(workers[0].finished(child.job).await.state, JobState::Succeeded, "{child:?}");
    }
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_from_one_worker_keeps_to_the_budget_of_that_pair() {
    let mut workers = workers(["", "", ""]).await;
    let of_pair = |from: &str, most: Option<NonZeroU64>| PaceWorker {
        budget_bytes_per_s: most,
        from: Some(from.parse().unwrap()),
    };
    let unknown = workers[2].door().worker_pace(of_pair("w9", rate(1))).await.unwrap_err();
    assert!(unknown.message.contains("worker w9 is not known here"), "{unknown}");
    workers[2].door().worker_pace(of_pair("w1", rate(256 * KIB))).await.unwrap();
    for (index, name) in [(0, "a"), (0, "b"), (1, "c")] {
        create_filled(&workers[index], name).await;
    }
    let mut moves = Vec::new();
    for (index, name) in [(0, "a"), (0, "b")] {
        let start = StartMove::new(name.parse().unwrap(), "w3".parse().unwrap());
        let start = StartMove { mode: MoveMode::Cold, ..start };
        moves.push((index, workers[index].door().move_start(start).await.unwrap().id));
    }
    shares_are(&workers[2], 2, rate(128 * KIB)).await;
    // One from elsewhere is not held back, and is whole before them.
    let start = StartMove::new("c".parse().unwrap(), "w3".parse().unwrap());
    let other = workers[1].door().move_start(start).await.unwrap();
    assert_eq!(workers[1].finished(other.id).await.state, JobState::Succeeded);
    shares_are(&workers[2], 2, rate(128 * KIB)).await;
    // It is in the records, and the budget of all is kept beside it.
    workers[2].kill().await;
    workers[2].start().await;
    let known = workers[2].door().worker().await.unwrap().pair_budgets_bytes_per_s;
    assert_eq!(known.into_values().map(Some).collect::<Vec<_>>(), [rate(256 * KIB)]);
    let all = PaceWorker { budget_bytes_per_s: rate(64 * KIB), from: None };
    workers[2].door().worker_pace(all).await.unwrap();
    shares_are(&workers[2], 2, rate(32 * KIB)).await;
    workers[2].door().worker_pace(PaceWorker { budget_bytes_per_s: None, from: None }).await.unwrap();
    shares_are(&workers[2], 2, rate(128 * KIB)).await;
    workers[2].door().worker_pace(of_pair("w1", None)).await.unwrap();
    for (index, job) in moves {
        assert_eq!(workers[index].finished(job).await.state, JobState::Succeeded);
    }
    end(workers).await;
}
