//! Ranges of bytes and of blocks, and how a volume is cut into them.
//!
//! Invariants: a [`ByteRange`] and a [`Blocks`] are never empty and never overflow; a [`Geometry`] describes a volume
//! that can exist. They are checked where they are made, so nobody inside checks again.

use std::fmt;

/// The unit of truth in bytes: a block is local or remote as a whole.
pub const BLOCK_BYTES: u64 = 4096;
/// Sizes are multiples of this many bytes.
pub const SECTOR_BYTES: u64 = 512;
/// The smallest unit of copying in bytes.
pub const REGION_BYTES_MIN: u64 = BLOCK_BYTES;
/// The largest unit of copying in bytes: a fetch, and hence a buffer, is never larger.
pub const REGION_BYTES_MAX: u64 = 64 << 20;
/// The unit of copying in bytes where nobody asks for another.
pub const REGION_BYTES_DEFAULT: u64 = 1 << 20;
/// The largest volume in bytes (1 PiB; its empty map takes 128 MiB of memory at the default region size).
pub const SIZE_BYTES_MAX: u64 = 1 << 50;
/// The most regions a volume may have: one bit of memory each, so 128 MiB, which the largest volume takes at the default
/// region size. Without it 4 KiB of a hostile map could ask for 32 GiB.
pub const REGIONS_MAX: u64 = SIZE_BYTES_MAX / REGION_BYTES_DEFAULT;

/// A non-empty range of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByteRange {
    offset: u64,
    len: u64,
}

impl ByteRange {
    /// The `len` bytes from `offset`, or `None` if that is empty or ends beyond 2^64.
    #[must_use]
    pub const fn new(offset: u64, len: u64) -> Option<ByteRange> {
        if len == 0 || offset.checked_add(len).is_none() {
            return None;
        }
        Some(ByteRange { offset, len })
    }

    /// The bytes from `start` up to, but without, `end`; `None` if there are none.
    #[must_use]
    pub const fn between(start: u64, end: u64) -> Option<ByteRange> {
        if start < end { Some(ByteRange { offset: start, len: end - start }) } else { None }
    }

    /// First byte.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.offset
    }

    /// Length in bytes, at least 1.
    #[must_use]
    pub const fn len_bytes(self) -> u64 {
        self.len
    }

    /// The byte after the last one.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.offset + self.len
    }

    /// What both ranges have in common.
    #[must_use]
    pub fn intersect(self, other: ByteRange) -> Option<ByteRange> {
        ByteRange::between(self.offset.max(other.offset), self.end().min(other.end()))
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}..{}", self.offset, self.end())
    }
}

/// A non-empty range of blocks, `first..end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocks {
    first: u64,
    end: u64,
}

impl Blocks {
    /// The blocks from `first` up to, but without, `end`; `None` if there are none.
    #[must_use]
    pub const fn between(first: u64, end: u64) -> Option<Blocks> {
        if first < end { Some(Blocks { first, end }) } else { None }
    }

    /// One block.
    #[must_use]
    pub const fn one(block: u64) -> Blocks {
        Blocks { first: block, end: block + 1 }
    }

    /// First block.
    #[must_use]
    pub const fn first(self) -> u64 {
        self.first
    }

    /// The block after the last one.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.end
    }

    /// How many blocks, at least 1.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.end - self.first
    }

    /// What both ranges have in common.
    #[must_use]
    pub fn intersect(self, other: Blocks) -> Option<Blocks> {
        Blocks::between(self.first.max(other.first), self.end.min(other.end))
    }

    /// The first of them, at most so many, at least one.
    #[must_use]
    pub fn up_to(self, count: u64) -> Blocks {
        Blocks { first: self.first, end: self.end.min(self.first.saturating_add(count.max(1))) }
    }

    /// Whether `block` is one of them.
    #[must_use]
    pub const fn contains(self, block: u64) -> bool {
        self.first <= block && block < self.end
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blocks {}..{}", self.first, self.end)
    }
}

/// How large a volume is and how it is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    size_bytes: u64,
    region_bytes: u64,
}

