//! Snapshots: what a clone reads from a volume whose guest writes on.

use super::wait::{own_address, until};
use super::{A, B, MIB, Volume, pattern, read};
use ferry_volume::SourceUri;
use ferry_volume::client::{BlockClient, BlockError};
use ferry_volume::control::ControlError;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const SNAPSHOT: &str = "01JD9Z6M4Q5R6S7T8V9WAXBYS0";
const SIZE: u64 = 16 * MIB;
const BLOCK: usize = 4096;

fn take(volume: &Volume, id: &str) -> SourceUri {
    let mut control = volume.control();
    control.snapshot(id).unwrap();
    let listen = control.export(own_address()).unwrap();
    let status = control.status().unwrap();
    format!("nbd://{listen}/{}@{}~{id}", status.id, status.generation).parse().unwrap()
}

fn open(source: &SourceUri) -> Result<BlockClient, BlockError> {
    BlockClient::connect_text(&source.to_string())
}

fn fork(dir: &Path, source: SourceUri) -> Volume {
    Volume::create(dir.join("fork"), B, SIZE, 1, Some(source))
}

/// A fork whose background copies nothing: it is paused before it has a source that answers, so that it cannot be whole already.
fn paused_fork(dir: &Path, source: &SourceUri) -> Volume {
    let nowhere = format!("nbd://127.0.0.1:1/{A}@1~{SNAPSHOT}");
    let fork = fork(dir, nowhere.parse().unwrap());
    fork.control().pause_hydration().unwrap();
    fork.control().set_source(&source.to_string()).unwrap();
    fork
}

/// Whether a side file is there.
fn has_side_file(volume: &Volume) -> bool {
    let mut names = volume.dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    names.any(|name| name.to_string_lossy().starts_with("snapshot-"))
}

#[test]
fn a_fork_holds_the_volume_as_it_was_and_both_go_their_ways() {
    let tmp = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(tmp.path().join(A), A, SIZE, 1, None);
    let bytes = pattern(3, 3 * MIB as usize);
    volume.guest().write_at(MIB, &bytes).unwrap();
    let source = take(&volume, SNAPSHOT);
    let mut guest = volume.guest();
    let mut reader = open(&source).unwrap();
    for (at, len) in [(MIB + 5, 10), (2 * MIB, 65_536), (8 * MIB, 4096)] {
        guest.write_at(at, &vec![9; len]).unwrap();
    }
    volume.control().grow(2 * SIZE).unwrap();
    assert_eq!(reader.size_bytes(), SIZE, "it was no larger then");
    assert!(reader.write_at(0, &[1; 512]).is_err(), "it is only read");
    let fork = fork(tmp.path(), source);
    assert_eq!(read(&mut fork.guest(), MIB, bytes.len()), bytes);
    fork.guest().write_at(MIB, &[5; BLOCK]).unwrap();
    let hydration = fork.until(|s| s.hydration.complete).hydration;
    assert!(hydration.bytes_fetched <= 4 * MIB, "holes do not cross: {hydration:?}");
    assert_eq!(hydration.bytes_verified, hydration.bytes_fetched);
    fork.control().detach_source().unwrap();
    let status = volume.control().status().unwrap();
    assert_eq!(status.snapshots.len(), 1);
    assert!((64 << 10..=4 * MIB).contains(&status.snapshots[0].bytes_kept), "{status:?}");
    volume.control().forget_snapshot(SNAPSHOT).unwrap();
    volume.control().forget_snapshot(SNAPSHOT).unwrap();
    assert!(!has_side_file(&volume) && volume.control().status().unwrap().snapshots.is_empty());
    let mut forked = fork.guest();
    assert_eq!(read(&mut forked, MIB, BLOCK), [5; BLOCK]);
    assert_eq!(read(&mut forked, 2 * MIB, BLOCK), bytes[MIB as usize..][..BLOCK]);
    assert_eq!(read(&mut forked, 8 * MIB, BLOCK), [0; BLOCK]);
    volume.stop();
    volume.start();
    let mut guest = volume.guest();
    assert_eq!(read(&mut guest, 2 * MIB, 65_536), [9; 65_536]);
    assert_eq!(read(&mut guest, 3 * MIB, BLOCK), bytes[2 * MIB as usize..][..BLOCK]);
}

