//! What is known of the checksums of a volume's regions: of a sealed volume as its server read it, of a clone as its
//! bytes arrived.
//!
//! ```text
//!  region   │ arrived     │ known zero │ arr. │ told │ arr. │ nothing yet    │
//!  leaf     │ CRC-32C     │ a constant │ CRC-32C, combined  │ none           │
//!  root     └─ a strong hash over geometry, generation and all leaves in order
//! ```
//!
//! The leaf of a region is the CRC-32C of its bytes as the volume was sealed. A clone puts it together from the pieces
//! in which they arrived, whatever the guest has written over them since; a piece that never crossed, because the guest
//! wrote there first, is taken from the source's word and counted as told. A region that the guest has changed stays
//! marked, since its store no longer says what arrived. Pure: the file form is in [`codec`], the hash is the shell's.
//!
//! Invariants: a region's pieces are disjoint, and never adjacent; a region has a leaf or pieces, never both; a leaf
//! never changes.

pub mod codec;
mod record;

use std::collections::BTreeMap;
use std::ops::Range;

use crate::blockmap::Bitmap;
use crate::blockset::BlockSet;
use crate::geometry::{Blocks, Geometry};

pub use record::{SumRecord, SumTally};

/// Leaves in one piece of memory: 4 KiB for 1024 regions that hold data.
const LEAVES_AT_ONCE: u64 = 1024;

/// What is known of the checksums of a volume's regions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sums {
    geometry: Geometry,
    /// The leaf of a region of zeroes, and of the last region if it is one.
    zero_leaves: [u32; 2],
    /// Regions whose leaf is that of zeroes.
    zero: BlockSet,
    /// Regions with another leaf.
    summed: Bitmap,
    leaves: BTreeMap<u64, Box<[u32]>>,
    pieces: BTreeMap<u64, Vec<Piece>>,
    changed: Bitmap,
    tally: SumTally,
    opened: Option<u64>,
    is_gappy: bool,
    is_doubtful: bool,
    news: Vec<SumRecord>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    blocks: Blocks,
    crc32c: u32,
}

impl Sums {
    /// Nothing is known.
    #[must_use]
    pub fn new(geometry: Geometry) -> Sums {
        let bits = || Bitmap::new(geometry.region_count());
        let region_bytes = geometry.region_bytes();
        let last_bytes = geometry.size_bytes() - (geometry.region_count() - 1) * region_bytes;
        Sums {
            geometry,
            zero_leaves: [region_bytes, last_bytes].map(crc32c_of_zeroes),
            zero: BlockSet::new(),
            summed: bits(),
            leaves: BTreeMap::new(),
            pieces: BTreeMap::new(),
            changed: bits(),
            tally: SumTally::default(),
            opened: None,
            is_gappy: false,
            is_doubtful: false,
            news: Vec::new(),
        }
    }

    /// How the volume was cut into regions when it was sealed.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// How many bytes became known in which way.
    #[must_use]
    pub const fn tally(&self) -> SumTally {
        self.tally
    }

    /// Whether something may have arrived that has no leaf.
    #[must_use]
    pub const fn is_gappy(&self) -> bool {
        self.is_gappy
    }

    /// Whether the guest may have changed regions that are not marked.
    #[must_use]
    pub const fn is_doubtful(&self) -> bool {
        self.is_doubtful
    }

    /// What was learnt since the last call, to be appended to the file.
    pub fn take_news(&mut self) -> Vec<SumRecord> {
        std::mem::take(&mut self.news)
    }

    /// Whether something was learnt since [`Sums::take_news`].
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// These blocks arrived; `crc32c` is asked for the checksum of each part of them that is new.
    ///
    /// # Panics
    /// If the blocks lie outside the volume.
    pub fn arrived(&mut self, blocks: Blocks, mut crc32c: impl FnMut(Blocks) -> u32) {
        for part in self.geometry.by_region(blocks) {
            for gap in self.gaps(part) {
                self.learn(SumRecord::Arrived { blocks: gap, crc32c: crc32c(gap) });
            }
        }
    }

