//! What a program that makes everything below one directory may leave behind: nothing.

use std::path::Path;

/// Every process whose command line names `dir`, as all do that such a program starts.
pub fn processes_of(dir: &Path) -> Vec<u32> {
    let name = dir.to_str().expect("temporary directories have plain names");
    let pids = std::fs::read_dir("/proc").expect("/proc can be listed").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(name)
    })
    .collect()
}

/// No process names `dir` any more, and nothing lies in it.
pub fn assert_nothing_is_left(dir: &Path) {
    assert_eq!(processes_of(dir), [] as [u32; 0]);
    let left = std::fs::read_dir(dir).expect("the test's own directory can be listed");
    let left: Vec<_> = left.flatten().map(|entry| entry.path()).collect();
    assert_eq!(left, [] as [&Path; 0]);
}
