//! A truth and marks as few records: what a fresh map file holds.
//!
//! Invariant: the records name exactly the local blocks, in order.

use crate::geometry::Blocks;
use crate::marks::Marks;
use crate::truth::{Residence, Truth};

use super::MapRecord;

/// Runs of 64 blocks and more as ranges; what is left as masks, so that no truth costs more than 3 bits a block.
pub(super) fn truth_records(truth: &Truth) -> Vec<MapRecord> {
    let mut records = Vec::new();
    let mut open: Option<(u64, u64)> = None;
    for (residence, run) in truth.runs(truth.geometry().all_blocks()) {
        if residence == Residence::Remote {
            continue;
        }
        let (first_word, last_word) = (run.first() / 64, (run.end() - 1) / 64);
        if first_word == last_word {
            add_to_mask(&mut open, run, &mut records);
            continue;
        }
        let head_end = (first_word + 1) * 64;
        add_to_mask(&mut open, between(run.first(), head_end), &mut records);
        let tail_first = last_word * 64;
        if head_end < tail_first {
            close_mask(&mut open, &mut records);
            records.push(MapRecord::Local(between(head_end, tail_first)));
        }
        add_to_mask(&mut open, between(tail_first, run.end()), &mut records);
    }
    close_mask(&mut open, &mut records);
    join_ranges(records)
}

/// Marks from the oldest on, each followed by what has changed since: an older mark's set holds that of every newer one.
pub(super) fn mark_records(marks: &Marks) -> Vec<MapRecord> {
    let mut records = Vec::new();
    for (mark, changed) in marks.iter() {
        records.push(MapRecord::MarkSet(mark));
        records.extend(changed.within(changed.geometry().all_blocks()).map(MapRecord::MayChange));
    }
    // An id that was given is never given again.
    if marks.iter().last().map_or(0, |(mark, _)| mark.0) < marks.last_id().0 {
        records.push(MapRecord::MarkForgotten(marks.last_id()));
    }
    records
}

fn add_to_mask(open: &mut Option<(u64, u64)>, blocks: Blocks, records: &mut Vec<MapRecord>) {
    let word = blocks.first() / 64;
    if open.is_some_and(|(open_word, _)| open_word != word) {
        close_mask(open, records);
    }
    let ones =
        if blocks.count() == 64 { u64::MAX } else { ((1 << blocks.count()) - 1) << (blocks.first() % 64) };
    let (_, mask) = open.get_or_insert((word, 0));
    *mask |= ones;
}

fn close_mask(open: &mut Option<(u64, u64)>, records: &mut Vec<MapRecord>) {
    let Some((word, mask)) = open.take() else { return };
    let mut runs = mask_runs(word * 64, mask);
    match (runs.next(), runs.next()) {
        (Some(only), None) => records.push(MapRecord::Local(only)),
        (Some(_), Some(_)) => records.push(MapRecord::LocalMask { first_block: word * 64, mask }),
        (None, _) => {}
    }
}

/// Ranges that touch become one.
fn join_ranges(records: Vec<MapRecord>) -> Vec<MapRecord> {
    let mut joined: Vec<MapRecord> = Vec::with_capacity(records.len());
    for record in records {
        if let (Some(MapRecord::Local(last)), MapRecord::Local(blocks)) = (joined.last_mut(), record)
            && last.end() == blocks.first()
        {
            *last = between(last.first(), blocks.end());
            continue;
        }
        joined.push(record);
    }
    joined
}

/// The runs of blocks that a mask names.
pub(super) fn mask_runs(first_block: u64, mask: u64) -> impl Iterator<Item = Blocks> {
    let mut at = 0_u32;
    std::iter::from_fn(move || {
        let rest = mask.checked_shr(at).filter(|&rest| rest != 0)?;
        let start = at + rest.trailing_zeros();
        let length = (!(mask >> start)).trailing_zeros().min(64 - start);
        at = start + length;
        Blocks::between(first_block + u64::from(start), first_block + u64::from(at))
    })
}

fn between(first: u64, end: u64) -> Blocks {
    Blocks::between(first, end).expect("the caller gives blocks in order")
}
