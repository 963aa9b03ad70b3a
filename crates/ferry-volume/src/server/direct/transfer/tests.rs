//! Against a disk in memory that insists on whole units, ends what was begun in any order, and stops short at times.

use super::super::turns::Turns;
use super::*;
use ferry_engine::OpId;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

const DISK_BYTES: u64 = 8 * UNIT_BYTES;
const SECTOR_BYTES: u64 = 512;

/// What a guest asks for.
#[derive(Clone, Debug)]
struct Wish {
    range: ByteRange,
    kind: Kind,
    /// Where in its buffer the bytes begin.
    at: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Read,
    Write,
    Zero { punch: bool },
}

/// A disk, guests that ask it for much at a time, and what they may expect.
struct World {
    pool: Pool,
    disk: Vec<u8>,
    expected: Vec<u8>,
    punches: bool,
    turns: Turns<Direct>,
    under_way: BTreeMap<u64, Direct>,
    asked: BTreeMap<u64, (Wish, Buffer)>,
}

impl World {
    fn new(punches: bool) -> Self {
        let disk: Vec<u8> = (0..DISK_BYTES).map(|at| (at / 7) as u8 | 1).collect();
        let (expected, turns) = (disk.clone(), Turns::default());
        let (under_way, asked) = (BTreeMap::new(), BTreeMap::new());
        Self { pool: Pool::new(), disk, expected, punches, turns, under_way, asked }
    }

    /// Guests that overlap each other get what they deserve; ours wait.
    fn may_ask(&self, wish: &Wish) -> bool {
        self.asked.values().all(|(other, _)| {
            let both_read = wish.kind == Kind::Read && other.kind == Kind::Read;
            both_read || wish.range.intersect(other.range).is_none()
        })
    }

    fn ask(&mut self, number: u64, wish: Wish) {
        let len = wish.range.len_bytes() as usize;
        let buffer = self.pool.take(wish.at + len);
        let bytes = vec![number as u8; len];
        buffer.copy_in(wish.at, &bytes);
        let place = Place { buffer: buffer.clone(), at: wish.at };
        let within = wish.range.offset() as usize..wish.range.end() as usize;
        let deed = match wish.kind {
            Kind::Read => Deed::Read(place),
            Kind::Write => {
                self.expected[within].copy_from_slice(&bytes);
                Deed::Write(place)
            }
            Kind::Zero { punch } => {
                self.expected[within].fill(0);
                Deed::Zero { punch }
            }
        };
        let direct = Direct::new(deed, wish.range, SECTOR_BYTES, &self.pool);
        let (op, range) = (OpId::from_u64(number), wish.range);
        self.asked.insert(number, (wish, buffer));
        let begun = match direct.changes_the_store() {
            true => self.turns.ask(op, range, direct),
            false => Some(direct),
        };
        begun.map(|direct| self.under_way.insert(number, direct));
    }

    /// One act of one transfer ends.
    fn step(&mut self, choice: u8) {
        let index = usize::from(choice) % self.under_way.len();
        let number = *self.under_way.keys().nth(index).expect("it is one of them");
        let mut direct = self.under_way.remove(&number).expect("it is one of them");
        let result = self.perform(&direct, choice);
        let Some(end) = direct.went_on(result, &self.pool) else {
            self.under_way.insert(number, direct);
            return;
        };
        assert_eq!(end, Ok(()));
        let (wish, buffer) = self.asked.remove(&number).expect("it was asked for");
        if wish.kind == Kind::Read {
            let (start, len) = (wish.range.offset() as usize, wish.range.len_bytes() as usize);
            buffer.with_bytes(wish.at, len, |bytes| assert_eq!(bytes, &self.expected[start..start + len]));
        } else {
            for (op, direct) in self.turns.over(OpId::from_u64(number)) {
                self.under_way.insert(op.as_u64(), direct);
            }
        }
    }

    fn perform(&mut self, direct: &Direct, choice: u8) -> io::Result<u32> {
        // A short transfer ends between two sectors.
        let cut = |len: usize| match choice {
            200.. => len.min(SECTOR_BYTES as usize * usize::from(choice % 8 + 1)),
            _ => len,
        };
        match direct.act() {
            Act::Read { buffer, at, len, offset } => {
                check(buffer, at, len, offset);
                let len = cut(len);
                buffer.copy_in(at, &self.disk[offset as usize..offset as usize + len]);
                Ok(len as u32)
            }
            Act::Write { buffer, at, len, offset } => {
                check(buffer, at, len, offset);
                let len = cut(len);
                let to = &mut self.disk[offset as usize..offset as usize + len];
                buffer.with_bytes(at, len, |bytes| to.copy_from_slice(bytes));
                Ok(len as u32)
            }
            Act::Zero { range, .. } => {
                assert!(range.offset().is_multiple_of(UNIT_BYTES) && range.end().is_multiple_of(UNIT_BYTES));
                if !self.punches {
                    return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
                }
                self.disk[range.offset() as usize..range.end() as usize].fill(0);
                Ok(0)
            }
        }
    }
}

