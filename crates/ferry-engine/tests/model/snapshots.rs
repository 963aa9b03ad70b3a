//! Snapshots in the model: whatever a reader gets is what the volume was when the snapshot was taken: of the store where it
//! was local, of the source where it was not.

use std::collections::BTreeMap;

use ferry_engine::limits::KEEP_BYTES;
use ferry_engine::{
    ByteRange, Command, Errno, Event, Limits, Notice, OpId, Operation, RequestId, RequestKind, Residence,
    SnapshotId,
};
use proptest::prelude::*;

use crate::oracle::{GARBAGE, span};
use crate::world::{Dice, GOOD_LUCK, Luck, Pending, World};
use crate::{Case, guest_act, some_range};

#[derive(Default)]
pub struct Snapshots {
    /// Every one that was taken, and whether it is live; a name may come back.
    taken: Vec<Taken>,
    /// For which of them an operation, or a read, is.
    operations: BTreeMap<OpId, usize>,
    reads: BTreeMap<RequestId, Option<usize>>,
}

struct Taken {
    id: SnapshotId,
    live: bool,
    content: Vec<u8>,
    side: Vec<u8>,
}

impl Snapshots {
    fn live(&self, id: SnapshotId) -> Option<usize> {
        self.taken.iter().position(|taken| taken.live && taken.id == id)
    }

    pub fn read_begins(&mut self, request: RequestId, id: SnapshotId) {
        self.reads.insert(request, self.live(id));
    }

    /// A shell opens the side file when it gets the operation.
    pub fn operation_begins(&mut self, op: OpId, id: SnapshotId) {
        self.operations.insert(op, self.live(id).expect("the engine names snapshots that there are"));
    }

    pub fn side(&self, op: OpId, range: ByteRange) -> Vec<u8> {
        self.taken[self.operations[&op]].side[span(range)].to_vec()
    }

    /// `source_may_fail` is why a read may have ended without its bytes.
    pub fn read_done(
        &mut self,
        request: RequestId,
        range: ByteRange,
        bytes: Result<&Vec<u8>, Errno>,
        source_may_fail: bool,
    ) {
        let Some(taken) = self.reads.remove(&request).unwrap().map(|at| &self.taken[at]) else {
            return assert!(bytes.is_err(), "there is nothing to read");
        };
        match bytes {
            Ok(bytes) => {
                assert!(taken.live, "there is nothing to read any more");
                assert_eq!(bytes, &taken.content[span(range)]);
            }
            Err(Errno::ECANCELED) => {}
            Err(Errno::EIO) => assert!(source_may_fail, "it is readable"),
            Err(Errno::EINVAL) => assert!(range.end() > taken.content.len() as u64, "it is readable"),
            Err(_) => assert!(!taken.live, "it is readable"),
        }
    }

    pub fn end(&mut self, id: SnapshotId) {
        self.live(id).into_iter().for_each(|at| self.taken[at].live = false);
    }
}

impl World {
    pub fn snapshot_taken(&mut self, id: SnapshotId) {
        if self.snapshots.live(id).is_none() {
            let mut content = self.source.clone();
            for (range, residence) in self.engine.truth(self.geometry.all_bytes()) {
                if residence == Residence::Local {
                    let is_written =
                        |p: &Pending| written(&p.operation).is_some_and(|w| w.intersect(range).is_some());
                    assert!(!self.pending.iter().any(is_written), "nothing local is being written");
                    content[span(range)].copy_from_slice(&self.store.read(range));
                }
            }
            let side = vec![0; content.len()];
            self.snapshots.taken.push(Taken { id, live: true, content, side });
        }
    }

    pub fn keep(&mut self, op: OpId, range: ByteRange, ok: bool) {
        let bytes = self.store.read(range);
        let taken = &mut self.snapshots.taken[self.snapshots.operations[&op]];
        assert!(!taken.live || bytes == taken.content[span(range)], "what is kept is what was there");
        taken.side[span(range)].copy_from_slice(&bytes);
        self.tell(Event::Done { op, result: if ok { Ok(()) } else { Err(Errno::ENOSPC) } });
    }

    pub fn keep_fetched(&mut self, op: OpId, range: ByteRange, bytes: &[u8], ok: bool) {
        let taken = &mut self.snapshots.taken[self.snapshots.operations[&op]];
        assert!(!taken.live || bytes == &taken.content[span(range)], "what is kept is what was there");
        let side = &mut taken.side[span(range)];
        if ok {
            side.copy_from_slice(bytes)
        } else {
            side.fill(GARBAGE)
        }
        self.tell(Event::Done { op, result: if ok { Ok(()) } else { Err(Errno::ENOSPC) } });
    }

    /// With the source away, every snapshot there is reads as it was.
    pub fn check_snapshots(&mut self) {
        self.source_goes(false);
        let live: Vec<(SnapshotId, u64)> = self.engine.snapshots().collect();
        for (snapshot, size_bytes) in live {
            let range = ByteRange::new(0, size_bytes).unwrap();
            self.request(RequestKind::ReadSnapshot { snapshot, range });
            while self.pending() > 0 {
                self.complete(0);
            }
        }
        assert!(self.waiting().is_empty(), "a snapshot of what is whole needs no source");
    }

