//! `ferry job ...`, and following a job to its end.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use ferry_api::http::Client;
use ferry_api::{
    AgentApi, ApiError, AskJobs, ChildJob, ErrorCode, EventsAfter, Job, JobEvent, JobId, JobKind, JobState,
    JobStep, StepState, Waiting,
};
use serde::de::DeserializeOwned;

use super::board::Board;
use super::crossed::CopiedAhead;
use super::{base, proof, utc};
use crate::exit::Exit;
use crate::output::live::Live;
use crate::output::progress::{hydration_text, journal_span, state_text};
use crate::output::{Paint, complain, say, say_json, say_json_line, table};

/// How long one question for news waits, in milliseconds: also how often progress is redrawn.
const NEWS_WAIT_MS: u64 = 200;
/// The step during which bytes follow.
pub const HYDRATE: &str = "Hydrate";
/// Pause before an agent that went away is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

pub async fn list(agent: &Client, json: bool, ended_max: u64) -> Result<Exit> {
    let (mut jobs, is_all) = jobs(agent, ended_max).await?;
    jobs.sort_by_key(|job| std::cmp::Reverse(job.id));
    if json {
        say_json(&jobs)?;
    } else {
        let rows = jobs.iter().map(|job| {
            let ended = job.finished_at_ms.map_or_else(|| "-".to_owned(), utc);
            [job.id.to_string(), kind_text(&job.kind), standing(job), utc(job.created_at_ms), ended]
        });
        say(table::columns(["ID", "WHAT", "STATE", "BEGAN", "ENDED"], rows))?;
        if !is_all {
            say(format_args!(
                "\nthe last {ended_max} that have ended; for all of them: ferry job list --all"
            ))?;
        }
    }
    Ok(Exit::Done)
}

/// All jobs that have not ended and so many that have, the latest first, asked for in pages; and whether these are all.
async fn jobs(agent: &Client, ended_max: u64) -> Result<(Vec<Job>, bool)> {
    let (mut jobs, mut left, mut before) = (Vec::new(), ended_max, None);
    loop {
        // One more than is shown, to know whether there are more.
        let ended_max = left.saturating_add(1).min(AskJobs::ENDED_MAX);
        let mut page = agent.jobs(AskJobs { ended_max, before }).await?;
        let ended: Vec<JobId> = page.iter().filter(|job| job.state.is_final()).map(|job| job.id).collect();
        let count = u64::try_from(ended.len()).expect("a page is small");
        if count > left {
            let surplus = ended.last().copied();
            page.retain(|job| Some(job.id) != surplus);
            jobs.append(&mut page);
            return Ok((jobs, false));
        }
        jobs.append(&mut page);
        left -= count;
        before = ended.last().copied();
        if count < ended_max || before.is_none() {
            return Ok((jobs, true));
        }
    }
}

