//! Walks over the regions of the store, a step at a time beside everything else: to sum what was sealed, or to check
//! that what lies there is still what arrived (or was sealed).
//!
//! A walk reads one region at a time, looks only at so many regions in one turn of the loop, and does not read holes. It
//! reads past the page cache where the filesystem lets it: what the cache holds says nothing about the disk, and what it
//! holds for guests is not to make room for what is read once. It reads no faster than [`WALK_BYTES_PER_S`], in pieces that
//! keep nobody else's read waiting for long, and rests after each as long as that took, so that others have half of a disk at
//! least, and more the slower it is.
//!
//! Invariant: a region that the guest may have changed is never held against its leaf. It is marked before the write
//! begins, and looked at again after it was read.

use super::{Purpose, Server};
use crate::buffer::Buffer;
use crate::control::{Check, CheckState, Phase};
use crate::extents::{FileExtent, file_extents};
use crate::ring::Descriptor;
use crate::sums_file::{self, SEALED, SumsFile};
use ferry_engine::{ByteRange, Residence, Sums};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The most that a walk reads a second.
const WALK_BYTES_PER_S: u64 = 400 << 20;
/// The most that is read at once: a disk has done with it in less than the time of a small read of a guest that comes meanwhile.
const PIECE_BYTES: usize = 32 << 10;
/// Regions that are looked at in one turn of the loop, without reading.
const STEPS_MAX: usize = 1024;

/// What a walk is for. There is at most one of each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Errand {
    /// The sums of what was sealed.
    Sum,
    /// Whether the store still holds what the sums say.
    Check,
}

/// A walk under way.
pub(super) struct Walk {
    errand: Errand,
    number: u64,
    region: u64,
    /// What the file is like from here on.
    stretch: Option<FileExtent>,
    reading: Option<Reading>,
    not_before: Instant,
    file: Descriptor,
    pub(super) check: Check,
}

struct Reading {
    range: ByteRange,
    buffer: Buffer,
    done: usize,
    /// Since when a piece is being read; none between two of them.
    since: Option<Instant>,
}

/// How long nothing more is read for the sake of others, after so many bytes that took so long.
fn rest(bytes: u64, took: Duration) -> Duration {
    took.max(Duration::from_nanos(bytes * 1_000_000_000 / WALK_BYTES_PER_S))
}

enum Step {
    /// The next one may follow at once.
    Done,
    /// It goes on when a read ends.
    Reads,
    /// All regions were looked at.
    Over,
}

impl Walk {
    /// When it wants to go on; none while it reads.
    fn due(&self) -> Option<Instant> {
        let is_reading = self.reading.as_ref().is_some_and(|reading| reading.since.is_some());
        (!is_reading).then_some(self.not_before)
    }
}

impl Server {
    /// When a walk wants to go on.
    pub(super) fn walks_due(&self) -> Option<Instant> {
        self.ledger.walks.iter().filter_map(Walk::due).min()
    }

    /// Begins a walk, unless one of its kind is under way.
    pub(super) fn begin_walk(&mut self, errand: Errand) {
        if self.ledger.walks.iter().any(|walk| walk.errand == errand) {
            return;
        }
        let file = sums_file::past_the_cache(&self.store.data);
        self.next_id += 1;
        let regions = self.walked_sums(errand).map_or(0, |sums| sums.geometry().region_count());
        let check = Check { regions, ..Check::default() };
        let (number, not_before) = (self.next_id, Instant::now());
        self.ledger.walks.push(Walk {
            errand,
            number,
            region: 0,
            stretch: None,
            reading: None,
            not_before,
            file,
            check,
        });
    }

    /// Ends a walk halfway; a read that it waits for is nobody's then.
    pub(super) fn end_walk(&mut self, errand: Errand) {
        self.ledger.walks.retain(|walk| walk.errand != errand);
    }

    /// How far a check is, or how the last one ended.
    pub(super) fn check(&self) -> Option<&Check> {
        let under_way = self.ledger.walks.iter().find(|walk| walk.errand == Errand::Check);
        under_way.map(|walk| &walk.check).or(self.ledger.checked.as_ref())
    }

    /// Lets the walks that are due go on.
    pub(super) fn walk_on(&mut self) {
        let now = Instant::now();
        let due: Vec<Walk> =
            self.ledger.walks.extract_if(.., |walk| walk.due().is_some_and(|at| at <= now)).collect();
        for mut walk in due {
            let mut over = false;
            for _ in 0..STEPS_MAX {
                match self.step(&mut walk) {
                    Step::Done => {}
                    Step::Reads => break,
                    Step::Over => {
                        over = true;
                        break;
                    }
                }
            }
            match over {
                true => self.walked(walk),
                false => self.ledger.walks.push(walk),
            }
        }
    }

