//! What holds of every plan, whatever the workers and machines are.

#![allow(clippy::unwrap_used)]

mod support;

use ferry_api::{AskDrain, BalanceBy, Bid, DrainPlan, Other, count_from};
use ferry_placement::drain::{Candidate, plan};
use ferry_placement::rebalance::rebalance;
use ferry_placement::{Market, Requirements, Tolerance, Verdict, judge};
use proptest::option::of as maybe;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroU64};
use support::{GIB, bid, candidate, circumstances, market, wants, worker};

/// A machine: its disk, memory and processors, its group, whether it is apart from that or from another one.
#[derive(Clone, Debug)]
struct Drawn {
    disk_gib: u64,
    memory_gib: Option<u64>,
    cpus: Option<u32>,
    group: Option<u8>,
    apart: Option<u8>,
    region: Option<bool>,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    (0..40_u64, maybe(1..40_u64), maybe(1..9_u32), maybe(0..3_u8), maybe(0..3_u8), maybe(any::<bool>()))
        .prop_map(|(disk_gib, memory_gib, cpus, group, apart, region)| Drawn {
            disk_gib,
            memory_gib,
            cpus,
            group,
            apart,
            region,
        })
}

fn machines(drawn: &[Drawn]) -> Vec<Candidate> {
    count_from(1);
    let region = |north: bool| if north { "north" } else { "south" }.parse().unwrap();
    let machine = |(n, of): (usize, &Drawn)| {
        let mut wants = wants(&format!("m{n}"), of.disk_gib);
        wants.spec.limits.memory_bytes = of.memory_gib.and_then(|gib| NonZeroU64::new(gib * GIB));
        wants.spec.limits.cpu_millis = of.cpus.and_then(|cpus| NonZeroU32::new(cpus * 1_000));
        let rules = &mut wants.spec.placement;
        rules.group = of.group.map(|group| format!("g{group}").parse().unwrap());
        rules.apart =
            of.apart.map(|group| Other::Group(format!("g{group}").parse().unwrap())).into_iter().collect();
        rules.region = of.region.map(region);
        candidate(wants)
    };
    drawn.iter().enumerate().map(machine).collect()
}

fn bids() -> impl Strategy<Value = Vec<Bid>> {
    let one = (0..120_u64, any::<bool>(), any::<bool>(), 0..4_u8);
    proptest::collection::vec(one, 1..6).prop_map(|workers| {
        let of = |(n, (free, cordoned, north, _)): (usize, &(u64, bool, bool, u8))| {
            let mut bid = bid(&format!("w{}", n + 1), *free);
            bid.worker.cordon =
                (*cordoned && n > 0).then_some(ferry_api::Cordon { since_ms: 1, reason: None });
            bid.worker.region = Some(if *north { "north" } else { "south" }.parse().unwrap());
            bid
        };
        workers.iter().enumerate().map(of).collect()
    })
}

fn ask() -> impl Strategy<Value = AskDrain> {
    (proptest::option::of(1..4_u32), proptest::option::of(1..3_u32), any::<bool>()).prop_map(
        |(all, per_link, force)| AskDrain {
            max_parallel: all.and_then(NonZeroU32::new),
            max_parallel_per_link: per_link.and_then(NonZeroU32::new),
            force,
            ..AskDrain::default()
        },
    )
}

/// Machines by their target.
fn by_target<'a>(plan: &DrainPlan, machines: &'a [Candidate]) -> BTreeMap<String, Vec<&'a Requirements>> {
    let mut by_target: BTreeMap<String, Vec<&Requirements>> = BTreeMap::new();
    for planned in plan.moves() {
        let machine = machines.iter().find(|machine| machine.wants.machine == planned.machine).unwrap();
        by_target.entry(planned.to.clone().unwrap().to_string()).or_default().push(&machine.wants);
    }
    by_target
}

fn are_apart(one: &Requirements, other: &Requirements) -> bool {
    let from = |one: &Requirements, other: &Requirements| {
        let other = (&other.name, other.spec.placement.group.as_ref());
        one.spec.placement.apart.iter().any(|apart| apart.is(other.0, other.1))
    };
    from(one, other) || from(other, one)
}

