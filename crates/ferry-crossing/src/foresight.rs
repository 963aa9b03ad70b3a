//! How long a machine will be down while it moves, by how long machines were.

use ferry_api::{ADDED_MS_MAX, Expected};

/// What was measured of a move that went through, in milliseconds; none where a machine did not run, or an entry is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// It was of the very machine that is to move.
    pub is_own: bool,
    /// `Stop`.
    pub stop_ms: Option<u64>,
    /// `Seal`.
    pub seal_ms: Option<u64>,
    /// `Activate`.
    pub hand_over_ms: Option<u64>,
    /// `Boot`.
    pub start_ms: Option<u64>,
}

/// What is to be expected by these, and by how long the machine's last start where it is took, if that is known and it will start. How a
/// machine stops and starts is its own; seal and hand-over are much the same for all.
#[must_use]
pub fn expected(past: &[Past], last_start_ms: Option<u64>) -> Expected {
    let of = |part: fn(&Past) -> Option<u64>, is_own: bool| {
        median(past.iter().filter(|past| past.is_own || !is_own).filter_map(part).collect())
    };
    let like = |part: fn(&Past) -> Option<u64>| of(part, true).or_else(|| of(part, false));
    let expected = Expected {
        stop_ms: of(|past| past.stop_ms, true),
        seal_ms: like(|past| past.seal_ms),
        hand_over_ms: like(|past| past.hand_over_ms),
        start_ms: of(|past| past.start_ms, true).or(last_start_ms),
        promised_ms: None,
        own_moves: past.iter().filter(|past| past.is_own).count() as u64,
    };
    let unmeasured = expected.start_ms.filter(|_| expected.down_ms().is_none());
    Expected { promised_ms: unmeasured.map(|start_ms| start_ms.saturating_add(ADDED_MS_MAX)), ..expected }
}

/// The middle one, the upper of two; none of none.
fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past(is_own: bool, ms: u64) -> Past {
        let ms = Some(ms);
        Past { is_own, stop_ms: ms, seal_ms: ms, hand_over_ms: ms, start_ms: ms }
    }

    #[test]
    fn a_machine_that_never_moved_is_expected_to_be_sealed_as_others_were_and_to_start_as_it_did_here() {
        let others = [past(false, 5), past(false, 7), past(false, 90)];
        let unseen = expected(&others, None);
        assert_eq!((unseen.seal_ms, unseen.hand_over_ms), (Some(7), Some(7)));
        assert_eq!((unseen.stop_ms, unseen.start_ms, unseen.down_ms()), (None, None, None));
        assert_eq!(unseen.promised_ms, None, "nobody has seen it start");
        let seen = expected(&others, Some(300));
        assert_eq!((seen.start_ms, seen.down_ms(), seen.promised_ms), (Some(300), Some(314), None));
    }

    #[test]
    fn where_nothing_ever_moved_a_machine_is_expected_to_be_down_for_what_is_promised_at_most() {
        let first = expected(&[], Some(300));
        assert_eq!((first.down_ms(), first.promised_ms, first.own_moves), (None, Some(400), 0));
    }

    #[test]
    fn a_machine_that_moved_before_is_expected_to_do_as_it_did() {
        let expected =
            expected(&[past(false, 1_000), past(true, 10), past(true, 30), past(true, 20)], Some(5));
        assert_eq!((expected.stop_ms, expected.down_ms(), expected.own_moves), (Some(20), Some(60), 3));
    }
}
