//! The few things the writer, the filler and the checker do to a volume. In the program that is an NBD connection;
//! in tests it is a buffer that can be damaged on purpose.

use anyhow::Result;
use ferry_volume::client::BlockClient;

/// A volume as its guest sees it. Offsets and lengths are in bytes and multiples of 512.
pub trait Disk {
    /// Reads all of `buffer` at `offset`; waits for blocks that are still on their way.
    ///
    /// # Errors
    /// The volume refused, or went away.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// Writes `data` at `offset`; durable only after [`Disk::flush`].
    ///
    /// # Errors
    /// The volume refused, or went away.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()>;

    /// Returns once all answered writes are durable.
    ///
    /// # Errors
    /// The volume refused, or went away.
    fn flush(&mut self) -> Result<()>;
}

impl Disk for BlockClient {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        Ok(Self::read_at(self, offset, buffer)?)
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        Ok(Self::write_at(self, offset, data)?)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(Self::flush(self)?)
    }
}

#[cfg(test)]
pub mod memory {
    //! A disk of holes in memory.

    use std::collections::BTreeMap;

    use anyhow::{Result, bail};

    use super::Disk;
    use crate::demo::layout::BLOCK_BYTES;

    /// Blocks by number; what is not there reads as zeroes.
    #[derive(Clone, Debug, Default)]
    pub struct MemoryDisk {
        /// The blocks that were written.
        pub blocks: BTreeMap<u64, Vec<u8>>,
        /// How many reads were answered.
        pub reads: u64,
        /// After so many writes the disk goes away.
        pub writes_left: Option<u64>,
    }

    impl Disk for MemoryDisk {
        fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<()> {
            self.reads += 1;
            for (index, piece) in buffer.chunks_mut(BLOCK_BYTES as usize).enumerate() {
                match self.blocks.get(&(offset / BLOCK_BYTES + index as u64)) {
                    Some(block) => piece.copy_from_slice(block),
                    None => piece.fill(0),
                }
            }
            Ok(())
        }

        fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
            match &mut self.writes_left {
                Some(0) => bail!("the disk went away"),
                Some(left) => *left -= 1,
                None => {}
            }
            for (index, piece) in data.chunks(BLOCK_BYTES as usize).enumerate() {
                self.blocks.insert(offset / BLOCK_BYTES + index as u64, piece.to_vec());
            }
            Ok(())
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }
}
