//! `ferry drain`: what it would do, doing it, and showing how far it is.

use anyhow::{Result, bail};
use ferry_api::http::Client;
use ferry_api::{
    AgentApi, AskDrain, AskJobs, DrainPlan, Job, JobKind, JobState, MoveMode, PauseDrain, PlannedMove,
    StartDrain, WorkerName,
};

use super::agent_meant;
use super::foreseen::down_for;
use super::job::{Followed, ending, follow, say_ending};
use crate::exit::Exit;
use crate::output::bytes::Bytes;
use crate::output::live::Live;
use crate::output::{complain, say, say_json, table};

/// What is wanted of a drain.
#[derive(Debug)]
pub enum Wish {
    /// To know what it would do.
    Plan(AskDrain),
    /// That it is done.
    Start(Box<StartDrain>),
    /// That it begins no further move, or goes on.
    Pause(bool),
    /// That it ends.
    Cancel,
    /// To see the one that is under way.
    Watch,
}

/// Asks the agent of the worker that is meant.
pub async fn drain(
    agent: &Client,
    json: bool,
    worker: &WorkerName,
    wish: Wish,
    follow_it: bool,
) -> Result<Exit> {
    let agent = agent_meant(agent, Some(worker)).await?;
    match wish {
        Wish::Plan(ask) => plan(&agent, json, ask).await,
        Wish::Start(start) => begin(&agent, json, *start, follow_it).await,
        Wish::Pause(paused) => {
            let job = agent.drain_pause(PauseDrain { paused }).await?;
            match json {
                true => say_json(&job)?,
                false if paused => say(format_args!(
                    "{}: it begins no further move until `ferry drain {worker} --resume`",
                    ending(&job)
                ))?,
                false => say(format_args!("{}: it goes on", ending(&job)))?,
            }
            Ok(Exit::Done)
        }
        Wish::Watch => {
            let jobs = agent.jobs(AskJobs { ended_max: 0, before: None }).await?;
            let Some(job) = jobs.iter().find(|job| matches!(job.kind, JobKind::Drain { .. })) else {
                bail!("worker {worker} is not being drained; `ferry job list` shows what has ended")
            };
            watch(&agent, json, job, true).await
        }
        Wish::Cancel => {
            let job = agent.drain_cancel().await?;
            let exit = watch(&agent, json, &job, follow_it).await?;
            // That it did not succeed is what was wanted.
            let is_wanted = exit == Exit::JobFailed && agent.job(job.id).await?.state == JobState::Cancelled;
            Ok(if is_wanted { Exit::Done } else { exit })
        }
    }
}

async fn plan(agent: &Client, json: bool, ask: AskDrain) -> Result<Exit> {
    let plan = agent.drain_plan(ask).await?;
    match json {
        true => say_json(&plan)?,
        false => say(sheet(&plan))?,
    }
    let is_kept = plan.blocked().next().is_none() && plan.late().next().is_none();
    Ok(if is_kept { Exit::Done } else { Exit::Failed })
}

async fn begin(agent: &Client, json: bool, start: StartDrain, follow_it: bool) -> Result<Exit> {
    let started = agent.drain_start(start).await?;
    let Some(job) = &started.job else {
        match json {
            true => say_json(&started)?,
            false => {
                for deviation in &started.deviations {
                    say(&deviation.what)?;
                }
                complain("the plan does not fit the world any more, and nothing has begun; make it again");
            }
        }
        return Ok(Exit::Deviates);
    };
    watch(agent, json, job, follow_it).await
}

/// Shows a drain to its end, or tells how to.
async fn watch(agent: &Client, json: bool, job: &Job, follow_it: bool) -> Result<Exit> {
    if follow_it {
        let mut live = Live::new(json);
        live.line(&format!("job {}", job.id))?;
        if let Followed::Ended(job) = follow(agent, job.id, &mut live, |_| Ok(())).await? {
            if json {
                say_json(&job)?;
            }
            say_ending(json, &job)?;
            return Ok(Exit::of_job(job.state));
        }
    }
    match json {
        true => say_json(&agent.job(job.id).await?)?,
        false => say(format_args!(
            "the drain is job {}; watch it with: ferry job watch {} --agent {}",
            job.id,
            job.id,
            agent.url()
        ))?,
    }
    Ok(if follow_it { Exit::Interrupted } else { Exit::Done })
}

fn sheet(plan: &DrainPlan) -> String {
    let columns = ["TURN", "MACHINE", "GROUP", "TO", "MODE", "IN USE", "DOWN FOR", "WHOLE AFTER"];
    let rows = table::columns(columns, plan.machines.iter().map(cells));
    let mut lines =
        vec![format!("drain of {}, in {} turns, {}", plan.from, plan.waves(), Bytes(plan.bytes())), rows];
    for blocked in plan.blocked() {
        let why = blocked.blockers.iter().map(|why| format!("{} cannot leave: {why}", blocked.machine_name));
        lines.extend(why);
    }
    for planned in plan.moves() {
        lines.extend(planned.costs.iter().map(|cost| format!("{} by force: {cost}", planned.machine_name)));
    }
    lines.extend(plan.late().map(|late| format!("{} is not whole at the deadline", late.machine_name)));
    lines.extend(plan.silent.iter().map(|(worker, why)| format!("worker {worker} gives no bid: {why}")));
    lines.join("\n")
}

/// Its turn, name, group, target, how it goes, bytes, how long it is down, when it is whole.
pub(super) fn cells(planned: &PlannedMove) -> [String; 8] {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let mode = match planned.mode {
        MoveMode::Live => "live",
        MoveMode::Warm => "warm",
        MoveMode::Cold | MoveMode::Auto => "cold",
    };
    [
        or_none(planned.wave.map(|wave| wave.to_string())),
        planned.machine_name.to_string(),
        or_none(planned.group.as_ref().map(ToString::to_string)),
        or_none(planned.to.as_ref().map(ToString::to_string)),
        mode.to_owned(),
        Bytes(planned.bytes_in_use).to_string(),
        down_for(&planned.interruption),
        planned
            .whole_after_ms
            .map_or_else(|| "not known".to_owned(), |ms| format!("{} s", ms.div_ceil(1_000))),
    ]
}
