//! How the worker's budget is divided among the volumes that hydrate. Pure.
//!
//! Equal shares; who cannot use an equal one, because its own budget is smaller or its source is slow, leaves the rest to the others.

use ferry_api::WorkerName;
use std::collections::BTreeMap;
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

/// What one whose source is slow has at least of what others could use, too, in bytes a second: enough for it to show that its source is
/// well again.
const SLOW_SHARE_MIN: NonZeroU64 = NonZeroU64::new(1 << 20).expect("it is not 0");

/// What one whose source is slow can use of a budget, in bytes a second, given what came lately: it comes back as its source does.
pub(super) fn can_use(lately_bytes_per_s: u64) -> NonZeroU64 {
    let twice = NonZeroU64::new(lately_bytes_per_s.saturating_mul(2));
    twice.map_or(SLOW_SHARE_MIN, |twice| twice.max(SLOW_SHARE_MIN))
}

/// What is known of one that hydrates.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim<'a> {
    /// What it may fetch at most by its own budget.
    pub(super) own: Option<NonZeroU64>,
    /// What it can use, if that is known to be little: it has more only if nobody else can use it either.
    pub(super) uses: Option<NonZeroU64>,
    /// The worker that it reads from.
    pub(super) from: Option<&'a WorkerName>,
}

/// As [`divide`], in two rounds: what is left by those who can use little of it goes to them only if nobody else can use it.
fn divide_by_use(budget: NonZeroU64, claims: &[(Option<NonZeroU64>, Option<NonZeroU64>)]) -> Vec<NonZeroU64> {
    let most: Vec<_> = claims.iter().map(|(own, uses)| [*own, *uses].into_iter().flatten().min()).collect();
    let mut shares = divide(budget, &most);
    let given = shares.iter().fold(0_u64, |given, share| given.saturating_add(share.get()));
    let left = budget.get().saturating_sub(given);
    // What is left to each until it has its own budget.
    let more = |own: Option<NonZeroU64>, share: NonZeroU64| {
        own.map_or(Some(NonZeroU64::MAX), |own| NonZeroU64::new(own.get().saturating_sub(share.get())))
    };
    let (takers, mores): (Vec<usize>, Vec<_>) =
        (0..claims.len()).filter_map(|at| Some((at, Some(more(claims[at].0, shares[at])?)))).unzip();
    if let Some(left) = NonZeroU64::new(left).filter(|left| left.get() >= takers.len() as u64) {
        for (at, more) in takers.into_iter().zip(divide(left, &mores)) {
            shares[at] = shares[at].saturating_add(more.get());
        }
    }
    shares
}

