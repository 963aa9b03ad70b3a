//! A source with bad sectors: the guest gets an error for those blocks alone, and they are told exactly.

use super::assert_reads_as;
use super::support::image;
use super::support::peers::{Peer, SECTOR, path_text};
use super::support::volume::{MIB, Volume};
use super::support::{NBDCOPY, NBDKIT, QEMU_IO, needs, qemu_io, run, text};
use ferry_volume::control::Span;
use std::fs::File;
use std::os::unix::fs::FileExt;

const SIZE_BYTES: u64 = 16 * MIB;

fn fails_to_read(volume: &Volume, range: &str) {
    let cold = text(&run("qemu-io", &["-f", "raw", "-r", "-c", &format!("read {range}"), &volume.uri()]));
    assert!(cold.contains("Input/output error"), "read {range}: {cold}");
}

#[test]
fn bad_sectors_cost_an_error_for_their_blocks_alone_and_are_told_exactly() {
    needs!(NBDKIT, NBDCOPY, QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    image::dense(&image, SIZE_BYTES, 60);
    let bad = [5 * MIB + 2 * 4096 + SECTOR, 9 * MIB];
    let source = Peer::sick(dir.path(), &image, SIZE_BYTES, bad);
    let volume = Volume::start(dir.path(), SIZE_BYTES, Some(&source.uri()));
    fails_to_read(&volume, "5M 64k");
    let block = Span { offset: 5 * MIB + 2 * 4096, len_bytes: 4096 };
    volume.wait_for("the bad block is told", |status| {
        status.source.as_ref().is_some_and(|source| source.bad.listed.contains(&block))
    });
    qemu_io(&volume.uri(), &["read 5M 8k", &format!("read {} 52k", block.offset + 4096)]);
    fails_to_read(&volume, "9M 512");
    let told = volume.wait_for("the other bad block is told", |status| {
        status.source.as_ref().is_some_and(|source| source.bad.count == 2)
    });
    let told = told.source.unwrap().bad;
    assert_eq!((told.bytes, told.listed), (8192, vec![block, Span { offset: 9 * MIB, len_bytes: 4096 }]));
    fails_to_read(&volume, "9M 512");
    let said = volume.log().matches(&format!("offset={}", 9 * MIB)).count();
    assert_eq!(said, 1, "a bad range is said once:\n{}", volume.log());
    // A write of the whole block heals it; the other one is read once the source is well.
    let write = format!("write -P 7 {} 4k", block.offset);
    qemu_io(&volume.uri(), &[&write, "flush"]);
    assert_eq!(volume.status().source.unwrap().bad.count, 1);
    std::fs::remove_file(dir.path().join("sick")).unwrap();
    volume.wait_hydrated();
    File::options().write(true).open(&image).unwrap().write_all_at(&[7; 4096], block.offset).unwrap();
    assert_reads_as(&image, &volume.uri(), dir.path(), "copy");
}

#[test]
fn what_one_source_cannot_give_is_read_from_another() {
    needs!(NBDKIT, NBDCOPY, QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    image::dense(&image, SIZE_BYTES, 61);
    let source = Peer::sick(dir.path(), &image, SIZE_BYTES, [5 * MIB, 9 * MIB]);
    let volume = Volume::start(dir.path(), SIZE_BYTES, Some(&source.uri()));
    fails_to_read(&volume, "5M 4k");
    volume.control().add_source(&format!("file://{}", path_text(&image))).unwrap();
    let done = volume.wait_hydrated();
    let told = done.source.map(|source| source.bad.count);
    assert_eq!((told.unwrap_or(0), done.hydration.bytes_sick), (0, 0));
    assert!(dir.path().join("sick").exists(), "the first is as sick as ever");
    assert_reads_as(&image, &volume.uri(), dir.path(), "copy");
}
