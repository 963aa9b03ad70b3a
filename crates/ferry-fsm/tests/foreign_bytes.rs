//! The fuzz body of journals on stable: seeds from valid journals, and mutations of them.

#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/src/journal.rs"]
mod journal;
#[path = "../../../fuzz/src/smoke.rs"]
mod smoke;

use ferry_fsm::{Entry, Event, Standing, StepError, Terms, UnwindReason, check_line};
use serde_json::json;

fn text(events: Vec<Event>) -> Vec<u8> {
    let opening = Standing::<journal::Errand>::opening(1_000, json!({"who": "me"}), Terms::default());
    let entries = events.into_iter().map(|event| Entry::new(1_001, event));
    let lines: Vec<String> =
        std::iter::once(opening).chain(entries).map(|entry| serde_json::to_string(&entry).unwrap()).collect();
    lines.join("\n").into_bytes()
}

#[test]
fn any_journal_is_replayed_or_refused_and_what_is_decided_is_legal() {
    check_line::<journal::Errand>().unwrap();
    let step = |name: &str| name.to_owned();
    let begun = |name: &str, attempt: u32| Event::Begun { step: step(name), attempt };
    let done = |name: &str| Event::Done { step: step(name), memo: json!([1, null]) };
    let failed =
        |name: &str, attempt: u32, error: StepError| Event::Failed { step: step(name), attempt, error };
    let across = vec![
        begun("look", 1),
        done("look"),
        begun("pack", 1),
        done("pack"),
        done("leave"),
        Event::CancelAsked,
    ];
    let home = vec![
        begun("look", 1),
        failed("look", 1, StepError::retry("not yet")),
        begun("look", 2),
        done("look"),
        begun("pack", 1),
        failed("pack", 1, StepError::fatal("no")),
        Event::UnwindBegun { reason: UnwindReason::Failed { step: step("pack"), message: step("no") } },
        Event::UndoBegun { step: step("pack"), attempt: 1 },
    ];
    // Three quarters of the first bytes do what is due; a multiple of 8 more makes it end well.
    let seeds = [
        ("across.jsonl", text(across)),
        ("home.jsonl", text(home)),
        ("program_across", [0].into_iter().chain([1, 200].repeat(12)).collect()),
        ("program_failing", [0].into_iter().chain([13, 200, 5, 0, 29, 255].repeat(9)).collect()),
        ("program_reversed", [1].into_iter().chain([1, 200, 5, 0, 36, 0].repeat(8)).collect()),
    ];
    smoke::smoke("journal_replay", &seeds, journal::run);
}
