//! Read-ahead: what it promises, one promise a test. Hydration has asked its first question and gets no answer.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

use ferry_engine::limits::{AHEAD_BYTES_FIRST, RUNS_MAX};
use ferry_engine::{
    Arrival, ByteRange, Command, Engine, Event, Geometry, Limits, MapState, OpId, Operation, Phase,
    RequestId, RequestKind, Urgency,
};

const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;

struct Clone {
    engine: Engine,
    next_request: u64,
    fetches: Vec<(OpId, ByteRange, Urgency)>,
}

impl Clone {
    fn new(limits: Limits) -> Clone {
        let geometry = Geometry::new(64 * MIB, MIB).unwrap();
        let map = MapState::fresh([1; 16], geometry, 1, Phase::Open, true);
        Clone { engine: Engine::new(map, limits), next_request: 0, fetches: Vec::new() }
    }

    fn with_source(limits: Limits) -> Clone {
        let mut clone = Clone::new(limits);
        clone.tell(Event::SourceUp);
        clone
    }

    /// Gives the fetches that begin at once.
    fn read(&mut self, offset: u64, len: u64) -> Vec<(ByteRange, Urgency)> {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let range = ByteRange::new(offset, len).unwrap();
        self.tell(Event::Request { id, kind: RequestKind::Read { range } })
    }

    /// The store does at once what it is told; the source waits for [`Clone::arrive`].
    fn tell(&mut self, event: Event) -> Vec<(ByteRange, Urgency)> {
        let (mut events, before) = (vec![event], self.fetches.len());
        while let Some(event) = events.pop() {
            let mut operations = Vec::new();
            self.engine.handle(event, &mut operations);
            for operation in operations {
                match operation {
                    Operation::Fetch { op, range, urgency } => self.fetches.push((op, range, urgency)),
                    Operation::ReadLocal { op, .. }
                    | Operation::WriteLocal { op, .. }
                    | Operation::SyncLocal { op }
                    | Operation::Note { op, .. }
                    | Operation::Persist { op, .. } => events.push(Event::Done { op, result: Ok(()) }),
                    _ => {}
                }
            }
        }
        self.fetches[before..].iter().map(|&(_, range, urgency)| (range, urgency)).collect()
    }

    /// Everything of this urgency that was asked for arrives.
    fn arrive(&mut self, urgency: Urgency) {
        while let Some(at) = self.fetches.iter().position(|&(_, _, asked)| asked == urgency) {
            let (op, _, _) = self.fetches.remove(at);
            let arrived = Event::Fetched { op, result: Ok(Arrival::DATA) };
            self.tell(arrived);
        }
    }
}

fn ahead(fetches: &[(ByteRange, Urgency)]) -> Vec<ByteRange> {
    fetches.iter().filter(|(_, urgency)| *urgency == Urgency::Ahead).map(|&(range, _)| range).collect()
}

fn own(fetches: &[(ByteRange, Urgency)]) -> Vec<ByteRange> {
    fetches.iter().filter(|(_, urgency)| *urgency == Urgency::Guest).map(|&(range, _)| range).collect()
}

#[test]
fn a_guest_that_reads_in_sequence_waits_for_its_first_reads_only() {
    let mut clone = Clone::with_source(Limits::default());
    let mut asked = Vec::new();
    for offset in (0..16 * MIB).step_by(16 * 1024) {
        asked.extend(clone.read(offset, 16 * KIB));
        clone.arrive(Urgency::Guest);
        clone.arrive(Urgency::Ahead);
    }
    assert_eq!(own(&asked).len(), 2, "the first read, and the one that shows the sequence");
    let lengths: Vec<u64> = ahead(&asked).iter().map(|range| range.len_bytes()).collect();
    assert_eq!(lengths[0], AHEAD_BYTES_FIRST);
    assert!(lengths.iter().all(|&len| len <= MIB) && lengths.iter().max() > Some(&(MIB / 4)), "{lengths:?}");
    let status = clone.engine.status();
    assert_eq!((status.cold_reads, status.bytes_read_ahead), (2, lengths.iter().sum::<u64>()));
    assert!(status.bytes_local <= 17 * MIB + 32 * KIB, "at most a region ahead: {status:?}");
    let mut ranges: Vec<ByteRange> = asked.iter().map(|&(range, _)| range).collect();
    ranges.sort_by_key(|range| range.offset());
    assert!(ranges.is_sorted_by(|one, next| one.end() == next.offset()), "each block once: {ranges:?}");
}

#[test]
fn nothing_is_read_ahead_of_a_guest_that_jumps_or_while_hydration_is_paused() {
    let mut clone = Clone::with_source(Limits::default());
    for offset in [0, 9, 3, 50, 20, 21, 40, 39] {
        assert_eq!(ahead(&clone.read(offset * MIB, 4 * KIB)), []);
    }
    clone.tell(Event::Command(Command::PauseHydration));
    assert_eq!(ahead(&clone.read(4 * KIB, 4 * KIB)), []);
    assert_eq!(ahead(&clone.tell(Event::Command(Command::ResumeHydration))).len(), 1);
}

#[test]
fn several_sequences_are_followed_at_a_time() {
    let mut clone = Clone::with_source(Limits::default());
    for step in 0..2 {
        for stream in 0..RUNS_MAX as u64 {
            let asked = clone.read(stream * 8 * MIB + step * 8 * KIB, 8 * KIB);
            assert_eq!(ahead(&asked).len() as u64, step);
        }
    }
}

#[test]
fn what_the_guest_waits_for_never_waits_behind_read_ahead() {
    let mut clone = Clone::with_source(Limits { guest_fetch_bytes_max: 64 * KIB, ..Limits::default() });
    for offset in (0..8 * MIB).step_by(1 << 20) {
        clone.read(offset, 64 * KIB);
        clone.read(offset + 64 * KIB, 64 * KIB);
        clone.arrive(Urgency::Guest);
    }
    let under_way = clone.fetches.iter().filter(|&&(_, _, urgency)| urgency == Urgency::Ahead).count();
    assert!(under_way > 1);
    assert_eq!(own(&clone.read(40 * MIB, 64 * KIB)).len(), 1, "it goes at once");
    assert_eq!(clone.read(50 * MIB, 64 * KIB), [], "its share of buffers is used up: it waits for its turn");
    assert_eq!(clone.read(50 * MIB + 64 * KIB, 64 * KIB), [], "and so nothing more is read ahead");
    clone.arrive(Urgency::Guest);
    assert_eq!(clone.engine.status().waiting_for_source, 0);
}

#[test]
fn what_could_not_be_read_ahead_is_forgotten_with_its_run() {
    for others in [0, RUNS_MAX as u64] {
        let mut clone = Clone::new(Limits::default());
        clone.read(0, 16 * KIB);
        clone.read(16 * KIB, 16 * KIB);
        (0..others).for_each(|other| assert_eq!(clone.read((10 + other) * MIB, 4 * KIB), []));
        let asked = clone.tell(Event::SourceUp);
        assert_eq!(ahead(&asked).len(), usize::from(others == 0), "after {others} other reads: {asked:?}");
    }
}
