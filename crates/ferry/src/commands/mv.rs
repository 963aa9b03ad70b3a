//! `ferry move`

use anyhow::Result;
use ferry_api::http::Client;
use ferry_api::{AgentApi, JobId, StartMove};

use super::job::{Followed, follow, say_ending};
use crate::args::AGENT_URL_DEFAULT;
use crate::exit::Exit;
use crate::output::live::Live;
use crate::output::{say, say_json};

pub async fn start(agent: &Client, json: bool, start: StartMove, follow_it: bool) -> Result<Exit> {
    let job = agent.move_start(start).await?;
    if !follow_it {
        if json {
            say_json(&job)?;
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
            Ok(Exit::of_job(job.state))
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
    if agent.url() == AGENT_URL_DEFAULT {
        format!("ferry job watch {job}")
    } else {
        format!("ferry job watch {job} --agent {}", agent.url())
    }
}
