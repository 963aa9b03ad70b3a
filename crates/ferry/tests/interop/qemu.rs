//! QEMU's block layer as a client: `qemu-img` and `qemu-io`.

use super::support::image;
use super::support::peers::path_text;
use super::support::volume::{MIB, Volume};
use super::support::{NBDKIT, QEMU_IMG, QEMU_IO, needs, qemu_io, succeed};
use super::{assert_still_hydrating, slow_source};
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

fn compare(image: &Path, uri: &str) {
    succeed("qemu-img", &["compare", "-f", "raw", "-F", "raw", path_text(image), uri]);
}

/// Fills a range of the model as the guest fills it on the volume.
fn fill(model: &Path, at: u64, len: u64, byte: u8) {
    let file = File::options().write(true).open(model).unwrap();
    file.write_all_at(&vec![byte; len as usize], at).unwrap();
}

#[test]
fn qemu_img_info_knows_the_virtual_size() {
    needs!(QEMU_IMG);
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::start(dir.path(), 24 * MIB, None);
    let printed = succeed("qemu-img", &["info", "--output=json", "-f", "raw", &volume.uri()]);
    let info: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(info["virtual-size"], 24 * MIB, "{printed}");
}

#[test]
fn qemu_img_converts_into_a_volume_and_finds_it_identical() {
    needs!(QEMU_IMG);
    let dir = tempfile::tempdir().unwrap();
    let (raw, qcow2, back) = (dir.path().join("raw"), dir.path().join("qcow2"), dir.path().join("back"));
    image::sparse(&raw, 40 * MIB, 20);
    succeed("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", path_text(&raw), path_text(&qcow2)]);
    let volume = Volume::start(dir.path(), 40 * MIB, None);
    let uri = volume.uri();
    succeed("qemu-img", &["convert", "-n", "-W", "-f", "qcow2", "-O", "raw", path_text(&qcow2), &uri]);
    compare(&raw, &uri);
    succeed("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, path_text(&back)]);
    image::assert_same(&raw, &back);
}

#[test]
fn qemu_img_map_shows_data_only_where_the_guest_wrote() {
    needs!(QEMU_IMG, QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::start(dir.path(), 32 * MIB, None);
    qemu_io(&volume.uri(), &["write -P 1 4M 64k", "write -P 2 20M 1M", "write -z -u 20M 512k", "flush"]);
    let printed = succeed("qemu-img", &["map", "--output=json", "-f", "raw", &volume.uri()]);
    let map: Value = serde_json::from_str(&printed).unwrap();
    let data: Vec<(u64, u64)> = map
        .as_array()
        .unwrap()
        .iter()
        .filter(|extent| extent["data"] == true && extent["zero"] == false)
        .map(|extent| (extent["start"].as_u64().unwrap(), extent["length"].as_u64().unwrap()))
        .collect();
    assert_eq!(data, [(4 * MIB, 64 * 1024), (20 * MIB + MIB / 2, MIB / 2)], "{printed}");
}

#[test]
fn qemu_io_reads_the_patterns_it_wrote_at_any_alignment() {
    needs!(QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::start(dir.path(), 16 * MIB, None);
    qemu_io(
        &volume.uri(),
        &[
            "write -P 0x11 0 64k",
            "write -P 0x22 512 512",
            "write -P 0x33 4095k 2k",
            "write -f -P 0x44 8M 3M",
            "read -P 0x11 0 512",
            "read -P 0x22 512 512",
            "read -P 0x11 1k 63k",
            "read -P 0x33 4095k 2k",
            "read -P 0 4097k 1k",
            "read -P 0x44 8M 3M",
            "flush",
        ],
    );
}

#[test]
fn zeroes_and_discards_read_as_zeroes_and_leave_their_neighbours() {
    needs!(QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::start(dir.path(), 16 * MIB, None);
    qemu_io(
        &volume.uri(),
        &[
            "write -P 0x55 0 8M",
            "write -z 1M 1M",
            "write -z -u 2500k 1M",
            "write -z -f 4097k 513",
            "discard 6M 1M",
            "flush",
            "read -P 0x55 0 1M",
            "read -P 0 1M 1M",
            "read -P 0x55 2M 452k",
            "read -P 0 2500k 1M",
            "read -P 0 4097k 513",
            "read -P 0x55 4098k 1k",
            "read -P 0 6M 1M",
            "read -P 0x55 7M 1M",
        ],
    );
}

#[test]
fn a_discard_gives_the_room_back() {
    needs!(QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::start(dir.path(), 16 * MIB, None);
    qemu_io(&volume.uri(), &["write -P 9 0 8M", "flush"]);
    let before = volume.status().store_bytes_allocated;
    qemu_io(&volume.uri(), &["discard 0 8M", "flush"]);
    let after = volume.status().store_bytes_allocated;
    assert!(before >= 8 * MIB && after < MIB, "{before} bytes before the discard, {after} after");
}

#[test]
fn what_was_flushed_is_there_after_a_kill() {
    needs!(QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let mut volume = Volume::start(dir.path(), 16 * MIB, None);
    qemu_io(&volume.uri(), &["write -P 0x66 3M 2M", "write -z 4M 512k", "flush"]);
    volume.kill();
    volume.serve();
    qemu_io(&volume.uri(), &["read -P 0x66 3M 1M", "read -P 0 4M 512k", "read -P 0x66 4608k 512k"]);
}

#[test]
fn qemu_io_on_a_volume_that_hydrates_sees_its_own_writes_over_the_sources_bytes() {
    needs!(QEMU_IO, QEMU_IMG, NBDKIT);
    let dir = tempfile::tempdir().unwrap();
    let (image, model) = (dir.path().join("image"), dir.path().join("model"));
    image::dense(&image, 32 * MIB, 21);
    std::fs::copy(&image, &model).unwrap();
    let source = slow_source(dir.path(), &image, "48M");
    let volume = Volume::start_slowly(dir.path(), 32 * MIB, &source.uri());
    qemu_io(
        &volume.uri(),
        &[
            "write -P 0x71 0 1M",
            "write -P 0x72 20000k 3k",
            "write -P 0x73 25m 512",
            "write -z 30M 1M",
            "discard 28M 1M",
            "write -f -P 0x74 31M 4k",
            "read -P 0x72 20000k 3k",
            "read -P 0 30M 1M",
            "read -P 0 28M 1M",
            "flush",
        ],
    );
    assert_still_hydrating(&volume);
    volume.let_go();
    for (at, len, byte) in [
        (0, MIB, 0x71),
        (20_000 * 1024, 3072, 0x72),
        (25 * MIB, 512, 0x73),
        (30 * MIB, MIB, 0),
        (28 * MIB, MIB, 0),
        (31 * MIB, 4096, 0x74),
    ] {
        fill(&model, at, len, byte);
    }
    compare(&model, &volume.uri());
    volume.wait_hydrated();
    drop(source);
    compare(&model, &volume.uri());
}

#[test]
fn qemu_img_compares_a_volume_with_its_own_source_while_it_hydrates() {
    needs!(QEMU_IMG, NBDKIT);
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    image::sparse(&image, 32 * MIB, 22);
    let source = slow_source(dir.path(), &image, "64M");
    let volume = Volume::start_slowly(dir.path(), 32 * MIB, &source.uri());
    assert_still_hydrating(&volume);
    volume.let_go();
    compare(&image, &volume.uri());
}
