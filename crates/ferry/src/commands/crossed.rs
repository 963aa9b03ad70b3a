//! What the receipt of a move says of the crossing itself, beside its bytes: how long the machine was down, by whose clock,
//! how it stopped, and what had to be tried again. All of it is in the job.
//!
//! Invariant: a span is told with the clocks that it rests on; none is made up where an entry is missing.

use ferry_agent::jobs::{Adopted, Booted, Hydrated, Plan, Prepared, Sealed, Stopped};
use ferry_api::{Arrival, AskedBy, Exit, Expected, HookRun, Job, JobStep, Judged, StepState};
use serde::Serialize;

use super::job::{memo, step, took_ms};
use crate::output::bytes::Bytes;

/// What the crossing was like.
#[derive(Debug, Serialize)]
pub struct Crossed {
    /// How long the machine was down; none before it runs on the target.
    pub interruption: Option<Interruption>,
    /// What became of its memory; none of a move that leaves it behind.
    pub memory: Option<MemoryCrossed>,
    /// How it stopped; none if it was paused, or if an earlier version stopped it, which did not note that.
    pub stop: Option<StopEnd>,
    /// What was copied while the machine still ran; none of a cold move that was asked for as one.
    pub ahead: Option<CopiedAhead>,
    /// How the machine was found to be there; none of a move that was not to be undone if it is not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judged: Option<Judged>,
    /// What came of the machine's hooks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<HookRun>,
    /// The steps, each with how often it was begun.
    pub steps: Vec<StepTaken>,
}

/// What became of the memory of a machine that was to move with it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct MemoryCrossed {
    /// Bytes that were sent before it was paused.
    pub bytes: u64,
    /// How often its memory was looked through for what has changed.
    pub passes: u64,
    /// How it began on the target; none before it did.
    pub arrival: Option<Arrival>,
}

/// From when the machine was down until its first process ran on the target, in milliseconds.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Interruption {
    /// Until the source heard that it runs: by the source's clock alone, and rather too long.
    pub ms_by_source: u64,
    /// Until it ran by the target's clock: exact as far as both clocks agree; negative if they do not.
    pub ms_by_both: Option<i64>,
    /// How long it took to stop before that, by the source's clock.
    pub stopping_ms: u64,
    /// What was expected of it when the move was planned, by the moves before.
    pub expected: Option<Expected>,
}

/// How a machine stopped.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum StopEnd {
    /// It did not run when it was to stop, or nobody saw it end.
    Unseen,
    /// It ended within its grace time, when it was asked to.
    Asked {
        /// Its exit code, if it exited.
        code: Option<i32>,
        /// The signal that ended it, if one did.
        signal: Option<i32>,
        /// By what, if it is a VM.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<AskedBy>,
    },
    /// It was killed when its grace time was over.
    Killed {
        /// Its grace time, in milliseconds.
        grace_ms: u64,
    },
}

/// What was copied while the machine still ran.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct CopiedAhead {
    /// How many rounds there were.
    pub rounds: u64,
    /// How many of them while the memory of the machine crossed; none of a machine that does not move with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounds_beside_memory: Option<u64>,
    /// Bytes that were copied in all of them.
    pub bytes: u64,
    /// Bytes that were still at the source when all was sealed; none if nothing was used of what was copied.
    pub bytes_left: Option<u64>,
    /// Why there was no further round, or none at all, in one sentence.
    pub ended: String,
    /// Why nothing was used of what was copied, if so.
    pub not_used: Option<String>,
}

/// A step of the move.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct StepTaken {
    /// Its name.
    pub step: String,
    /// How often it was begun.
    pub attempts: u32,
    /// How long it took in all, by the source's clock, in milliseconds.
    pub took_ms: Option<u64>,
    /// What went wrong the last time that something did.
    pub error: Option<String>,
}

impl Crossed {
    /// Of a job.
    pub fn of(job: &Job) -> Self {
        let steps = job.steps.iter().filter(|step| step.attempts > 0);
        let taken = steps.map(|step| StepTaken {
            step: step.step.clone(),
            attempts: step.attempts,
            took_ms: took_ms(step),
            error: step.error.clone(),
        });
        Self {
            interruption: interruption(job),
            stop: stop(job),
            memory: MemoryCrossed::of(job),
            ahead: CopiedAhead::of(job),
            judged: judged(job),
            hooks: hooks(job),
            steps: taken.collect(),
        }
    }

    /// For people, as facts.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = Vec::new();
        facts.extend(self.interruption.as_ref().map(|down| ("down for", down.text())));
        facts.extend(self.memory.as_ref().map(|memory| ("memory", memory.text())));
        facts.extend(self.stop.as_ref().map(|stop| ("stopped", stop.text())));
        facts.extend(self.ahead.as_ref().map(|ahead| ("copied ahead", ahead.text())));
        facts.extend(self.judged.as_ref().map(|judged| ("found there", judged_text(judged))));
        facts.extend(self.hooks.iter().map(|run| ("hook", run.to_string())));
        let again: Vec<String> = self.steps.iter().filter_map(StepTaken::again).collect();
        facts.push(("tried again", if again.is_empty() { "nothing".to_owned() } else { again.join("; ") }));
        facts
    }
}

