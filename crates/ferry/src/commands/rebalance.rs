//! `ferry rebalance`: which moves would make workers alike, and having them done.

use anyhow::Result;
use ferry_api::http::Client;
use ferry_api::{
    AgentApi, AskRebalance, BalanceBy, Deviation, Job, PlannedMove, RebalancePlan, RebalanceStarted,
    StartRebalance, WorkerName,
};
use serde::Serialize;

use super::agent_meant;
use super::drain::cells;
use super::job::{Followed, follow, say_ending};
use crate::exit::Exit;
use crate::output::bytes::Bytes;
use crate::output::live::Live;
use crate::output::{complain, say, say_json, table};

/// What came of a plan, for programs.
#[derive(Debug, Default, Serialize)]
struct Applied {
    /// The job of each worker that gives machines, as it ended, or as it began where its end was not waited for.
    jobs: Vec<Job>,
    /// What is not as the plan says.
    deviations: Vec<Deviation>,
}

/// Says what would be done. That nothing is to be done is no failure.
pub async fn plan(agent: &Client, json: bool, ask: AskRebalance) -> Result<Exit> {
    let plan = agent.rebalance_plan(ask).await?;
    match json {
        true => say_json(&plan)?,
        false => say(sheet(&plan))?,
    }
    Ok(Exit::Done)
}

/// Has each worker that gives machines do its part, if the world is as the plan says for all of them.
pub async fn apply(agent: &Client, json: bool, start: StartRebalance, follow_it: bool) -> Result<Exit> {
    if start.plan.parts.is_empty() {
        match json {
            true => say_json(&Applied::default())?,
            false => say("the plan moves nothing, and nothing is done")?,
        }
        return Ok(Exit::Done);
    }
    let mut givers = Vec::new();
    for part in &start.plan.parts {
        givers.push((part.from.clone(), agent_meant(agent, Some(&part.from)).await?));
    }
    let (checked, failed) = ask_all(&givers, &StartRebalance { only_check: true, ..start.clone() }).await;
    failed.map_or(Ok(()), Err)?;
    let deviations: Vec<Deviation> = checked.into_iter().flat_map(|part| part.deviations).collect();
    if !deviations.is_empty() {
        let applied = Applied { jobs: Vec::new(), deviations };
        return deviates(json, &applied, "and nothing has begun; make it again");
    }
    let (started, failed) = ask_all(&givers, &start).await;
    let deviations: Vec<Deviation> = started.iter().flat_map(|part| part.deviations.clone()).collect();
    let jobs = givers.iter().zip(&started).filter_map(|((_, agent), part)| Some((agent, part.job.clone()?)));
    // What has begun where another one cannot be asked is told all the same.
    let (jobs, exit) = watch(jobs.collect(), json, follow_it && failed.is_none()).await?;
    let applied = Applied { jobs, deviations };
    if let Some(failed) = failed {
        if json {
            say_json(&applied)?;
        }
        return Err(failed);
    }
    // It changed in the moment between.
    if !applied.deviations.is_empty() {
        return deviates(json, &applied, "so only a part of it is done; make a new one");
    }
    if json {
        say_json(&applied)?;
    }
    Ok(exit)
}

/// What each worker answers to that, in order, up to the first one that cannot be asked, and why.
async fn ask_all(
    givers: &[(WorkerName, Client)],
    start: &StartRebalance,
) -> (Vec<RebalanceStarted>, Option<anyhow::Error>) {
    let mut answers = Vec::new();
    for (worker, agent) in givers {
        match agent.rebalance_start(start.clone()).await {
            Ok(answer) => answers.push(answer),
            Err(refusal) => {
                return (answers, Some(anyhow::Error::new(refusal).context(format!("worker {worker}"))));
            }
        }
    }
    (answers, None)
}

fn deviates(json: bool, applied: &Applied, so: &str) -> Result<Exit> {
    match json {
        true => say_json(applied)?,
        false => {
            for deviation in &applied.deviations {
                say(&deviation.what)?;
            }
            complain(&format!("the plan does not fit the world any more, {so}"));
        }
    }
    Ok(Exit::Deviates)
}

/// Shows the jobs to their ends, or tells how to.
async fn watch(mut jobs: Vec<(&Client, Job)>, json: bool, follow_them: bool) -> Result<(Vec<Job>, Exit)> {
    let mut exit = Exit::Done;
    for (agent, job) in &mut jobs {
        if !follow_them {
            if !json {
                let (id, url) = (job.id, agent.url());
                say(format_args!("job {id}; watch it with: ferry job watch {id} --agent {url}"))?;
            }
            continue;
        }
        let mut live = Live::new(json);
        live.line(&format!("job {}", job.id))?;
        match follow(agent, job.id, &mut live, |_| Ok(())).await? {
            Followed::Ended(ended) => {
                say_ending(json, &ended)?;
                let its = Exit::of_job(ended.state);
                exit = if its == Exit::Done { exit } else { its };
                *job = *ended;
            }
            Followed::Left => {
                exit = Exit::Interrupted;
                break;
            }
        }
    }
    Ok((jobs.into_iter().map(|(_, job)| job).collect(), exit))
}