    /// The source told the checksum of these blocks of one region, which never arrived. Nothing happens if any of them
    /// is known by now.
    pub fn told(&mut self, blocks: Blocks, crc32c: u32) {
        if self.gaps(blocks) == [blocks] {
            self.learn(SumRecord::Told { blocks, crc32c });
        }
    }

    /// The source says that these blocks are zero.
    ///
    /// # Panics
    /// If the blocks lie outside the volume.
    pub fn zeroes(&mut self, blocks: Blocks) {
        if self.is_any_unknown(blocks) {
            self.learn(SumRecord::Zeroes(blocks));
        }
    }

    /// The guest is about to change something in these blocks; tells whether that is news. Blocks beyond the volume as
    /// it was sealed are of no interest.
    pub fn changes(&mut self, blocks: Blocks) -> bool {
        let first = blocks.first() / self.geometry.region_blocks();
        let end = blocks.end().div_ceil(self.geometry.region_blocks()).min(self.geometry.region_count());
        let Some(regions) = Blocks::between(first, end) else { return false };
        let is_news = self.changed.next(first, false, end) < end;
        if is_news {
            self.learn(SumRecord::Changed(regions));
        }
        is_news
    }

    /// A server opens the volume in this boot of its host. If another boot left it open, the power went.
    pub fn open(&mut self, boot: u64) {
        if self.opened.is_some_and(|before| before != boot) {
            self.learn(SumRecord::Doubtful);
        }
        self.learn(SumRecord::Opened { boot });
    }

    /// The server ends, and all that is known will be durable.
    pub fn close(&mut self) {
        self.learn(SumRecord::Closed);
    }

    /// Something may have arrived that is not told of here.
    pub fn make_gappy(&mut self) {
        if !self.is_gappy {
            self.learn(SumRecord::Gappy);
        }
    }

    /// Every region was compared; those that differ are marked as changed.
    pub fn settle(&mut self) {
        if self.is_doubtful {
            self.learn(SumRecord::Settled);
        }
    }

    /// The leaf of a region, if it is known.
    #[must_use]
    pub fn leaf(&self, region: u64) -> Option<u32> {
        if self.zero.run_over(region).is_some() {
            return Some(self.zero_leaf(region));
        }
        if !self.summed.get(region) {
            return None;
        }
        let (chunk, at) = place(region);
        self.leaves.get(&chunk).map(|leaves| leaves[at])
    }

    /// Whether the guest has changed anything in a region.
    #[must_use]
    pub fn is_changed(&self, region: u64) -> bool {
        self.changed.get(region)
    }

    /// The first region at or behind this one without a leaf.
    #[must_use]
    pub fn first_unknown(&self, mut region: u64) -> Option<u64> {
        let count = self.geometry.region_count();
        while region < count {
            region = match self.zero.run_over(region) {
                Some(run) => run.end(),
                None if self.summed.get(region) => self.summed.next(region, false, count),
                None => return Some(region),
            };
        }
        None
    }

