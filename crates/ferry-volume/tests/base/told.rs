//! What a sealed copy tells of the copy that it was made from, and a hold of its hydration.

use super::copy::{BLOCK, Copy, ID, KIB, MIB, SIZE, differences, pattern};
use super::wait::own_address;
use ferry_nbd::Uri;
use ferry_volume::client::BlockClient;
use ferry_volume::{Base, SourceUri};

#[test]
fn a_sealed_copy_tells_exactly_which_blocks_its_guest_changed() {
    let tmp = tempfile::tempdir().unwrap();
    let home = Copy::first(tmp.path(), SIZE);
    home.guest().write_at(0, &pattern(1, 4 * MIB)).unwrap();
    let away = Copy::next(tmp.path(), 2, &home.seal(), None);
    assert_eq!((away.status().born_from, away.status().bytes_changed), (Some(1), Some(0)));
    let mut guest = away.guest();
    guest.write_at(100, &[7; 512]).unwrap();
    guest.trim(MIB, 8 * KIB).unwrap();
    guest.write_zeroes(2 * MIB + 1, BLOCK).unwrap();
    guest.read_at(3 * MIB, &mut [0; 512]).unwrap();
    away.until_whole();
    guest.write_at(9 * MIB, &[7; 4096]).unwrap();
    let uri = away.seal();
    let expected = vec![(0, BLOCK), (MIB, 2 * BLOCK), (2 * MIB, 2 * BLOCK), (9 * MIB, BLOCK)];
    assert_eq!(differences(&uri, 1), Some(expected));
    assert_eq!(away.status().bytes_changed, Some(6 * BLOCK));
}

#[test]
fn only_a_sealed_copy_that_knows_tells_what_it_differs_in_and_of_no_other_generation() {
    let tmp = tempfile::tempdir().unwrap();
    let home = Copy::first(tmp.path(), SIZE);
    let uri = home.seal();
    assert_eq!(home.status().born_from, None);
    assert_eq!(differences(&uri, 0), None, "it came from nowhere");
    let away = Copy::next(tmp.path(), 2, &uri, None);
    let listen = away.control().export_live(own_address()).unwrap();
    let live: Uri = format!("nbd://{listen}/{ID}@2+live").parse().unwrap();
    let mut client = BlockClient::connect_for_base(&live, 1, None).unwrap();
    assert!(!client.each_difference(1, |_| {}).unwrap(), "it may differ in more a moment later");
    let sealed = away.seal();
    assert_eq!(differences(&sealed, 2), None);
    assert_eq!(differences(&sealed, 1), Some(Vec::new()));
}

#[test]
fn the_mark_of_a_birth_is_no_agents_and_lives_as_long_as_the_copy() {
    let tmp = tempfile::tempdir().unwrap();
    let home = Copy::first(tmp.path(), SIZE);
    let mut away = Copy::next(tmp.path(), 2, &home.seal(), None);
    assert!(away.status().marks.is_empty());
    assert!(away.control().forget_mark(1).unwrap_err().to_string().contains("lives as long"));
    let mark = away.control().mark().unwrap();
    away.guest().write_at(MIB, &[7; 512]).unwrap();
    away.control().forget_mark(mark).unwrap();
    away.until_whole();
    away.control().detach_source().unwrap();
    away.stop();
    away.start();
    let status = away.status();
    assert_eq!(status.born_from, Some(1));
    assert!(status.bytes_changed >= Some(BLOCK));
}

#[test]
fn what_became_of_another_source_is_not_known() {
    let tmp = tempfile::tempdir().unwrap();
    let home = Copy::first(tmp.path(), SIZE);
    let uri = home.seal();
    let away = Copy::next(tmp.path(), 2, &uri, None);
    let moved = home.away();
    let again: SourceUri = home.export(moved);
    away.control().set_source(&again.to_string()).unwrap();
    assert_eq!(away.status().born_from, Some(1), "the same copy at another address");
    away.control().set_source("nbd://127.0.0.1:1/other").unwrap();
    assert_eq!(away.status().born_from, None);
}

