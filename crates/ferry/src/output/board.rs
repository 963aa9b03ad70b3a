//! What moves now, as lines of a given width: facts in, lines out, so that everything a person sees can be tested.
//!
//! Invariant: no line is wider than what is asked for, since one that wraps cannot be redrawn.

use ferry_api::{ChildJob, Job, JobKind, JobState, Progress, StepState, WorkerName};

use super::bytes::{Bytes, Span};
use super::progress::{journal_span, state_text};
use std::time::Duration;

/// A name is cut at so many columns.
const NAME_MAX: usize = 20;
/// A bar has so many columns at least, or there is none, and so many at most.
const BAR: (usize, usize) = (6, 30);

/// A machine that moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub machine: String,
    /// Where it comes from.
    pub from: WorkerName,
    /// Where it goes.
    pub to: WorkerName,
    /// What is done now: a step, or what the job waits for.
    pub step: String,
    /// For how long it has been down for this, in milliseconds, or was; none before it stopped.
    pub down_ms: Option<u64>,
    /// How far its bytes are.
    pub progress: Option<Progress>,
    /// Why it waits, in one sentence.
    pub why: Option<String>,
}

impl Row {
    /// The move of one machine, at a time by this host's clock; none of other jobs.
    pub fn of(job: &Job, now_ms: u64) -> Option<Self> {
        let JobKind::Move { machine_name, from, to, .. } = &job.kind else { return None };
        let running = job.steps.iter().find(|step| step.state == StepState::Running);
        let step = match (job.state, running) {
            (JobState::Running, Some(step)) => step.step.clone(),
            (state, _) => state_text(state).to_owned(),
        };
        let done_ms = |name: &str| {
            let step = job.steps.iter().find(|step| step.step == name && step.state == StepState::Done)?;
            step.finished_at_ms
        };
        let down_ms =
            done_ms("Stop").map(|since_ms| done_ms("Boot").unwrap_or(now_ms).saturating_sub(since_ms));
        Some(Self {
            machine: machine_name.to_string(),
            from: from.clone(),
            to: to.clone(),
            step,
            down_ms,
            progress: job.progress,
            why: job.reason.clone(),
        })
    }

    fn route(&self) -> String {
        format!("{} → {}", cut(self.from.as_str(), NAME_MAX), cut(self.to.as_str(), NAME_MAX))
    }

    fn down(&self) -> String {
        self.down_ms.map_or_else(|| "-".to_owned(), journal_span)
    }
}

/// The rows under a header, and how many there are beside those for which there is no place.
pub fn lines(rows: &[Row], width: usize, lines_max: usize) -> Vec<String> {
    if rows.is_empty() || lines_max < 2 {
        return Vec::new();
    }
    let place = lines_max - 1;
    let shown = if rows.len() > place { place.saturating_sub(1) } else { rows.len() };
    let header = ["MACHINE", "FROM, TO", "STEP", "DOWN"].map(str::to_owned);
    let cells = rows[..shown]
        .iter()
        .map(|row| [cut(&row.machine, NAME_MAX), row.route(), row.step.clone(), row.down()]);
    let cells: Vec<[String; 4]> = std::iter::once(header).chain(cells).collect();
    let widths: [usize; 4] =
        std::array::from_fn(|at| cells.iter().map(|cells| columns_of(&cells[at])).max().unwrap_or(0));
    let rests = std::iter::once("DISKS".to_owned()).chain(rows[..shown].iter().map(|row| {
        let left = width.saturating_sub(widths.iter().sum::<usize>() + 4 * 2);
        match (&row.progress, &row.why) {
            (Some(progress), None) => hydration(progress, left),
            (_, Some(why)) => why.clone(),
            (None, None) => String::new(),
        }
    }));
    let mut lines: Vec<String> = cells
        .iter()
        .zip(rests)
        .map(|(cells, rest)| {
            let mut line = String::new();
            for (cell, wide) in cells.iter().zip(widths) {
                let gap = " ".repeat(wide - columns_of(cell) + 2);
                line.push_str(cell);
                line.push_str(&gap);
            }
            line.push_str(&rest);
            cut(line.trim_end(), width)
        })
        .collect();
    if shown < rows.len() {
        lines.push(cut(&format!("and {} more", rows.len() - shown), width));
    }
    lines
}

