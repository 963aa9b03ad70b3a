//! A time by which hydration shall be complete.

use super::{A, MIB, Volume, pattern};
use ferry_volume::control::ControlError;
use std::num::NonZeroU64;
use std::time::{SystemTime, UNIX_EPOCH};

fn in_seconds(seconds: u64) -> Option<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Some(now.as_millis() as u64 + seconds * 1_000)
}

#[test]
fn a_time_that_the_budget_cannot_meet_is_refused_and_one_that_it_can_is_remembered() {
    let tmp = tempfile::tempdir().unwrap();
    let home = Volume::create(tmp.path().join("home"), A, 16 * MIB, 1, None);
    home.guest().write_at(0, &pattern(1, 16 * MIB as usize)).unwrap();
    let mut home = home;
    let source = home.seal_and_export();
    home.stop();
    let mut clone = Volume::create(tmp.path().join("away"), A, 16 * MIB, 2, Some(source));
    clone.control().set_budget(NonZeroU64::new(1 << 10)).unwrap();
    home.start();
    clone.until(|s| s.hydration.bytes_local >= MIB);
    let refusal = clone.control().set_finish_by(in_seconds(3_600)).unwrap_err();
    let ControlError::Refused { reason } = refusal else { panic!("{refusal}") };
    for part in ["15 MiB", "15360 s", "1 KiB a second", "the budget allows"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    assert_eq!(clone.control().status().unwrap().finish_by_ms, None, "nothing has changed");
    let day = in_seconds(24 * 3_600);
    clone.control().set_finish_by(day).unwrap();
    clone.stop();
    clone.start();
    assert_eq!(clone.control().status().unwrap().finish_by_ms, day);
    clone.control().set_finish_by(None).unwrap();
    assert_eq!(clone.control().status().unwrap().finish_by_ms, None);
}
