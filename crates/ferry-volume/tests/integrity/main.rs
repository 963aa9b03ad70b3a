//! Receipts and checks: what arrived is what was sealed, and stays so.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/wire.rs"]
mod bad_wire;
mod volume;
#[path = "../support/wait.rs"]
mod wait;
mod wire;

use ferry_volume::SourceUri;
use ferry_volume::control::{CheckState, RootState, Span};
use std::fs;
use volume::{MIB, Volume, pattern};

const SIZE: u64 = 64 * MIB + 512;

/// A sealed volume with data, holes and a short last region.
fn home(dir: std::path::PathBuf) -> (Volume, SourceUri) {
    let home = Volume::create(dir, SIZE, 1, None);
    let mut guest = home.guest();
    guest.write_at(0, &pattern(1, 20 * MIB)).unwrap();
    guest.write_at(30 * MIB + 4096, &pattern(2, MIB)).unwrap();
    guest.write_at(SIZE - 700, &pattern(3, 700)).unwrap();
    guest.flush().unwrap();
    let source = home.seal_and_export();
    (home, source)
}

fn region(number: u64) -> Span {
    Span { offset: number * MIB, len_bytes: MIB }
}

#[test]
fn the_roots_of_both_sides_agree_although_the_guest_writes_and_the_target_is_restarted() {
    let tmp = tempfile::tempdir().unwrap();
    let (mut home, source) = home(tmp.path().join("home"));
    home.stop();
    let mut away = Volume::create(tmp.path().join("away"), SIZE, 2, Some(source));
    let mut guest = away.guest();
    // What the guest writes now never arrives: a block, parts of blocks, a region and a half, what is zero.
    guest.write_at(8192, &[9; 4096]).unwrap();
    guest.write_at(3 * MIB, &pattern(9, MIB + MIB / 2)).unwrap();
    guest.write_at(50 * MIB, &[9; 8192]).unwrap();
    guest.flush().unwrap();
    drop(guest);
    home.start();
    let cold = |at| away.guest().read_at(at, &mut [0; 5000]).unwrap();
    [7 * MIB + 100, 9 * MIB, 19 * MIB + 8000].into_iter().for_each(cold);
    away.stop();
    away.start();
    away.guest().write_at(12 * MIB + 1, &[9; 4096]).unwrap();
    away.until(|s| s.hydration.complete);
    let receipt = away.receipt();
    assert_eq!(receipt.root, home.receipt().root);
    assert_eq!(receipt.bytes_arrived + receipt.bytes_zero + receipt.bytes_told, SIZE);
    assert!(receipt.bytes_told >= MIB + MIB / 2 && !receipt.is_gappy, "{receipt:?}");
    assert!(receipt.bytes_arrived <= 22 * MIB, "{receipt:?}");
    // It outlives the source and a restart.
    let root = home.root();
    drop(home);
    away.stop();
    away.start();
    assert_eq!(away.root(), root);
}

#[test]
fn the_root_of_a_part_says_where_two_copies_differ() {
    let tmp = tempfile::tempdir().unwrap();
    let (home, _) = home(tmp.path().join("home"));
    let root = home.root();
    let mut control = home.control();
    let whole = control.receipt(1, 0, Some(65)).unwrap();
    assert_eq!((whole.root, whole.regions), (RootState::Known { root: root.clone() }, 65));
    let half = control.receipt(1, 32, None).unwrap();
    assert_ne!(half.root, RootState::Known { root });
    assert_eq!(half.root, control.receipt(1, 32, Some(1000)).unwrap().root);
    control.unseal().unwrap();
    assert!(control.receipt(1, 0, None).is_err(), "what may change has no receipt");
}

#[test]
fn a_bit_that_rots_in_the_clone_is_found_and_its_region_is_named() {
    let tmp = tempfile::tempdir().unwrap();
    let (_home, source) = home(tmp.path().join("home"));
    let mut away = Volume::create(tmp.path().join("away"), SIZE, 2, Some(source));
    away.until(|s| s.hydration.complete);
    let fine = away.check();
    assert_eq!((fine.regions_equal, fine.regions_differing), (65, 0), "{fine:?}");
    away.guest().write_at(5 * MIB + 5, b"by the guest").unwrap();
    away.flip(4 * MIB + 70_000);
    away.flip(40 * MIB); // in what was a hole
    away.flip(5 * MIB + 9); // nobody can tell this from what the guest does
    let found = away.check();
    assert_eq!(found.state, CheckState::Done);
    assert_eq!(found.differing, [region(4), region(40)]);
    assert_eq!((found.regions_changed, found.regions_equal, found.regions_unknown), (1, 62, 0));
    away.stop();
    away.start();
    assert_eq!(away.check().differing, found.differing, "a restart forgets nothing");
}

