//! The moments of each step of a move, in their order: between any two of them its agent may die.

use crate::scope::{Bug, Scope};
use ferry_crossing::MoveStep;
use ferry_crossing::service::Wish;
use ferry_fsm::Act;

/// A moment of a step: what is done without anything in between, or waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Wish(Wish, usize),
    Mark(usize),
    MarkMachine,
    Down,
    Up,
    Ask,
    /// The target is asked for a process that waits for the memory, which is sent there.
    AskExpect,
    /// The machine is paused for the rest of its memory, or has ended.
    Paused,
    /// It still is, and somebody still waits for its memory.
    Awaited,
    /// The rest of the memory is let go, or the machine ended.
    LetGo,
    /// The target is told that no memory will come.
    AskForsake,
    KeepMemory,
    /// The copies are marked, if the move is to be a warm one.
    Round,
    AskAhead,
    /// The clones hold what was copied, by their own account, or that is given up.
    Copied,
    ForgetMarks,
    /// Nothing is remote at the target any more, by its own account and by the receipt.
    Whole,
}

/// The moments of a step or of its undo, in their order.
pub(crate) fn moments(scope: &Scope, act: &Act<MoveStep>) -> Vec<Moment> {
    let each = |moment: fn(usize) -> Moment| (0..scope.volumes).map(moment);
    match act {
        Act::Begin { step, .. } => match step {
            MoveStep::Boot if scope.is_live => vec![Moment::LetGo, Moment::AskForsake, Moment::Ask],
            MoveStep::Reserve | MoveStep::Boot => vec![Moment::Ask],
            MoveStep::Prepare => {
                let round = [Moment::Round, Moment::AskAhead, Moment::Copied];
                let round = round.into_iter().filter(|_| scope.is_warm);
                each(|v| Moment::Wish(Wish::Export, v)).chain([Moment::Ask]).chain(round).collect()
            }
            // The machine may be paused before the round, or in it.
            MoveStep::Stop if scope.is_live => {
                let round = [Moment::Round, Moment::AskAhead, Moment::Copied];
                let round = round.into_iter().filter(|_| scope.is_warm);
                [Moment::AskExpect].into_iter().chain(round).chain([Moment::Paused]).collect()
            }
            MoveStep::Stop => vec![Moment::Down],
            MoveStep::Seal => {
                let keep = Some(Moment::AskAhead).filter(|_| scope.is_warm);
                let awaited = Some(Moment::Awaited).filter(|_| scope.is_live).into_iter();
                awaited.chain(each(|v| Moment::Wish(Wish::Seal, v))).chain(keep).collect()
            }
            MoveStep::Activate if scope.bug == Some(Bug::TellsBeforeMark) => {
                [Moment::Ask, Moment::MarkMachine].into_iter().chain(each(Moment::Mark)).collect()
            }
            MoveStep::Activate => {
                let seal = each(|v| Moment::Wish(Wish::Seal, v));
                seal.chain(each(Moment::Mark)).chain([Moment::MarkMachine, Moment::Ask]).collect()
            }
            MoveStep::Hydrate | MoveStep::Verify if scope.bug == Some(Bug::RetiresEarly) => Vec::new(),
            MoveStep::Hydrate | MoveStep::Verify => vec![Moment::Whole],
            MoveStep::Retire if scope.bug == Some(Bug::RetiresEarly) => Vec::new(),
            MoveStep::Retire => {
                [Moment::Ask].into_iter().chain(each(|v| Moment::Wish(Wish::Retire, v))).collect()
            }
            MoveStep::Plan | MoveStep::HandOver => Vec::new(),
        },
        Act::Undo { step, .. } => match step {
            MoveStep::Reserve => vec![Moment::Ask],
            MoveStep::Stop if scope.bug == Some(Bug::ReportsTooSoon) => Vec::new(),
            MoveStep::Stop if scope.is_live => vec![Moment::KeepMemory, Moment::Up],
            MoveStep::Stop => vec![Moment::Up],
            MoveStep::Seal => each(|v| Moment::Wish(Wish::Unseal, v)).collect(),
            MoveStep::Prepare if scope.is_warm => vec![Moment::ForgetMarks],
            // Withdrawing an export touches no promise: a sealed copy may be read by anybody.
            MoveStep::Prepare
            | MoveStep::Plan
            | MoveStep::HandOver
            | MoveStep::Activate
            | MoveStep::Boot
            | MoveStep::Hydrate
            | MoveStep::Verify
            | MoveStep::Retire => Vec::new(),
        },
        Act::Admit { .. }
        | Act::Commit { .. }
        | Act::Unwind { .. }
        | Act::WaitUntil { .. }
        | Act::Park { .. }
        | Act::WaitForPerson { .. }
        | Act::Finish { .. }
        | Act::Rest => Vec::new(),
    }
}

/// The name of the call that is waited for at a moment of an act.
pub(crate) fn asked(scope: &Scope, act: &Act<MoveStep>, moment: usize) -> Option<&'static str> {
    let now = moments(scope, act).get(moment).copied();
    let is_ahead = now == Some(Moment::AskAhead);
    match step_of(act)? {
        (MoveStep::Reserve, false) => Some("reserve"),
        (MoveStep::Prepare | MoveStep::Stop, false) if is_ahead => Some("precopy"),
        (MoveStep::Prepare, false) => Some("prepare"),
        (MoveStep::Seal, false) => Some("adopt"),
        (MoveStep::Activate, false) => Some("activate"),
        (MoveStep::Stop, false) => Some("expect"),
        (MoveStep::Boot, false) if now == Some(Moment::AskForsake) => Some("forsake"),
        (MoveStep::Boot, false) => Some("boot"),
        (MoveStep::Retire, false) => Some("settle"),
        (MoveStep::Reserve, true) => Some("release"),
        _ => None,
    }
}

/// The step that an act is about, and whether the act undoes it.
pub(crate) fn step_of(act: &Act<MoveStep>) -> Option<(MoveStep, bool)> {
    match act {
        Act::Begin { step, .. } | Act::Commit { step, .. } => Some((*step, false)),
        Act::Undo { step, .. } => Some((*step, true)),
        Act::Admit { .. }
        | Act::Unwind { .. }
        | Act::WaitUntil { .. }
        | Act::Park { .. }
        | Act::WaitForPerson { .. }
        | Act::Finish { .. }
        | Act::Rest => None,
    }
}
