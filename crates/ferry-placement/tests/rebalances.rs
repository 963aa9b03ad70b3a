//! Plans that make workers alike, and whether they still fit the world.

#![allow(clippy::unwrap_used)]

mod support;

use ferry_api::{AskRebalance, Bid, DeviationKind, JobId, RebalancePlan, WorkerName};
use ferry_placement::Market;
use ferry_placement::drain::Candidate;
use ferry_placement::rebalance::{Circumstances, compare, plan};
use std::num::NonZeroU32;
use support::{GIB, bid, candidate, market, wants, worker};

/// Worker `name` with 100 GiB of room, of which machines of 10 GiB each take a part.
fn house(name: &str, machines: &[&str]) -> (Bid, Vec<Candidate>) {
    let taken = 10 * u64::try_from(machines.len()).unwrap();
    let mut bid = bid(name, 100 - taken);
    bid.worker.room.used_bytes = taken * GIB;
    let machines = machines.iter().map(|machine| {
        let mut wants = wants(machine, 10);
        wants.from = worker(name);
        bid.residents.push(wants.as_resident());
        candidate(wants)
    });
    let machines = machines.collect();
    (bid, machines)
}

/// Three workers, of which the first has all machines.
fn lopsided() -> (Vec<Bid>, Vec<Candidate>) {
    let (full, machines) = house("w1", &["a", "b", "c", "d", "e", "f"]);
    (vec![full, house("w2", &[]).0, house("w3", &[]).0], machines)
}

fn made(ask: AskRebalance, machines: &[Candidate], market: Market) -> RebalancePlan {
    plan(ask, &Circumstances::default(), machines, market, JobId::fresh)
}

fn targets(plan: &RebalancePlan) -> Vec<&WorkerName> {
    plan.moves().map(|(_, planned)| planned.to.as_ref().unwrap()).collect()
}

#[test]
fn three_lopsided_workers_become_alike_by_as_few_moves_as_it_takes() {
    let (bids, machines) = lopsided();
    let made = made(AskRebalance::default(), &machines, market(bids.clone()));
    assert_eq!(made.gaps_permille(), (600, 0), "{made:#?}");
    assert_eq!(made.moves().count(), 4);
    let to = |name: &str| targets(&made).iter().filter(|to| to.as_str() == name).count();
    assert_eq!((to("w1"), to("w2"), to("w3")), (0, 2, 2));
    assert_eq!(compare(&made.parts[0], made.ask.by, &machines, market(bids)), []);
}

#[test]
fn what_stays_behind_of_machines_that_have_left_counts_for_nothing() {
    let (mut bids, machines) = lopsided();
    let stay = &machines[..2];
    bids[0].worker.room.handed_over_bytes = 40 * GIB;
    for (n, bid) in bids.iter_mut().enumerate().skip(1) {
        bid.worker.room.used_bytes = 20 * GIB;
        bid.worker.room.free_bytes = 80 * GIB;
        bid.residents = machines[2 * n..2 * n + 2].iter().map(|one| one.wants.as_resident()).collect();
    }
    let again = made(AskRebalance::default(), stay, market(bids));
    assert_eq!((again.moves().count(), again.gaps_permille().0), (0, 0), "{again:#?}");
}

#[test]
fn those_that_cannot_move_are_named_only_where_they_are_in_the_way() {
    let (bids, mut machines) = lopsided();
    machines[0].blockers.push("a job holds it".to_owned());
    let some = made(AskRebalance::default(), &machines, market(bids.clone()));
    assert!(some.moves().all(|(_, planned)| planned.machine_name.as_str() != "a"));
    assert!(some.stay.is_empty(), "{some:#?}");
    machines.iter_mut().for_each(|machine| machine.blockers = vec!["a job holds it".to_owned()]);
    let none = made(AskRebalance::default(), &machines, market(bids));
    assert_eq!((none.moves().count(), none.stay.len()), (0, 6));
}

#[test]
fn a_cordoned_worker_neither_gives_nor_takes_nor_counts() {
    let (mut bids, machines) = lopsided();
    bids[1].worker.cordon = Some(ferry_api::Cordon { since_ms: 0, reason: None });
    let made = made(AskRebalance::default(), &machines, market(bids));
    assert!(targets(&made).iter().all(|to| to.as_str() == "w3"), "{made:#?}");
    assert_eq!((made.moves().count(), made.workers.len()), (3, 2));
}

#[test]
fn turns_keep_groups_apart_on_whichever_worker_they_are() {
    let (first, mut machines) = house("w1", &["a", "b", "c", "d"]);
    let (second, others) = house("w2", &["e", "f", "g", "h"]);
    machines.extend(others);
    for machine in &mut machines {
        machine.wants.spec.placement.group = Some("pg".parse().unwrap());
    }
    let mut bids = vec![first, second];
    bids.extend(["w3", "w4"].map(|name| house(name, &[]).0));
    let ask = AskRebalance { max_parallel: NonZeroU32::new(4), ..AskRebalance::default() };
    let made = made(ask, &machines, market(bids));
    let mut turns: Vec<u32> = made.moves().filter_map(|(_, planned)| planned.wave).collect();
    turns.sort_unstable();
    assert_eq!((made.parts.len(), turns), (2, vec![1, 2, 3, 4]), "{made:#?}");
}

#[test]
fn every_way_in_which_the_world_has_changed_is_a_deviation() {
    let (bids, machines) = lopsided();
    let made = made(AskRebalance::default(), &machines, market(bids.clone()));
    let part = &made.parts[0];
    let planned = machines.iter().find(|one| one.wants.machine == part.moves[0].machine).unwrap();
    let kinds = |machines: &[Candidate], bids: Vec<Bid>| {
        let found = compare(part, made.ask.by, machines, market(bids));
        found.into_iter().map(|deviation| deviation.kind).collect::<Vec<_>>()
    };
    let without: Vec<Candidate> = machines.iter().filter(|one| *one != planned).cloned().collect();
    assert_eq!(kinds(&without, bids.clone()), [DeviationKind::Gone]);
    let silent = bids.iter().filter(|bid| Some(&bid.worker.name) != part.moves[0].to.as_ref()).cloned();
    assert_eq!(kinds(&machines, silent.collect()), [DeviationKind::TargetSilent; 2]);
    let mut filled = bids;
    filled[0].worker.room.handed_over_bytes = 60 * GIB;
    assert_eq!(
        kinds(&machines, filled),
        [DeviationKind::HelpsNoMore; 4],
        "the giver is as empty as its targets"
    );
}

#[test]
fn a_machine_that_would_only_change_sides_stays() {
    let (mut full, mut machines) = house("w1", &["a"]);
    machines[0].wants.volumes[0].bytes_in_use = 39 * GIB;
    full.worker.room.used_bytes = 40 * GIB;
    full.worker.room.free_bytes = 60 * GIB;
    let bids = [full, house("w2", &[]).0];
    assert_eq!(made(AskRebalance::default(), &machines, market(bids)).moves().count(), 0);
}
