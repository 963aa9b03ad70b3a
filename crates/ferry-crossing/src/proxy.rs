//! What becomes of a connection to a service: it goes to the machine, to the worker that has the machine, waits, or is
//! refused.
//!
//! Invariant: a connection is held only while its machine is to run somewhere, in bounded number and for a bounded time; and it
//! goes to a machine only on the worker whose records say that it runs there.

use crate::directory::Known;
use ferry_api::{Generation, Presence, WorkerName};
use std::fmt;

/// How long a connection may be held, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest that a connection waits, in milliseconds.
    pub hold_ms_max: u64,
    /// How many connections of one service wait on one worker at once.
    pub held_max: u64,
}

/// What is known when somebody has to decide about a connection.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The worker that decides.
    pub me: &'a WorkerName,
    /// What it knows of the machine.
    pub known: Option<&'a Known>,
    /// Why the last attempt did not come through, if there was one since something changed.
    pub failed: Option<&'a Failed>,
    /// How many other connections of the service wait here.
    pub held: u64,
    /// Whether this one has its place among those that wait.
    pub is_held: bool,
    /// How long it has waited, in milliseconds.
    pub waited_ms: u64,
}

/// Why an attempt did not come through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    /// Nothing answers at the port of the machine, which runs.
    NotListening,
    /// The other worker cannot be reached.
    Silent(WorkerName),
    /// The other worker says this.
    Answered(WorkerName, Answer),
}

/// What a worker says of a machine to another that has a connection for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It runs here, and what follows goes to it.
    Through,
    /// It comes, or does not listen yet.
    Later,
    /// It shall not run.
    Stopped,
    /// Another worker owns it.
    Elsewhere {
        /// At this generation.
        generation: Generation,
        /// That worker.
        owner: WorkerName,
    },
    /// This worker knows no such machine or service.
    Unknown,
}

/// What is to be done with a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Connect it to the machine, which runs here.
    Connect,
    /// Take it to that worker.
    Forward(WorkerName),
    /// Let it wait until something changes, or for a moment.
    Hold,
    /// Close it.
    Refuse(Refusal),
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody has told of the machine.
    Unknown,
    /// It shall not run.
    Stopped,
    /// As many wait as may.
    TooMany,
    /// It has waited as long as it may.
    TooLong,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "no worker tells of its machine",
            Self::Stopped => "its machine is stopped; start it",
            Self::TooMany => "as many connections wait for it as may (services_held_max)",
            Self::TooLong => "it has waited for its machine as long as it may (services_hold_seconds)",
        })
    }
}

/// What is to be done with a connection that came from a client.
#[must_use]
pub fn decide(facts: &Facts<'_>, limits: Limits) -> Act {
    let Some(Known { mapping, is_certain, .. }) = facts.known else { return Act::Refuse(Refusal::Unknown) };
    let is_here = mapping.owner == *facts.me;
    let next = match (mapping.presence, is_here) {
        (Presence::Runs { .. }, true) => Act::Connect,
        (Presence::Comes, true) => Act::Hold,
        (Presence::Stopped, true) => return Act::Refuse(Refusal::Stopped),
        // Its owner tells when it runs; whether it is stopped is asked, since it may have been started a moment ago.
        (Presence::Comes, false) if *is_certain => Act::Hold,
        (Presence::Runs { .. } | Presence::Comes | Presence::Stopped, false) => {
            Act::Forward(mapping.owner.clone())
        }
    };
    match facts.failed {
        None if next != Act::Hold => next,
        Some(Failed::Answered(_, Answer::Stopped)) => Act::Refuse(Refusal::Stopped),
        None | Some(_) => hold(facts, limits),
    }
}

fn hold(facts: &Facts<'_>, limits: Limits) -> Act {
    if facts.waited_ms >= limits.hold_ms_max {
        Act::Refuse(Refusal::TooLong)
    } else if !facts.is_held && facts.held >= limits.held_max {
        Act::Refuse(Refusal::TooMany)
    } else {
        Act::Hold
    }
}

