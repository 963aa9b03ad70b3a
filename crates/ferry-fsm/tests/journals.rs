//! Journals of a made-up job: thousands written by chance, and one for each rule that can be broken.

use ferry_fsm::{
    Act, Backoff, Body, Count, Counted, Entry, Event, FailureClass, Illegal, JOURNAL_FORMAT, LineError,
    OnFailure, Outcome, Policy, ReplayError, Standing, Step, StepError, StepState, Terms, Undo, UnwindReason,
    check_line, decide, replay,
};
use proptest::prelude::*;
use serde_json::json;

const ATTEMPTS_MAX: u32 = 2;
const ACTS_MAX: usize = 80;

/// Look and Pack before the deed, Leave is the deed, Greet and Rest behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trip {
    Look,
    Pack,
    Lock,
    Leave,
    Greet,
    Unpack,
}

impl Step for Trip {
    const NAME: &'static str = "trip";
    const VERSION: u16 = 2;
    const LINE: &'static [Self] =
        &[Self::Look, Self::Pack, Self::Lock, Self::Leave, Self::Greet, Self::Unpack];

    fn name(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Pack => "pack",
            Self::Lock => "lock",
            Self::Leave => "leave",
            Self::Greet => "greet",
            Self::Unpack => "unpack",
        }
    }

    fn policy(self) -> Policy {
        let backoff = Backoff { first_ms: 100, cap_ms: 1_000 };
        let unwind = OnFailure::Unwind { attempts: ATTEMPTS_MAX };
        let (body, failure, undo) = match self {
            Self::Look => (Body::Work, unwind, Undo::Nothing),
            Self::Pack | Self::Lock => (Body::Work, unwind, Undo::Needed),
            Self::Leave => (Body::Deed, OnFailure::Unwind { attempts: 1 }, Undo::Nothing),
            Self::Greet => (Body::Work, OnFailure::Park { attempts: ATTEMPTS_MAX }, Undo::Nothing),
            Self::Unpack => (Body::Work, OnFailure::RetryForever, Undo::Nothing),
        };
        Policy { body, failure, undo, backoff }
    }
}

/// A line with two steps only, to stand for another version of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ShortTrip {
    Look,
    Pack,
}

impl Step for ShortTrip {
    const NAME: &'static str = "trip";
    const VERSION: u16 = 2;
    const LINE: &'static [Self] = &[Self::Look, Self::Pack];

    fn name(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Pack => "pack",
        }
    }

    fn policy(self) -> Policy {
        match self {
            Self::Look => Trip::Look.policy(),
            Self::Pack => Trip::Pack.policy(),
        }
    }
}

/// What chance does with the next act.
#[derive(Debug, Clone, Copy)]
enum Chance {
    Succeed,
    FailRetry,
    FailFatal,
    Crash,
    CancelThenSucceed,
    Resume,
}

fn chance() -> impl Strategy<Value = Chance> {
    prop_oneof![
        6 => Just(Chance::Succeed),
        3 => Just(Chance::FailRetry),
        1 => Just(Chance::FailFatal),
        2 => Just(Chance::Crash),
        1 => Just(Chance::CancelThenSucceed),
        1 => Just(Chance::Resume),
    ]
}

/// A journal as the executor would write it, and the standing it kept while writing.
struct Writer {
    journal: Vec<Entry>,
    standing: Standing<Trip>,
    now_ms: u64,
}

impl Writer {
    fn new(terms: Terms) -> Self {
        let opening = Standing::<Trip>::opening(1_000, json!({"who": "me"}), terms);
        let standing = Standing::start(&opening).expect("an opening opens");
        Self { journal: vec![opening], standing, now_ms: 1_000 }
    }

    fn append(&mut self, event: Event) {
        self.now_ms += 1;
        let entry = Entry::new(self.now_ms, event);
        self.standing.apply(&entry).unwrap_or_else(|why| panic!("{entry:?}: {why}\n{:?}", self.journal));
        self.journal.push(entry);
    }

