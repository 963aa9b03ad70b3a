//! Questions that the source and the base answer together: what came of their parts becomes one answer to the engine.
//!
//! Invariant: a question is answered once, when all of its parts have ended; if any of them failed, it has.

use super::source::{Failure, FetchEnd, Outcome};
use crate::buffer::{Buffer, Pool};
use ferry_engine::{ByteRange, Differences, OpId, SourceExtent, Urgency};
use std::collections::BTreeMap;

/// The engine's operations have numbers without these bits; those of parts have both.
const PART: u64 = 0b11 << 62;

/// Questions of which parts are under way.
#[derive(Default)]
pub(super) struct Gathers {
    wholes: BTreeMap<OpId, Whole>,
    /// Whose part each is, and for a look at zeroes: whether it is the source's.
    parts: BTreeMap<OpId, (OpId, bool)>,
    last_part: u64,
}

struct Whole {
    /// Parts that have not ended.
    left: usize,
    kind: Kind,
}

enum Kind {
    Fetch(Pieces),
    Query(Views),
}

/// What has come of a fetch.
struct Pieces {
    range: ByteRange,
    urgency: Urgency,
    /// Set as soon as anything came that is not zero.
    buffer: Option<Buffer>,
    is_verified: bool,
    bytes_from_base: u64,
    /// How a part failed.
    failed: Option<FetchEnd>,
}

/// What has been told of zeroes.
struct Views {
    offset: u64,
    base_bytes: u64,
    source: Result<Vec<SourceExtent>, Failure>,
    /// Nothing, if it does not know.
    base: Vec<SourceExtent>,
}

impl Gathers {
    /// The engine fetches a range in so many parts; gives their names.
    pub(super) fn fetch(
        &mut self,
        op: OpId,
        range: ByteRange,
        urgency: Urgency,
        parts: usize,
    ) -> impl Iterator<Item = OpId> + use<> {
        let pieces =
            Pieces { range, urgency, buffer: None, is_verified: true, bytes_from_base: 0, failed: None };
        self.begin(op, parts, Kind::Fetch(pieces))
    }

    /// The engine asks what is zero from `offset` on; gives the names of the questions to the source and to the base.
    pub(super) fn query(&mut self, op: OpId, offset: u64, base_bytes: u64) -> (OpId, OpId) {
        let views = Views { offset, base_bytes, source: Ok(Vec::new()), base: Vec::new() };
        let mut parts = self.begin(op, 2, Kind::Query(views));
        let (source, base) = (parts.next().expect("there are two"), parts.next().expect("there are two"));
        self.parts.insert(source, (op, true));
        (source, base)
    }

    fn begin(&mut self, op: OpId, parts: usize, kind: Kind) -> impl Iterator<Item = OpId> + use<> {
        self.wholes.insert(op, Whole { left: parts, kind });
        let first = self.last_part + 1;
        self.last_part += parts as u64;
        let names = (first..=self.last_part).map(|number| OpId::from_u64(PART | number));
        self.parts.extend(names.clone().map(|part| (part, (op, false))));
        names
    }

    /// A question has ended. Gives what the engine is told: at once if it was no part.
    pub(super) fn ended(
        &mut self,
        outcome: Outcome,
        is_from_base: bool,
        differences: Option<&Differences>,
        pool: &Pool,
    ) -> Option<Outcome> {
        match outcome {
            Outcome::Fetched { op, range, mut end } => match self.parts.remove(&op) {
                Some((whole, _)) => {
                    self.part_ended(whole, differences, |whole| whole.fetched(range, end, is_from_base, pool))
                }
                None => {
                    // The base alone gave it.
                    if is_from_base && let FetchEnd::Data { bytes_from_base, .. } = &mut end {
                        *bytes_from_base = range.len_bytes();
                    }
                    Some(Outcome::Fetched { op, range, end })
                }
            },
            Outcome::Extents { op, offset, end } => match self.parts.remove(&op) {
                Some((whole, is_source)) => {
                    self.part_ended(whole, differences, |whole| whole.looked(end, is_source))
                }
                None => Some(Outcome::Extents { op, offset, end }),
            },
            Outcome::Up
            | Outcome::Joined
            | Outcome::Down
            | Outcome::Heat(_)
            | Outcome::Differences(_)
            | Outcome::Summed { .. } => Some(outcome),
        }
    }

