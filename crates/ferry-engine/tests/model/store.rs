//! A disk that may lose, at a crash, any part of what was not synced.

use ferry_engine::ByteRange;

use crate::oracle::span;

const SECTOR: usize = 512;

/// Of each sector the contents that a crash may leave, oldest first; the last is what reads see.
pub struct Store {
    sectors: Vec<Vec<[u8; SECTOR]>>,
    /// A sync failed: nothing proves anything any more.
    broken: bool,
}

/// Which version of each sector a sync makes durable.
pub struct SyncPoint(Vec<usize>);

impl Store {
    pub fn new(size_bytes: usize) -> Store {
        Store { sectors: vec![vec![[0; SECTOR]]; size_bytes / SECTOR], broken: false }
    }

    /// The file has this length from now on; what is new is a hole. A length needs no sync here: what the map does not
    /// know is cut off.
    pub fn set_len(&mut self, size_bytes: usize) {
        self.sectors.resize(size_bytes / SECTOR, vec![[0; SECTOR]]);
    }

    pub fn len(&self) -> usize {
        self.sectors.len() * SECTOR
    }

    pub fn read(&self, range: ByteRange) -> Vec<u8> {
        span(range).map(|at| self.sectors[at / SECTOR].last().unwrap()[at % SECTOR]).collect()
    }

    /// Writes those sectors that `takes` says; a part of the range is enough for a failed write.
    pub fn write(&mut self, range: ByteRange, bytes: &[u8], mut takes: impl FnMut(usize) -> bool) {
        let span = span(range);
        for sector in span.start / SECTOR..span.end.div_ceil(SECTOR) {
            if !takes(sector * SECTOR) {
                continue;
            }
            let versions = &mut self.sectors[sector];
            let mut content = *versions.last().unwrap();
            for (index, byte) in content.iter_mut().enumerate() {
                let at = sector * SECTOR + index;
                if span.contains(&at) {
                    *byte = bytes[at - span.start];
                }
            }
            versions.push(content);
        }
    }

    pub fn sync_begins(&self) -> SyncPoint {
        SyncPoint(self.sectors.iter().map(|versions| versions.len() - 1).collect())
    }

    /// No sync may have ended since this one began.
    pub fn sync_ends(&mut self, point: SyncPoint, ok: bool) {
        self.broken |= !ok;
        if !self.broken {
            for (versions, durable) in self.sectors.iter_mut().zip(point.0) {
                versions.drain(..durable);
            }
        }
    }

    pub fn crash(&mut self, mut pick: impl FnMut(usize) -> usize) {
        self.broken = false;
        for versions in &mut self.sectors {
            let chosen = versions[pick(versions.len())];
            *versions = vec![chosen];
        }
    }
}
