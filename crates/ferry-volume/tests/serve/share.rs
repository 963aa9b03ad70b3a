//! A volume's share of the worker's budget.

use super::{MIB, clone_of_a_stopped_home};
use std::num::NonZeroU64;

#[test]
fn the_smaller_one_of_budget_and_share_holds_and_only_the_budget_is_remembered() {
    let tmp = tempfile::tempdir().unwrap();
    let (mut home, mut clone, _) = clone_of_a_stopped_home(tmp.path());
    // Twelve days for each region after the first.
    let slow = NonZeroU64::new(1);
    clone.control().set_budget(NonZeroU64::new(100 * MIB)).unwrap();
    clone.control().set_share(slow).unwrap();
    home.start();
    clone.until(|s| s.hydration.bytes_fetched >= MIB);
    let mut byte = [0];
    clone.guest().read_at(9 * MIB, &mut byte).unwrap();
    let status = clone.control().status().unwrap();
    assert_eq!(status.hydration.bytes_fetched, MIB + 4096, "the background took only what its share allows");
    assert_eq!((status.budget_bytes_per_s, status.share_bytes_per_s), (NonZeroU64::new(100 * MIB), slow));
    // A larger share does not lift what the volume itself was told.
    clone.control().set_budget(slow).unwrap();
    clone.control().set_share(NonZeroU64::new(100 * MIB)).unwrap();
    clone.guest().read_at(13 * MIB, &mut byte).unwrap();
    assert_eq!(clone.control().status().unwrap().hydration.bytes_fetched, MIB + 2 * 4096);
    home.stop();
    clone.stop();
    clone.start();
    let status = clone.control().status().unwrap();
    assert_eq!((status.budget_bytes_per_s, status.share_bytes_per_s), (slow, None));
    clone.control().set_budget(None).unwrap();
    clone.control().set_share(slow).unwrap();
    home.start();
    clone.until(|s| s.source.as_ref().is_some_and(|s| s.connected));
    assert!(!clone.control().status().unwrap().hydration.complete);
    clone.control().set_share(None).unwrap();
    let status = clone.until(|s| s.hydration.complete);
    assert_eq!(status.share_bytes_per_s, None);
}
