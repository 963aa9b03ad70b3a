//! Bad days of one volume: its source is missing, lies, stalls, fails or dies; its disk is full; its map is damaged;
//! its server is killed. Nothing is lost, nothing wrong is served, and it goes on when it can.

use super::support::disk::SmallDisk;
use super::support::image::{self, Dice};
use super::support::peers::{Peer, path_text};
use super::support::volume::{MIB, Volume};
use super::support::{NBDCOPY, NBDKIT, QEMU_IO, QEMU_NBD, find, needs, qemu_io, run, skip, test_name, text};
use super::{assert_reads_as, assert_still_hydrating, slow_source};
use ferry_volume::control::DiskTrouble;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const SIZE_BYTES: u64 = 16 * MIB;

fn dense_image(dir: &Path, seed: u64) -> PathBuf {
    let image = dir.join("image");
    image::dense(&image, SIZE_BYTES, seed);
    image
}

fn serve_image(dir: &Path, image: &Path) -> Peer {
    Peer::nbdkit(dir, &["-r", "file", path_text(image)])
}

/// A guest that reads `range` (as `10M 4k`) and ends when it has it.
fn reader(uri: &str, range: &str) -> Child {
    Command::new(find("qemu-io").unwrap())
        .args(["-f", "raw", "-r", "-c", &format!("read {range}"), uri])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_source_that_is_not_there_is_said_and_waited_for() {
    needs!(NBDKIT, NBDCOPY, QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let image = dense_image(dir.path(), 50);
    let uri = format!("nbd+unix:///?socket={}", dir.path().join("source.sock").display());
    let volume = Volume::start(dir.path(), SIZE_BYTES, Some(&uri));
    let status = volume.wait_for("the missing source is said", |status| {
        status.source.as_ref().is_some_and(|source| source.last_error.is_some())
    });
    let source = status.source.unwrap();
    assert!(!source.connected, "{source:?}");
    qemu_io(&volume.uri(), &["write -P 3 1M 64k", "read -P 3 1M 64k", "flush"]);
    let _source = serve_image(dir.path(), &image);
    volume.wait_hydrated();
    File::options().write(true).open(&image).unwrap().write_all_at(&[3; 65536], MIB).unwrap();
    assert_reads_as(&image, &volume.uri(), dir.path(), "copy");
}

#[test]
fn a_source_that_is_smaller_than_said_is_refused_with_both_sizes() {
    needs!(NBDKIT);
    let dir = tempfile::tempdir().unwrap();
    let source = Peer::nbdkit(dir.path(), &["memory", &format!("size={}", SIZE_BYTES / 2)]);
    let volume = Volume::start(dir.path(), SIZE_BYTES, Some(&source.uri()));
    let status = volume.wait_for("the short source is said", |status| {
        status.source.as_ref().is_some_and(|source| source.last_error.is_some())
    });
    let said = status.source.unwrap().last_error.unwrap();
    for size in [SIZE_BYTES, SIZE_BYTES / 2] {
        assert!(said.contains(&size.to_string()), "{said}");
    }
    let hydration = status.hydration;
    assert_eq!((hydration.bytes_local, hydration.bytes_fetched), (0, 0), "{hydration:?}");
}

#[test]
fn a_source_that_speaks_only_tls_is_refused_with_the_reason() {
    needs!(NBDKIT);
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    std::fs::write(&keys, "ferry:00112233445566778899aabbccddeeff\n").unwrap();
    let keys = format!("--tls-psk={}", keys.display());
    let source = Peer::nbdkit(dir.path(), &["--tls=require", &keys, "memory", &format!("size={SIZE_BYTES}")]);
    let volume = Volume::start(dir.path(), SIZE_BYTES, Some(&source.uri()));
    let status = volume.wait_for("the refusal is said", |status| {
        status.source.as_ref().is_some_and(|source| source.last_error.is_some())
    });
    let said = status.source.unwrap().last_error.unwrap();
    assert!(said.contains("TLS"), "{said}");
}

#[test]
fn a_source_without_that_export_is_refused_with_its_name() {
    needs!(QEMU_NBD);
    let dir = tempfile::tempdir().unwrap();
    let image = dense_image(dir.path(), 58);
    let source = Peer::qemu_nbd(dir.path(), &image, "raw");
    let uri = source.uri().replace("///", "///nobody");
    let volume = Volume::start(dir.path(), SIZE_BYTES, Some(&uri));
    let status = volume.wait_for("the refusal is said", |status| {
        status.source.as_ref().is_some_and(|source| source.last_error.is_some())
    });
    let said = status.source.unwrap().last_error.unwrap();
    assert!(said.contains("nobody"), "{said}");
}

#[test]
fn a_source_that_dies_in_the_middle_is_taken_up_where_it_was_left() {
    needs!(NBDKIT, NBDCOPY);
    let dir = tempfile::tempdir().unwrap();
    // Much more than comes before it dies, so that it surely dies in the middle.
    let size_bytes = 48 * MIB;
    let image = dir.path().join("image");
    image::dense(&image, size_bytes, 51);
    let source = slow_source(dir.path(), &image, "4M");
    let volume = Volume::start(dir.path(), size_bytes, Some(&source.uri()));
    let so_far = volume.wait_for("some of it is here", |status| status.hydration.bytes_local >= MIB);
    source.kill();
    let cut = volume.wait_for("the loss is seen", |status| {
        status.source.as_ref().is_some_and(|source| !source.connected && source.last_error.is_some())
    });
    assert!(cut.hydration.bytes_local >= so_far.hydration.bytes_local, "{cut:?}");
    assert!(!cut.hydration.complete, "{cut:?}");
    let source = serve_image(dir.path(), &image);
    let done = volume.wait_hydrated();
    source.kill();
    assert_reads_as(&image, &volume.uri(), dir.path(), "copy");
    let fetched = done.hydration.bytes_fetched;
    assert!(
        fetched <= size_bytes,
        "{fetched} bytes arrived for a volume of {size_bytes}: some were fetched twice"
    );
}

#[test]
fn without_its_source_a_guest_writes_on_and_its_cold_reads_wait() {
    needs!(NBDKIT, NBDCOPY, QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let image = dense_image(dir.path(), 52);
    let source = slow_source(dir.path(), &image, "16M");
    let volume = Volume::start_slowly(dir.path(), SIZE_BYTES, &source.uri());
    assert_still_hydrating(&volume);
    source.kill();
    volume.let_go();
    let mut waiting = reader(&volume.uri(), "15M 4k");
    volume.wait_for("the guest's read waits", |status| status.hydration.cold_reads >= 1);
    qemu_io(&volume.uri(), &["write -P 4 14M 8k", "read -P 4 14M 8k", "flush"]);
    assert!(waiting.try_wait().unwrap().is_none(), "the read of a block that nobody has was answered");
    let _source = serve_image(dir.path(), &image);
    assert!(waiting.wait().unwrap().success());
    volume.wait_hydrated();
    File::options().write(true).open(&image).unwrap().write_all_at(&[4; 8192], 14 * MIB).unwrap();
    assert_reads_as(&image, &volume.uri(), dir.path(), "copy");
}

#[test]
fn a_source_that_stalls_does_not_stall_the_guests_own_blocks() {
    needs!(NBDKIT, NBDCOPY, QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let image = dense_image(dir.path(), 53);
    let source = slow_source(dir.path(), &image, "32M");
    let volume = Volume::start(dir.path(), SIZE_BYTES, Some(&source.uri()));
    volume.wait_for("some of it is here", |status| status.hydration.bytes_local >= MIB);
    source.pause();
    qemu_io(
        &volume.uri(),
        &["write -P 5 10M 1M", "write -z 12M 1M", "read -P 5 10M 1M", "read -P 0 12M 1M", "flush"],
    );
    source.resume();
    volume.wait_hydrated();
    let file = File::options().write(true).open(&image).unwrap();
    file.write_all_at(&vec![5; MIB as usize], 10 * MIB).unwrap();
    file.write_all_at(&vec![0; MIB as usize], 12 * MIB).unwrap();
    assert_reads_as(&image, &volume.uri(), dir.path(), "copy");
}

#[test]
fn a_source_that_only_fails_is_counted_and_hydrates_once_it_is_well() {
    needs!(NBDKIT, NBDCOPY);
    let dir = tempfile::tempdir().unwrap();
    let image = dense_image(dir.path(), 54);
    let sick = dir.path().join("sick");
    File::create(&sick).unwrap();
    let source = Peer::nbdkit(
        dir.path(),
        &[
            "--filter=error",
            "-r",
            "file",
            path_text(&image),
            "error-pread-rate=100%",
            &format!("error-pread-file={}", sick.display()),
        ],
    );
    let volume = Volume::start(dir.path(), SIZE_BYTES, Some(&source.uri()));
    let status = volume.wait_for("errors are counted", |status| status.hydration.fetch_errors >= 3);
    assert_eq!(status.hydration.bytes_local, 0, "{status:?}");
    let cold = run("qemu-io", &["-f", "raw", "-r", "-c", "read 8M 4k", &volume.uri()]);
    assert!(text(&cold).contains("Input/output error"), "{}", text(&cold));
    std::fs::remove_file(&sick).unwrap();
    volume.wait_hydrated();
    assert_reads_as(&image, &volume.uri(), dir.path(), "copy");
}

#[test]
fn a_server_that_is_killed_while_it_hydrates_has_everything_that_was_flushed() {
    needs!(NBDKIT, NBDCOPY, QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let image = dense_image(dir.path(), 55);
    let model = dir.path().join("model");
    std::fs::copy(&image, &model).unwrap();
    let model_file = File::options().write(true).open(&model).unwrap();
    let source = slow_source(dir.path(), &image, "24M");
    let mut volume = Volume::start_slowly(dir.path(), SIZE_BYTES, &source.uri());
    let mut dice = Dice::new(56);
    for round in 1..=4u8 {
        let (at, len) = (512 * dice.below(SIZE_BYTES / 512 - 600), 512 * (1 + dice.below(600)));
        qemu_io(&volume.uri(), &[&format!("write -P {round} {at} {len}"), "flush"]);
        model_file.write_all_at(&vec![round; len as usize], at).unwrap();
        if round == 1 {
            assert_still_hydrating(&volume);
            volume.let_go();
        }
        volume.kill();
        volume.serve();
    }
    volume.wait_hydrated();
    source.kill();
    assert_reads_as(&model, &volume.uri(), dir.path(), "copy");
    volume.shut_down();
    volume.serve();
    assert_reads_as(&model, &volume.uri(), dir.path(), "copy after a restart");
}

#[test]
fn a_damaged_map_is_refused_with_the_reason_and_left_as_it_is() {
    needs!(QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let mut volume = Volume::start(dir.path(), SIZE_BYTES, None);
    qemu_io(&volume.uri(), &["write -P 6 0 1M", "flush"]);
    volume.shut_down();
    let path = volume.dir().join("map");
    let whole = std::fs::read(&path).unwrap();
    for at in [0, 9, 40] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&path, &damaged).unwrap();
        let (status, said) = volume.serve_in_vain();
        assert!(!status.success(), "byte {at}: the server ended with success");
        assert!(said.contains("map"), "byte {at}: {said}");
        assert!(std::fs::read(&path).unwrap() == damaged, "byte {at}: the damaged map was written to");
    }
    std::fs::write(&path, &whole).unwrap();
    volume.serve();
    qemu_io(&volume.uri(), &["read -P 6 0 1M"]);
}

#[test]
fn a_second_server_of_the_same_volume_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::start(dir.path(), SIZE_BYTES, None);
    let (status, said) = volume.serve_in_vain();
    assert!(!status.success());
    assert!(said.contains("in use by another volume server"), "{said}");
    volume.status();
}

#[test]
fn a_full_disk_reaches_the_guest_as_such_and_the_volume_survives() {
    needs!(QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&dir.path().join("disk"), 12 * MIB) else {
        return skip(test_name!(), "the right to mount a tmpfs (run as root)");
    };
    let mut volume = Volume::start(disk.path(), 64 * MIB, None);
    qemu_io(&volume.uri(), &["write -P 1 0 8M", "flush"]);
    let full = run("qemu-io", &["-f", "raw", "-c", "write -P 2 16M 16M", &volume.uri()]);
    assert!(text(&full).contains("No space left on device"), "{}", text(&full));
    qemu_io(
        &volume.uri(),
        &["read -P 1 0 8M", "discard 0 4M", "discard 16M 16M", "write -P 3 32M 2M", "flush"],
    );
    volume.kill();
    volume.serve();
    qemu_io(&volume.uri(), &["read -P 0 0 4M", "read -P 1 4M 4M", "read -P 3 32M 2M"]);
}

#[test]
fn a_volume_is_sealed_on_a_full_disk_out_of_the_room_that_its_map_has_kept_and_says_when_that_is_used_up() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&dir.path().join("disk"), 8 * MIB) else {
        return skip(test_name!(), "the right to mount a tmpfs (run as root)");
    };
    let volume = Volume::start(disk.path(), 64 * MIB, None);
    let filling = disk.path().join("filling");
    let mut file = File::create(&filling).unwrap();
    let full = std::iter::repeat_with(|| file.write_all(&[1; 4096])).find_map(Result::err).unwrap();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let mut control = volume.control();
    // Far more than what was left of the last page of the map.
    let mut seals = 0_u32;
    let refused = std::iter::repeat_with(|| {
        seals += 1;
        control.seal().and_then(|()| control.unseal())
    });
    let refused = refused.take(100_000).find_map(Result::err).expect("the room has an end");
    assert!(refused.to_string().contains("No space left on device"), "{refused}");
    assert!(seals > 300, "{seals} seals");
    let trouble = control.status().unwrap().disk_trouble;
    assert!(
        matches!(&trouble, Some(DiskTrouble::MapUnwritten { why }) if why.contains("No space")),
        "{trouble:?}"
    );
    std::fs::remove_file(&filling).unwrap();
    drop(file);
    // Whichever of the two was refused.
    control.seal().and_then(|()| control.unseal()).unwrap();
    assert_eq!(control.status().unwrap().disk_trouble, None);
}

#[test]
fn hydration_onto_a_full_disk_waits_and_the_guest_still_reads_everything() {
    needs!(NBDKIT, NBDCOPY, QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let image = dense_image(dir.path(), 57);
    let Some(disk) = SmallDisk::mount(&dir.path().join("disk"), 8 * MIB) else {
        return skip(test_name!(), "the right to mount a tmpfs (run as root)");
    };
    let source = serve_image(dir.path(), &image);
    let volume = Volume::start(disk.path(), SIZE_BYTES, Some(&source.uri()));
    volume.wait_for("the disk is full", |status| status.store_bytes_allocated > 6 * MIB);
    assert_reads_as(&image, &volume.uri(), dir.path(), "copy from a full disk");
    let status = volume.status();
    assert!(!status.hydration.complete, "{status:?}");
    // Room comes back: the disk grows, and hydration goes on by itself.
    disk.resize(64 * MIB);
    volume.wait_hydrated();
    source.kill();
    assert_reads_as(&image, &volume.uri(), dir.path(), "copy from a large disk");
}
