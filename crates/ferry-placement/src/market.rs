//! The bids of all workers, and what of them has been taken since.
//!
//! Invariant: what a machine takes is counted before the next one is judged, so that many machines never fill one worker's
//! room twice.

use crate::judge::{Verdict, fits, judge, nominal_cpu, score};
use crate::requirements::Requirements;
use ferry_api::{Bid, Fit, Score, WorkerJudged, WorkerName};
use ferry_crossing::leases;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// So many workers are named when none takes a machine.
const NAMED_MAX: usize = 3;

/// Workers that offer something, and those that say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Market {
    bids: BTreeMap<WorkerName, Bid>,
    silent: BTreeMap<WorkerName, String>,
    /// What to do where no other worker is known, as the end of a sentence.
    remedy: Option<&'static str>,
}

impl Market {
    /// A market of these answers: a bid, or what was heard instead, in one sentence.
    pub fn new(answers: impl IntoIterator<Item = (WorkerName, Result<Bid, String>)>) -> Self {
        let mut market = Self::default();
        for (worker, answer) in answers {
            match answer {
                Ok(bid) => drop(market.bids.insert(worker, bid)),
                Err(reason) => drop(market.silent.insert(worker, reason)),
            }
        }
        market
    }

    /// The same, and what to do where no other worker is known, as the end of a sentence.
    #[must_use]
    pub fn with_remedy(self, remedy: &'static str) -> Self {
        Self { remedy: Some(remedy), ..self }
    }

    /// One more bid.
    pub fn join(&mut self, worker: WorkerName, bid: Bid) {
        self.bids.insert(worker, bid);
    }

    /// A worker does not take what its bid promised, for the reason that it gives in one sentence: it is asked no more.
    pub fn refuse(&mut self, worker: WorkerName, reason: String) {
        self.bids.remove(&worker);
        self.silent.insert(worker, reason);
    }

    /// The bids, with what has been taken of them.
    pub fn bids(&self) -> impl Iterator<Item = (&WorkerName, &Bid)> {
        self.bids.iter()
    }

    /// Workers that say nothing, each with what was heard instead.
    #[must_use]
    pub fn silent(&self) -> &BTreeMap<WorkerName, String> {
        &self.silent
    }

    /// What a worker is found to be for a machine; none of one that says nothing.
    #[must_use]
    pub fn judge(&self, wants: &Requirements, worker: &WorkerName) -> Option<Verdict> {
        self.bids.get(worker).map(|bid| judge(wants, bid))
    }

    /// Whether a worker takes a machine, and the first reason why not; none of one that says nothing.
    #[must_use]
    pub fn fits(&self, wants: &Requirements, worker: &WorkerName, force: bool) -> Option<Result<(), String>> {
        self.bids.get(worker).map(|bid| fits(wants, bid, force))
    }

    /// Whether a machine could go to each of them: those that fit first, the best of them first.
    #[must_use]
    pub fn explain(&self, wants: &Requirements) -> Vec<WorkerJudged> {
        let judged = self.bids.iter().map(|(worker, bid)| {
            let fit = match judge(wants, bid) {
                Verdict::Yes(score) => Fit::Yes(score),
                Verdict::No(reasons) => {
                    Fit::No { reasons: reasons.iter().map(|reason| reason.text().to_owned()).collect() }
                }
            };
            WorkerJudged { worker: worker.clone(), fit }
        });
        let silent = self.silent.iter().map(|(worker, reason)| WorkerJudged {
            worker: worker.clone(),
            fit: Fit::Silent { reason: reason.clone() },
        });
        let mut all: Vec<WorkerJudged> = judged.chain(silent).collect();
        let nothing = (Score::default(), Reverse(0));
        all.sort_by_key(|judged| match &judged.fit {
            Fit::Yes(score) => (0, Reverse(preference(*score, &self.bids[&judged.worker]))),
            Fit::No { .. } => (1, Reverse(nothing)),
            Fit::Silent { .. } => (2, Reverse(nothing)),
        });
        all
    }

    /// The worker that fits best.
    #[must_use]
    pub fn best(&self, wants: &Requirements) -> Option<WorkerName> {
        self.best_but(wants, &BTreeSet::new())
    }

