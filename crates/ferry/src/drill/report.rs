//! What a drill tells: each row that is not as it must be, and a table of all, by step and by what went wrong.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::play::{Ending, Played};
use super::row::{Fault, Kind, Row, Victim};
use crate::output::bytes::Span;
use crate::output::{Paint, table};

/// Of so many rows one may be short.
const ONE_SHORT_IN: usize = 20;

/// A row and what came of it.
#[derive(Debug, Serialize)]
pub struct Told {
    /// The row.
    #[serde(flatten)]
    pub row: Row,
    /// The step that was under way.
    pub step: String,
    /// Whether all is as it must be.
    pub ok: bool,
    /// How it ended, if it is.
    pub ending: Option<Ending>,
    /// What is not as it must be.
    pub fault_found: Option<String>,
    /// Where to look then.
    pub look_at: Option<PathBuf>,
    /// Processes that were killed.
    pub kills: usize,
    /// Whether one of those to be killed had ended by itself by then.
    pub is_short: bool,
    /// All it took, in milliseconds.
    pub took_ms: u64,
    /// The longest time without an acknowledged record, in milliseconds.
    pub pause_ms: u64,
}

impl Told {
    /// What came of `row`; `dir` is where it was played.
    pub fn new(row: Row, played: Played, dir: PathBuf) -> Self {
        let Played { ending, kills, is_short, took_ms, pause_ms } = played;
        let (ending, fault_found) = match ending {
            Ok(ending) => (Some(ending), None),
            Err(fault) => (None, Some(fault)),
        };
        let ok = fault_found.is_none();
        let look_at = (!ok).then_some(dir);
        let step = row.point.phase.clone();
        Self { row, step, ok, ending, fault_found, look_at, kills, is_short, took_ms, pause_ms }
    }

    /// For a row that is not as it must be: what, and where to look.
    pub fn complaint(&self) -> Option<String> {
        let (fault, dir) = (self.fault_found.as_ref()?, self.look_at.as_ref()?);
        Some(format!("{}: {fault} (logs, records and volumes are in {})", self.row, dir.display()))
    }
}

/// Everything a drill tells at its end; with `--json` exactly this.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether every row is as it must be.
    pub ok: bool,
    /// Rows that were played.
    pub rows_played: usize,
    /// Rows that are not as they must be.
    pub rows_wrong: usize,
    /// Rows in which one of those to be killed had ended by itself by then; more than a few make a drill that is not ok.
    pub rows_short: usize,
    /// Processes that were killed.
    pub kills: usize,
    /// Outages of the link.
    pub outages: usize,
    /// All it took, in milliseconds.
    pub took_ms: u64,
    /// Each row.
    pub rows: Vec<Told>,
}

impl Report {
    /// Counts `rows`.
    pub fn new(rows: Vec<Told>, took: Duration) -> Self {
        let rows_wrong = rows.iter().filter(|told| !told.ok).count();
        let rows_short = rows.iter().filter(|told| told.is_short).count();
        Self {
            ok: rows_wrong == 0 && rows_short <= rows.len() / ONE_SHORT_IN,
            rows_played: rows.len(),
            rows_wrong,
            rows_short,
            kills: rows.iter().map(|told| told.kills).sum(),
            outages: rows.iter().filter(|told| matches!(told.row.fault, Fault::Link(_))).count(),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            rows,
        }
    }

    /// The tables and the verdict.
    pub fn for_people(&self, paint: Paint) -> String {
        let mut text = String::new();
        for kind in Kind::ALL {
            let of_kind: Vec<&Told> = self.rows.iter().filter(|told| told.row.kind == kind).collect();
            if !of_kind.is_empty() {
                text.push_str(&format!(
                    "{kind}: rows, and the longest pause of the machine\n{}\n\n",
                    by_step(&of_kind)
                ));
            }
        }
        let counts = format!(
            "{} rows, {} processes killed, {} outages of the link, in {}",
            self.rows_played,
            self.kills,
            self.outages,
            Span(Duration::from_millis(self.took_ms))
        );
        let verdict = if self.ok {
            format!(
                "{} {counts}: after each the machine ran once, on the right side, with every record",
                paint.good("✓")
            )
        } else {
            format!("{} {counts}: {} are not as they must be", paint.bad("✗"), self.rows_wrong)
        };
        text.push_str(&verdict);
        if self.rows_short > 0 {
            text.push_str(&format!(
                "\n  in {} rows one of two to be killed had ended by itself by then",
                self.rows_short
            ));
        }
        text
    }
}