/// Writes the blocks in rounds, each with its number, one after the other; tells how many were acknowledged.
fn write_counters(mut guest: BlockClient, acknowledged: &AtomicU64, stop: &AtomicBool) {
    let blocks = SIZE / BLOCK as u64;
    for number in 1_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // A step that visits every block and never stays near the last one.
        let block = number * 1_667 % blocks;
        guest.write_at(block * BLOCK as u64, &number.to_le_bytes().repeat(BLOCK / 8)).unwrap();
        acknowledged.store(number, Ordering::Release);
    }
}

#[test]
fn a_fork_of_a_busy_volume_holds_what_was_acknowledged_before_and_nothing_that_came_after() {
    let tmp = tempfile::tempdir().unwrap();
    let volume = Volume::create(tmp.path().join(A), A, SIZE, 1, None);
    let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let writer = {
        let (guest, acknowledged, stop) = (volume.guest(), acknowledged.clone(), stop.clone());
        std::thread::spawn(move || write_counters(guest, &acknowledged, &stop))
    };
    let wait_for = |count| until(|| (acknowledged.load(Ordering::Acquire) >= count).then_some(()));
    wait_for(3_000);
    let before = acknowledged.load(Ordering::Acquire);
    let source = take(&volume, SNAPSHOT);
    // The next writes begin once it is taken; one may have been held.
    let after = acknowledged.load(Ordering::Acquire) + 1;
    wait_for(after + 2_000);
    let fork = fork(tmp.path(), source);
    fork.until(|s| s.hydration.complete);
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    let blocks = SIZE / BLOCK as u64;
    let mut last_in = vec![0; blocks as usize];
    let mut guest = fork.guest();
    let mut newest = 0;
    for block in 0..blocks {
        let bytes = read(&mut guest, block * BLOCK as u64, BLOCK);
        let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert_eq!(bytes, number.to_le_bytes().repeat(BLOCK / 8), "block {block} is of one write");
        last_in[block as usize] = number;
        newest = newest.max(number);
    }
    assert!((before..=after).contains(&newest), "{before} ≤ {newest} ≤ {after}");
    for number in newest.saturating_sub(blocks) + 1..=newest {
        assert_eq!(last_in[(number * 1_667 % blocks) as usize], number, "every write up to {newest}");
    }
}

#[test]
fn a_snapshot_ends_with_its_server_and_its_readers_are_told() {
    let tmp = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(tmp.path().join(A), A, SIZE, 1, None);
    let bytes = pattern(1, MIB as usize);
    volume.guest().write_at(0, &bytes).unwrap();
    let source = take(&volume, SNAPSHOT);
    let mut fork = paused_fork(tmp.path(), &source);
    volume.guest().write_at(0, &[8; BLOCK]).unwrap();
    assert!(has_side_file(&volume));
    volume.stop();
    volume.start();
    assert!(!has_side_file(&volume), "what is left of a snapshot is removed");
    // The former port may be taken meanwhile.
    let listen = volume.control().status().unwrap().export.expect("it listens again");
    let source: SourceUri = format!("nbd://{listen}/{A}@1~{SNAPSHOT}").parse().unwrap();
    let refusal = open(&source).err().expect("it is gone").to_string();
    assert!(refusal.contains("fork again"), "{refusal}");
    fork.stop();
    fork.start();
    fork.control().set_source(&source.to_string()).unwrap();
    let told = |status: &ferry_volume::control::Status| {
        let source = status.source.as_ref().unwrap();
        source.last_error.as_ref().is_some_and(|why| why.contains("fork again"))
    };
    fork.until(told);
}

/// A clone of a sealed volume full of data, of which nothing has arrived; the home volume, and what it holds.
fn clone_of_a_full_volume(dir: &Path) -> (Volume, Volume, Vec<u8>) {
    let home = Volume::create(dir.join("home"), A, SIZE, 1, None);
    let bytes = pattern(3, SIZE as usize);
    home.guest().write_at(0, &bytes).unwrap();
    let sealed = home.seal_and_export();
    let nowhere = format!("nbd://127.0.0.1:1/{A}@1");
    let clone = Volume::create(dir.join("clone"), A, SIZE, 2, Some(nowhere.parse().unwrap()));
    clone.control().pause_hydration().unwrap();
    clone.control().set_source(&sealed.to_string()).unwrap();
    (home, clone, bytes)
}