/// One line a job, the first taken on first.
pub async fn export(agent: &Client, since_ms: u64) -> Result<Exit> {
    let (mut jobs, _) = jobs(agent, u64::MAX).await?;
    jobs.retain(|job| job.created_at_ms >= since_ms);
    jobs.sort_by_key(|job| job.id);
    for job in jobs {
        match agent.job_journal(job.id).await {
            Ok(journal) => say_json_line(&journal)?,
            // It was forgotten since it was listed.
            Err(error) if error.code == ErrorCode::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Exit::Done)
}

pub async fn show(agent: &Client, json: bool, job: JobId) -> Result<Exit> {
    let job = agent.job(job).await?;
    if json {
        say_json(&job)?
    } else {
        say(sheet(&job))?
    }
    Ok(Exit::Done)
}

pub async fn watch(agent: &Client, json: bool, job: JobId) -> Result<Exit> {
    // An agent that goes away is waited for, one that was never there is not: its address may be wrong.
    agent.job(job).await?;
    let tell_json = |event: &JobEvent| if json { say_json_line(event) } else { Ok(()) };
    let mut live = Live::new(json);
    match follow(agent, job, &mut live, tell_json).await? {
        Followed::Ended(job) => {
            say_ending(json, &job)?;
            Ok(Exit::of_job(job.state))
        }
        Followed::Left => Ok(Exit::Interrupted),
    }
}

pub async fn cancel(agent: &Client, json: bool, job: JobId) -> Result<Exit> {
    tell(json, &agent.job_cancel(job).await?)
}

pub async fn resume(agent: &Client, json: bool, job: JobId) -> Result<Exit> {
    tell(json, &agent.job_resume(job).await?)
}

fn tell(json: bool, job: &Job) -> Result<Exit> {
    if json {
        say_json(job)?
    } else {
        say(format_args!("job {}: {}", job.id, standing(job)))?
    }
    Ok(Exit::Done)
}

/// How following a job ended.
#[derive(Debug)]
pub enum Followed {
    /// The job has ended or waits for a person.
    Ended(Box<Job>),
    /// Ctrl-C; the job goes on.
    Left,
}

/// Shows a job until it has ended or waits for a person. An agent that goes away is waited for: the job is in its
/// journal and goes on when it is back.
///
/// # Errors
/// The agent refuses, or stdout is gone.
pub async fn follow(
    agent: &Client,
    job: JobId,
    live: &mut Live,
    mut also: impl FnMut(&JobEvent) -> std::io::Result<()>,
) -> Result<Followed> {
    let mut after = 0;
    let mut away = false;
    let (mut children, mut board) = (BTreeMap::new(), Board::default());
    loop {
        let news = tokio::select! {
            news = agent.job_events(job, EventsAfter { after, wait_ms: NEWS_WAIT_MS }) => news,
            _ = tokio::signal::ctrl_c() => {
                live.clear();
                return Ok(Followed::Left);
            }
        };
        let news = match news {
            Ok(news) => news,
            Err(refusal) if is_away(&refusal) => {
                if !std::mem::replace(&mut away, true) {
                    live.line(&format!("  · {refusal}; waiting for it"))?;
                }
                live.now("waiting", "for the agent to come back");
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            }
            Err(refusal) => return Err(refusal.into()),
        };
        if std::mem::take(&mut away) {
            live.line("  · the agent is back")?;
        }
        for event in &news.events {
            live.event(event)?;
            also(event)?;
            after = after.max(event.seq);
        }
        for child in &news.job.children {
            let Some(told) = child.state.map(state_text) else { continue };
            if children.insert(child.job, told) != Some(told) {
                let reason = child.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
                live.line(&format!("  · {} (job {}) is {told}{reason}", child.machine_name, child.job))?;
            }
        }
        board.show(agent, &news.job, live).await?;
        if let Some(waiting) = &news.job.waiting {
            live.now("waiting", &waiting_text(waiting));
        }
        if let Some(progress) = &news.job.progress
            && live.current_step() == Some(HYDRATE)
        {
            live.progress(HYDRATE, progress)?;
        }
        let is_over = news.job.state.is_final() || news.job.state == JobState::Parked;
        if is_over && after >= news.job.last_seq {
            live.clear();
            return Ok(Followed::Ended(Box::new(news.job)));
        }
    }
}

/// The step of a job that has this name.
pub fn step<'a>(job: &'a Job, name: &str) -> Option<&'a JobStep> {
    job.steps.iter().find(|step| step.step == name)
}

/// What a step left in the journal.
pub fn memo<T: DeserializeOwned>(step: &JobStep) -> Option<T> {
    serde_json::from_value(step.memo.clone()?).ok()
}

/// How long a step took, from its first beginning on, in milliseconds.
pub fn took_ms(step: &JobStep) -> Option<u64> {
    Some(step.finished_at_ms?.saturating_sub(step.started_at_ms?))
}

