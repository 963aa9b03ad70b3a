//! `ferry service ...`

use anyhow::Result;
use ferry_api::http::Client;
use ferry_api::{AgentApi, MachineId, Presence, ServiceStatus};

use crate::exit::Exit;
use crate::output::bytes::Span;
use crate::output::{say, say_json, table};
use std::time::Duration;

pub async fn list(agent: &Client, json: bool) -> Result<Exit> {
    let services = agent.services().await?;
    if json {
        say_json(&services)?;
        return Ok(Exit::Done);
    }
    let header = [
        "SERVICE",
        "MACHINE",
        "OWNER",
        "GENERATION",
        "STATE",
        "LISTENS AT",
        "CONNECTIONS",
        "HELD",
        "LONGEST WAIT",
        "REFUSED",
    ];
    say(table::columns(header, services.iter().map(row)))?;
    for trouble in services.iter().filter_map(trouble_text) {
        say(trouble)?;
    }
    Ok(Exit::Done)
}

/// The services of one machine, in a line each.
pub async fn of_machine(agent: &Client, machine: MachineId) -> Result<String> {
    let services = agent.services().await?;
    let of_it = services.iter().filter(|of| of.machine == machine);
    let lines: Vec<String> = of_it
        .map(|of| match (&of.listens_at, &of.trouble) {
            (Some(at), _) => format!("{} at {at}", service_text(of)),
            (None, why) => format!("{}, not served: {}", service_text(of), why.as_deref().unwrap_or("-")),
        })
        .collect();
    Ok(if lines.is_empty() { "-".to_owned() } else { lines.join("; ") })
}

fn row(of: &ServiceStatus) -> [String; 10] {
    let certain = if of.is_certain { "" } else { " (uncertain)" };
    [
        service_text(of),
        of.machine_name.to_string(),
        of.owner.to_string(),
        of.generation.to_string(),
        format!("{}{certain}", presence_text(of.presence)),
        of.listens_at.clone().unwrap_or_else(|| "- (see below)".to_owned()),
        of.connections.to_string(),
        of.held.to_string(),
        Span(Duration::from_millis(of.longest_wait_ms)).to_string(),
        format!("{} of {}", of.refused, of.accepted),
    ]
}

fn trouble_text(of: &ServiceStatus) -> Option<String> {
    let named = || format!("{} of machine {}", service_text(of), of.machine_name);
    let not_served = of.trouble.as_ref().map(|why| format!("{} is not served here: {why}", named()));
    let refused =
        || of.last_refusal.as_ref().map(|why| format!("{} last refused a connection: {why}", named()));
    not_served.or_else(refused)
}

fn service_text(of: &ServiceStatus) -> String {
    let port = of.service.port;
    of.service.name.as_ref().map_or_else(|| port.to_string(), |name| format!("{name} ({port})"))
}

pub(super) fn presence_text(presence: Presence) -> &'static str {
    match presence {
        Presence::Runs { .. } => "runs",
        Presence::Comes => "comes",
        Presence::Stopped => "stopped",
    }
}
