//! The way back, and moves in a row: what has not changed does not cross again.

use crate::house::{Worker, a_moment, machine, workers};
use ferry_agent::jobs::{Receipt, Reserved};
use ferry_api::{
    AgentApi, Driver, Generation, Hydration, Job, JobState, MachineState, Ownership, PaceVolume, StartMove,
    StepState, UndoMove, Volume, VolumeBase, VolumeKey,
};
use ferry_volume::client::BlockClient;
use serde::de::DeserializeOwned;
use std::num::NonZeroU64;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// What the machine has on its disk before it moves.
const USED: u64 = 16 * MIB;
/// Where it writes 4 KiB each after it has moved.
const CHANGED: [u64; 5] = [0, 3 * MIB + 4 * KIB, 9 * MIB - 4 * KIB, 9 * MIB, 40 * MIB];

fn start(to: &str) -> StartMove {
    StartMove::new("web".parse().unwrap(), to.parse().unwrap())
}

fn undo() -> UndoMove {
    UndoMove { machine: "web".parse().unwrap(), of: None, retention_hours: None }
}

fn budget(bytes_per_s: Option<u64>) -> PaceVolume {
    let budget = bytes_per_s.and_then(NonZeroU64::new);
    PaceVolume { budget_bytes_per_s: Some(budget), guard_us: None, finish_by_ms: None }
}

/// The disk of the machine as it is on a worker.
async fn disk(worker: &Worker) -> Disk {
    Disk(BlockClient::connect_text(&worker.volume("data").await.guest_uri).unwrap())
}

struct Disk(BlockClient);

impl Disk {
    /// Writes a value of 4 KiB each at all these places, durably.
    fn write(&mut self, places: &[u64], value: u8) {
        for at in places {
            self.0.write_at(*at, &[value; 4 * KIB as usize]).unwrap();
        }
        self.0.flush().unwrap();
    }

    fn fill(&mut self) {
        for at in (0..USED).step_by(MIB as usize) {
            self.0.write_at(at, &vec![pattern(at); MIB as usize]).unwrap();
        }
        self.0.flush().unwrap();
    }

    /// All is as it was filled, but for what was written since.
    fn check(&mut self, places: &[u64], value: u8) {
        let mut block = [0; 4 * KIB as usize];
        for at in (0..self.0.size_bytes()).step_by(block.len()) {
            self.0.read_at(at, &mut block).unwrap();
            let filled = if at < USED { pattern(at) } else { 0 };
            let expected = if places.contains(&at) { value } else { filled };
            assert!(block.iter().all(|byte| *byte == expected), "at {at}: {} for {expected}", block[0]);
        }
    }
}

fn pattern(at: u64) -> u8 {
    10 + (at / MIB) as u8
}

fn memo<T: DeserializeOwned>(job: &Job, step: &str) -> T {
    let step = job.steps.iter().find(|found| found.step == step).unwrap();
    serde_json::from_value(step.memo.clone().unwrap()).unwrap()
}

fn base_of(job: &Job) -> Option<VolumeBase> {
    let reserved: Reserved = memo(job, "Reserve");
    reserved.volumes[0].base.clone()
}

fn counted(job: &Job) -> Hydration {
    let receipt: Receipt = memo(job, "Verify");
    receipt.volumes[0].counted.unwrap()
}

fn unproven(job: &Job) -> Option<String> {
    let receipt: Receipt = memo(job, "Verify");
    receipt.volumes[0].proof.clone().unwrap().unproven
}

/// All that is in use came, and of it only what has changed from the source.
fn crossed(counted: &Hydration, changed_bytes: u64) {
    assert_eq!(counted.bytes_fetched, changed_bytes, "{counted:?}");
    assert_eq!(counted.bytes_fetched + counted.bytes_from_base, USED + 4 * KIB, "{counted:?}");
}

/// Waits until the machine of a job is the target's and runs there.
async fn booted(worker: &Worker, job: &Job) {
    loop {
        let job = worker.door().job(job.id).await.unwrap();
        if job.steps.iter().any(|step| step.step == "Boot" && step.state == StepState::Done) {
            return;
        }
        a_moment().await;
    }
}

