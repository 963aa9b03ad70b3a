//! Snapshots in the model: whatever a reader gets is what the store held when the snapshot was taken.

use std::collections::BTreeMap;

use ferry_engine::limits::KEEP_BYTES;
use ferry_engine::{
    ByteRange, Command, DataRef, Errno, Event, Limits, Notice, OpId, Operation, RequestId, RequestKind,
    SnapshotId,
};
use proptest::prelude::*;

use crate::oracle::{GARBAGE, span};
use crate::world::{Dice, GOOD_LUCK, Luck, World};
use crate::{Act, Case, act, guest_act, some_range};

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

    pub fn read_done(&mut self, request: RequestId, range: ByteRange, bytes: Option<&Vec<u8>>) {
        let Some(taken) = self.reads.remove(&request).unwrap().map(|at| &self.taken[at]) else {
            return assert_eq!(bytes, None, "there is nothing to read");
        };
        match bytes {
            Some(bytes) => {
                assert!(taken.live, "there is nothing to read any more");
                assert_eq!(bytes, &taken.content[span(range)]);
            }
            None => assert!(!taken.live || range.end() > taken.content.len() as u64, "it is readable"),
        }
    }

    pub fn end(&mut self, id: SnapshotId) {
        self.live(id).into_iter().for_each(|at| self.taken[at].live = false);
    }
}

impl World {
    pub fn snapshot_taken(&mut self, id: SnapshotId) {
        if self.snapshots.live(id).is_none() {
            assert!(!self.pending.iter().any(|pending| written(&pending.operation).is_some()));
            let content = self.store_bytes();
            let side = vec![GARBAGE; content.len()];
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

    fn read_snapshot(&mut self, id: u128, start: u64, len: u64) {
        let snapshot = SnapshotId(id);
        let size = self.engine.geometry().size_bytes();
        self.request(RequestKind::ReadSnapshot { snapshot, range: some_range(size, start, len) });
    }
}

fn written(operation: &Operation) -> Option<ByteRange> {
    match *operation {
        Operation::WriteLocal { range, data: DataRef::Request { .. }, .. }
        | Operation::ZeroLocal { range, .. } => Some(range),
        _ => None,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Act(Act),
    Take(u128),
    Forget(u128),
    Read(u128, u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0_u128..6;
    prop_oneof![
        8 => guest_act().prop_map(Step::Act),
        8 => any::<usize>().prop_map(|index| Step::Act(Act::Complete(index))),
        2 => id.clone().prop_map(Step::Take),
        1 => id.clone().prop_map(Step::Forget),
        8 => (id, any::<u64>(), any::<u64>()).prop_map(|(id, start, len)| Step::Read(id, start, len)),
        1 => (0_u64..40).prop_map(|sectors| Step::Act(Act::Grow(sectors))),
        1 => any::<usize>().prop_map(|index| Step::Act(Act::Cancel(index))),
        1 => prop_oneof![
            Just(Command::Seal),
            Just(Command::Unseal),
            Just(Command::Unseal)
        ].prop_map(|command| Step::Act(Act::Command(command))),
    ]
}

/// A volume of a few units that is all local.
fn local(size_sectors: u64, luck: Luck, seed: u64) -> World {
    let limits = Limits::default();
    let case = Case { size_sectors, region_shift: 4, source_seed: seed, zero_percent: 40, seed, limits };
    let mut world = crate::world(&case, GOOD_LUCK);
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
        for next in &steps {
            match *next {
                Step::Act(ref next) => act(&mut world, next),
                Step::Take(id) => world.command(Command::Snapshot { id: SnapshotId(id) }),
                Step::Forget(id) => world.command(Command::ForgetSnapshot { id: SnapshotId(id) }),
                Step::Read(id, start, len) => world.read_snapshot(id, start, len),
            }
        }
        world.luck = GOOD_LUCK;
        let mut dice = Dice(seed);
        while world.pending() > 0 {
            let index = dice.roll(world.pending());
            world.complete(index);
        }
        let live: Vec<SnapshotId> = world.engine.snapshots().map(|(id, _)| id).collect();
        for snapshot in live {
            let (_, size_bytes) = world.engine.snapshots().find(|(id, _)| *id == snapshot).unwrap();
            let range = ByteRange::new(0, size_bytes).unwrap();
            world.request(RequestKind::ReadSnapshot { snapshot, range });
            while world.pending() > 0 {
                world.complete(0);
            }
        }
        prop_assert!(world.oracle.is_quiet() && world.waiting().is_empty());
        let lost = world.notices.iter().filter(|notice| matches!(notice, Notice::SnapshotLost { .. })).count();
        prop_assert!(local_fails > 0 || lost == 0, "nothing is lost without a failure");
    }
}
