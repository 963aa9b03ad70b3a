//! A job's journal.
//!
//! Input: either lines of JSON, as records keep them, or a program of small steps that follow what is decided, or do
//! not.

use ferry_fsm::{
    Act, Backoff, Body, ENTRY_VERSION, Entry, Event, JOURNAL_FORMAT, OnFailure, Outcome, Policy, Standing,
    Step, StepError, Terms, Undo, UnwindReason, decide, replay,
};
use serde_json::Value;

const ACTS_MAX: usize = 400;

/// Two steps before the deed, of which one is undone, the deed, and two behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errand {
    Look,
    Pack,
    Leave,
    Greet,
    Unpack,
}

impl Step for Errand {
    const NAME: &'static str = "errand";
    const VERSION: u16 = 1;
    const LINE: &'static [Self] = &[Self::Look, Self::Pack, Self::Leave, Self::Greet, Self::Unpack];

    fn name(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Pack => "pack",
            Self::Leave => "leave",
            Self::Greet => "greet",
            Self::Unpack => "unpack",
        }
    }

    fn policy(self) -> Policy {
        let backoff = Backoff { first_ms: 100, cap_ms: 1_000 };
        let (body, failure, undo) = match self {
            Self::Look => (Body::Work, OnFailure::RetryForever, Undo::Nothing),
            Self::Pack => (Body::Work, OnFailure::Unwind { attempts: 2 }, Undo::Needed),
            Self::Leave => (Body::Deed, OnFailure::Unwind { attempts: 1 }, Undo::Nothing),
            Self::Greet => (Body::Work, OnFailure::Park { attempts: 2 }, Undo::Nothing),
            Self::Unpack => (Body::Work, OnFailure::RetryForever, Undo::Nothing),
        };
        Policy { body, failure, undo, backoff }
    }
}

/// Replay answers any entries with a standing or a reason, and what is decided from a standing is legal there.
pub fn run(bytes: &[u8]) {
    match bytes.first() {
        Some(b'{') => lines(bytes),
        Some(_) => program(bytes),
        None => {}
    }
}

fn lines(text: &[u8]) {
    let mut journal = Vec::new();
    for line in text.split(|&byte| byte == b'\n') {
        let Ok(entry) = serde_json::from_slice::<Entry>(line) else { continue };
        journal.push(entry);
        if let Ok(standing) = replay::<Errand>(&journal) {
            let last_ms = standing.last_ms;
            for now_ms in [0, last_ms, last_ms.saturating_add(100), u64::MAX] {
                check_decision(&standing, now_ms);
            }
        }
    }
}

/// Each two bytes append an entry: often the one that is due, else any. What is refused is left out, and must have
/// changed nothing.
fn program(bytes: &[u8]) {
    let (line, rest) = bytes.split_first().expect("the caller has seen a byte");
    let opening = opening(*line);
    let Ok(mut standing) = Standing::<Errand>::start(&opening) else { return };
    let mut journal = vec![opening];
    for &[kind, detail] in rest.as_chunks::<2>().0.iter().take(ACTS_MAX) {
        let now_ms = standing.last_ms.saturating_add(u64::from(detail) * 8);
        check_decision(&standing, now_ms);
        let event = match kind % 4 {
            0 => any(kind / 4, detail),
            _ => due(&standing, now_ms, kind / 4).unwrap_or_else(|| any(kind / 4, detail)),
        };
        let v = if kind == 255 { ENTRY_VERSION + 1 } else { ENTRY_VERSION };
        let entry = Entry { v, at_ms: now_ms, event };
        let before = standing.clone();
        match standing.apply(&entry) {
            Ok(()) => {
                let both = standing.past_no_return() && standing.unwinding.is_some();
                assert!(!both || standing.foreign.is_some(), "{entry:?} took back what the deed had done");
                journal.push(entry);
            }
            Err(_) => assert_eq!(standing, before, "{entry:?} was refused and changed something"),
        }
    }
    let mut replayed = replay::<Errand>(&journal).expect("every entry was accepted before");
    // Only a replay knows at which place a foreign entry stands.
    if replayed.foreign.is_some() && standing.foreign.is_some() {
        replayed.foreign = standing.foreign.clone();
    }
    assert_eq!(replayed, standing, "a replay ends where the job stood");
}

/// The whole line, or one that another version may have written.
fn opening(line: u8) -> Entry {
    let mut names: Vec<String> = Errand::LINE.iter().map(|step| step.name().to_owned()).collect();
    match line % 8 {
        1 => names.reverse(),
        2 => names.truncate(2),
        3 => names.rotate_left(2),
        4 => names.push("sail".to_owned()),
        5 => names.push("look".to_owned()),
        6 => names.swap(1, 3),
        _ => {}
    }
    let job = if line < 248 { Errand::NAME } else { "" }.to_owned();
    let (format, line_version) = (JOURNAL_FORMAT, Errand::VERSION);
    let terms = Box::new(terms(line / 8));
    Entry::new(1_000, Event::Started { format, job, line_version, line: names, input: Value::Null, terms })
}

