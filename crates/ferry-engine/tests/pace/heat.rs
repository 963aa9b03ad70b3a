//! What a source that knows its heat changes: the order, and nothing else.

use crate::clone::{Clone, MIB};
use ferry_engine::limits::GUARD_PIECE_BYTES;
use ferry_engine::{ByteRange, Command, Event, Hot};
use std::num::NonZeroU64;

fn hot(first: u64, count: u64, class: u8) -> Hot {
    Hot { range: ByteRange::new(first * MIB, count * MIB).unwrap(), class }
}

/// The regions that crossed, in order.
fn regions(clone: &Clone) -> Vec<u64> {
    let mut regions: Vec<u64> = clone.fetched.iter().map(|range| range.offset() / MIB).collect();
    regions.dedup();
    regions
}

/// A clone of 64 regions, of which 30 and 31 are a hole, that fetches one a second, and has fetched the first.
fn clone() -> Clone {
    let mut clone = Clone::before_its_source(64 * MIB);
    clone.hole = ByteRange::new(30 * MIB, 2 * MIB);
    clone.budget(Some(MIB));
    clone.tell(Event::SourceUp);
    assert_eq!(regions(&clone), [0]);
    clone
}

fn run_out(clone: &mut Clone) {
    (0..100).for_each(|_| clone.pass(1_000));
    assert!(clone.engine.status().complete);
}

#[test]
fn the_hottest_comes_first_then_the_rest_in_order_and_no_hole_is_fetched() {
    let mut clone = clone();
    let hot = vec![hot(50, 1, 3), hot(29, 4, 8), hot(10, 1, 3), hot(63, 100, 1)];
    clone.tell(Event::SourceHeat { hot });
    run_out(&mut clone);
    let first = [0, 29, 32, 10, 50, 63];
    let rest = (1..64).filter(|region| !first.contains(region) && ![30, 31].contains(region));
    assert_eq!(regions(&clone), first.into_iter().chain(rest).collect::<Vec<_>>());
}

#[test]
fn without_heat_all_comes_in_order() {
    let mut clone = clone();
    run_out(&mut clone);
    assert_eq!(regions(&clone), (0..64).filter(|region| ![30, 31].contains(region)).collect::<Vec<_>>());
}

#[test]
fn what_the_guest_reads_overtakes_what_is_hot() {
    let mut clone = clone();
    clone.tell(Event::SourceHeat { hot: vec![hot(40, 20, 8)] });
    assert!(clone.read(20 * MIB, 4096));
    run_out(&mut clone);
}

#[test]
fn a_heat_that_is_nonsense_does_no_harm() {
    let mut clone = clone();
    let beyond = Hot { range: ByteRange::new(1 << 50, 1 << 50).unwrap(), class: 200 };
    let overlapping = [hot(3, 10, 1), hot(3, 10, 8), hot(12, 2, 0), beyond];
    clone.tell(Event::SourceHeat { hot: overlapping.to_vec() });
    run_out(&mut clone);
    assert_eq!(regions(&clone)[..3], [0, 3, 4]);
}

#[test]
fn what_is_hot_comes_in_small_pieces_under_a_guard() {
    let mut clone = clone();
    clone.tell(Event::Command(Command::SetGuard { bound_us: NonZeroU64::new(1_000) }));
    clone.write(0, 4096);
    clone.tell(Event::SourceHeat { hot: vec![hot(40, 1, 8)] });
    (0..20).for_each(|_| clone.pass(50));
    assert!(clone.fetched[1..].iter().all(|range| range.len_bytes() <= GUARD_PIECE_BYTES));
    assert_eq!(regions(&clone)[1], 40);
}

#[test]
fn a_guest_heats_what_it_touches_and_a_reader_of_a_sealed_volume_nothing() {
    let mut clone = Clone::before_its_source(64 * MIB);
    clone.tell(Event::SourceUp);
    clone.read(7 * MIB, 4096);
    clone.write(9 * MIB, 4096);
    clone.tell(Event::Command(Command::Seal));
    clone.read(20 * MIB, 4096);
    let whole = ByteRange::new(0, 64 * MIB).unwrap();
    let classes = clone.engine.heat().classes(whole).map(|(len, class)| (len / MIB, class));
    assert_eq!(classes.collect::<Vec<_>>(), [(7, 0), (1, 1), (1, 0), (1, 1), (54, 0)]);
}
