//! What a guest is told about the disk: features, and the configuration space (VIRTIO 1.2, 5.2.3 and 5.2.4).
//!
//! ```text
//!   0 u64 capacity, in sectors     24 u8 log2(physical block/block)  25 u8 alignment   40 u32 max discard ranges
//!   8 u32 max bytes of a segment   26 u16 minimum I/O, in blocks                       44 u32 discard alignment, in sectors
//!  12 u32 max segments             28 u32 optimal I/O, in blocks                       48 u32 max sectors zeroed in a range
//!  16 u16 u8 u8 geometry (none)    32 u8 writeback  33 u8 unused  34 u16 queues        52 u32 max zeroed ranges
//!  20 u32 block size, in bytes     36 u32 max sectors of a discarded range             56 u8 zeroing may unmap
//! ```

use super::{RANGE_SECTORS_MAX, RANGES_MAX, SECTOR_BYTES, SEGMENT_BYTES_MAX, SEGMENTS_MAX, SERIAL_BYTES};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// Bytes of the configuration space that mean something.
const CONFIG_BYTES: usize = 60;
/// The unit in which the volume keeps books, in sectors: what is smaller costs more.
const BLOCK_SECTORS: u32 = 8;

/// A disk as a guest sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Size in bytes, a multiple of [`SECTOR_BYTES`].
    pub size_bytes: u64,
    /// How many queues it has.
    pub queues: u16,
}

impl Device {
    /// The feature bits that the device offers.
    #[must_use]
    pub fn features(&self) -> u64 {
        let bits = [
            VIRTIO_F_VERSION_1,
            VIRTIO_RING_F_INDIRECT_DESC,
            VIRTIO_RING_F_EVENT_IDX,
            VIRTIO_BLK_F_SIZE_MAX,
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_TOPOLOGY,
            // Without CONFIG_WCE beside it, this says that the disk caches writes until a flush.
            VIRTIO_BLK_F_FLUSH,
            VIRTIO_BLK_F_MQ,
            VIRTIO_BLK_F_DISCARD,
            VIRTIO_BLK_F_WRITE_ZEROES,
        ];
        bits.iter().fold(0, |all, bit| all | 1 << bit)
    }

    /// A part of the configuration space; zeroes beyond what this device knows of.
    #[must_use]
    pub fn config(&self, offset: u32, len: u32) -> Vec<u8> {
        let known = self.config_space();
        (u64::from(offset)..u64::from(offset) + u64::from(len))
            .map(|at| usize::try_from(at).ok().and_then(|at| known.get(at)).copied().unwrap_or(0))
            .collect()
    }

    fn config_space(&self) -> [u8; CONFIG_BYTES] {
        let mut space = [0; CONFIG_BYTES];
        let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(self.size_bytes / SECTOR_BYTES).to_le_bytes());
        put(8, &SEGMENT_BYTES_MAX.to_le_bytes());
        put(12, &SEGMENTS_MAX.to_le_bytes());
        put(20, &(SECTOR_BYTES as u32).to_le_bytes());
        put(24, &[BLOCK_SECTORS.trailing_zeros() as u8]);
        put(26, &(BLOCK_SECTORS as u16).to_le_bytes());
        put(32, &[1]);
        put(34, &self.queues.to_le_bytes());
        put(36, &RANGE_SECTORS_MAX.to_le_bytes());
        put(40, &RANGES_MAX.to_le_bytes());
        put(44, &BLOCK_SECTORS.to_le_bytes());
        put(48, &RANGE_SECTORS_MAX.to_le_bytes());
        put(52, &RANGES_MAX.to_le_bytes());
        put(56, &[1]);
        space
    }
}

/// The serial number of a volume: its id, cut or filled with zeroes (VIRTIO 1.2, 5.2.6).
#[must_use]
pub fn serial(id: &str) -> [u8; SERIAL_BYTES] {
    let mut serial = [0; SERIAL_BYTES];
    serial.iter_mut().zip(id.bytes()).for_each(|(place, byte)| *place = byte);
    serial
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_bindings::virtio_blk::virtio_blk_config;

    const DISK: Device = Device { size_bytes: 3 << 20, queues: 4 };

    #[test]
    fn the_configuration_space_is_laid_out_as_the_kernel_headers_say() {
        use std::mem::offset_of;
        let space = DISK.config(0, 60);
        let number = |at: usize, len: usize| {
            space[at..at + len].iter().rev().fold(0_u64, |all, &byte| all << 8 | u64::from(byte))
        };
        assert_eq!(number(offset_of!(virtio_blk_config, capacity), 8), 6144);
        assert_eq!(number(offset_of!(virtio_blk_config, size_max), 4), 256 << 10);
        assert_eq!(number(offset_of!(virtio_blk_config, seg_max), 4), 126);
        assert_eq!(number(offset_of!(virtio_blk_config, blk_size), 4), 512);
        assert_eq!(number(offset_of!(virtio_blk_config, physical_block_exp), 1), 3);
        assert_eq!(number(offset_of!(virtio_blk_config, num_queues), 2), 4);
        assert_eq!(number(offset_of!(virtio_blk_config, max_discard_seg), 4), 32);
        assert_eq!(number(offset_of!(virtio_blk_config, max_write_zeroes_sectors), 4), 1 << 21);
        assert_eq!(number(offset_of!(virtio_blk_config, write_zeroes_may_unmap), 1), 1);
    }

    #[test]
    fn any_part_of_the_configuration_space_can_be_asked_for() {
        let whole = DISK.config(0, 256);
        assert_eq!(whole.len(), 256);
        assert_eq!(DISK.config(34, 2), whole[34..36]);
        assert_eq!(DISK.config(u32::MAX, 4), [0; 4]);
    }

    #[test]
    fn an_id_that_is_too_long_is_cut() {
        assert_eq!(&serial("01JD9Z6M4Q5R6S7T8V9WAXBYCZ"), b"01JD9Z6M4Q5R6S7T8V9W");
        assert_eq!(serial("x")[..2], [b'x', 0]);
    }
}
