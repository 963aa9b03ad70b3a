//! What bad blocks of a source cost: an error for those blocks alone, told once, tried again, healed by a write.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

use ferry_engine::{
    Arrival, ByteRange, Command, Engine, Errno, Event, FetchFailure, Geometry, Limits, MapState, Notice,
    OpId, Operation, Phase, RequestId, RequestKind, SourceExtent,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;

/// A clone of all data from a source on which some blocks are bad. The store does at once what it is told.
struct House {
    engine: Engine,
    bad: BTreeSet<u64>,
    fetches: VecDeque<(OpId, ByteRange)>,
    asked: Vec<ByteRange>,
    replies: BTreeMap<u64, Result<(), Errno>>,
    told: Vec<ByteRange>,
    now_ms: u64,
}

impl House {
    fn new(size_bytes: u64, bad: impl IntoIterator<Item = u64>) -> House {
        let geometry = Geometry::new(size_bytes, MIB).unwrap();
        let map = MapState::fresh([1; 16], geometry, 1, Phase::Open, true);
        let mut house = House {
            engine: Engine::new(map, Limits::default()),
            bad: bad.into_iter().collect(),
            fetches: VecDeque::new(),
            asked: Vec::new(),
            replies: BTreeMap::new(),
            told: Vec::new(),
            now_ms: 0,
        };
        house.tell(Event::Command(Command::PauseHydration));
        house.tell(Event::SourceUp);
        house
    }

    fn tell(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut out = Vec::new();
            self.engine.handle(event, &mut out);
            for operation in out {
                match operation {
                    Operation::Fetch { op, range, .. } => {
                        self.asked.push(range);
                        self.fetches.push_back((op, range));
                    }
                    Operation::QuerySource { op, range } => {
                        let all = SourceExtent { len_bytes: range.len_bytes(), zero: false };
                        events.push_back(Event::Extents { op, result: Ok(vec![all]) });
                    }
                    Operation::Reply { request, result } => {
                        assert!(self.replies.insert(request.0, result).is_none());
                    }
                    Operation::Notice(Notice::SourceBad { range }) => self.told.push(range),
                    Operation::ReadLocal { op, .. }
                    | Operation::WriteLocal { op, .. }
                    | Operation::ZeroLocal { op, .. }
                    | Operation::SyncLocal { op }
                    | Operation::Note { op, .. }
                    | Operation::Persist { op, .. } => events.push_back(Event::Done { op, result: Ok(()) }),
                    _ => {}
                }
            }
        }
    }

    /// The source answers all it is asked.
    fn answer(&mut self) {
        while let Some((op, range)) = self.fetches.pop_front() {
            let blocks = self.engine.geometry().blocks_touched(range);
            let fails = self.bad.range(blocks.first()..blocks.end()).next().is_some();
            let result = if fails { Err(FetchFailure::Errno(Errno::EIO)) } else { Ok(Arrival::DATA) };
            self.tell(Event::Fetched { op, result });
        }
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.now_ms += 100;
            self.tell(Event::Tick { now_ms: self.now_ms });
            self.answer();
        }
    }

    fn read(&mut self, id: u64, offset: u64, len: u64) {
        let range = ByteRange::new(offset, len).unwrap();
        self.tell(Event::Request { id: RequestId(id), kind: RequestKind::Read { range } });
    }

    fn bad_ranges(&self) -> Vec<(u64, u64)> {
        self.engine.bad_ranges().map(|range| (range.offset(), range.len_bytes())).collect()
    }
}

#[test]
fn who_only_shares_a_fetch_with_a_bad_block_gets_its_own_blocks() {
    let mut house = House::new(4 * MIB, [100]);
    house.read(1, 0, MIB);
    house.read(2, 3 * BLOCK, BLOCK);
    house.read(3, 99 * BLOCK, BLOCK);
    house.read(4, 100 * BLOCK + 7, 1);
    assert_eq!(house.asked.len(), 1, "the others join what is under way");
    house.answer();
    house.pass(20_000);
    let expected = BTreeMap::from([(1, Err(Errno::EIO)), (2, Ok(())), (3, Ok(())), (4, Err(Errno::EIO))]);
    assert_eq!(house.replies, expected);
    assert_eq!(house.engine.status().bytes_remote, 3 * MIB + BLOCK, "what was good was kept");
}

