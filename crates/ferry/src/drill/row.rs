//! The rows of a drill: which kind of move, where in it, and what goes wrong there. Pure.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Serialize, Serializer};

use super::hook::RUNS;
use super::point::Point;

/// A kind of move that is drilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A cold move that goes through.
    Move,
    /// A move that fails right before its hand-over, and is undone.
    Undone,
    /// A move that a person cancels right before its hand-over.
    Cancelled,
    /// The way back of a machine that has moved.
    Back,
    /// The way back of a machine whose disk still follows it.
    BackHalfway,
    /// A warm move that goes through, up to where its machine runs again: from there on it is as any other.
    Warm,
    /// A live move that goes through, up to the same.
    Live,
    /// A cold move of a machine with hooks, while these run and until it stops.
    Told,
    /// The same, which fails right before its hand-over and is undone, while the machine is told that it stays.
    ToldUndone,
}

/// What a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guest {
    /// A process.
    Process,
    /// A process with hooks.
    Hooked,
    /// A VM, or what stands for one.
    Vm,
}

/// How far a machine went before what is drilled begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WentThere {
    /// Its disk has followed, and the copy that it left is kept.
    Whole,
    /// Its disk still follows.
    Halfway,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 9] = [
        Self::Move,
        Self::Undone,
        Self::Cancelled,
        Self::Back,
        Self::BackHalfway,
        Self::Warm,
        Self::Live,
        Self::Told,
        Self::ToldUndone,
    ];

    /// What the machine is that moves.
    pub fn guest(self) -> Guest {
        match self {
            Self::Move | Self::Undone | Self::Cancelled | Self::Back | Self::BackHalfway | Self::Warm => {
                Guest::Process
            }
            Self::Live => Guest::Vm,
            Self::Told | Self::ToldUndone => Guest::Hooked,
        }
    }

    /// The step that is made to fail.
    pub fn fails_at(self) -> Option<&'static str> {
        match self {
            Self::Move
            | Self::Cancelled
            | Self::Back
            | Self::BackHalfway
            | Self::Warm
            | Self::Live
            | Self::Told => None,
            Self::Undone | Self::ToldUndone => Some("HandOver"),
        }
    }

    /// What came before, if it is a way back.
    pub fn went_there(self) -> Option<WentThere> {
        match self {
            Self::Move
            | Self::Undone
            | Self::Cancelled
            | Self::Warm
            | Self::Live
            | Self::Told
            | Self::ToldUndone => None,
            Self::Back => Some(WentThere::Whole),
            Self::BackHalfway => Some(WentThere::Halfway),
        }
    }

    /// The kind that it is the same as up to where it fails or is cancelled.
    pub fn begins_as(self) -> Option<Self> {
        match self {
            Self::Undone | Self::Cancelled => Some(Self::Move),
            Self::ToldUndone => Some(Self::Told),
            Self::Move | Self::Back | Self::BackHalfway | Self::Warm | Self::Live | Self::Told => None,
        }
    }

    /// Whether it is drilled at this point.
    pub fn is_drilled_at(self, point: &Point) -> bool {
        let phase = point.phase.as_str();
        match self {
            Self::Told => phase == "Prepare" || point.at.starts_with(RUNS),
            Self::ToldUndone => phase == "undo Prepare",

            Self::Warm | Self::Live => {
                matches!(phase, "Prepare" | "Stop" | "Seal" | "HandOver" | "Activate" | "Boot")
            }
            Self::Move | Self::Undone | Self::Cancelled | Self::Back | Self::BackHalfway => true,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Move => "move",
            Self::Undone => "undone move",
            Self::Cancelled => "cancelled move",
            Self::Back => "way back",
            Self::BackHalfway => "way back halfway",
            Self::Warm => "warm move",
            Self::Live => "live move",
            Self::Told => "move with hooks",
            Self::ToldUndone => "undone move with hooks",
        })
    }
}

/// Who can be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    /// The agent of the source.
    SourceAgent,
    /// The agent of the target.
    TargetAgent,
    /// The volume server of the source.
    SourceServer,
    /// The volume server of the target.
    TargetServer,
    /// The machine, wherever it is.
    Machine,
}

impl Victim {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::SourceAgent, Self::TargetAgent, Self::SourceServer, Self::TargetServer, Self::Machine];
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SourceAgent => "source agent",
            Self::TargetAgent => "target agent",
            Self::SourceServer => "source server",
            Self::TargetServer => "target server",
            Self::Machine => "machine",
        })
    }
}

/// What happens to the link between the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outage {
    /// Every connection is closed, and for a while there are no new ones.
    Cut,
    /// For a while nothing crosses, and nobody is told.
    Stall,
    /// Every connection is reset.
    Reset,
}

impl Outage {
    const ALL: [Self; 3] = [Self::Cut, Self::Stall, Self::Reset];
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// kill -9 of one.
    Kill(Victim),
    /// kill -9 of two at once.
    Pair(Victim, Victim),
    /// The link, in both directions.
    Link(Outage),
}