    /// Of the store, what the operation reads for a snapshot that there is.
    fn read_for_a_snapshot(&self, operation: &Operation) -> Option<ByteRange> {
        let (range, taken) = match *operation {
            Operation::KeepLocal { op, range, .. } => (range, Some(self.snapshots.operations[&op])),
            Operation::ReadLocal { range, request, .. } => (range, *self.snapshots.reads.get(&request)?),
            _ => return None,
        };
        self.snapshots.taken[taken?].live.then_some(range)
    }

    /// No write to the store meets a reader or keeper of a snapshot there.
    pub fn check_against_snapshots(&self, operation: &Operation) {
        for pending in &self.pending {
            for (reader, writer) in [(operation, &pending.operation), (&pending.operation, operation)] {
                if let (Some(range), Some(written)) = (self.read_for_a_snapshot(reader), written(writer)) {
                    assert!(range.intersect(written).is_none(), "{reader:?} meets {writer:?}");
                }
            }
        }
    }

    pub fn act_on_snapshots(&mut self, act: Act) {
        match act {
            Act::Take(id) => self.command(Command::Snapshot { id: SnapshotId(id) }),
            Act::Forget(id) => self.command(Command::ForgetSnapshot { id: SnapshotId(id) }),
            Act::Read(id, start, len) => {
                let snapshot = SnapshotId(id);
                let size = self.engine.geometry().size_bytes();
                self.request(RequestKind::ReadSnapshot { snapshot, range: some_range(size, start, len) });
            }
        }
    }
}

fn written(operation: &Operation) -> Option<ByteRange> {
    match *operation {
        Operation::WriteLocal { range, .. } | Operation::ZeroLocal { range, .. } => Some(range),
        _ => None,
    }
}

/// What is done with snapshots.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    Take(u128),
    Forget(u128),
    Read(u128, u64, u64),
}

pub fn act() -> impl Strategy<Value = Act> {
    let id = 0_u128..6;
    prop_oneof![
        2 => id.clone().prop_map(Act::Take),
        1 => id.clone().prop_map(Act::Forget),
        8 => (id, any::<u64>(), any::<u64>()).prop_map(|(id, start, len)| Act::Read(id, start, len)),
    ]
}

fn step() -> impl Strategy<Value = crate::Act> {
    prop_oneof![
        8 => guest_act(),
        8 => any::<usize>().prop_map(crate::Act::Complete),
        11 => act().prop_map(crate::Act::Snapshot),
        1 => (0_u64..40).prop_map(crate::Act::Grow),
        1 => any::<usize>().prop_map(crate::Act::Cancel),
        1 => prop_oneof![
            Just(Command::Seal),
            Just(Command::Unseal),
            Just(Command::Unseal)
        ].prop_map(crate::Act::Command),
    ]
}

/// A volume of a few units of which nothing is local.
fn remote(size_sectors: u64, seed: u64) -> World {
    let limits = Limits::default();
    let case = Case { size_sectors, region_shift: 4, source_seed: seed, zero_percent: 40, seed, limits };
    crate::world(&case, GOOD_LUCK)
}

/// A volume of a few units that is all local.
fn local(size_sectors: u64, luck: Luck, seed: u64) -> World {
    let mut world = remote(size_sectors, seed);
    while !world.engine.status().complete {
        if world.pending() > 0 { world.complete(0) } else { world.tick(500) }
    }
    world.luck = luck;
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::cases() / 3, ..ProptestConfig::default() })]

    #[test]
    fn a_snapshot_reads_as_the_volume_was_when_it_was_taken(
        size_sectors in 1_u64..(5 * KEEP_BYTES / 1024),
        seed in any::<u64>(),
        local_fails in prop_oneof![3 => Just(0_usize), 1 => 1_usize..10],
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = local(size_sectors, Luck { local_fails, ..GOOD_LUCK }, seed);
        steps.iter().for_each(|next| crate::act(&mut world, next));
        world.luck = GOOD_LUCK;
        let mut dice = Dice(seed);
        while world.pending() > 0 {
            let index = dice.roll(world.pending());
            world.complete(index);
        }
        world.check_snapshots();
        prop_assert!(world.oracle.is_quiet() && world.waiting().is_empty());
        let lost = world.notices.iter().filter(|notice| matches!(notice, Notice::SnapshotLost { .. })).count();
        prop_assert!(local_fails > 0 || lost == 0, "nothing is lost without a failure");
    }

    #[test]
    fn so_does_one_of_a_volume_that_still_hydrates(
        size_sectors in 1_u64..(5 * KEEP_BYTES / 1024),
        seed in any::<u64>(),
        local_fails in prop_oneof![3 => Just(0_usize), 1 => 1_usize..10],
        source_fails in prop_oneof![2 => Just(0_usize), 1 => 1_usize..30],
        steps in prop::collection::vec(prop_oneof![3 => step(), 1 => crate::quiet_act()], 1..120),
    ) {
        let mut world = remote(size_sectors, seed);
        world.luck = Luck { local_fails, source_fails, ..GOOD_LUCK };
        steps.iter().for_each(|next| crate::act(&mut world, next));
        crate::run_out(&mut world, seed);
        let lost = world.notices.iter().filter(|notice| matches!(notice, Notice::SnapshotLost { .. })).count();
        prop_assert!(local_fails > 0 || lost == 0, "nothing is lost without a failure");
    }
}