fn sheet(plan: &RebalancePlan) -> String {
    let by = match plan.ask.by {
        BalanceBy::Room => "room",
        BalanceBy::Load => "load",
    };
    let (before, after) = plan.gaps_permille();
    let columns = ["WORKER", "BEFORE", "AFTER"];
    let workers = plan.workers.iter().map(|worker| {
        [worker.worker.to_string(), percent(worker.before_permille), percent(worker.after_permille)]
    });
    let count = plan.moves().count();
    let mut lines = vec![match count {
        0 => format!("nothing is to be done by {by}: {}", why_nothing(plan, before)),
        _ => {
            let bytes = plan.moves().map(|(_, planned)| planned.bytes_in_use).fold(0, u64::saturating_add);
            let moves = if count == 1 { "move" } else { "moves" };
            format!(
                "{count} {moves} by {by}, {}; the gap goes from {} to {}",
                Bytes(bytes),
                percent(before),
                percent(after)
            )
        }
    }];
    lines.push(table::columns(columns, workers));
    if count > 0 {
        let columns = ["TURN", "MACHINE", "GROUP", "FROM", "TO", "MODE", "IN USE", "DOWN FOR", "WHOLE AFTER"];
        let mut moves: Vec<(&WorkerName, &PlannedMove)> = plan.moves().collect();
        moves.sort_by_key(|(_, planned)| planned.wave);
        lines.push(table::columns(columns, moves.into_iter().map(row)));
    }
    let stay = plan
        .stay
        .iter()
        .map(|stays| format!("{} stays on {}: {}", stays.machine_name, stays.worker, stays.why));
    lines.extend(stay);
    lines.extend(plan.silent.iter().map(|(worker, why)| format!("worker {worker} gives no bid: {why}")));
    lines.join("\n")
}

fn why_nothing(plan: &RebalancePlan, gap_permille: u32) -> String {
    let (gap, left) = (percent(gap_permille), percent(plan.ask.tolerance_permille));
    match gap_permille > plan.ask.tolerance_permille {
        true => format!("the gap is {gap}, and no move that may be made makes workers more alike"),
        false => format!("the gap is {gap}, and {left} is left alone"),
    }
}

/// `12.5 %`
fn percent(permille: u32) -> String {
    match permille % 10 {
        0 => format!("{} %", permille / 10),
        tenths => format!("{}.{tenths} %", permille / 10),
    }
}

fn row((from, planned): (&WorkerName, &PlannedMove)) -> [String; 9] {
    let [turn, machine, group, to, mode, in_use, down, whole] = cells(planned);
    [turn, machine, group, from.to_string(), to, mode, in_use, down, whole]
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::{JobId, RebalancePart, WorkerFill};

    fn plan(before_permille: u32) -> RebalancePlan {
        let fill = |worker: &str, before_permille| WorkerFill {
            worker: worker.parse().unwrap(),
            before_permille,
            after_permille: before_permille,
        };
        RebalancePlan {
            format: RebalancePlan::FORMAT,
            made_at_ms: 0,
            ask: AskRebalance::default(),
            workers: vec![fill("w1", before_permille), fill("w2", 0)],
            parts: Vec::new(),
            stay: Vec::new(),
            silent: Vec::new(),
        }
    }

    #[test]
    fn where_nothing_is_to_be_done_that_is_said_with_the_reason() {
        assert!(sheet(&plan(95)).starts_with(
            "nothing is to be done by room: the gap is 9.5 %, and 10 % is left alone\nWORKER   BEFORE   AFTER\nw1       9.5 %"
        ));
        assert!(sheet(&plan(400)).contains("the gap is 40 %, and no move that may be made"));
    }

    #[test]
    fn a_plan_names_where_each_machine_comes_from_and_goes() {
        let mut plan = plan(400);
        let planned = serde_json::json!({
            "machine": ferry_api::MachineId::fresh(), "machine_name": "db", "generation": 1, "to": "w2", "mode": "cold",
            "why": "it is asked for", "wave": 1, "interruption": ferry_api::Expected::default(), "bytes_in_use": 1 << 20,
            "bytes_ahead": 0, "whole_after_ms": 1_500,
        });
        let moves = vec![serde_json::from_value(planned).unwrap()];
        plan.parts.push(RebalancePart { from: "w1".parse().unwrap(), job: JobId::fresh(), moves });
        let sheet = sheet(&plan);
        assert!(sheet.starts_with("1 move by room, 1 MiB; the gap goes from 40 % to 40 %"), "{sheet}");
        let row = sheet.lines().find(|line| line.contains("db")).unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words, ["1", "db", "-", "w1", "w2", "cold", "1", "MiB", "not", "known", "2", "s"]);
    }
}