    fn part_ended(
        &mut self,
        op: OpId,
        differences: Option<&Differences>,
        take: impl FnOnce(&mut Whole),
    ) -> Option<Outcome> {
        let whole = self.wholes.get_mut(&op).expect("a whole stays until its parts have ended");
        whole.left -= 1;
        take(whole);
        if whole.left > 0 {
            return None;
        }
        self.wholes.remove(&op).map(|whole| whole.outcome(op, differences))
    }
}

impl Whole {
    fn fetched(&mut self, range: ByteRange, end: FetchEnd, is_from_base: bool, pool: &Pool) {
        let Kind::Fetch(pieces) = &mut self.kind else { return };
        let at = (range.offset() - pieces.range.offset()) as usize;
        let len = range.len_bytes() as usize;
        match end {
            FetchEnd::Data { buffer, lead, verified, .. } => {
                pieces.buffer(pool).copy_from(at, &buffer, lead, len);
                pieces.is_verified &= verified;
            }
            FetchEnd::Zeroes { verified } => pieces.is_verified &= verified,
            // That a connection is lost tells least.
            FetchEnd::Failed(Failure::Disconnected) if pieces.failed.is_some() => {}
            failed @ (FetchEnd::Mismatch { .. } | FetchEnd::Failed(_)) => pieces.failed = Some(failed),
        }
        if is_from_base {
            pieces.bytes_from_base += range.len_bytes();
        }
    }

    /// The base need not know anything.
    fn looked(&mut self, end: Result<Vec<SourceExtent>, Failure>, is_source: bool) {
        let Kind::Query(views) = &mut self.kind else { return };
        match (end, is_source) {
            (told, true) => views.source = told,
            (Ok(extents), false) => views.base = extents,
            (Err(_), false) => {}
        }
    }

    fn outcome(self, op: OpId, differences: Option<&Differences>) -> Outcome {
        match self.kind {
            Kind::Fetch(pieces) => Outcome::Fetched { op, range: pieces.range, end: pieces.whole() },
            Kind::Query(views) => {
                Outcome::Extents { op, offset: views.offset, end: views.merged(differences) }
            }
        }
    }
}

impl Pieces {
    /// Where they are put together: zero wherever nothing else comes.
    fn buffer(&mut self, pool: &Pool) -> &Buffer {
        let len = self.range.len_bytes() as usize;
        self.buffer.get_or_insert_with(|| {
            let buffer = pool.take(len);
            buffer.zero(0, len);
            buffer
        })
    }

    fn whole(self) -> FetchEnd {
        let Pieces { buffer, urgency, is_verified: verified, bytes_from_base, failed, .. } = self;
        if let Some(failed) = failed {
            return failed;
        }
        match buffer {
            None => FetchEnd::Zeroes { verified },
            Some(buffer) => {
                let crc32c = buffer.with_bytes(0, buffer.len(), crc32c::crc32c);
                FetchEnd::Data { buffer, lead: 0, crc32c, verified, urgency, bytes_from_base }
            }
        }
    }
}

