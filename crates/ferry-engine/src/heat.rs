//! Heat: what a guest touches often and lately, so that it crosses first when its volume moves.
//!
//! A volume is cut into spots of 1 MiB. A spot counts the visits of the guest (requests in a row within one spot are one
//! visit, so that reading through a file heats it no more than reading one block of it), at most 255. When the visits
//! have become many, all counts are halved: what was hot once cools down. Memory is in proportion to what is touched.
//!
//! For others a count is its *class*: 0 for nothing, 1 for one visit, and one more for each doubling, 8 at most. A small
//! file keeps the classes over a restart of the server (see docs/formats.md); losing it costs nothing but order.

use std::collections::BTreeMap;
use std::fmt;

use crate::geometry::ByteRange;

/// What has one heat, in bytes.
pub const SPOT_BYTES: u64 = 1 << 20;
/// Runs of one class that a heat is told in at most; the coldest are left out.
pub const HEAT_RUNS_MAX: usize = 1 << 16;
/// Largest class.
pub const CLASS_MAX: u8 = 8;
/// Visits of each warm spot, on average, before all cool down.
const VISITS_PER_SPOT: u64 = 8;
/// Fewer visits than this never cool anything.
const VISITS_MIN: u64 = 4_096;
/// Spots of which the counts lie together: 4 GiB of the volume.
const PAGE_SPOTS: u64 = 4_096;

const MAGIC: &[u8; 8] = b"FRYHEAT1";
const HEAD_BYTES: usize = 16;
const RUN_BYTES: usize = 16;
const SUM_BYTES: usize = 4;
/// Largest file, in bytes.
pub const HEAT_FILE_BYTES_MAX: usize = HEAD_BYTES + HEAT_RUNS_MAX * RUN_BYTES + SUM_BYTES;

/// A stretch of a volume and how hot it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hot {
    /// Where, in bytes.
    pub range: ByteRange,
    /// How hot, from 1 to [`CLASS_MAX`]; larger ones count as that.
    pub class: u8,
}

/// The heat of one volume.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Heat {
    pages: BTreeMap<u64, Page>,
    warm_spots: u64,
    /// Since all cooled down.
    visits: u64,
    last: Option<u64>,
}

type Page = Box<[u8; PAGE_SPOTS as usize]>;

impl fmt::Debug for Heat {
    /// Only what is warm: a page has thousands of spots that were never touched.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pages, warm_spots: _, visits, last } = self;
        let spots = pages.iter().flat_map(|(page, counts)| (page * PAGE_SPOTS..).zip(counts.iter()));
        let warm: BTreeMap<_, _> = spots.filter(|(_, count)| **count > 0).collect();
        f.debug_struct("Heat").field("warm", &warm).field("visits", visits).field("last", last).finish()
    }
}

impl Heat {
    /// Nothing is hot.
    #[must_use]
    pub fn new() -> Heat {
        Heat::default()
    }

    /// Whether nothing is hot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// The guest touches these bytes.
    pub fn touch(&mut self, range: ByteRange) {
        let (first, last) = (range.offset() / SPOT_BYTES, (range.end() - 1) / SPOT_BYTES);
        for spot in first..=last {
            if self.last != Some(spot) {
                self.visit(spot);
            }
        }
    }

    fn visit(&mut self, spot: u64) {
        self.last = Some(spot);
        let page = self.pages.entry(spot / PAGE_SPOTS).or_insert_with(empty_page);
        let count = &mut page[(spot % PAGE_SPOTS) as usize];
        self.warm_spots += u64::from(*count == 0);
        *count = count.saturating_add(1);
        self.visits += 1;
        if self.visits >= VISITS_MIN.max(VISITS_PER_SPOT * self.warm_spots) {
            self.cool();
        }
    }

    fn cool(&mut self) {
        self.visits = 0;
        self.warm_spots = 0;
        let warm_spots = &mut self.warm_spots;
        self.pages.retain(|_, page| {
            page.iter_mut().for_each(|count| *count /= 2);
            let warm = page.iter().filter(|&&count| count > 0).count() as u64;
            *warm_spots += warm;
            warm > 0
        });
    }

