//! What budgets promise of moves that go beside each other, counted in bytes by the volume servers.
//!
//! No bound here can fail on a slow host: time is only taken for what may have crossed at most, and from before the first question to
//! after the last answer.
#![allow(clippy::unwrap_used, reason = "a test ends at whatever it did not expect")]

mod support;

use ferry_api::{Job, Machine, Volume, WorkerInfo};
use ferry_volume::client::BlockClient;
use std::time::Instant;
use support::cluster::{Cluster, Worker};
use support::{image, until};

const MIB: u64 = 1 << 20;
const SIZE_BYTES: u64 = 12 * MIB;
/// What may cross at once of one volume, on top of budget and time: a region, and what comes between two ticks, also late ones.
const REGION_BYTES: u64 = MIB;
const BURST_MS: u64 = 250;

/// Bytes that crossed of both volumes, and when that was surely known.
fn crossed(worker: &Worker) -> ([u64; 2], Instant) {
    let of = |name: &str| worker.volume(name).hydration.unwrap().bytes_fetched;
    let bytes = ["a", "b"].map(of);
    (bytes, Instant::now())
}

fn at_most(bytes_per_s: u64, since: Instant, now: Instant, volumes: u64) -> u64 {
    let ms = u64::try_from(now.duration_since(since).as_millis()).unwrap() + 1 + BURST_MS;
    bytes_per_s * ms / 1_000 + volumes * REGION_BYTES
}

#[test]
fn of_two_moves_from_one_worker_neither_starves_and_none_of_their_budgets_is_exceeded() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let image = cluster.dir().join("image");
    image::dense(&image, SIZE_BYTES, 90);
    for name in ["a", "b"] {
        let _: Volume =
            w1.ask(&["volume", "import", &format!("disk-{name}"), "--from", image.to_str().unwrap()]);
        let disk = format!("{name}=disk-{name}");
        let _: Machine = w1.ask(&["machine", "create", name, "--volume", &disk, "--", "sleep", "1000000"]);
        w1.wait_for_volume(name, "is whole", |volume| {
            volume.hydration.is_none_or(|counted| counted.complete)
        });
    }
    let pace = |max: &str| w2.ask::<WorkerInfo>(&["worker", "pace", "--from", "w1", "--max", max]);
    let of_worker = |max: &str| w2.ask::<WorkerInfo>(&["worker", "pace", "--max", max]);
    // Next to nothing, until both are there.
    pace("64KiB");
    let _: Job = w1.ask(&["move", "a", "b", "--to", "w2", "--mode", "cold", "--detach"]);
    for name in ["a", "b"] {
        until("it runs on w2", || {
            let here: Vec<Machine> = w2.ask(&["machine", "list"]);
            here.iter().any(|machine| machine.name.as_str() == name).then_some(())
        });
    }

    // Of a pair: both together no more than that, and fair.
    let (before, _) = crossed(w2);
    let began = Instant::now();
    pace("4MiB");
    let since = |bytes: [u64; 2], before: [u64; 2]| [bytes[0] - before[0], bytes[1] - before[1]];
    let fair = until("one of them has 5 MiB more", || {
        let (bytes, now) = crossed(w2);
        let more = since(bytes, before);
        let most = at_most(4 * MIB, began, now, 2);
        assert!(more[0] + more[1] <= most, "{more:?} of at most {most} bytes");
        (*more.iter().max().unwrap() >= 5 * MIB).then_some(more)
    });
    let (least, best) = (fair[0].min(fair[1]), fair[0].max(fair[1]));
    assert!(least + MIB >= best * 4 / 5, "a region is 20 % of that, and they are {least} and {best} bytes");

    // Of a volume: what it does not take the other has. Of the worker: both together.
    let _: Volume = w2.ask(&["volume", "pace", "a", "--max", "256KiB"]);
    let (before, _) = crossed(w2);
    let began = Instant::now();
    of_worker("3MiB");
    let mut guest = BlockClient::connect_text(&w2.volume("a").guest_uri).unwrap();
    let mut last = [0; 4096];
    guest.read_at(SIZE_BYTES - 4096, &mut last).unwrap();
    assert_eq!(last, std::fs::read(&image).unwrap()[SIZE_BYTES as usize - 4096..]);
    assert!(
        !w2.volume("a").hydration.unwrap().complete,
        "what the guest reads goes before all that is copied"
    );
    let paced = until("the other one is whole", || {
        let (bytes, now) = crossed(w2);
        let more = since(bytes, before);
        // What was allowed before still lies in the buckets.
        let most = at_most(256 << 10, began, now, 2);
        assert!(more[0] <= most, "{more:?}: of the first at most {most} bytes");
        let most = at_most(3 * MIB, began, now, 4);
        assert!(more[0] + more[1] <= most, "{more:?} of at most {most} bytes");
        w2.volume("b").hydration.unwrap().complete.then_some(more)
    });
    assert!(paced[1] > 2 * paced[0], "{paced:?}");
    let _: Volume = w2.ask(&["volume", "pace", "a", "--max", "none"]);
    w2.wait_for_volume("a", "is whole", |volume| volume.hydration.is_some_and(|counted| counted.complete));
}
