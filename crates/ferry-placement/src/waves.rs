//! In which order the moves of a drain go: waves, of which one begins when the one before it is over.
//!
//! Invariant: a wave holds no two machines of one group, no more moves than may go at once, and no more to one target.

use ferry_api::{GroupName, WorkerName};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

/// How many moves may go at once; none: any number.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AtOnce {
    pub(crate) all: Option<NonZeroU32>,
    pub(crate) per_link: Option<NonZeroU32>,
}

/// A move, as far as its turn depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) to: &'a WorkerName,
    pub(crate) group: Option<&'a GroupName>,
}

#[derive(Default)]
struct Wave<'a> {
    count: u32,
    links: BTreeMap<&'a WorkerName, u32>,
    groups: BTreeSet<&'a GroupName>,
}

impl<'a> Wave<'a> {
    fn is_full(&self, at_once: AtOnce) -> bool {
        at_once.all.is_some_and(|most| self.count >= most.get())
    }

    fn admits(&self, turn: Turn<'a>, at_once: AtOnce) -> bool {
        let on_link = self.links.get(turn.to).copied().unwrap_or(0);
        !self.is_full(at_once)
            && at_once.per_link.is_none_or(|most| on_link < most.get())
            && turn.group.is_none_or(|group| !self.groups.contains(group))
    }

    fn add(&mut self, turn: Turn<'a>) {
        self.count += 1;
        *self.links.entry(turn.to).or_default() += 1;
        self.groups.extend(turn.group);
    }
}

/// The wave of each move, from 1: the first that has a place for it, in the order in which they are given.
pub(crate) fn waves<'a>(turns: impl IntoIterator<Item = Turn<'a>>, at_once: AtOnce) -> Vec<u32> {
    let mut waves: Vec<Wave<'a>> = Vec::new();
    // Those before it are full and are not looked at again.
    let mut first_open = 0;
    let mut found = Vec::new();
    for turn in turns {
        while waves.get(first_open).is_some_and(|wave| wave.is_full(at_once)) {
            first_open += 1;
        }
        let open = waves[first_open..].iter().position(|wave| wave.admits(turn, at_once));
        let at = open.map_or(waves.len(), |position| first_open + position);
        if at == waves.len() {
            waves.push(Wave::default());
        }
        waves[at].add(turn);
        found.push(u32::try_from(at + 1).expect("there are fewer waves than that"));
    }
    found
}
