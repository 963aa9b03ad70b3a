//! A second source, added while the volume is served.

use super::{BLOCK, ID, MIB, SIZE_BYTES, block, content, home, quiet_clone, read};
use std::num::NonZeroU64;

#[test]
fn a_source_that_dies_while_hydrating_is_stood_in_for_and_nothing_is_copied_twice() {
    let tmp = tempfile::tempdir().unwrap();
    let (mut first, address) = home(tmp.path());
    let (_second, other) = home(&tmp.path().join("b"));
    let mut clone = quiet_clone(tmp.path(), address);
    let mut control = clone.control();
    control.add_source(&format!("nbd://{other}/{ID}@1")).unwrap();
    clone.until(|status| status.source.as_ref().is_some_and(|source| source.more[0].connected));
    // It takes a minute: so it surely hydrates still when the first goes.
    control.set_budget(NonZeroU64::new(MIB / 4)).unwrap();
    control.resume_hydration().unwrap();
    clone.until(|status| status.hydration.bytes_fetched >= MIB);
    first.stop();
    let gone = clone.until(|status| status.source.as_ref().is_some_and(|source| !source.connected));
    assert!(!gone.hydration.complete && gone.source.unwrap().away_ms.is_none());
    control.set_budget(None).unwrap();
    let done = clone.until(|status| status.hydration.complete).hydration;
    assert_eq!((done.bytes_fetched, done.fetch_errors), (SIZE_BYTES, 0), "{done:?}");
    let mut whole = vec![0; SIZE_BYTES as usize];
    clone.guest().read_at(0, &mut whole).unwrap();
    assert!(whole == content());
    control.detach_source().unwrap();
    drop(control);
    clone.stop();
    let described = std::fs::read_to_string(clone.dir.join("volume.json")).unwrap();
    assert!(!described.contains("more_sources"), "{described}");
    clone.start();
}

#[test]
fn a_read_that_waits_for_its_only_source_is_answered_by_one_that_is_added() {
    let tmp = tempfile::tempdir().unwrap();
    let (mut first, address) = home(tmp.path());
    let mut clone = quiet_clone(tmp.path(), address);
    assert_eq!(read(&mut clone.guest(), 0), block(0));
    first.stop();
    clone.until(|status| status.source.as_ref().is_some_and(|source| !source.connected));
    let waits = clone.reads(4 * MIB);
    clone.until(|status| status.source.as_ref().is_some_and(|source| source.requests_waiting == 1));
    // A backup: a raw file, for which we vouch.
    let backup = tmp.path().join("backup.raw");
    std::fs::write(&backup, content()).unwrap();
    let backup = format!("file://{}", backup.display());
    clone.control().add_source(&backup).unwrap();
    assert_eq!(waits.join().unwrap().unwrap(), block(4 * MIB));
    let status = clone.control().status().unwrap().source.unwrap();
    assert!(!status.connected && status.more[0].connected && status.away_ms.is_none(), "{status:?}");
    clone.stop();
    clone.start();
    assert_eq!(read(&mut clone.guest(), 15 * MIB), block(15 * MIB), "a restart remembers it");
    // Once it is removed the first is alone again, and preferred when it is back.
    clone.control().pause_hydration().unwrap();
    clone.control().remove_source(&backup).unwrap();
    clone.control().remove_source(&backup).unwrap();
    assert_eq!(clone.control().status().unwrap().source.unwrap().more, []);
    first.start();
    let mut guest = clone.guest();
    assert_eq!(read(&mut guest, 9 * MIB), block(9 * MIB));
    clone.control().resume_hydration().unwrap();
    clone.until(|status| status.hydration.complete);
}

#[test]
fn a_source_of_another_generation_is_refused_and_so_is_one_too_many() {
    let tmp = tempfile::tempdir().unwrap();
    let (home, address) = home(tmp.path());
    let clone = quiet_clone(tmp.path(), address);
    let mut control = clone.control();
    let refused = control.add_source(&format!("nbd://{address}/{ID}@2")).unwrap_err().to_string();
    assert!(refused.contains("is another volume or another generation than"), "{refused}");
    let refused = home.control().add_source("file:///backup.raw").unwrap_err().to_string();
    assert!(refused.contains("has no source"), "{refused}");
    let refused = control.remove_source(&format!("nbd://{address}/{ID}@1")).unwrap_err().to_string();
    assert!(refused.contains("stays its first source"), "{refused}");
    for number in 1..4 {
        control.add_source(&format!("file:///nowhere/{number}")).unwrap();
        control.add_source(&format!("file:///nowhere/{number}")).unwrap();
    }
    let refused = control.add_source("file:///nowhere/4").unwrap_err().to_string();
    assert!(refused.contains("has 4 sources already"), "{refused}");
    let short = tmp.path().join("short.raw");
    std::fs::write(&short, vec![1; (SIZE_BYTES - BLOCK) as usize]).unwrap();
    control.remove_source("file:///nowhere/3").unwrap();
    control.add_source(&format!("file://{}", short.display())).unwrap();
    // The first is served from all the same: nothing says which of the two is connected to first.
    clone.until(|status| {
        let source = status.source.as_ref().unwrap();
        let other = source.more[2].last_error.as_ref();
        source.connected && other.is_some_and(|error| error.contains("it is another disk"))
    });
}
