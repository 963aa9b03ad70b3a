//! The drain of a worker with a thousand machines to two hundred others. What is asserted is the work; the time is printed
//! (`cargo test -p ferry-placement --test fleet --release -- --nocapture`).

#![allow(clippy::unwrap_used)]

mod support;

use ferry_api::{AskDrain, Other};
use ferry_placement::drain::{Candidate, plan};
use ferry_placement::resident;
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Instant;
use support::{bid, candidate, circumstances, market, wants};

const MACHINES: usize = 1_000;
const WORKERS: usize = 200;
const RESIDENTS: usize = 50;

#[test]
fn a_thousand_machines_find_places_on_two_hundred_workers_that_have_fifty_each() {
    let machine = |n: usize| {
        let mut wants = wants(&format!("m{n}"), 1 + (n as u64 * 7) % 13);
        // Groups of five that stand in for each other, each on a worker of its own.
        let group = format!("g{}", n / 5).parse::<ferry_api::GroupName>().unwrap();
        wants.spec.placement.apart = vec![Other::Group(group.clone())];
        wants.spec.placement.group = Some(group);
        candidate(wants)
    };
    let machines: Vec<Candidate> = (0..MACHINES).map(machine).collect();
    let workers = (0..WORKERS).map(|n| {
        let mut bid = bid(&format!("w{}", n + 1), 100);
        bid.residents = (0..RESIDENTS)
            .map(|r| {
                let there = wants(&format!("r{n}-{r}"), 1);
                resident(there.machine, &there.name, &there.spec)
            })
            .collect();
        bid
    });
    let workers = market(workers);
    let ask = AskDrain { max_parallel: NonZeroU32::new(8), ..AskDrain::default() };
    let begun = Instant::now();
    let plan = plan(ask, &circumstances(), &machines, workers);
    println!("{MACHINES} machines over {WORKERS} workers: planned in {:?}", begun.elapsed());

    assert_eq!((plan.moves().count(), plan.blocked().count()), (MACHINES, 0));
    assert_eq!(plan.waves(), (MACHINES / 8) as u32);
    let targets: BTreeSet<_> = plan.moves().filter_map(|planned| planned.to.clone()).collect();
    assert_eq!(targets.len(), WORKERS, "they are spread");
}