#[test]
fn a_base_is_the_same_volume_at_the_generation_it_says_and_is_remembered() {
    let tmp = tempfile::tempdir().unwrap();
    let home = Copy::first(tmp.path(), SIZE);
    let base = |uri: &SourceUri| Base { uri: uri.clone(), generation: 1 };
    let refusal = home.control().set_base(Some(base(&"nbd://127.0.0.1:1/x".parse().unwrap()))).unwrap_err();
    assert!(refusal.to_string().contains("no source"), "{refusal}");
    let first = home.seal();
    let mut away = Copy::next(tmp.path(), 2, &first, None);
    let other = format!("nbd://127.0.0.1:1/{ID}@2").parse().unwrap();
    let refusal = away.control().set_base(Some(base(&other))).unwrap_err();
    assert!(refusal.to_string().contains("generation 1"), "{refusal}");
    away.control().set_base(Some(base(&first))).unwrap();
    away.stop();
    away.start();
    let told = away.status().base.expect("it is remembered");
    assert_eq!((told.uri, told.generation), (first.to_string(), 1));
    away.control().set_base(None).unwrap();
    assert_eq!(away.status().base, None);
}

#[test]
fn a_held_copy_fetches_only_what_is_read_whatever_a_person_has_paused() {
    let tmp = tempfile::tempdir().unwrap();
    let home = Copy::first(tmp.path(), SIZE);
    home.guest().write_at(0, &pattern(1, 4 * MIB)).unwrap();
    let uri = home.seal();
    let listen = home.away();
    let away = Copy::next(tmp.path(), 2, &uri, None);
    away.control().seal().unwrap();
    away.control().hold_hydration(true).unwrap();
    home.export(listen);
    // A person's pause is another wish.
    away.control().pause_hydration().unwrap();
    away.control().resume_hydration().unwrap();
    let mut guest = away.guest();
    let mut bytes = vec![0; 4096];
    guest.read_at(MIB, &mut bytes).unwrap();
    assert_eq!(bytes, pattern(1, 4 * MIB)[MIB as usize..][..4096]);
    let status = away.status();
    assert!(status.hydration_held);
    assert_eq!(status.hydration.bytes_fetched, BLOCK, "nothing but what was read");
    away.control().unseal().unwrap();
    assert!(!away.status().hydration_held, "its guest is back");
    away.until_whole();
}

#[test]
fn a_killed_copy_tells_of_every_block_that_was_written_and_not_flushed() {
    let tmp = tempfile::tempdir().unwrap();
    let home = Copy::first(tmp.path(), SIZE);
    home.guest().write_at(0, &pattern(1, 4 * MIB)).unwrap();
    let before = home.bytes();
    let uri = home.seal();
    home.away();
    let away = Copy::next(tmp.path(), 2, &uri, None);
    let written: Vec<u64> = (0..20).map(|i| i * 7919 % 1024 * BLOCK).collect();
    written.iter().for_each(|&at| away.guest().write_at(at, &pattern(at, BLOCK)).unwrap());
    let mut left = away.killed(tmp.path());
    assert_eq!(left.status().born_from, Some(1));
    let told = differences(&left.seal(), 1).unwrap();
    let is_told = |at: u64| told.iter().any(|&(first, len)| first <= at && at < first + len);
    assert!(written.iter().all(|&at| is_told(at)), "{told:?}");
    assert!(
        told.iter().map(|(_, len)| len).sum::<u64>() < SIZE,
        "what is far from every write is not told of"
    );
    let again = home.export(own_address());
    left.control().set_source(&again.to_string()).unwrap();
    let after = left.bytes();
    for at in (0..SIZE).step_by(BLOCK as usize) {
        let here = at as usize..(at + BLOCK) as usize;
        let expected = match written.contains(&at) {
            true => pattern(at, BLOCK),
            false => before[here.clone()].to_vec(),
        };
        assert!(after[here] == expected, "block at {at}");
    }
    left.stop();
}
