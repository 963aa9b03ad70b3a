//! Small worlds, searched whole: every promise holds in each world that can be reached, and from each the move ends.

#![expect(clippy::print_stdout, reason = "how many worlds were searched is for people to see")]

use ferry_model::{Scope, scope, search};

/// More worlds than any search of these tests finds.
const WORLDS_MAX: usize = 1_000_000;

fn every_promise_holds(scope: Scope) {
    let report = search(scope, WORLDS_MAX);
    println!("{report}");
    assert!(report.broken.is_none(), "{report}");
    assert!(!report.is_cut && report.worlds > 1_000, "{report}");
}

#[test]
fn a_move_keeps_every_promise_whichever_agent_dies_and_whatever_call_goes_astray() {
    every_promise_holds(scope::ONE_MOVE);
}

#[test]
fn a_move_keeps_every_promise_when_a_host_goes_down() {
    every_promise_holds(scope::HOST_DOWN);
}

#[test]
fn the_volumes_of_a_machine_cross_together_or_not_at_all() {
    every_promise_holds(scope::TWO_VOLUMES);
}

#[test]
fn a_machine_moves_there_and_back_also_while_its_disk_still_follows() {
    every_promise_holds(scope::THERE_AND_BACK);
}

#[test]
fn a_machine_moves_on_to_a_third_worker() {
    every_promise_holds(scope::THREE_WORKERS);
}

#[test]
fn a_machine_that_is_stopped_and_started_by_its_owner_moves_as_it_is_wanted() {
    every_promise_holds(scope::STOPPED_AND_STARTED);
}

#[test]
fn a_machine_that_is_destroyed_leaves_nothing_on_any_worker() {
    every_promise_holds(scope::DESTROYED);
}

#[test]
fn a_worker_that_forgets_old_moves_to_it_is_not_misled_by_what_arrives_again() {
    every_promise_holds(scope::FORGOTTEN);
    every_promise_holds(scope::FORGOTTEN_OF_DESTROYED);
}

#[test]
fn records_from_a_backup_break_no_promise() {
    every_promise_holds(scope::BACKUP);
}

#[test]
fn a_machine_that_moved_there_and_back_is_not_opened_again_by_records_from_a_backup() {
    every_promise_holds(scope::BACKUP_OF_THERE_AND_BACK);
}

#[test]
fn a_machine_without_volumes_is_not_started_again_by_records_from_a_backup() {
    every_promise_holds(scope::BACKUP_WITHOUT_VOLUMES);
}

#[test]
fn a_warm_move_keeps_every_promise_whichever_agent_dies_and_whatever_call_goes_astray() {
    every_promise_holds(scope::WARM);
}

#[test]
fn a_warm_move_keeps_every_promise_when_a_host_goes_down() {
    every_promise_holds(scope::WARM_HOST_DOWN);
}

#[test]
fn a_machine_moves_warm_there_and_back_and_again_after_a_move_was_undone() {
    every_promise_holds(scope::WARM_TWICE);
}

#[test]
fn records_from_a_backup_do_not_make_a_warm_move_keep_what_has_changed() {
    every_promise_holds(scope::WARM_BACKUP);
}

#[test]
fn a_live_move_keeps_every_promise_whichever_agent_or_waiting_process_dies() {
    every_promise_holds(scope::LIVE);
}

#[test]
fn a_live_move_keeps_every_promise_when_a_host_goes_down() {
    every_promise_holds(scope::LIVE_HOST_DOWN);
}

#[test]
fn a_live_move_of_a_machine_without_volumes_leaves_no_process_behind() {
    every_promise_holds(scope::LIVE_WITHOUT_VOLUMES);
}

#[test]
fn a_machine_that_is_stopped_and_started_while_its_memory_is_to_arrive_runs_once() {
    every_promise_holds(scope::LIVE_STOPPED_AND_STARTED);
}

#[test]
fn a_live_move_keeps_every_promise_whatever_call_goes_astray() {
    every_promise_holds(scope::LIVE_ASTRAY);
}

#[test]
fn a_live_move_whose_disks_are_copied_beside_its_memory_keeps_every_promise_whichever_agent_dies() {
    every_promise_holds(scope::LIVE_WARM);
}
