//! Our client against foreign servers: nbdkit with all kinds of plugins and filters, and qemu-nbd. The hydrated
//! volume must hold exactly what `nbdcopy` reads from the same source.

use super::support::image;
use super::support::peers::{Peer, path_text};
use super::support::volume::{MIB, Volume};
use super::support::{NBDCOPY, NBDKIT, QEMU_IMG, QEMU_IO, QEMU_NBD, needs, succeed};
use super::{assert_reads_as, assert_still_hydrating};
use ferry_volume::control::Hydration;
use std::path::{Path, PathBuf};

const SIZE_BYTES: u64 = 24 * MIB;

/// Makes a volume from the source, waits until it is hydrated, ends the source, and compares the volume with what
/// `expected` holds.
fn hydrates_to(expected: &Path, source: Peer, dir: &Path, size_bytes: u64) -> Hydration {
    let volume = Volume::start(dir, size_bytes, Some(&source.uri()));
    let hydration = volume.wait_hydrated().hydration;
    source.kill();
    assert_reads_as(expected, &volume.uri(), dir, "hydrated");
    assert_eq!((hydration.bytes_remote, hydration.bytes_local), (0, size_bytes), "{hydration:?}");
    hydration
}

/// The same for a source that can tell by itself: the oracle is nbdcopy's copy of it.
fn hydrates_to_what_nbdcopy_reads(source: Peer, dir: &Path, size_bytes: u64) -> Hydration {
    let expected = dir.join("expected");
    succeed("nbdcopy", &[&source.uri(), path_text(&expected)]);
    hydrates_to(&expected, source, dir, size_bytes)
}

/// The sparse image behind `nbdkit file` with these filters and their parameters: `--` arguments first.
pub fn hydrates_through(arguments: &[&str]) -> Hydration {
    let dir = tempfile::tempdir().unwrap();
    let image = sparse_image(dir.path());
    let (options, parameters): (Vec<&str>, Vec<&str>) =
        arguments.iter().partition(|argument| argument.starts_with("--"));
    let mut all = options;
    all.extend(["file", path_text(&image)]);
    all.extend(parameters);
    hydrates_to(&image, Peer::nbdkit(dir.path(), &all), dir.path(), SIZE_BYTES)
}

fn sparse_image(dir: &Path) -> PathBuf {
    let image = dir.join("image");
    image::sparse(&image, SIZE_BYTES, 40);
    image
}

#[test]
fn the_file_plugin_hydrates_and_its_holes_do_not_cross_the_wire() {
    needs!(NBDKIT, NBDCOPY);
    let hydration = hydrates_through(&[]);
    assert!(hydration.bytes_zero > SIZE_BYTES / 3, "{hydration:?}");
    assert!(hydration.bytes_fetched + hydration.bytes_zero <= SIZE_BYTES, "{hydration:?}");
}

#[test]
fn a_read_only_source_hydrates() {
    needs!(NBDKIT, NBDCOPY);
    hydrates_through(&["--readonly"]);
}

#[test]
fn the_memory_plugin_hydrates() {
    needs!(NBDKIT, NBDCOPY);
    let dir = tempfile::tempdir().unwrap();
    let image = sparse_image(dir.path());
    let source = Peer::nbdkit(dir.path(), &["memory", &format!("size={SIZE_BYTES}")]);
    succeed("nbdcopy", &[path_text(&image), &source.uri()]);
    hydrates_to(&image, source, dir.path(), SIZE_BYTES);
}

#[test]
fn the_data_plugin_hydrates_also_when_its_size_ends_inside_a_block() {
    needs!(NBDKIT, NBDCOPY);
    let dir = tempfile::tempdir().unwrap();
    let size_bytes = 3 * MIB + 512;
    let data =
        format!("data=@0x1ff ( 0x55 0xAA )*300 @1048577 \"between regions\" @{} \"end\"", size_bytes - 3);
    let source = Peer::nbdkit(dir.path(), &["data", &data]);
    hydrates_to_what_nbdcopy_reads(source, dir.path(), size_bytes);
}

#[test]
fn the_sparse_random_plugin_hydrates() {
    needs!(NBDKIT, NBDCOPY);
    let dir = tempfile::tempdir().unwrap();
    let arguments =
        ["sparse-random", "size=96M", "seed=41", "percent=20", "runlength=300000", "random-content=true"];
    let source = Peer::nbdkit(dir.path(), &arguments);
    let hydration = hydrates_to_what_nbdcopy_reads(source, dir.path(), 96 * MIB);
    assert!(hydration.bytes_zero > 48 * MIB, "{hydration:?}");
}

#[test]
fn the_pattern_plugin_that_knows_no_holes_hydrates() {
    needs!(NBDKIT, NBDCOPY);
    let dir = tempfile::tempdir().unwrap();
    let source = Peer::nbdkit(dir.path(), &["pattern", &format!("size={SIZE_BYTES}")]);
    hydrates_to_what_nbdcopy_reads(source, dir.path(), SIZE_BYTES);
}

#[test]
fn a_terabyte_of_nothing_hydrates_without_a_byte_crossing() {
    needs!(NBDKIT);
    let dir = tempfile::tempdir().unwrap();
    let source = Peer::nbdkit(dir.path(), &["memory", "size=1T"]);
    let volume = Volume::start(dir.path(), 1024 * 1024 * MIB, Some(&source.uri()));
    let status = volume.wait_hydrated();
    assert_eq!(status.hydration.bytes_fetched, 0, "{status:?}");
    assert!(status.store_bytes_allocated < MIB, "{status:?}");
}

#[test]
fn a_source_without_block_status_hydrates() {
    needs!(NBDKIT, NBDCOPY);
    let hydration = hydrates_through(&["--filter=noextents"]);
    assert_eq!(hydration.bytes_fetched + hydration.bytes_zero, SIZE_BYTES, "{hydration:?}");
}