#[test]
fn a_fork_of_a_clone_that_still_hydrates_holds_what_the_clone_held_and_the_source_may_go_then() {
    let tmp = tempfile::tempdir().unwrap();
    let (mut home, volume, bytes) = clone_of_a_full_volume(tmp.path());
    let mut guest = volume.guest();
    guest.write_at(MIB, &[7; BLOCK]).unwrap();
    let source = take(&volume, SNAPSHOT);
    // Neither of these may wait for the network: the source is away.
    home.stop();
    guest.write_at(MIB, &[9; BLOCK]).unwrap();
    guest.write_at(2 * MIB, &[9; 3 * BLOCK]).unwrap();
    guest.write_zeroes(5 * MIB, MIB).unwrap();
    home.start();
    let status = volume.control().status().unwrap();
    assert_eq!(status.snapshots[0].bytes_owed, 3 * BLOCK as u64 + MIB, "{status:?}");
    let fork = paused_fork(tmp.path(), &source);
    let home_at = home.control().export(own_address()).unwrap();
    volume.control().set_source(&format!("nbd://{home_at}/{A}@1")).unwrap();
    assert_eq!(read(&mut fork.guest(), 2 * MIB, 2 * BLOCK), bytes[2 * MIB as usize..][..2 * BLOCK]);
    assert_eq!(read(&mut fork.guest(), 9 * MIB, BLOCK), bytes[9 * MIB as usize..][..BLOCK]);
    assert_eq!(read(&mut guest, 2 * MIB, BLOCK), [9; BLOCK]);
    // The volume is complete only when its snapshot has what it is owed.
    volume.control().resume_hydration().unwrap();
    let whole = volume.until(|s| s.hydration.complete);
    assert_eq!(whole.snapshots[0].bytes_owed, 0);
    volume.control().detach_source().unwrap();
    home.stop();
    fork.control().resume_hydration().unwrap();
    let hydration = fork.until(|s| s.hydration.complete).hydration;
    assert_eq!(hydration.bytes_verified, hydration.bytes_fetched);
    let mut expected = bytes.clone();
    expected[MIB as usize..][..BLOCK].fill(7);
    assert!(read(&mut fork.guest(), 0, SIZE as usize) == expected, "the fork is the volume as it was");
    expected[MIB as usize..][..BLOCK].fill(9);
    expected[2 * MIB as usize..][..3 * BLOCK].fill(9);
    expected[5 * MIB as usize..][..MIB as usize].fill(0);
    assert!(read(&mut guest, 0, SIZE as usize) == expected, "the guest has what it wrote");
    home.start();
}

#[test]
fn a_snapshot_that_needs_a_source_which_is_given_up_is_lost_and_its_readers_are_told() {
    let tmp = tempfile::tempdir().unwrap();
    let (_home, volume, _) = clone_of_a_full_volume(tmp.path());
    let source = take(&volume, SNAPSHOT);
    let fork = fork(tmp.path(), source);
    let costs = volume.control().status().unwrap().hydration.bytes_remote;
    volume.control().abandon_source(costs, true).unwrap();
    let told = |status: &ferry_volume::control::Status| {
        let source = status.source.as_ref().unwrap();
        source.last_error.as_ref().is_some_and(|why| why.contains("fork again"))
    };
    fork.until(told);
    let status = volume.control().status().unwrap();
    assert!(status.snapshots.is_empty() && status.hydration.complete, "{status:?}");
    assert!(!has_side_file(&volume));
}

#[test]
fn a_volume_has_so_many_snapshots() {
    let tmp = tempfile::tempdir().unwrap();
    let home = Volume::create(tmp.path().join("home"), A, SIZE, 1, None);
    home.guest().write_at(0, &pattern(1, MIB as usize)).unwrap();
    let snapshots: Vec<String> = (0..5).map(|n| format!("01JD9Z6M4Q5R6S7T8V9WAXBYS{n}")).collect();
    for id in &snapshots[..4] {
        home.control().snapshot(id).unwrap();
        home.control().snapshot(id).unwrap();
    }
    let refused = |volume: &Volume, id: &str, why: &str| {
        let refusal = volume.control().snapshot(id).unwrap_err();
        assert!(matches!(&refusal, ControlError::Refused { reason } if reason.contains(why)), "{refusal}");
    };
    refused(&home, &snapshots[4], "as many snapshots");
    refused(&home, "nothing", "ULID");
    home.control().forget_snapshot(&snapshots[0]).unwrap();
    home.control().snapshot(&snapshots[4]).unwrap();
}
