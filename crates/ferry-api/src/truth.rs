//! Which copy of a volume, and which worker's machine, is the real one: what is asked, what each worker tells of what lies
//! on its disk, and what follows from all of that together.

use crate::{
    Generation, JobId, MachineId, MachineName, MachineRef, NameError, Ownership, VolumeId, VolumeKey,
    VolumeName, VolumePhase, VolumeRef, WorkerName,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Something of which one is the real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum Subject {
    /// A machine.
    Machine(MachineId),
    /// A volume.
    Volume(VolumeId),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(id) => write!(f, "machine {id}"),
            Self::Volume(id) => write!(f, "volume {id}"),
        }
    }
}

/// A machine or a volume, by its id or its name. A machine goes before a volume of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TruthRef {
    machine: MachineRef,
    volume: VolumeRef,
}

impl TruthRef {
    /// As a machine.
    #[must_use]
    pub fn machine(&self) -> &MachineRef {
        &self.machine
    }

    /// As a volume.
    #[must_use]
    pub fn volume(&self) -> &VolumeRef {
        &self.volume
    }

    /// Whether it means a machine of this id and name.
    #[must_use]
    pub fn is_machine(&self, id: MachineId, name: &MachineName) -> bool {
        match &self.machine {
            MachineRef::Id(meant) => *meant == id,
            MachineRef::Name(meant) => meant == name,
        }
    }

    /// Whether it means a volume of this id and name.
    #[must_use]
    pub fn is_volume(&self, id: VolumeId, name: &VolumeName) -> bool {
        match &self.volume {
            VolumeRef::Id(meant) => *meant == id,
            VolumeRef::Name(meant) => meant == name,
        }
    }
}

impl FromStr for TruthRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Ok(Self { machine: text.parse()?, volume: text.parse()? })
    }
}

impl TryFrom<String> for TruthRef {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<TruthRef> for String {
    fn from(reference: TruthRef) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for TruthRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.machine.fmt(f)
    }
}

/// Asks a worker for what lies on its disk about any of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskTestimony {
    /// What a person named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<TruthRef>,
    /// Machines and volumes whose ids are known. Of a machine also its disks, of a volume also its machine.
    #[serde(default)]
    pub subjects: Vec<Subject>,
}

/// What lies on one worker's disk about what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Testimony {
    /// The worker.
    pub worker: WorkerName,
    /// Its records of machines, and of those that are on their way to it.
    pub machines: Vec<MachineTold>,
    /// The copies of volumes that lie on it, or that its records say do.
    pub copies: Vec<CopyTold>,
    /// What its records and marks say of who owns what, or has owned.
    pub claims: Vec<Claim>,
    /// What cannot be read of it, in one sentence each: it may say more than is told here.
    pub troubles: Vec<String>,
}

/// A machine as one worker's disk tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineTold {
    /// Its id.
    pub id: MachineId,
    /// Its name.
    pub name: MachineName,
    /// Its generation there.
    pub generation: Generation,
    /// Whether it is that worker's.
    pub standing: MachineStanding,
    /// Whether that worker remembers to have handed over this generation, whatever its records say.
    pub barred: bool,
    /// The process that was last known to run.
    pub pid: Option<u32>,
    /// Its disks.
    pub volumes: Vec<VolumeKey>,
}

/// Whether a machine is a worker's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "standing", rename_all = "snake_case")]
pub enum MachineStanding {
    /// It is, by that worker's records.
    Ours,
    /// It was.
    HandedOver {
        /// The owner of the next generation.
        to: WorkerName,
        /// The move.
        job: JobId,
    },
    /// It is on its way there.
    Expected {
        /// From that worker.
        from: WorkerName,
        /// The move.
        job: JobId,
        /// Whether its clones stand by.
        prepared: bool,
    },
}

/// A copy of a volume as one worker's disk tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyTold {
    /// Which.
    #[serde(flatten)]
    pub key: VolumeKey,
    /// Its name; none if there is no record of it.
    pub name: Option<VolumeName>,
    /// The machine whose disk it is.
    pub machine: Option<MachineId>,
    /// What the records say that worker may do with it; none if there is no record of it.
    pub ownership: Option<Ownership>,
    /// Whether that worker remembers to have handed over this generation, whatever its records say.
    pub barred: bool,
    /// The worker that it reads its remote blocks from.
    pub source: Option<WorkerName>,
    /// Whether its directory was made at some time.
    pub made: bool,
    /// What lies in its directory; none if there is none.
    pub on_disk: Option<OnDisk>,
}