/// What the worker `me` says of a machine to another worker that has a connection for it; `Through` if it is to be tried.
#[must_use]
pub fn answer(me: &WorkerName, known: Option<&Known>) -> Answer {
    let Some(Known { mapping, .. }) = known else { return Answer::Unknown };
    if mapping.owner != *me {
        return Answer::Elsewhere { generation: mapping.generation, owner: mapping.owner.clone() };
    }
    match mapping.presence {
        Presence::Runs { .. } => Answer::Through,
        Presence::Comes => Answer::Later,
        Presence::Stopped => Answer::Stopped,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ferry_api::{MachineId, Mapping};

    const LIMITS: Limits = Limits { hold_ms_max: 1_000, held_max: 2 };
    const RUNS: Presence = Presence::Runs { since_ms: 1 };

    pub(crate) fn known(owner: &str, presence: Presence, is_certain: bool) -> Known {
        let mapping = Mapping {
            machine: MachineId::fresh(),
            name: "db".parse().unwrap(),
            generation: Generation(1),
            owner: owner.parse().unwrap(),
            services: Vec::new(),
            network: ferry_api::Network::Host,
            presence,
        };
        Known { told_by: mapping.owner.clone(), heard_ms_ago: 0, mapping, is_certain }
    }

    fn me() -> WorkerName {
        "me".parse().unwrap()
    }

    fn facts<'a>(known: Option<&'a Known>, failed: Option<&'a Failed>, me: &'a WorkerName) -> Facts<'a> {
        Facts { me, known, failed, held: 0, is_held: false, waited_ms: 0 }
    }

    fn decided(known: Option<&Known>, failed: Option<&Failed>) -> Act {
        decide(&facts(known, failed, &me()), LIMITS)
    }

    #[test]
    fn a_connection_goes_where_the_machine_runs() {
        assert_eq!(decided(Some(&known("me", RUNS, true)), None), Act::Connect);
        assert_eq!(decided(Some(&known("w2", RUNS, true)), None), Act::Forward("w2".parse().unwrap()));
        assert_eq!(decided(None, None), Act::Refuse(Refusal::Unknown));
    }

    #[test]
    fn it_waits_for_a_machine_that_comes_and_asks_where_nothing_is_certain() {
        for owner in ["me", "w2"] {
            assert_eq!(decided(Some(&known(owner, Presence::Comes, true)), None), Act::Hold);
        }
        for presence in [Presence::Comes, Presence::Stopped] {
            let act = decided(Some(&known("w2", presence, false)), None);
            assert_eq!(act, Act::Forward("w2".parse().unwrap()));
        }
        let stopped = known("w2", Presence::Stopped, true);
        assert_eq!(decided(Some(&stopped), None), Act::Forward("w2".parse().unwrap()));
        assert_eq!(decided(Some(&known("me", Presence::Stopped, true)), None), Act::Refuse(Refusal::Stopped));
    }

    #[test]
    fn after_an_attempt_in_vain_it_waits_within_the_limits() {
        let here = known("me", RUNS, true);
        let failed = Failed::NotListening;
        assert_eq!(decided(Some(&here), Some(&failed)), Act::Hold);
        let me = me();
        let full = Facts { held: LIMITS.held_max, ..facts(Some(&here), Some(&failed), &me) };
        assert_eq!(decide(&full, LIMITS), Act::Refuse(Refusal::TooMany));
        let placed = Facts { is_held: true, ..full };
        assert_eq!(decide(&placed, LIMITS), Act::Hold);
        let late = Facts { waited_ms: LIMITS.hold_ms_max, ..placed };
        assert_eq!(decide(&late, LIMITS), Act::Refuse(Refusal::TooLong));
        // Once it can go, it goes, however long it has waited.
        assert_eq!(decide(&Facts { failed: None, ..late }, LIMITS), Act::Connect);
    }

    #[test]
    fn a_worker_that_is_told_elsewhere_or_stopped_is_believed() {
        let away = known("w2", RUNS, true);
        let silent = Failed::Silent("w2".parse().unwrap());
        assert_eq!(decided(Some(&away), Some(&silent)), Act::Hold);
        let stopped = Failed::Answered("w2".parse().unwrap(), Answer::Stopped);
        let act = decided(Some(&away), Some(&stopped));
        assert_eq!(act, Act::Refuse(Refusal::Stopped));
    }

    #[test]
    fn a_worker_lets_others_through_only_to_what_it_runs() {
        let me = me();
        assert_eq!(answer(&me, Some(&known("me", RUNS, true))), Answer::Through);
        assert_eq!(answer(&me, Some(&known("me", Presence::Comes, true))), Answer::Later);
        assert_eq!(answer(&me, Some(&known("me", Presence::Stopped, true))), Answer::Stopped);
        let elsewhere = Answer::Elsewhere { generation: Generation(1), owner: "w2".parse().unwrap() };
        assert_eq!(answer(&me, Some(&known("w2", RUNS, true))), elsewhere);
        assert_eq!(answer(&me, None), Answer::Unknown);
    }
}
