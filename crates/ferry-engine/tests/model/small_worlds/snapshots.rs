//! A snapshot of a volume of which nothing may have arrived yet, in every small world.

use ferry_engine::{ByteRange, Keeping, Residence};

use super::{CELLS, CUT, Deed, FAILURE, SNAPSHOT, SOURCE, Small, bytes, search_all, span};

/// The snapshot, from when it was taken until it ends.
pub struct Taken {
    pub content: Vec<u8>,
    pub side: Vec<u8>,
}

impl Small<'_> {
    pub fn snapshot_taken(&mut self) {
        let residences = (0..CELLS).map(|at| self.engine.truth(bytes(at as u64, 1)).next().unwrap().1);
        let content = residences.enumerate().map(|(at, residence)| match residence {
            Residence::Local => *self.cells[at].last().unwrap(),
            Residence::Remote => SOURCE[at],
        });
        self.taken = Some(Taken { content: content.collect(), side: vec![0; CELLS] });
    }

    /// What is written to a side file that is gone is lost with it.
    pub fn keep(&mut self, range: ByteRange, content: &[u8], ok: bool) {
        let Some(taken) = &mut self.taken else { return };
        assert_eq!(content, &taken.content[span(range)], "what is kept is what was there");
        if ok {
            taken.side[span(range)].copy_from_slice(content);
        }
    }

    /// All that the snapshot was is in the store or in the side file.
    pub fn check_snapshot(&self) {
        let Some(taken) = &self.taken else { return };
        for (range, keeping) in self.engine.snapshot(SNAPSHOT, self.geometry.all_bytes()).unwrap() {
            let found = match keeping {
                Keeping::Kept => taken.side[span(range)].to_vec(),
                Keeping::Shared => self.stored(range),
                Keeping::Remote => panic!("{range:?} never arrived"),
            };
            assert_eq!(found, taken.content[span(range)], "{range:?} is {keeping:?}");
        }
    }
}

/// A snapshot of what is still remote, and what may meet it.
const FORKS: [&[Deed]; 4] = [
    &[Deed::Snapshot, Deed::Write(0, 2)],
    &[Deed::Snapshot, Deed::Write(3, 2)],
    &[Deed::Write(1, 1), Deed::Snapshot],
    &[Deed::Snapshot, Deed::Trim(0, 4), Deed::ReadSnapshot(0, 3)],
];

#[test]
fn a_snapshot_at_any_point_of_any_order_holds_the_volume_as_it_was_or_is_lost_with_a_failure() {
    search_all(&FORKS, FAILURE);
}

#[test]
fn a_snapshot_loses_nothing_to_a_connection_that_breaks() {
    search_all(&FORKS[..3], CUT);
}