    /// Does the next act as chance has it; false when the job rests.
    fn act(&mut self, chance: Chance) -> bool {
        let act = decide(&self.standing, self.now_ms);
        if let Some(event) = act.announce() {
            self.append(event);
        }
        if matches!(chance, Chance::CancelThenSucceed) && self.standing.can_cancel() {
            self.append(Event::CancelAsked);
        }
        match act {
            Act::Admit { until_ms } => match chance {
                Chance::FailRetry => self.now_ms = until_ms.unwrap_or(self.now_ms),
                Chance::FailFatal => {
                    let reason = UnwindReason::Failed { step: "look".into(), message: "held".into() };
                    self.append(Event::UnwindBegun { reason });
                }
                Chance::Crash | Chance::CancelThenSucceed => {}
                Chance::Succeed | Chance::Resume => self.append(Event::Admitted),
            },
            Act::Begin { step, attempt } => self.end_step(step, attempt, chance),
            Act::Commit { step, attempt } => match chance {
                Chance::Crash => {}
                Chance::FailRetry | Chance::FailFatal => {
                    self.append(Event::Failed { step: step.name().into(), attempt, error: failure(chance) });
                }
                Chance::CancelThenSucceed => {}
                Chance::Succeed | Chance::Resume => self.done(step),
            },
            Act::Undo { step, attempt } => match chance {
                Chance::Crash => {}
                Chance::FailRetry | Chance::FailFatal => {
                    let error = failure(chance);
                    self.append(Event::UndoFailed { step: step.name().into(), attempt, error });
                }
                Chance::Succeed | Chance::CancelThenSucceed | Chance::Resume => {
                    self.append(Event::Undone { step: step.name().into() });
                }
            },
            Act::WaitUntil { at_ms } if matches!(chance, Chance::Resume) => {
                assert!(at_ms > self.now_ms);
                self.append(Event::Resumed);
            }
            Act::WaitUntil { at_ms } => self.now_ms = at_ms,
            Act::WaitForPerson { .. } => self.append(Event::Resumed),
            Act::Unwind { .. } | Act::Park { .. } | Act::Finish { .. } => {}
            Act::Rest => return false,
        }
        true
    }

    fn end_step(&mut self, step: Trip, attempt: u32, chance: Chance) {
        match chance {
            Chance::Succeed | Chance::CancelThenSucceed | Chance::Resume => self.done(step),
            Chance::FailRetry | Chance::FailFatal => {
                self.append(Event::Failed { step: step.name().into(), attempt, error: failure(chance) });
            }
            Chance::Crash => {}
        }
    }

    fn done(&mut self, step: Trip) {
        self.append(Event::Done { step: step.name().into(), memo: json!({"of": step.name()}) });
    }
}

fn failure(chance: Chance) -> StepError {
    match chance {
        Chance::FailFatal => StepError::fatal("the door is walled up"),
        Chance::Succeed | Chance::FailRetry | Chance::Crash | Chance::CancelThenSucceed | Chance::Resume => {
            StepError::retry("the door is stuck")
        }
    }
}

fn any_terms() -> impl Strategy<Value = Terms> {
    let not_before_ms = proptest::option::of(0u64..3_000);
    let within_ms = proptest::option::of(0u64..2_000);
    let queue = proptest::option::of(Just("roads".to_owned()));
    (not_before_ms, within_ms, queue).prop_map(|(not_before_ms, within_ms, queue)| Terms {
        not_before_ms,
        within_ms,
        queue,
        parent: None,
    })
}

fn any_chances() -> impl Strategy<Value = (Terms, Vec<Chance>)> {
    (any_terms(), proptest::collection::vec(chance(), 0..ACTS_MAX))
}

fn journal_by(terms: Terms, chances: &[Chance]) -> Writer {
    let mut writer = Writer::new(terms);
    for chance in chances {
        if !writer.act(*chance) {
            break;
        }
    }
    writer
}

fn any_journal() -> impl Strategy<Value = Vec<Entry>> {
    any_chances().prop_map(|(terms, chances)| journal_by(terms, &chances).journal)
}

fn position(journal: &[Entry], wanted: impl Fn(&Event) -> bool) -> Option<usize> {
    journal.iter().position(|entry| wanted(&entry.event))
}

fn is_done(event: &Event, name: &str) -> bool {
    matches!(event, Event::Done { step, .. } if step == name)
}