    /// Whether every region has a leaf.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.first_unknown(0).is_none()
    }

    /// The parts of these blocks, which lie within one region, of which nothing is known.
    #[must_use]
    pub fn gaps(&self, blocks: Blocks) -> Vec<Blocks> {
        let region = blocks.first() / self.geometry.region_blocks();
        if self.is_known(region) {
            return Vec::new();
        }
        let Some(pieces) = self.pieces.get(&region) else { return vec![blocks] };
        let mut gaps = Vec::new();
        let mut at = blocks.first();
        for piece in pieces.iter().map(|piece| piece.blocks).filter(|piece| piece.end() > blocks.first()) {
            gaps.extend(Blocks::between(at, piece.first().min(blocks.end())));
            at = at.max(piece.end());
        }
        gaps.extend(Blocks::between(at, blocks.end()));
        gaps
    }

    /// The blocks of a region.
    #[must_use]
    pub fn blocks_of(&self, region: u64) -> Blocks {
        self.geometry.blocks_of_region(region)
    }

    /// The bytes that the root of these regions is a hash of, one part after the other; false if a leaf is missing (and
    /// what was given until then means nothing). A run of zeroes costs as much as one region, however long it is:
    ///
    /// ```text
    ///  "FERRYSUM" │ version │ size │ region size │ generation │ first region │ regions │ runs …
    ///  run of zeroes: 0, count u64     other leaf: 1, CRC-32C u32     all little-endian
    /// ```
    pub fn root_input(&self, generation: u64, regions: Range<u64>, mut take: impl FnMut(&[u8])) -> bool {
        take(codec::MAGIC);
        take(&codec::VERSION.to_le_bytes());
        let count = regions.end.saturating_sub(regions.start);
        for number in
            [self.geometry.size_bytes(), self.geometry.region_bytes(), generation, regions.start, count]
        {
            take(&number.to_le_bytes());
        }
        let mut at = regions.start;
        while at < regions.end {
            if let Some(run) = self.zero.run_over(at) {
                let end = run.end().min(regions.end);
                take(&[0]);
                take(&(end - at).to_le_bytes());
                at = end;
                continue;
            }
            let Some(leaf) = self.leaf(at) else { return false };
            take(&[1]);
            take(&leaf.to_le_bytes());
            at += 1;
        }
        true
    }

    /// The CRC-32C of a region of zeroes.
    pub fn zero_leaf(&self, region: u64) -> u32 {
        self.zero_leaves[usize::from(region + 1 == self.geometry.region_count())]
    }

    fn is_known(&self, region: u64) -> bool {
        self.summed.get(region) || self.zero.run_over(region).is_some()
    }

    fn is_any_unknown(&self, blocks: Blocks) -> bool {
        let first = blocks.first() / self.geometry.region_blocks();
        let end = blocks.end().div_ceil(self.geometry.region_blocks());
        let mut at = first;
        while let Some(region) = self.first_unknown(at).filter(|&region| region < end) {
            let part = self.blocks_of(region).intersect(blocks);
            if part.is_some_and(|part| !self.gaps(part).is_empty()) {
                return true;
            }
            at = region + 1;
        }
        false
    }

    /// These blocks, cut where regions end.
    fn learn(&mut self, record: SumRecord) {
        self.apply(record);
        self.news.push(record);
    }

    /// Takes over what was learnt. The record is possible: see [`codec`] for those that come from a file.
    fn apply(&mut self, record: SumRecord) {
        let geometry = self.geometry;
        let bytes = |blocks| geometry.bytes_of(blocks).len_bytes();
        match record {
            SumRecord::Arrived { blocks, crc32c } => {
                self.tally.bytes_arrived += bytes(blocks);
                self.add_piece(Piece { blocks, crc32c });
            }
            SumRecord::Told { blocks, crc32c } => {
                self.tally.bytes_told += bytes(blocks);
                self.add_piece(Piece { blocks, crc32c });
            }
            SumRecord::Zeroes(blocks) => self.add_zeroes(blocks),
            SumRecord::Changed(regions) => self.changed.set(regions.first(), regions.end()),
            SumRecord::Opened { boot } => self.opened = Some(boot),
            SumRecord::Closed => self.opened = None,
            SumRecord::Gappy => self.is_gappy = true,
            SumRecord::Doubtful => self.is_doubtful = true,
            SumRecord::Settled => self.is_doubtful = false,
            SumRecord::TalliedData { bytes_arrived, bytes_told } => {
                self.tally = SumTally { bytes_arrived, bytes_told, ..self.tally };
            }
            SumRecord::TalliedZeroes { bytes_zero } => self.tally.bytes_zero = bytes_zero,
        }
    }

    /// Nothing of the piece is known.
    fn add_piece(&mut self, piece: Piece) {
        let geometry = self.geometry;
        let region = piece.blocks.first() / geometry.region_blocks();
        let pieces = self.pieces.entry(region).or_default();
        let at = pieces.partition_point(|other| other.blocks.first() < piece.blocks.first());
        pieces.insert(at, piece);
        // Only with its neighbours can it be adjacent; the one behind first, so that places stay as they are.
        for left in [at, at.wrapping_sub(1)] {
            if let Some([a, b]) = pieces.get(left..).and_then(|rest| rest.first_chunk::<2>()).copied()
                && a.blocks.end() == b.blocks.first()
            {
                let crc32c = combine(a.crc32c, b.crc32c, geometry.bytes_of(b.blocks).len_bytes());
                let blocks = Blocks::between(a.blocks.first(), b.blocks.end()).expect("both have blocks");
                pieces[left] = Piece { blocks, crc32c };
                pieces.remove(left + 1);
            }
        }
        let [only] = pieces[..] else { return };
        if only.blocks == self.blocks_of(region) {
            self.pieces.remove(&region);
            self.set_leaf(region, only.crc32c);
        }
    }

    fn set_leaf(&mut self, region: u64, leaf: u32) {
        if leaf == self.zero_leaf(region) {
            self.zero.insert(Blocks::one(region));
            return;
        }
        self.summed.set(region, region + 1);
        let (chunk, at) = place(region);
        let fresh = || vec![0; LEAVES_AT_ONCE as usize].into_boxed_slice();
        self.leaves.entry(chunk).or_insert_with(fresh)[at] = leaf;
    }

    /// Whole regions of which nothing is known become known in runs, so that an empty volume costs nothing; the
    /// others gap by gap.
    fn add_zeroes(&mut self, blocks: Blocks) {
        let size = self.geometry.region_blocks();
        let whole_first = blocks.first().div_ceil(size);
        let whole_end = match blocks.end() == self.geometry.block_count() {
            true => self.geometry.region_count(),
            false => blocks.end() / size,
        };
        let Some(whole) = Blocks::between(whole_first, whole_end) else {
            return self.geometry.by_region(blocks).for_each(|part| self.fill_zeroes(part));
        };
        let end = self.geometry.block_count().min(whole.end() * size);
        for edge in
            [Blocks::between(blocks.first(), whole.first() * size), Blocks::between(end, blocks.end())]
        {
            edge.into_iter().for_each(|edge| self.fill_zeroes(edge));
        }
        let begun: Vec<u64> =
            self.pieces.range(whole.first()..whole.end()).map(|(&region, _)| region).collect();
        for region in begun {
            self.fill_zeroes(self.blocks_of(region));
        }
        let mut at = whole.first();
        while let Some(first) = self.first_unknown(at).filter(|&first| first < whole.end()) {
            let next_zero =
                self.zero.within(Blocks::between(first, whole.end()).expect("it is inside")).next();
            let end = next_zero.map_or(whole.end(), Blocks::first);
            let end = self.summed.next(first, true, end);
            self.zero.insert(Blocks::between(first, end).expect("its first region is unknown"));
            let blocks = Blocks::between(first * size, self.geometry.block_count().min(end * size));
            self.tally.bytes_zero += self.geometry.bytes_of(blocks.expect("regions have blocks")).len_bytes();
            at = end;
        }
    }

    /// `part` lies within one region.
    fn fill_zeroes(&mut self, part: Blocks) {
        for gap in self.gaps(part) {
            let bytes = self.geometry.bytes_of(gap).len_bytes();
            self.tally.bytes_zero += bytes;
            self.add_piece(Piece { blocks: gap, crc32c: crc32c_of_zeroes(bytes) });
        }
    }
}

/// The CRC-32C of bytes of which the first have `first` and the other `second_bytes` have `second`.
#[must_use]
pub fn combine(first: u32, second: u32, second_bytes: u64) -> u32 {
    crc32c::crc32c_combine(first, second, usize::try_from(second_bytes).expect("a region fits in memory"))
}

/// The CRC-32C of so many zeroes: what they do to the register, which begins as all ones and is inverted in the end.
#[must_use]
pub fn crc32c_of_zeroes(bytes: u64) -> u32 {
    !combine(u32::MAX, 0, bytes)
}

fn place(region: u64) -> (u64, usize) {
    (region / LEAVES_AT_ONCE, (region % LEAVES_AT_ONCE) as usize)
}
