//! Fixed seeds, each a world of its own; and mistakes made on purpose, which must be found.

use ferry_sim::{Options, Planted, run};

/// Seeds that run with every test run, in a debug build; `cargo xtask ci` runs thousands besides, in a release build.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=20;

fn keeps_every_promise(options: Options) {
    let outcome = run(options);
    if let Some(found) = outcome.found {
        let seed = options.seed;
        panic!(
            "{}\n\nseed {seed}: {found}\n`cargo xtask sim --seed {seed} --trace` tells all of it",
            outcome.lines.join("\n")
        );
    }
}

#[test]
fn every_promise_is_kept_whatever_goes_wrong() {
    SEEDS.for_each(|seed| keeps_every_promise(Options::of_seed(seed)));
}

#[test]
fn machines_move_and_lose_nothing_when_nothing_goes_wrong() {
    (1..=3).for_each(|seed| keeps_every_promise(Options { has_faults: false, ..Options::of_seed(seed) }));
}

#[test]
fn the_same_seed_does_the_same_again() {
    for seed in [1, 2, 3] {
        let (first, second) = (run(Options::of_seed(seed)), run(Options::of_seed(seed)));
        assert_eq!((first.events, first.fingerprint), (second.events, second.fingerprint), "seed {seed}");
    }
}

#[test]
fn looking_closer_changes_nothing() {
    let (one, other) = (Options::of_seed(7), Options { whole_trace: true, ..Options::of_seed(7) });
    assert_eq!(run(one).fingerprint, run(other).fingerprint);
}

/// Expects a mistake to be found within so many seeds.
fn is_found(planted: Planted, within: u64) {
    let finds = |seed: u64| run(Options { planted: Some(planted), ..Options::of_seed(seed) }).found.is_some();
    assert!((1..=within).any(finds), "{planted:?} is not found within {within} seeds");
}

#[test]
fn a_disk_that_does_not_sync_is_found() {
    is_found(Planted::SyncThatIsNone, 10);
}

#[test]
fn a_server_that_forgets_its_seal_is_found() {
    is_found(Planted::SealForgotten, 10);
}

#[test]
fn a_cancelled_move_that_leaves_the_volumes_sealed_is_found() {
    is_found(Planted::UnsealForgotten, 60);
}

#[test]
fn a_fetch_of_other_bytes_is_found() {
    is_found(Planted::StaleFetch, 20);
}

#[test]
fn a_machine_that_is_called_stopped_too_early_is_found() {
    is_found(Planted::StoppedTooEarly, 20);
}

#[test]
fn a_server_that_forgets_what_the_map_was_not_told_yet_is_found() {
    is_found(Planted::NotesLost, 60);
}

#[test]
fn a_map_that_loses_its_last_frame_with_the_power_is_found() {
    is_found(Planted::FrameLost, 60);
}

#[test]
fn a_map_that_is_not_told_what_may_change_is_found() {
    is_found(Planted::ChangesForgotten, 60);
}

#[test]
fn a_source_that_says_that_it_is_what_it_was_made_from_is_found() {
    is_found(Planted::NothingDiffers, 20);
}

#[test]
fn a_map_that_is_not_told_of_a_growth_is_found() {
    is_found(Planted::GrowthForgotten, 20);
}

#[test]
fn bad_sectors_that_are_given_as_zeroes_are_found() {
    is_found(Planted::BadSectorsGiven, 60);
}

#[test]
fn a_vm_that_goes_on_at_the_target_without_being_let_go_is_found() {
    is_found(Planted::LetGoAtOnce, 20);
}

#[test]
fn a_source_that_forgets_what_changed_since_the_last_round_of_a_warm_move_is_found() {
    is_found(Planted::NothingSince, 60);
}