impl Interruption {
    fn text(&self) -> String {
        let both = self.ms_by_both.map(|ms| format!(", {ms} ms by both clocks")).unwrap_or_default();
        let expected = self.expected.as_ref().map(|expected| (expected.down_ms(), expected.promised_ms));
        let expected = match expected {
            Some((Some(ms), _)) => format!("; {ms} ms were expected"),
            Some((None, Some(ms))) => format!("; at most {ms} ms were promised"),
            Some((None, None)) | None => String::new(),
        };
        format!(
            "at most {} ms by the source's clock{both}, after {} ms of stopping{expected}",
            self.ms_by_source, self.stopping_ms
        )
    }
}

impl MemoryCrossed {
    fn of(job: &Job) -> Option<Self> {
        let copied = memo::<Stopped>(done(job, "Stop")?)?.memory?;
        let arrival = done(job, "Boot").and_then(memo::<Booted>).and_then(|booted| booted.arrival);
        Some(Self { bytes: copied.bytes, passes: copied.passes, arrival })
    }

    fn text(&self) -> String {
        let Self { bytes, passes, arrival } = self;
        let sent = format!("{} sent in {passes} passes before it was paused", Bytes(*bytes));
        match arrival {
            None => sent,
            Some(Arrival::Live) => format!("{sent}; it went on with it"),
            Some(Arrival::Rebooted) => {
                format!("{sent}; lost behind the hand-over, so the machine was rebooted from its disks")
            }
        }
    }
}

