//! Warm moves: what the machine does not write again crosses before it stops.

use crate::house::{Worker, a_moment, machine, workers};
use ferry_agent::jobs::Receipt;
use ferry_api::{AgentApi, AskJobs, Job, JobState, MachineState, MoveMode, StartMove};
use ferry_crossing::{Ahead, Prepared, Sealed};
use ferry_volume::client::BlockClient;
use serde::de::DeserializeOwned;
use std::sync::atomic::{AtomicBool, Ordering};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// What the machine has on its disk before it moves.
const USED: u64 = 32 * MIB;
/// What it writes again and again while it moves.
const WRITTEN: u64 = 8 * MIB;

fn warm() -> StartMove {
    StartMove { mode: MoveMode::Warm, ..StartMove::new("web".parse().unwrap(), "w2".parse().unwrap()) }
}

async fn disk(worker: &Worker) -> BlockClient {
    BlockClient::connect_text(&worker.volume("data").await.guest_uri).unwrap()
}

/// A machine with a filled disk.
async fn filled(worker: &Worker) -> BlockClient {
    worker.door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    let mut disk = disk(worker).await;
    for at in (0..USED).step_by(MIB as usize) {
        disk.write_at(at, &vec![10 + (at / MIB) as u8; MIB as usize]).unwrap();
    }
    disk.flush().unwrap();
    disk
}

fn all(disk: &mut BlockClient) -> Vec<u8> {
    let mut bytes = vec![0; disk.size_bytes() as usize];
    for (at, part) in bytes.chunks_mut(MIB as usize).enumerate() {
        disk.read_at(at as u64 * MIB, part).unwrap();
    }
    bytes
}

fn memo<T: DeserializeOwned>(job: &Job, step: &str) -> T {
    let step = job.steps.iter().find(|found| found.step == step).unwrap();
    serde_json::from_value(step.memo.clone().unwrap()).unwrap()
}

fn ahead(job: &Job) -> Ahead {
    let prepared: Prepared = memo(job, "Prepare");
    prepared.ahead.unwrap()
}

async fn moved(source: &Worker) -> Job {
    let job = source.door().move_start(warm()).await.unwrap();
    let job = source.finished(job.id).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
    job
}

