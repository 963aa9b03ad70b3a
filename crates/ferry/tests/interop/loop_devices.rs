//! The kernel as a guest: a filesystem on the block device that the frontend `fuse` makes.

use super::support::devices::{in_private, loop_devices_below, mounts_below, needs_loop_devices};
use super::support::peers::path_text;
use super::support::volume::{MIB, Volume};
use super::support::{E2FSCK, FSTRIM, MKE2FS, NBDCOPY, NBDKIT, UNSHARE, image, needs, succeed, until};
use super::{assert_reads_as, assert_still_hydrating, slow_source};
use ferry_volume::client::BlockClient;
use ferry_volume::{Frontend, FrontendKind};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

const FUSE: Frontend = Frontend::Fuse {};

fn attach(volume: &Volume) -> PathBuf {
    volume.control().attach(&FUSE).unwrap()
}

#[test]
fn a_filesystem_on_the_device_gives_back_to_the_store_what_it_trims() {
    needs!(UNSHARE, MKE2FS, E2FSCK, FSTRIM, NBDCOPY);
    needs_loop_devices!();
    let dir = tempfile::tempdir().unwrap();
    let mut volume = Volume::start(dir.path(), 256 * MIB, None);
    let device = attach(&volume);
    assert_eq!(volume.status().guests, 1);
    succeed("mke2fs", &["-q", "-t", "ext4", path_text(&device)]);
    in_private(
        "mount $1 $2; dd if=/dev/urandom of=$2/random bs=1M count=64 conv=fsync status=none; \
         sha256sum $2/random > $2/sum; sync -f $2; umount $2",
        &device,
        dir.path(),
    );
    let full = volume.status().store_bytes_allocated;
    assert!(full > 64 * MIB, "{full} bytes");
    let trim = "mount $1 $2; sha256sum -c --quiet $2/sum; rm $2/random; sync -f $2; fstrim $2; umount $2";
    in_private(trim, &device, dir.path());
    let trimmed = volume.status().store_bytes_allocated;
    assert!(trimmed < full - 60 * MIB, "{full} bytes before, {trimmed} after");
    succeed("e2fsck", &["-fn", path_text(&device)]);
    assert_reads_as(&device, &volume.uri(), dir.path(), "over NBD");
    volume.control().detach(FrontendKind::Fuse).unwrap();
    assert_eq!((loop_devices_below(dir.path()), mounts_below(dir.path())), (vec![], 0));
    assert_eq!((volume.status().frontends, volume.status().guests), (vec![], 0));
    volume.shut_down();
}

#[test]
fn the_device_is_whole_while_the_volume_hydrates() {
    needs!(UNSHARE, MKE2FS, E2FSCK, NBDCOPY, NBDKIT);
    needs_loop_devices!();
    let dir = tempfile::tempdir().unwrap();
    let (image, tree) = (dir.path().join("image"), dir.path().join("tree"));
    std::fs::create_dir(&tree).unwrap();
    image::dense(&tree.join("dense"), 40 * MIB, 50);
    succeed("mke2fs", &["-q", "-t", "ext4", "-d", path_text(&tree), path_text(&image), "64M"]);
    let source = slow_source(dir.path(), &image, "64M");
    let mut volume = Volume::start_slowly(dir.path(), 64 * MIB, &source.uri());
    let device = attach(&volume);
    in_private("mount $1 $2; echo now > $2/now; sync -f $2; umount $2", &device, dir.path());
    assert_still_hydrating(&volume);
    volume.let_go();
    let compare = format!("mount $1 $2; cmp $2/dense {}; umount $2", tree.join("dense").display());
    in_private(&compare, &device, dir.path());
    volume.wait_hydrated();
    succeed("e2fsck", &["-fn", path_text(&device)]);
    assert_reads_as(&device, &volume.uri(), dir.path(), "over NBD");
    volume.shut_down();
    assert_eq!((loop_devices_below(dir.path()), mounts_below(dir.path())), (vec![], 0));
}

