//! kill -9 of either agent at every step of a move, there and back: forward, undoing, and in every call of the target.

use crate::support::crossing::{Crossing, Side, Source, Target};
use crate::support::moments::{Die, Fail};
use crate::support::until;
use ferry_api::JobState;

/// A move whose source agent dies at a moment and comes back.
fn source_dies(at: &str) {
    let mut crossing = Crossing::configured();
    crossing.run(Source, &[Die(at)]);
    crossing.run(Target, &[]);
    crossing.create_machine();
    crossing.start_move();
    crossing.wait_for_crash(Source);
    crossing.run(Source, &[]);
    let job = crossing.follow();
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
    crossing.assert_in_order(&job);
}

/// A move that fails at its last step before the hand-over, whose source agent dies at a moment of undoing.
fn source_dies_undoing(at: &str) {
    let mut crossing = Crossing::configured();
    crossing.run(Source, &[Fail("HandOver"), Die(at)]);
    crossing.run(Target, &[]);
    crossing.create_machine();
    crossing.start_move();
    crossing.wait_for_crash(Source);
    crossing.run(Source, &[]);
    let job = crossing.follow();
    assert_eq!(job.state, JobState::Failed, "{job:#?}");
    crossing.assert_in_order(&job);
}

/// A move whose target agent dies at a moment and comes back. Before the hand-over the source may lose patience
/// meanwhile; then all is as before.
fn target_dies(at: &str, ends: &[JobState]) {
    let mut crossing = Crossing::configured();
    crossing.run(Source, &[]);
    crossing.run(Target, &[Die(at)]);
    crossing.create_machine();
    crossing.start_move();
    crossing.wait_for_crash(Target);
    crossing.run(Target, &[]);
    let job = crossing.follow();
    assert!(ends.contains(&job.state), "{job:#?}");
    crossing.assert_in_order(&job);
}

/// A move that fails, whose target agent dies at a moment of releasing what it had set aside.
fn target_dies_releasing(at: &str) {
    let mut crossing = Crossing::configured();
    crossing.run(Source, &[Fail("HandOver")]);
    crossing.run(Target, &[Die(at)]);
    crossing.create_machine();
    crossing.start_move();
    crossing.wait_for_crash(Target);
    crossing.run(Target, &[]);
    let job = crossing.follow();
    assert_eq!(job.state, JobState::Failed, "{job:#?}");
    crossing.assert_in_order(&job);
}

/// A move that fails after a step was done.
fn step_fails(step: &str) {
    let mut crossing = Crossing::configured();
    crossing.run(Source, &[Fail(step)]);
    crossing.run(Target, &[]);
    crossing.create_machine();
    crossing.start_move();
    let job = crossing.follow();
    assert_eq!(job.state, JobState::Failed, "{job:#?}");
    crossing.assert_in_order(&job);
}

/// A move whose agents both die when the source is at a moment; they come back in either order.
fn both_die(at: &str, first_back: Side) {
    let mut crossing = Crossing::configured();
    crossing.run(Source, &[Die(at)]);
    crossing.run(Target, &[]);
    crossing.create_machine();
    crossing.start_move();
    crossing.wait_for_crash(Source);
    crossing.kill_agent(Target);
    crossing.assert_one_at_most();
    let then = if first_back == Source { Target } else { Source };
    crossing.run(first_back, &[]);
    crossing.run(then, &[]);
    let job = crossing.follow();
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
    crossing.assert_in_order(&job);
}

/// A test for each moment: `name: arguments;`.
macro_rules! each {
    ($play:path; $($name:ident: $($argument:expr),+;)+) => {
        $(
            #[test]
            fn $name() {
                $play($($argument),+);
            }
        )+
    };
}

mod the_move_goes_on_after_the_source_died_when {
    each! {
        super::source_dies;
        it_was_taken_on: "after started";
        plan_was_begun: "after begun:Plan";
        plan_was_done_but_not_noted: "before done:Plan";
        plan_was_done: "after done:Plan";
        reserve_was_begun: "after begun:Reserve";
        reserve_was_done_but_not_noted: "before done:Reserve";
        reserve_was_done: "after done:Reserve";
        prepare_was_begun: "after begun:Prepare";
        prepare_was_done_but_not_noted: "before done:Prepare";
        prepare_was_done: "after done:Prepare";
        stop_was_begun: "after begun:Stop";
        stop_was_done_but_not_noted: "before done:Stop";
        stop_was_done: "after done:Stop";
        seal_was_begun: "after begun:Seal";
        seal_was_done_but_not_noted: "before done:Seal";
        seal_was_done: "after done:Seal";
        the_hand_over_was_about_to_be_noted: "before done:HandOver";
        the_hand_over_was_done: "after done:HandOver";
        activate_was_begun: "after begun:Activate";
        activate_was_done_but_not_noted: "before done:Activate";
        activate_was_done: "after done:Activate";
        boot_was_begun: "after begun:Boot";
        boot_was_done_but_not_noted: "before done:Boot";
        boot_was_done: "after done:Boot";
        hydrate_was_begun: "after begun:Hydrate";
        hydrate_was_done_but_not_noted: "before done:Hydrate";
        hydrate_was_done: "after done:Hydrate";
        verify_was_begun: "after begun:Verify";
        verify_was_done_but_not_noted: "before done:Verify";
        verify_was_done: "after done:Verify";
        retire_was_begun: "after begun:Retire";
        retire_was_done_but_not_noted: "before done:Retire";
        retire_was_done: "after done:Retire";
        its_end_was_noted: "after finished";
    }
}