proptest! {
    #[test]
    fn every_prefix_of_a_journal_stands_somewhere_and_what_is_decided_there_is_legal(journal in any_journal()) {
        for end in 1..=journal.len() {
            let standing = replay::<Trip>(&journal[..end]).unwrap();
            let last_ms = standing.last_ms;
            for now_ms in [0, last_ms, last_ms + 5, u64::MAX] {
                if let Some(event) = decide(&standing, now_ms).announce() {
                    let mut next = standing.clone();
                    prop_assert_eq!(next.apply(&Entry::new(now_ms, event)), Ok(()));
                }
            }
        }
    }

    #[test]
    fn a_replayed_job_stands_where_the_running_one_stood((terms, chances) in any_chances()) {
        let writer = journal_by(terms, &chances);
        prop_assert_eq!(replay::<Trip>(&writer.journal).unwrap(), writer.standing);
    }

    #[test]
    fn no_step_begins_before_the_steps_ahead_of_it_are_done(journal in any_journal()) {
        for (at, entry) in journal.iter().enumerate() {
            let Event::Begun { step, .. } = &entry.event else { continue };
            let turn = Trip::LINE.iter().position(|known| known.name() == step).unwrap();
            for ahead in &Trip::LINE[..turn] {
                prop_assert!(position(&journal[..at], |event| is_done(event, ahead.name())).is_some());
            }
        }
    }

    #[test]
    fn nothing_is_undone_after_the_deed_and_undoing_goes_in_reverse(journal in any_journal()) {
        let deed = position(&journal, |event| is_done(event, Trip::Leave.name()));
        let unwind = position(&journal, |event| matches!(event, Event::UnwindBegun { .. }));
        prop_assert!(deed.is_none() || unwind.is_none());
        let undone: Vec<usize> = journal
            .iter()
            .filter(|entry| matches!(entry.event, Event::Undone { .. }))
            .filter_map(|entry| Trip::LINE.iter().position(|known| Some(known.name()) == entry.event.step()))
            .collect();
        prop_assert!(undone.windows(2).all(|pair| pair[0] > pair[1]), "{:?}", undone);
        prop_assert!(undone.is_empty() || unwind.is_some());
    }

    #[test]
    fn nothing_begins_before_its_time_or_before_it_is_let_in(journal in any_journal()) {
        let standing = replay::<Trip>(&journal).unwrap();
        let admitted = position(&journal, |event| *event == Event::Admitted);
        let begun = position(&journal, |event| matches!(event, Event::Begun { .. }));
        if standing.terms.ask_for_admission() && begun.is_some() {
            prop_assert!(admitted < begun && admitted.is_some());
        }
        if let (Some(at), Some(not_before_ms)) = (admitted, standing.terms.not_before_ms) {
            prop_assert!(journal[at].at_ms >= not_before_ms || standing.is_time_waived);
        }
    }

    #[test]
    fn whatever_the_clock_shows_a_job_is_never_undone_for_being_late_behind_its_deed(
        journal in any_journal(),
        now_ms in any::<u64>(),
    ) {
        for end in 1..=journal.len() {
            let standing = replay::<Trip>(&journal[..end]).unwrap();
            let unwinds = matches!(decide(&standing, now_ms), Act::Unwind { .. });
            prop_assert!(!(unwinds && standing.past_no_return()));
            let is_late = standing.deadline_ms().is_some_and(|deadline_ms| deadline_ms <= now_ms);
            let all_done = standing.steps.iter().all(|step| step.state == StepState::Done);
            prop_assert!(unwinds || !is_late || all_done, "{standing:?}");
        }
    }

    #[test]
    fn a_job_that_failed_or_was_cancelled_has_undone_all_it_began(journal in any_journal()) {
        let standing = replay::<Trip>(&journal).unwrap();
        let ended_badly = matches!(standing.outcome, Some(Outcome::Failed { .. } | Outcome::Cancelled));
        prop_assume!(ended_badly);
        for step in standing.steps.iter().filter(|step| step.step.unwrap().policy().undo == Undo::Needed) {
            prop_assert!(matches!(step.state, StepState::Ahead | StepState::Undone), "{step:?}");
        }
    }

    #[test]
    fn a_job_that_is_left_alone_ends((terms, chances) in any_chances()) {
        let mut writer = journal_by(terms, &chances);
        let calm = (0..ACTS_MAX).find(|_| !writer.act(Chance::Succeed));
        prop_assert!(calm.is_some(), "{:?}", writer.standing);
        let succeeded = writer.standing.outcome == Some(Outcome::Succeeded);
        prop_assert!(succeeded || !writer.standing.past_no_return());
    }

    #[test]
    fn an_entry_in_the_wrong_place_is_refused_or_harmless_but_never_a_panic(
        journal in any_journal(),
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
    ) {
        let mut shuffled = journal.clone();
        let moved = shuffled.remove(from.index(journal.len()));
        shuffled.insert(to.index(journal.len()), moved);
        if let Ok(standing) = replay::<Trip>(&shuffled) {
            let _ = decide(&standing, 0);
        }
    }

    #[test]
    fn entries_survive_being_written_and_read(journal in any_journal()) {
        for entry in journal {
            let text = serde_json::to_string(&entry).unwrap();
            prop_assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
        }
    }

    #[test]
    fn pauses_grow_to_the_cap_and_no_further(failures in any::<u32>(), first_ms in 1u64..10_000, cap_ms in 10_000u64..100_000) {
        let backoff = Backoff { first_ms, cap_ms };
        prop_assert!(backoff.delay_ms(failures) <= cap_ms);
        prop_assert!(backoff.delay_ms(failures) <= backoff.delay_ms(failures.saturating_add(1)));
        prop_assert_eq!(backoff.delay_ms(1), first_ms);
    }
}