/// The groups of faults that have a column each.
const COLUMNS: [&str; 8] =
    ["STEP", "SOURCE AGENT", "TARGET AGENT", "SOURCE SERVER", "TARGET SERVER", "MACHINE", "PAIRS", "LINK"];

fn column(fault: Fault) -> usize {
    match fault {
        Fault::Kill(Victim::SourceAgent) => 1,
        Fault::Kill(Victim::TargetAgent) => 2,
        Fault::Kill(Victim::SourceServer) => 3,
        Fault::Kill(Victim::TargetServer) => 4,
        Fault::Kill(Victim::Machine) => 5,
        Fault::Pair(..) => 6,
        Fault::Link(_) => 7,
    }
}

fn by_step(told: &[&Told]) -> String {
    let mut steps: Vec<&str> = Vec::new();
    for one in told {
        if !steps.contains(&one.row.point.phase.as_str()) {
            steps.push(&one.row.point.phase);
        }
    }
    let rows = steps.into_iter().map(|step| {
        let here: Vec<&Told> = told.iter().copied().filter(|one| one.row.point.phase == step).collect();
        let mut cells = [(); COLUMNS.len()].map(|()| String::new());
        cells[0] = step.to_owned();
        for (index, cell) in cells.iter_mut().enumerate().skip(1) {
            *cell = cell_of(here.iter().copied().filter(|one| column(one.row.fault) == index));
        }
        cells
    });
    table::columns(COLUMNS, rows)
}

fn cell_of<'a>(told: impl Iterator<Item = &'a Told>) -> String {
    let (mut count, mut wrong, mut pause_ms) = (0, 0, 0);
    for one in told {
        count += 1;
        wrong += usize::from(!one.ok);
        pause_ms = pause_ms.max(one.pause_ms);
    }
    match (count, wrong) {
        (0, _) => "-".to_owned(),
        (count, 0) => format!("{count} ✓ {}", Span(Duration::from_millis(pause_ms))),
        (count, wrong) => format!("{count}, {wrong} ✗"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::point::{Point, Role};
    use super::super::row::Outage;
    use super::*;
    use std::collections::BTreeSet;

    fn told(phase: &str, fault: Fault, ending: Result<Ending, String>) -> Told {
        let point = Point {
            role: Role::Source,
            at: "before call boot".to_owned(),
            phase: phase.to_owned(),
            is_behind: true,
            is_late: false,
            there: BTreeSet::new(),
        };
        let played = Played { ending, kills: 1, is_short: false, took_ms: 900, pause_ms: 40 };
        Told::new(Row { kind: Kind::Move, point, fault }, played, PathBuf::from("/d"))
    }

    #[test]
    fn rows_are_counted_by_step_and_by_what_went_wrong() {
        let rows = vec![
            told("Seal", Fault::Kill(Victim::Machine), Ok(Ending::Moved)),
            told("Seal", Fault::Kill(Victim::Machine), Ok(Ending::Moved)),
            told("Boot", Fault::Link(Outage::Cut), Err("it runs twice".to_owned())),
        ];
        let report = Report::new(rows, Duration::from_secs(2));
        assert_eq!((report.ok, report.rows_wrong, report.kills, report.outages), (false, 1, 3, 1));
        let text = report.for_people(Paint::none());
        assert!(text.contains("2 ✓ 40.0 ms") && text.contains("1, 1 ✗"), "{text}");
        assert!(text.ends_with("1 are not as they must be"), "{text}");
    }

    #[test]
    fn a_drill_in_which_too_few_were_killed_is_not_ok() {
        let rows = |short: usize| {
            let mut rows: Vec<Told> =
                (0..40).map(|_| told("Seal", Fault::Kill(Victim::Machine), Ok(Ending::Moved))).collect();
            rows.iter_mut().take(short).for_each(|told| told.is_short = true);
            Report::new(rows, Duration::from_secs(2))
        };
        assert!(rows(2).ok && !rows(3).ok);
    }

    #[test]
    fn a_row_that_is_wrong_says_what_and_where_to_look() {
        let wrong = told("Boot", Fault::Kill(Victim::SourceAgent), Err("it runs twice".to_owned()));
        let wanted = "move: source before call boot: kill source agent: it runs twice (logs, records and volumes are in /d)";
        assert_eq!(wrong.complaint().unwrap(), wanted);
        assert_eq!(told("Boot", Fault::Link(Outage::Reset), Ok(Ending::Moved)).complaint(), None);
    }
}
