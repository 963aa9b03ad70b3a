//! A disk that may lose, when the power goes, any part of what was not synced. What a sector holds is one number.

use ferry_engine::ByteRange;
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of a sector, the unit in which a disk writes whole or not at all.
pub const SECTOR_BYTES: u64 = 512;

/// What a sector holds: 0 for zeroes, otherwise the number of the write that filled it.
pub type Token = u64;

/// The bytes of a copy of a volume.
#[derive(Debug, Default)]
pub struct Store {
    /// What reads see.
    seen: Vec<Token>,
    /// Of sectors that were written since the last sync: what they may hold after a power loss beside what is seen,
    /// oldest first, each with the number of the write that replaced it.
    older: BTreeMap<usize, Vec<(Token, u64)>>,
    writes: u64,
}

/// Everything written before it.
#[derive(Clone, Copy, Debug)]
pub struct SyncPoint(u64);

impl Store {
    /// A store of zeroes.
    #[must_use]
    pub fn new(size_bytes: u64) -> Self {
        Self { seen: vec![0; sectors(0, size_bytes).end], ..Self::default() }
    }

    /// How many sectors there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.seen.len()
    }

    /// Makes it as long as that, unless it is longer. The new sectors are zero.
    pub fn lengthen(&mut self, sectors: usize) {
        self.seen.resize(sectors.max(self.seen.len()), 0);
    }

    /// What sectors hold.
    #[must_use]
    pub fn read(&self, range: Range<usize>) -> &[Token] {
        &self.seen[range]
    }

    /// Puts something in the sectors from `first` on for which `takes` says so.
    pub fn write(&mut self, first: usize, tokens: &[Token], mut takes: impl FnMut() -> bool) {
        self.writes += 1;
        for (sector, &token) in (first..).zip(tokens) {
            if takes() && self.seen[sector] != token {
                let former = std::mem::replace(&mut self.seen[sector], token);
                self.older.entry(sector).or_default().push((former, self.writes));
            }
        }
    }

    /// A sync begins.
    #[must_use]
    pub const fn sync_begins(&self) -> SyncPoint {
        SyncPoint(self.writes)
    }

    /// A sync ended well: everything before it is durable.
    pub fn sync_ends(&mut self, point: SyncPoint) {
        self.older.retain(|_, older| {
            older.retain(|(_, replaced)| *replaced > point.0);
            !older.is_empty()
        });
    }

    /// The power goes: of each sector one of the contents that it may have is left.
    pub fn lose_power(&mut self, mut pick: impl FnMut(usize) -> usize) {
        for (sector, older) in std::mem::take(&mut self.older) {
            let chosen = pick(older.len() + 1);
            if let Some((token, _)) = older.get(chosen) {
                self.seen[sector] = *token;
            }
        }
    }

    /// Bytes in sectors that are not zero.
    #[must_use]
    pub fn bytes_used(&self) -> u64 {
        self.seen.iter().filter(|token| **token != 0).count() as u64 * SECTOR_BYTES
    }
}

/// The sectors of a range of bytes, which begins and ends with one.
#[must_use]
pub fn sectors(offset: u64, len_bytes: u64) -> Range<usize> {
    let place = |bytes: u64| usize::try_from(bytes / SECTOR_BYTES).expect("simulated volumes are small");
    place(offset)..place(offset + len_bytes)
}

/// The sectors of a range.
#[must_use]
pub fn span(range: ByteRange) -> Range<usize> {
    sectors(range.offset(), range.len_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_and_what_was_not_may_not() {
        let mut store = Store::new(4 * SECTOR_BYTES);
        store.write(0, &[1, 1], || true);
        let point = store.sync_begins();
        store.write(1, &[2], || true);
        store.sync_ends(point);
        store.lose_power(|_| 0);
        assert_eq!(store.read(0..3), [1, 1, 0]);
    }
}