/// What the map of a copy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnDisk {
    /// How the copy last stood; none if its map cannot be understood.
    pub phase: Option<VolumePhase>,
    /// Size in bytes.
    pub bytes_total: u64,
    /// Bytes that are only at its source, at most: of what arrived lately the map may not know yet.
    pub bytes_remote: u64,
}

/// What something on a worker's disk says of who owns a machine or volume at a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Of what.
    #[serde(flatten)]
    pub subject: Subject,
    /// The generation.
    pub generation: Generation,
    /// Its owner.
    pub owner: WorkerName,
    /// The worker on whose disk that is.
    pub told_by: WorkerName,
    /// What says so.
    pub evidence: Evidence,
}

/// What says who owns something. The first says most of how that came to be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "evidence", rename_all = "snake_case")]
pub enum Evidence {
    /// The journal of the worker that handed it over: the deed itself.
    Journal {
        /// The move.
        job: JobId,
        /// Number of the entry.
        seq: u64,
        /// When, by the clock of that worker, in milliseconds since 1970.
        at_ms: u64,
    },
    /// The records of the owner: it was told of the hand-over.
    Activated {
        /// The move.
        job: JobId,
        /// When, by the clock of the owner, in milliseconds since 1970.
        at_ms: u64,
    },
    /// The mark that the worker left that handed it over.
    Mark {
        /// The move.
        job: JobId,
    },
    /// The records of the worker that handed it over.
    HandedOver {
        /// The move, if they still say.
        job: Option<JobId>,
    },
    /// The records of the owner say that it is in use there.
    InUse {
        /// Since when that copy or machine exists, in milliseconds since 1970.
        created_at_ms: u64,
    },
    /// The records of the owner say that a move has sealed it there.
    Sealed {
        /// The move.
        job: JobId,
    },
    /// Its directory on the owner was open once.
    Directory,
}

/// Which is the real one, of each machine and volume that was asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truth {
    /// The machine, then its disks; or the volume.
    pub subjects: Vec<SubjectTruth>,
    /// Workers that were asked and told.
    pub told: Vec<WorkerName>,
    /// Workers of which nothing is known.
    pub silent: Vec<SilentWorker>,
}

impl Truth {
    /// Whether all of it is known for sure.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        self.subjects.iter().all(|subject| matches!(subject.verdict, Verdict::Known { .. }))
    }
}

/// A worker of which nothing is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilentWorker {
    /// The worker.
    pub worker: WorkerName,
    /// Why, in one sentence.
    pub reason: String,
}

/// Which machine or copy is the real one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectTruth {
    /// Of what.
    #[serde(flatten)]
    pub subject: Subject,
    /// Its name, if a record has it.
    pub name: Option<String>,
    /// The answer.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What says most of how the owner came by it; none without an owner.
    pub by: Option<Claim>,
    /// All copies of a volume, the highest generation first.
    pub copies: Vec<CopyWorth>,
    /// A machine on all workers that know it, the highest generation first.
    pub machines: Vec<MachineWorth>,
    /// Everything that says who owns it, or has owned it, the highest generation first.
    pub claims: Vec<Claim>,
    /// What does not fit together, or is missing, in one sentence each.
    pub gaps: Vec<String>,
    /// What follows for a person, in one sentence each.
    pub advice: Vec<String>,
}

/// Which worker owns the real one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// That is sure: only that worker could have handed it on, and it has not.
    Known {
        /// The owner.
        owner: WorkerName,
        /// The generation at which it owns it.
        generation: Generation,
        /// How it stands there.
        stands: Stands,
    },
    /// By all that is known, but the owner does not confirm it.
    Likely {
        /// The owner, as far as is known.
        owner: WorkerName,
        /// The generation.
        generation: Generation,
        /// What is missing, in one sentence.
        why: String,
    },
    /// Two or more have it at the same generation.
    Disputed {
        /// The generation.
        generation: Generation,
        /// Those who have it by some evidence.
        owners: Vec<WorkerName>,
    },
    /// Nobody has it, by all that is known.
    Nobody,
}

