//! What the guard of the guest's latency promises.

use crate::clone::{Clone, MIB};
use ferry_engine::limits::{GUARANTEED_BYTES_PER_S, GUARD_IDLE_MS, GUARD_PIECE_BYTES, GUARD_TICK_MS};
use ferry_engine::{ByteRange, Command, Event, RequestKind};
use proptest::prelude::*;
use std::num::NonZeroU64;

const BOUND_US: u64 = 1_000;
const SIZE_BYTES: u64 = 1 << 30;

fn guarded(size_bytes: u64) -> Clone {
    let mut clone = Clone::before_its_source(size_bytes);
    clone.tell(Event::Command(Command::SetGuard { bound_us: NonZeroU64::new(BOUND_US) }));
    clone
}

/// A guest that asks all the time, and was told of `p99_us` every 100 ms. Gives what crossed in the background.
fn windows(clone: &mut Clone, p99s_us: impl IntoIterator<Item = u64>) -> u64 {
    let before = clone.background_bytes;
    for p99_us in p99s_us {
        // Ticks that come late lose nothing.
        for ms in [GUARD_TICK_MS, 30, 20, 50 - GUARD_TICK_MS] {
            clone.write(0, 4096);
            clone.pass(ms);
        }
        clone.tell(Event::GuestWaited { p99_us });
    }
    clone.background_bytes - before
}

/// A guest that feels it when more than `most` bytes cross a second.
fn guest_that_feels(clone: &mut Clone, most: u64, windows_count: usize) -> Vec<u64> {
    let mut p99_us = 0;
    (0..windows_count)
        .map(|_| {
            let crossed = 10 * windows(clone, [p99_us]);
            p99_us = if crossed > most { 20 * BOUND_US } else { BOUND_US / 5 };
            crossed
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_guest_waits_the_background_has_its_guaranteed_share(
        p99s_us in prop::collection::vec(prop_oneof![0..2 * BOUND_US, Just(u64::MAX)], 1..40),
    ) {
        let mut clone = guarded(SIZE_BYTES);
        clone.write(0, 4096);
        clone.tell(Event::SourceUp);
        let windows_count = p99s_us.len() as u64;
        let crossed = windows(&mut clone, p99s_us);
        let guaranteed = GUARANTEED_BYTES_PER_S * windows_count / 10;
        prop_assert!(crossed + GUARD_PIECE_BYTES >= guaranteed, "{crossed} B of {guaranteed} B");
        // And when the guest waits no longer, the share comes back.
        windows(&mut clone, std::iter::repeat_n(0, 200));
        let pace = clone.engine.status().guard_bytes_per_s.unwrap();
        let crossed = windows(&mut clone, [0]);
        prop_assert!(
            pace > 2 * GUARANTEED_BYTES_PER_S && (crossed > pace / 20 || clone.engine.status().complete),
            "{crossed} B in the last window of {pace} B/s"
        );
    }
}

#[test]
fn a_guest_that_always_waits_leaves_the_background_its_guaranteed_share_and_no_more() {
    let mut clone = guarded(SIZE_BYTES);
    clone.write(0, 4096);
    clone.tell(Event::SourceUp);
    windows(&mut clone, [u64::MAX; 10]);
    let crossed = windows(&mut clone, [u64::MAX; 100]);
    let guaranteed = 10 * GUARANTEED_BYTES_PER_S;
    assert!(crossed.abs_diff(guaranteed) <= GUARD_PIECE_BYTES, "{crossed} of {guaranteed}");
    assert_eq!(clone.engine.status().guard_bytes_per_s, Some(GUARANTEED_BYTES_PER_S));
}

#[test]
fn the_pace_finds_what_the_guest_does_not_feel_and_stays_near_it() {
    let mut clone = guarded(4 << 30);
    clone.write(0, 4096);
    clone.tell(Event::SourceUp);
    let most = 64 * MIB;
    guest_that_feels(&mut clone, most, 20);
    let crossed = guest_that_feels(&mut clone, most, 400);
    let mean = crossed.iter().sum::<u64>() / crossed.len() as u64;
    let bad = crossed.iter().filter(|&&bytes| bytes > most).count();
    assert!(mean > most / 2, "{} MiB a second of {}", mean / MIB, most / MIB);
    assert!(bad <= crossed.len() / 100, "{bad} bad windows of {}", crossed.len());
}

#[test]
fn while_the_guest_is_guarded_no_piece_is_large_and_none_comes_in_a_crowd() {
    let mut clone = guarded(SIZE_BYTES);
    clone.write(0, 4096);
    clone.tell(Event::SourceUp);
    let crossed_in_first_tick = clone.background_bytes;
    assert!(crossed_in_first_tick <= 2 * GUARD_PIECE_BYTES, "{crossed_in_first_tick}");
    assert!(clone.fetched.iter().all(|piece| piece.len_bytes() <= GUARD_PIECE_BYTES));
    assert_eq!(clone.engine.tick_ms(), GUARD_TICK_MS);
}

#[test]
fn a_guest_that_sleeps_is_not_guarded_and_finds_its_pace_again_when_it_wakes_up() {
    let mut clone = guarded(SIZE_BYTES);
    clone.write(0, 4096);
    clone.tell(Event::SourceUp);
    windows(&mut clone, [u64::MAX; 10]);
    clone.pass(GUARD_IDLE_MS + 1);
    assert_eq!(clone.background_bytes, SIZE_BYTES - 4096, "nothing holds back the rest");

    let mut clone = guarded(SIZE_BYTES);
    clone.tell(Event::Command(Command::PauseHydration));
    clone.tell(Event::SourceUp);
    clone.pass(GUARD_IDLE_MS + 1);
    clone.write(0, 4096);
    clone.tell(Event::Command(Command::ResumeHydration));
    assert!(clone.background_bytes <= 8 * GUARD_PIECE_BYTES, "at once: {}", clone.background_bytes);
}

#[test]
fn without_a_guard_latencies_change_nothing() {
    let mut clone = Clone::before_its_source(64 * MIB);
    clone.write(0, 4096);
    clone.tell(Event::GuestWaited { p99_us: u64::MAX });
    clone.tell(Event::SourceUp);
    assert_eq!(clone.background_bytes, 64 * MIB - 4096);
    assert_eq!(clone.engine.status().guard_bytes_per_s, None);
}

#[test]
fn what_must_wait_for_the_source_is_told_from_what_only_the_store_answers() {
    let mut clone = Clone::before_its_source(64 * MIB);
    clone.write(0, 4096);
    let range = |offset, len| ByteRange::new(offset, len).unwrap();
    let needs = |kind| clone.engine.needs_source(kind);
    assert!(!needs(RequestKind::Read { range: range(0, 4096) }));
    assert!(needs(RequestKind::Read { range: range(0, 4097) }));
    assert!(!needs(RequestKind::Write { range: range(8192, 8192), fua: true }));
    assert!(needs(RequestKind::Write { range: range(8192, 512), fua: false }));
    assert!(!needs(RequestKind::Write { range: range(512, 512), fua: false }));
    assert!(!needs(RequestKind::Flush));
}