/// Any of the terms a job can have.
fn terms(which: u8) -> Terms {
    Terms {
        not_before_ms: (which & 1 != 0).then_some(1_400),
        queue: (which & 2 != 0).then(|| "errands".to_owned()),
        within_ms: (which & 4 != 0).then_some(2_000),
        parent: None,
    }
}

/// What a shell appends when it does what is decided, and that ends well or badly.
fn due(standing: &Standing<Errand>, now_ms: u64, chance: u8) -> Option<Event> {
    let running = standing.steps.iter().find(|found| found.state == ferry_fsm::StepState::Running);
    let undoing = standing.steps.iter().find(|found| found.state == ferry_fsm::StepState::Undoing);
    let error = if chance % 16 == 3 { StepError::fatal("no") } else { StepError::retry("not yet") };
    let fails = chance % 4 == 3;
    if chance.is_multiple_of(2) || fails {
        if let Some(found) = undoing {
            let (step, attempt) = (found.name.clone(), found.undo_failures + 1);
            return Some(match fails {
                true => Event::UndoFailed { step, attempt, error },
                false => Event::Undone { step },
            });
        }
        if let Some(found) = running {
            return Some(ended(&found.name, found.failures + 1, fails.then_some(error)));
        }
    }
    let act = decide(standing, now_ms);
    match act {
        Act::Commit { step, attempt } => Some(ended(step.name(), attempt, fails.then_some(error))),
        Act::Admit { .. } => Some(Event::Admitted),
        Act::Begin { .. }
        | Act::Unwind { .. }
        | Act::Undo { .. }
        | Act::WaitUntil { .. }
        | Act::Park { .. }
        | Act::WaitForPerson { .. }
        | Act::Finish { .. }
        | Act::Rest => act.announce(),
    }
}

fn ended(step: &str, attempt: u32, error: Option<StepError>) -> Event {
    match error {
        Some(error) => Event::Failed { step: step.to_owned(), attempt, error },
        None => Event::Done { step: step.to_owned(), memo: Value::Null },
    }
}

fn any(kind: u8, detail: u8) -> Event {
    let step = match Errand::LINE.get(usize::from(detail % 8)) {
        Some(step) => step.name().to_owned(),
        None => "sail".to_owned(),
    };
    let attempt = u32::from(detail / 8 % 8);
    let error = if detail >= 128 { StepError::fatal("no") } else { StepError::retry("not yet") };
    match kind % 14 {
        0 => opening(detail).event,
        1 => Event::Begun { step, attempt },
        2 => Event::Done { step, memo: Value::Null },
        3 => Event::Failed { step, attempt, error },
        4 => Event::UnwindBegun { reason: UnwindReason::Cancelled },
        5 => Event::UnwindBegun { reason: UnwindReason::Failed { step, message: error.message } },
        6 => Event::UndoBegun { step, attempt },
        7 => Event::Undone { step },
        8 => Event::UndoFailed { step, attempt, error },
        9 => Event::CancelAsked,
        10 => Event::Parked { reason: "a person is needed".to_owned() },
        11 => Event::Resumed,
        12 => Event::Admitted,
        _ if detail == 255 => Event::Unknown,
        _ => Event::Finished {
            outcome: if detail.is_multiple_of(2) { Outcome::Succeeded } else { Outcome::Cancelled },
        },
    }
}

/// Whatever is decided, the entry it leads to may stand there.
fn check_decision(standing: &Standing<Errand>, now_ms: u64) {
    let act = decide(standing, now_ms);
    let follow = |standing: &Standing<Errand>, event: Event| {
        let mut next = standing.clone();
        let entry = Entry::new(now_ms, event);
        next.apply(&entry).unwrap_or_else(|why| panic!("{act:?} at {standing:?}: {why}"));
        next
    };
    let announced = match act.announce() {
        Some(event) => follow(standing, event),
        None => standing.clone(),
    };
    let error = || StepError::retry("not yet");
    match &act {
        Act::Admit { until_ms } => {
            assert!(until_ms.is_none_or(|at_ms| at_ms > now_ms), "a wait for the past");
            follow(&announced, Event::Admitted);
            let reason = UnwindReason::Failed { step: "look".to_owned(), message: "held".to_owned() };
            follow(&announced, Event::UnwindBegun { reason });
        }
        Act::Begin { step, attempt } | Act::Commit { step, attempt } => {
            follow(&announced, ended(step.name(), *attempt, None));
            follow(&announced, ended(step.name(), *attempt, Some(error())));
        }
        Act::Undo { step, attempt } => {
            let step = step.name().to_owned();
            follow(&announced, Event::Undone { step: step.clone() });
            follow(&announced, Event::UndoFailed { step, attempt: *attempt, error: error() });
        }
        Act::WaitUntil { at_ms } => assert!(*at_ms > now_ms, "a wait for the past"),
        Act::Rest => assert!(standing.outcome.is_some()),
        Act::WaitForPerson { .. } => assert!(standing.parked.is_some()),
        Act::Unwind { .. } => assert!(!standing.past_no_return(), "the deed cannot be taken back"),
        Act::Park { .. } | Act::Finish { .. } => {}
    }
}