#[test]
fn what_a_power_loss_may_have_changed_is_no_rot_and_is_said_once() {
    let tmp = tempfile::tempdir().unwrap();
    let (_home, source) = home(tmp.path().join("home"));
    let mut away = Volume::create(tmp.path().join("away"), SIZE, 2, Some(source));
    away.until(|s| s.hydration.complete);
    let sums = away.dir.join("arrived.sums");
    let while_open = fs::read(&sums).unwrap();
    away.guest().write_at(MIB, &[9; 512]).unwrap();
    away.stop();
    // The power went: the write reached the disk, the mark did not, and the host has booted since.
    fs::write(&sums, opened_in_another_boot(while_open)).unwrap();
    away.start();
    let found = away.check();
    assert_eq!((found.regions_doubtful, found.regions_differing), (1, 0), "{found:?}");
    assert_eq!(found.doubtful, [region(1)]);
    away.flip(7 * MIB);
    let found = away.check();
    assert_eq!((found.regions_doubtful, found.regions_changed), (0, 1), "{found:?}");
    assert_eq!(found.differing, [region(7)], "the doubt is settled, so this is rot");
}

/// The file as an earlier boot would have left it.
fn opened_in_another_boot(file: Vec<u8>) -> Vec<u8> {
    let (of, mut sums, _) = ferry_engine::sums::codec::decode(&file).unwrap();
    sums.close();
    sums.open(1);
    ferry_engine::sums::codec::compact(of, &sums).0
}

#[test]
fn a_sealed_copy_that_rots_is_found_out_by_its_own_receipt() {
    let tmp = tempfile::tempdir().unwrap();
    let (mut home, _) = home(tmp.path().join("home"));
    let root = home.root();
    let check = home.check();
    assert_eq!((check.regions_equal, check.root.as_deref()), (65, Some(root.as_str())));
    home.flip(3 * MIB + 3);
    home.stop();
    home.start();
    let check = home.check();
    assert_eq!((check.differing, check.root), (vec![region(3)], None));
    home.control().unseal().unwrap();
    assert!(!home.dir.join("sealed.sums").exists(), "from now on it may change");
}

#[test]
fn a_source_that_rots_before_it_is_summed_has_another_root_than_what_arrived() {
    let tmp = tempfile::tempdir().unwrap();
    let (mut home, source) = home(tmp.path().join("home"));
    let away = Volume::create(tmp.path().join("away"), SIZE, 2, Some(source));
    away.until(|s| s.hydration.complete);
    home.stop();
    home.flip(11 * MIB);
    home.start();
    let (mut home, mut away) = (home, away);
    assert_ne!(home.root(), away.root());
    let part = |volume: &mut Volume, first| volume.control().receipt(1, first, Some(1)).unwrap().root;
    assert_ne!(part(&mut home, 11), part(&mut away, 11));
    assert_eq!(part(&mut home, 12), part(&mut away, 12));
}

#[test]
fn a_source_without_checksums_leaves_the_root_of_what_arrived() {
    let tmp = tempfile::tempdir().unwrap();
    let image = tmp.path().join("disk.raw");
    fs::write(&image, pattern(1, 3 * MIB)).unwrap();
    fs::File::options().write(true).open(&image).unwrap().set_len(8 * MIB).unwrap();
    let clone =
        |name: &str| Volume::create(tmp.path().join(name), 8 * MIB, 2, Some(SourceUri::File(image.clone())));
    let quiet = clone("quiet");
    quiet.until(|s| s.hydration.complete);
    let again = clone("again");
    again.until(|s| s.hydration.complete);
    assert_eq!(quiet.root(), again.root());
    assert_eq!(quiet.check().regions_equal, 8);
}

#[test]
fn an_empty_volume_of_8_tib_has_its_receipt_at_once() {
    let tmp = tempfile::tempdir().unwrap();
    let home = Volume::create(tmp.path().join("home"), 8 << 40, 1, None);
    let source = home.seal_and_export();
    let away = Volume::create(tmp.path().join("away"), 8 << 40, 2, Some(source));
    away.until(|s| s.hydration.complete);
    assert_eq!(away.root(), home.root());
    assert!(fs::metadata(away.dir.join("arrived.sums")).unwrap().len() < 4096);
}
