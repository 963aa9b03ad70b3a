//! File systems on block devices: what one holds, and making one.
//!
//! Invariant: nothing is made on a device that holds anything we know of; who asks has seen that it does not.

use super::DriverError;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is read of the beginning of a device to tell what it holds, in bytes.
const HEAD_BYTES: usize = 1 << 20;
/// What is read of its end, in bytes.
const TAIL_BYTES: usize = 64 << 10;
const MKE2FS: &str = "mke2fs";

// Of the superblock of ext4 (Documentation/filesystems/ext4/super.rst), offsets in bytes.
const SUPERBLOCK: usize = 1024;
const MOUNTED_AT: usize = SUPERBLOCK + 0x2C;
const MAGIC: usize = SUPERBLOCK + 0x38;
const STATE: usize = SUPERBLOCK + 0x3A;
const MAGIC_IS: u16 = 0xEF53;
const STATE_HAS_ERRORS: u16 = 2;

/// What a device holds, as far as can be told by reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Zeroes where every file system, partition table or volume manager leaves its mark.
    Nothing,
    /// An ext4 file system.
    Ext4 {
        /// Whether it says that it has errors.
        has_errors: bool,
        /// Whether anybody ever mounted it to write.
        was_mounted: bool,
    },
    /// Something else.
    Unknown,
}

/// Reads what `device` holds.
///
/// # Errors
/// It cannot be read.
pub(crate) fn look(device: &Path) -> Result<Holds, DriverError> {
    read_ends(device)
        .map(|(head, tail)| judge(&head, &tail))
        .map_err(|cause| DriverError::Io { doing: format!("read {}", device.display()), cause })
}

fn read_ends(device: &Path) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut file = File::open(device)?;
    let mut head = Vec::with_capacity(HEAD_BYTES);
    file.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    let size = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL_BYTES as u64)))?;
    let mut tail = Vec::with_capacity(TAIL_BYTES);
    file.read_to_end(&mut tail)?;
    Ok((head, tail))
}

/// Tells by beginning and end of a device what it holds.
fn judge(head: &[u8], tail: &[u8]) -> Holds {
    let half = |at: usize| head.get(at..at + 2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    if half(MAGIC) == Some(MAGIC_IS) {
        let has_errors = half(STATE).is_some_and(|state| state & STATE_HAS_ERRORS != 0);
        let was_mounted = head[MOUNTED_AT..MOUNTED_AT + 4].iter().any(|byte| *byte != 0);
        return Holds::Ext4 { has_errors, was_mounted };
    }
    match head.iter().chain(tail).all(|byte| *byte == 0) {
        true => Holds::Nothing,
        false => Holds::Unknown,
    }
}

/// Makes an ext4 file system on `device` that belongs to `owner` (user and group; root if none). It refuses a device that somebody holds.
///
/// # Errors
/// The tool is not there, or fails.
pub(crate) fn make(device: &Path, owner: Option<(u32, u32)>) -> Result<(), DriverError> {
    let tool = mke2fs()?;
    let doing = || format!("make a file system on {}", device.display());
    let (uid, gid) = owner.unwrap_or((0, 0));
    // What it would zero for later mounts costs nothing on a volume that reads as zeroes.
    let extended = format!("lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner={uid}:{gid}");
    let made = Command::new(tool)
        .args(["-q", "-t", "ext4", "-E", &extended])
        .arg(device)
        .output()
        .map_err(|cause| DriverError::Io { doing: doing(), cause })?;
    if made.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&made.stderr).trim().replace('\n', " ");
    Err(DriverError::Io { doing: doing(), cause: io::Error::other(said) })
}

/// The tool that makes them.
///
/// # Errors
/// It is not there.
pub(crate) fn mke2fs() -> Result<PathBuf, DriverError> {
    find_tool(MKE2FS, "e2fsprogs")
}

/// A tool that comes with `package`: in the `PATH`, or in an `sbin` beside a `bin` there, since what root uses is in those and
/// an agent's `PATH` may not name them.
///
/// # Errors
/// It is not there.
pub(super) fn find_tool(tool: &'static str, package: &'static str) -> Result<PathBuf, DriverError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let named: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let beside = named.iter().filter(|dir| dir.ends_with("bin")).map(|dir| dir.with_file_name("sbin"));
    let mut found = named.iter().cloned().chain(beside).map(|dir| dir.join(tool));
    found.find(|found| found.is_file()).ok_or(DriverError::NoTool { tool, package })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_reads_as_zeroes_holds_nothing() {
        let zeroes = vec![0; HEAD_BYTES];
        assert_eq!(judge(&zeroes, &zeroes), Holds::Nothing);
        let mut label = zeroes.clone();
        label[512] = 1;
        assert_eq!(judge(&label, &zeroes), Holds::Unknown);
        assert_eq!(judge(&zeroes, &label), Holds::Unknown);
        assert_eq!(judge(&[], &[]), Holds::Nothing);
    }

    #[test]
    fn a_file_system_says_whether_it_was_mounted_and_has_errors() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        File::create(&image).unwrap().set_len(8 << 20).unwrap();
        assert_eq!(look(&image).unwrap(), Holds::Nothing);
        if mke2fs().is_err() {
            return eprintln!("SKIP the rest: mke2fs is not there (apt-get install e2fsprogs)");
        }
        make(&image, Some((7, 8))).unwrap();
        assert_eq!(look(&image).unwrap(), Holds::Ext4 { has_errors: false, was_mounted: false });
        let mut bytes = std::fs::read(&image).unwrap();
        bytes[MOUNTED_AT] = 7;
        bytes[STATE] |= 2;
        assert_eq!(judge(&bytes, &[]), Holds::Ext4 { has_errors: true, was_mounted: true });
    }
}
