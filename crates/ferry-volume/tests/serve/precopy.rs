//! A volume that stands by while it is copied from one whose guest writes, and what of it is right in the end.

use super::wait::{own_address, until};
use super::{A, MIB, Volume, pattern};
use ferry_volume::client::BlockClient;
use ferry_volume::control::{Adopted, Phase, PrecopyStatus, RootState, Status};
use ferry_volume::{CreateOptions, IoBackend, REGION_BYTES_DEFAULT, create};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const SIZE: u64 = 32 * MIB;
const BLOCK: usize = 4096;

/// The volume at generation 1, with something in a part of it, and its next generation that stands by.
struct Move {
    home: Volume,
    clone: Volume,
    live: String,
    _dir: tempfile::TempDir,
}

impl Move {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Volume::create(dir.path().join("home"), A, SIZE, 1, None);
        home.guest().write_at(0, &pattern(5, 8 * MIB as usize)).unwrap();
        let listen = home.control().export_live(own_address()).unwrap();
        let clone = standby(&dir.path().join("clone"), &format!("nbd://{listen}/{A}@1"));
        Self { home, clone, live: format!("nbd://{listen}/{A}@1+live"), _dir: dir }
    }

    fn mark(&self) -> u64 {
        self.home.control().mark().unwrap()
    }

    fn round(&self, mark: u64, since: Option<u64>) -> PrecopyStatus {
        self.clone.control().precopy(&self.live, mark, since).unwrap();
        let ended = |status: &Status| status.precopy.as_ref().is_some_and(|precopy| !precopy.copies);
        self.clone.until(ended).precopy.unwrap()
    }

    fn write(&self, offset: u64, value: u8) {
        self.home.guest().write_at(offset, &[value; BLOCK]).unwrap();
    }

    fn seal(&self) {
        self.home.control().seal().unwrap();
    }

    fn adopt(&self, since: u64) -> Adopted {
        self.clone.control().adopt(self.live.strip_suffix("+live").unwrap(), since).unwrap()
    }

    /// Both read the same, and the root of what arrived is that of what was sealed.
    fn assert_same(&self) {
        let all = |volume: &Volume| {
            let mut bytes = vec![0xee; SIZE as usize];
            volume.guest().read_at(0, &mut bytes).unwrap();
            bytes
        };
        assert!(all(&self.home) == all(&self.clone), "both hold the same");
        self.clone.until(|status| status.hydration.complete);
        let root = |volume: &Volume| {
            until(|| match volume.control().receipt(1, 0, None).unwrap().root {
                RootState::Known { root } => Some(root),
                RootState::Unknown { reason } => panic!("{reason}"),
                RootState::Summing => None,
            })
        };
        assert_eq!(root(&self.home), root(&self.clone));
    }
}

fn standby(dir: &Path, source: &str) -> Volume {
    let options = CreateOptions {
        dir: dir.to_owned(),
        id: A.to_owned(),
        size_bytes: SIZE,
        region_bytes: REGION_BYTES_DEFAULT,
        generation: 2,
        phase: Phase::Standby,
        source: Some(source.parse().unwrap()),
        born_from: Some(1),
        base: None,
        device: None,
        direct: false,
    };
    create(&options).unwrap();
    let mut volume = Volume { dir: dir.to_owned(), io: IoBackend::Auto, server: None };
    volume.start();
    volume
}

#[test]
fn what_the_guest_did_not_change_since_the_last_round_is_there_when_the_volume_opens() {
    let moved = Move::new();
    let first = moved.mark();
    let all = moved.round(first, None);
    assert_eq!((all.held_since, all.bytes_to_copy, all.bytes_copied), (Some(first), 8 * MIB, 8 * MIB));
    moved.write(MIB, 7);
    moved.write(20 * MIB, 8);
    let second = moved.mark();
    let changed = moved.round(second, Some(first));
    assert_eq!((changed.held_since, changed.bytes_to_copy), (Some(second), 2 * BLOCK as u64));
    moved.write(MIB + BLOCK as u64, 9);
    moved.seal();
    let adopted = moved.adopt(second);
    assert_eq!(adopted, Adopted { bytes_held: SIZE - BLOCK as u64, bytes_remote: BLOCK as u64 });
    moved.clone.control().open().unwrap();
    moved.assert_same();
    let fetched = moved.clone.control().status().unwrap().hydration;
    assert_eq!((fetched.bytes_fetched, fetched.bytes_remote), (BLOCK as u64, 0));
}

