//! Where a machine may go: what it asks of a worker, what a worker offers, and which of them was found to fit.

use crate::{
    Frontend, GroupName, LabelName, LabelValue, MachineId, MachineName, RegionName, WorkerInfo, WorkerName,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What worker and machines have in common, by name.
pub type Labels = BTreeMap<LabelName, LabelValue>;

/// Where a machine may go. Travels with the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// Machines that stand in for each other: no two of one group are down for a move at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// Only workers of this region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionName>,
    /// Only workers that have all of these; at most [`Placement::LABELS_MAX`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    /// Rather where one of these is; at most [`Placement::OTHERS_MAX`]. A wish: it never keeps a machine where it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub near: Vec<Other>,
    /// Never where one of these is; at most [`Placement::OTHERS_MAX`]. It holds both ways.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apart: Vec<Other>,
}

impl Placement {
    /// The most labels of a machine, and of a worker.
    pub const LABELS_MAX: usize = 32;
    /// The most machines and groups in [`Placement::near`], and in [`Placement::apart`].
    pub const OTHERS_MAX: usize = 32;

    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What of it is more than there may be, in one sentence, if something is.
    #[must_use]
    pub fn too_many(&self) -> Option<String> {
        let counts = [
            ("labels", self.labels.len(), Self::LABELS_MAX),
            ("entries in near", self.near.len(), Self::OTHERS_MAX),
            ("entries in apart", self.apart.len(), Self::OTHERS_MAX),
        ];
        let (what, count, most) = counts.into_iter().find(|(_, count, most)| count > most)?;
        Some(format!("[placement] has {count} {what}, and at most {most} are allowed; remove some"))
    }
}

/// Another machine, or all of a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Other {
    /// The machines of this name.
    Machine(MachineName),
    /// The machines of this group.
    Group(GroupName),
}

impl Other {
    /// Whether a machine of this name and group is meant.
    #[must_use]
    pub fn is(&self, name: &MachineName, group: Option<&GroupName>) -> bool {
        match self {
            Self::Machine(machine) => machine == name,
            Self::Group(meant) => Some(meant) == group,
        }
    }
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(name) => write!(f, "machine {name}"),
            Self::Group(group) => write!(f, "group {group}"),
        }
    }
}

/// What a machine is known to take of a worker's processors and memory; none where nothing bounds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Thousandths of a processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// Bytes of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

/// What a worker offers: facts about itself at one moment, and no promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bid {
    /// The worker with its room, drivers, labels and versions.
    pub worker: WorkerInfo,
    /// Block devices that it can make of a volume.
    pub frontends: Vec<Frontend>,
    /// What all its machines together may take.
    pub capacity: Capacity,
    /// Processors that were busy or waited for, in thousandths of one, on average over the last minute: the system's load.
    pub busy_cpu_millis: u64,
    /// Machines that are here, or for which room is set aside, in no order.
    pub residents: Vec<Resident>,
    /// What is wrong with the worker so that nothing should come, each in one sentence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
}

/// What machines may take of a worker, all together. A worker that is to be promised more often than it exists says more than
/// it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Thousandths of a processor.
    pub cpu_millis: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

/// A machine on a worker, as far as others that come must know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resident {
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub name: MachineName,
    /// Its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// What it must not be with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apart: Vec<Other>,
    /// What it takes.
    #[serde(default)]
    pub demand: Demand,
}

/// How well a worker fits a machine; the greater, the better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Score {
    /// So many of the machine's wishes to be near something come true.
    pub near: u32,
    /// What is left there with the machine, in thousandths of all there is, of whatever gets scarcest: room, processors, memory,
    /// idle time.
    pub left_permille: u32,
}

/// What was found of each worker for a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementExplained {
    /// The machine.
    pub machine_name: MachineName,
    /// Where it is.
    pub from: WorkerName,
    /// Why it cannot leave now, whoever would take it, each in one sentence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blockers: Vec<String>,
    /// All workers that are known there, those that fit first, the best of them first.
    pub workers: Vec<WorkerJudged>,
}

/// What was found of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerJudged {
    /// The worker.
    pub worker: WorkerName,
    /// Whether the machine could go there.
    #[serde(flatten)]
    pub fit: Fit,
}

/// Whether a machine could go to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fit", rename_all = "snake_case")]
pub enum Fit {
    /// It could.
    Yes(Score),
    /// It could not.
    No {
        /// Why, each in one sentence; at least one.
        reasons: Vec<String>,
    },
    /// The worker does not answer.
    Silent {
        /// What was heard instead, in one sentence.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placement_says_what_it_is_near_to_and_apart_from_by_machine_or_group() {
        let json = r#"{"group":"pg","near":[{"machine":"web"}],"apart":[{"group":"pg"}]}"#;
        let placement: Placement = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&placement).unwrap(), json);
        let pg: GroupName = "pg".parse().unwrap();
        assert!(placement.apart[0].is(&"any".parse().unwrap(), Some(&pg)));
        assert!(!placement.apart[0].is(&"pg".parse().unwrap(), None));
        for wrong in [r#"{"groups":["pg"]}"#, r#"{"near":["web"]}"#, r#"{"near":[{"worker":"w1"}]}"#] {
            assert!(serde_json::from_str::<Placement>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn more_than_a_placement_may_hold_is_said_with_the_limit() {
        let other = Other::Machine("a".parse().unwrap());
        let many = Placement { apart: vec![other; Placement::OTHERS_MAX + 1], ..Placement::default() };
        assert!(many.too_many().unwrap().contains("33 entries in apart"));
        assert_eq!(Placement::default().too_many(), None);
    }

    #[test]
    fn what_was_found_of_a_worker_is_flat() {
        let fit = Fit::Yes(Score { near: 1, left_permille: 500 });
        let judged = WorkerJudged { worker: "w1".parse().unwrap(), fit };
        let json = serde_json::to_string(&judged).unwrap();
        assert_eq!(json, r#"{"worker":"w1","fit":"yes","near":1,"left_permille":500}"#);
        assert_eq!(serde_json::from_str::<WorkerJudged>(&json).unwrap(), judged);
    }
}