    /// What a walk holds the store against, or fills.
    fn walked_sums(&self, errand: Errand) -> Option<&Sums> {
        match errand {
            Errand::Sum => self.ledger.sealed.as_ref(),
            Errand::Check if self.phase() == Phase::Sealed => self.ledger.sealed.as_ref(),
            Errand::Check => self.ledger.arrivals.sums(),
        }
    }

    fn step(&mut self, walk: &mut Walk) -> Step {
        if walk.reading.is_some() {
            self.read_on(walk);
            return Step::Reads;
        }
        let Some(sums) = self.walked_sums(walk.errand) else { return Step::Over };
        let region = walk.region;
        if region >= sums.geometry().region_count() {
            return Step::Over;
        }
        let range = sums.geometry().bytes_of(sums.blocks_of(region));
        match walk.errand {
            Errand::Sum if sums.leaf(region).is_some() => {
                walk.region += 1;
                return Step::Done;
            }
            Errand::Check if sums.is_changed(region) => {
                walk.check.regions_changed += 1;
                walk.region += 1;
                return Step::Done;
            }
            Errand::Check if sums.leaf(region).is_none() || !self.is_local(range) => {
                walk.check.regions_unknown += 1;
                walk.region += 1;
                return Step::Done;
            }
            Errand::Sum | Errand::Check => {}
        }
        let stretch = match walk.stretch.filter(|s| s.start <= range.offset() && range.offset() < s.end) {
            Some(stretch) => stretch,
            None => self.stretch(range.offset()),
        };
        walk.stretch = Some(stretch);
        if !stretch.data && range.end() <= stretch.end {
            return self.pass_hole(walk, stretch);
        }
        let buffer = self.pool.take((self.store.read_end(range.end()) - range.offset()) as usize);
        walk.reading = Some(Reading { range, buffer, done: 0, since: None });
        self.read_on(walk);
        Step::Reads
    }

    /// The region lies in a hole: it reads as zeroes. When summing, so do all others in the hole.
    fn pass_hole(&mut self, walk: &mut Walk, hole: FileExtent) -> Step {
        let region = walk.region;
        walk.region += 1;
        match (walk.errand, &mut self.ledger.sealed) {
            (Errand::Sum, Some(sums)) => {
                let geometry = sums.geometry();
                let end = hole.end.min(geometry.size_bytes());
                let whole = ByteRange::between(region * geometry.region_bytes(), end);
                if let Some(blocks) = whole.and_then(|range| geometry.blocks_covered(range)) {
                    sums.zeroes(blocks);
                }
            }
            (Errand::Sum, None) => {}
            (Errand::Check, _) => self.compare(walk, region, None),
        }
        Step::Done
    }

    fn is_local(&self, range: ByteRange) -> bool {
        self.engine.truth(range).all(|(_, residence)| residence == Residence::Local)
    }

    /// What the file is like from an offset on; data where it cannot tell.
    fn stretch(&self, offset: u64) -> FileExtent {
        let end = self.store.config.size_bytes;
        let found = file_extents(&*self.store.data, offset, end, 1).ok().and_then(|all| all.first().copied());
        found.unwrap_or(FileExtent { start: offset, end, data: true })
    }

    fn read_on(&mut self, walk: &mut Walk) {
        let Some(Reading { range, buffer, done, since }) = &mut walk.reading else { return };
        let (piece, offset) = (PIECE_BYTES.min(buffer.len() - *done), range.offset() + *done as u64);
        *since = Some(Instant::now());
        let purpose = Purpose::Walked(walk.number);
        self.ring.read_at(&walk.file, buffer, *done, piece, offset, purpose);
    }

    /// A read of a walk came back.
    pub(super) fn walk_read(&mut self, number: u64, result: io::Result<u32>) {
        let Some(at) = self.ledger.walks.iter().position(|walk| walk.number == number) else { return };
        let mut walk = self.ledger.walks.swap_remove(at);
        let Some(reading) = &mut walk.reading else { return };
        let took = reading.since.take().map_or(Duration::ZERO, |since| since.elapsed());
        match result {
            Ok(count) if count > 0 => {
                reading.done += count as usize;
                walk.not_before = Instant::now() + rest(count.into(), took);
            }
            // The end of a file is not always one for direct I/O.
            Ok(_) | Err(_) if !Rc::ptr_eq(&walk.file, &self.store.data) => {
                walk.file = self.store.data.clone();
            }
            Ok(_) => return self.walk_failed(walk, io::ErrorKind::UnexpectedEof.into()),
            Err(e) => return self.walk_failed(walk, e),
        }
        if reading.done >= reading.range.len_bytes() as usize
            && let Some(reading) = walk.reading.take()
        {
            self.has_read(&mut walk, reading.range, &reading.buffer);
        }
        self.ledger.walks.push(walk);
    }

