//! Disk images made from a seed: sparse like real ones, with data that begins and ends at odd places.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A deterministic stream of numbers (SplitMix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Less than `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// Makes a sparse image of `size_bytes` (≥ 1 MiB): some 24 extents of random bytes, in sum about a third of it, the
/// rest holes. The first and the last sector hold data.
pub fn sparse(path: &Path, size_bytes: u64, seed: u64) {
    const EXTENTS: u64 = 24;
    const SECTOR: u64 = 512;
    let mut dice = Dice::new(seed);
    let file = File::create(path).unwrap();
    file.set_len(size_bytes).unwrap();
    for _ in 0..EXTENTS {
        let len = SECTOR * (1 + dice.below(size_bytes / 36 / SECTOR));
        let at = SECTOR * dice.below((size_bytes - len) / SECTOR);
        file.write_all_at(&dice.bytes(len as usize), at).unwrap();
    }
    for at in [0, size_bytes - SECTOR] {
        file.write_all_at(&dice.bytes(SECTOR as usize), at).unwrap();
    }
    file.sync_all().unwrap();
}

/// Makes an image of `size_bytes` that is random everywhere.
pub fn dense(path: &Path, size_bytes: u64, seed: u64) {
    std::fs::write(path, Dice::new(seed).bytes(size_bytes as usize)).unwrap();
}

/// Fails with the first place where the two files differ.
pub fn assert_same(expected: &Path, found: &Path) {
    let (a, b) = (std::fs::read(expected).unwrap(), std::fs::read(found).unwrap());
    assert_eq!(a.len(), b.len(), "{} and {} differ in size", expected.display(), found.display());
    if a != b {
        let at = a.iter().zip(&b).position(|(a, b)| a != b).unwrap();
        let count = a.iter().zip(&b).filter(|(a, b)| a != b).count();
        panic!("{} and {} differ at byte {at} first, in {count} bytes", expected.display(), found.display());
    }
}
