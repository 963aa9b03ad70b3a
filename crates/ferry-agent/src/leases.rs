//! The leases of groups: what this worker has given, and what its own moves need. What is given when is decided in
//! [`ferry_crossing::leases`].
//!
//! Invariant: what is answered as given is durable, and given to nobody else until its move's worker says that it is over.

use crate::jobs::MoveStep;
use crate::mutex::locked;
use crate::peers::Peers;
use crate::records::{Change, Records, RecordsError};
use ferry_api::{
    AgentApi, ApiError, AskLease, AskNeed, EndLease, ErrorCode, JobId, Lease, LeaseAnswer, LeaseId,
    LeaseNeed, WorkerName,
};
use ferry_crossing::leases::{self, Asked};
use ferry_fsm::{Entry, replay};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::timeout;

/// How long a worker may take to answer, until it counts as silent.
const ANSWER_MAX: Duration = Duration::from_secs(5);

type Answer<T> = Result<T, ApiError>;

/// The leases of this worker.
#[derive(Debug)]
pub struct Leases {
    name: WorkerName,
    records: Records,
    peers: Peers,
    /// What moves from here ask others for since this agent was started.
    asking: Mutex<BTreeMap<JobId, LeaseId>>,
}

impl Leases {
    /// Those in the records of the worker `name`.
    #[must_use]
    pub fn new(name: WorkerName, records: Records, peers: Peers) -> Self {
        Self { name, records, peers, asking: Mutex::default() }
    }

    /// A move from here asks for this lease from now on, or for none.
    pub fn asks(&self, job: JobId, lease: Option<LeaseId>) {
        let mut asking = locked(&self.asking);
        match lease {
            Some(lease) => drop(asking.insert(job, lease)),
            None => drop(asking.remove(&job)),
        }
    }

    /// Asks a worker, which may be this one.
    ///
    /// # Errors
    /// It does not answer, or is another one.
    pub async fn ask(&self, at: &WorkerName, ask: AskLease) -> Answer<LeaseAnswer> {
        if *at == self.name {
            return self.give(ask).await;
        }
        in_time(at, self.peers.client(at)?.peer_lease(ask)).await
    }

    /// Tells a worker, which may be this one, that a lease is over.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn tell_end(&self, at: &WorkerName, end: EndLease) -> Answer<()> {
        if *at == self.name {
            return self.end(end).await;
        }
        in_time(at, self.peers.client(at)?.peer_lease_end(end)).await
    }

    /// See [`AgentApi::peer_lease`].
    ///
    /// # Errors
    /// Another worker is meant; the records cannot be read or written.
    pub async fn give(&self, ask: AskLease) -> Answer<LeaseAnswer> {
        let AskLease { at, group, lease, force } = ask;
        if at != self.name {
            let message = format!("worker {at} is meant and this is {}; correct the peer's url", self.name);
            return Err(ApiError::new(ErrorCode::InvalidRequest, message));
        }
        let given = self.records.worker().await?.leases.get(&group).cloned();
        let instead_of = match leases::asked(given.as_ref(), &lease) {
            Asked::Given => return Ok(LeaseAnswer::Given),
            Asked::Give => None,
            Asked::AskFirst(given) => {
                let (id, needed) = (given.id, self.is_needed(&given).await);
                if let Some(answer) = leases::after_asking(given, needed, force) {
                    return Ok(answer);
                }
                Some(id)
            }
        };
        let give = Change::GiveLease { group: group.clone(), lease, instead_of };
        match self.records.change(vec![give]).await {
            Ok(()) => Ok(LeaseAnswer::Given),
            // Another one came first.
            Err(error @ RecordsError::Refused(_)) => {
                let given = self.records.worker().await?.leases.get(&group).cloned();
                given.map(|by| LeaseAnswer::Held { by, silent: None }).ok_or_else(|| error.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// See [`AgentApi::peer_lease_end`].
    ///
    /// # Errors
    /// The records cannot be read or written.
    pub async fn end(&self, end: EndLease) -> Answer<()> {
        let EndLease { group, id } = end;
        let is_given = |lease: &Lease| lease.id == id;
        if self.records.worker().await?.leases.get(&group).is_some_and(is_given) {
            self.records.change(vec![Change::EndLease { group, id }]).await?;
        }
        Ok(())
    }

    /// See [`AgentApi::peer_lease_need`].
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn need(&self, ask: AskNeed) -> Answer<LeaseNeed> {
        let AskNeed { job, id } = ask;
        let is_under_way = self.records.job(job).await?.is_some_and(|record| !record.finished);
        if !is_under_way {
            return Ok(LeaseNeed { needed: false });
        }
        // Before the journal: what it asks for may be in that by then, and never the other way round.
        let asking = locked(&self.asking).get(&job).copied();
        let rows = self.records.journal(job, 0).await?;
        let entries: Result<Vec<Entry>, _> =
            rows.into_iter().map(|row| serde_json::from_value(row.entry)).collect();
        // A journal that cannot be read waits for a person, with its machine as it is.
        let standing = entries.ok().and_then(|entries| replay::<MoveStep>(&entries).ok());
        Ok(LeaseNeed { needed: standing.is_none_or(|standing| leases::needs(&standing, asking, id)) })
    }

    /// Whether the move that has a lease needs it; or what was heard instead.
    async fn is_needed(&self, lease: &Lease) -> Result<bool, String> {
        let ask = AskNeed { job: lease.job, id: lease.id };
        let said = match lease.from == self.name {
            true => self.need(ask).await,
            false => match self.peers.client(&lease.from) {
                Ok(client) => in_time(&lease.from, client.peer_lease_need(ask)).await,
                Err(error) => Err(error),
            },
        };
        said.map(|need| need.needed).map_err(|error| error.message)
    }
}

async fn in_time<T>(worker: &WorkerName, answer: impl Future<Output = Answer<T>>) -> Answer<T> {
    timeout(ANSWER_MAX, answer).await.unwrap_or_else(|_| {
        let message = format!("worker {worker} did not answer within {} s", ANSWER_MAX.as_secs());
        Err(ApiError::new(ErrorCode::Unreachable, message))
    })
}
