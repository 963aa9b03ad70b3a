//! Machines of one group that move at once: never two are down, and all moves end; and mistakes by which that would not be so.

#![expect(clippy::print_stdout, reason = "how many worlds were searched is for people to see")]

use ferry_model::{GroupBug, Groups, search_groups};

/// More worlds than any search of these tests finds.
const WORLDS_MAX: usize = 2_000_000;
/// What is broken when two are down.
const TWO_DOWN: &str = "two machines of one group are down at the same time";

#[test]
fn never_two_machines_of_a_group_are_down_and_every_move_ends() {
    for (what, scope) in Groups::all() {
        let report = search_groups(scope, WORLDS_MAX);
        println!("{what}: {report}");
        assert!(report.broken.is_none(), "{what}: {report}");
        assert!(!report.is_cut && report.worlds > 100, "{what}: {report}");
    }
}

/// What is broken by a mistake.
fn broken_by(scope: Groups, bug: GroupBug) -> String {
    let report = search_groups(scope.with(bug), WORLDS_MAX);
    println!("{bug:?}: {report}");
    report.broken.expect("the mistake is found").promise
}

#[test]
fn movers_that_ask_in_different_orders_wait_for_each_other() {
    let once = Groups { attempts: 1, ..Groups::of(2, &[0, 1], 0) };
    let promise = broken_by(once, GroupBug::AsksItselfFirst);
    assert_eq!(promise, "from here on nothing goes wrong, and yet a move never ends");
}

#[test]
fn movers_that_do_not_ask_themselves_give_to_each_other() {
    assert_eq!(broken_by(Groups::of(2, &[0, 1], 0), GroupBug::SkipsItself), TWO_DOWN);
}

#[test]
fn each_other_mistake_of_a_worker_lets_two_machines_down() {
    for bug in [
        GroupBug::GivesUnasked,
        GroupBug::ForgetsGiven,
        GroupBug::SameLeaseAgain,
        GroupBug::ForgetsNeed,
        GroupBug::EndsAny,
        GroupBug::StopsEarly,
    ] {
        // One worker is enough: where several have given, the others make up for one that is wrong.
        assert_eq!(broken_by(Groups::of(1, &[0, 0], 1), bug), TWO_DOWN, "{bug:?}");
    }
}
