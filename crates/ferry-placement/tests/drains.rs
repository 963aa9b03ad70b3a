//! What a drain is planned to be, and what is said when the world has changed since.

#![allow(clippy::unwrap_used)]

mod support;

use ferry_api::{AskDrain, Cordon, DeviationKind, DrainPlan, Fit, GroupName, MoveMode, Other, PlannedMove};
use ferry_placement::drain::{Candidate, plan};
use ferry_placement::{Market, Verdict, compare, judge, resident};
use std::num::{NonZeroU32, NonZeroU64};
use support::{GIB, bid, candidate, circumstances, market, wants, worker};

fn planned(ask: AskDrain, candidates: &[Candidate], market: &Market) -> DrainPlan {
    plan(ask, &circumstances(), candidates, market.clone())
}

fn of<'a>(plan: &'a DrainPlan, name: &str) -> &'a PlannedMove {
    plan.machines.iter().find(|planned| planned.machine_name.as_str() == name).unwrap()
}

fn group(name: &str) -> Option<GroupName> {
    Some(name.parse().unwrap())
}

fn reasons(wants: &ferry_placement::Requirements, bid: &ferry_api::Bid) -> String {
    match judge(wants, bid) {
        Verdict::Yes(score) => panic!("{score:?}"),
        Verdict::No(reasons) => reasons.iter().map(|reason| reason.text()).collect::<Vec<_>>().join(" | "),
    }
}

