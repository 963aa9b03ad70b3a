//! A disk that fills up soon.

use super::peers::path_text;
use super::{run, succeed};
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