    /// The classes of a range from its start on, each run as long as can be, also those of class 0. Lengths in bytes;
    /// together they cover the range.
    pub fn classes(&self, range: ByteRange) -> impl Iterator<Item = (u64, u8)> + '_ {
        let mut at = range.offset();
        std::iter::from_fn(move || {
            if at >= range.end() {
                return None;
            }
            let class = self.class_of(at / SPOT_BYTES);
            let mut end = at / SPOT_BYTES + 1;
            while end * SPOT_BYTES < range.end() && self.class_of(end) == class {
                // Where nothing was touched a whole page goes at once.
                let skips = class == 0 && !self.pages.contains_key(&(end / PAGE_SPOTS));
                end = if skips { self.next_page_spot(end) } else { end + 1 };
            }
            let end = end.saturating_mul(SPOT_BYTES).min(range.end());
            let len = end - at;
            at = end;
            Some((len, class))
        })
    }

    /// The first spot of the next page that there is.
    fn next_page_spot(&self, spot: u64) -> u64 {
        let next = self.pages.range(spot / PAGE_SPOTS + 1..).next();
        next.map_or(u64::MAX / SPOT_BYTES, |(&page, _)| page * PAGE_SPOTS)
    }

    fn class_of(&self, spot: u64) -> u8 {
        let page = self.pages.get(&(spot / PAGE_SPOTS));
        page.map_or(0, |page| class(page[(spot % PAGE_SPOTS) as usize]))
    }

    /// What a small file needs to hold to bring this back.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut runs = self.runs();
        let mut coldest = 1;
        while runs.len() > HEAT_RUNS_MAX {
            runs.retain(|run| run.class > coldest);
            coldest += 1;
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&(runs.len() as u64).to_le_bytes());
        for Run { first, count, class } in runs {
            bytes.extend_from_slice(&first.to_le_bytes());
            bytes.extend_from_slice(&count.to_le_bytes());
            bytes.extend_from_slice(&u32::from(class).to_le_bytes());
        }
        let sum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// What [`Heat::encode`] gave, for a volume of this size; none if it is damaged, or something else.
    #[must_use]
    pub fn decode(bytes: &[u8], size_bytes: u64) -> Option<Heat> {
        let (body, sum) = bytes.split_last_chunk::<SUM_BYTES>()?;
        let (head, runs) = body.split_first_chunk::<HEAD_BYTES>()?;
        let (magic, count) = head.split_first_chunk::<8>()?;
        let count = usize::try_from(u64::from_le_bytes(count.try_into().ok()?)).ok()?;
        let is_whole = magic == MAGIC
            && count <= HEAT_RUNS_MAX
            && runs.len() == count * RUN_BYTES
            && crc32c::crc32c(body) == u32::from_le_bytes(*sum);
        if !is_whole {
            return None;
        }
        let mut heat = Heat::new();
        let mut known_end = 0;
        for run in runs.chunks_exact(RUN_BYTES) {
            let run = Run::decode(run.first_chunk()?)?;
            let end = run.first.checked_add(u64::from(run.count))?;
            if run.first < known_end || end > size_bytes.div_ceil(SPOT_BYTES) {
                return None;
            }
            known_end = end;
            (run.first..end).for_each(|spot| heat.set(spot, 1 << (run.class - 1)));
        }
        Some(heat)
    }

    fn set(&mut self, spot: u64, count: u8) {
        let page = self.pages.entry(spot / PAGE_SPOTS).or_insert_with(empty_page);
        self.warm_spots += 1;
        page[(spot % PAGE_SPOTS) as usize] = count;
    }

    fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (page, counts) in &self.pages {
            for (at, &count) in (page * PAGE_SPOTS..).zip(counts.iter()).filter(|(_, count)| **count > 0) {
                let class = class(count);
                match runs.last_mut() {
                    Some(last) if last.first + u64::from(last.count) == at && last.class == class => {
                        last.count += 1;
                    }
                    Some(_) | None => runs.push(Run { first: at, count: 1, class }),
                }
            }
        }
        runs
    }
}

/// Spots of one class, one after the other.
struct Run {
    first: u64,
    count: u32,
    class: u8,
}

impl Run {
    fn decode(bytes: &[u8; RUN_BYTES]) -> Option<Run> {
        let (first, rest) = bytes.split_first_chunk::<8>()?;
        let (count, class) = rest.split_first_chunk::<4>()?;
        let count = u32::from_le_bytes(*count);
        let class = u8::try_from(u32::from_le_bytes(class.try_into().ok()?)).ok()?;
        let run = Run { first: u64::from_le_bytes(*first), count, class };
        (count > 0 && (1..=CLASS_MAX).contains(&class)).then_some(run)
    }
}

