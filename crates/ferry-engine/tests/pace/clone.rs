//! A clone with a source that gives everything at once, in virtual time.

use ferry_engine::{
    Arrival, ByteRange, Command, Engine, Event, Geometry, Limits, MapState, Operation, Phase, RequestId,
    RequestKind, SourceExtent, Urgency,
};
use std::num::NonZeroU64;

pub const MIB: u64 = 1 << 20;

/// A clone with a source that gives everything at once, and a clock that only the test moves.
pub struct Clone {
    pub engine: Engine,
    pub now_ms: u64,
    pub background_bytes: u64,
    pub guest_bytes: u64,
    /// Fetches for the background, in order.
    pub fetched: Vec<ByteRange>,
    /// What the source says is zero.
    pub hole: Option<ByteRange>,
    next_request: u64,
}

impl Clone {
    /// A clone whose source is up, under a budget from its first moment.
    pub fn under(bytes_per_s: u64, size_bytes: u64) -> Clone {
        let mut clone = Clone::before_its_source(size_bytes);
        clone.budget(Some(bytes_per_s));
        clone.tell(Event::SourceUp);
        clone
    }

    /// A clone whose source is not up yet.
    pub fn before_its_source(size_bytes: u64) -> Clone {
        let geometry = Geometry::new(size_bytes, MIB).unwrap();
        let map = MapState::fresh([1; 16], geometry, 1, Phase::Open, true);
        let engine = Engine::new(map, Limits::default());
        let fetched = Vec::new();
        Clone { engine, now_ms: 0, background_bytes: 0, guest_bytes: 0, fetched, hole: None, next_request: 0 }
    }

    pub fn budget(&mut self, bytes_per_s: Option<u64>) {
        let bytes_per_s = bytes_per_s.map(|rate| NonZeroU64::new(rate).unwrap());
        self.tell(Event::Command(Command::SetBudget { bytes_per_s }));
    }

    pub fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.tell(Event::Tick { now_ms: self.now_ms });
    }

    /// A guest reads; gives whether it was answered before any time passed.
    pub fn read(&mut self, offset: u64, len: u64) -> bool {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let range = ByteRange::new(offset, len).unwrap();
        self.tell(Event::Request { id, kind: RequestKind::Read { range } })
    }

    /// A guest writes whole blocks that it has not written before, or writes them again.
    pub fn write(&mut self, offset: u64, len: u64) {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let range = ByteRange::new(offset, len).unwrap();
        assert!(self.tell(Event::Request { id, kind: RequestKind::Write { range, fua: false } }));
    }

    /// Tells the engine, and does what it wants until it wants nothing more. Gives whether a guest was answered.
    pub fn tell(&mut self, event: Event) -> bool {
        let (mut events, mut answered) = (vec![event], false);
        while let Some(event) = events.pop() {
            let mut operations = Vec::new();
            self.engine.handle(event, &mut operations);
            for operation in operations {
                answered |= matches!(operation, Operation::Reply { .. });
                events.extend(self.execute(operation));
            }
        }
        answered
    }

    fn extents(&self, asked: ByteRange) -> Vec<SourceExtent> {
        let extent = |from: u64, to: u64, zero| SourceExtent { len_bytes: to.saturating_sub(from), zero };
        let Some(hole) = self.hole.and_then(|hole| hole.intersect(asked)) else {
            return vec![extent(asked.offset(), asked.end(), false)];
        };
        vec![
            extent(asked.offset(), hole.offset(), false),
            extent(hole.offset(), hole.end(), true),
            extent(hole.end(), asked.end(), false),
        ]
    }

    fn execute(&mut self, operation: Operation) -> Option<Event> {
        match operation {
            Operation::Fetch { op, range, urgency } => {
                match urgency {
                    Urgency::Background | Urgency::Ahead => {
                        self.background_bytes += range.len_bytes();
                        self.fetched.push(range);
                    }
                    Urgency::Guest => self.guest_bytes += range.len_bytes(),
                }
                Some(Event::Fetched { op, result: Ok(Arrival::DATA) })
            }
            Operation::QuerySource { op, range } => {
                Some(Event::Extents { op, result: Ok(self.extents(range)) })
            }
            Operation::ReadLocal { op, .. }
            | Operation::WriteLocal { op, .. }
            | Operation::ZeroLocal { op, .. }
            | Operation::SyncLocal { op }
            | Operation::Note { op, .. }
            | Operation::Persist { op, .. } => Some(Event::Done { op, result: Ok(()) }),
            _ => None,
        }
    }
}