#[test]
fn what_was_copied_stays_sparse_and_what_the_guest_zeroed_is_zero() {
    let moved = Move::new();
    let first = moved.mark();
    moved.round(first, None);
    moved.home.guest().write_zeroes(2 * MIB, MIB).unwrap();
    let second = moved.mark();
    moved.round(second, Some(first));
    moved.seal();
    assert_eq!(moved.adopt(second).bytes_remote, 0);
    moved.clone.control().open().unwrap();
    moved.assert_same();
    let allocated = std::fs::metadata(moved.clone.dir.join("data")).unwrap().blocks() * 512;
    assert!(allocated <= 7 * MIB + 64 * 1024, "{allocated} bytes for 7 MiB");
}

#[test]
fn what_the_guest_zeroed_after_the_last_round_is_zero_though_it_was_copied_before() {
    for is_started_again in [false, true] {
        let mut moved = Move::new();
        let first = moved.mark();
        moved.round(first, None);
        moved.home.guest().write_zeroes(2 * MIB, MIB).unwrap();
        moved.seal();
        assert_eq!(moved.adopt(first).bytes_remote, MIB);
        if is_started_again {
            moved.clone.stop();
            moved.clone.start();
        }
        moved.clone.control().open().unwrap();
        moved.assert_same();
        let allocated = std::fs::metadata(moved.clone.dir.join("data")).unwrap().blocks() * 512;
        assert!(allocated <= 7 * MIB + 64 * 1024, "{allocated} bytes for 7 MiB");
    }
}

#[test]
fn a_volume_that_is_opened_without_asking_what_is_right_takes_all_from_its_source() {
    let moved = Move::new();
    let first = moved.mark();
    moved.round(first, None);
    moved.home.guest().write_zeroes(0, 8 * MIB).unwrap();
    moved.seal();
    moved.clone.control().open().unwrap();
    assert_eq!(moved.clone.control().status().unwrap().precopy, None);
    moved.assert_same();
}

#[test]
fn a_round_that_fails_leaves_what_was_held_before_it() {
    let moved = Move::new();
    let first = moved.mark();
    moved.round(first, None);
    moved.write(MIB, 7);
    moved.home.control().withdraw().unwrap();
    let second = moved.mark();
    let failed = moved.round(second, Some(first));
    assert_eq!(failed.held_since, Some(first));
    assert!(failed.failure.is_some_and(|why| why.contains("the source cannot be read")));
    let listen = moved.home.control().export_live(own_address()).unwrap();
    let live = format!("nbd://{listen}/{A}@1+live");
    let moved = Move { live, ..moved };
    moved.seal();
    assert_eq!(moved.adopt(first).bytes_remote, BLOCK as u64);
    let source = format!("nbd://{listen}/{A}@1");
    moved.clone.control().set_source(&source).unwrap();
    moved.clone.control().open().unwrap();
    moved.assert_same();
}

#[test]
fn what_was_adopted_is_told_again_and_never_copied_over() {
    let moved = Move::new();
    let first = moved.mark();
    moved.round(first, None);
    let mut control = moved.clone.control();
    let why = control.precopy(&moved.live, first + 1, Some(first + 7)).unwrap_err().to_string();
    assert!(why.contains("nothing is held as of that mark"), "{why}");
    moved.seal();
    let adopted = moved.adopt(first);
    assert_eq!(adopted, moved.adopt(first));
    let why = control.precopy(&moved.live, first + 1, None).unwrap_err().to_string();
    assert!(why.contains("adopted already"), "{why}");
    control.open().unwrap();
    let why = control.precopy(&moved.live, first + 1, None).unwrap_err().to_string();
    assert!(why.contains("stands by"), "{why}");
    moved.assert_same();
}

#[test]
fn a_server_that_starts_again_before_it_adopted_holds_nothing() {
    let mut moved = Move::new();
    let first = moved.mark();
    moved.round(first, None);
    moved.clone.stop();
    moved.clone.start();
    moved.seal();
    let why = moved.clone.control().adopt(moved.live.strip_suffix("+live").unwrap(), first).unwrap_err();
    assert!(why.to_string().contains("all of the volume is at its source"), "{why}");
    moved.clone.control().open().unwrap();
    moved.assert_same();
}

#[test]
fn a_guest_that_writes_all_the_while_loses_nothing() {
    let moved = Move::new();
    let mut guest: BlockClient = moved.home.guest();
    let writer = std::thread::spawn(move || {
        for i in 1_u64.. {
            let at = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (SIZE / 512 - 16) * 512;
            if guest.write_at(at, &pattern(i as u8, 512 + (i % 9) as usize * 512)).is_err() {
                return;
            }
        }
    });
    let mut since = None;
    for _ in 0..4 {
        let mark = moved.mark();
        let ended = moved.round(mark, since);
        assert_eq!((ended.held_since, ended.failure), (Some(mark), None));
        if let Some(former) = since {
            moved.home.control().forget_mark(former).unwrap();
        }
        since = Some(mark);
    }
    moved.seal();
    writer.join().unwrap();
    moved.adopt(since.unwrap());
    moved.clone.control().open().unwrap();
    moved.assert_same();
}