impl Fault {
    /// Who is killed.
    pub fn victims(self) -> Vec<Victim> {
        match self {
            Self::Kill(one) => vec![one],
            Self::Pair(one, other) => vec![one, other],
            Self::Link(_) => Vec::new(),
        }
    }

    /// All that can go wrong at a point where these live.
    fn among(there: &BTreeSet<Victim>) -> Vec<Self> {
        let singles = there.iter().map(|victim| Self::Kill(*victim));
        let pairs = there.iter().flat_map(|one| {
            there
                .range((std::ops::Bound::Excluded(*one), std::ops::Bound::Unbounded))
                .map(|other| (*one, *other))
        });
        let pairs = pairs.map(|(one, other)| Self::Pair(one, other));
        singles.chain(pairs).chain(Outage::ALL.map(Self::Link)).collect()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(one) => write!(f, "kill {one}"),
            Self::Pair(one, other) => write!(f, "kill {one} + {other}"),
            Self::Link(Outage::Cut) => f.write_str("cut link"),
            Self::Link(Outage::Stall) => f.write_str("stall link"),
            Self::Link(Outage::Reset) => f.write_str("reset link"),
        }
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One row: a move in which one thing goes wrong, at one point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The kind of move.
    pub kind: Kind,
    /// Where.
    pub point: Point,
    /// What.
    pub fault: Fault,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.kind, self.point, self.fault)
    }
}

/// Which rows are played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Each of the five, and each outage, once in each step.
    Quick,
    /// Each pair at each point.
    Pairs,
    /// Everything at each point.
    All,
}

/// The rows of some kinds of moves, each with its points.
pub fn rows(rehearsed: &[(Kind, Vec<Point>)], choice: Choice, only: Option<&str>, every: usize) -> Vec<Row> {
    let mut all: Vec<Row> = Vec::new();
    for (kind, points) in rehearsed {
        for point in points {
            let faults = Fault::among(&point.there);
            all.extend(faults.into_iter().map(|fault| Row { kind: *kind, point: point.clone(), fault }));
        }
    }
    let chosen = match choice {
        Choice::All => all,
        Choice::Pairs => all.into_iter().filter(|row| matches!(row.fault, Fault::Pair(..))).collect(),
        Choice::Quick => one_of_each(all),
    };
    let chosen = chosen.into_iter().filter(|row| only.is_none_or(|only| row.to_string().contains(only)));
    chosen.step_by(every.max(1)).collect()
}

/// Of all rows of a step with the same single fault one; which one differs from fault to fault.
fn one_of_each(all: Vec<Row>) -> Vec<Row> {
    let same = |a: &Row, b: &Row| a.kind == b.kind && a.point.phase == b.point.phase && a.fault == b.fault;
    let mut chosen: Vec<Row> = Vec::new();
    for row in all.iter().filter(|row| !matches!(row.fault, Fault::Pair(..))) {
        if chosen.iter().any(|taken| same(taken, row)) {
            continue;
        }
        let alike: Vec<&Row> = all.iter().filter(|other| same(other, row)).collect();
        chosen.push(alike[chosen.len() % alike.len()].clone());
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::super::point::Role;
    use super::*;

    fn point(phase: &str, at: &str, there: &[Victim]) -> Point {
        Point {
            role: Role::Source,
            at: at.to_owned(),
            phase: phase.to_owned(),
            is_behind: false,
            is_late: false,
            there: there.iter().copied().collect(),
        }
    }

    fn two_points() -> Vec<(Kind, Vec<Point>)> {
        let there = [Victim::SourceAgent, Victim::TargetAgent, Victim::Machine];
        let points = vec![point("Seal", "before call a", &there), point("Seal", "after call a", &there[..1])];
        vec![(Kind::Move, points)]
    }

    #[test]
    fn all_rows_are_every_one_and_every_pair_that_lives_there_and_every_outage() {
        let rows = rows(&two_points(), Choice::All, None, 1);
        let pairs = rows.iter().filter(|row| matches!(row.fault, Fault::Pair(..))).count();
        assert_eq!((rows.len(), pairs), (3 + 3 + 3 + 1 + 3, 3));
        assert_eq!(super::rows(&two_points(), Choice::Pairs, None, 1).len(), 3);
    }

    #[test]
    fn quick_rows_are_each_fault_once_in_a_step_but_no_pair() {
        let rows = rows(&two_points(), Choice::Quick, None, 1);
        let faults: Vec<String> = rows.iter().map(|row| row.fault.to_string()).collect();
        let wanted = [
            "kill source agent",
            "kill target agent",
            "kill machine",
            "cut link",
            "stall link",
            "reset link",
        ];
        assert_eq!(faults, wanted);
    }

    #[test]
    fn rows_are_chosen_by_what_their_names_contain_and_by_a_stride() {
        let rows = |only, every| super::rows(&two_points(), Choice::All, only, every).len();
        assert_eq!(rows(Some("kill source agent + machine"), 1), 1);
        assert_eq!(rows(Some("after call a: cut"), 1), 1);
        assert_eq!(rows(None, 4), 4);
        assert_eq!(rows(Some("nobody"), 1), 0);
    }
}
