//! A base only spares the source work: it may go, lie and never come, and so may the source, as ever.

use super::bad_wire::{MARK, Wire};
use super::copy::{BLOCK, Copy, KIB, MIB, Origin, SIZE, as_base, pattern};
use super::proxy::Proxy;
use ferry_volume::SourceUri;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A copy of which the guest changed a little, sealed, and all that it holds.
fn changed(dir: &Path, origin: &Origin) -> (Copy, SourceUri, Vec<u8>) {
    let away = Copy::next(dir, 2, &origin.uri, None);
    away.until_whole();
    for i in 0..20 {
        away.guest().write_at(i * 200 * KIB, &pattern(i, BLOCK)).unwrap();
    }
    let bytes = away.bytes();
    let uri = away.seal();
    (away, uri, bytes)
}

#[test]
fn a_base_that_goes_in_the_middle_leaves_the_rest_to_the_source_and_may_come_back() {
    let tmp = tempfile::tempdir().unwrap();
    let origin = Origin::new(tmp.path());
    let (_away, uri, expected) = changed(tmp.path(), &origin);
    let back = Copy::next_held(tmp.path(), 3, &uri, Some(as_base(&origin.uri, 1)));
    let mut guest = back.guest();
    let mut expect = |at: u64, len: u64| {
        let mut bytes = vec![0; len as usize];
        guest.read_at(at, &mut bytes).unwrap();
        assert!(bytes == expected[at as usize..][..len as usize], "at {at}");
        back.status().hydration.bytes_from_base
    };
    back.until(|status| status.base.as_ref().is_some_and(|base| base.connected && base.is_used));
    let first = expect(0, MIB);
    assert!(first > 900 * KIB, "{first}");
    let listen = origin.copy.away();
    back.until(|status| status.base.as_ref().is_some_and(|base| !base.connected));
    assert_eq!(expect(MIB, MIB), first, "all of it came from the source");
    origin.copy.export(listen);
    back.until(|status| status.base.as_ref().is_some_and(|base| base.connected));
    assert!(expect(2 * MIB, MIB) > first);
    back.control().hold_hydration(false).unwrap();
    back.until_whole();
    assert!(back.bytes() == expected);
}

#[test]
fn while_the_source_is_away_readers_wait_though_the_base_is_there_and_go_on_when_it_is_back() {
    let tmp = tempfile::tempdir().unwrap();
    let origin = Origin::new(tmp.path());
    let (away, uri, expected) = changed(tmp.path(), &origin);
    let back = Copy::next_held(tmp.path(), 3, &uri, Some(as_base(&origin.uri, 1)));
    // Nobody has asked it for anything yet.
    back.until(|status| status.source.as_ref().is_some_and(|source| source.connected));
    let listen = away.away();
    back.until(|status| status.source.as_ref().is_some_and(|source| !source.connected));
    back.control().hold_hydration(false).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut bytes = vec![0; 512 * KIB as usize];
            back.guest().read_at(MIB, &mut bytes).unwrap();
            bytes
        });
        back.until(|status| status.source.as_ref().is_some_and(|source| source.requests_waiting > 0));
        assert!(!reader.is_finished());
        away.export(listen);
        assert!(reader.join().unwrap() == expected[MIB as usize..][..512 * KIB as usize]);
    });
    back.until_whole();
    assert!(back.bytes() == expected);
}

#[test]
fn a_base_that_is_never_there_or_a_source_that_does_not_know_costs_only_the_source_work() {
    let tmp = tempfile::tempdir().unwrap();
    let origin = Origin::new(tmp.path());
    let (_away, uri, expected) = changed(tmp.path(), &origin);
    let nowhere: SourceUri = format!("nbd://127.0.0.1:1/{}@1", super::copy::ID).parse().unwrap();
    let back = Copy::next(tmp.path(), 3, &uri, Some(as_base(&nowhere, 1)));
    let status = back.until_whole();
    assert_eq!(status.hydration.bytes_from_base, 0);
    assert!(back.bytes() == expected);
    // It was made of generation 1 and knows nothing of 0.
    let strange: SourceUri = format!("nbd://127.0.0.1:1/{}@0", super::copy::ID).parse().unwrap();
    let other = tmp.path().join("other");
    let back = Copy::next(&other, 3, &uri, Some(as_base(&strange, 0)));
    assert!(back.until_whole().base.is_none_or(|base| !base.is_used));
    assert!(back.bytes() == expected);
}