/// How the real one stands on the worker that owns it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stands", rename_all = "snake_case")]
pub enum Stands {
    /// It is in use, or may be.
    InUse,
    /// A move has sealed it, and may still take that back.
    Sealed {
        /// The move.
        job: JobId,
    },
    /// It was handed over and the owner does not know yet. What it is to hold is in the copy before it.
    OnItsWay {
        /// The move.
        job: JobId,
        /// The worker that leads the move.
        from: WorkerName,
    },
}

/// A copy of a volume, and what it is worth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyWorth {
    /// The worker that has it.
    pub worker: WorkerName,
    /// What that worker's disk tells of it.
    #[serde(flatten)]
    pub copy: CopyTold,
    /// What it is worth.
    #[serde(flatten)]
    pub worth: Worth,
}

/// What a copy of a volume is worth beside the real one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "worth", rename_all = "snake_case")]
pub enum Worth {
    /// It is the real one.
    Real,
    /// It is the real one if the owner confirms that.
    PerhapsReal,
    /// It holds what the real one held when that was handed over, and the real one reads from it.
    Source {
        /// Bytes that the real one has from nowhere else, at most; none if its owner does not tell.
        bytes_needed: Option<u64>,
    },
    /// It holds what the real one held when that was handed over, and its move needs it no more; a later copy on its worker
    /// may still read it.
    Base {
        /// When it is deleted, in milliseconds since 1970.
        until_ms: u64,
    },
    /// It is older than the hand-over before the last.
    Older,
    /// Room for a copy that never came; it holds nothing.
    Reserved,
    /// A clone for a move that has not handed over; nobody has ever written it.
    Clone,
    /// The records of its worker say that it is in use there, and it is not: they are older than its hand-over.
    Overtaken,
    /// A directory of which no record tells.
    Unrecorded,
    /// A record whose directory is missing.
    Missing,
}

/// A machine on a worker, and whether it is the real one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineWorth {
    /// The worker.
    pub worker: WorkerName,
    /// What its disk tells of it.
    #[serde(flatten)]
    pub machine: MachineTold,
    /// Whether that worker owns it.
    pub is_real: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_means_a_machine_or_a_volume_by_id_or_name() {
        let id = VolumeId::fresh();
        let by_id: TruthRef = id.to_string().parse().unwrap();
        assert!(by_id.is_volume(id, &"data".parse().unwrap()));
        assert!(!by_id.is_volume(VolumeId::fresh(), &"data".parse().unwrap()));
        let by_name: TruthRef = "web".parse().unwrap();
        assert!(by_name.is_machine(MachineId::fresh(), &"web".parse().unwrap()));
        assert_eq!(by_name.to_string(), "web");
        assert!("We b".parse::<TruthRef>().is_err());
    }

    #[test]
    fn the_evidence_that_says_most_comes_first() {
        let job = JobId::fresh();
        let mut all =
            [Evidence::Directory, Evidence::Mark { job }, Evidence::Journal { job, seq: 1, at_ms: 1 }];
        all.sort();
        assert!(matches!(all, [Evidence::Journal { .. }, Evidence::Mark { .. }, Evidence::Directory]));
    }

    #[test]
    fn a_verdict_reads_back_from_json_as_it_was() {
        let truth = SubjectTruth {
            subject: Subject::Volume(VolumeId::fresh()),
            name: Some("data".to_owned()),
            verdict: Verdict::Known {
                owner: "w1".parse().unwrap(),
                generation: Generation(2),
                stands: Stands::Sealed { job: JobId::fresh() },
            },
            by: None,
            copies: Vec::new(),
            machines: Vec::new(),
            claims: Vec::new(),
            gaps: Vec::new(),
            advice: Vec::new(),
        };
        let json = serde_json::to_string(&truth).unwrap();
        assert!(json.contains("\"verdict\":\"known\"") && json.contains("\"kind\":\"volume\""), "{json}");
        assert_eq!(serde_json::from_str::<SubjectTruth>(&json).unwrap(), truth);
    }
}
