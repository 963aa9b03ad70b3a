//! What the guest of a source touched often crosses first.

use super::{A, MIB, Volume, pattern, read};
use std::fs::File;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;

const HOT: [u64; 2] = [14, 9];

fn holds(clone: &Volume, region: u64) -> bool {
    let mut byte = [0];
    File::open(clone.dir.join("data")).unwrap().read_exact_at(&mut byte, region * MIB).unwrap();
    byte != [0]
}

#[test]
fn what_the_guest_of_the_source_touched_often_crosses_first_also_after_a_restart_of_the_source() {
    let tmp = tempfile::tempdir().unwrap();
    let mut home = Volume::create(tmp.path().join("home"), A, 16 * MIB, 1, None);
    let bytes = pattern(1, 16 * MIB as usize);
    let mut guest = home.guest();
    bytes.chunks(MIB as usize).zip(0..).for_each(|(part, at)| guest.write_at(at * MIB, part).unwrap());
    for _ in 0..20 {
        HOT.into_iter().for_each(|region| drop(read(&mut guest, region * MIB + 8192, 512)));
    }
    drop(guest);
    let source = home.seal_and_export();
    home.stop();
    let clone = Volume::create(tmp.path().join("away"), A, 16 * MIB, 2, Some(source));
    clone.control().set_budget(NonZeroU64::new(1)).unwrap();
    home.start();
    clone.until(|s| s.hydration.hot_ranges > 0 && s.hydration.bytes_local >= MIB);
    clone.control().set_budget(NonZeroU64::new(2 * MIB)).unwrap();
    clone.until(|s| s.hydration.bytes_local >= 3 * MIB);
    clone.control().set_budget(NonZeroU64::new(1)).unwrap();
    // In order these would be the last.
    assert!(HOT.into_iter().all(|region| holds(&clone, region)));
    assert!(!(3..9).any(|region| holds(&clone, region)), "the rest comes later");
    clone.control().set_budget(None).unwrap();
    let status = clone.until(|s| s.hydration.complete);
    assert_eq!((status.hydration.bytes_fetched, status.hydration.hot_ranges), (16 * MIB, 0));
    let mut guest = clone.guest();
    (0..16).for_each(|at| {
        assert!(read(&mut guest, at * MIB, MIB as usize) == bytes[(at * MIB) as usize..][..MIB as usize]);
    });
}
