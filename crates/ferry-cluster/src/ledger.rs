//! What the keeper has given out: tokens for joining, as hashes, and by whom they were spent; API tokens, by name.
//!
//! A value: each change gives the next one, which is to be durable before anybody hears of it.

use crate::fingerprint::Fingerprint;
use ferry_api::{ApiTokenTold, WorkerName};
use serde::{Deserialize, Serialize};

/// How long a token is remembered after its end, in milliseconds, so that who comes too late is told so.
const REMEMBERED_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// Most tokens of a kind that are out at once.
const TOKENS_MAX: usize = 10_000;

/// What the keeper has given out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    tickets: Vec<Ticket>,
    api_tokens: Vec<ApiTokenTold>,
}

/// A token for joining, as its keeper knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    /// The hash of its secret.
    pub hash: Fingerprint,
    /// Until when it is good, in milliseconds since 1970.
    pub expires_ms: u64,
    /// Only for the worker of this name.
    pub worker: Option<WorkerName>,
    /// Also if a worker of that name was revoked.
    pub again: bool,
    /// Who has joined by it.
    pub spent: Option<Spent>,
}

/// Who has joined by a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spent {
    /// The worker.
    pub worker: WorkerName,
    /// Its key.
    pub key: Fingerprint,
}

/// Why a token lets nobody in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketRefusal {
    /// It was never given out here, or so long ago that it is forgotten.
    #[error("this token is not known here (any more); `ferry cluster token` prints another")]
    Unknown,
    /// Its time is over.
    #[error("this token has expired; `ferry cluster token` prints another")]
    Expired,
    /// It was used.
    #[error(
        "this token was used already, by worker {by}; each worker needs its own, `ferry cluster token` prints another"
    )]
    Used {
        /// Who has joined by it.
        by: WorkerName,
    },
    /// It is for another worker.
    #[error("this token is for the worker {only}; `ferry cluster token` prints one for any")]
    ForAnother {
        /// For whom it is.
        only: WorkerName,
    },
    /// Too many are out.
    #[error("{TOKENS_MAX} tokens are out, which is the most; wait until some expire, or revoke some")]
    Full,
}

impl Ledger {
    /// With another token for joining.
    ///
    /// # Errors
    /// Too many are out.
    pub fn with_ticket(&self, ticket: Ticket, now_ms: u64) -> Result<Self, TicketRefusal> {
        let mut next = self.pruned(now_ms);
        next.tickets.push(ticket);
        if next.tickets.len() > TOKENS_MAX { Err(TicketRefusal::Full) } else { Ok(next) }
    }

    /// With another API token.
    ///
    /// # Errors
    /// Too many are out.
    pub fn with_api_token(&self, token: ApiTokenTold, now_ms: u64) -> Result<Self, TicketRefusal> {
        let mut next = self.pruned(now_ms);
        next.api_tokens.push(token);
        if next.api_tokens.len() > TOKENS_MAX { Err(TicketRefusal::Full) } else { Ok(next) }
    }

    /// Without the API tokens of a name.
    #[must_use]
    pub fn without_api_tokens(&self, name: &ferry_api::TokenName, now_ms: u64) -> Self {
        let mut next = self.pruned(now_ms);
        next.api_tokens.retain(|token| token.name != *name);
        next
    }

    /// The API tokens that can still be used.
    pub fn api_tokens(&self, now_ms: u64) -> impl Iterator<Item = &ApiTokenTold> {
        self.api_tokens.iter().filter(move |token| token.expires_ms > now_ms)
    }

    /// Whether a token of that hash was given out.
    #[must_use]
    pub fn knows(&self, hash: Fingerprint) -> bool {
        self.tickets.iter().any(|ticket| ticket.hash == hash)
    }

