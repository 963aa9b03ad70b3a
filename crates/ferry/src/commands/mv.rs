//! `ferry move`: there, back, and not at all.

use anyhow::{Result, bail};
use ferry_api::http::Client;
use ferry_api::{
    AgentApi, ApiError, CancelMove, DriverKind, ErrorCode, Job, JobId, JobKind, JobState, Judged, MachineRef,
    MachineState, StartMove, StartMoves, UndoMove, WorkerName,
};

use super::job::{Followed, ending, follow, say_ending};
use super::{agent_of, crossed};
use crate::exit::Exit;
use crate::meant::asked;
use crate::output::live::Live;
use crate::output::{complain, say, say_json};

/// Workers that are asked at most for a machine that has moved on.
const HOPS_MAX: u32 = 16;

pub async fn start(agent: &Client, json: bool, start: StartMove, follow_it: bool) -> Result<Exit> {
    let job = agent.move_start(start).await?;
    watch(agent, json, &job, follow_it).await
}

/// Moves several machines as one job.
pub async fn start_several(agent: &Client, json: bool, start: StartMoves, follow_it: bool) -> Result<Exit> {
    let job = agent.moves_start(start).await?;
    watch(agent, json, &job, follow_it).await
}

/// Takes a machine back. Whichever worker is asked, the agent that has the machine now is found and asked.
pub async fn undo(agent: &Client, json: bool, undo: UndoMove, follow_it: bool) -> Result<Exit> {
    let mut undo = of_job(agent, undo).await?;
    let mut asked = agent.clone();
    for _ in 0..HOPS_MAX {
        match asked.move_undo(undo.clone()).await {
            Ok(job) => return watch(&asked, json, &job, follow_it).await,
            Err(refusal) if refusal.code == ErrorCode::HandedOver => {}
            Err(refusal) => return Err(refusal.into()),
        }
        let machine = asked.machine(&undo.machine).await?;
        undo.machine = MachineRef::Id(machine.id);
        let MachineState::HandedOver { to } = &machine.state else { continue };
        asked = match agent_of(&asked, to).await? {
            Some(agent) => agent,
            None => bail!(
                "the machine is on worker {to} now, which the agent at {} does not know; ask the agent there (--agent)",
                asked.url()
            ),
        };
        if let Err(refusal) = asked.worker_for(DriverKind::Process).await {
            bail!(out_of_reach(machine.name.as_str(), to, &asked, &refusal));
        }
    }
    bail!("{} moves on faster than it can be followed; ask again", undo.machine)
}

/// A job may be named instead of its machine.
async fn of_job(agent: &Client, undo: UndoMove) -> Result<UndoMove> {
    let Ok(id) = undo.machine.to_string().parse::<JobId>() else { return Ok(undo) };
    match agent.job(id).await {
        Ok(job) => {
            let JobKind::Move { machine, .. } = job.kind else {
                bail!("job {id} moves several machines; name the one to be taken back")
            };
            Ok(UndoMove { machine: MachineRef::Id(machine), of: Some(id), ..undo })
        }
        Err(refusal) if refusal.code == ErrorCode::NotFound => Ok(undo),
        Err(refusal) => Err(refusal.into()),
    }
}

fn out_of_reach(machine: &str, worker: &WorkerName, agent: &Client, refusal: &ApiError) -> String {
    let reason = refusal.message.trim_end_matches('.');
    format!(
        "machine {machine} cannot be taken back while its worker {worker} cannot be reached at {} ({reason}): what it \
         wrote since it was handed over exists only there, so bring that worker back and ask again",
        agent.url()
    )
}

/// Cancels the move that a machine is about to make; done when it runs where it was.
pub async fn cancel(agent: &Client, json: bool, cancel: CancelMove, follow_it: bool) -> Result<Exit> {
    let job = agent.move_cancel(cancel).await?;
    if !follow_it {
        return watch(agent, json, &job, false).await;
    }
    let mut live = Live::new(json);
    live.line(&format!("job {}", job.id))?;
    let Followed::Ended(job) = follow(agent, job.id, &mut live, |_| Ok(())).await? else {
        return Ok(Exit::Interrupted);
    };
    if json {
        say_json(&job)?;
    }
    match job.state {
        JobState::Cancelled if json => Ok(Exit::Done),
        JobState::Cancelled => {
            say(ending(&job))?;
            Ok(Exit::Done)
        }
        // It had failed a moment before, or cannot be undone to the end.
        JobState::Failed
        | JobState::Succeeded
        | JobState::Parked
        | JobState::Waiting
        | JobState::Running
        | JobState::Unwinding => {
            complain(&ending(&job));
            Ok(Exit::JobFailed)
        }
    }
}

/// Shows a move to its end, or tells how to.
async fn watch(agent: &Client, json: bool, job: &Job, follow_it: bool) -> Result<Exit> {
    if !follow_it {
        if json {
            say_json(job)?;
        } else {
            say(format_args!("the move is job {}; watch it with: {}", job.id, watch_command(agent, job.id)))?;
        }
        return Ok(Exit::Done);
    }
    let mut live = Live::new(json);
    live.line(&format!("job {}", job.id))?;
    match follow(agent, job.id, &mut live, |_| Ok(())).await? {
        Followed::Ended(job) => {
            if json {
                say_json(&job)?;
            }
            say_ending(json, &job)?;
            match crossed::judged(&job) {
                Some(judged @ Judged::TakenBack { .. }) => {
                    complain(&format!("the machine was found there {}", crossed::judged_text(&judged)));
                    Ok(Exit::JobFailed)
                }
                Some(Judged::Well { .. } | Judged::Stays { .. }) | None => Ok(Exit::of_job(job.state)),
            }
        }
        Followed::Left => {
            if json {
                say_json(&agent.job(job.id).await?)?;
            } else {
                say(format_args!("the move goes on without you; see: {}", watch_command(agent, job.id)))?;
            }
            Ok(Exit::Interrupted)
        }
    }
}

/// The command that shows the rest, for the same agent.
fn watch_command(agent: &Client, job: JobId) -> String {
    if agent.url() == asked::usual_agent() {
        format!("ferry job watch {job}")
    } else {
        format!("ferry job watch {job} --agent {}", agent.url())
    }
}