/// What direct I/O demands.
fn check(buffer: &Buffer, at: usize, len: usize, offset: u64) {
    for (what, number) in
        [("address", buffer.address(at, len) as u64), ("length", len as u64), ("offset", offset)]
    {
        assert!(number.is_multiple_of(SECTOR_BYTES), "the {what} {number} is not aligned");
    }
    assert!((offset + len as u64).is_multiple_of(UNIT_BYTES), "a transfer ends inside a unit");
}

fn wish() -> impl Strategy<Value = Wish> {
    let edge = prop_oneof![0..DISK_BYTES, (0..DISK_BYTES / 512).prop_map(|sector| sector * 512)];
    let len = prop_oneof![1_u64..600, 1_u64..3 * UNIT_BYTES, (1_u64..4).prop_map(|units| units * UNIT_BYTES)];
    let kind = prop_oneof![
        2 => Just(Kind::Read),
        4 => Just(Kind::Write),
        1 => Just(Kind::Zero { punch: true }),
        1 => Just(Kind::Zero { punch: false })
    ];
    (edge, len, kind, prop_oneof![3 => Just(0_usize), 1 => 0_usize..5000]).prop_map(
        |(start, len, kind, at)| {
            let len = len.min(DISK_BYTES - start);
            Wish { range: ByteRange::new(start, len).expect("it is not empty"), kind, at }
        },
    )
}

proptest! {
    #[test]
    fn concurrent_changes_of_one_unit_all_survive(
        wishes in vec(wish(), 1..60),
        choices in vec(any::<u8>(), 1..400),
        punches in any::<bool>(),
    ) {
        let mut world = World::new(punches);
        let mut choices = choices.into_iter().cycle();
        for (number, wish) in (1..).zip(wishes) {
            while !world.may_ask(&wish) {
                world.step(choices.next().expect("it never ends"));
            }
            world.ask(number, wish);
            // Some are asked for together.
            if choices.next().is_some_and(|choice| choice < 100) && !world.under_way.is_empty() {
                world.step(choices.next().expect("it never ends"));
            }
        }
        while !world.asked.is_empty() {
            world.step(choices.next().expect("it never ends"));
        }
        prop_assert!(world.disk == world.expected);
        prop_assert!(world.under_way.is_empty());
    }
}

#[test]
fn what_the_kernel_takes_as_it_is_goes_straight() {
    let pool = Pool::new();
    let place = || Place { buffer: pool.take(4 << 20), at: 0 };
    let range = ByteRange::new(UNIT_BYTES, 4 << 20).unwrap();
    for deed in [Deed::Read(place()), Deed::Write(place())] {
        let mut direct = Direct::new(deed, range, SECTOR_BYTES, &pool);
        assert!(matches!(direct.way, Way::Straight));
        assert_eq!(direct.went_on(Ok(4 << 20), &pool), Some(Ok(())));
    }
}

#[test]
fn as_much_as_a_request_may_have_goes_through_little_memory() {
    let pool = Pool::new();
    let len = crate::buffer::BUFFER_BYTES_MAX;
    let range = ByteRange::new(1, len as u64).unwrap();
    for deed in [Deed::Read, Deed::Write] {
        let place = Place { buffer: pool.take(len), at: 0 };
        let mut direct = Direct::new(deed(place), range, SECTOR_BYTES, &pool);
        loop {
            let (Act::Read { len, .. } | Act::Write { len, .. }) = direct.act() else { unreachable!() };
            assert!(len as u64 <= BOUNCED_BYTES);
            if let Some(end) = direct.went_on(Ok(len as u32), &pool) {
                break assert_eq!(end, Ok(()));
            }
        }
    }
}

#[test]
fn zeroing_a_part_of_a_hole_leaves_it_a_hole() {
    let pool = Pool::new();
    let range = ByteRange::new(100, 200).unwrap();
    let mut direct = Direct::new(Deed::Zero { punch: true }, range, SECTOR_BYTES, &pool);
    let Act::Read { buffer, len, .. } = direct.act() else { panic!("it looks first") };
    buffer.zero(0, len);
    assert_eq!(direct.went_on(Ok(len as u32), &pool), Some(Ok(())));
}

#[test]
fn a_failure_ends_it() {
    let pool = Pool::new();
    let range = ByteRange::new(0, 100).unwrap();
    let mut direct =
        Direct::new(Deed::Write(Place { buffer: pool.take(100), at: 0 }), range, SECTOR_BYTES, &pool);
    let full = io::Error::from_raw_os_error(libc::ENOSPC);
    assert_eq!(direct.went_on(Err(full), &pool), Some(Err(Errno(libc::ENOSPC))));
}
