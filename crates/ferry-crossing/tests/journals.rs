//! Journals that earlier versions wrote, kept for ever: each of them goes on, from each of its entries.
//!
//! A folder holds the journals of one form (`ferry_fsm::JOURNAL_FORMAT`), as they lay in the records of real and
//! simulated moves. When the form or the line of a move changes, a folder is added and none is touched.

#![allow(clippy::unwrap_used)]

use ferry_crossing::{HandedOver, MoveStep, Plan, Prepared, Receipt, Retired, moving};
use ferry_fsm::{Act, Entry, Event, Outcome, Standing, Step, StepState, decide, replay};

/// Name, journal, and the step at which its job waits for a person.
const JOURNALS: &[(&str, &str, Option<&str>)] = &[
    ("succeeded", include_str!("journals/format-1/succeeded.jsonl"), None),
    ("cancelled_while_reserved", include_str!("journals/format-1/cancelled_while_reserved.jsonl"), None),
    ("cancelled_when_sealed", include_str!("journals/format-1/cancelled_when_sealed.jsonl"), None),
    ("failed_at_plan", include_str!("journals/format-1/failed_at_plan.jsonl"), None),
    ("parked_at_boot", include_str!("journals/format-1/parked_at_boot.jsonl"), Some("Boot")),
];

fn entries(text: &str) -> Vec<Entry> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_journal_of_an_earlier_version_stands_where_it_stood() {
    for (name, text, parked_at) in JOURNALS {
        let journal = entries(text);
        let standing = replay::<MoveStep>(&journal).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!(standing.foreign, None, "{name}");
        let last = &journal.last().unwrap().event;
        let outcome = if let Event::Finished { outcome } = last { Some(outcome) } else { None };
        let parked = standing.parked.as_deref().unwrap_or_default();
        assert!(parked.contains(parked_at.unwrap_or_default()), "{name}: {last:?}");
        assert_eq!(standing.outcome.as_ref(), outcome, "{name}");
    }
}

#[test]
fn from_each_entry_of_an_earlier_version_the_job_goes_on_and_skips_nothing() {
    for (name, text, _) in JOURNALS {
        let journal = entries(text);
        for end in 1..=journal.len() {
            let standing = replay::<MoveStep>(&journal[..end]).unwrap();
            let now_ms = standing.last_ms + 3_600_000;
            let due =
                standing.steps.iter().find(|step| step.state != StepState::Done).and_then(|step| step.step);
            match decide(&standing, now_ms) {
                Act::Begin { step, .. } | Act::Commit { step, .. } => {
                    assert_eq!(Some(step), due, "{name}, entry {end}");
                }
                Act::Finish { outcome: Outcome::Succeeded } => assert_eq!(due, None, "{name}, entry {end}"),
                Act::Finish { .. } | Act::Undo { .. } => {
                    assert!(standing.unwinding.is_some(), "{name}, entry {end}");
                }
                Act::Unwind { .. } => assert!(!standing.past_no_return(), "{name}, entry {end}"),
                Act::Park { .. } | Act::WaitForPerson { .. } => {
                    assert!(standing.past_no_return(), "{name}, entry {end}");
                }
                Act::Rest => assert!(standing.outcome.is_some(), "{name}, entry {end}"),
                other @ (Act::Admit { .. } | Act::WaitUntil { .. }) => {
                    panic!("{name}, entry {end}: {other:?} was not known then")
                }
            }
        }
    }
}

#[test]
fn what_the_steps_of_an_earlier_version_left_is_understood() {
    let read = |standing: &Standing<MoveStep>, step: MoveStep| match step {
        MoveStep::Plan => moving::memo_of::<Plan>(standing, step).map(drop),
        MoveStep::Prepare => moving::memo_of::<Prepared>(standing, step).map(drop),
        MoveStep::HandOver => moving::memo_of::<HandedOver>(standing, step).map(drop),
        MoveStep::Verify => moving::memo_of::<Receipt>(standing, step).map(drop),
        MoveStep::Retire => moving::memo_of::<Retired>(standing, step).map(drop),
        MoveStep::Reserve | MoveStep::Stop | MoveStep::Seal => Ok(()),
        MoveStep::Activate | MoveStep::Boot | MoveStep::Hydrate => Ok(()),
    };
    for (name, text, _) in JOURNALS {
        let standing = replay::<MoveStep>(&entries(text)).unwrap();
        moving::input(&standing).unwrap_or_else(|why| panic!("{name}: {why}"));
        for step in MoveStep::LINE.iter().filter(|step| standing.memo(**step).is_some()) {
            read(&standing, *step).unwrap_or_else(|why| panic!("{name}, {step:?}: {why}"));
        }
    }
}