    fn has_read(&mut self, walk: &mut Walk, range: ByteRange, buffer: &Buffer) {
        let crc32c = buffer.with_bytes(0, range.len_bytes() as usize, crc32c::crc32c);
        let region = walk.region;
        walk.region += 1;
        walk.check.bytes_read += range.len_bytes();
        match (walk.errand, &mut self.ledger.sealed) {
            (Errand::Sum, Some(sums)) => {
                let geometry = sums.geometry();
                sums.arrived(sums.blocks_of(region), |part| {
                    let part = geometry.bytes_of(part);
                    let at = (part.offset() - range.offset()) as usize;
                    buffer.with_bytes(at, part.len_bytes() as usize, crc32c::crc32c)
                });
            }
            (Errand::Sum, None) => {}
            (Errand::Check, _) => self.compare(walk, region, Some(crc32c)),
        }
    }

    /// Holds a region of the store against its leaf; without a checksum it is zero.
    fn compare(&mut self, walk: &mut Walk, region: u64, crc32c: Option<u32>) {
        let Some(sums) = self.walked_sums(Errand::Check) else { return };
        let range = sums.geometry().bytes_of(sums.blocks_of(region));
        let here = crc32c.unwrap_or_else(|| sums.zero_leaf(region));
        if sums.is_changed(region) {
            walk.check.regions_changed += 1;
        } else if sums.leaf(region) == Some(here) {
            walk.check.regions_equal += 1;
        } else {
            tracing::error!(%range, doubtful = sums.is_doubtful(), "the store does not hold what arrived");
            walk.check.differs(range.offset(), range.len_bytes(), sums.is_doubtful());
        }
    }

    fn walk_failed(&mut self, mut walk: Walk, error: io::Error) {
        tracing::error!(%error, region = walk.region, "the store cannot be read to check it");
        let reason = format!("the store cannot be read at region {}: {error}", walk.region);
        walk.check.state = CheckState::Failed { reason: reason.clone() };
        match walk.errand {
            Errand::Sum => self.ledger.sum_failure = Some(reason),
            Errand::Check => self.ledger.checked = Some(walk.check),
        }
    }

    /// A walk has seen all regions.
    fn walked(&mut self, mut walk: Walk) {
        match walk.errand {
            // Whoever waits for the root asks again; then they are kept.
            Errand::Sum => {}
            Errand::Check => {
                walk.check.state = CheckState::Done;
                let (generation, is_sealed) = (self.store.config.generation, self.phase() == Phase::Sealed);
                if let Some(sums) = self.ledger.sealed.as_ref().filter(|_| is_sealed && walk.check.is_whole())
                {
                    walk.check.root = sums_file::root(sums, generation, 0..sums.geometry().region_count());
                }
                self.settle_doubt(&walk.check);
                self.ledger.checked = Some(walk.check);
            }
        }
    }

    /// What was in doubt has been said; what differs counts as changed by the guest from now on.
    fn settle_doubt(&mut self, check: &Check) {
        let is_in_doubt =
            self.phase() != Phase::Sealed && self.ledger.arrivals.sums().is_some_and(Sums::is_doubtful);
        // What was not listed cannot be marked.
        if !is_in_doubt || check.regions_doubtful > check.doubtful.len() as u64 {
            return;
        }
        self.ledger.arrivals.learn(|sums| {
            for range in check.doubtful.iter().filter_map(|r| ByteRange::new(r.offset, r.len_bytes)) {
                sums.changes(sums.geometry().blocks_touched(range));
            }
            sums.settle();
        });
    }

    /// The sums of what was sealed are whole: they are kept beside it, for later.
    pub(super) fn keep_sealed_sums(&mut self) {
        let Some(sums) = &self.ledger.sealed else { return };
        self.ledger.sealed_are_kept = true;
        if let Err(e) = SumsFile::make(&self.store.dir, SEALED, self.ledger.of, sums.clone()) {
            tracing::warn!(error = %e, "the checksums of what was sealed are not kept");
        }
    }
}
