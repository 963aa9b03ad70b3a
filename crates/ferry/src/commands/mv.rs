//! `ferry move`

use anyhow::Result;
use ferry_api::http::Client;
use ferry_api::{AgentApi, JobState, StartMove};

use super::job::{Followed, follow, say_ending};
use crate::exit::Exit;
use crate::output::live::Live;
use crate::output::{say, say_json};

pub async fn start(agent: &Client, json: bool, start: StartMove, follow_it: bool) -> Result<Exit> {
    let job = agent.move_start(start).await?;
    if !follow_it {
        if json {
            say_json(&job)?;
        } else {
            say(format_args!("the move is job {}; watch it with: ferry job watch {}", job.id, job.id))?;
        }
        return Ok(Exit::Done);
    }
    let mut live = Live::new(json);
    live.line(&format!("job {}", job.id))?;
    match follow(agent, job.id, &mut live, |_| Ok(())).await? {
        Followed::Ended(job) => {
            if json {
                say_json(&job)?
            } else {
                say_ending(&job)?
            }
            Ok(Exit::of_job(job.state))
        }
        Followed::Left => {
            if json {
                say_json(&agent.job(job.id).await?)?;
            } else {
                let state = if job.state == JobState::Running { "goes on" } else { "stands" };
                say(format_args!("the move {state} without you; see: ferry job watch {}", job.id))?;
            }
            Ok(Exit::Interrupted)
        }
    }
}
