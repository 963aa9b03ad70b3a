//! Whether the host of a worker may be stopped, while others copy from it and after.

use crate::house::{Worker, a_moment, machine, server_pid, until, workers};
use ferry_api::{AgentApi, ForkVolume, JobId, JobState, PaceVolume, StartMove, StillToCopy, StopReason};
use ferry_volume::client::BlockClient;
use rustix::process::{Pid, Signal, kill_process};
use std::num::NonZeroU64;

/// So slow that nothing of what is tested here ends by itself.
const SLOW: Option<NonZeroU64> = NonZeroU64::new(64 * 1024);
const DATA_MIB: u64 = 48;

async fn reasons(worker: &Worker) -> Vec<StopReason> {
    worker.door().worker_safe_to_stop().await.unwrap().reasons
}

/// What keeps the worker, in one word each.
fn kinds(reasons: &[StopReason]) -> Vec<&'static str> {
    let kind = |reason: &StopReason| match reason {
        StopReason::Copy { .. } => "copy",
        StopReason::Fork { .. } => "fork",
        StopReason::Readers { .. } => "readers",
        StopReason::Job { .. } => "job",
        StopReason::Arrival { .. } => "arrival",
        StopReason::Machine { .. } => "machine",
    };
    reasons.iter().map(kind).collect()
}

fn left(reasons: &[StopReason]) -> &StillToCopy {
    let left = reasons.iter().find_map(|reason| match reason {
        StopReason::Copy { left, .. } | StopReason::Fork { left, .. } => Some(left),
        StopReason::Readers { .. }
        | StopReason::Job { .. }
        | StopReason::Arrival { .. }
        | StopReason::Machine { .. } => None,
    });
    left.unwrap_or_else(|| panic!("nobody copies: {reasons:?}"))
}

/// Gives the worker machine `web`, with data on its disk that is not all zeroes.
async fn with_data(worker: &Worker) {
    worker.door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    let mut guest = BlockClient::connect_text(&worker.volume("data").await.guest_uri).unwrap();
    for mib in 0..DATA_MIB {
        guest.write_at(mib << 20, &[7; 1 << 20]).unwrap();
    }
    guest.flush().unwrap();
}

/// Whether the job has got as far as waiting for the disks.
fn is_hydrating(reasons: &[StopReason]) -> bool {
    let at = |reason: &StopReason| match reason {
        StopReason::Job { step, .. } => step.as_deref() == Some("Hydrate"),
        StopReason::Copy { .. }
        | StopReason::Fork { .. }
        | StopReason::Readers { .. }
        | StopReason::Arrival { .. }
        | StopReason::Machine { .. } => false,
    };
    reasons.iter().any(at)
}