proptest! {
    #[test]
    fn no_worker_is_ever_overfilled(drawn in proptest::collection::vec(drawn(), 0..25), bids in bids(), ask in ask()) {
        let machines = machines(&drawn);
        let plan = plan(ask, &circumstances(), &machines, market(bids.clone()));
        for (target, taken) in by_target(&plan, &machines) {
            let bid = bids.iter().find(|bid| bid.worker.name.as_str() == target).unwrap();
            let disk: u64 = taken.iter().map(|wants| wants.volumes[0].bytes_in_use).sum();
            prop_assert!(disk <= bid.worker.room.free_bytes);
            let limits = taken.iter().map(|wants| &wants.spec.limits);
            let memory: u64 = limits.clone().filter_map(|limits| limits.memory_bytes).map(NonZeroU64::get).sum();
            prop_assert!(memory <= bid.capacity.memory_bytes);
            let cpu: u32 = limits.filter_map(|limits| limits.cpu_millis).map(NonZeroU32::get).sum();
            prop_assert!(u64::from(cpu) <= bid.capacity.cpu_millis);
        }
    }

    #[test]
    fn a_worker_that_says_no_is_never_taken_and_what_is_to_be_apart_stays_so_unless_forced(
        drawn in proptest::collection::vec(drawn(), 0..25), bids in bids(), ask in ask(),
    ) {
        let machines = machines(&drawn);
        let forced = ask.force;
        let plan = plan(ask, &circumstances(), &machines, market(bids.clone()));
        for (target, taken) in by_target(&plan, &machines) {
            let bid = bids.iter().find(|bid| bid.worker.name.as_str() == target).unwrap();
            prop_assert!(bid.worker.cordon.is_none());
            for (at, wants) in taken.iter().enumerate() {
                let costs = &plan.machines.iter().find(|planned| planned.machine == wants.machine).unwrap().costs;
                prop_assert!(forced || costs.is_empty());
                let verdict = judge(wants, bid);
                prop_assert!(matches!(verdict, Verdict::Yes(_)) || (!costs.is_empty() && verdict.costs().is_some()));
                let clash = taken.iter().take(at).any(|other| are_apart(wants, other));
                prop_assert!(!clash || forced);
            }
        }
    }

    #[test]
    fn every_machine_is_in_the_plan_once_and_one_that_stays_had_no_worker(
        drawn in proptest::collection::vec(drawn(), 0..25), bids in bids(), ask in ask(),
    ) {
        let machines = machines(&drawn);
        let plan = plan(ask, &circumstances(), &machines, market(bids.clone()));
        let planned: BTreeSet<_> = plan.machines.iter().map(|planned| planned.machine).collect();
        prop_assert_eq!((planned.len(), plan.machines.len()), (machines.len(), machines.len()));
        let mut after = market(bids);
        for planned in plan.moves() {
            let machine = machines.iter().find(|machine| machine.wants.machine == planned.machine).unwrap();
            after.take(&machine.wants, planned.to.as_ref().unwrap());
            prop_assert!(planned.wave.is_some());
        }
        for planned in plan.blocked() {
            let machine = machines.iter().find(|machine| machine.wants.machine == planned.machine).unwrap();
            prop_assert_eq!(after.best(&machine.wants), None);
            prop_assert!(planned.to.is_none() && planned.wave.is_none());
        }
    }

    #[test]
    fn waves_keep_groups_and_limits_and_none_is_empty(
        drawn in proptest::collection::vec(drawn(), 0..25), bids in bids(), ask in ask(),
    ) {
        let machines = machines(&drawn);
        let plan = plan(ask.clone(), &circumstances(), &machines, market(bids));
        for wave in 1..=plan.waves() {
            let inside: Vec<_> = plan.moves().filter(|planned| planned.wave == Some(wave)).collect();
            prop_assert!(!inside.is_empty());
            let most = ask.max_parallel.map_or(usize::MAX, |most| most.get() as usize);
            prop_assert!(inside.len() <= most);
            let groups: Vec<_> = inside.iter().filter_map(|planned| planned.group.clone()).collect();
            prop_assert_eq!(groups.iter().collect::<BTreeSet<_>>().len(), groups.len());
            let per_link = ask.max_parallel_per_link.map_or(usize::MAX, |most| most.get() as usize);
            for planned in &inside {
                prop_assert!(inside.iter().filter(|other| other.to == planned.to).count() <= per_link);
            }
        }
    }

    #[test]
    fn the_same_facts_in_any_order_give_the_same_plan(
        drawn in proptest::collection::vec(drawn(), 0..25), bids in bids(), ask in ask(),
    ) {
        let mut machines = machines(&drawn);
        let first = plan(ask.clone(), &circumstances(), &machines, market(bids.clone()));
        machines.reverse();
        let second = plan(ask, &circumstances(), &machines, market(bids.into_iter().rev()));
        prop_assert_eq!(first, second);
    }

    #[test]
    fn a_plan_fits_the_world_that_it_was_made_for(
        drawn in proptest::collection::vec(drawn(), 0..25), bids in bids(), ask in ask(),
    ) {
        let machines = machines(&drawn);
        let plan = plan(ask, &circumstances(), &machines, market(bids.clone()));
        prop_assert_eq!(ferry_placement::compare(&plan, &machines, market(bids)), []);
    }

    #[test]
    fn rebalancing_never_widens_the_gap_and_moves_each_machine_once_to_a_worker_that_takes_it(
        homes in proptest::collection::vec((drawn(), 0..4_usize), 0..25), moves_max in 0..12_usize, by_room in any::<bool>(),
        done_of_them in any::<u16>(),
    ) {
        let drawn: Vec<Drawn> = homes.iter().map(|(drawn, _)| drawn.clone()).collect();
        let mut all: Vec<Requirements> = machines(&drawn).into_iter().map(|machine| machine.wants).collect();
        let mut workers: Vec<Bid> = (0..4).map(|n| bid(&format!("w{n}"), 1_000)).collect();
        for bid in &mut workers {
            bid.worker.region = Some("north".parse().unwrap());
        }
        for (wants, (_, home)) in all.iter_mut().zip(&homes) {
            wants.from = worker(&format!("w{home}"));
            let bytes = wants.disk_bytes();
            workers[*home].worker.room.used_bytes += bytes;
            workers[*home].worker.room.free_bytes -= bytes;
            workers[*home].residents.push(wants.as_resident());
        }
        let by = if by_room { BalanceBy::Room } else { BalanceBy::Load };
        let tolerance = Tolerance { gap_permille: 20, moves_max };
        let done = rebalance(&all, market(workers.clone()), by, tolerance);
        prop_assert!(done.gap_after_permille <= done.gap_before_permille);
        prop_assert!(done.moves.len() <= moves_max);
        prop_assert!(done.gap_before_permille > 20 || done.moves.is_empty());
        let moved: BTreeSet<_> = done.moves.iter().map(|one| one.machine).collect();
        prop_assert_eq!(moved.len(), done.moves.len());
        let givers: BTreeSet<_> = done.moves.iter().map(|one| &one.from).collect();
        prop_assert!(done.moves.iter().all(|one| !givers.contains(&one.to)), "a worker gives or takes");
        for one in &done.moves {
            let wants = all.iter().find(|wants| wants.machine == one.machine).unwrap();
            prop_assert!(one.from == wants.from && one.to != one.from);
            prop_assert!(wants.spec.placement.region.as_ref().is_none_or(|region| region.as_str() == "north"));
        }
        // Some of the moves, and with that any state on the way, in whatever order they end.
        for (_, one) in done.moves.iter().enumerate().filter(|(at, _)| done_of_them >> at & 1 == 1) {
            let wants = all.iter().find(|wants| wants.machine == one.machine).unwrap();
            for bid in &mut workers {
                if bid.worker.name == one.from {
                    bid.worker.room.handed_over_bytes += wants.disk_bytes();
                    bid.residents.retain(|there| there.machine != wants.machine);
                } else if bid.worker.name == one.to {
                    bid.worker.room.used_bytes += wants.disk_bytes();
                    bid.worker.room.free_bytes -= wants.disk_bytes();
                    bid.residents.push(wants.as_resident());
                }
            }
        }
        let now = rebalance(&[], market(workers), by, tolerance);
        prop_assert!(now.gap_before_permille <= done.gap_before_permille, "any part of it is as safe as all");
    }
}

#[test]
fn rebalancing_moves_few_machines_and_stops_when_workers_are_alike() {
    let mut full = bid("w1", 60);
    let mut machines = Vec::new();
    for n in 0..4 {
        let mut wants = wants(&format!("m{n}"), 10);
        wants.from = worker("w1");
        full.residents.push(wants.as_resident());
        machines.push(wants);
    }
    full.worker.room.used_bytes = 40 * GIB;
    let workers = market([full, bid("w2", 100)]);
    let tolerance = Tolerance { gap_permille: 50, moves_max: 10 };
    let done = rebalance(&machines, workers.clone(), BalanceBy::Room, tolerance);
    assert_eq!((done.moves.len(), done.gap_before_permille, done.gap_after_permille), (2, 400, 0));
    let silent: Market = Market::default();
    assert!(rebalance(&machines, silent, BalanceBy::Room, tolerance).moves.is_empty());
    assert!(
        rebalance(&machines, workers, BalanceBy::Load, tolerance).moves.is_empty(),
        "nothing bounds their load"
    );
}
