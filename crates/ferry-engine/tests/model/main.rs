//! The engine against a model of every byte: any requests, any order of completions, any failures, the source coming
//! and going, snapshots, processes that are killed, and crashes that keep any part of what was not synced.
//!
//! What is asserted: every read returns a value it may; every acknowledged flush survives every crash, and every acknowledged write a kill; nothing is
//! fetched twice unless something failed; what has changed since a mark is known (exactly, until there is a crash); no budget is exceeded; in the end everything is local, and the store holds what the model says.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

mod growth;
mod marks;
mod oracle;
mod small_worlds;
mod snapshots;
mod store;
mod world;

use ferry_engine::{
    ByteRange, Command, Event, Geometry, Hot, Limits, LossPolicy, MarkId, Notice, RequestKind,
};
use proptest::prelude::*;
use std::num::NonZeroU64;

use oracle::GARBAGE;
use world::{Dice, GOOD_LUCK, Luck, World};

/// A volume of the model does not grow beyond this.
const LARGEST_BYTES: u64 = 100 << 10;

#[derive(Clone, Debug)]
enum Act {
    Guest {
        kind: u8,
        start: u64,
        len: u64,
        flag: bool,
    },
    /// Reads on where the last read ended.
    ReadOn(u64),
    Complete(usize),
    CompleteMany(usize),
    Tick(u64),
    /// The source tells its heat: offsets, lengths, classes, true or not.
    Heat(Vec<(u64, u64, u8)>),
    /// The guest is told to have waited so long.
    GuestWaited(u64),
    SourceUp,
    SourceDown,
    Command(Command),
    /// By so many sectors.
    Grow(u64),
    Cancel(usize),
    Snapshot(snapshots::Act),
    Crash,
    Kill,
}

#[derive(Clone, Debug)]
struct Case {
    size_sectors: u64,
    region_shift: u32,
    source_seed: u64,
    zero_percent: usize,
    seed: u64,
    limits: Limits,
}

fn case() -> impl Strategy<Value = Case> {
    let limits = (1_u32..5, 0_u64..40_000, 1_u64..60_000, 1_usize..8, 0_u64..3_000).prop_map(
        |(fetches, guest_bytes, persist_bytes, runs, ms)| Limits {
            hydration_fetches_max: fetches,
            guest_fetch_bytes_max: guest_bytes,
            persist_every_bytes: persist_bytes,
            persist_every_runs: runs,
            persist_every_ms: ms,
            count_heat: true,
        },
    );
    (1_u64..120, 0_u32..4, any::<u64>(), 0_usize..101, any::<u64>(), limits).prop_map(
        |(size_sectors, region_shift, source_seed, zero_percent, seed, limits)| Case {
            size_sectors,
            region_shift,
            source_seed,
            zero_percent,
            seed,
            limits,
        },
    )
}

fn guest_act() -> impl Strategy<Value = Act> {
    (0_u8..14, any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(kind, start, len, flag)| Act::Guest {
        kind,
        start,
        len,
        flag,
    })
}

fn quiet_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        10 => guest_act(),
        5 => (1_u64..20_000).prop_map(Act::ReadOn),
        10 => any::<usize>().prop_map(Act::Complete),
        2 => (1_usize..12).prop_map(Act::CompleteMany),
        2 => (1_u64..3_000).prop_map(Act::Tick),
        2 => Just(Act::SourceUp),
        1 => Just(Act::SourceDown),
        2 => prop_oneof![2 => Just(Command::Mark), 1 => (1_u64..6).prop_map(|id| Command::ForgetMark { mark: MarkId(id) })]
            .prop_map(Act::Command),
        1 => prop_oneof![Just(Act::Command(Command::PauseHydration)), Just(Act::Command(Command::ResumeHydration))],
        1 => budget().prop_map(|bytes_per_s| Act::Command(Command::SetBudget { bytes_per_s })),
        1 => any::<bool>().prop_map(|on| {
            let bound_us = NonZeroU64::new(1_000).filter(|_| on);
            Act::Command(Command::SetGuard { bound_us })
        }),
        1 => (0_u64..3_000).prop_map(Act::GuestWaited),
        1 => prop::option::of(0_u64..60_000)
            .prop_map(|due_ms| Act::Command(Command::SetFinishBy { due_ms })),
        1 => prop::collection::vec((any::<u64>(), any::<u64>(), any::<u8>()), 0..5).prop_map(Act::Heat),
        4 => snapshots::act().prop_map(Act::Snapshot),
    ]
}

