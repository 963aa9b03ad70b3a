//! Stores past the page cache: what only these have.

use super::{A, MIB, Volume, pattern, read};
use ferry_volume::client::BlockClient;
use ferry_volume::control::Phase;
use ferry_volume::{CreateOptions, IoBackend, REGION_BYTES_DEFAULT, SourceUri, create};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Flags of each open descriptor of a file in this process, as `/proc` tells them.
fn flags_of_open(path: &Path) -> Vec<u32> {
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let same = open.filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == path));
    let flags = |entry: fs::DirEntry| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", entry.file_name().display())).ok()?;
        let told = info.lines().find_map(|line| line.strip_prefix("flags:"))?.trim().to_owned();
        u32::from_str_radix(&told, 8).ok()
    };
    same.filter_map(flags).collect()
}

fn options(dir: PathBuf, size_bytes: u64, source: Option<SourceUri>) -> CreateOptions {
    CreateOptions {
        dir,
        id: A.to_owned(),
        size_bytes,
        region_bytes: REGION_BYTES_DEFAULT,
        generation: 1,
        phase: Phase::Open,
        source,
        born_from: None,
        base: None,
        device: None,
        direct: true,
    }
}

fn volume(io: IoBackend, dir: PathBuf, size_bytes: u64, source: Option<SourceUri>) -> Volume {
    create(&options(dir.clone(), size_bytes, source)).unwrap();
    let mut volume = Volume { dir, io, server: None };
    volume.start();
    volume
}

#[test]
fn every_descriptor_of_the_data_goes_past_the_page_cache() {
    let tmp = tempfile::tempdir().unwrap();
    let home = volume(IoBackend::Auto, tmp.path().join("home"), 8 * MIB, None);
    let clone = {
        home.guest().write_at(MIB, &pattern(1, 2 * MIB as usize)).unwrap();
        let source = home.seal_and_export();
        volume(IoBackend::Auto, tmp.path().join("away"), 8 * MIB, Some(source))
    };
    clone.until(|status| status.hydration.complete);
    for volume in [&home, &clone] {
        let flags = flags_of_open(&volume.dir.join("data"));
        assert!(!flags.is_empty());
        assert!(flags.iter().all(|flags| flags & libc::O_DIRECT as u32 != 0), "{flags:x?}");
    }
}

#[test]
fn guests_that_write_parts_of_one_block_at_the_same_time_all_find_what_they_wrote() {
    for io in [IoBackend::IoUring, IoBackend::Portable] {
        let tmp = tempfile::tempdir().unwrap();
        let volume = volume(io, tmp.path().join(A), MIB + 512, None);
        let dir = &volume.dir;
        std::thread::scope(|scope| {
            for writer in 0..8_u64 {
                scope.spawn(move || {
                    let mut guest = BlockClient::connect_unix(&dir.join("guest.sock")).unwrap();
                    for round in 1..40_u8 {
                        // The last block is a short one.
                        for block in [0, 4096, MIB - 4096] {
                            guest.write_at(block + writer * 512 + 1, &[round; 511]).unwrap();
                        }
                        guest.write_at(MIB + writer * 64, &[round; 64]).unwrap();
                    }
                    guest.flush().unwrap();
                });
            }
        });
        let mut expected = vec![0; MIB as usize + 512];
        for writer in 0..8 {
            for block in [0, 4096, MIB as usize - 4096] {
                expected[block + writer * 512 + 1..][..511].fill(39);
            }
        }
        expected[MIB as usize..].fill(39);
        assert_eq!(read(&mut volume.guest(), 0, expected.len()), expected);
        let data = fs::File::open(volume.dir.join("data")).unwrap();
        assert_eq!(data.metadata().unwrap().len(), MIB + 4096, "whole blocks");
        let mut tail = [1; 4096 - 512];
        data.read_exact_at(&mut tail, MIB + 512).unwrap();
        assert_eq!(tail, [0; 4096 - 512]);
    }
}

#[test]
fn a_filesystem_without_direct_io_is_refused_before_there_is_a_volume() {
    let Ok(tmp) = tempfile::tempdir_in("/dev/shm") else {
        assert!(std::env::var_os("CI").is_none(), "no filesystem in memory at /dev/shm");
        eprintln!("SKIPPED: no filesystem in memory at /dev/shm");
        return;
    };
    let options = options(tmp.path().join(A), MIB, None);
    let refusal = create(&options).unwrap_err().to_string();
    assert!(refusal.contains("no direct I/O"), "{refusal}");
    create(&CreateOptions { direct: false, ..options }).unwrap();
}