#[test]
fn a_source_without_structured_replies_hydrates() {
    needs!(NBDKIT, NBDCOPY);
    hydrates_through(&["--no-sr"]);
}

#[test]
fn a_source_that_takes_one_request_at_a_time_hydrates() {
    needs!(NBDKIT, NBDCOPY);
    hydrates_through(&["--filter=noparallel", "serialize=requests"]);
    hydrates_through(&["--filter=noparallel", "serialize=connections"]);
}

#[test]
fn a_source_without_zeroes_caching_or_multi_conn_hydrates() {
    needs!(NBDKIT, NBDCOPY);
    hydrates_through(&[
        "--filter=nozero",
        "--filter=nocache",
        "--filter=multi-conn",
        "--filter=fua",
        "multi-conn-mode=disable",
        "fuamode=emulate",
    ]);
}

#[test]
fn a_source_whose_block_status_always_fails_hydrates_by_reading_everything() {
    needs!(NBDKIT, NBDCOPY);
    hydrates_through(&["--filter=error", "error-extents-rate=100%"]);
}

#[test]
fn the_sources_block_sizes_are_honoured() {
    needs!(NBDKIT, NBDCOPY);
    let strict = |sizes: &[&str]| {
        let mut arguments = vec!["--filter=blocksize-policy", "blocksize-error-policy=error"];
        arguments.extend_from_slice(sizes);
        let hydration = hydrates_through(&arguments);
        assert_eq!(hydration.fetch_errors, 0, "{sizes:?}: {hydration:?}");
    };
    strict(&["blocksize-minimum=4096", "blocksize-preferred=4096", "blocksize-maximum=128K"]);
    strict(&["blocksize-minimum=512", "blocksize-preferred=64K", "blocksize-maximum=64K"]);
    strict(&["blocksize-minimum=64K", "blocksize-preferred=64K", "blocksize-maximum=256K"]);
}

#[test]
fn a_guest_that_touches_single_sectors_of_a_source_with_large_blocks_gets_the_right_bytes() {
    needs!(NBDKIT, NBDCOPY, QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    image::dense(&image, SIZE_BYTES, 42);
    let arguments = [
        "--filter=blocksize-policy",
        "--filter=rate",
        "-r",
        "file",
        path_text(&image),
        "rate=32M",
        "blocksize-error-policy=error",
        "blocksize-minimum=64K",
        "blocksize-preferred=64K",
        "blocksize-maximum=1M",
    ];
    let source = Peer::nbdkit(dir.path(), &arguments);
    let volume = Volume::start_slowly(dir.path(), SIZE_BYTES, &source.uri());
    succeed("qemu-io", &["-f", "raw", "-r", "-c", "read 20M 512", "-c", "read 23456789 1", &volume.uri()]);
    assert_still_hydrating(&volume);
    volume.let_go();
    assert_reads_as(&image, &volume.uri(), dir.path(), "copy");
    assert_eq!(volume.status().hydration.fetch_errors, 0);
}

#[test]
fn a_qcow2_image_behind_qemu_nbd_hydrates() {
    needs!(QEMU_NBD, QEMU_IMG, NBDCOPY);
    let dir = tempfile::tempdir().unwrap();
    let image = sparse_image(dir.path());
    let qcow2 = dir.path().join("qcow2");
    succeed("qemu-img", &["convert", "-c", "-f", "raw", "-O", "qcow2", path_text(&image), path_text(&qcow2)]);
    let source = Peer::qemu_nbd(dir.path(), &qcow2, "qcow2");
    let hydration = hydrates_to(&image, source, dir.path(), SIZE_BYTES);
    assert!(hydration.bytes_zero > SIZE_BYTES / 3, "{hydration:?}");
}

#[test]
fn a_raw_image_behind_qemu_nbd_hydrates() {
    needs!(QEMU_NBD, NBDCOPY);
    let dir = tempfile::tempdir().unwrap();
    let image = sparse_image(dir.path());
    let source = Peer::qemu_nbd(dir.path(), &image, "raw");
    hydrates_to_what_nbdcopy_reads(source, dir.path(), SIZE_BYTES);
}

#[test]
fn a_raw_file_hydrates_and_stays_as_it_was() {
    needs!(NBDCOPY);
    let dir = tempfile::tempdir().unwrap();
    let image = sparse_image(dir.path());
    let before = std::fs::read(&image).unwrap();
    let uri = format!("file://{}", image.display());
    let volume = Volume::start(dir.path(), SIZE_BYTES, Some(&uri));
    let hydration = volume.wait_hydrated().hydration;
    assert_reads_as(&image, &volume.uri(), dir.path(), "hydrated");
    assert!(hydration.bytes_zero > SIZE_BYTES / 3, "{hydration:?}");
    assert!(std::fs::read(&image).unwrap() == before, "the source file changed");
}

#[test]
fn a_volume_of_ours_is_a_source_like_any_other() {
    needs!(NBDCOPY, NBDKIT);
    let dir = tempfile::tempdir().unwrap();
    let image = sparse_image(dir.path());
    let (first_dir, second_dir) = (dir.path().join("first"), dir.path().join("second"));
    std::fs::create_dir(&first_dir).unwrap();
    std::fs::create_dir(&second_dir).unwrap();
    let source = Peer::nbdkit(dir.path(), &["--filter=rate", "-r", "file", path_text(&image), "rate=100M"]);
    let first = Volume::start(&first_dir, SIZE_BYTES, Some(&source.uri()));
    let second = Volume::start(&second_dir, SIZE_BYTES, Some(&first.uri()));
    second.wait_hydrated();
    assert_reads_as(&image, &second.uri(), dir.path(), "copy of the second");
}
