//! How the worker's budget is divided among the volumes that hydrate. Pure.
//!
//! Equal shares; who cannot use an equal one because its own budget is smaller leaves the rest to the others.

use std::num::NonZeroU64;

/// The share of each, in bytes a second, in the order of `own`: what each may fetch at most by its own budget.
///
/// Invariants: nobody gets more than its own budget; everybody gets at least 1; all together get no more than `budget`, or
/// 1 each if that is more; and exactly `budget` if they can use it.
pub(super) fn divide(budget: NonZeroU64, own: &[Option<NonZeroU64>]) -> Vec<NonZeroU64> {
    let own: Vec<NonZeroU64> = own.iter().map(|own| own.unwrap_or(NonZeroU64::MAX)).collect();
    // The most modest first, so that what it leaves is there for those who come after it.
    let mut modest_first: Vec<usize> = (0..own.len()).collect();
    modest_first.sort_by_key(|&index| own[index]);
    let mut shares = vec![NonZeroU64::MIN; own.len()];
    let mut left = budget.get();
    for (index, still) in modest_first.into_iter().zip((1..=own.len() as u64).rev()) {
        let equal = NonZeroU64::new(left / still).unwrap_or(NonZeroU64::MIN);
        shares[index] = equal.min(own[index]);
        left = left.saturating_sub(shares[index].get());
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn bytes(n: u64) -> NonZeroU64 {
        NonZeroU64::new(n).unwrap()
    }

    fn rates() -> impl Strategy<Value = u64> {
        prop_oneof![1..20_u64, 1..=u64::MAX]
    }

    #[test]
    fn what_a_modest_one_leaves_goes_to_the_others() {
        let shares = |budget, own: &[u64]| {
            let own: Vec<_> = own.iter().map(|&own| NonZeroU64::new(own)).collect();
            divide(bytes(budget), &own).into_iter().map(NonZeroU64::get).collect::<Vec<_>>()
        };
        assert!(shares(100, &[]).is_empty());
        assert_eq!(shares(100, &[0]), [100]);
        assert_eq!(shares(100, &[0, 0]), [50, 50]);
        assert_eq!(shares(100, &[0, 10, 0]), [45, 10, 45]);
        assert_eq!(shares(100, &[60, 20]), [60, 20]);
        assert_eq!(shares(10, &[0, 0, 0]), [3, 3, 4]);
        assert_eq!(shares(1, &[0, 0]), [1, 1]);
    }

    proptest! {
        #[test]
        fn nobody_starves_and_nobody_gets_more_than_there_is(
            budget in rates(),
            own in vec(proptest::option::of(rates()), 0..20),
        ) {
            let own: Vec<_> = own.into_iter().map(|own| own.map(bytes)).collect();
            let shares = divide(bytes(budget), &own);
            prop_assert_eq!(shares.len(), own.len());
            let total = |rates: &mut dyn Iterator<Item = u64>| rates.map(u128::from).sum::<u128>();
            let given = total(&mut shares.iter().map(|share| share.get()));
            let wanted = total(&mut own.iter().map(|own| own.map_or(u64::MAX, NonZeroU64::get)));
            let least = own.len() as u128;
            prop_assert_eq!(given, wanted.min(u128::from(budget).max(least)));
            let most = shares.iter().max().copied();
            for (share, own) in shares.iter().zip(&own) {
                prop_assert!(own.is_none_or(|own| *share <= own));
                // Less than another only by what is left of a division, or because its own budget says so.
                let fair = most.is_none_or(|most| share.get() + 1 >= most.get());
                prop_assert!(fair || *own == Some(*share));
            }
        }
    }
}
