//! In which order moves go: waves, of which one begins when the one before it is over.
//!
//! Invariant: a wave holds no two machines of one group, no more moves from one worker than may go at once, and no more of them to
//! one target.

use ferry_api::{AskDrain, AskRebalance, GroupName, WorkerName};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

/// How many moves from one worker may go at once; none: any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AtOnce {
    /// In all.
    pub all: Option<NonZeroU32>,
    /// To one target.
    pub per_link: Option<NonZeroU32>,
}

impl From<&AskDrain> for AtOnce {
    fn from(ask: &AskDrain) -> Self {
        Self { all: ask.max_parallel, per_link: ask.max_parallel_per_link }
    }
}

impl From<&AskRebalance> for AtOnce {
    fn from(ask: &AskRebalance) -> Self {
        Self { all: ask.max_parallel, per_link: ask.max_parallel_per_link }
    }
}

/// A move, as far as its turn depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) from: &'a WorkerName,
    pub(crate) to: &'a WorkerName,
    pub(crate) group: Option<&'a GroupName>,
}

#[derive(Default)]
struct Wave<'a> {
    counts: BTreeMap<&'a WorkerName, u32>,
    links: BTreeMap<(&'a WorkerName, &'a WorkerName), u32>,
    groups: BTreeSet<&'a GroupName>,
}

impl<'a> Wave<'a> {
    fn is_full(&self, from: &WorkerName, at_once: AtOnce) -> bool {
        let count = self.counts.get(from).copied().unwrap_or(0);
        at_once.all.is_some_and(|most| count >= most.get())
    }

    fn admits(&self, turn: Turn<'a>, at_once: AtOnce) -> bool {
        let on_link = self.links.get(&(turn.from, turn.to)).copied().unwrap_or(0);
        !self.is_full(turn.from, at_once)
            && at_once.per_link.is_none_or(|most| on_link < most.get())
            && turn.group.is_none_or(|group| !self.groups.contains(group))
    }

    fn add(&mut self, turn: Turn<'a>) {
        *self.counts.entry(turn.from).or_default() += 1;
        *self.links.entry((turn.from, turn.to)).or_default() += 1;
        self.groups.extend(turn.group);
    }
}

/// The wave of each move, from 1: the first that has a place for it, in the order in which they are given.
pub(crate) fn waves<'a>(turns: impl IntoIterator<Item = Turn<'a>>, at_once: AtOnce) -> Vec<u32> {
    let mut waves: Vec<Wave<'a>> = Vec::new();
    // Of each worker: those before it are full of its moves and are not looked at again.
    let mut first_open: BTreeMap<&WorkerName, usize> = BTreeMap::new();
    let mut found = Vec::new();
    for turn in turns {
        let first_open = first_open.entry(turn.from).or_default();
        while waves.get(*first_open).is_some_and(|wave| wave.is_full(turn.from, at_once)) {
            *first_open += 1;
        }
        let open = waves[*first_open..].iter().position(|wave| wave.admits(turn, at_once));
        let at = open.map_or(waves.len(), |position| *first_open + position);
        if at == waves.len() {
            waves.push(Wave::default());
        }
        waves[at].add(turn);
        found.push(u32::try_from(at + 1).expect("there are fewer waves than that"));
    }
    found
}