/// `[====>     ]  45 %  96 MiB/s  12 s left`, with as much of a bar as there is place for.
pub fn hydration(progress: &Progress, width: usize) -> String {
    let percent = (u128::from(progress.bytes_done) * 100).checked_div(u128::from(progress.bytes_total));
    let percent = percent.unwrap_or(100).min(100);
    let mut text = format!("{percent:3} %");
    if progress.bytes_done < progress.bytes_total {
        if progress.rate_bytes_per_s > 0 {
            text.push_str(&format!("  {}/s", Bytes(progress.rate_bytes_per_s)));
        }
        if let Some(eta_ms) = progress.eta_ms {
            text.push_str(&format!("  {} left", Span(Duration::from_secs(eta_ms.div_ceil(1_000)))));
        }
    }
    let place = width.saturating_sub(columns_of(&text) + 3).min(BAR.1);
    if place < BAR.0 { text } else { format!("{} {text}", bar(percent, place)) }
}

/// A bar of so many columns between its brackets.
pub fn bar(percent: u128, columns: usize) -> String {
    let full = usize::try_from(percent.min(100)).unwrap_or(100) * columns / 100;
    let head = if full < columns { ">" } else { "" };
    let rest = " ".repeat(columns - full - head.len());
    format!("[{}{head}{rest}]", "=".repeat(full))
}

/// `3 of 5 are done, 1 failed, 96 MiB/s together, 12 s left`: how the moves of a job stand, and those under way together.
pub fn summary(children: &[ChildJob], rows: &[Row]) -> String {
    let count = |state: JobState| children.iter().filter(|child| child.state == Some(state)).count();
    let mut text = format!("{} of {} are done", count(JobState::Succeeded), children.len());
    for (state, word) in [
        (JobState::Failed, "failed"),
        (JobState::Cancelled, "were cancelled"),
        (JobState::Parked, "wait for you"),
    ] {
        match count(state) {
            0 => {}
            some => text.push_str(&format!(", {some} {word}")),
        }
    }
    let under_way = || rows.iter().filter_map(|row| row.progress);
    let rate = under_way().map(|progress| progress.rate_bytes_per_s).fold(0, u64::saturating_add);
    if rate > 0 {
        text.push_str(&format!(", {}/s together", Bytes(rate)));
    }
    // Those that have not begun to copy are not known to take any time.
    if let Some(eta_ms) = under_way().filter_map(|progress| progress.eta_ms).max() {
        text.push_str(&format!(", {} left", Span(Duration::from_secs(eta_ms.div_ceil(1_000)))));
    }
    text
}

/// A text of so many columns at most.
pub fn cut(text: &str, width: usize) -> String {
    if columns_of(text) <= width {
        return text.to_owned();
    }
    let Some(kept) = width.checked_sub(1) else { return String::new() };
    let kept: String = text.chars().take(kept).collect();
    format!("{kept}…")
}

