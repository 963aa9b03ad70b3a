//! A source whose bytes go wrong on the way.

use crate::bad_wire::{MARK, Wire};
use crate::volume::{MIB, Volume, pattern};
use ferry_volume::SourceUri;
use ferry_volume::control::Span;
use std::sync::atomic::Ordering;

fn bytes_that_go_wrong(varied: bool) {
    let tmp = tempfile::tempdir().unwrap();
    let home = Volume::create(tmp.path().join("home"), 8 * MIB, 1, None);
    let mut content = pattern(1, 8 * MIB);
    let at = 5 * MIB + 8192 + 100;
    content[at as usize..][..16].copy_from_slice(MARK);
    home.guest().write_at(0, &content).unwrap();
    let SourceUri::Nbd(uri) = home.seal_and_export() else { panic!("an export is read over NBD") };
    let source = home.control().status().unwrap().export.unwrap();
    let wire = Wire::to(source, varied);
    let through: SourceUri =
        uri.to_string().replace(&source.to_string(), &wire.address.to_string()).parse().unwrap();
    let away = Volume::create(tmp.path().join("away"), 8 * MIB, 2, Some(through));
    // The guest waits for that very block, and gets an error in the end; all others are there.
    away.guest().read_at(at, &mut [0; 16]).unwrap_err();
    away.until(|s| s.hydration.bytes_remote == 4096);
    let status = away.until(|s| s.mismatches.len() == 1);
    let mismatch = status.mismatches[0];
    assert_eq!(mismatch.span, Span { offset: 5 * MIB + 8192, len_bytes: 4096 }, "{status:?}");
    assert!(mismatch.times >= 3 && mismatch.same_bytes != varied, "{status:?}");
    wire.breaks.store(false, Ordering::SeqCst);
    let mut found = vec![0; 8 * MIB as usize];
    away.guest().read_at(0, &mut found).unwrap();
    assert!(found == content);
    let status = away.until(|s| s.hydration.complete);
    assert!(status.mismatches.is_empty(), "{status:?}");
    assert!(status.hydration.checksum_errors >= 3);
    assert_eq!(away.root(), home.root());
}

#[test]
fn what_goes_wrong_on_the_way_is_fetched_again_then_reported_and_forgotten_when_it_came_right() {
    bytes_that_go_wrong(true);
}

#[test]
fn a_source_that_gives_the_same_wrong_bytes_again_is_told_from_a_bad_way() {
    bytes_that_go_wrong(false);
}
