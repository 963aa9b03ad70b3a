//! A volume that is copied while its guest writes: live export, marks and what has changed since them.

use super::wait::{own_address, until};
use super::{A, MIB, Volume, pattern, read};
use ferry_nbd::Uri;
use ferry_volume::client::BlockClient;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

const SIZE: u64 = 64 * MIB;

fn live(volume: &Volume) -> Uri {
    let listen = volume.control().export_live(own_address()).unwrap();
    format!("nbd://{listen}/{A}@1+live").parse().unwrap()
}

fn whole(client: &mut BlockClient) -> Vec<u8> {
    let mut bytes = vec![0xee; SIZE as usize];
    for (at, part) in bytes.chunks_mut(MIB as usize).enumerate() {
        client.read_at(at as u64 * MIB, part).unwrap();
    }
    bytes
}

/// Copies what has changed since a mark; gives how many bytes that was.
fn catch_up(uri: &Uri, mark: u64, copy: &mut [u8]) -> u64 {
    let mut client = BlockClient::connect_for_changes(uri, mark, None).unwrap();
    let changes = client.changes(mark).unwrap().expect("the mark is kept");
    for range in &changes {
        let (first, end) = (range.offset() as usize, range.end() as usize);
        for at in (first..end).step_by(MIB as usize) {
            let end = end.min(at + MIB as usize);
            client.read_at(at as u64, &mut copy[at..end]).unwrap();
        }
    }
    changes.iter().map(|range| range.len_bytes()).sum()
}

/// Writes here and there until the volume is sealed.
fn write_until_sealed(mut guest: BlockClient, written: &AtomicU64) {
    for i in 1_u64.. {
        let at = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (SIZE / 512 - 16) * 512;
        if guest.write_at(at, &pattern(i as u8, 512 + (i % 9) as usize * 512)).is_err() {
            return;
        }
        written.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_volume_whose_guest_writes_is_copied_in_rounds_and_whole_when_it_is_sealed() {
    let tmp = tempfile::tempdir().unwrap();
    let home = Volume::create(tmp.path().join(A), A, SIZE, 1, None);
    home.guest().write_at(0, &pattern(5, 8 * MIB as usize)).unwrap();
    let uri = live(&home);
    let written = AtomicU64::new(0);
    let (guest, mut control) = (home.guest(), home.control());
    let until_more = || {
        let seen = written.load(Ordering::Relaxed);
        until(|| (written.load(Ordering::Relaxed) >= seen + 100).then_some(()));
    };
    let mut copy = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| write_until_sealed(guest, &written));
        let mut mark = control.mark().unwrap();
        until_more();
        let mut reader = BlockClient::connect(&uri, None).unwrap();
        copy = whole(&mut reader);
        for _ in 0..3 {
            until_more();
            let next = control.mark().unwrap();
            assert!(catch_up(&uri, mark, &mut copy) >= 512, "the guest has written");
            control.forget_mark(mark).unwrap();
            mark = next;
        }
        control.seal().unwrap();
        let last = catch_up(&uri, mark, &mut copy);
        let status = control.status().unwrap();
        assert_eq!(
            status.marks.iter().map(|m| (m.mark, m.bytes_changed)).collect::<Vec<_>>(),
            [(mark, last)]
        );
    });
    assert!(whole(&mut home.guest()) == copy, "the copy is the volume");
}

#[test]
fn a_live_export_is_read_only_has_a_name_of_its_own_and_ends_when_it_is_taken_back() {
    let tmp = tempfile::tempdir().unwrap();
    let home = Volume::create(tmp.path().join(A), A, SIZE, 1, None);
    let uri = live(&home);
    let mark = home.control().mark().unwrap();
    let mut reader = BlockClient::connect_for_changes(&uri, mark, None).unwrap();
    assert!(reader.write_at(0, &[1; 512]).is_err());
    assert_eq!(reader.changes(mark).unwrap(), Some(Vec::new()));
    home.guest().write_at(8192, &[1; 512]).unwrap();
    let changes = reader.changes(mark).unwrap().unwrap();
    assert_eq!(changes.iter().map(|r| (r.offset(), r.len_bytes())).collect::<Vec<_>>(), [(8192, 4096)]);
    assert_eq!(reader.changes(mark + 1).unwrap(), None, "it was not agreed on");
    let sealed = Uri { export: format!("{A}@1"), ..uri.clone() };
    assert!(BlockClient::connect(&sealed, None).is_err(), "it is not sealed");
    home.control().seal().unwrap();
    assert_eq!(read(&mut reader, 8192, 512), [1; 512], "it goes on after the seal");
    assert!(BlockClient::connect(&sealed, None).is_ok());
    home.control().export(own_address()).unwrap();
    assert!(reader.read_at(0, &mut [0; 512]).is_err(), "it was taken back");
    assert!(BlockClient::connect(&uri, None).is_err());
}

#[test]
fn what_a_killed_server_leaves_lists_every_block_that_differs_from_the_mark() {
    let tmp = tempfile::tempdir().unwrap();
    let home = Volume::create(tmp.path().join("home").join(A), A, SIZE, 1, None);
    let mut guest = home.guest();
    guest.write_at(0, &pattern(5, 20 * MIB as usize)).unwrap();
    let mark = home.control().mark().unwrap();
    let before = whole(&mut guest);
    for i in 0..50_u64 {
        guest.write_at(i * 7919 % 512 * 4096 + 100, &pattern(i as u8, 5000)).unwrap();
    }
    // What the files hold now is what is left when the server is killed now: nothing was flushed, nothing closed.
    let left = tmp.path().join("left").join(A);
    fs::create_dir_all(&left).unwrap();
    for file in ["data", "map", "volume.json"] {
        fs::copy(home.dir.join(file), left.join(file)).unwrap();
    }
    let mut again = Volume { dir: left, io: home.io, server: None };
    again.start();
    let uri = live(&again);
    let mut client = BlockClient::connect_for_changes(&uri, mark, None).unwrap();
    let changes = client.changes(mark).unwrap().expect("the mark is durable");
    let now = whole(&mut client);
    let differ = |at: usize| before[at..at + 4096] != now[at..at + 4096];
    let differing: Vec<u64> = (0..SIZE).step_by(4096).filter(|&at| differ(at as usize)).collect();
    assert!(differing.len() >= 50);
    assert!(differing.iter().all(|&at| changes.iter().any(|r| r.offset() <= at && at < r.end())));
    let listed: u64 = changes.iter().map(|range| range.len_bytes()).sum();
    assert!(listed < SIZE, "what is far from every write is not listed");
}