/// The share of each when all together have `budget`, if there is one, and those that read from one worker what `pairs` says of
/// that. None: as much as goes.
///
/// Invariant: as [`divide`], within each pair and of all.
pub(super) fn share_out(
    budget: Option<NonZeroU64>,
    pairs: &BTreeMap<WorkerName, NonZeroU64>,
    claims: &[Claim<'_>],
) -> Vec<Option<NonZeroU64>> {
    let mut shares: Vec<Option<NonZeroU64>> = vec![None; claims.len()];
    for (from, most) in pairs {
        let of_it: Vec<usize> = (0..claims.len()).filter(|&at| claims[at].from == Some(from)).collect();
        let own: Vec<_> = of_it.iter().map(|&at| (claims[at].own, claims[at].uses)).collect();
        for (at, share) in of_it.into_iter().zip(divide_by_use(*most, &own)) {
            shares[at] = Some(share);
        }
    }
    let Some(budget) = budget else { return shares };
    // What a pair does not let one have goes to the others.
    let most: Vec<_> =
        shares.iter().zip(claims).map(|(share, claim)| (share.or(claim.own), claim.uses)).collect();
    divide_by_use(budget, &most).into_iter().map(Some).collect()
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

    #[test]
    fn what_one_with_a_slow_source_does_not_use_goes_to_the_others_until_it_is_well_again() {
        const MIB: u64 = 1 << 20;
        let shares = |claims: &[(Option<u64>, Option<u64>)]| {
            let of = |(own, lately): &(Option<u64>, Option<u64>)| (own.map(bytes), lately.map(can_use));
            let claims: Vec<_> = claims.iter().map(of).collect();
            let shares = divide_by_use(bytes(100 * MIB), &claims);
            shares.into_iter().map(|share| share.get() / MIB).collect::<Vec<_>>()
        };
        let healthy = (None, None);
        assert_eq!(shares(&[healthy, healthy]), [50, 50]);
        assert_eq!(shares(&[(None, Some(0)), healthy]), [1, 99], "it hangs");
        assert_eq!(shares(&[(None, Some(10 * MIB)), healthy]), [20, 80], "it may show that it can do more");
        assert_eq!(shares(&[(None, Some(25 * MIB)), healthy]), [50, 50]);
        assert_eq!(shares(&[(None, Some(u64::MAX)), healthy]), [50, 50]);
        assert_eq!(shares(&[(None, Some(0)), (Some(9 * MIB), None)]), [91, 9], "nobody else can use it");
        assert_eq!(shares(&[(None, Some(0)), (None, Some(0))]), [50, 50], "nor here");
        assert_eq!(
            shares(&[(Some(7 * MIB), Some(0)), (None, Some(0))]),
            [7, 93],
            "its own budget holds all the same"
        );
    }

    #[test]
    fn what_a_pair_does_not_let_one_have_goes_to_those_of_other_pairs() {
        let [w1, w2]: [WorkerName; 2] = ["w1", "w2"].map(|name| name.parse().unwrap());
        let claims = [&w1, &w1, &w2].map(|from| Claim { own: None, uses: None, from: Some(from) });
        let shares = |budget: u64, pairs: &[(&WorkerName, u64)]| {
            let pairs = pairs.iter().map(|(from, most)| ((*from).clone(), bytes(*most))).collect();
            let shares = share_out(NonZeroU64::new(budget), &pairs, &claims);
            shares.into_iter().map(|share| share.map_or(0, NonZeroU64::get)).collect::<Vec<_>>()
        };
        assert_eq!(shares(0, &[]), [0, 0, 0], "as much as goes");
        assert_eq!(shares(0, &[(&w1, 40)]), [20, 20, 0]);
        assert_eq!(shares(90, &[(&w1, 40)]), [20, 20, 50]);
        assert_eq!(shares(30, &[(&w1, 40)]), [10, 10, 10]);
        assert_eq!(shares(90, &[(&w1, 40), (&w2, 5)]), [20, 20, 5]);
    }

    proptest! {
        #[test]
        fn no_pair_takes_more_than_its_own_and_nobody_starves(
            budget in proptest::option::of(rates()),
            most in vec(rates(), 3),
            claims in vec((proptest::option::of(rates()), 0..4_usize), 0..20),
        ) {
            let workers: Vec<WorkerName> = (0..4).map(|n| format!("w{n}").parse().unwrap()).collect();
            let pairs: BTreeMap<_, _> = workers.iter().cloned().zip(most.iter().copied().map(bytes)).collect();
            let claims: Vec<_> =
                claims.iter().map(|(own, from)| Claim { own: own.map(bytes), uses: None, from: Some(&workers[*from]) }).collect();
            let shares = share_out(budget.map(bytes), &pairs, &claims);
            prop_assert_eq!(shares.len(), claims.len());
            for (from, most) in &pairs {
                let of_it: Vec<_> =
                    shares.iter().zip(&claims).filter(|(_, claim)| claim.from == Some(from)).collect();
                let taken: u128 = of_it.iter().map(|(share, _)| u128::from(share.unwrap().get())).sum();
                prop_assert!(taken <= u128::from(most.get()).max(of_it.len() as u128));
                // Of those that its own budget does not hold back nobody has less than another by more than what is left of a division.
                let free = of_it.iter().filter(|(share, claim)| claim.own != **share);
                let free: Vec<u64> = free.map(|(share, _)| share.unwrap().get()).collect();
                let (least, best) = (free.iter().min(), free.iter().max());
                prop_assert!(budget.is_some() || least.zip(best).is_none_or(|(least, best)| best - least <= 1));
            }
            if let Some(budget) = budget {
                let taken: u128 = shares.iter().map(|share| u128::from(share.unwrap().get())).sum();
                prop_assert!(taken <= u128::from(budget).max(claims.len() as u128));
            }
        }

        #[test]
        fn whoever_can_use_little_leaves_nothing_unused_and_does_not_starve(
            budget in rates(),
            claims in vec((proptest::option::of(rates()), proptest::option::of(rates())), 0..20),
        ) {
            let claims: Vec<_> = claims.into_iter().map(|(own, uses)| (own.map(bytes), uses.map(bytes))).collect();
            let shares = divide_by_use(bytes(budget), &claims);
            let given: u128 = shares.iter().map(|share| u128::from(share.get())).sum();
            let wanted: u128 = claims.iter().map(|(own, _)| u128::from(own.map_or(u64::MAX, NonZeroU64::get))).sum();
            let least = claims.len() as u128;
            prop_assert!(given <= u128::from(budget).max(least));
            // What a division leaves is less than one byte for each.
            prop_assert!(given + least >= wanted.min(u128::from(budget)));
            for (share, (own, _)) in shares.iter().zip(&claims) {
                prop_assert!(own.is_none_or(|own| *share <= own));
            }
        }

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