#[test]
fn a_write_of_a_part_of_a_good_block_outlives_the_bad_block_that_it_was_fetched_with() {
    let mut house = House::new(4 * MIB, [1]);
    house.read(1, 0, 8 * BLOCK);
    let kind = RequestKind::Write { range: ByteRange::new(512, 512).unwrap(), fua: false };
    house.tell(Event::Request { id: RequestId(2), kind });
    house.answer();
    house.pass(20_000);
    assert_eq!(house.replies, BTreeMap::from([(1, Err(Errno::EIO)), (2, Ok(()))]));
}

#[test]
fn the_background_halves_until_only_the_bad_blocks_are_left_and_each_stretch_is_told_once() {
    let mut house = House::new(4 * MIB, [77, 300, 301, 302, 1023]);
    house.tell(Event::Command(Command::ResumeHydration));
    house.answer();
    house.pass(30_000);
    let expected = [(77 * BLOCK, BLOCK), (300 * BLOCK, 3 * BLOCK), (1023 * BLOCK, BLOCK)];
    assert_eq!(house.bad_ranges(), expected);
    let status = house.engine.status();
    assert_eq!((status.bytes_bad, status.bad_ranges, status.bytes_remote), (5 * BLOCK, 3, 5 * BLOCK));
    assert_eq!(status.bytes_sick, 5 * BLOCK);
    let told: u64 = house.told.iter().map(|range| range.len_bytes()).sum();
    assert_eq!(told, 5 * BLOCK, "no block is told twice: {:?}", house.told);
    let asked = house.asked.len();
    house.pass(300_000);
    assert!(house.asked.len() > asked, "they are tried again");
    assert!(house.asked[asked..].iter().all(|range| range.len_bytes() == BLOCK));
    assert_eq!(house.told.iter().map(|range| range.len_bytes()).sum::<u64>(), told);
    house.bad.clear();
    house.pass(120_000);
    let status = house.engine.status();
    assert!(status.complete && status.bytes_bad == 0, "{status:?}");
}

#[test]
fn a_write_of_the_whole_block_heals_it() {
    let mut house = House::new(MIB, [5]);
    house.tell(Event::Command(Command::ResumeHydration));
    house.answer();
    house.pass(30_000);
    assert_eq!(house.bad_ranges(), [(5 * BLOCK, BLOCK)]);
    let kind = RequestKind::Write { range: ByteRange::new(5 * BLOCK, BLOCK).unwrap(), fua: true };
    house.tell(Event::Request { id: RequestId(1), kind });
    assert_eq!(house.replies, BTreeMap::from([(1, Ok(()))]));
    assert_eq!(house.bad_ranges(), []);
    house.pass(3_000);
    let status = house.engine.status();
    assert!(status.complete, "{status:?}");
    assert_eq!((status.bytes_sick, status.bytes_bad), (0, 0));
}

#[test]
fn what_is_known_to_be_bad_does_not_spoil_the_next_read_of_its_neighbours() {
    let mut house = House::new(4 * MIB, [10]);
    house.read(1, 10 * BLOCK, BLOCK);
    house.answer();
    house.pass(20_000);
    house.asked.clear();
    house.read(2, 0, 64 * BLOCK);
    let asked: Vec<u64> = house.asked.iter().map(|range| range.len_bytes() / BLOCK).collect();
    assert_eq!(asked, [10, 1, 53]);
}

#[test]
fn a_guest_that_comes_and_goes_while_the_source_is_away_leaves_nothing_waiting() {
    let mut house = House::new(4 * MIB, []);
    house.tell(Event::SourceDown);
    for id in 0..1_000 {
        house.read(id, id % 1_024 * BLOCK, BLOCK);
        house.tell(Event::Cancel { id: RequestId(id) });
    }
    assert_eq!(house.engine.status().in_flight, 0);
}
