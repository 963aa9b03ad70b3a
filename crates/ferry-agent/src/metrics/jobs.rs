//! Figures about jobs: those that have not ended, their queues, and all that was ever counted of them.

use super::Facts;
use super::page::{Durations, Labels, Page, label, seconds};
use crate::records::CountRow;
use ferry_api::{JobKind, JobState};
use ferry_crossing::MoveStep;
use ferry_crossing::drain::DrainStep;
use ferry_crossing::fleet::FleetStep;
use ferry_crossing::rebalance::RebalanceStep;
use ferry_fsm::{DURATION_BOUNDS_MS, Step};
use std::fmt::Result;

/// A line of jobs as its figures name it.
struct Line {
    name: &'static str,
    steps: Vec<&'static str>,
}

/// What a job may be while it has not ended.
const STATES: [(JobState, &str); 4] = [
    (JobState::Waiting, "waiting"),
    (JobState::Running, "running"),
    (JobState::Unwinding, "unwinding"),
    (JobState::Parked, "parked"),
];
/// How a job may end, as it is counted.
const ENDS: [&str; 3] = ["succeeded", "failed", "cancelled"];

pub(super) fn write(page: &mut Page<'_>, facts: &Facts) -> Result {
    let lines = [line::<MoveStep>(), line::<FleetStep>(), line::<DrainStep>(), line::<RebalanceStep>()];
    let standing = lines.iter().flat_map(|line| {
        STATES.map(|(state, name)| {
            let of = |job: &&ferry_api::Job| line_of(&job.kind) == line.name && job.state == state;
            let labels = vec![label("kind", line.name), label("state", name)];
            (labels, facts.jobs.iter().filter(of).count() as f64)
        })
    });
    page.gauge("ferry_jobs", "Jobs that have not ended.", standing)?;
    page.one("ferry_jobs_kept", "Jobs that have ended and are kept as history.", facts.jobs_ended as f64)?;
    let queue = |queue: &str| vec![label("queue", queue)];
    let limits = facts.queues.iter().filter_map(|line| Some((queue(&line.name), line.limit? as f64)));
    page.gauge("ferry_queue_limit", "Jobs that a queue lets work at once.", limits)?;
    let working = facts.queues.iter().map(|line| (queue(&line.name), line.at_work as f64));
    page.gauge("ferry_queue_at_work", "Jobs of a queue that work.", working)?;
    let waiting = facts.queues.iter().map(|line| (queue(&line.name), line.waiting as f64));
    page.gauge("ferry_queue_waiting", "Jobs that wait for their turn in a queue.", waiting)?;
    counted(page, &lines, &Counts(&facts.counts))
}

/// What was ever counted.
fn counted(page: &mut Page<'_>, lines: &[Line], counts: &Counts<'_>) -> Result {
    let of_jobs = |what: &'static str| {
        lines.iter().map(move |line| (vec![label("kind", line.name)], counts.of(line.name, "", what)))
    };
    page.counter("ferry_jobs_started", "Jobs that were taken on.", of_jobs("started"))?;
    let ends = lines.iter().flat_map(|line| {
        ENDS.map(|end| {
            let labels = vec![label("kind", line.name), label("outcome", end)];
            (labels, counts.of(line.name, "", end))
        })
    });
    page.counter("ferry_jobs_ended", "Jobs that have ended.", ends)?;
    page.counter("ferry_jobs_parked", "How often a job began to wait for a person.", of_jobs("parked"))?;
    let steps = || lines.iter().flat_map(|line| line.steps.iter().map(|step| (line.name, *step)));
    let durations = steps().map(|(line, step)| (step_labels(line, step), counts.durations(line, step)));
    page.durations("ferry_step_seconds", "How long the last attempt at each step took.", durations)?;
    for (name, help, what) in [
        ("ferry_step_failures", "Attempts at a step that failed.", "step_failed"),
        ("ferry_steps_undone", "Steps that were undone.", "undone"),
        ("ferry_step_undo_failures", "Attempts at undoing a step that failed.", "undo_failed"),
    ] {
        let rows = steps().map(|(line, step)| (step_labels(line, step), counts.of(line, step, what)));
        page.counter(name, help, rows)?;
    }
    Ok(())
}

fn step_labels(line: &str, step: &str) -> Labels {
    vec![label("kind", line), label("step", step)]
}

fn line<S: Step>() -> Line {
    Line { name: S::NAME, steps: S::LINE.iter().map(|step| step.name()).collect() }
}

fn line_of(kind: &JobKind) -> &'static str {
    match kind {
        JobKind::Move { .. } => MoveStep::NAME,
        JobKind::Drain { .. } => DrainStep::NAME,
        JobKind::Rebalance { .. } => RebalanceStep::NAME,
        JobKind::Moves { .. } => FleetStep::NAME,
    }
}

struct Counts<'a>(&'a [CountRow]);

impl Counts<'_> {
    fn of(&self, line: &str, step: &str, what: &str) -> u64 {
        let found = self.0.iter().find(|row| row.line == line && row.step == step && row.what == what);
        found.map_or(0, |row| row.value)
    }

    /// How long a step took each time that it was done. What an earlier version counted by other bounds falls into the
    /// next class that there is.
    fn durations(&self, line: &str, step: &str) -> Durations {
        let bounds = DURATION_BOUNDS_MS.iter().map(|bound_ms| (seconds(*bound_ms), 0));
        let mut classes: Vec<(f64, u64)> = bounds.chain([(f64::INFINITY, 0)]).collect();
        for row in self.0.iter().filter(|row| row.line == line && row.step == step) {
            let bound_s = match row.what.strip_prefix(CountRow::DONE_WITHIN_MS) {
                Some(bound) => bound.parse().map_or(f64::INFINITY, seconds),
                None if row.what == CountRow::DONE_LATER => f64::INFINITY,
                None => continue,
            };
            if let Some((_, count)) = classes.iter_mut().find(|(class, _)| bound_s <= *class) {
                *count += row.value;
            }
        }
        Durations { sum_s: seconds(self.of(line, step, CountRow::DONE_MS)), classes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(what: &str, value: u64) -> CountRow {
        CountRow { line: "move".to_owned(), step: "Boot".to_owned(), what: what.to_owned(), value }
    }

    #[test]
    fn durations_fall_into_classes_also_those_counted_by_bounds_that_are_no_more() {
        let rows = [
            row("done_within_ms:10", 2),
            row("done_within_ms:7", 1),
            row("done_later", 3),
            row("done_ms", 4_500),
            row("step_failed", 9),
        ];
        let Durations { sum_s, classes } = Counts(&rows).durations("move", "Boot");
        assert_eq!(sum_s, 4.5);
        let counted: Vec<(f64, u64)> = classes.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(0.01, 3), (f64::INFINITY, 3)]);
    }
}