async fn succeeds(worker: &Worker, job: &Job) -> Job {
    let job = worker.finished(job.id).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
    job
}

/// Waits until a worker has of the disk just the copies of these generations.
async fn copies(worker: &Worker, generations: &[u64]) -> Vec<Volume> {
    loop {
        let mut volumes = worker.door().volumes().await.unwrap();
        volumes.sort_by_key(|volume| volume.generation);
        if volumes.iter().map(|volume| volume.generation.0).eq(generations.iter().copied()) {
            return volumes;
        }
        a_moment().await;
    }
}

/// A machine with a filled disk on the first worker.
async fn filled(worker: &Worker) {
    worker.door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    disk(worker).await.fill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_taken_back_brings_only_what_it_has_changed() {
    let [mut w1, w2] = workers(["", ""]).await;
    filled(&w1).await;
    let there = w1.door().move_start(start("w2")).await.unwrap();
    let there = succeeds(&w1, &there).await;
    assert_eq!(base_of(&there), None, "nobody had it before");
    let volume = w2.volume("data").await;
    assert_eq!(volume.lineage.born_from, Some(Generation(1)), "{volume:?}");
    disk(&w2).await.write(&CHANGED, 1);
    // The copy that was kept is found by a new agent, too.
    w1.kill().await;
    w1.start().await;
    let back = w2.door().move_undo(undo()).await.unwrap();
    let back = succeeds(&w2, &back).await;
    let base = base_of(&back).unwrap();
    assert_eq!((base.generation, &base.worker), (Generation(1), &None));
    disk(&w1).await.check(&CHANGED, 1);
    let counted = counted(&back);
    let changed_bytes = 4 * KIB * CHANGED.len() as u64;
    crossed(&counted, changed_bytes);
    assert_eq!(unproven(&back), None, "all of it is on either side");
    // What was kept for the way back is of no use any more, and what is kept over there is for the next way there.
    copies(&w1, &[3]).await;
    let [kept] = &copies(&w2, &[2]).await[..] else { unreachable!("one generation was asked for") };
    assert!(matches!(kept.ownership, Ownership::Retired { .. }), "{kept:?}");
    disk(&w1).await.write(&CHANGED, 2);
    let again = w1.door().move_start(start("w2")).await.unwrap();
    let again = succeeds(&w1, &again).await;
    assert_eq!(base_of(&again).unwrap().generation, Generation(2));
    disk(&w2).await.check(&CHANGED, 2);
    copies(&w1, &[3]).await;
    copies(&w2, &[4]).await;
    w1.end().await;
    w2.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_taken_back_while_its_disk_still_follows() {
    let [w1, w2] = workers(["", ""]).await;
    filled(&w1).await;
    w1.door().volume_pace(&"data".parse().unwrap(), budget(Some(4 * KIB))).await.unwrap();
    let there = w1.door().move_start(start("w2")).await.unwrap();
    booted(&w1, &there).await;
    disk(&w2).await.write(&CHANGED, 1);
    let back = w2.door().move_undo(UndoMove { of: Some(there.id), ..undo() }).await.unwrap();
    booted(&w2, &back).await;
    assert!(!w1.door().job(there.id).await.unwrap().state.is_final());
    let rests = w2.volume("data").await;
    assert!(rests.lineage.rests && !rests.hydration.unwrap().complete, "{rests:?}");
    w1.door().volume_pace(&"data".parse().unwrap(), budget(None)).await.unwrap();
    disk(&w1).await.check(&CHANGED, 1);
    let back = succeeds(&w2, &back).await;
    let counted = counted(&back);
    let changed_bytes = 4 * KIB * CHANGED.len() as u64;
    crossed(&counted, changed_bytes);
    assert!(unproven(&back).is_some(), "nobody has copied what the source lacks");
    succeeds(&w1, &there).await;
    disk(&w1).await.check(&CHANGED, 1);
    copies(&w1, &[3]).await;
    // What is kept there is not whole: the next way there copies all of it.
    let again = w1.door().move_start(start("w2")).await.unwrap();
    let again = succeeds(&w1, &again).await;
    assert_eq!(base_of(&again), None);
    disk(&w2).await.check(&CHANGED, 1);
    w1.end().await;
    w2.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_moves_on_while_its_disk_still_follows_reads_from_both() {
    let [w1, w2, w3] = workers(["", "", ""]).await;
    filled(&w1).await;
    w1.door().volume_pace(&"data".parse().unwrap(), budget(Some(4 * KIB))).await.unwrap();
    let first = w1.door().move_start(start("w2")).await.unwrap();
    booted(&w1, &first).await;
    disk(&w2).await.write(&CHANGED, 1);
    let second = w2.door().move_start(start("w3")).await.unwrap();
    booted(&w2, &second).await;
    w3.door().volume_pace(&"data".parse().unwrap(), budget(None)).await.unwrap();
    let second = succeeds(&w2, &second).await;
    let base = base_of(&second).unwrap();
    assert_eq!((base.generation, base.worker.unwrap().as_str()), (Generation(1), "w1"));
    disk(&w3).await.check(&CHANGED, 1);
    let counted = counted(&second);
    crossed(&counted, 4 * KIB * CHANGED.len() as u64);
    succeeds(&w1, &first).await;
    w1.end().await;
    w2.end().await;
    w3.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_copy_of_before_the_way_back_brings_all() {
    let [w1, w2] = workers(["", ""]).await;
    filled(&w1).await;
    let there = StartMove { retention_hours: Some(0), ..start("w2") };
    let there = w1.door().move_start(there).await.unwrap();
    succeeds(&w1, &there).await;
    copies(&w1, &[]).await;
    disk(&w2).await.write(&CHANGED, 1);
    let back = w2.door().move_undo(undo()).await.unwrap();
    let back = succeeds(&w2, &back).await;
    assert_eq!(base_of(&back), None);
    disk(&w1).await.check(&CHANGED, 1);
    let counted = counted(&back);
    assert_eq!((counted.bytes_from_base, counted.bytes_fetched), (0, USED + 4 * KIB), "{counted:?}");
    w1.end().await;
    w2.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_disk_was_lost_is_no_base_and_the_way_back_brings_all() {
    let [w1, w2] = workers(["", ""]).await;
    filled(&w1).await;
    let kept = w1.volume("data").await;
    let there = w1.door().move_start(start("w2")).await.unwrap();
    succeeds(&w1, &there).await;
    let key = VolumeKey { id: kept.id, generation: kept.generation };
    std::fs::remove_file(ferry_agent::config::volume_dir(&w1.config().state_dir, key).join("map")).unwrap();
    let back = w2.door().move_undo(undo()).await.unwrap();
    let back = succeeds(&w2, &back).await;
    assert_eq!(base_of(&back), None);
    disk(&w1).await.check(&[], 0);
    w1.end().await;
    w2.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_waits_since_the_machine_does_not_start_ends_when_it_is_taken_back() {
    let [w1, w2] = workers(["", ""]).await;
    let place = tempfile::tempdir().unwrap();
    let workdir = place.path().join("workdir");
    std::fs::create_dir(&workdir).unwrap();
    let (dir, once) = (workdir.display(), place.path().join("once"));
    // The last thing that it does here, once, makes it unfit to start there.
    let stop = format!("mkdir {} 2>/dev/null && rmdir {dir}; exit 0", once.display());
    let script = format!("trap '{stop}' TERM; while :; do sleep 0.01; done");
    let mut create = machine("web", &script);
    create.spec.stop_signal = ferry_api::Signal::TERM;
    let Driver::Process(process) = &mut create.spec.driver else { panic!() };
    process.workdir = Some(workdir.clone());
    w1.door().machine_create(create).await.unwrap();
    let there = w1.door().move_start(start("w2")).await.unwrap();
    while w1.door().job(there.id).await.unwrap().state != JobState::Parked {
        a_moment().await;
    }
    std::fs::create_dir(&workdir).unwrap();
    let back = w2.door().move_undo(undo()).await.unwrap();
    succeeds(&w2, &back).await;
    succeeds(&w1, &there).await;
    let home = w1.machine("web").await;
    assert!(matches!(home.state, MachineState::Running { .. }), "{home:?}");
    w1.end().await;
    w2.end().await;
}
