//! What the volumes hold: bytes that no two blocks share and that no server can take for zeroes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Context;
use rustix::fs::{Advice, fadvise};

/// One mebibyte, in bytes.
pub const MIB: u64 = 1024 * 1024;
const MIB_USIZE: usize = 1024 * 1024;
const BLOCK_BYTES: usize = 4096;
const BLOCKS_PER_MIB: u64 = 256;

/// One mebibyte of noise, stamped with the number of each block before it is handed out.
pub struct Noise(Vec<u8>);

impl Noise {
    pub fn new() -> Self {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut bytes = Vec::with_capacity(MIB_USIZE);
        while bytes.len() < MIB_USIZE {
            // xorshift64: never zero, and good enough not to be compressible.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        Self(bytes)
    }

    /// What stands in the mebibyte with this number.
    pub fn mebibyte(&mut self, number: u64) -> &[u8] {
        for (block, number) in self.0.chunks_exact_mut(BLOCK_BYTES).zip(number * BLOCKS_PER_MIB..) {
            block[..8].copy_from_slice(&(number + 1).to_le_bytes());
        }
        &self.0
    }
}

/// Writes the content of `size_mib` to a fresh file, durably.
pub fn write_file(path: &Path, size_mib: u64) -> anyhow::Result<()> {
    let mut noise = Noise::new();
    let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    for number in 0..size_mib {
        let bytes = noise.mebibyte(number);
        file.write_all_at(bytes, number * MIB).with_context(|| format!("cannot write {}", path.display()))?;
    }
    file.sync_all().with_context(|| format!("cannot write {}", path.display()))
}

/// Compares one block of every mebibyte of the raw file with the content: a copy that is wrong is no fast one.
pub fn check_file(path: &Path, size_mib: u64) -> anyhow::Result<()> {
    let mut noise = Noise::new();
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut found = [0; BLOCK_BYTES];
    for number in 0..size_mib {
        // Another block of each, so that no place goes unseen for long.
        let block = (number % BLOCKS_PER_MIB) * BLOCK_BYTES as u64;
        file.read_exact_at(&mut found, number * MIB + block).context("cannot read a copy")?;
        let at = usize::try_from(block).expect("a place within a mebibyte");
        if found != noise.mebibyte(number)[at..at + BLOCK_BYTES] {
            anyhow::bail!("the copy in {} is wrong in mebibyte {number}", path.display());
        }
    }
    Ok(())
}

/// Makes the file durable, so that no one pays for what was written before.
pub fn settle(path: &Path) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    file.sync_all().with_context(|| format!("cannot sync {}", path.display()))
}

/// Makes so much memory one that the machine has lately used. A page that nobody has used for long may cost a virtual
/// machine more than all else that is done with it, and whoever copies first would pay for it.
pub fn touch_memory(mib: u64) {
    let bytes = usize::try_from(mib * MIB).expect("a 64-bit machine");
    let memory = vec![1_u8; bytes];
    std::hint::black_box(&memory);
}

/// Takes the file out of the page cache.
pub fn forget(path: &Path) -> anyhow::Result<()> {
    settle(path)?;
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    fadvise(&file, 0, None, Advice::DontNeed).context("the kernel does not let go of the page cache")
}

/// Brings the file into the page cache.
pub fn warm(path: &Path) -> anyhow::Result<()> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut buffer = vec![0; MIB_USIZE];
    while std::io::Read::read(&mut file, &mut buffer).context("cannot read a file")? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_blocks_are_alike_and_none_is_zero() {
        let mut noise = Noise::new();
        let mut seen = std::collections::HashSet::new();
        for number in 0..3 {
            for block in noise.mebibyte(number).chunks(BLOCK_BYTES) {
                assert!(block.iter().any(|byte| *byte != 0));
                assert!(seen.insert(block.to_vec()));
            }
        }
    }

    #[test]
    fn a_wrong_copy_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("copy");
        write_file(&path, 3).unwrap();
        check_file(&path, 3).unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .write_all_at(&[0; BLOCK_BYTES], 2 * MIB + 8192)
            .unwrap();
        assert!(check_file(&path, 3).unwrap_err().to_string().contains("mebibyte 2"));
    }
}
