//! `ferry machine logs`

use anyhow::Result;
use ferry_api::http::Client;
use ferry_api::{AgentApi, AskLog, EventsAfter, MachineRef};
use std::io::Write;

use crate::exit::Exit;
use crate::output::{complain, say_json_line};

/// Prints what a machine wrote on the worker, the last `lines` of it if given; with `follow` also what it goes on to write,
/// until it has moved away. As JSON: one line for each piece.
pub async fn print(
    agent: &Client,
    json: bool,
    machine: &MachineRef,
    lines: Option<u64>,
    follow: bool,
) -> Result<Exit> {
    let mut ask = AskLog { after: None, lines, wait_ms: 0 };
    loop {
        let piece = agent.machine_log(machine, ask).await?;
        if ask.after.is_some_and(|after| after < piece.from) {
            complain("some of what the machine wrote meanwhile is not kept any more");
        }
        if json {
            say_json_line(&piece)?;
        } else {
            let mut out = std::io::stdout().lock();
            out.write_all(piece.text.as_bytes())?;
            out.flush()?;
        }
        let is_all = piece.next == piece.end || piece.text.is_empty();
        match piece.moved_to {
            Some(to) if is_all => {
                complain(&format!(
                    "machine {machine} has moved to {to}; this is what it wrote on {}",
                    piece.worker
                ));
                return Ok(Exit::Done);
            }
            None if is_all && !follow => return Ok(Exit::Done),
            Some(_) | None => {}
        }
        let wait_ms = if follow { EventsAfter::WAIT_MS_MAX } else { 0 };
        ask = AskLog { after: Some(piece.next), lines: None, wait_ms };
    }
}
