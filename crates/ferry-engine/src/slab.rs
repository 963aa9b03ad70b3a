//! The table of operations under way: an [`OpId`] is a place in it and the number of its use.
//!
//! Invariant: an id is never given twice, so a completion that comes twice is found, not mistaken for another.

use crate::operation::OpId;

/// A table whose keys are never reused (each place counts its uses up to 2^31).
#[derive(Debug)]
pub(crate) struct Slab<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Place<T> {
    uses: u32,
    value: Option<T>,
}

/// Uses of one place before it is retired; keeps the top bit of ids clear.
const USES_MAX: u32 = 1 << 31;

impl<T> Slab<T> {
    pub(crate) const fn new() -> Slab<T> {
        Slab { places: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn insert(&mut self, value: T) -> OpId {
        if let Some(index) = self.free.pop() {
            let place = &mut self.places[index as usize];
            place.value = Some(value);
            return id(index, place.uses);
        }
        let index = u32::try_from(self.places.len()).expect("fewer than 2^32 operations are under way");
        self.places.push(Place { uses: 0, value: Some(value) });
        id(index, 0)
    }

    pub(crate) fn get(&self, op: OpId) -> Option<&T> {
        let (index, uses) = parts(op);
        self.places.get(index).filter(|place| place.uses == uses)?.value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, op: OpId) -> Option<&mut T> {
        let (index, uses) = parts(op);
        self.places.get_mut(index).filter(|place| place.uses == uses)?.value.as_mut()
    }

    pub(crate) fn remove(&mut self, op: OpId) -> Option<T> {
        let (index, uses) = parts(op);
        let place = self.places.get_mut(index).filter(|place| place.uses == uses)?;
        let value = place.value.take()?;
        place.uses += 1;
        if place.uses < USES_MAX {
            self.free.push(u32::try_from(index).expect("it was made from a u32"));
        }
        Some(value)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.places.iter().filter_map(|place| place.value.as_ref())
    }

    pub(crate) fn len(&self) -> usize {
        self.places.iter().filter(|place| place.value.is_some()).count()
    }
}

fn id(index: u32, uses: u32) -> OpId {
    OpId(u64::from(uses) << 32 | u64::from(index))
}

fn parts(op: OpId) -> (usize, u32) {
    let index = op.0 & u64::from(u32::MAX);
    (usize::try_from(index).expect("32 bits fit"), u32::try_from(op.0 >> 32).expect("32 bits fit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_was_used_names_nothing() {
        let mut slab = Slab::new();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_ne!(first, second);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.get(second), Some(&'b'));
        assert_eq!(slab.len(), 1);
    }
}