impl CopiedAhead {
    /// Of a job whose machine may still run.
    pub fn of(job: &Job) -> Option<Self> {
        let ahead = memo::<Prepared>(done(job, "Prepare")?)?.ahead?;
        let sealed = done(job, "Seal").and_then(memo::<Sealed>).unwrap_or_default();
        let left = |adopted: Vec<Adopted>| adopted.iter().map(|adopted| adopted.bytes_remote).sum();
        let kept_up = done(job, "Stop").and_then(memo::<Stopped>).and_then(|stopped| stopped.kept_up);
        let beside = kept_up.as_ref().map(|kept_up| (kept_up.rounds, kept_up.bytes));
        let (rounds, bytes) = beside.unwrap_or_default();
        Some(Self {
            rounds: rounds + ahead.rounds.len() as u64,
            rounds_beside_memory: beside.map(|(rounds, _)| rounds),
            bytes: bytes + ahead.rounds.iter().map(|round| round.bytes).sum::<u64>(),
            bytes_left: sealed.adopted.map(left),
            ended: kept_up.and_then(|kept_up| kept_up.ended).unwrap_or(ahead.ended),
            not_used: sealed.not_adopted,
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let Self { rounds, rounds_beside_memory, bytes, bytes_left, ended, not_used } = self;
        let beside = rounds_beside_memory.filter(|beside| *beside > 0);
        let beside =
            beside.map(|beside| format!(" ({beside} of them beside its memory)")).unwrap_or_default();
        let copied = format!("{} in {rounds} rounds{beside}", Bytes(*bytes));
        match (rounds, bytes_left, not_used) {
            (0, _, _) => format!("nothing: {ended}"),
            (_, Some(left), _) => format!("{copied}, and {} followed", Bytes(*left)),
            (_, None, Some(why)) => format!("{copied}, of no use: {why}"),
            (_, None, None) => format!("{copied}: {ended}"),
        }
    }
}

impl StopEnd {
    fn text(&self) -> String {
        match self {
            Self::Unseen => "it did not run, or nobody saw it end".to_owned(),
            Self::Asked { code, signal, by } => {
                let by = by.map(|by| format!(" by {by}")).unwrap_or_default();
                let how = match (code, signal) {
                    (Some(code), _) => format!(", with code {code}"),
                    (None, Some(signal)) => format!(", by signal {signal}"),
                    (None, None) => String::new(),
                };
                format!("as asked{by}{how}")
            }
            Self::Killed { grace_ms } => format!("killed after its grace time of {grace_ms} ms"),
        }
    }
}

impl StepTaken {
    fn again(&self) -> Option<String> {
        let error = self.error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
        (self.attempts > 1).then(|| format!("{} {} times{error}", self.step, self.attempts))
    }
}

fn interruption(job: &Job) -> Option<Interruption> {
    let (stop, boot) = (done(job, "Stop")?, done(job, "Boot")?);
    let (stopped_ms, heard_ms) = (stop.finished_at_ms?, boot.finished_at_ms?);
    let ran_ms = memo::<Booted>(boot)?.booted_at_ms?;
    let signed = |ms: u64| i64::try_from(ms).ok();
    Some(Interruption {
        ms_by_source: heard_ms.saturating_sub(stopped_ms),
        ms_by_both: signed(ran_ms).zip(signed(stopped_ms)).map(|(ran, stopped)| ran - stopped),
        stopping_ms: took_ms(stop).unwrap_or(0),
        expected: done(job, "Plan").and_then(memo::<Plan>).and_then(|plan| plan.expected),
    })
}

/// How the machine was found to be on the target, if that was asked and is known.
pub fn judged(job: &Job) -> Option<Judged> {
    memo::<Hydrated>(done(job, "Hydrate")?)?.judged
}

/// For people.
pub fn judged_text(judged: &Judged) -> String {
    match judged {
        Judged::Well { .. } => "well".to_owned(),
        Judged::TakenBack { job, why, .. } => format!("not well: {why}; taken back by job {job} there"),
        Judged::Stays { why, .. } => format!("it stays: {why}"),
    }
}

/// How the machine ended when it was to stop.
fn stop(job: &Job) -> Option<StopEnd> {
    let plan: Plan = memo(done(job, "Plan")?)?;
    let step = done(job, "Stop")?;
    let begun_ms = step.started_at_ms?;
    let stopped = memo::<Stopped>(step)?;
    if stopped.memory.is_some() {
        return None;
    }
    let exit = stopped.last_exit.filter(|exit: &Exit| exit.at_ms >= begun_ms);
    Some(match exit.map(|exit| (exit.code, exit.signal, exit.asked)) {
        None | Some((None, None, None)) => StopEnd::Unseen,
        Some((None, Some(9), _)) if plan.spec.stop_signal.number() != 9 => {
            StopEnd::Killed { grace_ms: plan.spec.stop_grace_ms }
        }
        Some((code, signal, by)) => StopEnd::Asked { code, signal, by },
    })
}

/// What came of the machine's hooks, in their order.
fn hooks(job: &Job) -> Vec<HookRun> {
    let before = done(job, "Prepare").and_then(memo::<Prepared>).map(|prepared| prepared.hooks);
    let after = done(job, "Hydrate").and_then(memo::<Hydrated>).and_then(|hydrated| hydrated.after_move);
    before.unwrap_or_default().into_iter().chain(after).collect()
}

fn done<'a>(job: &'a Job, name: &str) -> Option<&'a JobStep> {
    step(job, name).filter(|step| step.state == StepState::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_wrong_is_told_with_how_often_it_was_tried() {
        let step = |attempts| StepTaken {
            step: "Activate".to_owned(),
            attempts,
            took_ms: Some(1),
            error: Some("w2 did not answer".to_owned()),
        };
        let crossed = Crossed {
            interruption: None,
            memory: None,
            stop: Some(StopEnd::Killed { grace_ms: 5 }),
            ahead: None,
            judged: None,
            hooks: Vec::new(),
            steps: vec![step(3)],
        };
        let facts = crossed.facts();
        assert_eq!(facts[0], ("stopped", "killed after its grace time of 5 ms".to_owned()));
        assert_eq!(facts[1], ("tried again", "Activate 3 times (w2 did not answer)".to_owned()));
        assert_eq!(step(1).again(), None);
    }

    #[test]
    fn what_became_of_the_memory_is_told_also_when_it_was_lost() {
        let memory = |arrival| MemoryCrossed { bytes: 3 << 20, passes: 2, arrival }.text();
        assert_eq!(
            memory(Some(Arrival::Live)),
            "3 MiB sent in 2 passes before it was paused; it went on with it"
        );
        assert!(memory(Some(Arrival::Rebooted)).ends_with("so the machine was rebooted from its disks"));
    }

    #[test]
    fn rounds_beside_the_memory_are_told_apart() {
        let ahead = |beside| CopiedAhead {
            rounds: 5,
            rounds_beside_memory: beside,
            bytes: 3 << 20,
            bytes_left: Some(1 << 20),
            ended: String::new(),
            not_used: None,
        };
        assert_eq!(ahead(None).text(), "3 MiB in 5 rounds, and 1 MiB followed");
        assert_eq!(ahead(Some(0)).text(), ahead(None).text());
        assert_eq!(
            ahead(Some(2)).text(),
            "3 MiB in 5 rounds (2 of them beside its memory), and 1 MiB followed"
        );
    }

    #[test]
    fn a_span_is_told_with_its_clocks() {
        let down = Interruption { ms_by_source: 31, ms_by_both: Some(-2), stopping_ms: 4, expected: None };
        assert_eq!(
            down.text(),
            "at most 31 ms by the source's clock, -2 ms by both clocks, after 4 ms of stopping"
        );
    }
}