#[test]
fn a_worker_says_everything_that_it_lacks_for_a_machine() {
    let mut machine = wants("db", 20);
    machine.spec.limits.memory_bytes = NonZeroU64::new(65 * GIB);
    machine.spec.placement.region = Some("north".parse().unwrap());
    machine.spec.placement.labels.insert("disk".parse().unwrap(), "nvme".parse().unwrap());
    let mut full = bid("w1", 10);
    full.worker.cordon = Some(Cordon { since_ms: 1, reason: Some("a bad fan".to_owned()) });
    let said = reasons(&machine, &full);
    for part in [
        "cordoned (a bad fan)",
        "room for 10737418240 bytes",
        "bytes of memory",
        "no region",
        "label disk = nvme",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn who_knows_no_other_worker_is_told_what_to_do_about_it() {
    let alone = market([]).with_remedy("do this");
    assert_eq!(alone.why_nobody(&wants("db", 1)), "no other worker is known here; do this");
    assert_eq!(market([]).why_nobody(&wants("db", 1)), "no other worker is known here");
}

#[test]
fn a_worker_fits_to_the_last_byte_and_not_beyond() {
    assert!(matches!(judge(&wants("db", 10), &bid("w1", 10)), Verdict::Yes(_)));
    assert!(reasons(&wants("db", 11), &bid("w1", 10)).contains("room for"));
    let mut machine = wants("db", 1);
    machine.spec.limits.cpu_millis = NonZeroU32::new(16_000);
    let mut workers = market([bid("w1", 10)]);
    assert_eq!(workers.best(&machine), Some(worker("w1")));
    workers.take(&machine, &worker("w1"));
    let mut other = wants("web", 1);
    other.spec.limits.cpu_millis = NonZeroU32::new(1);
    assert_eq!(workers.best(&other), None);
}

#[test]
fn a_machine_that_is_to_be_apart_is_kept_so_by_either_of_the_two() {
    let mut first = wants("db-1", 1);
    let second = wants("db-2", 1);
    first.spec.placement.apart = vec![Other::Machine("db-2".parse().unwrap())];
    let mut there = bid("w1", 10);
    there.residents.push(resident(second.machine, &second.name, &second.spec));
    assert!(reasons(&first, &there).contains("to be apart from machine db-2"));
    let mut there = bid("w1", 10);
    there.residents.push(resident(first.machine, &first.name, &first.spec));
    assert!(reasons(&second, &there).contains("machine db-1 on worker w1 is to be apart from machine db-2"));
}

#[test]
fn a_machine_goes_near_what_it_wishes_to_be_near_and_elsewhere_where_that_cannot_be() {
    let mut machine = wants("web", 1);
    machine.spec.placement.near = vec![Other::Group("pg".parse().unwrap())];
    let mut database = wants("db", 1);
    database.spec.placement.group = group("pg");
    let mut fuller = bid("w2", 5);
    fuller.worker.room.used_bytes = 20 * GIB;
    fuller.residents.push(resident(database.machine, &database.name, &database.spec));
    assert_eq!(market([bid("w1", 50), fuller.clone()]).best(&machine), Some(worker("w2")));
    fuller.worker.room.free_bytes = 0;
    assert_eq!(market([bid("w1", 50), fuller]).best(&machine), Some(worker("w1")));
}

#[test]
fn machines_that_nothing_bounds_are_spread_and_ties_go_by_name() {
    let machines: Vec<Candidate> = (0..4).map(|n| candidate(wants(&format!("m{n}"), 0))).collect();
    let plan = planned(AskDrain::default(), &machines, &market([bid("w2", 10), bid("w1", 10)]));
    let to: Vec<_> = plan.machines.iter().map(|planned| planned.to.clone().unwrap()).collect();
    assert_eq!(to, ["w1", "w2", "w1", "w2"].map(worker));
}

/// Where four machines go that nothing bounds, from workers that are so busy already.
fn spread(busy_cpu_millis: [u64; 2]) -> Vec<String> {
    let machines: Vec<Candidate> = (0..4).map(|n| candidate(wants(&format!("m{n}"), 0))).collect();
    let mut bids = [bid("w1", 10), bid("w2", 10)];
    bids.iter_mut().zip(busy_cpu_millis).for_each(|(bid, busy)| bid.busy_cpu_millis = busy);
    let plan = planned(AskDrain::default(), &machines, &market(bids));
    plan.machines.iter().map(|planned| planned.to.clone().unwrap().to_string()).collect()
}

#[test]
fn machines_are_spread_also_where_their_workers_load_is_what_is_scarcest() {
    assert_eq!(spread([10_000, 10_050]), ["w1", "w2", "w1", "w2"]);
}

#[test]
fn machines_are_spread_also_over_workers_that_are_all_overloaded() {
    assert_eq!(spread([40_000, 50_000]), ["w1", "w2", "w1", "w2"]);
}

#[test]
fn no_two_of_a_group_are_in_one_wave_and_no_more_than_may_go_at_once() {
    let mut machines: Vec<Candidate> = (0..6).map(|n| candidate(wants(&format!("m{n}"), 1))).collect();
    for machine in &mut machines[..3] {
        machine.wants.spec.placement.group = group("pg");
    }
    let ask = AskDrain { max_parallel: NonZeroU32::new(3), ..AskDrain::default() };
    let plan = planned(ask, &machines, &market([bid("w1", 100)]));
    assert_eq!(plan.waves(), 3);
    let wave = |name: &str| of(&plan, name).wave.unwrap();
    assert_eq!([wave("m0"), wave("m1"), wave("m2")], [1, 2, 3]);
    assert_eq!([wave("m3"), wave("m4"), wave("m5")], [1, 1, 2]);
}

#[test]
fn a_link_carries_no_more_than_it_may() {
    let machines: Vec<Candidate> = (0..4).map(|n| candidate(wants(&format!("m{n}"), 1))).collect();
    let ask = AskDrain { max_parallel_per_link: NonZeroU32::new(1), ..AskDrain::default() };
    let plan = planned(ask, &machines, &market([bid("w1", 100), bid("w2", 100)]));
    assert_eq!(plan.machines.iter().map(|planned| planned.wave.unwrap()).collect::<Vec<_>>(), [1, 1, 2, 2]);
}

#[test]
fn the_end_is_reckoned_by_the_bandwidth_and_machines_that_miss_the_deadline_are_told() {
    let machines: Vec<Candidate> = (0..2).map(|n| candidate(wants(&format!("m{n}"), 1))).collect();
    let ask = AskDrain {
        max_parallel: NonZeroU32::new(1),
        bandwidth_bytes_per_s: NonZeroU64::new(GIB / 10),
        deadline_ms: Some(15_000),
        ..AskDrain::default()
    };
    let plan = planned(ask, &machines, &market([bid("w1", 100)]));
    assert_eq!((of(&plan, "m0").whole_after_ms, plan.ends_after_ms()), (Some(10_001), Some(20_001)));
    assert_eq!(plan.late().map(|late| late.machine_name.as_str()).collect::<Vec<_>>(), ["m1"]);
    let plan = planned(AskDrain::default(), &machines, &market([bid("w1", 100)]));
    assert_eq!((plan.ends_after_ms(), plan.late().count()), (None, 0));
}

#[test]
fn only_and_except_are_about_names_and_ids() {
    let machines: Vec<Candidate> = (0..3).map(|n| candidate(wants(&format!("m{n}"), 1))).collect();
    let only = vec!["m0".parse().unwrap(), machines[1].wants.machine.into()];
    let ask = AskDrain { only, except: vec!["m0".parse().unwrap()], ..AskDrain::default() };
    let plan = planned(ask, &machines, &market([bid("w1", 100)]));
    assert_eq!(plan.machines.iter().map(|m| m.machine_name.as_str()).collect::<Vec<_>>(), ["m1"]);
}

#[test]
fn a_machine_that_nobody_takes_says_what_is_missing_where() {
    let machines = [candidate(wants("big", 200)), candidate(wants("small", 1))];
    let silent = (worker("w9"), Err("it does not answer".to_owned()));
    let workers = Market::new([(worker("w1"), Ok(bid("w1", 100))), silent]);
    let plan = planned(AskDrain::default(), &machines, &workers);
    let said = of(&plan, "big").blocker().unwrap();
    assert!(
        said.contains("worker w1 has room for") && said.contains("worker w9 gives no bid: it does not"),
        "{said}"
    );
    assert_eq!(of(&plan, "small").to, Some(worker("w1")));
    assert_eq!((plan.moves().count(), plan.blocked().count(), plan.silent.len()), (1, 1, 1));
}

#[test]
fn force_breaks_rules_and_says_which_but_makes_no_room() {
    let mut ruled = candidate(wants("ruled", 1));
    ruled.wants.spec.placement.region = Some("north".parse().unwrap());
    let machines = [ruled, candidate(wants("big", 200))];
    let ask = AskDrain { force: true, ..AskDrain::default() };
    let plan = planned(ask, &machines, &market([bid("w1", 100)]));
    assert_eq!(of(&plan, "ruled").to, Some(worker("w1")));
    assert!(of(&plan, "ruled").costs[0].contains("belongs to north"));
    assert!(of(&plan, "big").blocker().is_some());
    let kind = planned(AskDrain::default(), &machines, &market([bid("w1", 100)]));
    assert!(of(&kind, "ruled").blocker().unwrap().contains("belongs to north"));
}

#[test]
fn what_keeps_a_machine_at_home_is_told_and_takes_no_room() {
    let mut held = candidate(wants("held", 100));
    held.blockers = vec!["machine held is held by a job".to_owned()];
    let plan = planned(AskDrain::default(), &[held, candidate(wants("m", 60))], &market([bid("w1", 100)]));
    assert_eq!(of(&plan, "held").blocker(), Some("machine held is held by a job"));
    assert_eq!(of(&plan, "m").to, Some(worker("w1")));
}

#[test]
fn a_plan_deviates_in_nothing_from_the_world_that_it_was_made_for() {
    let machines: Vec<Candidate> = (0..5).map(|n| candidate(wants(&format!("m{n}"), 10))).collect();
    let workers = market([bid("w1", 30), bid("w2", 25)]);
    let plan = planned(AskDrain::default(), &machines, &workers);
    assert_eq!(plan.moves().count(), 5);
    assert_eq!(compare(&plan, &machines, workers), []);
}

#[test]
fn each_way_in_which_the_world_has_changed_since_the_plan_is_told() {
    let names = ["gone", "back", "held", "silent", "refused", "warm", "grew"];
    let mut machines: Vec<Candidate> = names.iter().map(|name| candidate(wants(name, 1))).collect();
    for (machine, label) in [(3, "w2"), (4, "w3")] {
        let rules = &mut machines[machine].wants.spec.placement;
        rules.labels.insert("at".parse().unwrap(), label.parse().unwrap());
    }
    let labelled = |name: &str| {
        let mut bid = bid(name, 50);
        bid.worker.labels.insert("at".parse().unwrap(), name.parse().unwrap());
        bid
    };
    let before = market([labelled("w1"), labelled("w2"), labelled("w3")]);
    let plan = planned(AskDrain::default(), &machines, &before);
    assert_eq!(plan.moves().count(), names.len());

    machines[1].generation = machines[1].generation.next().next();
    machines[2].blockers = vec!["machine held is held by a job".to_owned()];
    machines[5].mode = MoveMode::Warm;
    machines[6].wants.volumes[0].bytes_in_use = 2 * GIB;
    machines.push(candidate(wants("came", 1)));
    machines.remove(0);
    let mut refusing = labelled("w3");
    refusing.troubles = vec!["its disk is read-only".to_owned()];
    let after = Market::new([
        (worker("w1"), Ok(labelled("w1"))),
        (worker("w2"), Err("it does not answer".to_owned())),
        (worker("w3"), Ok(refusing)),
    ]);
    let deviations = compare(&plan, &machines, after);
    let kind_of = |name: &str| {
        let found = deviations.iter().find(|deviation| deviation.machine_name.as_str() == name);
        found.map(|deviation| deviation.kind)
    };
    assert_eq!(kind_of("gone"), Some(DeviationKind::Gone));
    assert_eq!(kind_of("back"), Some(DeviationKind::ChangedHands));
    assert_eq!(kind_of("held"), Some(DeviationKind::Blocked));
    assert_eq!(kind_of("silent"), Some(DeviationKind::TargetSilent));
    assert_eq!(kind_of("refused"), Some(DeviationKind::TargetRefuses));
    let of_warm = deviations.iter().filter(|deviation| deviation.machine_name.as_str() == "warm");
    assert!(of_warm.clone().any(|deviation| deviation.kind == DeviationKind::OtherMode));
    let of_grown = deviations.iter().filter(|deviation| deviation.machine_name.as_str() == "grew");
    assert!(of_grown.clone().any(|deviation| deviation.kind == DeviationKind::Grew));
    assert_eq!(kind_of("came"), Some(DeviationKind::Came));
}

#[test]
fn workers_are_explained_with_the_best_first_and_the_silent_last() {
    let workers = Market::new([
        (worker("w1"), Err("it does not answer".to_owned())),
        (worker("w2"), Ok(bid("w2", 1))),
        (worker("w3"), Ok(bid("w3", 100))),
        (worker("w4"), Ok(bid("w4", 200))),
    ]);
    let explained = workers.explain(&wants("db", 10));
    let order: Vec<&str> = explained.iter().map(|judged| judged.worker.as_str()).collect();
    assert_eq!(order, ["w4", "w3", "w2", "w1"]);
    assert!(matches!(explained[2].fit, Fit::No { .. }) && matches!(explained[3].fit, Fit::Silent { .. }));
}
