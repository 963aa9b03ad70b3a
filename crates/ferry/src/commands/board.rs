//! The moves that a job leads, shown while it is followed: redrawn on a terminal, elsewhere a line when something changes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use ferry_api::http::Client;
use ferry_api::{AgentApi, AskJobs, Job};

use crate::output::board::{Row, cut, lines, summary};
use crate::output::live::Live;
use crate::output::progress::{hydration_text, journal_span};
use crate::output::terminal_size;

/// How often the moves are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the progress of one is told where nothing can be redrawn.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// Lines of the terminal that are left to what stays.
const LEFT_TO_OTHERS: usize = 4;

/// What was shown so far.
#[derive(Debug, Default)]
pub struct Board {
    looked_at: Option<Instant>,
    /// Of each machine, what was told and when.
    told: BTreeMap<String, (String, Instant)>,
}

impl Board {
    /// Shows the moves of a job as they stand, from time to time. An agent that does not answer is asked again later.
    ///
    /// # Errors
    /// stdout is gone.
    pub async fn show(&mut self, agent: &Client, job: &Job, live: &mut Live) -> Result<()> {
        let is_early = self.looked_at.is_some_and(|at| at.elapsed() < LOOK_EVERY);
        if job.children.is_empty() || is_early || !live.is_shown() {
            return Ok(());
        }
        let Ok(jobs) = agent.jobs(AskJobs { ended_max: 0, before: None }).await else { return Ok(()) };
        self.looked_at = Some(Instant::now());
        let children = jobs.iter().filter(|child| child.parent == Some(job.id));
        let mut rows: Vec<Row> = children.filter_map(|child| Row::of(child, now_ms())).collect();
        rows.sort_by(|one, other| one.machine.cmp(&other.machine));
        if live.is_terminal() {
            let (width, height) = terminal_size();
            let mut shown = vec![cut(&summary(&job.children, &rows), width)];
            shown.extend(lines(&rows, width, height.saturating_sub(LEFT_TO_OTHERS)));
            live.lines(&shown);
            return Ok(());
        }
        for row in &rows {
            self.tell(row, live)?;
        }
        Ok(())
    }

    /// A line about a machine, if it has come to another step or is long under way.
    fn tell(&mut self, row: &Row, live: &Live) -> Result<()> {
        let is_known = self.told.get(&row.machine).is_some_and(|(step, at)| {
            *step == row.step && (row.progress.is_none() || at.elapsed() < PLAIN_EVERY)
        });
        if is_known {
            return Ok(());
        }
        self.told.insert(row.machine.clone(), (row.step.clone(), Instant::now()));
        Ok(live.line(&plain(row))?)
    }
}

/// `  .. db from w1 to w2: Hydrate, down for 312 ms, 128 MiB of 256 MiB, 96 MiB/s, 2 s left`
fn plain(row: &Row) -> String {
    let mut text = format!("  .. {} from {} to {}: {}", row.machine, row.from, row.to, row.step);
    if let Some(down_ms) = row.down_ms {
        text.push_str(&format!(", down for {}", journal_span(down_ms)));
    }
    if let Some(progress) = &row.progress {
        text.push_str(&format!(", {}", hydration_text(progress)));
    }
    if let Some(why) = &row.why {
        text.push_str(&format!(": {why}"));
    }
    text
}

/// This host's clock, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_is_one_plain_line() {
        let mut row = Row {
            machine: "db".to_owned(),
            from: "w1".parse().unwrap(),
            to: "w2".parse().unwrap(),
            step: "Stop".to_owned(),
            down_ms: None,
            progress: None,
            why: None,
        };
        assert_eq!(plain(&row), "  .. db from w1 to w2: Stop");
        (row.step, row.down_ms) = ("Boot".to_owned(), Some(312));
        row.why = Some("Boot: no program".to_owned());
        assert_eq!(plain(&row), "  .. db from w1 to w2: Boot, down for 312 ms: Boot: no program");
    }
}