fn begun(step: Trip, attempt: u32) -> Event {
    Event::Begun { step: step.name().into(), attempt }
}

fn done(step: Trip) -> Event {
    Event::Done { step: step.name().into(), memo: json!(null) }
}

fn failed(step: Trip, attempt: u32, class: FailureClass) -> Event {
    let error = StepError { class, message: "it rains".into() };
    Event::Failed { step: step.name().into(), attempt, error }
}

fn journal(events: Vec<Event>) -> Vec<Entry> {
    let opening = Standing::<Trip>::opening(0, json!(null), Terms::default());
    std::iter::once(opening).chain(events.into_iter().map(|event| Entry::new(0, event))).collect()
}

/// A job that waits for its turn in a queue.
fn queued(events: Vec<Event>) -> Vec<Entry> {
    with_terms(Terms { queue: Some("roads".into()), ..Terms::default() }, events)
}

fn with_terms(terms: Terms, events: Vec<Event>) -> Vec<Entry> {
    let opening = Standing::<Trip>::opening(1_000, json!(null), terms);
    std::iter::once(opening).chain(events.into_iter().map(|event| Entry::new(1_000, event))).collect()
}

/// Everything up to the deed, then `rest`.
fn departed(rest: Vec<Event>) -> Vec<Entry> {
    let mut events = Vec::new();
    for step in [Trip::Look, Trip::Pack, Trip::Lock] {
        events.extend([begun(step, 1), done(step)]);
    }
    events.push(done(Trip::Leave));
    events.extend(rest);
    journal(events)
}

