//! Routes of this host to machines of other workers, kept as the directory says. What is to be done is decided in
//! [`ferry_crossing::routes`].
//!
//! Invariant: an agent that starts again interrupts nobody. What it finds stays until all others have told what they have, or do not.

use super::Inner;
use crate::drivers::routes::HostRoutes;
use crate::mutex::locked;
use crate::peers::Peers;
use ferry_api::WorkerName;
use ferry_api::http::Client;
use ferry_crossing::routes::{ROUTES_MAX, Wanted, changes, wanted};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How often the host's routes are looked at while nothing changes: the kernel drops them with the link that they lead over.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The same after something was refused, and until all others have told what they have.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// For how long what was found stays, in milliseconds since the agent began, if another worker says nothing.
const SETTLE_MS_MAX: u64 = 60_000;

/// Keeps the routes, for ever.
pub(super) async fn keep(inner: Arc<Inner>, peers: Peers) {
    let host = match HostRoutes::of_this_host() {
        Ok(host) => host,
        Err(lacks) => {
            tracing::warn!(
                "no routes to machines of other workers are kept, since {lacks}; mend that, or leave out machine_routes"
            );
            return;
        }
    };
    if !HostRoutes::is_forwarding() {
        tracing::warn!(
            "this host forwards no IPv6, so other hosts do not reach its machines at their addresses; set \
             net.ipv6.conf.all.forwarding = 1 (sysctl)"
        );
    }
    let (mut changed, mut workers) = (inner.changed.subscribe(), peers.watch());
    let (mut kept, mut due, mut said) = (None, Instant::now(), Said::default());
    loop {
        changed.borrow_and_update();
        let reached = addresses(&workers.borrow_and_update());
        let (wanted, is_settled) = look(&inner, &reached);
        said.shortcomings(&wanted);
        let aim = (wanted.routes, is_settled);
        if kept.as_ref() != Some(&aim) || Instant::now() >= due {
            let outcome = follow(&host, &aim.0, is_settled).await;
            // That a worker has told of no machines is no news to the directory.
            due = Instant::now() + if outcome.is_ok() && is_settled { LOOK_EVERY } else { TRY_AGAIN };
            said.outcome(outcome);
            kept = Some(aim);
        }
        // The senders are `inner` and `peers`.
        tokio::select! {
            _ = changed.changed() => {}
            _ = workers.changed() => {}
            () = sleep_until(due) => {}
        }
    }
}

/// What is wanted now, and whether the other workers have told enough for anything to be removed.
fn look(inner: &Inner, reached: &BTreeMap<WorkerName, Option<Ipv6Addr>>) -> (Wanted, bool) {
    let now_ms = inner.now_ms();
    let directory = locked(&inner.directory);
    let (known, tellers) = (directory.all(now_ms), directory.tellers(now_ms));
    drop(directory);
    let told: BTreeSet<WorkerName> = tellers.into_iter().map(|teller| teller.name).collect();
    let all_told = reached.keys().all(|worker| *worker == inner.me || told.contains(worker));
    let wanted = wanted(&inner.me, &known, |worker| reached.get(worker).copied().flatten());
    (wanted, all_told || now_ms >= SETTLE_MS_MAX)
}

/// Makes the host's routes to be those.
async fn follow(
    host: &HostRoutes,
    wanted: &BTreeMap<Ipv6Addr, Ipv6Addr>,
    is_settled: bool,
) -> io::Result<()> {
    let changes = changes(wanted, &host.list().await?, is_settled);
    let (made, removed) = (changes.replace.len(), changes.remove.len());
    if made + removed == 0 {
        return Ok(());
    }
    tracing::debug!(made, removed, "routes to machines of other workers follow them");
    host.apply(&changes).await
}

/// The IPv6 address of each worker whose agent is reached by one.
fn addresses(workers: &BTreeMap<WorkerName, Client>) -> BTreeMap<WorkerName, Option<Ipv6Addr>> {
    workers.iter().map(|(name, client)| (name.clone(), address_in(client.url()))).collect()
}

/// The IPv6 address that a URL has for a host.
fn address_in(url: &str) -> Option<Ipv6Addr> {
    let (_, place) = url.split_once("://")?;
    let (host, _) = place.strip_prefix('[')?.split_once(']')?;
    host.parse().ok()
}

/// What was said already, so that it is said once.
#[derive(Default)]
struct Said {
    passed_over: BTreeSet<WorkerName>,
    left_out: bool,
    refused: Option<String>,
}

impl Said {
    /// Says to which machines no route leads, if that is new.
    fn shortcomings(&mut self, wanted: &Wanted) {
        for worker in wanted.passed_over.difference(&self.passed_over) {
            tracing::warn!(
                %worker,
                "no routes lead to the machines of a worker, since no IPv6 address of its agent is known here; give it one \
                 (`advertise`, or its URL in [peers])"
            );
        }
        self.passed_over.clone_from(&wanted.passed_over);
        let left_out = wanted.left_out;
        if left_out > 0 && !self.left_out {
            tracing::warn!(
                left_out,
                "no routes lead to some machines of other workers: there are {ROUTES_MAX} already"
            );
        }
        self.left_out = left_out > 0;
    }

    /// Says what was refused, if that is new.
    fn outcome(&mut self, outcome: io::Result<()>) {
        let refused = outcome.err().map(|error| error.to_string());
        if let Some(why) = refused.as_ref().filter(|why| self.refused.as_ref() != Some(*why)) {
            tracing::warn!(
                "not all routes to machines of other workers are right: {why}; a worker must be on a link with this host, \
                 and it is tried again"
            );
        }
        self.refused = refused;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ipv6_address_in_a_url_is_a_way_to_a_worker() {
        for url in ["http://[fd77::2]:7433", "https://[fd77::2]:7433"] {
            assert_eq!(address_in(url), Some("fd77::2".parse().unwrap()), "{url}");
        }
        for url in ["http://10.0.0.2:7433", "http://w2.example:7433", "unix:/run/agent.sock"] {
            assert_eq!(address_in(url), None, "{url}");
        }
    }
}
