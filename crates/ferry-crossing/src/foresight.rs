//! How long a machine will be down while it moves, by how long machines were.

use ferry_api::Expected;

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

/// What is to be expected by these. How a machine stops and starts is its own; seal and hand-over are much the same for all.
#[must_use]
pub fn expected(past: &[Past]) -> Expected {
    let of = |part: fn(&Past) -> Option<u64>, is_own: bool| {
        median(past.iter().filter(|past| past.is_own || !is_own).filter_map(part).collect())
    };
    let like = |part: fn(&Past) -> Option<u64>| of(part, true).or_else(|| of(part, false));
    Expected {
        stop_ms: of(|past| past.stop_ms, true),
        seal_ms: like(|past| past.seal_ms),
        hand_over_ms: like(|past| past.hand_over_ms),
        start_ms: of(|past| past.start_ms, true),
        own_moves: past.iter().filter(|past| past.is_own).count() as u64,
    }
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
    fn a_machine_that_never_moved_is_expected_to_be_sealed_as_others_were_and_to_start_nobody_knows_when() {
        let expected = expected(&[past(false, 5), past(false, 7), past(false, 90)]);
        assert_eq!((expected.seal_ms, expected.hand_over_ms), (Some(7), Some(7)));
        assert_eq!((expected.stop_ms, expected.start_ms, expected.down_ms()), (None, None, None));
    }

    #[test]
    fn a_machine_that_moved_before_is_expected_to_do_as_it_did() {
        let expected = expected(&[past(false, 1_000), past(true, 10), past(true, 30), past(true, 20)]);
        assert_eq!((expected.stop_ms, expected.down_ms(), expected.own_moves), (Some(20), Some(60), 3));
    }
}
