//! Disks that are not well: one that fills up soon, and one whose file system becomes read-only.

use super::peers::path_text;
use super::{run, succeed};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A filesystem of a few megabytes, gone when dropped. To be dropped before the directory it is mounted in.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Makes the directory `at` and mounts a filesystem of `size_bytes` there. None without the right to do so.
    pub fn mount(at: &Path, size_bytes: u64) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let size = format!("size={size_bytes}");
        let mounted = run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", path_text(at)]).status.success();
        mounted.then(|| Self(at.to_owned()))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes it larger or smaller.
    pub fn resize(&self, size_bytes: u64) {
        succeed("mount", &["-o", &format!("remount,size={size_bytes}"), path_text(&self.0)]);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the kernel may still be winding up the ring of a server that was killed a moment ago.
        succeed("umount", &["--lazy", path_text(&self.0)]);
    }
}

/// An ext4 file system on a loop device, gone when dropped. To be dropped before the directory it is mounted in.
pub struct FragileDisk(PathBuf);

impl FragileDisk {
    /// Makes the directory `at` and mounts a filesystem of `size_bytes` there, which lies in `image`. None without the right to do so,
    /// or without loop devices.
    pub fn mount(at: &Path, image: &Path, size_bytes: u64) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        File::create(image).unwrap().set_len(size_bytes).unwrap();
        succeed("mke2fs", &["-q", "-t", "ext4", "-E", "lazy_itable_init=0,nodiscard", path_text(image)]);
        let mounted = run("mount", &["-o", "loop", path_text(image), path_text(at)]).status.success();
        mounted.then(|| Self(at.to_owned()))
    }

    /// Does what the kernel does after an error of the disk: reads go on, and nothing is written any more, also by those who have files
    /// open to write.
    pub fn fail_read_only(&self) {
        succeed("mount", &["-o", "remount,abort", path_text(&self.0)]);
    }
}

impl Drop for FragileDisk {
    fn drop(&mut self) {
        // Lazily: who has files open there is ended later, and the loop device goes with the last of them.
        succeed("umount", &["--lazy", path_text(&self.0)]);
    }
}