mod the_machine_is_home_again_after_the_source_died_when {
    each! {
        super::source_dies_undoing;
        undoing_was_decided: "after unwind_begun";
        undoing_seal_was_begun: "after undo_begun:Seal";
        seal_was_undone_but_that_not_noted: "before undone:Seal";
        seal_was_undone: "after undone:Seal";
        undoing_stop_was_begun: "after undo_begun:Stop";
        stop_was_undone_but_that_not_noted: "before undone:Stop";
        stop_was_undone: "after undone:Stop";
        undoing_prepare_was_begun: "after undo_begun:Prepare";
        prepare_was_undone_but_that_not_noted: "before undone:Prepare";
        prepare_was_undone: "after undone:Prepare";
        undoing_reserve_was_begun: "after undo_begun:Reserve";
        reserve_was_undone_but_that_not_noted: "before undone:Reserve";
        reserve_was_undone: "after undone:Reserve";
        the_failure_was_noted: "after finished";
    }
}

mod the_move_goes_on_or_is_undone_after_the_target_died_when {
    use ferry_api::JobState::{Failed, Succeeded};

    each! {
        super::target_dies;
        it_heard_reserve: "before call reserve", &[Succeeded, Failed];
        it_had_noted_the_reservation: "after crossing:reserved", &[Succeeded, Failed];
        it_answered_reserve: "after call reserve", &[Succeeded, Failed];
        it_heard_prepare: "before call prepare", &[Succeeded, Failed];
        it_had_noted_to_prepare: "after crossing:prepared", &[Succeeded, Failed];
        it_answered_prepare: "after call prepare", &[Succeeded, Failed];
    }
}

mod the_move_goes_on_after_the_target_died_when {
    use ferry_api::JobState::Succeeded;

    each! {
        super::target_dies;
        it_heard_activate: "before call activate", &[Succeeded];
        it_had_noted_that_all_is_its_own: "after crossing:activated", &[Succeeded];
        it_answered_activate: "after call activate", &[Succeeded];
        it_held_the_machine_before_its_first_instruction: "before machine:starts", &[Succeeded];
        it_had_noted_the_machine_before_its_first_instruction: "after machine:starts", &[Succeeded];
        it_heard_boot: "before call boot", &[Succeeded];
        it_had_booted_but_not_noted_that: "before crossing:booted", &[Succeeded];
        it_answered_boot: "after call boot", &[Succeeded];
        it_heard_how_is_it_going: "before call crossing", &[Succeeded];
        it_answered_how_it_is_going: "after call crossing", &[Succeeded];
        it_heard_settle: "before call settle", &[Succeeded];
        it_had_settled_but_not_noted_that: "before crossing:settled", &[Succeeded];
        it_answered_settle: "after call settle", &[Succeeded];
    }
}

mod the_machine_is_home_again_after_the_target_died_when {
    each! {
        super::target_dies_releasing;
        it_heard_release: "before call release";
        it_had_noted_the_release: "after crossing:released";
        it_answered_release: "after call release";
    }
}

#[test]
fn a_move_that_was_not_taken_on_durably_never_happened() {
    let mut crossing = Crossing::configured();
    crossing.run(Source, &[Die("before started")]);
    crossing.run(Target, &[]);
    crossing.create_machine();
    crossing.start_move();
    crossing.wait_for_crash(Source);
    crossing.run(Source, &[]);
    assert_eq!(crossing.job(), None);
    crossing.assert_at_home();
}

mod the_machine_is_home_again_after_the_move_failed_behind {
    each! {
        super::step_fails;
        plan: "Plan";
        reserve: "Reserve";
        prepare: "Prepare";
        stop: "Stop";
        seal: "Seal";
        all_but_the_hand_over: "HandOver";
    }
}

mod the_move_goes_on_after_both_died_when {
    use super::{Source, Target};

    each! {
        super::both_die;
        the_hand_over_was_about_to_be_noted: "before done:HandOver", Target;
        the_hand_over_was_done_and_the_source_came_first: "after done:HandOver", Source;
        the_hand_over_was_done_and_the_target_came_first: "after done:HandOver", Target;
        activate_was_done_but_not_noted: "before done:Activate", Source;
        boot_was_done_but_not_noted: "before done:Boot", Target;
        retire_was_done_but_not_noted: "before done:Retire", Source;
    }
}

#[test]
fn a_target_that_was_away_while_a_move_was_undone_forgets_it_when_it_is_back() {
    let mut crossing = Crossing::configured();
    crossing.run(Source, &[Fail("HandOver")]);
    crossing.run(Target, &[Die("before call release")]);
    crossing.create_machine();
    crossing.start_move();
    crossing.wait_for_crash(Target);
    let job = crossing.follow();
    crossing.run(Target, &[]);
    until("the target has forgotten the move", || crossing.is_empty(Target).then_some(()));
    crossing.assert_in_order(&job);
}