#[test]
fn what_comes_wrong_from_the_base_is_asked_of_the_source() {
    let tmp = tempfile::tempdir().unwrap();
    let marked = |at: u64| (at + 100, MARK.as_slice());
    let origin = Origin::with(tmp.path(), &[marked(3 * MIB), marked(4 * MIB)]);
    let (_away, uri, expected) = changed(tmp.path(), &origin);
    let listen = origin.copy.status().export.unwrap();
    let wire = Wire::to(listen, false);
    let through = origin.uri.to_string().replace(&listen.to_string(), &wire.address.to_string());
    let back = Copy::next_held(tmp.path(), 3, &uri, Some(as_base(&through.parse().unwrap(), 1)));
    back.until(|status| status.base.as_ref().is_some_and(|base| base.connected && base.is_used));
    let mut bytes = vec![0; 2 * MIB as usize];
    back.guest().read_at(3 * MIB, &mut bytes).unwrap();
    assert!(bytes == expected[3 * MIB as usize..][..bytes.len()]);
    let hydration = back.status().hydration;
    assert_eq!(hydration.checksum_errors, 0, "nothing is wrong with the source");
    assert!(hydration.bytes_from_base < 2 * MIB - 200 * KIB, "{hydration:?}");
    wire.breaks.store(false, Ordering::SeqCst);
    back.control().hold_hydration(false).unwrap();
    back.until_whole();
    assert!(back.bytes() == expected);
}

#[test]
fn a_base_that_takes_questions_and_answers_nothing_is_left_alone() {
    let tmp = tempfile::tempdir().unwrap();
    let origin = Origin::new(tmp.path());
    let (_away, uri, expected) = changed(tmp.path(), &origin);
    let listen = origin.copy.status().export.unwrap();
    let proxy = Proxy::before(listen);
    let through = origin.uri.to_string().replace(&listen.to_string(), &proxy.address.to_string());
    let base = as_base(&through.parse().unwrap(), 1);
    let back = Copy::next_impatient(tmp.path(), 3, &uri, Some(base), Duration::from_millis(500));
    back.until(|status| status.base.as_ref().is_some_and(|base| base.connected && base.is_used));
    proxy.hang();
    let mut bytes = vec![0; MIB as usize];
    back.guest().read_at(MIB, &mut bytes).unwrap();
    assert!(bytes == expected[MIB as usize..][..bytes.len()]);
    proxy.go_on();
    back.until(|status| status.base.as_ref().is_some_and(|base| base.connected));
    back.guest().read_at(2 * MIB, &mut bytes).unwrap();
    assert_eq!(back.status().hydration.bytes_from_base, 0, "nobody waits for it twice");
    back.control().hold_hydration(false).unwrap();
    back.until_whole();
    assert!(back.bytes() == expected);
}

#[test]
fn a_base_may_be_named_and_taken_away_while_the_copy_hydrates() {
    let tmp = tempfile::tempdir().unwrap();
    let origin = Origin::new(tmp.path());
    let (_away, uri, expected) = changed(tmp.path(), &origin);
    let back = Copy::next_held(tmp.path(), 3, &uri, None);
    let mut guest = back.guest();
    guest.read_at(0, &mut vec![0; MIB as usize]).unwrap();
    assert_eq!(back.status().hydration.bytes_from_base, 0);
    back.control().set_base(Some(as_base(&origin.uri, 1))).unwrap();
    back.until(|status| status.base.as_ref().is_some_and(|base| base.connected && base.is_used));
    guest.read_at(MIB, &mut vec![0; MIB as usize]).unwrap();
    let from_base = back.status().hydration.bytes_from_base;
    assert!(from_base > 900 * KIB, "{from_base}");
    back.control().set_base(None).unwrap();
    back.control().hold_hydration(false).unwrap();
    assert_eq!(back.until_whole().hydration.bytes_from_base, from_base);
    assert!(back.bytes() == expected);
}