/// Why a geometry was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GeometryError {
    /// The size is zero, or not a multiple of 512 bytes.
    #[error(
        "a volume of {size_bytes} bytes cannot be: give a size that is a multiple of 512 and at least 512"
    )]
    Size {
        /// The size that was asked for.
        size_bytes: u64,
    },
    /// The size is larger than [`SIZE_BYTES_MAX`].
    #[error("a volume of {size_bytes} bytes is too large: give at most {SIZE_BYTES_MAX} bytes (1 PiB)")]
    TooLarge {
        /// The size that was asked for.
        size_bytes: u64,
    },
    /// The region size is not a power of two within its limits.
    #[error(
        "a region of {region_bytes} bytes cannot be: give a power of two from {REGION_BYTES_MIN} to {REGION_BYTES_MAX}"
    )]
    Region {
        /// The region size that was asked for.
        region_bytes: u64,
    },
    /// There would be more than [`REGIONS_MAX`] regions.
    #[error(
        "a volume of {size_bytes} bytes in regions of {region_bytes} has too many of them: give regions of at least {} bytes",
        size_bytes.div_ceil(REGIONS_MAX).next_power_of_two()
    )]
    TooManyRegions {
        /// The size that was asked for.
        size_bytes: u64,
        /// The region size that was asked for.
        region_bytes: u64,
    },
}

