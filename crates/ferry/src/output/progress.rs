//! How far something is, in words: pure functions, so that every line a person sees can be tested.

use std::collections::BTreeMap;
use std::time::Duration;

use ferry_api::{JobEvent, JobEventKind, JobState, Progress};

use super::bytes::{Bytes, Span};

/// `45.2 MiB of 256 MiB, 120 MiB/s, 2 s left`
pub fn hydration_text(progress: &Progress) -> String {
    let mut text = format!("{} of {}", Bytes(progress.bytes_done), Bytes(progress.bytes_total));
    if progress.bytes_from_base > 0 {
        text.push_str(&format!(", {} of it from a base", Bytes(progress.bytes_from_base)));
    }
    if progress.rate_bytes_per_s > 0 {
        text.push_str(&format!(", {}/s", Bytes(progress.rate_bytes_per_s)));
    }
    if let Some(eta_ms) = progress.eta_ms
        && progress.bytes_done < progress.bytes_total
    {
        // More than whole seconds would only pretend to know.
        let left = Span(Duration::from_secs(eta_ms.div_ceil(1000)));
        text.push_str(&if eta_ms < 1000 { ", < 1 s left".to_owned() } else { format!(", {left} left") });
    }
    text
}

/// How a line of the story begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A step is done.
    Done,
    /// Something went wrong.
    Wrong,
    /// A step was undone.
    Undone,
    /// Something to know.
    Note,
}

/// A line of a job's story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// How it begins.
    pub mark: Mark,
    /// The step it is about, if it is about one.
    pub step: Option<String>,
    /// What is told.
    pub text: String,
}

/// Tells a job's journal as lines. Feed it every event once, in order.
#[derive(Debug, Default)]
pub struct Story {
    begun_at_ms: BTreeMap<String, u64>,
    /// The step that runs now, with its attempt.
    pub current: Option<(String, u32)>,
}

impl Story {
    /// The line `event` adds to the story, if it adds one.
    pub fn tell(&mut self, event: &JobEvent) -> Option<Line> {
        let line = |mark, step: Option<&String>, text: String| Some(Line { mark, step: step.cloned(), text });
        match &event.what {
            JobEventKind::Started | JobEventKind::Admitted | JobEventKind::Finished { .. } => None,
            JobEventKind::Begun { step, attempt } => {
                self.begun_at_ms.entry(step.clone()).or_insert(event.at_ms);
                self.current = Some((step.clone(), *attempt));
                None
            }
            JobEventKind::Done { step, memo: _ } => {
                self.current = None;
                line(Mark::Done, Some(step), self.took(step, event.at_ms))
            }
            JobEventKind::Failed { step, attempt, error, retry } => {
                let then = if *retry { "; it is tried again" } else { "" };
                line(Mark::Wrong, Some(step), format!("attempt {attempt} failed: {error}{then}"))
            }
            JobEventKind::UnwindBegun { reason } => {
                self.current = None;
                line(Mark::Note, None, format!("undoing everything: {reason}"))
            }
            JobEventKind::Undone { step } => line(Mark::Undone, Some(step), "undone".to_owned()),
            JobEventKind::UndoFailed { step, error } => {
                line(Mark::Wrong, Some(step), format!("cannot be undone yet: {error}; it is tried again"))
            }
            JobEventKind::CancelAsked => line(Mark::Note, None, "asked to cancel".to_owned()),
            JobEventKind::Parked { reason } => {
                self.current = None;
                line(Mark::Wrong, None, format!("waits for you: {reason}"))
            }
            JobEventKind::Resumed => line(Mark::Note, None, "goes on".to_owned()),
        }
    }

    fn took(&self, step: &str, at_ms: u64) -> String {
        let began_ms = self.begun_at_ms.get(step).copied().unwrap_or(at_ms);
        let took_ms = at_ms.saturating_sub(began_ms);
        journal_span(took_ms)
    }
}

/// A span between two entries of a journal, which knows milliseconds only; a step without a body takes none.
pub fn journal_span(span_ms: u64) -> String {
    match span_ms {
        0 => "< 1 ms".to_owned(),
        1..1000 => format!("{span_ms} ms"),
        _ => Span(Duration::from_millis(span_ms)).to_string(),
    }
}

/// `succeeded`, as people say it.
pub fn state_text(state: JobState) -> &'static str {
    match state {
        JobState::Waiting => "waiting",
        JobState::Running => "running",
        JobState::Unwinding => "unwinding",
        JobState::Parked => "parked",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::JobId;

    fn event(at_ms: u64, what: JobEventKind) -> JobEvent {
        JobEvent { job: JobId::fresh(), seq: 1, at_ms, what }
    }

    fn begun(at_ms: u64, step: &str, attempt: u32) -> JobEvent {
        event(at_ms, JobEventKind::Begun { step: step.into(), attempt })
    }

    fn done(at_ms: u64, step: &str) -> JobEvent {
        event(at_ms, JobEventKind::Done { step: step.into(), memo: None })
    }

    #[test]
    fn progress_tells_bytes_rate_and_what_is_left() {
        let mut progress = Progress {
            bytes_total: 256 << 20,
            bytes_done: 64 << 20,
            rate_bytes_per_s: 96 << 20,
            eta_ms: Some(1500),
            ..Progress::default()
        };
        assert_eq!(hydration_text(&progress), "64 MiB of 256 MiB, 96 MiB/s, 2 s left");
        progress.bytes_done = 256 << 20;
        assert_eq!(hydration_text(&progress), "256 MiB of 256 MiB, 96 MiB/s");
        progress.rate_bytes_per_s = 0;
        assert_eq!(hydration_text(&progress), "256 MiB of 256 MiB");
    }

    #[test]
    fn a_step_is_told_when_it_is_done_with_the_time_it_took() {
        let mut story = Story::default();
        assert_eq!(story.tell(&begun(1000, "Plan", 1)), None);
        assert_eq!(story.current, Some(("Plan".to_owned(), 1)));
        let line = story.tell(&done(1012, "Plan")).unwrap();
        assert_eq!(
            (line.mark, line.step.as_deref(), line.text.as_str()),
            (Mark::Done, Some("Plan"), "12 ms")
        );
        assert_eq!(story.current, None);
        assert_eq!(story.tell(&done(1012, "HandOver")).unwrap().text, "< 1 ms");
    }

    #[test]
    fn a_step_that_needed_two_attempts_took_the_time_of_both() {
        let mut story = Story::default();
        story.tell(&begun(1000, "Boot", 1));
        let failed =
            JobEventKind::Failed { step: "Boot".into(), attempt: 1, error: "no".into(), retry: true };
        let line = story.tell(&event(1500, failed)).unwrap();
        assert_eq!(line.text, "attempt 1 failed: no; it is tried again");
        story.tell(&begun(1600, "Boot", 2));
        assert_eq!(story.tell(&done(2500, "Boot")).unwrap().text, "1.50 s");
    }

    #[test]
    fn an_unwinding_is_told_step_by_step() {
        let mut story = Story::default();
        let line = story.tell(&event(1, JobEventKind::UnwindBegun { reason: "no room".into() })).unwrap();
        assert_eq!((line.mark, line.text.as_str()), (Mark::Note, "undoing everything: no room"));
        let line = story.tell(&event(2, JobEventKind::Undone { step: "Seal".into() })).unwrap();
        assert_eq!((line.mark, line.step.as_deref()), (Mark::Undone, Some("Seal")));
    }
}
