//! What the model knows of marks: what the volume held when each was set, and what was given to the store since.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ferry_engine::{ByteRange, Command, MarkId, Notice, Operation, Residence};

use crate::oracle::span;
use crate::world::World;

#[derive(Default)]
pub struct MarksSeen {
    kept: BTreeMap<MarkId, Seen>,
    forgetting: Vec<MarkId>,
    /// What was given to the store since each mark was asked for that is not set yet.
    asked: VecDeque<BTreeSet<u64>>,
}

struct Seen {
    /// What a reader would have read when the mark was set.
    content: Vec<u8>,
    /// Blocks given to the store since; none after a crash, from which on only stretches are known.
    given: Option<BTreeSet<u64>>,
}

impl World {
    pub fn command_of_marks(&mut self, command: Command) {
        match command {
            Command::Mark => {
                let under_way = self.pending.iter().filter_map(|pending| guest_range(&pending.operation));
                let blocks = under_way.flat_map(|range| self.blocks(range)).collect();
                self.marks.asked.push_back(blocks);
            }
            // From here on it may be forgotten or not.
            Command::ForgetMark { mark } => {
                self.marks.kept.remove(&mark);
                self.marks.forgetting.push(mark);
            }
            Command::Unseal => self.marks.kept.clear(),
            _ => {}
        }
    }

    pub fn notice_of_marks(&mut self, notice: Notice) {
        match notice {
            Notice::Marked { mark } => {
                let given = self.marks.asked.pop_front();
                assert!(given.is_some(), "a mark that nobody asked for");
                let content = self.visible();
                if self.marks.forgetting.contains(&mark) || self.unseals_asked > 0 {
                    return;
                }
                let former = self.marks.kept.insert(mark, Seen { content, given });
                assert!(former.is_none(), "an id is never given twice");
            }
            // What was lost has changed, too.
            Notice::SourceAbandoned => self.marks.kept.values_mut().for_each(|seen| seen.given = None),
            Notice::MarkForgotten { mark }
            | Notice::CommandFailed { command: Command::ForgetMark { mark }, .. } => {
                let at = self.marks.forgetting.iter().position(|&id| id == mark);
                self.marks.forgetting.remove(at.expect("somebody asked for that"));
            }
            Notice::CommandRefused { command: Command::Mark, .. }
            | Notice::CommandFailed { command: Command::Mark, .. } => drop(self.marks.asked.pop_front()),
            _ => {}
        }
    }

    pub fn given_to_store(&mut self, operation: &Operation) {
        let Some(range) = guest_range(operation) else { return };
        let blocks: Vec<u64> = self.blocks(range).collect();
        let kept = self.marks.kept.values_mut().filter_map(|seen| seen.given.as_mut());
        kept.chain(&mut self.marks.asked).for_each(|given| given.extend(&blocks));
    }

    pub fn marks_after_crash(&mut self) {
        self.marks.asked.clear();
        self.marks.forgetting.clear();
        self.marks.kept.values_mut().for_each(|seen| seen.given = None);
        self.check_marks();
    }

    /// Whatever differs from what it was at a mark counts as changed; without a crash nothing else does but what was
    /// given to the store.
    pub fn check_marks(&mut self) {
        if self.marks.kept.is_empty() {
            return;
        }
        let visible = self.visible();
        for (mark, seen) in &self.marks.kept {
            let runs = self.engine.changed_since(*mark, self.geometry.all_bytes()).expect("a mark is kept");
            for (run, is_changed) in runs {
                let span = span(run);
                let until = span.end.min(seen.content.len());
                if !is_changed && span.start < until {
                    let same = visible[span.start..until] == seen.content[span.start..until];
                    assert!(same, "{run} has changed since mark {mark}, unnoticed");
                }
                if let (true, Some(given)) = (is_changed, &seen.given) {
                    let needless = self.blocks(run).find(|block| !given.contains(block));
                    assert_eq!(needless, None, "nobody has changed this block since mark {mark}");
                }
            }
        }
    }

    /// What a reader would read.
    fn visible(&self) -> Vec<u8> {
        let mut bytes = self.source.clone();
        for (run, residence) in self.engine.truth(self.geometry.all_bytes()) {
            if residence == Residence::Local {
                bytes[span(run)].copy_from_slice(&self.store.read(run));
            }
        }
        bytes
    }

    fn blocks(&self, range: ByteRange) -> std::ops::Range<u64> {
        let blocks = self.geometry.blocks_touched(range);
        blocks.first()..blocks.end()
    }
}

/// What of the store the guest changes by an operation (or the zeroing of torn blocks, which looks the same).
fn guest_range(operation: &Operation) -> Option<ByteRange> {
    match operation {
        Operation::WriteLocal { range, data: ferry_engine::DataRef::Request { .. }, .. }
        | Operation::ZeroLocal { range, .. } => Some(*range),
        _ => None,
    }
}
