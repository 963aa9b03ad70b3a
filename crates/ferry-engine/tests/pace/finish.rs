//! What a time by which hydration shall be complete changes.

use crate::clone::{Clone, MIB};
use ferry_engine::limits::{GUARANTEED_BYTES_PER_S, GUARD_TICK_MS};
use ferry_engine::{Command, Event};
use std::num::NonZeroU64;

const SIZE_BYTES: u64 = 256 * MIB;

/// A clone whose guest always waits too long for its guard, which shall be complete at this time.
fn pressed(due_ms: Option<u64>) -> Clone {
    let mut clone = Clone::before_its_source(SIZE_BYTES);
    clone.tell(Event::Command(Command::SetGuard { bound_us: NonZeroU64::new(1_000) }));
    clone.tell(Event::Command(Command::SetFinishBy { due_ms }));
    clone.write(0, 4096);
    clone.tell(Event::SourceUp);
    clone
}

/// When it was complete, in milliseconds.
fn run_out(clone: &mut Clone) -> u64 {
    while !clone.engine.status().complete {
        for _ in 0..10 {
            clone.write(0, 4096);
            clone.pass(10 * GUARD_TICK_MS);
        }
        clone.tell(Event::GuestWaited { p99_us: u64::MAX });
    }
    clone.now_ms
}

#[test]
fn a_time_is_met_although_the_guest_feels_it() {
    let alone_ms = SIZE_BYTES * 1_000 / GUARANTEED_BYTES_PER_S;
    assert!(run_out(&mut pressed(None)).abs_diff(alone_ms) <= 1_000);
    for due_ms in [20_000, 5_000, 1_000] {
        let end_ms = run_out(&mut pressed(Some(due_ms)));
        assert!(end_ms <= due_ms, "due at {due_ms} ms, done at {end_ms} ms");
        assert!(
            end_ms >= due_ms / 2,
            "not much faster than it must: due at {due_ms} ms, done at {end_ms} ms"
        );
    }
}

#[test]
fn a_time_that_is_past_is_caught_up_with_as_fast_as_it_goes() {
    let mut clone = pressed(Some(0));
    assert!(run_out(&mut clone) <= 1_000);
}

#[test]
fn a_budget_is_kept_whatever_the_time() {
    let mut clone = pressed(Some(2_000));
    clone.budget(Some(16 * MIB));
    assert!(run_out(&mut clone) >= 14_000);
}

#[test]
fn what_is_needed_is_what_is_left_by_the_time_that_is_left() {
    let mut clone = Clone::before_its_source(SIZE_BYTES);
    assert_eq!(clone.engine.needs(), None);
    clone.tell(Event::Command(Command::SetFinishBy { due_ms: Some(8_000) }));
    assert_eq!(clone.engine.needs(), Some(SIZE_BYTES / 8 * 9 / 8));
    assert_eq!(clone.engine.bytes_to_come(), 0, "the source was not asked");
    clone.budget(Some(1));
    clone.tell(Event::SourceUp);
    assert_eq!(clone.engine.bytes_to_come(), SIZE_BYTES - MIB);
}
