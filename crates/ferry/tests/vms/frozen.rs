//! Agents that die while the file systems of their VM are frozen for a move: the next one thaws it, whatever becomes of the move.

use super::live::{follow, goes_on, memo, start_move};
use super::support::cluster::{Cluster, Worker};
use super::support::moments::Die;
use super::support::{MKE2FS, QEMU, needs, skip, test_name};
use super::{HOOKS, ask_inside, create, guest, wait_for_more};
use ferry_api::{Arrival, Job, JobState, Machine};

/// Begins a move whose agent dies as soon as the VM is frozen for it.
fn move_that_dies_frozen(here: &Worker, there: &Worker, machine: &Machine) -> Job {
    here.kill();
    here.start_wishing(&[Die("after freeze")]);
    let job = start_move(here, &there.name);
    here.wait_for_end();
    assert_eq!(ask_inside(here, machine, "guest-fsfreeze-status"), "frozen");
    job
}

#[test]
fn a_vm_whose_agent_dies_while_it_is_frozen_is_thawed_by_the_next_one_and_goes_on() {
    needs!(QEMU, MKE2FS);
    let Some((kernel, initrd)) = guest() else {
        return skip(test_name!(), "target/lab/vm (cargo xtask lab vm)");
    };
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let machine = create(w1, cluster.dir(), (&kernel, &initrd), &format!("accel = \"tcg\"\n{HOOKS}"));
    let boot = goes_on(w1);

    let job = move_that_dies_frozen(w1, w2, &machine);
    w1.start();
    let job = follow(w1, &job);
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
    assert_eq!(memo(&job, "Boot")["arrival"], serde_json::to_value(Arrival::Live).unwrap(), "{job:#?}");
    assert_eq!(goes_on(w2), boot);

    // Back, but whoever is to take it goes, so that the move is given up before it freezes anything again.
    let job = move_that_dies_frozen(w2, w1, &w2.machine("vm"));
    w1.kill();
    w2.start();
    wait_for_more(w2);
    let job = follow(w2, &job);
    assert_eq!(job.state, JobState::Failed, "{job:#?}");
    assert_eq!(goes_on(w2), boot);
    assert_eq!(w2.ferry(&["machine", "stop", "vm"]).code, Some(0));
    // An agent that did not start it does not hear its exit code.
    assert!(w2.machines_said().contains("VM bye"), "it was not shut down");
}
