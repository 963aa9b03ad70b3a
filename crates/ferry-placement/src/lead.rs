//! Which machines may leave a worker now, beside those that are under way.
//!
//! Invariant: no more moves at once than was asked for, in all and to one target, but for those that lack only what cannot be read; and
//! never two machines of one group between their stop and their start.

use crate::drain::Candidate;
use crate::waves::AtOnce;
use ferry_api::{GroupName, WorkerName};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;

/// A move that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderWay {
    /// Where it goes.
    pub to: WorkerName,
    /// The machine's group.
    pub group: Option<GroupName>,
    /// How far it is.
    pub stage: Stage,
}

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The machine does not run on its target yet.
    Leaves,
    /// It does, and only its disks follow.
    Follows,
    /// It does, and its disks lack only what cannot be read, so that its move takes nothing from others.
    HeldUp,
}

/// What is under way, and what may be beside it.
#[derive(Clone, Debug)]
pub struct Lanes {
    all_max: usize,
    link_max: usize,
    count: usize,
    links: BTreeMap<WorkerName, usize>,
    groups: BTreeSet<GroupName>,
}

impl Lanes {
    /// What may be under way, when this is.
    #[must_use]
    pub fn new<'a>(at_once: AtOnce, under_way: impl IntoIterator<Item = &'a UnderWay>) -> Self {
        let most = |limit: Option<std::num::NonZeroU32>| {
            limit.map_or(usize::MAX, |limit| usize::try_from(limit.get()).unwrap_or(usize::MAX))
        };
        let mut lanes = Self {
            all_max: most(at_once.all),
            link_max: most(at_once.per_link),
            count: 0,
            links: BTreeMap::new(),
            groups: BTreeSet::new(),
        };
        under_way.into_iter().for_each(|one| lanes.add(one));
        lanes
    }

    /// One more is under way.
    pub fn add(&mut self, one: &UnderWay) {
        if one.stage != Stage::HeldUp {
            self.count += 1;
            *self.links.entry(one.to.clone()).or_default() += 1;
        }
        self.groups.extend(one.group.clone().filter(|_| one.stage == Stage::Leaves));
    }

    /// Whether a machine of this group may go now, if it finds a target.
    #[must_use]
    pub fn admits(&self, group: Option<&GroupName>) -> bool {
        self.count < self.all_max && group.is_none_or(|group| !self.groups.contains(group))
    }

    /// Targets to which no further move may go now.
    #[must_use]
    pub fn full(&self) -> BTreeSet<WorkerName> {
        let full = self.links.iter().filter(|(_, count)| **count >= self.link_max);
        full.map(|(to, _)| to.clone()).collect()
    }
}

/// What each target may fetch a second of what a drain may take of the network: the same for each move.
///
/// Invariant: all together no more than there is, or 1 each if that is more, and nobody nothing.
#[must_use]
pub fn allot<'a>(
    bandwidth_bytes_per_s: NonZeroU64,
    under_way: impl IntoIterator<Item = &'a UnderWay>,
) -> BTreeMap<WorkerName, NonZeroU64> {
    let mut moves: BTreeMap<WorkerName, u64> = BTreeMap::new();
    for one in under_way {
        *moves.entry(one.to.clone()).or_default() += 1;
    }
    let all: u64 = moves.values().sum();
    let part = |count: u64| {
        let part = u128::from(bandwidth_bytes_per_s.get()) * u128::from(count) / u128::from(all);
        NonZeroU64::new(u64::try_from(part).unwrap_or(u64::MAX)).unwrap_or(NonZeroU64::MIN)
    };
    moves.into_iter().map(|(to, count)| (to, part(count))).collect()
}

/// The order in which machines of a drain choose: the largest first, since they find a place the least easily.
pub fn in_order(candidates: &mut [&Candidate]) {
    candidates.sort_by_key(|candidate| {
        let wants = &candidate.wants;
        (Reverse((wants.disk_bytes(), wants.spec.demand().memory_bytes)), wants.name.clone(), wants.machine)
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    const ANY: AtOnce = AtOnce { all: None, per_link: None };

    fn going(to: &str, group: Option<&str>, stage: Stage) -> UnderWay {
        UnderWay { to: to.parse().unwrap(), group: group.map(|name| name.parse().unwrap()), stage }
    }

    #[test]
    fn a_group_waits_for_the_one_that_is_down_and_not_for_one_whose_disks_follow() {
        let pg: GroupName = "pg".parse().unwrap();
        let down = [going("w2", Some("pg"), Stage::Leaves)];
        assert!(!Lanes::new(ANY, &down).admits(Some(&pg)));
        let arrived = [going("w2", Some("pg"), Stage::Follows), going("w2", Some("web"), Stage::Leaves)];
        assert!(Lanes::new(ANY, &arrived).admits(Some(&pg)));
        assert!(Lanes::new(ANY, &down).admits(None));
    }

    #[test]
    fn each_move_has_the_same_part_of_the_network_and_all_together_no_more_than_there_is() {
        let moves = [
            going("w2", None, Stage::Follows),
            going("w2", None, Stage::Leaves),
            going("w3", None, Stage::Leaves),
        ];
        let parts = |bandwidth: u64| {
            let parts = allot(NonZeroU64::new(bandwidth).unwrap(), &moves);
            parts.into_values().map(NonZeroU64::get).collect::<Vec<_>>()
        };
        assert_eq!(parts(90), [60, 30]);
        assert_eq!(parts(100), [66, 33]);
        assert_eq!(parts(u64::MAX), [u64::MAX / 3 * 2, u64::MAX / 3]);
        assert_eq!(parts(1), [1, 1]);
        assert!(allot(NonZeroU64::MIN, &[]).is_empty());
    }

    #[test]
    fn a_move_that_a_sick_source_holds_up_keeps_no_other_from_going() {
        let at_once = AtOnce { all: NonZeroU32::new(1), per_link: NonZeroU32::new(1) };
        let lanes = |stage| Lanes::new(at_once, &[going("w2", None, stage)]);
        assert!(lanes(Stage::HeldUp).admits(None) && lanes(Stage::HeldUp).full().is_empty());
        assert!(!lanes(Stage::Follows).admits(None) && !lanes(Stage::Leaves).admits(None));
    }

    #[test]
    fn no_more_go_at_once_than_was_asked_for_in_all_and_to_one_target() {
        let at_once = AtOnce { all: NonZeroU32::new(3), per_link: NonZeroU32::new(2) };
        let mut lanes =
            Lanes::new(at_once, &[going("w2", None, Stage::Follows), going("w3", None, Stage::Leaves)]);
        assert!(lanes.admits(None) && lanes.full().is_empty());
        lanes.add(&going("w2", None, Stage::Leaves));
        assert!(!lanes.admits(None));
        assert_eq!(lanes.full(), BTreeSet::from(["w2".parse().unwrap()]));
    }
}
