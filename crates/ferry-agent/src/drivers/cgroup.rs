//! Control groups of machines: one below `ferry` in each hierarchy that the worker has.

use std::fs;
use std::path::{Path, PathBuf};

/// Where control groups are.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The group that those of machines lie in.
const PARENT: &str = "ferry";

/// The path of a machine's group in each hierarchy.
pub(super) fn path_of(machine: &str) -> PathBuf {
    Path::new("/").join(PARENT).join(machine)
}

/// Removes the groups of a machine that has ended, with those that it has made in them; tells whether all are gone. One in which
/// something still runs stays.
pub(super) fn remove(machine: &str) -> bool {
    let mut all_gone = true;
    for hierarchy in hierarchies() {
        let group = hierarchy.join(PARENT).join(machine);
        all_gone &= remove_below(&group);
        // Others may lie in it.
        let _ = fs::remove_dir(hierarchy.join(PARENT));
    }
    all_gone
}

/// The one hierarchy (cgroup v2), or one for each controller (v1).
fn hierarchies() -> impl Iterator<Item = PathBuf> {
    let controllers = fs::read_dir(CGROUPS).into_iter().flatten().flatten().map(|entry| entry.path());
    controllers.chain([PathBuf::from(CGROUPS)])
}

/// Removes a group and all in it, if nothing runs there any more.
fn remove_below(group: &Path) -> bool {
    let within = fs::read_dir(group).into_iter().flatten().flatten();
    for entry in within.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_below(&entry.path());
    }
    // There is none in most hierarchies.
    let _ = fs::remove_dir(group);
    !group.exists()
}
