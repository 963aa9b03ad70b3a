//! The guest's memory, mapped: the table that the VMM gave us, and the way from the VMM's addresses to the guest's.
//!
//! The VMM and its guest write here whenever they like, so bytes are only copied (by volatile accesses). A VMM that
//! shrinks the file behind a region makes accesses to it end this process, which serves this one volume alone.

use super::log::{Log, RegionLog};
use crate::virtio_blk::{GuestMemory, Unmapped};
use std::fs::File;
use std::io;
use std::sync::Arc;
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vhost::vhost_user::{Error, Result};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

/// What the VMM calls a part of the guest's memory.
struct Region {
    vmm_address: u64,
    guest_address: u64,
    len: u64,
}

/// A guest's memory; none before the VMM has named it.
#[derive(Default)]
pub(super) struct Memory {
    regions: Vec<Region>,
    map: GuestMemoryMmap<RegionLog>,
}

impl Memory {
    /// Maps what the VMM named; what is written there is noted in `log`.
    pub(super) fn map(table: &[VhostUserMemoryRegion], files: Vec<File>, log: &Arc<Log>) -> Result<Self> {
        let mut regions = Vec::new();
        let mut maps = Vec::new();
        for (named, file) in table.iter().zip(files) {
            let region = named.mmap_region::<RegionLog>(file)?;
            region.bitmap().begins_at(named.guest_phys_addr, log);
            let map = GuestRegionMmap::new(region, GuestAddress(named.guest_phys_addr));
            maps.push(map.ok_or(Error::InvalidParam)?);
            regions.push(Region {
                vmm_address: named.user_addr,
                guest_address: named.guest_phys_addr,
                len: named.memory_size,
            });
        }
        let map = GuestMemoryMmap::from_regions(maps)
            .map_err(|overlap| Error::ReqHandlerError(io::Error::other(overlap)))?;
        Ok(Self { regions, map })
    }

    /// The guest's address of what the VMM has at `vmm_address`.
    pub(super) fn guest_address(&self, vmm_address: u64) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let into = vmm_address.checked_sub(region.vmm_address)?;
            (into < region.len).then(|| region.guest_address + into)
        })
    }

    pub(super) fn mapped(&self) -> &GuestMemoryMmap<RegionLog> {
        &self.map
    }
}

impl GuestMemory for Memory {
    fn read(&self, address: u64, into: &mut [u8]) -> std::result::Result<(), Unmapped> {
        self.map.read_slice(into, GuestAddress(address)).map_err(|_| Unmapped)
    }

    fn write(&self, address: u64, bytes: &[u8]) -> std::result::Result<(), Unmapped> {
        self.map.write_slice(bytes, GuestAddress(address)).map_err(|_| Unmapped)
    }
}
