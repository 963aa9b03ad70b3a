//! Block devices that a volume's frontends make: what they need of the host, and looks at them from outside.

use super::peers::path_text;
use super::{LOSETUP, run, skip_where_impossible, succeed};
use std::path::{Path, PathBuf};

/// Returns from the test where FUSE and loop devices are not to be had, after saying so.
macro_rules! needs_loop_devices {
    () => {
        if !crate::support::devices::has_loop_devices(crate::support::test_name!()) {
            return;
        }
    };
}

pub(crate) use needs_loop_devices;

/// Whether this host lets this process make loop devices on FUSE files.
#[must_use = "a test that cannot run must return"]
pub fn has_loop_devices(name: &str) -> bool {
    let usable = |device: &str| std::fs::File::options().read(true).write(true).open(device).is_ok();
    let has_all = rustix::process::geteuid().is_root() && usable("/dev/fuse") && usable("/dev/loop-control");
    if !has_all {
        skip_where_impossible(name, "root, /dev/fuse and /dev/loop-control");
    }
    has_all
}

/// The loop devices on files below `dir`, dead ones, too.
pub fn loop_devices_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/block").unwrap() {
        let entry = entry.unwrap();
        let on = std::fs::read_to_string(entry.path().join("loop/backing_file"));
        if on.is_ok_and(|on| Path::new(&on).starts_with(dir)) {
            found.push(Path::new("/dev").join(entry.file_name()));
        }
    }
    found
}

/// How many filesystems are mounted below `dir`.
pub fn mounts_below(dir: &Path) -> usize {
    mount_points_below(dir).len()
}

fn mount_points_below(dir: &Path) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    places.filter(|place| place.starts_with(dir)).collect()
}

/// Takes away the block devices and mounts below `dir` that killed volume servers have left.
pub fn take_apart_below(dir: &Path) {
    for device in loop_devices_below(dir) {
        // It may go by itself, with whoever was the last to use it.
        run(LOSETUP.program, &["--detach", path_text(&device)]);
    }
    for place in mount_points_below(dir) {
        // Gone meanwhile is what is wanted.
        let _ = rustix::mount::unmount(&place, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Runs a shell script in a mount namespace of its own; `$1` is the device, `$2` an empty directory.
pub fn in_private(script: &str, device: &Path, dir: &Path) {
    let point = dir.join("mounted");
    std::fs::create_dir_all(&point).unwrap();
    let script = format!("set -e; {script}");
    let arguments = ["--mount", "--propagation=private", "sh", "-c", &script, "sh"];
    succeed("unshare", &[&arguments[..], &[path_text(device), path_text(&point)]].concat());
}