/// Slow ones too: whatever the budget, hydration ends.
fn budget() -> impl Strategy<Value = Option<NonZeroU64>> {
    prop_oneof![1 => Just(None), 4 => (100_u64..200_000).prop_map(NonZeroU64::new)]
}

fn loss_policy() -> impl Strategy<Value = LossPolicy> {
    let fail = |ms| NonZeroU64::new(ms).map_or(LossPolicy::Wait, |ms| LossPolicy::FailAfter { ms });
    (0_u64..5_000).prop_map(fail)
}

fn wild_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        20 => quiet_act(),
        1 => prop_oneof![
            4 => Just(Act::Command(Command::Seal)),
            8 => Just(Act::Command(Command::Unseal)),
            4 => Just(Act::Command(Command::Open)),
            4 => Just(Act::Command(Command::DetachSource)),
            2 => Just(Act::Command(Command::AbandonSource)),
            4 => loss_policy().prop_map(|policy| Act::Command(Command::SetLossPolicy { policy })),
        ],
        1 => any::<usize>().prop_map(Act::Cancel),
        // A last block that was short and becomes whole may be wanted once more, so it is no quiet act.
        1 => (0_u64..20).prop_map(Act::Grow),
        1 => Just(Act::Crash),
        1 => Just(Act::Kill),
    ]
}

fn luck() -> impl Strategy<Value = Luck> {
    (0_usize..30, 0_usize..30, prop_oneof![3 => Just(0_usize), 1 => 1_usize..20])
        .prop_map(|(local_fails, source_fails, sync_fails)| Luck { local_fails, source_fails, sync_fails })
}

/// Runs of zero and of data, sector by sector.
fn source_bytes(case: &Case) -> Vec<u8> {
    let mut dice = Dice(case.source_seed);
    let mut bytes = Vec::new();
    let size = usize::try_from(case.size_sectors * 512).unwrap();
    while bytes.len() < size {
        let sectors = 1 + dice.roll(30);
        let zero = dice.roll(100) < case.zero_percent;
        let value = if zero { 0 } else { u8::try_from(1 + dice.roll(9)).unwrap() };
        bytes.resize(size.min(bytes.len() + sectors * 512), value);
    }
    bytes
}

fn world(case: &Case, luck: Luck) -> World {
    let geometry = Geometry::new(case.size_sectors * 512, 4096 << case.region_shift).unwrap();
    let mut world = World::new(geometry, source_bytes(case), luck, case.limits, case.seed);
    world.source_goes(true);
    world
}

/// Offsets and lengths that like the edges of blocks.
fn some_range(size: u64, start: u64, len: u64) -> ByteRange {
    let unit = [1, 512, 4096, 4096][usize::try_from(start % 4).unwrap()];
    let start = (start / 4) % size / unit * unit;
    let longest = [4096, 4096 * 3, size][usize::try_from(len % 3).unwrap()];
    let len = (1 + (len / 3) % longest).div_ceil(unit) * unit;
    ByteRange::new(start, len.min(size - start)).unwrap()
}