/// Moves the stopped machine `web` of a worker, which then dies and has nearly all of the disk: so no fork of that is whole before
/// this worker is back, and [`pace`] lets it go on.
pub async fn web_comes_halfway(from: &mut Worker, to: &str) -> JobId {
    with_data(from).await;
    from.door().machine_stop(&"web".parse().unwrap()).await.unwrap();
    pace(from, SLOW).await;
    let job = move_web(from, to).await;
    until(async || is_hydrating(&reasons(from).await).then_some(())).await;
    let server = server_pid(&from.volume("data").await);
    from.kill().await;
    kill_process(Pid::from_raw(server.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    job
}

/// Sets how fast the disk of `web` hydrates: on a worker that it leaves, where it goes to.
pub async fn pace(worker: &Worker, budget_bytes_per_s: Option<NonZeroU64>) {
    let pace =
        PaceVolume { budget_bytes_per_s: Some(budget_bytes_per_s), guard_us: None, finish_by_ms: None };
    worker.door().volume_pace(&"data".parse().unwrap(), pace).await.unwrap();
}

async fn move_web(from: &Worker, to: &str) -> JobId {
    let start = StartMove::new("web".parse().unwrap(), to.parse().unwrap());
    from.door().move_start(start).await.unwrap().id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_not_safe_to_stop_while_its_copy_is_hydrated_from_and_safe_after() {
    let [w1, mut w2] = workers(["", ""]).await;
    with_data(&w1).await;
    assert_eq!(kinds(&reasons(&w1).await), ["machine"]);
    assert_eq!(reasons(&w2).await, []);

    pace(&w1, SLOW).await;
    let job = move_web(&w1, "w2").await;
    // Whenever it is asked on the way there, something keeps it.
    let found = loop {
        let found = reasons(&w1).await;
        assert!(kinds(&found).contains(&"job"), "{found:?}");
        if is_hydrating(&found) && left(&found).bytes.is_some_and(|bytes| bytes > 0) {
            break found;
        }
        a_moment().await;
    };
    assert_eq!(kinds(&found), ["copy", "job"]);
    let hydration = w2.volume("data").await.hydration.unwrap();
    assert!(!hydration.complete && left(&found).bytes.unwrap() <= hydration.bytes_total, "{found:?}");
    assert_eq!(kinds(&reasons(&w2).await), ["machine"]);

    // Nobody can tell how far it is.
    w2.kill().await;
    let found = reasons(&w1).await;
    assert_eq!(kinds(&found), ["copy", "job"]);
    let unknown = left(&found);
    assert_eq!((unknown.bytes, unknown.eta_ms), (None, None));
    assert!(unknown.unknown.as_ref().unwrap().contains("cannot be reached"), "{unknown:?}");
    w2.start().await;

    pace(&w2, None).await;
    assert_eq!(w1.finished(job).await.state, JobState::Succeeded);
    assert_eq!(reasons(&w1).await, []);
    assert_eq!(kinds(&reasons(&w2).await), ["machine"]);
    w1.end().await;
    w2.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_not_safe_to_stop_while_forks_here_and_there_are_not_whole() {
    let [w1, w2, mut w3] = workers(["", "", ""]).await;
    let job = web_comes_halfway(&mut w3, "w1").await;
    assert_eq!(reasons(&w1).await, []);
    for (name, to) in [("here", None), ("there", Some("w2".parse().unwrap()))] {
        let fork = ForkVolume { name: name.parse().unwrap(), to };
        w1.door().volume_fork(&"data".parse().unwrap(), fork).await.unwrap();
    }
    let found = reasons(&w1).await;
    let fork = |reason: &StopReason| {
        let StopReason::Fork { fork_name, to, left, .. } = reason else { panic!("{reason:?}") };
        assert!(left.bytes.is_some() && left.unknown.is_none(), "{left:?}");
        (fork_name.to_string(), to.to_string())
    };
    let expected = [("here", "w1"), ("there", "w2")].map(|(fork, to)| (fork.to_owned(), to.to_owned()));
    assert_eq!(found.iter().map(fork).collect::<Vec<_>>(), expected);
    assert_eq!(reasons(&w2).await, [], "nobody needs a fork but who has it");

    w3.start().await;
    pace(&w1, None).await;
    assert_eq!(w3.finished(job).await.state, JobState::Succeeded);
    w1.volume_when("data", |volume| volume.forks.is_empty() && volume.readers == Some(0)).await;
    for worker in [&w1, &w2, &w3] {
        assert_eq!(reasons(worker).await, []);
    }
    w1.end().await;
    w2.end().await;
    w3.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_not_safe_to_stop_while_somebody_reads_a_volume_of_it() {
    let [w1] = workers([""]).await;
    with_data(&w1).await;
    w1.door().machine_stop(&"web".parse().unwrap()).await.unwrap();
    let volume = w1.volume("data").await;
    let copy = ferry_api::VolumeKey { id: volume.id, generation: volume.generation };
    // A snapshot would be named; this is somebody that the records know nothing of.
    let address = w1.door().peer_export(copy, None).await.unwrap().uri;
    let connect = |uri: &str| std::net::TcpStream::connect(authority(uri)).unwrap();
    let reader = connect(&address);
    let found = loop {
        let found = reasons(&w1).await;
        if !found.is_empty() {
            break found;
        }
        a_moment().await;
    };
    assert!(matches!(found[..], [StopReason::Readers { connections: Some(1), .. }]), "{found:?}");
    drop(reader);
    w1.volume_when("data", |volume| volume.readers == Some(0)).await;
    assert_eq!(reasons(&w1).await, []);
    w1.end().await;
}

/// `HOST:PORT` of an NBD URI.
fn authority(uri: &str) -> &str {
    uri.strip_prefix("nbd://").and_then(|rest| rest.split('/').next()).unwrap()
}
