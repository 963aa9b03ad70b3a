//! Moves that copy ahead: nothing that was copied is used unless it is what was sealed.

use crate::support::crossing::{Crossing, Source, Target};
use crate::support::moments::{Die, Fail};
use ferry_api::{JobState, MoveMode};

#[test]
fn what_was_copied_ahead_of_a_move_that_was_undone_is_not_used_by_records_from_before_that() {
    let mut crossing = Crossing::configured();
    crossing.run(Source, &[Die("before done:Seal")]);
    crossing.run(Target, &[Die("before call release")]);
    crossing.create_machine();
    crossing.start_move_as(MoveMode::Warm);
    crossing.wait_for_crash(Source);
    // The target has kept what was right when it was sealed.
    let backup = crossing.backup(Source);
    crossing.run(Source, &[Fail("Seal")]);
    crossing.wait_for_crash(Target);
    crossing.wait_for_records();
    crossing.kill_agent(Source);
    crossing.kill_machine(Source);
    crossing.restore(Source, backup);
    crossing.run(Target, &[]);
    crossing.run(Source, &[]);
    let job = crossing.follow();
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
    crossing.assert_in_order(&job);
}
