//! Losing the source: since when it does not answer, who waits for it, and for how long.
//!
//! ```text
//!  SourceDown ─▶ away ─── anything is answered ───▶ there
//!                 │ a request has waited as long as the policy says, all of it while the source was away
//!                 ▼
//!               EIO to that request alone; the next one waits anew
//! ```
//!
//! The source counts as away until it has answered something: a connection that is taken and then hangs is no source.
//! Whatever the policy, nothing else changes: what is local is read and written as ever, and what is remote stays so.

use std::collections::BTreeSet;

use crate::event::{Errno, LossPolicy};
use crate::operation::Operation;

use super::{Engine, Ticket, Until};

/// What is known of the source's absence.
#[derive(Debug)]
pub(super) struct Loss {
    policy: LossPolicy,
    away_since_ms: Option<u64>,
}

impl Loss {
    pub(super) const fn new(has_source: bool) -> Loss {
        Loss { policy: LossPolicy::Wait, away_since_ms: if has_source { Some(0) } else { None } }
    }

    pub(super) fn set_policy(&mut self, policy: LossPolicy) {
        self.policy = policy;
    }

    pub(super) fn policy(&self) -> LossPolicy {
        self.policy
    }

    pub(super) fn source_went(&mut self, now_ms: u64) {
        self.away_since_ms.get_or_insert(now_ms);
    }

    /// Also an error is an answer.
    pub(super) fn source_answered(&mut self) {
        self.away_since_ms = None;
    }
}

impl Engine {
    /// For how long the source has answered nothing, in milliseconds; none while it is there.
    pub(super) fn source_away_ms(&self) -> Option<u64> {
        let since_ms = self.loss.away_since_ms.filter(|_| self.has_source)?;
        // One that is connected and that nobody asks anything is not away.
        let is_missed = !self.source.up || !self.waiting_for_source().is_empty();
        is_missed.then(|| self.now_ms - since_ms)
    }

    /// The requests that wait for something the source has.
    pub(super) fn waiting_for_source(&self) -> BTreeSet<Ticket> {
        let pausing = self.parked.iter().filter(|parked| matches!(parked.until, Until::Ms(_)));
        pausing.map(|parked| parked.piece.ticket).chain(self.fetch_waiters()).collect()
    }

    /// Those who have waited as long as the policy says get an error.
    pub(super) fn fail_overdue(&mut self, out: &mut Vec<Operation>) {
        let (LossPolicy::FailAfter { ms }, Some(away_ms)) = (self.loss.policy, self.loss.away_since_ms)
        else {
            return;
        };
        let is_overdue = |since_ms: u64| self.now_ms - since_ms.max(away_ms) >= ms.get();
        if !is_overdue(away_ms) {
            return;
        }
        let waiting = self.waiting_for_source().into_iter();
        let overdue: Vec<Ticket> = waiting
            .filter(|ticket| self.requests.get(ticket).is_some_and(|r| is_overdue(r.since_ms)))
            .collect();
        for ticket in overdue {
            self.fail_request(ticket, Errno::EIO, out);
        }
    }
}
