//! A way back and moves in a row: what the source's guest changed crosses from the source, all else comes from the base.

use super::copy::{BLOCK, Copy, KIB, MIB, Origin, SIZE, as_base, pattern};
use ferry_volume::control::RootState;

#[test]
fn only_what_changed_crosses_from_the_source_to_the_byte() {
    let tmp = tempfile::tempdir().unwrap();
    let origin = Origin::new(tmp.path());
    let away = Copy::next(tmp.path(), 2, &origin.uri, None);
    away.until_whole();
    let mut expected = origin.bytes.clone();
    let changed = change_sparsely(&away, &mut expected);
    let uri = away.seal();
    let back = Copy::next(tmp.path(), 3, &uri, Some(as_base(&origin.uri, 1)));
    let status = back.until_whole();
    assert_eq!(status.hydration.bytes_fetched, changed);
    // Less than what is there: the guest has overwritten or trimmed the rest.
    assert_eq!(status.hydration.bytes_from_base, 6 * MIB - 54 * BLOCK);
    assert!(back.bytes() == expected);
    assert!(matches!(back.receipt(2), RootState::Known { .. }));
    assert_eq!(back.receipt(2), away.receipt(2), "what arrived from both is what was sealed");
}

/// Writes to single blocks, trims and zeroes others; gives how many bytes that are not zero have changed.
fn change_sparsely(copy: &Copy, bytes: &mut [u8]) -> u64 {
    let mut guest = copy.guest();
    let mut write = |at: u64, new: &[u8]| {
        guest.write_at(at, new).unwrap();
        bytes[at as usize..][..new.len()].copy_from_slice(new);
    };
    (0..50).for_each(|i| write(i * 96 * KIB + 100, &pattern(i, 700)));
    // Where nothing was before.
    write(12 * MIB, &pattern(9, 3 * BLOCK));
    guest.trim(5 * MIB, 2 * BLOCK).unwrap();
    guest.write_zeroes(5 * MIB + 64 * KIB, 2 * BLOCK).unwrap();
    for at in [5 * MIB, 5 * MIB + 64 * KIB] {
        bytes[at as usize..][..2 * BLOCK as usize].fill(0);
    }
    53 * BLOCK
}

#[test]
fn a_copy_that_is_not_whole_gives_what_changed_and_nothing_passes_through_it() {
    let tmp = tempfile::tempdir().unwrap();
    let origin = Origin::new(tmp.path());
    let away = Copy::next_held(tmp.path(), 2, &origin.uri, None);
    let mut expected = origin.bytes.clone();
    let changed = change_sparsely(&away, &mut expected);
    let fetched = away.status().hydration.bytes_fetched;
    let uri = away.seal();
    let back = Copy::next(tmp.path(), 3, &uri, Some(as_base(&origin.uri, 1)));
    let status = back.until_whole();
    assert_eq!(status.hydration.bytes_fetched, changed);
    assert_eq!(away.status().hydration.bytes_fetched, fetched, "nobody asks it for what it lacks");
    assert!(back.bytes() == expected);
    let RootState::Unknown { reason } = away.control().receipt(2, 0, None).unwrap().root else {
        panic!("it has never had all of it")
    };
    assert!(reason.contains("not whole"), "{reason}");
    assert!(matches!(back.receipt(2), RootState::Known { .. }));
}

#[test]
fn a_guest_that_reads_and_writes_at_once_sees_both_put_together() {
    let tmp = tempfile::tempdir().unwrap();
    let origin = Origin::new(tmp.path());
    let away = Copy::next_held(tmp.path(), 2, &origin.uri, None);
    let mut expected = origin.bytes.clone();
    change_sparsely(&away, &mut expected);
    let uri = away.seal();
    let back = Copy::next_held(tmp.path(), 3, &uri, Some(as_base(&origin.uri, 1)));
    let mut guest = back.guest();
    // One read over many borders, off every alignment.
    let mut read = vec![0; 700 * KIB as usize];
    guest.read_at(333, &mut read).unwrap();
    assert!(read == expected[333..][..read.len()]);
    // The guest is quicker than what comes: what never arrived is asked for as checksums.
    for at in [3 * MIB + 5 * KIB, 4 * MIB, 14 * MIB] {
        let bytes = pattern(at, 100 * KIB);
        guest.write_at(at, &bytes).unwrap();
        expected[at as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    let fetched_by_source = away.status().hydration.bytes_fetched;
    back.control().hold_hydration(false).unwrap();
    back.until_whole();
    assert!(back.bytes() == expected);
    assert!(matches!(back.receipt(2), RootState::Known { .. }));
    assert_eq!(away.status().hydration.bytes_fetched, fetched_by_source, "nor for checksums");
}

#[test]
fn a_third_copy_pulls_from_both_and_so_does_a_fourth_from_what_is_not_whole() {
    let tmp = tempfile::tempdir().unwrap();
    let origin = Origin::new(tmp.path());
    let second = Copy::next_held(tmp.path(), 2, &origin.uri, None);
    second.guest().write_at(MIB, &pattern(2, 64 * KIB)).unwrap();
    let second_uri = second.seal();
    let third = Copy::next_held(tmp.path(), 3, &second_uri, Some(as_base(&origin.uri, 1)));
    third.guest().write_at(2 * MIB, &pattern(3, 64 * KIB)).unwrap();
    let third_uri = third.seal();
    let fourth = Copy::next(tmp.path(), 4, &third_uri, Some(as_base(&second_uri, 2)));
    let status = fourth.until_whole();
    assert_eq!(status.hydration.bytes_fetched, 64 * KIB);
    let mut expected = origin.bytes.clone();
    expected[MIB as usize..][..64 * KIB as usize].copy_from_slice(&pattern(2, 64 * KIB));
    expected[2 * MIB as usize..][..64 * KIB as usize].copy_from_slice(&pattern(3, 64 * KIB));
    assert!(fourth.bytes() == expected);
}

#[test]
fn a_raw_image_of_what_the_source_was_made_from_is_a_base_as_well() {
    let tmp = tempfile::tempdir().unwrap();
    let origin = Origin::new(tmp.path());
    let away = Copy::next_held(tmp.path(), 2, &origin.uri, None);
    let mut expected = origin.bytes.clone();
    let changed = change_sparsely(&away, &mut expected);
    let uri = away.seal();
    let image = tmp.path().join("image.raw");
    std::fs::write(&image, &origin.bytes).unwrap();
    let image = format!("file://{}", image.display()).parse().unwrap();
    let back = Copy::next(tmp.path(), 3, &uri, Some(as_base(&image, 1)));
    assert_eq!(back.until_whole().hydration.bytes_fetched, changed);
    assert!(back.bytes() == expected);
    assert!(matches!(back.receipt(2), RootState::Known { .. }));
}

#[test]
fn a_volume_that_grew_away_from_its_base_has_what_is_new_from_the_source() {
    let tmp = tempfile::tempdir().unwrap();
    let origin = Origin::new(tmp.path());
    let away = Copy::next_held(tmp.path(), 2, &origin.uri, None);
    away.control().grow(SIZE + MIB + 512).unwrap();
    let tail = pattern(5, MIB + 1000);
    away.guest().write_at(SIZE - 488, &tail).unwrap();
    let uri = away.seal();
    let back = Copy::sized(tmp.path(), SIZE + MIB + 512, 3, &uri, Some(as_base(&origin.uri, 1)));
    back.until_whole();
    let mut expected = origin.bytes.clone();
    expected.truncate(SIZE as usize - 488);
    expected.extend(tail);
    assert!(back.bytes() == expected);
}
