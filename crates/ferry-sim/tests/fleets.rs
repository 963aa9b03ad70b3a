//! Drains of several workers of a fleet at once.

use ferry_sim::fleet::{Fleet, drain};

#[test]
fn two_of_ten_workers_are_emptied_at_once_while_agents_die_and_every_machine_runs_once() {
    let fleet = Fleet { seed: 1, workers: 10, machines: 100, drained: 2, kills_every_ms: Some(5_000) };
    let drained = drain(fleet);
    assert_eq!((drained.found.as_deref(), drained.moves), (None, 20));
    assert!(drained.kills > 0 && drained.calls > 0, "{drained:?}");
}
