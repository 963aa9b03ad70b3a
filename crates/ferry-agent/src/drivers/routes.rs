//! Routes of this host to machines of other workers, by `ip` as all that is done to networks here.
//!
//! Invariant: no others are touched. Those that an agent made bear a protocol number of their own, by which the next one knows them again,
//! and a metric that puts them behind the route to a machine that is here: they never take its place, nor go before it.

use super::DriverError;
use super::filesystem::find_tool;
use super::network::{IP, check_addresses, run_batch};
use crate::host::blocking;
use ferry_crossing::routes::{Changes, Route};
use rustix::thread::CapabilitySet;
use serde::Deserialize;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The number: nobody's in iproute2's `rt_protos`, where routing daemons have theirs.
const PROTOCOL: u8 = 215;
/// The metric. What is made without one, as the route to a machine that is here, has 1024; the lowest goes first.
const METRIC: u32 = 4096;
/// How many lines `ip` is given at once: what it answers in the worst case is less than what a pipe holds, so it never waits to be read.
const LINES_MAX: usize = 256;
/// Says whether this host forwards.
const FORWARDING: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

/// The routes of this host.
#[derive(Clone, Debug)]
pub(crate) struct HostRoutes {
    tool: PathBuf,
}

/// A route as `ip` tells it.
#[derive(Deserialize)]
struct Listed {
    dst: String,
    gateway: Option<String>,
    metric: Option<u32>,
}

impl HostRoutes {
    /// Those of the host that the agent runs on.
    ///
    /// # Errors
    /// The agent cannot change them; says why.
    pub(crate) fn of_this_host() -> Result<Self, String> {
        let may = rustix::thread::capabilities(None);
        let may = may.map_or(CapabilitySet::empty(), |may| may.effective);
        let tool = check_addresses(may).and_then(|()| find_tool(IP, "iproute2"));
        match tool {
            Ok(tool) => Ok(Self { tool }),
            Err(DriverError::NoNetwork { lacks }) => Err(lacks.to_owned()),
            Err(why) => Err(why.to_string()),
        }
    }

    /// Whether the host hands packets on, as it must for its machines to be reached by way of it.
    pub(crate) fn is_forwarding() -> bool {
        std::fs::read_to_string(FORWARDING).is_ok_and(|text| text.trim() != "0")
    }

    /// Those that an agent has made.
    ///
    /// # Errors
    /// `ip` does not tell them.
    pub(crate) async fn list(&self) -> io::Result<Vec<Route>> {
        let mut ip = Command::new(&self.tool);
        ip.args(["-6", "-json", "route", "show", "proto", &PROTOCOL.to_string()]).stdin(Stdio::null());
        blocking(move || {
            let Output { status, stdout, stderr } = ip.output()?;
            match status.success() {
                true => parse(&stdout),
                false => Err(said(&[], &stderr)),
            }
        })
        .await
    }

    /// Makes and removes routes, as many as can be.
    ///
    /// # Errors
    /// `ip` refuses one; it is named.
    pub(crate) async fn apply(&self, changes: &Changes) -> io::Result<()> {
        let (tool, lines) = (self.tool.clone(), lines(changes));
        blocking(move || {
            let mut outcome = Ok(());
            for lines in lines.chunks(LINES_MAX) {
                let told = tell(&tool, lines);
                outcome = outcome.and(told);
            }
            outcome
        })
        .await
    }
}

fn lines(Changes { remove, replace }: &Changes) -> Vec<String> {
    let line = |verb: &str, Route { to, via }: &Route| {
        format!("route {verb} {to}/128 via {via} proto {PROTOCOL} metric {METRIC}\n")
    };
    let removed = remove.iter().map(|route| line("del", route));
    removed.chain(replace.iter().map(|route| line("replace", route))).collect()
}

/// Has `ip` do all that `lines` say; what it refuses keeps the others from nothing.
fn tell(tool: &Path, lines: &[String]) -> io::Result<()> {
    run_batch(tool, &["-6", "-force"], &lines.concat())?.map_err(|stderr| said(lines, &stderr))
}

/// What `ip` said first, and of which line.
fn said(lines: &[String], stderr: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(stderr);
    let number = |line: &str| line.strip_prefix("Command failed -:")?.parse::<usize>().ok();
    let line = text.lines().find_map(number).and_then(|number| lines.get(number.checked_sub(1)?));
    let first = text.lines().next().unwrap_or_default();
    io::Error::other(match line {
        Some(line) => format!("ip says '{first}' to '{}'", line.trim_end()),
        None => format!("ip says '{first}'"),
    })
}

/// The routes in what `ip` tells. Whatever looks otherwise than those that an agent makes is none of them.
fn parse(told: &[u8]) -> io::Result<Vec<Route>> {
    if told.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let listed: Vec<Listed> = serde_json::from_slice(told)?;
    let ours = listed.into_iter().filter(|listed| listed.metric == Some(METRIC));
    let route = |listed: Listed| {
        // A route to more than one address has the length of what they share behind a slash.
        Some(Route { to: listed.dst.parse().ok()?, via: listed.gateway?.parse().ok()? })
    };
    Ok(ours.filter_map(route).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: &str, via: &str) -> Route {
        Route { to: to.parse().unwrap(), via: via.parse().unwrap() }
    }

    #[test]
    fn only_routes_as_an_agent_makes_them_are_found() {
        let told = r#"[
            {"dst":"fd12::1","gateway":"fd77::1","dev":"eth0","metric":4096,"flags":[],"pref":"medium"},
            {"dst":"fd12::2","gateway":"fd77::1","dev":"eth0","metric":1024,"flags":[],"pref":"medium"},
            {"dst":"fd12::/64","gateway":"fd77::1","dev":"eth0","metric":4096,"flags":[],"pref":"medium"},
            {"dst":"default","gateway":"fd77::1","dev":"eth0","metric":4096,"flags":[]},
            {"dst":"fd12::3","dev":"eth0","metric":4096,"flags":[]}]"#;
        assert_eq!(parse(told.as_bytes()).unwrap(), [route("fd12::1", "fd77::1")]);
        assert_eq!((parse(b"[ ]\n").unwrap(), parse(b"\n").unwrap()), (vec![], vec![]));
    }

    #[test]
    fn what_is_stale_is_removed_before_anything_is_made() {
        let changes =
            Changes { remove: vec![route("fd12::1", "fd77::1")], replace: vec![route("fd12::2", "fd77::2")] };
        let expected = [
            "route del fd12::1/128 via fd77::1 proto 215 metric 4096\n",
            "route replace fd12::2/128 via fd77::2 proto 215 metric 4096\n",
        ];
        assert_eq!(lines(&changes), expected);
    }

    #[test]
    fn what_ip_refuses_is_named() {
        let lines = ["route one\n".to_owned(), "route two\n".to_owned()];
        let why = said(&lines, b"RTNETLINK answers: No route to host\nCommand failed -:2\n");
        assert_eq!(why.to_string(), "ip says 'RTNETLINK answers: No route to host' to 'route two'");
        assert_eq!(said(&[], b"no\n").to_string(), "ip says 'no'");
    }
}