fn empty_page() -> Page {
    Box::new([0; PAGE_SPOTS as usize])
}

fn class(count: u8) -> u8 {
    (u8::BITS - count.leading_zeros()) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(first_spot: u64, spots: u64) -> ByteRange {
        ByteRange::new(first_spot * SPOT_BYTES, spots * SPOT_BYTES).unwrap()
    }

    fn one(spot: u64) -> ByteRange {
        ByteRange::new(spot * SPOT_BYTES + 4096, 4096).unwrap()
    }

    /// Visits of these spots in turn, so many rounds.
    fn visited(spots: &[u64], rounds: usize) -> Heat {
        let mut heat = Heat::new();
        (0..rounds).for_each(|_| spots.iter().for_each(|&spot| heat.touch(one(spot))));
        heat
    }

    #[test]
    fn what_is_touched_often_is_hotter_than_what_is_read_through_once() {
        let mut heat = visited(&[3, 900_000], 20);
        (0..256 * 4).for_each(|at| heat.touch(ByteRange::new(10 * SPOT_BYTES + at * 4096, 4096).unwrap()));
        assert_eq!((heat.class_of(3), heat.class_of(900_000)), (5, 5));
        assert_eq!([9, 10, 11, 12, 13, 14].map(|spot| heat.class_of(spot)), [0, 1, 1, 1, 1, 0]);
    }

    #[test]
    fn what_was_hot_once_cools_down_and_is_forgotten() {
        let mut heat = visited(&[3, 5], 300);
        assert_eq!(heat.class_of(3), CLASS_MAX);
        (0..20 * VISITS_MIN).for_each(|visit| heat.touch(one(100_000 + visit % 2)));
        assert_eq!((heat.class_of(3), heat.class_of(100_000)), (0, CLASS_MAX));
        assert_eq!(heat.pages.len(), 1, "and takes no memory");
    }

    #[test]
    fn classes_cover_what_was_asked_for_and_no_more() {
        let heat = visited(&[4_095, 4_096, 50_000], 2);
        let whole = bytes(0, 8 << 20);
        let runs: Vec<(u64, u8)> = heat.classes(whole).collect();
        let spots = |runs: &[(u64, u8)]| {
            runs.iter().map(|&(len, class)| (len / SPOT_BYTES, class)).collect::<Vec<_>>()
        };
        let rest = (8 << 20) - 50_001;
        assert_eq!(spots(&runs), [(4_095, 0), (2, 2), (45_903, 0), (1, 2), (rest, 0)]);
        let within = ByteRange::new(4_095 * SPOT_BYTES + 512, SPOT_BYTES).unwrap();
        assert_eq!(heat.classes(within).collect::<Vec<_>>(), [(SPOT_BYTES, 2)]);
        assert_eq!(Heat::new().classes(whole).collect::<Vec<_>>(), [(whole.len_bytes(), 0)]);
    }

    #[test]
    fn a_file_brings_the_classes_back_and_damage_brings_nothing() {
        let heat = visited(&[1, 2, 3, 9_000], 7);
        let file = heat.encode();
        let size_bytes = 10_000 * SPOT_BYTES;
        let back = Heat::decode(&file, size_bytes).unwrap();
        let whole = ByteRange::new(0, size_bytes).unwrap();
        assert!(heat.classes(whole).eq(back.classes(whole)));
        assert_eq!(Heat::decode(&file, 9_000 * SPOT_BYTES), None, "it is of another volume");
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            assert_eq!(Heat::decode(&damaged, size_bytes), None, "byte {at}");
            assert_eq!(Heat::decode(&file[..at], size_bytes), None, "cut at {at}");
        }
    }

    #[test]
    fn a_heat_of_very_many_runs_is_told_without_its_coldest() {
        let mut heat = Heat::new();
        (0..3 * HEAT_RUNS_MAX as u64).for_each(|run| heat.set(2 * run, if run % 3 == 0 { 200 } else { 1 }));
        let file = heat.encode();
        assert!(file.len() <= HEAT_FILE_BYTES_MAX);
        let back = Heat::decode(&file, 1 << 50).unwrap();
        assert_eq!((back.class_of(0), back.class_of(2), back.class_of(6)), (8, 0, 8));
    }
}
