//! Copying ahead of a hand-over in rounds, each of what the machine wrote during the one before: whether another one is worth
//! it.
//!
//! The last of it crosses while the machine is down, or after; so the rounds go on as long as they make that less, and end
//! when it is little, when the machine writes as fast as it is copied, or after a time.

use crate::line::Round;
use ferry_api::{Volume, VolumePhase};

/// Less than this is as good as nothing, in bytes.
pub const BYTES_ENOUGH: u64 = 1 << 20;
/// What crosses within this time at the pace of the last round is as good as nothing, in milliseconds.
pub const MS_ENOUGH: u64 = 50;
/// The most rounds.
pub const ROUNDS_MAX: usize = 12;
/// How long rounds go on after the first, in milliseconds: that one takes as long as there is to copy.
pub const LATER_MS_MAX: u64 = 15 * 60_000;
/// A round must leave less than so many hundredths of what the one before it left.
pub const PROGRESS_PERCENT: u64 = 80;

/// Less than this follows in a moment anyway, in bytes in use on all volumes together: rounds would take longer to begin than
/// they spare.
pub const BYTES_WORTH: u64 = 64 << 20;

/// Why a move that may be warm is a cold one although it could be warm, in one sentence, if it does not pay.
#[must_use]
pub fn why_not_worth(bytes_in_use: u64) -> Option<String> {
    let mib = bytes_in_use >> 20;
    (bytes_in_use < BYTES_WORTH)
        .then(|| format!("all there is to copy are {mib} MiB, which follow in a moment"))
}

/// How long the rounds of a move may take that has to be handed over by then, in milliseconds: half of the time that is left.
#[must_use]
pub fn rounds_end_ms(now_ms: u64, deadline_ms: u64) -> u64 {
    now_ms.saturating_add(deadline_ms.saturating_sub(now_ms) / 2)
}

/// Why there is no further round after these, in one sentence; none: there is one.
#[must_use]
pub fn why_enough(rounds: &[Round]) -> Option<String> {
    let (last, before) = rounds.split_last()?;
    let later_ms: u64 = rounds.iter().skip(1).map(|round| round.took_ms).sum();
    let left = last.bytes_left;
    let takes_ms = u128::from(left) * u128::from(last.took_ms.max(1)) / u128::from(last.bytes.max(1));
    let slower = |former: &Round| {
        u128::from(left) * 100 > u128::from(former.bytes_left) * u128::from(PROGRESS_PERCENT)
    };
    if left <= BYTES_ENOUGH || (last.bytes > BYTES_ENOUGH && takes_ms <= u128::from(MS_ENOUGH)) {
        Some(format!("{left} bytes are left, which is little"))
    } else if before.last().is_some_and(slower) {
        Some(format!("the machine writes as fast as it is copied: {left} bytes are left"))
    } else if rounds.len() >= ROUNDS_MAX {
        Some(format!("that were {ROUNDS_MAX} rounds; {left} bytes are left"))
    } else if later_ms >= LATER_MS_MAX {
        Some(format!("the rounds after the first took {} s; {left} bytes are left", later_ms / 1_000))
    } else {
        None
    }
}

/// Why a volume of a machine that runs is not copied ahead, in one sentence, if it is not.
#[must_use]
pub fn why_cold(volume: &Volume, has_base: bool) -> Option<String> {
    let is_whole = volume.hydration.as_ref().is_none_or(|hydration| hydration.complete);
    if has_base {
        Some(format!("the target has a base of volume {} already", volume.name))
    } else if volume.phase != Some(VolumePhase::Open) {
        Some(format!("nobody writes to volume {}", volume.name))
    } else if !is_whole {
        Some(format!("volume {} is not whole here yet", volume.name))
    } else if volume.direct || volume.store.is_some() {
        Some(format!("volume {} has no buffered file, which is what can be copied into", volume.name))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn round(mib: u64, took_ms: u64, left_mib: u64) -> Round {
        Round { bytes: mib * MIB, took_ms, bytes_left: left_mib * MIB }
    }

    #[test]
    fn rounds_go_on_while_each_leaves_less() {
        assert_eq!(why_enough(&[]), None);
        assert_eq!(why_enough(&[round(1000, 10_000, 200)]), None);
        assert_eq!(why_enough(&[round(1000, 10_000, 200), round(200, 2_000, 40)]), None);
        let little = [round(1000, 10_000, 200), round(200, 2_000, 40), round(40, 400, 1)];
        assert!(why_enough(&little).unwrap().contains("little"));
    }

    #[test]
    fn what_crosses_in_a_moment_is_little() {
        assert!(why_enough(&[round(1000, 1_000, 50)]).unwrap().contains("little"));
        assert_eq!(why_enough(&[round(1000, 1_000, 51)]), None);
        assert_eq!(why_enough(&[round(0, 0, 51)]), None, "a round of nothing tells no pace");
    }

    #[test]
    fn a_machine_that_writes_as_fast_as_it_is_copied_is_not_chased() {
        let chased = [round(1000, 10_000, 500), round(500, 5_000, 401)];
        assert!(why_enough(&chased).unwrap().contains("as fast as it is copied"));
        assert_eq!(why_enough(&[round(1000, 10_000, 500), round(500, 5_000, 400)]), None);
    }

    #[test]
    fn rounds_end_after_so_many_and_after_a_time() {
        let mut left = 1_000_000;
        let mut rounds = Vec::new();
        while why_enough(&rounds).is_none() {
            left = left * 3 / 4;
            rounds.push(round(left, left * 10, left));
        }
        assert!(rounds.len() == 2, "the second took longer than all may: {rounds:?}");
        let mut left = 1_000_000;
        let mut rounds = Vec::new();
        while why_enough(&rounds).is_none() {
            left = left * 3 / 4;
            rounds.push(round(left, 60_000, left));
        }
        assert_eq!(rounds.len(), ROUNDS_MAX);
    }
}
