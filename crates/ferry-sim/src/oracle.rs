//! What guests were told, and therefore what must be there.
//!
//! Of each sector it knows what a read may give now, and what it may give beside that once the power has gone where its
//! volume is written. What was flushed and answered, or sealed, has nothing beside it.

use crate::store::Token;
use ferry_api::VolumeId;
use std::collections::BTreeMap;
use std::ops::Range;

/// What guests of all volumes were told.
#[derive(Debug, Default)]
pub struct Oracle {
    volumes: BTreeMap<VolumeId, Vec<Sector>>,
    /// The size of volumes that people were told have grown, in sectors.
    grown: BTreeMap<VolumeId, usize>,
    /// Rises with everything that guests are told.
    told: u64,
}

/// A flush that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Flush(u64);

#[derive(Clone, Debug)]
struct Sector {
    /// What a read may give; more than one thing while a write is under way, or after one whose answer never came.
    now: Vec<Token>,
    /// What a power loss may bring back, with when it was replaced.
    risk: Vec<(Token, u64)>,
}

impl Oracle {
    /// A volume of zeroes.
    pub fn add(&mut self, volume: VolumeId, sectors: usize) {
        self.volumes.insert(volume, vec![Sector { now: vec![0], risk: Vec::new() }; sectors]);
    }

    /// A volume may be as long as that from now on. What is new is zero.
    pub fn lengthen(&mut self, volume: VolumeId, sectors: usize) {
        let known = self.volumes.get_mut(&volume).expect("only volumes that were made grow");
        known.resize(sectors.max(known.len()), Sector { now: vec![0], risk: Vec::new() });
    }

    /// Somebody was told that a volume has grown.
    pub fn grown_told(&mut self, volume: VolumeId, sectors: usize) {
        let known = self.grown.entry(volume).or_default();
        *known = sectors.max(*known);
    }

    /// How many sectors a volume has at least.
    #[must_use]
    pub fn sectors_least(&self, volume: VolumeId) -> usize {
        self.grown.get(&volume).copied().unwrap_or_default()
    }

    /// A guest asks for a write.
    pub fn write_asked(&mut self, volume: VolumeId, range: Range<usize>, token: Token) {
        for sector in self.sectors(volume, range) {
            sector.now.push(token);
        }
    }

    /// It was told that it is done, and, if it asked for that, durable.
    pub fn write_told(&mut self, volume: VolumeId, range: Range<usize>, token: Token, durable: bool) {
        self.told += 1;
        let told = self.told;
        for sector in self.sectors(volume, range) {
            let former = std::mem::replace(&mut sector.now, vec![token]);
            sector.risk.extend(former.into_iter().filter(|old| *old != token).map(|old| (old, told)));
            if durable {
                sector.risk.clear();
            }
        }
    }

    /// A guest asks for a flush.
    pub const fn flush_asked(&self) -> Flush {
        Flush(self.told)
    }

    /// It was told that what it had been told before is durable.
    pub fn flush_told(&mut self, volume: VolumeId, asked: Flush) {
        for sector in self.volumes.get_mut(&volume).into_iter().flatten() {
            sector.risk.retain(|(_, replaced)| *replaced > asked.0);
        }
    }

    /// The volume is sealed: everything that was told is durable.
    pub fn sealed(&mut self, volume: VolumeId) {
        let now = self.flush_asked();
        self.flush_told(volume, now);
    }

    /// The power has gone where the volume was open.
    pub fn power_went(&mut self, volume: VolumeId) {
        for sector in self.volumes.get_mut(&volume).into_iter().flatten() {
            for (token, _) in std::mem::take(&mut sector.risk) {
                if !sector.now.contains(&token) {
                    sector.now.push(token);
                }
            }
        }
    }

    /// A guest reads: what it may get is told, if what it got is none of that.
    ///
    /// # Errors
    /// What is wrong, in a sentence.
    pub fn read(&mut self, volume: VolumeId, first: usize, got: &[Token]) -> Result<(), String> {
        self.told += 1;
        let told = self.told;
        for (at, (sector, got)) in
            self.sectors(volume, first..first + got.len()).iter_mut().zip(got).enumerate()
        {
            if !sector.now.contains(got) {
                let place = first + at;
                return Err(format!(
                    "sector {place} of volume {volume} reads {got}, it must be one of {:?}",
                    sector.now
                ));
            }
            // Nobody writes while somebody reads, so this is what it holds from now on.
            let former = std::mem::replace(&mut sector.now, vec![*got]);
            sector.risk.extend(former.into_iter().filter(|old| old != got).map(|old| (old, told)));
        }
        Ok(())
    }

    fn sectors(&mut self, volume: VolumeId, range: Range<usize>) -> &mut [Sector] {
        let sectors = self.volumes.get_mut(&volume).expect("only volumes that were made are used");
        &mut sectors[range]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flushed_write_must_be_there_and_an_older_one_must_not() {
        let (mut oracle, volume) = (Oracle::default(), VolumeId::fresh());
        oracle.add(volume, 1);
        for token in [1, 2] {
            oracle.write_asked(volume, 0..1, token);
            oracle.write_told(volume, 0..1, token, false);
        }
        let asked = oracle.flush_asked();
        oracle.write_asked(volume, 0..1, 3);
        oracle.write_told(volume, 0..1, 3, false);
        oracle.flush_told(volume, asked);
        assert!(oracle.read(volume, 0, &[2]).is_err(), "nothing went wrong, so the last write must be there");
        oracle.power_went(volume);
        assert!(oracle.read(volume, 0, &[1]).is_err());
        assert!(oracle.read(volume, 0, &[2]).is_ok());
        assert!(oracle.read(volume, 0, &[3]).is_err(), "it was read as 2 already");
    }
}