    /// The same without some of them.
    #[must_use]
    pub fn best_but(&self, wants: &Requirements, but: &BTreeSet<WorkerName>) -> Option<WorkerName> {
        let others = self.bids.iter().filter(|(worker, _)| !but.contains(*worker));
        let fitting = others.filter_map(|(worker, bid)| match judge(wants, bid) {
            Verdict::Yes(score) => Some((preference(score, bid), worker)),
            Verdict::No(_) => None,
        });
        best_of(fitting)
    }

    /// The worker that fits best if rules may be broken, and those that are broken then: as few as possible.
    #[must_use]
    pub fn best_by_force(
        &self,
        wants: &Requirements,
        but: &BTreeSet<WorkerName>,
    ) -> Option<(WorkerName, Vec<String>)> {
        let others = self.bids.iter().filter(|(worker, _)| !but.contains(*worker));
        let bending = others.filter_map(|(worker, bid)| {
            let costs = judge(wants, bid).costs()?;
            Some(((Reverse(costs.len()), preference(score(wants, bid), bid)), worker))
        });
        let worker = best_of(bending)?;
        let costs = judge(wants, &self.bids[&worker]).costs()?;
        Some((worker, costs))
    }

    /// Counts that a worker has taken a machine.
    pub fn take(&mut self, wants: &Requirements, worker: &WorkerName) {
        let Some(bid) = self.bids.get_mut(worker) else { return };
        let room = &mut bid.worker.room;
        let bytes = wants.disk_bytes();
        room.free_bytes = room.free_bytes.saturating_sub(bytes);
        room.promised_bytes = room.promised_bytes.saturating_add(bytes);
        // What it brings is in no average yet.
        bid.busy_cpu_millis = bid.busy_cpu_millis.saturating_add(nominal_cpu(&wants.spec.demand()));
        bid.residents.push(wants.as_resident());
    }

    /// Counts that a machine has left a worker. Its disks stay for a while, as copies that were handed over.
    pub(crate) fn leave(&mut self, wants: &Requirements, worker: &WorkerName) {
        let Some(bid) = self.bids.get_mut(worker) else { return };
        let room = &mut bid.worker.room;
        room.handed_over_bytes = room.handed_over_bytes.saturating_add(wants.disk_bytes());
        bid.busy_cpu_millis = bid.busy_cpu_millis.saturating_sub(nominal_cpu(&wants.spec.demand()));
        bid.residents.retain(|there| there.machine != wants.machine);
    }

    /// Why a machine stays where it is, in one sentence, if it belongs to a group of which a worker that says nothing may have a
    /// machine that is down for a move.
    #[must_use]
    pub fn unsure_of(&self, wants: &Requirements) -> Option<String> {
        let group = wants.spec.placement.group.as_ref()?;
        let (worker, heard) = self.silent.iter().find(|(worker, _)| **worker != wants.from)?;
        Some(leases::silent(worker, group, heard))
    }

    /// Why nobody takes a machine, in one sentence.
    #[must_use]
    pub fn why_nobody(&self, wants: &Requirements) -> String {
        let others = self.bids.iter().filter(|(worker, _)| **worker != wants.from);
        let said = others.filter_map(|(_, bid)| match judge(wants, bid) {
            Verdict::Yes(_) => None,
            Verdict::No(reasons) => reasons.first().map(|reason| reason.text().to_owned()),
        });
        let silent =
            self.silent.iter().map(|(worker, reason)| format!("worker {worker} gives no bid: {reason}"));
        let said: Vec<String> = said.chain(silent).collect();
        if said.is_empty() {
            let remedy = self.remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default();
            return format!("no other worker is known here{remedy}");
        }
        let more = match said.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            more => format!("; and {more} more, see `ferry placement explain {}`", wants.name),
        };
        let named = said.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join("; ");
        format!("no worker takes it: {named}{more}")
    }
}

/// How well a worker fits, and of several that do so alike, as all do that have nothing left of something, rather one with few machines.
fn preference(score: Score, bid: &Bid) -> (Score, Reverse<usize>) {
    (score, Reverse(bid.residents.len()))
}

/// The best one; of several alike the first by name, which is the order in which they come.
fn best_of<'a, S: Ord>(scored: impl Iterator<Item = (S, &'a WorkerName)>) -> Option<WorkerName> {
    scored.min_by(|(one, _), (other, _)| other.cmp(one)).map(|(_, worker)| worker.clone())
}