/// Nobody knows more than that the agent does not answer now.
pub fn is_away(refusal: &ApiError) -> bool {
    matches!(refusal.code, ErrorCode::Unreachable | ErrorCode::Unavailable)
}

/// The last line about a job that was followed: to stdout if it did what it was asked (and nobody expects JSON there),
/// else a complaint.
///
/// # Errors
/// stdout is gone.
pub fn say_ending(json: bool, job: &Job) -> std::io::Result<()> {
    match job.state {
        JobState::Succeeded if json => Ok(()),
        JobState::Succeeded => say(format_args!("{} {}", Paint::for_stdout().good("✓"), ending(job))),
        JobState::Failed
        | JobState::Cancelled
        | JobState::Parked
        | JobState::Waiting
        | JobState::Running
        | JobState::Unwinding => {
            complain(&ending(job));
            Ok(())
        }
    }
}

/// How a job that was followed ended, in one sentence.
pub fn ending(job: &Job) -> String {
    let took = job.finished_at_ms.map(|ended_ms| ended_ms.saturating_sub(job.created_at_ms));
    let took = took.map(|took_ms| format!(" after {}", journal_span(took_ms))).unwrap_or_default();
    let reason = job.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let what = kind_text(&job.kind);
    // Each child says of itself that all is as before; what the others did stays.
    let has_children =
        matches!(job.kind, JobKind::Moves { .. } | JobKind::Drain { .. } | JobKind::Rebalance { .. });
    if has_children && job.state.is_final() {
        return format!("{what}: {}{took}{}", state_text(job.state), children_text(&job.children));
    }
    match job.state {
        JobState::Succeeded => format!("{what} succeeded{took}"),
        JobState::Failed => format!("{what} failed{took}, and everything is as before{reason}"),
        // The reason is that it was cancelled.
        JobState::Cancelled => format!("{what} was cancelled{took}, and everything is as before"),
        JobState::Parked => {
            format!("{what} waits for you{reason}; when that is mended: ferry job resume {}", job.id)
        }
        JobState::Waiting | JobState::Running | JobState::Unwinding => {
            format!("{what} is {}{reason}", state_text(job.state))
        }
    }
}