/// What arrived is what was sealed.
fn is_proven(job: &Job) {
    let receipt: Receipt = memo(job, "Verify");
    let proof = receipt.volumes[0].proof.as_ref().unwrap();
    assert!(proof.agreed_root().is_some(), "{proof:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_follows_a_machine_that_writes_nothing_while_it_moves() {
    let [w1, w2] = workers(["", ""]).await;
    filled(&w1).await;
    let job = moved(&w1).await;
    let sealed: Sealed = memo(&job, "Seal");
    assert_eq!(ahead(&job).rounds[0].bytes, USED);
    assert_eq!(sealed.adopted.unwrap()[0].bytes_remote, 0);
    let receipt: Receipt = memo(&job, "Verify");
    assert_eq!(
        receipt.volumes[0].counted.unwrap().bytes_fetched,
        0,
        "all was there before it was handed over"
    );
    is_proven(&job);
    let bytes = all(&mut disk(&w2).await);
    assert!((0..USED).step_by(4096).all(|at| bytes[at as usize] == 10 + (at / MIB) as u8));
    assert!(matches!(w2.machine("web").await.state, MachineState::Running { .. }));
    w1.end().await;
    w2.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_writes_all_the_while_has_every_write_on_its_new_worker() {
    let [w1, w2] = workers(["", ""]).await;
    let mut guest = filled(&w1).await;
    let mut written = all(&mut guest);
    let over = AtomicBool::new(false);
    let (job, written) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for i in 1_u64.. {
                let at = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (WRITTEN / (4 * KIB)) * 4 * KIB;
                let block = [i as u8; 4 * KIB as usize];
                if over.load(Ordering::Relaxed) || guest.write_at(at, &block).is_err() {
                    break;
                }
                written[at as usize..][..block.len()].copy_from_slice(&block);
            }
            written
        });
        let runtime = tokio::runtime::Handle::current();
        let job = tokio::task::block_in_place(|| runtime.block_on(moved(&w1)));
        over.store(true, Ordering::Relaxed);
        (job, writer.join().unwrap())
    });
    assert!(all(&mut disk(&w2).await) == written, "what was acknowledged is there, and nothing else");
    let sealed: Sealed = memo(&job, "Seal");
    assert!(sealed.adopted.unwrap()[0].bytes_remote <= WRITTEN, "{:?}", ahead(&job));
    is_proven(&job);
    w1.end().await;
    w2.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_what_a_move_would_do_and_changes_nothing() {
    let [w1, w2] = workers(["", ""]).await;
    filled(&w1).await;
    let plan = w1.door().move_plan(warm()).await.unwrap();
    assert_eq!((plan.mode, &plan.blockers), (MoveMode::Warm, &Vec::new()));
    assert!(plan.bytes_ahead >= USED && plan.rounds.is_none(), "{plan:?}");
    let first = plan.interruption;
    let seen = first.start_ms.expect("it was started here");
    let promised_ms = Some(seen + ferry_api::ADDED_MS_MAX);
    let by_its_start = ferry_api::Expected { start_ms: Some(seen), promised_ms, ..Default::default() };
    assert_eq!(first, by_its_start, "nothing ever moved from here");
    let by_itself = StartMove { mode: MoveMode::Auto, ..warm() };
    let small = w1.door().move_plan(by_itself).await.unwrap();
    assert_eq!((small.mode, small.bytes_ahead), (MoveMode::Cold, 0));
    assert!(small.why.contains("follow in a moment"), "{small:?}");
    assert!(w1.door().jobs(AskJobs::default()).await.unwrap().is_empty());
    let job = moved(&w1).await;
    let back = StartMove { to: "w1".parse().unwrap(), ..warm() };
    let back = w2.door().move_start(back).await.unwrap();
    assert_eq!(w2.finished(back.id).await.state, JobState::Succeeded);
    let again = w1.door().move_plan(warm()).await.unwrap();
    assert_eq!((again.rounds, again.interruption.own_moves), (Some(ahead(&job).rounds.len() as u64), 1));
    assert!(again.interruption.down_ms().is_some() && again.interruption.stop_ms.is_some(), "{again:?}");
    let planned: ferry_agent::jobs::Plan = memo(&job, "Plan");
    assert_eq!(planned.expected, Some(first));
    w2.end().await;
    let away = w1.door().move_plan(warm()).await.unwrap();
    assert_eq!(away.blockers.len(), 1, "{away:?}");
    w1.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_move_that_is_cancelled_leaves_no_mark_and_no_export() {
    let [w1, w2] = workers(["", ""]).await;
    filled(&w1).await;
    let pace = ferry_api::PaceVolume {
        // It takes minutes.
        budget_bytes_per_s: Some(std::num::NonZeroU64::new(64 * KIB)),
        guard_us: None,
        finish_by_ms: None,
    };
    w1.door().volume_pace("data".parse().as_ref().unwrap(), pace).await.unwrap();
    let job = w1.door().move_start(warm()).await.unwrap();
    while w1.door().job(job.id).await.unwrap().progress.is_none_or(|progress| progress.bytes_done == 0) {
        a_moment().await;
    }
    w1.door().job_cancel(job.id).await.unwrap();
    assert_eq!(w1.finished(job.id).await.state, JobState::Cancelled);
    let home = w1.volume("data").await;
    assert_eq!(home.export_uri, None);
    assert!(matches!(w1.machine("web").await.state, MachineState::Running { .. }));
    assert!(w2.door().volumes().await.unwrap().is_empty());
    w1.end().await;
    w2.end().await;
}
