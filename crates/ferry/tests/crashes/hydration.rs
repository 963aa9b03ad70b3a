//! What dies while the disk follows. The clone's background is held still, so that its disk is on its way for as long
//! as a test wants, and reads of what has not arrived are the only ones that ask the source.

use crate::support::crossing::{Crossing, FILLED_AT, Source, Target};
use crate::support::until;
use ferry_api::{JobEventKind, JobState};
use std::net::TcpListener;

/// A block with data that the machine never reads.
const COLD: u64 = FILLED_AT[1];

/// A machine that runs on the target while nearly all of its disk is still on the source.
fn half_way() -> Crossing {
    let crossing = Crossing::with_machine();
    crossing.hold_machine(Source);
    crossing.start_move();
    crossing.wait_for("the machine is to stop", |event| begun(event, "Stop"));
    // The clone stands by: it is told before it begins.
    crossing.control(Target).pause_hydration().unwrap();
    crossing.let_machine_go(Source);
    crossing.wait_for("the disk follows", |event| begun(event, "Hydrate"));
    crossing.wait_for_records();
    assert!(!is_whole(&crossing));
    crossing
}

fn begun(event: &JobEventKind, wanted: &str) -> bool {
    matches!(event, JobEventKind::Begun { step, .. } if step == wanted)
}

fn is_whole(crossing: &Crossing) -> bool {
    crossing.status(Target).is_some_and(|status| status.hydration.complete)
}

/// Lets the background go on, and holds the end of the move against what it must leave.
fn arrive(crossing: &Crossing) {
    crossing.control(Target).resume_hydration().unwrap();
    let job = crossing.follow();
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
    crossing.assert_in_order(&job);
}

#[test]
fn a_read_of_what_has_not_arrived_waits_for_the_source_and_is_answered_when_it_is_back() {
    let crossing = half_way();
    let wanted = crossing.read_sealed_block(COLD);
    crossing.kill_agent(Source);
    crossing.kill_server(Source);
    until("the clone has noticed", || (!crossing.is_connected(Target)).then_some(()));
    let before = crossing.status(Target).unwrap().hydration.cold_reads;
    let read = crossing.read_block_later(Target, COLD);
    until("the read waits", || (crossing.status(Target)?.hydration.cold_reads > before).then_some(()));
    crossing.wait_for_records();
    assert!(!read.is_finished(), "nobody could know what lies there");
    crossing.run(Source, &[]);
    assert!(read.join().unwrap() == wanted, "the block is not the source's");
    arrive(&crossing);
}

#[test]
fn the_sources_volume_server_is_started_again_and_read_from_again() {
    let crossing = half_way();
    let wanted = crossing.read_sealed_block(COLD);
    crossing.kill_server(Source);
    assert!(crossing.read_block(Target, COLD) == wanted, "the block is not the source's");
    arrive(&crossing);
}

#[test]
fn a_source_that_comes_back_somewhere_else_is_found() {
    let crossing = half_way();
    let wanted = crossing.read_sealed_block(COLD);
    let was_at = crossing.status(Source).unwrap().export.unwrap();
    crossing.kill_agent(Source);
    crossing.kill_server(Source);
    // Somebody else has the address now, and says nothing.
    let _somebody = until("the address is free", || TcpListener::bind(was_at).ok());
    crossing.run(Source, &[]);
    assert!(crossing.read_block(Target, COLD) == wanted, "the block is not the source's");
    arrive(&crossing);
}

#[test]
fn the_targets_volume_server_is_started_again_and_goes_on() {
    let crossing = half_way();
    let wanted = crossing.read_sealed_block(COLD);
    crossing.kill_server(Target);
    assert!(crossing.read_block(Target, COLD) == wanted, "the block is not the source's");
    crossing.wait_for_records();
    arrive(&crossing);
}

#[test]
fn both_volume_servers_are_started_again_and_go_on() {
    let crossing = half_way();
    let wanted = crossing.read_sealed_block(COLD);
    crossing.kill_server(Target);
    crossing.kill_server(Source);
    assert!(crossing.read_block(Target, COLD) == wanted, "the block is not the source's");
    crossing.wait_for_records();
    arrive(&crossing);
}

#[test]
fn a_new_agent_of_the_source_finds_its_volume_server_again() {
    let crossing = half_way();
    let before = crossing.server_pid(Source);
    crossing.kill_agent(Source);
    let wanted = crossing.read_sealed_block(COLD);
    assert!(crossing.read_block(Target, COLD) == wanted, "the volume server does not need its agent");
    crossing.run(Source, &[]);
    assert_eq!(crossing.server_pid_as_the_agent_says(Source), before);
    arrive(&crossing);
}

#[test]
fn a_new_agent_of_the_target_finds_its_volume_server_and_its_machine_again() {
    let crossing = half_way();
    let before = (crossing.server_pid(Target), crossing.machine_pid());
    crossing.kill_agent(Target);
    crossing.wait_for_records();
    crossing.run(Target, &[]);
    assert_eq!(crossing.server_pid_as_the_agent_says(Target), before.0);
    assert_eq!(crossing.machine_pid_as_the_agent_says(Target), before.1);
    arrive(&crossing);
    assert_eq!((crossing.server_pid(Target), crossing.machine_pid()), before);
}

#[test]
fn the_machine_writes_on_and_its_disk_follows_to_the_end_while_both_agents_are_dead() {
    let crossing = half_way();
    let before = (crossing.server_pid(Target), crossing.machine_pid());
    crossing.kill_agent(Source);
    crossing.kill_agent(Target);
    crossing.wait_for_records();
    crossing.control(Target).resume_hydration().unwrap();
    until("the disk has followed", || is_whole(&crossing).then_some(()));
    crossing.wait_for_records();
    crossing.run(Target, &[]);
    crossing.run(Source, &[]);
    arrive(&crossing);
    assert_eq!((crossing.server_pid(Target), crossing.machine_pid()), before);
}

#[test]
fn a_machine_that_dies_on_the_target_is_started_again_there() {
    let crossing = half_way();
    crossing.kill_machine(Target);
    crossing.wait_for_records();
    arrive(&crossing);
}

#[test]
fn a_target_that_lost_all_its_processes_goes_on_where_it_was() {
    let crossing = half_way();
    crossing.kill_agent(Target);
    crossing.kill_machine(Target);
    crossing.kill_server(Target);
    crossing.run(Target, &[]);
    crossing.wait_for_records();
    arrive(&crossing);
}

#[test]
fn two_workers_that_lost_all_their_processes_go_on_where_they_were() {
    let crossing = half_way();
    crossing.kill_agent(Source);
    crossing.kill_agent(Target);
    crossing.kill_machine(Target);
    crossing.kill_server(Target);
    crossing.kill_server(Source);
    crossing.run(Target, &[]);
    crossing.run(Source, &[]);
    crossing.wait_for_records();
    arrive(&crossing);
}