fn columns_of(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::JobId;

    fn row(machine: &str, step: &str, progress: Option<Progress>) -> Row {
        let (from, to) = ("w1".parse().unwrap(), "w2".parse().unwrap());
        let down_ms = (step == "Hydrate").then_some(312);
        Row { machine: machine.to_owned(), from, to, step: step.to_owned(), down_ms, progress, why: None }
    }

    fn half() -> Progress {
        Progress {
            bytes_total: 256 << 20,
            bytes_done: 128 << 20,
            rate_bytes_per_s: 96 << 20,
            eta_ms: Some(1_500),
            ..Progress::default()
        }
    }

    #[test]
    fn moves_are_lines_with_bar_rate_and_what_is_left_at_80_columns() {
        let rows = [row("db", "Hydrate", Some(half())), row("web-frontend", "Prepare", None)];
        let lines = lines(&rows, 80, 10);
        assert_eq!(
            lines,
            [
                "MACHINE       FROM, TO  STEP     DOWN    DISKS",
                "db            w1 → w2   Hydrate  312 ms  [=====>     ]  50 %  96 MiB/s  2 s left",
                "web-frontend  w1 → w2   Prepare  -",
            ]
        );
    }

    #[test]
    fn at_120_columns_the_bar_is_longer_and_no_line_is_ever_wider_than_asked_for() {
        let mut stuck = row("a-machine-with-a-name-that-is-long", "parked", None);
        stuck.why = Some("no worker takes it: ".repeat(20));
        let rows = [row("db", "Hydrate", Some(half())), stuck];
        let wide = lines(&rows, 120, 10);
        assert!(wide[1].contains(&bar(50, 30)), "{wide:#?}");
        assert!(wide[2].starts_with("a-machine-with-a-na…  w1 → w2") && wide[2].ends_with('…'), "{wide:#?}");
        for width in [0, 1, 20, 40, 80, 120, 300] {
            assert!(lines(&rows, width, 10).iter().all(|line| columns_of(line) <= width), "{width}");
        }
    }

    #[test]
    fn what_has_no_place_is_counted() {
        let rows: Vec<Row> = (0..10).map(|n| row(&format!("m{n}"), "Prepare", None)).collect();
        let lines = lines(&rows, 80, 5);
        assert_eq!((lines.len(), lines[4].as_str()), (5, "and 7 more"));
        assert!(super::lines(&[], 80, 5).is_empty());
    }

    #[test]
    fn a_machine_is_down_from_its_stop_until_it_runs_there() {
        let steps = serde_json::json!([
            { "step": "Stop", "state": "done", "attempts": 1, "started_at_ms": 900, "finished_at_ms": 1_000 },
            { "step": "Boot", "state": "running", "attempts": 1, "started_at_ms": 1_200 },
        ]);
        let mut job = Job {
            id: JobId::fresh(),
            kind: JobKind::Move {
                machine: ferry_api::MachineId::fresh(),
                machine_name: "db".parse().unwrap(),
                from: "w1".parse().unwrap(),
                to: "w2".parse().unwrap(),
            },
            state: JobState::Running,
            steps: serde_json::from_value(steps).unwrap(),
            reason: None,
            progress: None,
            waiting: None,
            deadline_at_ms: None,
            parent: None,
            children: Vec::new(),
            created_at_ms: 0,
            finished_at_ms: None,
            last_seq: 1,
        };
        let now = Row::of(&job, 1_500).unwrap();
        assert_eq!((now.step.as_str(), now.down_ms), ("Boot", Some(500)));
        job.steps[1].state = StepState::Done;
        job.steps[1].finished_at_ms = Some(1_300);
        assert_eq!(Row::of(&job, 9_000).unwrap().down_ms, Some(300));
        job.steps[0].state = StepState::Undone;
        job.state = JobState::Unwinding;
        let undone = Row::of(&job, 9_000).unwrap();
        assert_eq!((undone.step.as_str(), undone.down_ms), ("unwinding", None));
    }

    #[test]
    fn a_job_is_summed_up_with_what_its_moves_fetch_together() {
        let child = |state| ChildJob {
            job: JobId::fresh(),
            machine_name: "db".parse().unwrap(),
            state: Some(state),
            reason: None,
        };
        let children =
            [JobState::Succeeded, JobState::Failed, JobState::Running, JobState::Running].map(child);
        let slow = Progress { rate_bytes_per_s: 4 << 20, eta_ms: Some(31_000), ..half() };
        let rows = [row("a", "Hydrate", Some(half())), row("b", "Hydrate", Some(slow))];
        assert_eq!(summary(&children, &rows), "1 of 4 are done, 1 failed, 100 MiB/s together, 31 s left");
        assert_eq!(summary(&children[..1], &[]), "1 of 1 are done");
    }

    #[test]
    fn a_bar_is_as_wide_as_its_place_whatever_it_shows() {
        for percent in [0, 1, 50, 99, 100] {
            assert_eq!(bar(percent, 10).len(), 12, "{percent}");
        }
        assert_eq!(bar(100, 6), "[======]");
        assert_eq!(bar(50, 6), "[===>  ]");
    }
}
