//! Where in a move a drill strikes: what an agent says of itself ([`ferry_agent::moments`]), and what was there when a
//! move came by undisturbed. Pure.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Serialize, Serializer};

use super::row::Victim;

/// Which part a worker has in a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The machine leaves it.
    Source,
    /// The machine comes to it.
    Target,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// What an agent says: `WORKER WHERE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The worker.
    pub worker: String,
    /// Where it is, as in `after write done:Plan begun:Reserve`.
    pub at: String,
}

impl Moment {
    /// Reads the line of an agent.
    pub fn parse(line: &str) -> Option<Self> {
        let (worker, at) = line.trim_end().split_once(' ')?;
        Some(Self { worker: worker.to_owned(), at: at.to_owned() })
    }
}

/// A moment of an undisturbed move at which somebody may die.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// Whose agent is there.
    pub role: Role,
    /// Where it is then.
    pub at: String,
    /// The step that is under way.
    pub phase: String,
    /// Whether the machine has been handed over by then.
    pub is_behind: bool,
    /// Whether it comes only when the disk has arrived.
    pub is_late: bool,
    /// Who can be killed then.
    pub there: BTreeSet<Victim>,
}

impl Point {
    /// Whether it is the same moment.
    pub fn is_same(&self, other: &Self) -> bool {
        self.role == other.role && self.at == other.at
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.at)
    }
}

impl Serialize for Point {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A moment that was heard in a rehearsal.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Whose it was.
    pub role: Role,
    /// Where.
    pub at: String,
    /// Who lived then.
    pub there: BTreeSet<Victim>,
    /// Whether the disk was let go by then.
    pub disk_was_let_go: bool,
}

/// The points of a rehearsal in its order, each where it was first come by.
pub fn points(heard: Vec<Heard>) -> Vec<Point> {
    let mut found: Vec<Point> = Vec::new();
    let mut phase = "begin".to_owned();
    let mut is_behind = false;
    for moment in heard {
        let here = words(&moment);
        is_behind |= here.contains(&("done", "HandOver"));
        if let Some(next) = here.iter().rev().find_map(|word| phase_of(*word)) {
            phase = next;
        }
        let is_known = found.iter().any(|point| point.role == moment.role && point.at == moment.at);
        // How a step ends is for the drill to say, and no moment of its own.
        if is_known || moment.at.starts_with("ends ") {
            continue;
        }
        found.push(Point {
            role: moment.role,
            at: moment.at,
            phase: phase.clone(),
            is_behind,
            is_late: moment.disk_was_let_go,
            there: moment.there,
        });
    }
    found
}

/// The entries that are durable since this moment, as name and step.
fn words(moment: &Heard) -> Vec<(&str, &str)> {
    let entries = moment.at.strip_prefix("after write ").filter(|_| moment.role == Role::Source);
    let words = entries.into_iter().flat_map(str::split_whitespace);
    words.map(|word| word.split_once(':').unwrap_or((word, ""))).collect()
}

/// The phase that an entry begins.
fn phase_of((entry, step): (&str, &str)) -> Option<String> {
    match entry {
        "begun" => Some(step.to_owned()),
        // The deed has no beginning.
        "done" if step == "Seal" => Some("HandOver".to_owned()),
        "undo_begun" => Some(format!("undo {step}")),
        "finished" => Some("end".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(role: Role, at: &str) -> Heard {
        Heard { role, at: at.to_owned(), there: BTreeSet::new(), disk_was_let_go: false }
    }

    #[test]
    fn a_line_of_an_agent_names_the_worker_and_the_moment() {
        let moment = Moment::parse("w1 before call boot\n").unwrap();
        assert_eq!((moment.worker.as_str(), moment.at.as_str()), ("w1", "before call boot"));
        assert_eq!(Moment::parse("w1"), None);
    }

    #[test]
    fn a_point_belongs_to_the_step_that_is_under_way_and_counts_once() {
        let found = points(vec![
            heard(Role::Source, "before write started begun:Plan"),
            heard(Role::Source, "after write started begun:Plan"),
            heard(Role::Source, "ends Plan"),
            heard(Role::Source, "after write done:Seal"),
            heard(Role::Source, "before write done:HandOver begun:Activate"),
            heard(Role::Source, "after write done:HandOver begun:Activate"),
            heard(Role::Target, "before call activate"),
            heard(Role::Target, "before call activate"),
            heard(Role::Source, "after write undo_begun:Seal"),
        ]);
        let seen: Vec<_> = found.iter().map(|p| (p.phase.as_str(), p.is_behind)).collect();
        let wanted = [
            ("begin", false),
            ("Plan", false),
            ("HandOver", false),
            ("HandOver", false),
            ("Activate", true),
            ("Activate", true),
            ("undo Seal", true),
        ];
        assert_eq!(seen, wanted);
    }

    #[test]
    fn what_the_target_writes_begins_no_step_of_the_source() {
        let found = points(vec![heard(Role::Target, "after write begun:Plan")]);
        assert_eq!(found[0].phase, "begin");
    }
}
