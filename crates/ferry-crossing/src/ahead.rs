//! Copying ahead of a hand-over in rounds, each of what the machine wrote during the one before: whether another one is worth
//! it.
//!
//! The last of it crosses while the machine is down, or after; so the rounds go on as long as they make that less, and end
//! when it is little, when the machine writes as fast as it is copied, or after a time. What a machine writes while it waits for the
//! lease of its group, or while its memory crosses, is caught up with before it stops.

use crate::line::{Ahead, KeptUp, Round};
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

/// A round beside memory that takes so long, in milliseconds, and leaves no less than it copied is one of a chase.
pub const CHASE_MS: u64 = 1_000;

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

/// Whether so much was written since the last round that it is worth to catch up with it before the machine stops: not if the rounds
/// have left as much because they could not leave less.
#[must_use]
pub fn is_behind(ahead: &Ahead, bytes_changed: u64) -> bool {
    let left = ahead.rounds.last().map_or(u64::MAX, |last| last.bytes_left);
    !ahead.marks.is_empty() && bytes_changed > BYTES_ENOUGH && bytes_changed / 2 > left
}

/// What is done for the disks of a machine at a look at its memory, which crosses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beside {
    /// A round.
    Round,
    /// Nothing now: there is little to copy, or the machine is paused before a round would end.
    Wait,
    /// There is no further round; why, in one sentence.
    Enough(String),
}

/// What is done for the disks while the memory crosses: as long as that takes they are kept as near as rounds can keep them, so that
/// a round that leaves no less than the one before is one that holds the level, unless it is long.
///
/// `bytes_changed`: since the last round; `paused_in_ms`: when the machine will be paused as far as is known, in milliseconds.
#[must_use]
pub fn beside_memory(
    ahead: &Ahead,
    kept_up: &KeptUp,
    bytes_changed: u64,
    paused_in_ms: Option<u64>,
) -> Beside {
    let last = kept_up.last.as_ref().or(ahead.rounds.last());
    let is_chase = |last: &Round| last.took_ms >= CHASE_MS && last.bytes_left >= last.bytes;
    let takes_ms = round_ms(ahead, kept_up, bytes_changed);
    if last.is_some_and(is_chase) {
        Beside::Enough(format!(
            "the machine writes as fast as its disks are copied: {bytes_changed} bytes are left"
        ))
    } else if kept_up.took_ms >= LATER_MS_MAX {
        let seconds = kept_up.took_ms / 1_000;
        Beside::Enough(format!(
            "the rounds beside its memory took {seconds} s; {bytes_changed} bytes are left"
        ))
    } else if bytes_changed <= BYTES_ENOUGH || paused_in_ms.is_some_and(|paused_ms| paused_ms < takes_ms) {
        Beside::Wait
    } else {
        Beside::Round
    }
}

/// How long so many bytes take, at the pace of all rounds so far, in milliseconds.
fn round_ms(ahead: &Ahead, kept_up: &KeptUp, bytes: u64) -> u64 {
    let of = |part: fn(&Round) -> u64| ahead.rounds.iter().map(part).sum::<u64>();
    let copied = of(|round| round.bytes).saturating_add(kept_up.bytes).max(1);
    let took_ms = of(|round| round.took_ms).saturating_add(kept_up.took_ms);
    let takes_ms = u128::from(bytes) * u128::from(took_ms) / u128::from(copied);
    u64::try_from(takes_ms).unwrap_or(u64::MAX).max(MS_ENOUGH)
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

    fn ahead(rounds: &[Round]) -> Ahead {
        Ahead { rounds: rounds.to_vec(), marks: vec![7], ended: String::new() }
    }

    /// After rounds that copied 1,000 MiB in a second, and then these beside the memory.
    fn beside(rounds: &[Round], changed_mib: u64, paused_in_ms: Option<u64>) -> Beside {
        let mut kept_up = KeptUp { marks: vec![7], ..KeptUp::default() };
        for round in rounds {
            kept_up.add(*round, vec![7]);
        }
        beside_memory(&ahead(&[round(1000, 1_000, 1)]), &kept_up, changed_mib * MIB, paused_in_ms)
    }

    #[test]
    fn disks_are_kept_up_with_memory_as_long_as_a_round_ends_before_the_machine_is_paused() {
        assert_eq!(beside(&[], 100, None), Beside::Round, "nobody knows yet when it is paused");
        assert_eq!(beside(&[], 100, Some(100)), Beside::Round);
        assert_eq!(beside(&[], 100, Some(99)), Beside::Wait);
        assert_eq!(beside(&[], 2, Some(MS_ENOUGH)), Beside::Round);
        assert_eq!(beside(&[], 2, Some(MS_ENOUGH - 1)), Beside::Wait, "also a short one takes that long");
        assert_eq!(beside(&[], 1, None), Beside::Wait, "little is as good as nothing");
    }

    #[test]
    fn a_round_beside_memory_that_leaves_as_much_holds_the_level_but_a_long_one_is_a_chase() {
        assert_eq!(beside(&[round(20, 60, 20)], 20, None), Beside::Round);
        assert_eq!(beside(&[round(900, CHASE_MS, 899)], 899, None), Beside::Round, "it gets less");
        let Beside::Enough(why) = beside(&[round(900, CHASE_MS, 900)], 950, None) else { panic!("no end") };
        assert!(why.contains("as fast as its disks are copied"), "{why}");
        let chased = ahead(&[round(1000, 1_000, 1_000)]);
        let kept_up = KeptUp { marks: vec![7], ..KeptUp::default() };
        assert!(matches!(beside_memory(&chased, &kept_up, 1_000 * MIB, None), Beside::Enough(_)));
    }

    #[test]
    fn rounds_beside_memory_end_after_a_time() {
        let long = [round(100, LATER_MS_MAX - 1, 2), round(2, 1, 1)];
        assert_eq!(beside(&long[..1], 2, None), Beside::Round);
        let Beside::Enough(why) = beside(&long, 2, None) else { panic!("no end") };
        assert!(why.contains("took 900 s"), "{why}");
    }

    #[test]
    fn what_was_written_since_the_last_round_is_caught_up_with_unless_the_rounds_left_as_much() {
        let rounds = ahead(&[round(1000, 1_000, 10)]);
        assert!(is_behind(&rounds, 21 * MIB + 2));
        assert!(!is_behind(&rounds, 20 * MIB), "it was chased");
        assert!(!is_behind(&ahead(&[round(1000, 1_000, 0)]), MIB), "that is little");
        let cold = Ahead { marks: Vec::new(), ..rounds };
        assert!(!is_behind(&cold, 100 * MIB), "nothing is held");
    }
}
