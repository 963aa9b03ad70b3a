//! fio as a client that checks every block it wrote: `fio --ioengine=nbd --verify=crc32c`.

use super::support::image;
use super::support::volume::{MIB, Volume};
use super::support::{FIO, NBDKIT, needs, succeed};
use super::{assert_still_hydrating, slow_source};

/// Random reads and writes of mixed sizes and alignments over `size_mib`, then a pass that verifies every write.
fn fio(volume: &Volume, size_mib: u64, seed: u64, extra: &[&str]) {
    let uri = format!("--uri={}", volume.uri());
    let (size, seed) = (format!("--size={size_mib}M"), format!("--randseed={seed}"));
    let mut arguments = vec![
        "--name=interop",
        "--ioengine=nbd",
        &uri,
        &size,
        &seed,
        "--rw=randrw",
        "--bsrange=512-128k",
        "--bs_unaligned=0",
        "--iodepth=32",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_backlog=64",
        "--do_verify=1",
        "--verify_state_save=0",
        "--fsync=64",
        "--group_reporting=1",
    ];
    arguments.extend_from_slice(extra);
    let printed = succeed("fio", &arguments);
    assert!(printed.contains("err= 0"), "{printed}");
}

#[test]
fn fio_verifies_what_it_wrote() {
    needs!(FIO);
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::start(dir.path(), 32 * MIB, None);
    fio(&volume, 32, 30, &[]);
}

#[test]
fn fio_verifies_sequential_writes_of_a_megabyte() {
    needs!(FIO);
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::start(dir.path(), 64 * MIB, None);
    fio(&volume, 64, 31, &["--rw=write", "--bsrange=1M-1M"]);
}

#[test]
fn fio_verifies_what_it_wrote_while_the_volume_hydrates() {
    needs!(FIO, NBDKIT);
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    image::dense(&image, 64 * MIB, 32);
    let source = slow_source(dir.path(), &image, "64M");
    let volume = Volume::start_slowly(dir.path(), 64 * MIB, &source.uri());
    fio(&volume, 4, 33, &["--offset=40M"]);
    assert_still_hydrating(&volume);
    volume.let_go();
    fio(&volume, 4, 34, &["--offset=16M", "--bsrange=4k-4k"]);
    volume.wait_hydrated();
    fio(&volume, 64, 35, &[]);
}

#[test]
fn two_fio_jobs_share_a_volume_that_hydrates() {
    needs!(FIO, NBDKIT);
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    image::dense(&image, 32 * MIB, 36);
    let source = slow_source(dir.path(), &image, "64M");
    let volume = Volume::start(dir.path(), 32 * MIB, Some(&source.uri()));
    fio(&volume, 8, 37, &["--numjobs=2", "--offset_increment=16M"]);
    volume.wait_hydrated();
}