#[test]
fn a_source_that_was_killed_with_writes_that_nobody_flushed_still_tells_of_them() {
    let tmp = tempfile::tempdir().unwrap();
    let origin = Origin::new(tmp.path());
    let away = Copy::next_held(tmp.path(), 2, &origin.uri, None);
    for i in 0..7 {
        away.guest().write_at(i * 29 * BLOCK + 10, &pattern(i, 5000)).unwrap();
    }
    let killed = away.killed(tmp.path());
    killed.control().hold_hydration(true).unwrap();
    let uri = killed.seal();
    let back = Copy::next(tmp.path(), 3, &uri, Some(as_base(&origin.uri, 1)));
    let status = back.until_whole();
    assert!(status.hydration.bytes_from_base > 0, "{status:?}");
    assert!(back.bytes() == away.bytes());
}

/// A small generator (splitmix64): what happens is the same in each run of a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ (mixed >> 29)) % limit
    }
}

/// The guest does something; `bytes` follows.
fn act(copy: &Copy, bytes: &mut [u8], dice: &mut Dice) {
    let at = dice.below(SIZE - 200 * KIB);
    let most = if dice.below(4) == 0 { 200 * KIB } else { 6000 };
    let len = 1 + dice.below(most);
    let here = &mut bytes[at as usize..(at + len) as usize];
    let mut guest = copy.guest();
    match dice.below(4) {
        0 => {
            guest.write_zeroes(at, len).unwrap();
            here.fill(0);
        }
        1 => {
            let (at, len) = (at - at % BLOCK, len.next_multiple_of(BLOCK));
            guest.trim(at, len).unwrap();
            bytes[at as usize..(at + len) as usize].fill(0);
        }
        _ => {
            let new = pattern(dice.below(1000), len);
            guest.write_at(at, &new).unwrap();
            here.copy_from_slice(&new);
        }
    }
}

#[test]
fn whatever_guests_do_and_whoever_goes_away_each_copy_reads_as_the_one_before_it_was_sealed() {
    for seed in 0..6 {
        let tmp = tempfile::tempdir().unwrap();
        let mut dice = Dice(seed);
        let origin = Origin::new(tmp.path());
        let mut bytes = origin.bytes.clone();
        let mut copies = vec![(origin.copy, origin.uri)];
        for generation in 2..6 {
            let base = copies.len().checked_sub(2).map(|at| as_base(&copies[at].1, generation - 2));
            let source = copies.last().unwrap().1.clone();
            let held = dice.below(3) > 0;
            let copy = match held {
                true => Copy::next_held(tmp.path(), generation, &source, base),
                false => Copy::next(tmp.path(), generation, &source, base),
            };
            for _ in 0..dice.below(40) {
                act(&copy, &mut bytes, &mut dice);
                if dice.below(16) == 0 {
                    let (gone, uri) = &mut copies[dice.below(generation - 1) as usize];
                    let listen = gone.away();
                    *uri = gone.export(listen);
                }
            }
            if dice.below(3) == 0 {
                copy.control().hold_hydration(false).unwrap();
                copy.until_whole();
            }
            // Whoever reads all has it, and the next one shall read from what is not whole, too.
            let is_read = generation == 5 || dice.below(3) == 0;
            assert!(!is_read || copy.bytes() == bytes, "seed {seed}, generation {generation}");
            let uri = copy.seal();
            copies.push((copy, uri));
        }
        // Those who read are ended before those who are read.
        while copies.pop().is_some() {}
    }
}
