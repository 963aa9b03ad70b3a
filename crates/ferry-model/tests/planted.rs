//! Planted mistakes: each is found, with the way that leads to it.

#![expect(clippy::print_stdout, reason = "how many worlds were searched is for people to see")]

use ferry_model::{Bug, Scope, scope, search};

/// More worlds than any of these mistakes hides behind.
const WORLDS_MAX: usize = 1_000_000;

/// Searches a world with a mistake in it, in which without the mistake no promise is broken; answers the last thing that
/// happens, and the promise that is broken.
fn found(scope: Scope, bug: Bug) -> (String, String) {
    let report = search(scope.with(bug), WORLDS_MAX);
    let found = report.broken.expect("the mistake is found");
    println!("{bug:?}: {found}");
    (found.trace.last().expect("something happened").clone(), found.promise)
}

#[test]
fn a_target_that_is_told_before_the_copies_are_marked_is_a_second_writer() {
    let (last, promise) = found(scope::BACKUP, Bug::TellsBeforeMark);
    assert!(last.contains("`activate` of job 1 arrives"), "{last}");
    assert_eq!(promise, "volume 1 is open for writing 2 times");
}

#[test]
fn who_asks_is_misled_by_a_target_that_is_told_before_the_copies_are_marked() {
    let report = search(scope::BACKUP.with(Bug::TellsBeforeMark).asked(), WORLDS_MAX);
    let found = report.broken.expect("the mistake is found");
    println!("{found}");
    assert_eq!(
        found.promise,
        "nobody can tell which machine is the real one: those who hear w1 alone are told something else for sure"
    );
}

#[test]
fn a_mark_that_is_not_looked_at_lets_two_write() {
    let (_, promise) = found(scope::BACKUP, Bug::IgnoresMark);
    assert_eq!(promise, "volume 1 is open for writing 2 times");
}

#[test]
fn a_mark_that_goes_with_its_copy_lets_two_write() {
    let (last, promise) = found(scope::BACKUP_OF_THERE_AND_BACK, Bug::ForgetsMark);
    assert!(last.contains("`activate` of job 1 arrives"), "{last}");
    assert_eq!(promise, "volume 1 is open for writing 2 times");
}

#[test]
fn a_mark_that_is_not_looked_at_lets_a_machine_without_volumes_run_twice() {
    let (_, promise) = found(scope::BACKUP_WITHOUT_VOLUMES, Bug::IgnoresMark);
    assert_eq!(promise, "the machine runs 2 times");
}

#[test]
fn an_agent_that_acts_before_its_journal_is_durable_runs_the_machine_twice() {
    let (_, promise) = found(scope::ONE_MOVE, Bug::ActsBeforeDurable);
    assert_eq!(promise, "the machine runs 2 times");
}

#[test]
fn a_machine_that_is_called_stopped_too_soon_runs_twice() {
    let (_, promise) = found(scope::ONE_MOVE, Bug::CallsItStopped);
    assert_eq!(promise, "the machine runs 2 times");
}

#[test]
fn a_source_that_retires_before_all_has_arrived_loses_writes() {
    let (last, promise) = found(scope::ONE_MOVE, Bug::RetiresEarly);
    assert!(last.contains("the retired copy 1@1 is deleted"), "{last}");
    assert!(
        promise.ends_with("holds nothing that can be read (00000000000000000000000001@2 on w2)"),
        "{promise}"
    );
}

#[test]
fn a_base_that_is_asked_for_what_has_changed_loses_writes() {
    let (last, promise) = found(scope::THERE_AND_BACK, Bug::IgnoresChanges);
    assert!(last.contains("1@3 fetches 0 from its source or base"), "{last}");
    assert!(promise.contains("should hold write 1, which the machine was told is durable"), "{promise}");
}

#[test]
fn a_base_that_is_deleted_while_it_is_read_is_found() {
    let (last, promise) = found(scope::THERE_AND_BACK, Bug::DeletesBase);
    assert!(last.contains("the retired copy 1@1 is deleted"), "{last}");
    assert_eq!(promise, "the copy of generation 1 is gone while another one reads it");
}