impl Geometry {
    /// A volume of `size_bytes` (a multiple of 512) that is copied in regions of `region_bytes` (a power of two).
    ///
    /// # Errors
    /// [`GeometryError`] says what cannot be.
    pub fn new(size_bytes: u64, region_bytes: u64) -> Result<Geometry, GeometryError> {
        if size_bytes == 0 || !size_bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(GeometryError::Size { size_bytes });
        }
        if size_bytes > SIZE_BYTES_MAX {
            return Err(GeometryError::TooLarge { size_bytes });
        }
        if !region_bytes.is_power_of_two() || !(REGION_BYTES_MIN..=REGION_BYTES_MAX).contains(&region_bytes) {
            return Err(GeometryError::Region { region_bytes });
        }
        if size_bytes.div_ceil(region_bytes) > REGIONS_MAX {
            return Err(GeometryError::TooManyRegions { size_bytes, region_bytes });
        }
        Ok(Geometry { size_bytes, region_bytes })
    }

    /// The volume's size in bytes.
    #[must_use]
    pub const fn size_bytes(self) -> u64 {
        self.size_bytes
    }

    /// The unit of copying in bytes.
    #[must_use]
    pub const fn region_bytes(self) -> u64 {
        self.region_bytes
    }

    /// How many blocks the volume has; the last one may be short.
    #[must_use]
    pub const fn block_count(self) -> u64 {
        self.size_bytes.div_ceil(BLOCK_BYTES)
    }

    /// How many blocks a region has; the volume's last region may have fewer.
    #[must_use]
    pub const fn region_blocks(self) -> u64 {
        self.region_bytes / BLOCK_BYTES
    }

    /// How many regions the volume has.
    #[must_use]
    pub const fn region_count(self) -> u64 {
        self.size_bytes.div_ceil(self.region_bytes)
    }

    /// All bytes of the volume.
    #[must_use]
    pub const fn all_bytes(self) -> ByteRange {
        ByteRange { offset: 0, len: self.size_bytes }
    }

    /// All blocks of the volume.
    #[must_use]
    pub const fn all_blocks(self) -> Blocks {
        Blocks { first: 0, end: self.block_count() }
    }

    /// Whether the range lies within the volume.
    #[must_use]
    pub const fn holds(self, range: ByteRange) -> bool {
        range.end() <= self.size_bytes
    }

    /// Every block that the range touches.
    #[must_use]
    pub const fn blocks_touched(self, range: ByteRange) -> Blocks {
        Blocks { first: range.offset / BLOCK_BYTES, end: range.end().div_ceil(BLOCK_BYTES) }
    }

    /// Every block that the range covers from end to end (a short last block counts when its bytes are covered).
    #[must_use]
    pub const fn blocks_covered(self, range: ByteRange) -> Option<Blocks> {
        let first = range.offset.div_ceil(BLOCK_BYTES);
        let end = if range.end() >= self.size_bytes { self.block_count() } else { range.end() / BLOCK_BYTES };
        Blocks::between(first, end)
    }

    /// The bytes of these blocks, without what a short last block lacks.
    ///
    /// # Panics
    /// If the blocks lie outside the volume.
    #[must_use]
    pub fn bytes_of(self, blocks: Blocks) -> ByteRange {
        assert!(blocks.end <= self.block_count(), "{blocks} must lie within the volume");
        let end = (blocks.end * BLOCK_BYTES).min(self.size_bytes);
        ByteRange { offset: blocks.first * BLOCK_BYTES, len: end - blocks.first * BLOCK_BYTES }
    }

    /// The first block after the region that `block` lies in (not beyond the volume).
    #[must_use]
    pub const fn region_end(self, block: u64) -> u64 {
        let end = (block / self.region_blocks() + 1) * self.region_blocks();
        if end < self.block_count() { end } else { self.block_count() }
    }

    /// All blocks of a region.
    ///
    /// # Panics
    /// If the volume has no such region.
    #[must_use]
    pub fn blocks_of_region(self, region: u64) -> Blocks {
        let first = region * self.region_blocks();
        Blocks::between(first, self.region_end(first)).expect("a region of the volume has blocks")
    }

    /// These blocks, cut where regions meet.
    pub fn by_region(self, blocks: Blocks) -> impl Iterator<Item = Blocks> {
        let mut at = blocks.first();
        std::iter::from_fn(move || {
            let part = Blocks::between(at, self.region_end(at).min(blocks.end()));
            at = part.map_or(at, Blocks::end);
            part
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_impossible_geometry_is_refused_with_the_reason() {
        assert_eq!(Geometry::new(0, 4096), Err(GeometryError::Size { size_bytes: 0 }));
        assert_eq!(Geometry::new(513, 4096), Err(GeometryError::Size { size_bytes: 513 }));
        assert_eq!(Geometry::new(512, 2048), Err(GeometryError::Region { region_bytes: 2048 }));
        assert_eq!(Geometry::new(512, 12288), Err(GeometryError::Region { region_bytes: 12288 }));
        let size_bytes = SIZE_BYTES_MAX + 512;
        assert_eq!(Geometry::new(size_bytes, 4096), Err(GeometryError::TooLarge { size_bytes }));
        let (size_bytes, region_bytes) = (SIZE_BYTES_MAX, REGION_BYTES_DEFAULT / 2);
        let too_many = GeometryError::TooManyRegions { size_bytes, region_bytes };
        assert_eq!(Geometry::new(size_bytes, region_bytes), Err(too_many));
        assert!(too_many.to_string().ends_with("at least 1048576 bytes"));
        Geometry::new(size_bytes, REGION_BYTES_DEFAULT).unwrap();
    }

    #[test]
    fn a_short_last_block_counts_as_covered_when_its_bytes_are() {
        let geometry = Geometry::new(4096 + 512, 4096).unwrap();
        assert_eq!(geometry.block_count(), 2);
        let tail = ByteRange::new(4096, 512).unwrap();
        assert_eq!(geometry.blocks_covered(tail), Some(Blocks::one(1)));
        assert_eq!(geometry.bytes_of(Blocks::one(1)), tail);
        assert_eq!(geometry.blocks_covered(ByteRange::new(1, 4096).unwrap()), None);
        assert_eq!(geometry.blocks_touched(ByteRange::new(1, 4096).unwrap()), geometry.all_blocks());
        assert_eq!(geometry.blocks_covered(ByteRange::new(1, 4607).unwrap()), Some(Blocks::one(1)));
    }

    #[test]
    fn an_empty_or_overflowing_range_cannot_be_made() {
        assert_eq!(ByteRange::new(7, 0), None);
        assert_eq!(ByteRange::new(u64::MAX, 1), None);
        assert_eq!(Blocks::between(3, 3), None);
    }
}
