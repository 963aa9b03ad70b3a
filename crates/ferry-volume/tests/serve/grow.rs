//! Volumes that become larger while they are in use.

use super::{A, MIB, Volume, pattern, read};
use ferry_volume::control::ControlError;
use std::fs::{self, OpenOptions};

const UNALIGNED: u64 = 16 * MIB + 512;

fn set_data_len(volume: &Volume, len: u64) {
    OpenOptions::new().write(true).open(volume.dir.join("data")).unwrap().set_len(len).unwrap();
}

#[test]
fn a_volume_grows_while_its_guest_is_connected_and_never_shrinks() {
    let tmp = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(tmp.path().join(A), A, UNALIGNED, 1, None);
    let bytes = pattern(3, UNALIGNED as usize);
    let mut guest = volume.guest();
    guest.write_at(0, &bytes).unwrap();
    for size_bytes in [40 * MIB + 512, 64 * MIB] {
        volume.control().grow(size_bytes).unwrap();
        volume.control().grow(size_bytes).unwrap();
        assert_eq!(volume.control().status().unwrap().size_bytes, size_bytes);
        let mut late = volume.guest();
        assert_eq!(late.size_bytes(), size_bytes);
        assert_eq!(read(&mut late, UNALIGNED, 4096), [0; 4096]);
    }
    assert_eq!(read(&mut guest, 0, bytes.len()), bytes, "who was connected goes on");
    volume.guest().write_at(64 * MIB - 9, &[7; 9]).unwrap();
    for (size_bytes, why) in
        [(16 * MIB, "never shrinks"), (64 * MIB + 1, "multiple of 512"), (1 << 51, "large")]
    {
        let refusal = volume.control().grow(size_bytes).unwrap_err();
        assert!(matches!(&refusal, ControlError::Refused { reason } if reason.contains(why)), "{refusal}");
    }
    volume.stop();
    volume.start();
    let mut guest = volume.guest();
    assert_eq!(guest.size_bytes(), 64 * MIB);
    assert_eq!(read(&mut guest, 0, bytes.len()), bytes);
    assert_eq!(read(&mut guest, 64 * MIB - 9, 9), [7; 9]);
}

#[test]
fn a_clone_grows_beyond_its_source_while_it_hydrates() {
    let tmp = tempfile::tempdir().unwrap();
    let mut home = Volume::create(tmp.path().join("home"), A, UNALIGNED, 1, None);
    let bytes = pattern(1, UNALIGNED as usize);
    home.guest().write_at(0, &bytes).unwrap();
    let source = home.seal_and_export();
    home.stop();
    let mut clone = Volume::create(tmp.path().join("away"), A, UNALIGNED, 2, Some(source));
    clone.control().grow(24 * MIB).unwrap();
    let mut guest = clone.guest();
    assert_eq!(read(&mut guest, 20 * MIB, 4096), [0; 4096], "new blocks need no source");
    guest.write_at(20 * MIB, &[9; 4096]).unwrap();
    clone.stop();
    clone.start();
    home.start();
    clone.until(|s| s.hydration.complete);
    clone.control().detach_source().unwrap();
    let check = |clone: &Volume| {
        let mut guest = clone.guest();
        assert_eq!(guest.size_bytes(), 24 * MIB);
        assert_eq!(read(&mut guest, 0, bytes.len()), bytes);
        assert_eq!(read(&mut guest, UNALIGNED, 4096), [0; 4096]);
        assert_eq!(read(&mut guest, 20 * MIB, 4096), [9; 4096]);
    };
    check(&clone);
    clone.stop();
    clone.start();
    check(&clone);
    // The next clone asks this one for all of it.
    let next = Volume::create(tmp.path().join("next"), A, 24 * MIB, 3, Some(clone.seal_and_export()));
    next.until(|s| s.hydration.complete);
    check(&next);
}

#[test]
fn a_growth_that_a_crash_cut_off_has_happened_or_not() {
    let tmp = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(tmp.path().join(A), A, 8 * MIB, 1, None);
    volume.guest().write_at(MIB, &[5; 4096]).unwrap();
    let json = volume.dir.join("volume.json");
    let before = fs::read(&json).unwrap();
    volume.stop();
    // The data file is longer and the map does not tell of it.
    set_data_len(&volume, 12 * MIB);
    volume.start();
    assert_eq!(volume.guest().size_bytes(), 8 * MIB);
    assert_eq!(fs::metadata(volume.dir.join("data")).unwrap().len(), 8 * MIB);
    // The map tells of it and `volume.json` does not.
    volume.control().grow(16 * MIB).unwrap();
    volume.stop();
    fs::write(&json, before).unwrap();
    volume.start();
    let mut guest = volume.guest();
    assert_eq!(guest.size_bytes(), 16 * MIB);
    assert!(fs::read_to_string(&json).unwrap().contains(&(16 * MIB).to_string()));
    assert_eq!(read(&mut guest, MIB, 4096), [5; 4096]);
    assert_eq!(read(&mut guest, 12 * MIB, 4096), [0; 4096]);
}

#[test]
fn files_of_different_sizes_that_no_growth_left_behind_are_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(tmp.path().join(A), A, 8 * MIB, 1, None);
    volume.stop();
    let refused = |volume: &Volume, what: &str| {
        let refusal = volume.refusal();
        assert!(refusal.contains("the size differs"), "{what}: {refusal}");
    };
    set_data_len(&volume, 4 * MIB);
    refused(&volume, "the data file is shorter");
    set_data_len(&volume, 8 * MIB);
    fs::write(volume.dir.join("data"), vec![1; 9 << 20]).unwrap();
    refused(&volume, "the data file holds more than the map tells of");
    set_data_len(&volume, 8 * MIB);
    let json = volume.dir.join("volume.json");
    let text = fs::read_to_string(&json).unwrap();
    fs::write(&json, text.replace(&(8 * MIB).to_string(), &(16 * MIB).to_string())).unwrap();
    refused(&volume, "the description tells of more than the map");
    fs::write(&json, text).unwrap();
    volume.start();
}
