//! Fleets in one thread, by their own clock: who is there, who has news, on networks that lose datagrams.

use ferry_gossip::fleet::Fleet;
use std::collections::BTreeSet;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

fn joined(size: u16, lost_of_1000: u32, seed: u64) -> Fleet {
    let mut fleet = Fleet::new(size, lost_of_1000, seed);
    fleet.until(5 * MINUTE, Fleet::all_agree).expect("all find each other");
    fleet
}

#[test]
fn all_find_each_other_whatever_is_lost() {
    for (seed, lost_of_1000) in [(1, 0), (2, 50), (3, 200)] {
        joined(20, lost_of_1000, seed);
    }
}

#[test]
fn news_reach_everybody_also_those_that_gossip_missed() {
    for (seed, lost_of_1000) in [(1, 0), (2, 50), (3, 300)] {
        let mut fleet = joined(30, lost_of_1000, seed);
        for (revision, of) in [(1, 0), (2, 0), (1, 7)] {
            fleet.change(of, revision);
            assert!(fleet.until(5 * MINUTE, |fleet| fleet.all_know(of, revision)).is_some(), "{seed}: {of}");
        }
    }
}

#[test]
fn who_came_later_is_told_what_was_said_before() {
    let mut fleet = joined(10, 0, 4);
    fleet.kill(3);
    fleet.until(5 * MINUTE, |fleet| fleet.all_miss(3)).expect("it is missed");
    fleet.change(1, 9);
    fleet.run(5 * MINUTE);
    fleet.start(3, 77);
    fleet.until(5 * MINUTE, |fleet| fleet.all_agree() && fleet.all_know(1, 9)).expect("it knows all again");
    // Its new life goes before all that is known of its former one.
    fleet.change(3, 1);
    fleet.until(5 * MINUTE, |fleet| fleet.all_know(3, 1)).expect("it is heard");
}

#[test]
fn who_dies_is_missed_and_nobody_else_is() {
    let mut fleet = joined(40, 20, 5);
    fleet.kill(11);
    fleet.until(5 * MINUTE, |fleet| fleet.all_miss(11)).expect("it is missed");
    assert!(fleet.until(MINUTE, Fleet::all_agree).is_some());
}

#[test]
fn a_fleet_that_was_cut_in_two_is_one_again() {
    let mut fleet = joined(12, 0, 6);
    fleet.part(BTreeSet::from([0, 1, 2, 3]));
    fleet.until(5 * MINUTE, |fleet| !fleet.all_agree()).expect("they miss each other");
    fleet.change(0, 5);
    fleet.run(2 * MINUTE);
    assert!(!fleet.all_know(0, 5));
    fleet.part(BTreeSet::new());
    fleet.until(10 * MINUTE, |fleet| fleet.all_agree() && fleet.all_know(0, 5)).expect("they are one again");
}

#[test]
fn what_a_worker_sends_does_not_grow_with_the_fleet() {
    let bytes = |size: u16| {
        let mut fleet = joined(size, 0, 8);
        let before = fleet.traffic();
        fleet.run(MINUTE);
        let now = fleet.traffic();
        (now.bytes - before.bytes) / u64::from(size)
    };
    let (small, large) = (bytes(10), bytes(100));
    // The same for all, and a part that grows with the logarithm of their number: how often news is told on.
    assert!(large < 3 * small, "{large} bytes a minute and worker of 100, {small} of 10");
}