fn refusal(entries: &[Entry]) -> Illegal {
    match replay::<Trip>(entries) {
        Err(ReplayError::Illegal { index, reason, .. }) => {
            assert_eq!(index, entries.len() - 1, "refused too early: {reason}");
            reason
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn each_illegal_entry_is_refused_with_its_own_reason() {
    let unwind = Event::UnwindBegun { reason: UnwindReason::Cancelled };
    let undo = Event::UndoBegun { step: "pack".into(), attempt: 1 };
    let pack_begun = vec![begun(Trip::Look, 1), done(Trip::Look), begun(Trip::Pack, 1)];
    let with = |mut events: Vec<Event>, last: &[Event]| {
        events.extend_from_slice(last);
        journal(events)
    };
    let parked = Event::Parked { reason: "tired".into() };
    let cases = [
        (journal(vec![begun(Trip::Pack, 1)]), Illegal::NotItsTurn("look".into())),
        (journal(vec![done(Trip::Look)]), Illegal::NotBegun),
        (journal(vec![begun(Trip::Look, 2)]), Illegal::WrongAttempt { expected: 1, found: 2 }),
        (journal(vec![Event::Undone { step: "look".into() }]), Illegal::NotUnwinding),
        (journal(vec![Event::Begun { step: "fly".into(), attempt: 1 }]), Illegal::NotInLine("fly".into())),
        (journal(vec![Event::Resumed]), Illegal::NotParked),
        (journal(vec![parked.clone(), begun(Trip::Look, 1)]), Illegal::IsParked),
        (journal(vec![Event::CancelAsked, begun(Trip::Look, 1)]), Illegal::Cancelled),
        (journal(vec![Event::Finished { outcome: Outcome::Succeeded }]), Illegal::WrongOutcome),
        (with(pack_begun.clone(), &[unwind.clone(), unwind.clone()]), Illegal::Unwinding),
        (with(pack_begun.clone(), &[unwind.clone(), done(Trip::Pack)]), Illegal::Unwinding),
        (
            with(pack_begun, &[unwind.clone(), Event::Finished { outcome: Outcome::Cancelled }]),
            Illegal::WrongOutcome,
        ),
        (departed(vec![unwind]), Illegal::PastNoReturn),
        (departed(vec![undo]), Illegal::NotUnwinding),
        (journal(vec![journal(vec![]).remove(0).event]), Illegal::NotStartedOnce),
        (journal(vec![Event::Admitted]), Illegal::NotWaiting),
        (queued(vec![begun(Trip::Look, 1)]), Illegal::NotAdmitted),
        (queued(vec![Event::Admitted, Event::Admitted]), Illegal::NotWaiting),
        (queued(vec![Event::CancelAsked, Event::Admitted]), Illegal::Cancelled),
        (queued(vec![Event::Resumed]), Illegal::NotParked),
    ];
    for (entries, reason) in cases {
        assert_eq!(refusal(&entries), reason);
    }
    assert_eq!(replay::<Trip>(&[]), Err(ReplayError::Empty));
}

#[test]
fn a_step_cut_off_by_a_crash_is_repeated_with_the_same_attempt() {
    let standing = replay::<Trip>(&journal(vec![begun(Trip::Look, 1)])).unwrap();
    assert_eq!(decide(&standing, 0), Act::Begin { step: Trip::Look, attempt: 1 });
    let standing =
        replay::<Trip>(&departed(vec![begun(Trip::Greet, 1), failed(Trip::Greet, 1, FailureClass::Retry)]))
            .unwrap();
    assert_eq!(decide(&standing, 99), Act::WaitUntil { at_ms: 100 });
    assert_eq!(decide(&standing, 100), Act::Begin { step: Trip::Greet, attempt: 2 });
}

#[test]
fn a_step_is_counted_with_the_time_of_the_attempt_that_did_it_also_over_a_crash() {
    let events = [
        (100, begun(Trip::Look, 1)),
        (150, failed(Trip::Look, 1, FailureClass::Retry)),
        (300, begun(Trip::Look, 2)),
        (900, begun(Trip::Look, 2)),
        (1_000, done(Trip::Look)),
    ];
    let opening = Standing::<Trip>::opening(0, json!(null), Terms::default());
    let mut standing = Standing::<Trip>::start(&opening).unwrap();
    let counted: Vec<_> = events
        .into_iter()
        .filter_map(|(at_ms, event)| {
            standing.apply(&Entry::new(at_ms, event.clone())).unwrap();
            standing.counted(at_ms, &event)
        })
        .collect();
    let of_look = |what| Count { line: "trip", step: Some("look".to_owned()), what };
    assert_eq!(counted, [of_look(Counted::StepFailed), of_look(Counted::Done { took_ms: 700 })]);
}

#[test]
fn a_fatal_failure_unwinds_before_the_deed_and_parks_behind_it() {
    let before = vec![begun(Trip::Look, 1), failed(Trip::Look, 1, FailureClass::Fatal)];
    let standing = replay::<Trip>(&journal(before)).unwrap();
    let reason = UnwindReason::Failed { step: "look".into(), message: "it rains".into() };
    assert_eq!(decide(&standing, 0), Act::Unwind { reason });
    let behind = vec![begun(Trip::Greet, 1), failed(Trip::Greet, 1, FailureClass::Fatal)];
    let standing = replay::<Trip>(&departed(behind)).unwrap();
    assert_eq!(decide(&standing, 0), Act::Park { reason: "greet failed: it rains".into() });
}

#[test]
fn a_failed_step_is_undone_too_since_it_may_have_done_half() {
    let events = vec![
        begun(Trip::Look, 1),
        done(Trip::Look),
        begun(Trip::Pack, 1),
        failed(Trip::Pack, 1, FailureClass::Fatal),
        Event::UnwindBegun {
            reason: UnwindReason::Failed { step: "pack".into(), message: "it rains".into() },
        },
    ];
    let standing = replay::<Trip>(&journal(events)).unwrap();
    assert_eq!(decide(&standing, 0), Act::Undo { step: Trip::Pack, attempt: 1 });
}

#[test]
fn a_cancel_behind_the_deed_changes_nothing() {
    let standing = replay::<Trip>(&departed(vec![Event::CancelAsked])).unwrap();
    assert!(!standing.can_cancel());
    assert_eq!(decide(&standing, 0), Act::Begin { step: Trip::Greet, attempt: 1 });
}

#[test]
fn a_parked_job_goes_on_with_all_its_attempts_when_it_is_resumed() {
    let mut events = Vec::new();
    for attempt in 1..=ATTEMPTS_MAX {
        events.extend([begun(Trip::Greet, attempt), failed(Trip::Greet, attempt, FailureClass::Retry)]);
    }
    let spent = replay::<Trip>(&departed(events.clone())).unwrap();
    assert!(matches!(decide(&spent, 0), Act::Park { .. }));
    events.extend([Event::Parked { reason: "spent".into() }]);
    assert_eq!(
        decide(&replay::<Trip>(&departed(events.clone())).unwrap(), 0),
        Act::WaitForPerson { until_ms: None }
    );
    events.push(Event::Resumed);
    let resumed = replay::<Trip>(&departed(events)).unwrap();
    assert_eq!(decide(&resumed, 0), Act::Begin { step: Trip::Greet, attempt: ATTEMPTS_MAX + 1 });
}

#[test]
fn a_step_this_version_does_not_know_parks_the_job_and_is_never_skipped() {
    let standing = replay::<ShortTrip>(&journal(vec![begun(Trip::Look, 1), done(Trip::Look)])).unwrap();
    let Act::Park { reason } = decide(&standing, 0) else { panic!("not parked") };
    assert!(reason.contains("lock"), "{reason}");
    let parked = replay::<ShortTrip>(&journal(vec![Event::Parked { reason }])).unwrap();
    assert_eq!(decide(&parked, 0), Act::WaitForPerson { until_ms: None });
    let resumed = vec![Event::Parked { reason: "unknown".into() }, Event::Resumed];
    assert!(matches!(decide(&replay::<ShortTrip>(&journal(resumed)).unwrap(), 0), Act::Park { .. }));
}

#[test]
fn an_entry_of_a_later_version_parks_the_job() {
    let text = r#"{"v":1,"at_ms":7,"entry":"teleported","step":"look"}"#;
    let later_kind: Entry = serde_json::from_str(text).unwrap();
    assert_eq!(later_kind.event, Event::Unknown);
    let later_version = Entry { v: 2, ..Entry::new(7, begun(Trip::Look, 1)) };
    for entry in [later_kind, later_version] {
        let mut entries = journal(vec![]);
        entries.push(entry);
        assert!(matches!(decide(&replay::<Trip>(&entries).unwrap(), 0), Act::Park { .. }));
    }
}

#[test]
fn a_clock_that_was_set_back_does_not_stretch_a_pause() {
    let mut entries = departed(vec![]);
    let at_ms = 1_000_000;
    entries.push(Entry::new(at_ms, begun(Trip::Greet, 1)));
    entries.push(Entry::new(at_ms, failed(Trip::Greet, 1, FailureClass::Retry)));
    let standing = replay::<Trip>(&entries).unwrap();
    assert_eq!(decide(&standing, at_ms + 1), Act::WaitUntil { at_ms: at_ms + 100 });
    assert_eq!(decide(&standing, 5), Act::Begin { step: Trip::Greet, attempt: 2 });
}

#[test]
fn a_job_waits_for_its_time_then_for_its_turn_and_begins_at_once_when_a_person_says_so() {
    let terms = Terms { not_before_ms: Some(5_000), queue: Some("roads".into()), ..Terms::default() };
    let waiting = replay::<Trip>(&with_terms(terms.clone(), vec![])).unwrap();
    assert_eq!(decide(&waiting, 4_999), Act::WaitUntil { at_ms: 5_000 });
    assert_eq!(decide(&waiting, 5_000), Act::Admit { until_ms: None });
    assert_eq!(decide(&waiting, 0), Act::WaitUntil { at_ms: 5_000 }, "the clock was set back");
    let waived = replay::<Trip>(&with_terms(terms, vec![Event::Resumed])).unwrap();
    assert_eq!(decide(&waived, 1_001), Act::Admit { until_ms: None });
    assert!(!waived.can_resume(), "a turn in a queue is not jumped");
}

#[test]
fn a_job_that_is_cancelled_while_it_waits_ends_with_nothing_begun() {
    let standing = replay::<Trip>(&queued(vec![Event::CancelAsked])).unwrap();
    let unwind = decide(&standing, 0).announce().unwrap();
    let standing = replay::<Trip>(&queued(vec![Event::CancelAsked, unwind])).unwrap();
    assert_eq!(decide(&standing, 0), Act::Finish { outcome: Outcome::Cancelled });
}

#[test]
fn a_job_that_is_late_undoes_what_it_began_and_says_what_it_missed() {
    let terms = Terms { within_ms: Some(60_000), ..Terms::default() };
    let events = vec![begun(Trip::Look, 1), failed(Trip::Look, 1, FailureClass::Retry)];
    let standing = replay::<Trip>(&with_terms(terms.clone(), events)).unwrap();
    assert!(matches!(decide(&standing, 60_999), Act::Begin { .. }));
    let Act::Unwind { reason: UnwindReason::Failed { step, message } } = decide(&standing, 61_000) else {
        panic!("not late");
    };
    assert_eq!(step, "look");
    assert_eq!(message, "the job was to be past leave within 1 min and was not; what failed last: it rains");
    let across: Vec<_> = departed(vec![]).into_iter().skip(1).map(|entry| entry.event).collect();
    let across = replay::<Trip>(&with_terms(terms, across)).unwrap();
    assert_eq!(decide(&across, u64::MAX), Act::Begin { step: Trip::Greet, attempt: 1 });
}

#[test]
fn a_pause_ends_with_the_deadline() {
    let terms = Terms { within_ms: Some(50), ..Terms::default() };
    let events = vec![begun(Trip::Look, 1), failed(Trip::Look, 1, FailureClass::Retry)];
    let standing = replay::<Trip>(&with_terms(terms, events)).unwrap();
    assert_eq!(decide(&standing, 1_001), Act::WaitUntil { at_ms: 1_050 });
}

#[test]
fn a_delayed_job_has_all_its_time_from_when_it_is_due() {
    let terms = Terms { not_before_ms: Some(9_000), within_ms: Some(1_000), ..Terms::default() };
    let standing = replay::<Trip>(&with_terms(terms, vec![])).unwrap();
    assert_eq!(standing.deadline_ms(), Some(10_000));
}

#[test]
fn a_journal_of_a_later_form_or_line_parks_the_job_and_an_earlier_one_goes_on() {
    let opening = |format: u16, job: &str, line_version: u16| {
        let Event::Started { line, input, terms, .. } = journal(vec![]).remove(0).event else { panic!() };
        let job = job.to_owned();
        Entry::new(7, Event::Started { format, job, line_version, line, input, terms })
    };
    for (entry, part) in [
        (opening(JOURNAL_FORMAT + 1, "trip", 2), "has form 3"),
        (opening(JOURNAL_FORMAT, "trip", 3), "is of line trip 3"),
        (opening(JOURNAL_FORMAT, "cruise", 1), "is of line cruise 1"),
    ] {
        let Act::Park { reason } = decide(&replay::<Trip>(&[entry]).unwrap(), 0) else { panic!("{part}") };
        assert!(reason.contains(part), "{reason}");
    }
    for entry in [opening(1, "", 0), opening(JOURNAL_FORMAT, "trip", 1)] {
        let standing = replay::<Trip>(&[entry]).unwrap();
        assert_eq!(decide(&standing, 0), Act::Begin { step: Trip::Look, attempt: 1 });
    }
}

#[test]
fn a_line_keeps_the_rules_of_the_deed() {
    assert_eq!(check_line::<Trip>(), Ok(()));
    assert_eq!(check_line::<ShortTrip>(), Ok(()));
    assert_eq!(check_line::<Regret>(), Err(LineError::UndoBehindDeed("regret")));
}

/// A line that would take back what cannot be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Regret {
    Leave,
    Regret,
}

impl Step for Regret {
    const NAME: &'static str = "regret";
    const VERSION: u16 = 1;
    const LINE: &'static [Self] = &[Self::Leave, Self::Regret];

    fn name(self) -> &'static str {
        match self {
            Self::Leave => "leave",
            Self::Regret => "regret",
        }
    }

    fn policy(self) -> Policy {
        match self {
            Self::Leave => Trip::Leave.policy(),
            Self::Regret => Trip::Pack.policy(),
        }
    }
}