    /// With the token of that hash spent by a worker with that key; it may have spent it before, and asks again.
    ///
    /// # Errors
    /// It lets this worker in no longer, or never did.
    pub fn spend(
        &self,
        hash: Fingerprint,
        worker: &WorkerName,
        key: Fingerprint,
        now_ms: u64,
    ) -> Result<(Self, Ticket), TicketRefusal> {
        let mut next = self.clone();
        let ticket = next.tickets.iter_mut().find(|ticket| ticket.hash == hash);
        let ticket = ticket.ok_or(TicketRefusal::Unknown)?;
        let spent = Spent { worker: worker.clone(), key };
        match &ticket.spent {
            Some(before) if *before != spent => {
                return Err(TicketRefusal::Used { by: before.worker.clone() });
            }
            _ if now_ms >= ticket.expires_ms => return Err(TicketRefusal::Expired),
            Some(_) => {}
            None => match &ticket.worker {
                Some(only) if only != worker => {
                    return Err(TicketRefusal::ForAnother { only: only.clone() });
                }
                Some(_) | None => ticket.spent = Some(spent),
            },
        }
        let ticket = ticket.clone();
        Ok((next, ticket))
    }

    fn pruned(&self, now_ms: u64) -> Self {
        let mut next = self.clone();
        let is_remembered = |expires_ms: u64| expires_ms.saturating_add(REMEMBERED_MS) > now_ms;
        next.tickets.retain(|ticket| is_remembered(ticket.expires_ms));
        next.api_tokens.retain(|token| is_remembered(token.expires_ms));
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(worker: Option<&str>) -> Ticket {
        let worker = worker.map(|worker| worker.parse().unwrap());
        Ticket { hash: Fingerprint::of(b"secret"), expires_ms: 100, worker, again: false, spent: None }
    }

    fn spend(
        ledger: &Ledger,
        secret: &str,
        worker: &str,
        key: &str,
        now_ms: u64,
    ) -> Result<Ledger, TicketRefusal> {
        let (hash, key) = (Fingerprint::of(secret.as_bytes()), Fingerprint::of(key.as_bytes()));
        ledger.spend(hash, &worker.parse().unwrap(), key, now_ms).map(|(next, _)| next)
    }

    #[test]
    fn a_token_lets_one_worker_in_as_often_as_it_asks_and_nobody_else() {
        let ledger = Ledger::default().with_ticket(ticket(None), 0).unwrap();
        let spent = spend(&ledger, "secret", "w2", "k2", 1).unwrap();
        assert_eq!(spend(&spent, "secret", "w2", "k2", 99).unwrap(), spent, "its answer may have been lost");
        let used = Err(TicketRefusal::Used { by: "w2".parse().unwrap() });
        assert_eq!(spend(&spent, "secret", "w3", "k3", 2), used);
        assert_eq!(spend(&spent, "secret", "w2", "k3", 2), used, "another key is another worker");
        assert_eq!(spend(&spent, "secret", "w3", "k3", 200), used, "used says more than expired");
    }

    #[test]
    fn a_token_that_expired_or_is_for_another_or_unknown_lets_nobody_in() {
        let ledger = Ledger::default().with_ticket(ticket(Some("w2")), 0).unwrap();
        assert_eq!(spend(&ledger, "secret", "w2", "k2", 100), Err(TicketRefusal::Expired));
        let only = "w2".parse().unwrap();
        assert_eq!(spend(&ledger, "secret", "w3", "k3", 1), Err(TicketRefusal::ForAnother { only }));
        assert_eq!(spend(&ledger, "other", "w2", "k2", 1), Err(TicketRefusal::Unknown));
        assert!(spend(&ledger, "secret", "w2", "k2", 99).is_ok());
    }

    #[test]
    fn what_expired_long_ago_is_forgotten() {
        let ledger = Ledger::default().with_ticket(ticket(None), 0).unwrap();
        let later = Ledger::default();
        let another = Ticket { hash: Fingerprint::of(b"2"), expires_ms: u64::MAX, ..ticket(None) };
        let next = ledger.with_ticket(another.clone(), 100 + REMEMBERED_MS).unwrap();
        assert_eq!(next, later.with_ticket(another, 0).unwrap());
    }
}