fn act(world: &mut World, act: &Act) {
    match *act {
        Act::Heat(ref told) => {
            let size = world.engine.geometry().size_bytes();
            let told = told.iter().filter_map(|&(offset, len, class)| {
                Some(Hot { range: ByteRange::new(offset % (2 * size), 1 + len % size)?, class })
            });
            let hot = told.collect();
            world.tell(Event::SourceHeat { hot });
        }
        Act::Guest { kind, start, len, flag } => {
            let range = some_range(world.engine.geometry().size_bytes(), start, len);
            let kind = match kind {
                0..=4 => RequestKind::Read { range },
                5..=8 if world.next_value < GARBAGE => RequestKind::Write { range, fua: flag && kind == 5 },
                9 => RequestKind::Trim { range, fua: flag },
                10 => RequestKind::WriteZeroes { range, fua: flag, no_hole: start % 2 == 0 },
                11 => RequestKind::Cache { range },
                _ => RequestKind::Flush,
            };
            world.request(kind);
        }
        Act::ReadOn(len) => {
            let size = world.engine.geometry().size_bytes();
            let start = world.read_end % size;
            let range = ByteRange::new(start, len.min(size - start)).unwrap();
            world.request(RequestKind::Read { range });
        }
        Act::Complete(index) => complete_one(world, index),
        Act::CompleteMany(count) => (0..count).for_each(|index| complete_one(world, index * 7)),
        Act::Tick(ms) => world.tick(ms),
        Act::GuestWaited(p99_us) => world.tell(Event::GuestWaited { p99_us }),
        Act::SourceUp => world.source_goes(true),
        Act::SourceDown => world.source_goes(false),
        Act::Command(command) => world.command(command),
        Act::Grow(sectors) => {
            let size_bytes = world.engine.geometry().size_bytes() + sectors * 512;
            if size_bytes <= LARGEST_BYTES {
                world.grow(size_bytes);
            }
        }
        Act::Cancel(index) => {
            let waiting = world.waiting();
            if !waiting.is_empty() {
                world.tell(Event::Cancel { id: waiting[index % waiting.len()] });
            }
        }
        Act::Snapshot(act) => world.act_on_snapshots(act),
        Act::Crash => world.crash(),
        Act::Kill => world.kill(),
    }
}

fn complete_one(world: &mut World, index: usize) {
    if world.pending() > 0 {
        world.complete(index % world.pending());
    }
}

/// From here on all goes well; everything must come to its end.
pub fn run_out(world: &mut World, seed: u64) {
    world.luck = GOOD_LUCK;
    if world.engine.status().store_failed {
        world.crash();
    }
    world.source_goes(true);
    world.command(Command::ResumeHydration);
    let mut dice = Dice(seed);
    for _ in 0..20_000 {
        if world.pending() > 0 {
            let index = dice.roll(world.pending());
            world.complete(index);
        } else if world.engine.wants_tick() {
            world.tick(500);
        } else {
            break;
        }
    }
    world.check_marks();
    let status = world.engine.status();
    assert!(status.complete && status.in_flight == 0, "hydration ends: {status:?}");
    assert!(world.oracle.is_quiet() && world.waiting().is_empty(), "every request is answered");
    assert_eq!(status.bytes_remote, 0);
    world.check_snapshots();
    check_all(world);
    world.crash();
    assert!(world.engine.status().complete, "complete is for good");
    check_all(world);
}

fn check_all(world: &mut World) {
    for (at, (value, mask)) in world.store_bytes().into_iter().zip(&world.oracle.now).enumerate() {
        assert!(mask >> value & 1 == 1, "byte {at} of the store is {value}, allowed {mask:#b}");
    }
    let range = world.engine.geometry().all_bytes();
    world.request(RequestKind::Read { range });
    assert_eq!(world.pending(), 1, "a read of a local volume is one operation");
    world.complete(0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_reads_are_true_and_flushed_writes_stay(
        case in case(),
        luck in luck(),
        acts in prop::collection::vec(wild_act(), 1..110),
    ) {
        let mut world = world(&case, luck);
        acts.iter().for_each(|next| act(&mut world, next));
        run_out(&mut world, case.seed);
    }

    #[test]
    fn nothing_is_fetched_twice_unless_it_failed(
        case in case(),
        with_snapshot in any::<bool>(),
        acts in prop::collection::vec(quiet_act(), 1..110),
    ) {
        let mut world = world(&case, GOOD_LUCK);
        if with_snapshot {
            act(&mut world, &Act::Snapshot(snapshots::Act::Take(0)));
        }
        // What arrives while a write waits to overwrite it is kept for the snapshots there are, and owed to the next one anew.
        let takes = |act: &&Act| matches!(act, Act::Snapshot(snapshots::Act::Take(_)));
        acts.iter().filter(|act| !takes(act)).for_each(|next| act(&mut world, next));
        run_out(&mut world, case.seed);
        prop_assert!(world.fetches.iter().all(|&count| count <= 1), "{:?}", world.fetches);
        let completions = world.notices.iter().filter(|&&notice| notice == Notice::HydrationComplete).count();
        prop_assert_eq!(completions, 1);
    }
}

/// Enough for every change; a longer search is `FERRY_MODEL_CASES=100000 cargo test -p ferry-engine --test model`.
fn cases() -> u32 {
    option_env!("FERRY_MODEL_CASES").and_then(|text| text.parse().ok()).unwrap_or(300)
}