#[test]
fn a_reservation_that_is_deleted_unseen_may_be_the_only_copy() {
    let (last, promise) = found(scope::BACKUP_OF_TWO_MOVES, Bug::DeletesUnseen);
    assert!(last.contains("the sweep hears that job 1 was undone"), "{last}");
    assert!(promise.contains("should hold write 1, which the machine was told is durable"), "{promise}");
}

#[test]
fn a_cancelled_move_that_is_reported_before_the_machine_is_up_is_found() {
    let (_, promise) = found(scope::ONE_MOVE, Bug::ReportsTooSoon);
    assert_eq!(promise, "a move was reported as undone while its machine did not run at home");
}

#[test]
fn a_call_that_is_not_made_again_leaves_a_move_that_never_ends() {
    let (_, promise) = found(scope::ONE_MOVE, Bug::ForgetsToRetry);
    assert_eq!(promise, "from here on nothing goes wrong, and yet the move never ends as it should");
}

#[test]
fn a_target_that_gives_up_what_is_still_to_come_is_found() {
    let (_, promise) = found(scope::THERE_AND_BACK, Bug::SweepsTooMuch);
    assert_eq!(promise, "from here on nothing goes wrong, and yet the move never ends as it should");
}

#[test]
fn a_machine_that_its_owner_stopped_and_the_target_starts_is_found() {
    let (_, promise) = found(scope::STOPPED_AND_STARTED, Bug::StartsWhatWasStopped);
    assert_eq!(promise, "from here on nothing goes wrong, and yet the move never ends as it should");
}

#[test]
fn a_machine_of_which_one_volume_is_handed_over_and_one_is_not_is_found() {
    let (_, promise) = found(scope::TWO_VOLUMES, Bug::HandsOverOne);
    assert_eq!(promise, "volume 2 did not cross with its machine");
}

#[test]
fn a_worker_that_forgets_a_move_too_soon_lets_in_a_machine_that_was_destroyed() {
    let (last, promise) = found(scope::FORGOTTEN_OF_DESTROYED, Bug::ForgetsTooSoon);
    assert_eq!(last, "w2: `reserve` of job 1 arrives, and the answer goes astray");
    assert_eq!(promise, "from here on nothing goes wrong, and yet the move never ends as it should");
}

#[test]
fn what_was_copied_ahead_and_has_changed_since_is_found_to_be_kept() {
    let (_, promise) = found(scope::WARM, Bug::KeepsWhatChanged);
    assert!(promise.contains("should hold write 1, which the machine was told is durable"), "{promise}");
}

#[test]
fn a_copy_that_is_opened_again_and_keeps_its_marks_vouches_for_what_was_copied_before() {
    let (_, promise) = found(scope::WARM_BACKUP, Bug::UnsealKeepsMarks);
    assert!(promise.contains("should hold write 1, which the machine was told is durable"), "{promise}");
}

#[test]
fn clones_that_are_vouched_for_without_a_look_at_the_marks_lose_writes() {
    let (_, promise) = found(scope::WARM_BACKUP, Bug::VouchesUnseen);
    assert!(promise.contains("should hold write 1, which the machine was told is durable"), "{promise}");
}

#[test]
fn a_machine_that_is_started_anew_before_its_source_says_that_it_runs_nowhere_else_runs_twice() {
    let (last, promise) = found(scope::LIVE, Bug::StartsUnasked);
    assert_eq!(last, "w2: the minder looks at the machine");
    assert_eq!(promise, "the machine runs 2 times");
}

#[test]
fn a_machine_whose_memory_could_not_leave_and_that_is_not_ended_runs_twice() {
    let (last, promise) = found(scope::LIVE, Bug::LeavesItRunning);
    assert!(last.contains("`boot` of job 1 arrives"), "{last}");
    assert_eq!(promise, "the machine runs 2 times");
}
