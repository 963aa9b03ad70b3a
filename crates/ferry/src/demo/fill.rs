//! Fills the demo's volume with data that all of it can be checked later.

use anyhow::Result;

use super::disk::Disk;
use super::layout::{BLOCK_BYTES, CHUNK_BYTES, Layout};

/// Writes every chunk of `layout` and makes it durable; `progress` gets the bytes written so far.
///
/// # Errors
/// The volume refused a write.
pub fn fill(disk: &mut impl Disk, layout: &Layout, progress: &mut dyn FnMut(u64)) -> Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES as usize];
    let mut written = 0;
    for chunk in layout.chunks() {
        let data = &mut buffer[..chunk.len_bytes as usize];
        for (index, block) in data.chunks_mut(BLOCK_BYTES as usize).enumerate() {
            layout.fill_block(chunk.offset + index as u64 * BLOCK_BYTES, block);
        }
        disk.write_at(chunk.offset, data)?;
        written += chunk.len_bytes;
        progress(written);
    }
    disk.flush()
}
