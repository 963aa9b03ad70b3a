//! Marks: moments since which it is known what the guest may have changed.
//!
//! Invariants: ids rise, also over marks that were forgotten, so that an id never means two moments; an older mark's set
//! holds that of every newer one, so a write that is no news to the newest mark is none to any. An unseal forgets all but
//! that of the birth: a sealed volume that keeps a mark has been sealed ever since somebody asked it what changed after it.

use crate::blockmap::BlockMap;
use crate::geometry::{Blocks, Geometry};
use crate::limits::MARKS_MAX;

/// A moment, by a number that rises.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MarkId(pub u64);

impl MarkId {
    /// The mark of a copy that was set when it was made, before anybody could write to it: what has changed since is all in
    /// which the copy may differ from what it was made from. Only [`crate::MapState::born`] sets it, and no other has its id.
    pub const BIRTH: MarkId = MarkId(1);
}

impl std::fmt::Display for MarkId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The marks of one volume, and what may have changed since each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Marks {
    geometry: Geometry,
    /// The highest id that was ever given.
    last: u64,
    /// Oldest first.
    live: Vec<(MarkId, BlockMap)>,
}

impl Marks {
    /// No mark was ever set.
    #[must_use]
    pub const fn none(geometry: Geometry) -> Marks {
        Marks { geometry, last: 0, live: Vec::new() }
    }

    /// The volume's geometry.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Whether nothing is kept track of.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Whether there can be no more of them.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.live.len() >= MARKS_MAX
    }

    /// The id of the next mark.
    #[must_use]
    pub const fn next_id(&self) -> MarkId {
        let last = if self.last < MarkId::BIRTH.0 { MarkId::BIRTH.0 } else { self.last };
        MarkId(last + 1)
    }

    /// The highest id that was ever given; zero: none was.
    #[must_use]
    pub const fn last_id(&self) -> MarkId {
        MarkId(self.last)
    }

    /// Each mark and what may have changed since, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (MarkId, &BlockMap)> + '_ {
        self.live.iter().map(|(mark, changed)| (*mark, changed))
    }

    /// What may have changed since a mark, if it is kept.
    #[must_use]
    pub fn since(&self, mark: MarkId) -> Option<&BlockMap> {
        self.iter().find(|(id, _)| *id == mark).map(|(_, changed)| changed)
    }

    /// What may have changed since the newest mark.
    #[must_use]
    pub fn since_newest(&self) -> Option<&BlockMap> {
        self.live.last().map(|(_, changed)| changed)
    }

    /// Sets a mark; tells whether it can be: there is room, and no higher id was given.
    pub fn set(&mut self, mark: MarkId) -> bool {
        let is_possible = mark.0 > self.last && mark.0 < u64::MAX && !self.is_full();
        if is_possible {
            self.last = mark.0;
            self.live.push((mark, BlockMap::new(self.geometry)));
        }
        is_possible
    }

    /// Forgets a mark; nothing happens if it is not kept. Its id is never given again.
    pub fn forget(&mut self, mark: MarkId) {
        self.last = self.last.max(mark.0.min(u64::MAX - 1));
        self.live.retain(|(id, _)| *id != mark);
    }

    /// Those that an unseal forgets, oldest first.
    pub fn ending_with_a_seal(&self) -> impl Iterator<Item = MarkId> + '_ {
        self.iter().map(|(mark, _)| mark).filter(|mark| *mark != MarkId::BIRTH)
    }

    /// These blocks may change from now on.
    pub fn change(&mut self, blocks: Blocks) {
        for (_, changed) in self.live.iter_mut().rev() {
            if changed.covers(blocks) {
                return;
            }
            changed.insert(blocks);
        }
    }

    /// The volume has become larger. Its new blocks have not changed.
    pub fn grow(&mut self, geometry: Geometry) {
        self.geometry = geometry;
        self.live.iter_mut().for_each(|(_, changed)| changed.grow(geometry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks() -> Marks {
        Marks::none(Geometry::new(64 << 20, 1 << 20).unwrap())
    }

    #[test]
    fn what_changed_between_two_marks_changed_since_the_older_only() {
        let mut marks = marks();
        assert!(marks.set(MarkId(1)));
        marks.change(Blocks::one(5));
        assert!(marks.set(MarkId(2)));
        marks.change(Blocks::one(7));
        let since = |mark| (0..10).filter(|&b| marks.since(mark).unwrap().contains(b)).collect::<Vec<_>>();
        assert_eq!(since(MarkId(1)), [5, 7]);
        assert_eq!(since(MarkId(2)), [7]);
    }

    #[test]
    fn an_id_is_never_given_twice() {
        let mut marks = marks();
        assert!(marks.set(marks.next_id()));
        marks.forget(MarkId(2));
        assert_eq!(marks.next_id(), MarkId(3));
        assert!(!marks.set(MarkId(2)), "it meant another moment");
    }

    #[test]
    fn there_are_only_so_many() {
        let mut marks = marks();
        assert!((0..MARKS_MAX).all(|_| marks.set(marks.next_id())));
        assert!(!marks.set(marks.next_id()));
        marks.forget(MarkId(3));
        assert!(marks.set(marks.next_id()));
    }
}
