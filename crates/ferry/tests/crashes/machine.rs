//! kill -9 of the machine while it is moved, in each step: it runs in the end where the move left it, once, with all it ever wrote.

use crate::support::crossing::{Crossing, Source, Target};
use crate::support::moments::{Crash, has_crashed};
use ferry_api::{JobState, MoveMode};

/// A move during which the machine dies on its source at this moment.
fn machine_dies_at_home(at: &str, mode: MoveMode) {
    let mut crossing = Crossing::configured();
    let dir = crossing.worker(Source).dir.clone();
    crossing.run(Source, &[Crash(at, &dir)]);
    crossing.run(Target, &[]);
    crossing.create_machine();
    crossing.start_move_as(mode);
    let job = crossing.follow();
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
    assert!(has_crashed(&dir), "it never was at that moment");
    crossing.assert_in_order(&job);
}

/// The same on its target.
fn machine_dies_there(at: &str) {
    let mut crossing = Crossing::configured();
    let dir = crossing.worker(Target).dir.clone();
    crossing.run(Source, &[]);
    crossing.run(Target, &[Crash(at, &dir)]);
    crossing.create_machine();
    crossing.start_move();
    let job = crossing.follow();
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
    crossing.wait_until_it_runs_again(Target);
    crossing.assert_in_order(&job);
}

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

mod a_move_brings_all_that_was_written_after_the_machine_died_when {
    use ferry_api::MoveMode::{Cold, Warm};

    each! {
        super::machine_dies_at_home;
        plan_was_begun: "after begun:Plan", Cold;
        reserve_was_begun: "after begun:Reserve", Cold;
        prepare_was_begun: "after begun:Prepare", Cold;
        its_disk_was_about_to_be_copied_ahead: "after begun:Prepare", Warm;
        prepare_was_done: "after done:Prepare", Cold;
        it_was_about_to_be_stopped: "after begun:Stop", Cold;
        it_was_about_to_be_stopped_and_its_disk_was_copied_ahead: "after begun:Stop", Warm;
    }
}

mod a_move_ends_with_a_machine_that_runs_after_it_died_on_its_target_when {
    each! {
        super::machine_dies_there;
        it_was_booted: "before crossing:booted";
        its_disk_followed: "before call crossing";
        all_was_settled: "after crossing:settled";
    }
}