/// `; of these 2 succeeded, 1 failed (db: no room)`
fn children_text(children: &[ChildJob]) -> String {
    if children.is_empty() {
        return String::new();
    }
    let mut counts = BTreeMap::<&str, usize>::new();
    for child in children {
        *counts.entry(child.state.map_or("refused", state_text)).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let bad = children.iter().filter(|child| child.state != Some(JobState::Succeeded));
    let bad = bad.map(|child| match &child.reason {
        Some(reason) => format!("{}: {reason}", child.machine_name),
        None => child.machine_name.to_string(),
    });
    let bad: Vec<String> = bad.collect();
    let named = if bad.is_empty() { String::new() } else { format!(" ({})", bad.join("; ")) };
    format!("; of these {}{named}", counts.join(", "))
}

/// What a job does, in a few words.
pub fn kind_text(kind: &JobKind) -> String {
    match kind {
        JobKind::Move { machine: _, machine_name, from, to } => {
            format!("move of {machine_name} from {from} to {to}")
        }
        JobKind::Drain { from } => format!("drain of {from}"),
        JobKind::Rebalance { from } => format!("rebalance from {from}"),
        JobKind::Moves { from, to, moves } => {
            format!("moves of {} machines from {from} to {to}", moves.len())
        }
    }
}

/// `until 2026-03-01 03:00:00Z`, or `for its turn among the moves, place 3`
pub fn waiting_text(waiting: &Waiting) -> String {
    match waiting {
        Waiting { until_ms: Some(until_ms), .. } => format!("until {}", utc(*until_ms)),
        Waiting { queue: Some(queue), place: Some(place), .. } => {
            format!("for its turn among the {queue}, place {place}")
        }
        Waiting { .. } => "for its turn".to_owned(),
    }
}

/// `running Hydrate`
fn standing(job: &Job) -> String {
    if let Some(waiting) = &job.waiting {
        return format!("{} {}", state_text(job.state), waiting_text(waiting));
    }
    let step = job.steps.iter().find(|step| matches!(step.state, StepState::Running));
    match step {
        Some(step) if !job.state.is_final() => format!("{} {}", state_text(job.state), step.step),
        Some(_) | None => state_text(job.state).to_owned(),
    }
}

fn sheet(job: &Job) -> String {
    let mut facts = vec![
        ("id", job.id.to_string()),
        ("what", kind_text(&job.kind)),
        ("state", standing(job)),
        ("began", utc(job.created_at_ms)),
    ];
    facts.extend(job.parent.map(|parent| ("child of job", parent.to_string())));
    facts.extend(job.deadline_at_ms.map(|at_ms| ("handed over by", utc(at_ms))));
    facts.extend(job.finished_at_ms.map(|at_ms| ("ended", utc(at_ms))));
    facts.extend(job.reason.as_ref().map(|reason| ("reason", reason.clone())));
    facts.extend(job.progress.as_ref().map(|progress| ("bytes", hydration_text(progress))));
    facts.extend(CopiedAhead::of(job).map(|ahead| ("copied ahead", ahead.text())));
    facts.extend(base::of_job(job));
    facts.extend(proof::receipt_of(job).map(|receipt| ("receipt", proof::verdict(&receipt))));
    let rows = job.steps.iter().map(|step| {
        [
            step.step.clone(),
            step_text(step.state).to_owned(),
            step.attempts.to_string(),
            took_ms(step).map_or_else(|| "-".to_owned(), journal_span),
            step.error.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    });
    let children = job.children.iter().map(|child| {
        let state = child.state.map_or("-", state_text).to_owned();
        [
            child.machine_name.to_string(),
            child.job.to_string(),
            state,
            child.reason.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    });
    let children = match job.children.is_empty() {
        true => String::new(),
        false => format!("\n\n{}", table::columns(["MACHINE", "JOB", "STATE", "REASON"], children)),
    };
    let steps = table::columns(["STEP", "STATE", "ATTEMPTS", "TOOK", "LAST ERROR"], rows);
    format!("{}\n\n{steps}{children}", table::facts(facts))
}

fn step_text(state: StepState) -> &'static str {
    match state {
        StepState::Waiting => "waiting",
        StepState::Running => "running",
        StepState::Done => "done",
        StepState::Failed => "failed",
        StepState::Undone => "undone",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(state: JobState, reason: Option<&str>) -> Job {
        Job {
            id: JobId::fresh(),
            kind: JobKind::Move {
                machine: ferry_api::MachineId::fresh(),
                machine_name: "web".parse().unwrap(),
                from: "w1".parse().unwrap(),
                to: "w2".parse().unwrap(),
            },
            state,
            steps: Vec::new(),
            reason: reason.map(str::to_owned),
            progress: None,
            waiting: None,
            deadline_at_ms: None,
            parent: None,
            children: Vec::new(),
            created_at_ms: 1000,
            finished_at_ms: state.is_final().then_some(1019),
            last_seq: 1,
        }
    }

    #[test]
    fn the_end_of_a_job_is_one_sentence() {
        let said = ending(&job(JobState::Succeeded, None));
        assert_eq!(said, "move of web from w1 to w2 succeeded after 19 ms");
        let said = ending(&job(JobState::Failed, Some("no room")));
        assert_eq!(
            said,
            "move of web from w1 to w2 failed after 19 ms, and everything is as before: no room"
        );
        let said = ending(&job(JobState::Cancelled, Some("it was cancelled")));
        assert_eq!(said, "move of web from w1 to w2 was cancelled after 19 ms, and everything is as before");
        let parked = job(JobState::Parked, Some("no program"));
        assert!(
            ending(&parked)
                .ends_with(&format!("no program; when that is mended: ferry job resume {}", parked.id))
        );
    }
}