#[test]
fn what_a_killed_server_leaves_behind_is_cleared_and_made_again() {
    needs_loop_devices!();
    let dir = tempfile::tempdir().unwrap();
    let mut volume = Volume::start(dir.path(), 16 * MIB, None);
    let device = File::options().write(true).open(attach(&volume)).unwrap();
    device.write_all_at(&[7; 8192], 4096).unwrap();
    device.sync_all().unwrap();
    // One that nobody holds any more, and one that a guest still has open.
    for guest in [None, Some(device)] {
        volume.kill();
        // The kernel forgets the name of a dead filesystem's file when somebody looks for it.
        volume.dir().join("fuse/disk").metadata().unwrap_err();
        assert_eq!((loop_devices_below(dir.path()).len(), mounts_below(dir.path())), (1, 1));
        volume.serve();
        let attached =
            volume.wait_for("it is attached again", |s| s.frontends.iter().any(|f| f.address.is_some()));
        drop(guest);
        assert_eq!(mounts_below(dir.path()), 1);
        let again = attached.frontends[0].address.clone().unwrap();
        let mut bytes = vec![0; 12288];
        File::open(&again).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!((&bytes[..4096], &bytes[4096..]), (&[0; 4096][..], &[7; 8192][..]));
        assert_eq!(attach(&volume), again, "it is attached already");
    }
    volume.shut_down();
    until("the devices are gone", || loop_devices_below(dir.path()).is_empty().then_some(()));
    assert_eq!(mounts_below(dir.path()), 0);
    assert_eq!(ferry_volume::directory::VolumeConfig::read(volume.dir()).unwrap().frontends, [FUSE]);
}

#[test]
fn what_was_flushed_to_a_volume_on_a_device_is_there_after_its_server_was_killed() {
    needs_loop_devices!();
    let dir = tempfile::tempdir().unwrap();
    let (below, image) = (dir.path().join("below"), dir.path().join("image"));
    std::fs::create_dir(&below).unwrap();
    image::dense(&image, 16 * MIB, 50);
    let mut oracle = std::fs::read(&image).unwrap();
    let mut disk = Volume::start(&below, 16 * MIB, None);
    let device = attach(&disk);
    let source = format!("file://{}", image.display());
    let mut volume = Volume::create_on(dir.path(), 16 * MIB, Some(&source), Some(device));
    for round in 0..8_u8 {
        volume.serve();
        let mut guest = BlockClient::connect_unix(&volume.dir().join("guest.sock")).unwrap();
        let at = usize::from(round) * 1_500_000 + 100;
        guest.write_at(at as u64, &[round; 70_000]).unwrap();
        oracle[at..at + 70_000].fill(round);
        guest.flush().unwrap();
        volume.kill();
    }
    volume.serve();
    volume.wait_hydrated();
    let mut found = vec![0; oracle.len()];
    let mut guest = BlockClient::connect_unix(&volume.dir().join("guest.sock")).unwrap();
    guest.read_at(0, &mut found).unwrap();
    assert!(found == oracle, "what the volume holds is not what was written");
    drop(guest);
    volume.shut_down();
    disk.shut_down();
}

#[test]
fn a_device_is_not_taken_from_a_guest_that_holds_it_until_the_volume_is_sealed() {
    needs_loop_devices!();
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::start(dir.path(), 16 * MIB, None);
    let device = attach(&volume);
    let held = File::options().read(true).write(true).custom_flags(libc::O_EXCL).open(&device).unwrap();
    let refusal = volume.control().detach(FrontendKind::Fuse).unwrap_err().to_string();
    assert!(refusal.contains("unmount it first"), "{refusal}");
    held.write_all_at(&[1; 512], 512).unwrap();
    held.sync_all().unwrap();
    volume.control().seal().unwrap();
    volume.wait_for("it is detached", |s| s.frontends.iter().all(|f| f.address.is_none()) && s.guests == 0);
    held.read_exact_at(&mut [0; 4096], 8 * MIB).unwrap_err();
    drop(held);
    until("the device is gone", || loop_devices_below(dir.path()).is_empty().then_some(()));
    let refusal = volume.control().attach(&FUSE).unwrap_err().to_string();
    assert!(refusal.contains("open for its guest"), "{refusal}");
    volume.control().unseal().unwrap();
    volume.wait_for("it is attached again", |s| s.frontends.iter().any(|f| f.address.is_some()));
    volume.control().detach(FrontendKind::Fuse).unwrap();
    assert_eq!((loop_devices_below(dir.path()), mounts_below(dir.path())), (vec![], 0));
}

#[test]
fn the_device_grows_with_its_volume() {
    needs_loop_devices!();
    let dir = tempfile::tempdir().unwrap();
    let mut volume = Volume::start(dir.path(), 16 * MIB, None);
    let device = attach(&volume);
    let mut held = File::options().read(true).write(true).open(&device).unwrap();
    assert_eq!(held.seek(SeekFrom::End(0)).unwrap(), 16 * MIB);
    volume.control().grow(32 * MIB).unwrap();
    until("the device has grown", || (held.seek(SeekFrom::End(0)).unwrap() == 32 * MIB).then_some(()));
    held.write_all_at(&[9; 512], 32 * MIB - 512).unwrap();
    held.sync_all().unwrap();
    drop(held);
    volume.shut_down();
}