impl Views {
    fn merged(self, differences: Option<&Differences>) -> Result<Vec<SourceExtent>, Failure> {
        let Views { offset, base_bytes, source, base } = self;
        let source = source?;
        let base_tells = base.iter().any(|extent| extent.len_bytes > 0);
        Ok(match differences.filter(|_| base_tells) {
            Some(differences) => differences.zeroes(offset, &source, &base, base_bytes),
            None => source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 4096;

    fn range(first: u64, end: u64) -> ByteRange {
        ByteRange::between(first * BLOCK, end * BLOCK).unwrap()
    }

    fn data(op: OpId, range: ByteRange, byte: u8, pool: &Pool) -> Outcome {
        let lead = 100;
        let buffer = pool.take(lead + range.len_bytes() as usize);
        buffer.copy_in(lead, &vec![byte; range.len_bytes() as usize]);
        let urgency = Urgency::Guest;
        let end = FetchEnd::Data { buffer, lead, crc32c: 0, verified: true, urgency, bytes_from_base: 0 };
        Outcome::Fetched { op, range, end }
    }

    fn begin(gathers: &mut Gathers) -> Vec<OpId> {
        gathers.fetch(OpId::from_u64(7), range(2, 6), Urgency::Guest, 3).collect()
    }

    #[test]
    fn parts_become_one_whatever_their_order_and_what_is_zero_is() {
        let (mut gathers, pool) = (Gathers::default(), Pool::new());
        // What was in the pool's memory before.
        pool.take(4 * BLOCK as usize).copy_in(0, &vec![0xee; 4 * BLOCK as usize]);
        let parts = begin(&mut gathers);
        assert!(gathers.ended(data(parts[2], range(5, 6), 9, &pool), false, None, &pool).is_none());
        let zero =
            Outcome::Fetched { op: parts[0], range: range(2, 3), end: FetchEnd::Zeroes { verified: true } };
        assert!(gathers.ended(zero, true, None, &pool).is_none());
        let whole = gathers.ended(data(parts[1], range(3, 5), 7, &pool), true, None, &pool).unwrap();
        let Outcome::Fetched { op, range: all, end } = whole else { panic!("it was a fetch") };
        let FetchEnd::Data { buffer, lead: 0, crc32c, verified: true, bytes_from_base, .. } = end else {
            panic!("there is data")
        };
        let expected = [vec![0; 4096], vec![7; 8192], vec![9; 4096]].concat();
        buffer.with_bytes(0, buffer.len(), |bytes| assert!(bytes == expected));
        assert_eq!((op, all, bytes_from_base), (OpId::from_u64(7), range(2, 6), 3 * BLOCK));
        assert_eq!(crc32c, crc32c::crc32c(&expected));
        assert!(gathers.wholes.is_empty() && gathers.parts.is_empty());
    }

    #[test]
    fn a_part_that_failed_is_told_when_the_others_have_ended() {
        let (mut gathers, pool) = (Gathers::default(), Pool::new());
        let parts = begin(&mut gathers);
        let failed = |op, range, end| Outcome::Fetched { op, range, end };
        let lost = failed(parts[0], range(2, 3), FetchEnd::Failed(Failure::Disconnected));
        assert!(gathers.ended(lost, false, None, &pool).is_none());
        let wrong = failed(parts[1], range(3, 5), FetchEnd::Mismatch { came: 5 });
        assert!(gathers.ended(wrong, false, None, &pool).is_none());
        let whole = gathers.ended(data(parts[2], range(5, 6), 9, &pool), false, None, &pool);
        assert!(matches!(whole, Some(Outcome::Fetched { end: FetchEnd::Mismatch { came: 5 }, .. })));
    }

    #[test]
    fn a_base_that_cannot_say_what_is_zero_leaves_it_to_the_source() {
        let (mut gathers, pool) = (Gathers::default(), Pool::new());
        let zero = |len_bytes| SourceExtent { len_bytes, zero: true };
        let differences = Differences::none();
        for base_end in [Err(Failure::Disconnected), Ok(Vec::new()), Ok(vec![zero(BLOCK)])] {
            let is_told = matches!(&base_end, Ok(extents) if !extents.is_empty());
            let (source, base) = gathers.query(OpId::from_u64(7), 0, u64::MAX);
            let told = Outcome::Extents { op: base, offset: 0, end: base_end };
            assert!(gathers.ended(told, true, Some(&differences), &pool).is_none());
            let told = Outcome::Extents { op: source, offset: 0, end: Ok(vec![zero(2 * BLOCK)]) };
            let whole = gathers.ended(told, false, Some(&differences), &pool);
            let Some(Outcome::Extents { end: Ok(found), .. }) = whole else { panic!("the source has told") };
            assert_eq!(found, [zero(if is_told { BLOCK } else { 2 * BLOCK })]);
        }
    }
}
