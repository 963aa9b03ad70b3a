//! Real input: a filesystem of real files, a part of this host's `/usr`, made without mounting anything.

use super::peers::path_text;
use super::{run, succeed, text};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the files come from. Each directory gives an equal share.
const ROOTS: [&str; 3] = ["/usr/lib", "/usr/share", "/usr/bin"];
/// Larger files are left out, for the sake of variety.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Files below this size are small: most are, and each takes the test as long as a large one.
const SMALL_BYTES: u64 = 64 * 1024;
/// How many small files each root gives.
const SMALL_FILES_MAX: u32 = 500;

/// Real files, and an ext4 image that holds them.
pub struct RealFiles {
    /// The image.
    pub image: PathBuf,
    originals: PathBuf,
}

impl RealFiles {
    /// Copies some `bytes` of files to `dir/originals` and makes of them an ext4 filesystem of `image_mib` in
    /// `dir/image`. The choice is the same whenever the host's `/usr` is.
    pub fn gather(dir: &Path, bytes: u64, image_mib: u64) -> Self {
        let (originals, image) = (dir.join("originals"), dir.join("image"));
        for root in ROOTS {
            let share = bytes / ROOTS.len() as u64;
            take(Path::new(root), &originals, &mut Share { bytes: share, small_files: SMALL_FILES_MAX });
        }
        let size = format!("{image_mib}M");
        let from = path_text(&originals);
        // An inode for every 4 KiB: many files are small.
        succeed("mke2fs", &["-q", "-t", "ext4", "-i", "4096", "-d", from, path_text(&image), &size]);
        let found = total_bytes(&originals);
        assert!(found > bytes / 2, "/usr has only {found} of {bytes} bytes");
        Self { image, originals }
    }

    /// Fails unless the filesystem in the image file `copy` is clean and holds every file as it was. What is taken
    /// out of it goes below `dir`.
    pub fn assert_all_in(&self, copy: &Path, dir: &Path) {
        let checked = run("e2fsck", &["-fn", path_text(copy)]);
        assert!(checked.status.success(), "{}", text(&checked));
        let taken_out = dir.join("taken-out");
        fs::create_dir(&taken_out).unwrap();
        // Says that it may not give files away to root, if it runs as somebody else; what counts is what is there.
        run("debugfs", &["-R", &format!("rdump / {}", taken_out.display()), path_text(copy)]);
        let mut there = files_below(&taken_out);
        there.retain(|path| !path.starts_with("lost+found"));
        let expected = files_below(&self.originals);
        assert_eq!(there, expected);
        for path in expected {
            let same =
                fs::read(self.originals.join(&path)).unwrap() == fs::read(taken_out.join(&path)).unwrap();
            assert!(same, "{} is not what it was", path.display());
        }
        fs::remove_dir_all(taken_out).unwrap();
    }
}

/// What may still be taken.
struct Share {
    bytes: u64,
    small_files: u32,
}

impl Share {
    /// Whether a file of `bytes` may be taken.
    fn holds(&self, bytes: u64) -> bool {
        bytes <= FILE_BYTES_MAX.min(self.bytes) && (bytes >= SMALL_BYTES || self.small_files > 0)
    }

    fn use_up(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.small_files -= u32::from(bytes < SMALL_BYTES);
    }
}

/// Copies files from below `from` in the order of their names until the share is used up.
fn take(from: &Path, to: &Path, left: &mut Share) {
    for path in entries(from) {
        let Ok(found) = path.symlink_metadata() else { continue };
        if found.is_dir() {
            take(&path, to, left);
        } else if found.is_file() && left.holds(found.len()) {
            let copy = to.join(path.strip_prefix("/").unwrap());
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            // Not every file is everybody's to read.
            if fs::copy(&path, copy).is_ok() {
                left.use_up(found.len());
            }
        }
    }
}

/// The paths of all files below `dir`, from there.
fn files_below(dir: &Path) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    let mut looked_at = vec![dir.to_owned()];
    while let Some(next) = looked_at.pop() {
        for path in entries(&next) {
            if path.is_dir() {
                looked_at.push(path);
            } else {
                files.insert(path.strip_prefix(dir).unwrap().to_owned());
            }
        }
    }
    files
}

fn total_bytes(dir: &Path) -> u64 {
    files_below(dir).iter().map(|path| dir.join(path).metadata().unwrap().len()).sum()
}

/// What is in a directory, by name.
fn entries(dir: &Path) -> BTreeSet<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}
