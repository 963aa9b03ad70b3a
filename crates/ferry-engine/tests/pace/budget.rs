//! What a budget promises.

use crate::clone::{Clone, MIB};
use ferry_engine::limits::BUDGET_BURST_MS;
use proptest::prelude::*;
use std::num::NonZeroU64;

/// What may come at once, on top of budget × time.
fn burst(bytes_per_s: u64) -> u64 {
    MIB + bytes_per_s * BUDGET_BURST_MS / 1_000
}

#[test]
fn a_budget_is_never_exceeded_and_never_left_unused() {
    for bytes_per_s in [1, 100_000, MIB, 7 * MIB + 13, 50 * MIB, 3_000 * MIB] {
        let mut clone = Clone::under(bytes_per_s, 512 * MIB);
        for step in 0..400 {
            let earned = bytes_per_s * clone.now_ms / 1_000;
            let crossed = clone.background_bytes;
            let situation = format!("{bytes_per_s} B/s, {crossed} B after {} ms", clone.now_ms);
            assert!(crossed <= earned + burst(bytes_per_s), "{situation}");
            assert!(crossed >= earned.min(512 * MIB), "{situation}");
            // Ticks come when they come.
            clone.pass([100, 1, 250, 37, 0, 100][step % 6]);
        }
    }
}

#[test]
fn a_slow_budget_ends_too() {
    let mut clone = Clone::under(MIB / 2, 16 * MIB);
    while clone.engine.wants_tick() {
        clone.pass(100);
    }
    assert!(clone.engine.status().complete);
    assert!((28_000..=34_000).contains(&clone.now_ms), "16 MiB at 512 KiB/s: {} ms", clone.now_ms);
}

#[test]
fn a_change_of_the_budget_takes_effect_at_once() {
    let mut clone = Clone::under(MIB, 512 * MIB);
    let first = clone.background_bytes;
    assert!(first <= burst(MIB), "{first}");
    clone.budget(Some(10 * MIB));
    clone.pass(100);
    clone.pass(200);
    let raised = clone.background_bytes - first;
    assert!((2 * MIB..=4 * MIB).contains(&raised), "3 MiB were earned: {raised}");
    clone.budget(Some(1));
    clone.pass(60_000);
    assert!(clone.background_bytes - first - raised <= MIB, "a byte a second is next to nothing");
    assert_eq!(clone.engine.status().budget_bytes_per_s, NonZeroU64::new(1));
    clone.budget(None);
    assert_eq!(clone.background_bytes, 512 * MIB, "without a budget nothing waits for time");
}

#[test]
fn the_same_budget_told_again_and_again_gives_nothing_extra() {
    let mut clone = Clone::under(MIB, 512 * MIB);
    for _ in 0..100 {
        clone.pass(100);
        clone.budget(Some(2 * MIB));
        clone.budget(Some(MIB));
    }
    let most = MIB * clone.now_ms / 1_000 + burst(MIB);
    assert!(clone.background_bytes <= most, "{} of {most}", clone.background_bytes);
}

#[test]
fn what_the_guest_needs_is_never_held_back_but_counts() {
    let mut clone = Clone::under(MIB, 512 * MIB);
    let burst_bytes = clone.background_bytes;
    for megabyte in 300..340 {
        assert!(clone.read(megabyte * MIB, MIB), "the guest waits for no budget");
    }
    assert_eq!(clone.guest_bytes, 40 * MIB);
    clone.pass(1_000);
    assert_eq!(clone.background_bytes, burst_bytes, "the guest has used it up");
    // A debt is as deep as a burst: 1.25 s until nothing is owed, and one more until a region goes.
    (0..13).for_each(|_| clone.pass(100));
    assert!(clone.background_bytes > burst_bytes, "and the background goes on soon after");
}

#[test]
fn guest_and_background_together_keep_within_the_budget_while_the_guest_needs_less() {
    let mut clone = Clone::under(8 * MIB, 512 * MIB);
    for step in 0..200 {
        assert!(clone.read((500 * MIB) - step * 256 * 1024, 256 * 1024));
        clone.pass(100);
        let crossed = clone.background_bytes + clone.guest_bytes;
        let earned = 8 * MIB * clone.now_ms / 1_000;
        assert!(crossed <= earned + burst(8 * MIB) + 256 * 1024, "{crossed} after {} ms", clone.now_ms);
        assert!(crossed >= earned, "{crossed} after {} ms", clone.now_ms);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Two moves beside each other: each has half of what their worker may fetch, and their ticks come as they come.
    #[test]
    fn of_two_clones_under_equal_shares_neither_starves_and_the_later_one_is_close_behind_when_the_first_ends(
        share in MIB / 4..40 * MIB,
        size in 16..64_u64,
        ticks in prop::collection::vec((1..=BUDGET_BURST_MS, 1..=BUDGET_BURST_MS), 16),
        reads in prop::collection::vec(0..16_u64, 0..4),
    ) {
        let size_bytes = size * MIB;
        let [mut one, mut other] = [(); 2].map(|()| Clone::under(share, size_bytes));
        // What its guest waits for is served at once, and counts.
        for at in reads {
            prop_assert!(one.read(at * MIB, 4096));
        }
        let mut ticks = ticks.into_iter().cycle();
        let crossed = |clone: &Clone| clone.background_bytes + clone.guest_bytes;
        while crossed(&one) < size_bytes && crossed(&other) < size_bytes {
            let (of_one, of_other) = ticks.next().unwrap();
            // Whoever is behind in time has the next tick, as on one host.
            if one.now_ms <= other.now_ms { one.pass(of_one) } else { other.pass(of_other) }
            for clone in [&one, &other] {
                let earned = share * clone.now_ms / 1_000;
                prop_assert!(crossed(clone) <= earned + burst(share), "{} after {} ms", crossed(clone), clone.now_ms);
                prop_assert!(crossed(clone) + burst(share) >= earned.min(size_bytes), "{} after {} ms", crossed(clone), clone.now_ms);
            }
        }
        let apart = crossed(&one).abs_diff(crossed(&other));
        prop_assert!(apart <= 2 * burst(share), "they are {apart} bytes apart");
    }
}
