//! Whether a worker can take a machine, by what it tells of itself, and how well that would be.
//!
//! Invariant: yes means that with the machine the worker is within all its limits and all rules are kept. Every reason for no
//! is told, not only the first, so that a person mends them all at once.

use crate::requirements::Requirements;
use ferry_api::{Bid, Demand, Frontend, Resident, Score};
use ferry_crossing::reckoning::{against_spec, against_volumes, check_cordon};

/// What a machine that nothing bounds counts for when workers are compared, in thousandths of a processor: else all of them
/// would go to one worker.
const NOMINAL_CPU_MILLIS: u64 = 100;
/// The same in bytes of memory.
const NOMINAL_MEMORY_BYTES: u64 = 128 << 20;

/// What a worker is found to be for a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It fits.
    Yes(Score),
    /// It does not; at least one reason.
    No(Vec<Reason>),
}

/// Why a worker does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It cannot run it, in one sentence.
    Cannot(String),
    /// It could, against a rule of the machine or of one that is there, in one sentence. A person may force that.
    Rule(String),
}

impl Reason {
    /// The sentence.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Cannot(text) | Self::Rule(text) => text,
        }
    }
}

impl Verdict {
    /// The rules that are broken if a person forces it; none if that cannot be forced, or need not be.
    #[must_use]
    pub fn costs(&self) -> Option<Vec<String>> {
        let Self::No(reasons) = self else { return None };
        let rule = |reason: &Reason| match reason {
            Reason::Rule(text) => Some(text.clone()),
            Reason::Cannot(_) => None,
        };
        reasons.iter().map(rule).collect()
    }
}

/// Whether the worker of this bid can take the machine, and how well it fits.
#[must_use]
pub fn judge(wants: &Requirements, bid: &Bid) -> Verdict {
    let reasons: Vec<Reason> = against_being(wants, bid)
        .into_iter()
        .chain(against_capacity(wants, bid))
        .map(Reason::Cannot)
        .chain(against_rules(wants, bid).into_iter().map(Reason::Rule))
        .collect();
    if reasons.is_empty() { Verdict::Yes(score(wants, bid)) } else { Verdict::No(reasons) }
}

/// Whether the worker of this bid takes the machine, `force`d if need be; if not, the first reason, in one sentence.
///
/// # Errors
/// It does not.
pub fn fits(wants: &Requirements, bid: &Bid, force: bool) -> Result<(), String> {
    let verdict = judge(wants, bid);
    let can_be_forced = force && verdict.costs().is_some();
    match verdict {
        Verdict::Yes(_) => Ok(()),
        Verdict::No(_) if can_be_forced => Ok(()),
        Verdict::No(reasons) => {
            Err(reasons.first().map(|reason| reason.text().to_owned()).unwrap_or_default())
        }
    }
}

/// What speaks against the worker as it is.
fn against_being(wants: &Requirements, bid: &Bid) -> Vec<String> {
    let worker = &bid.worker.name;
    let mut against = Vec::new();
    if *worker == wants.from {
        against.push(format!("machine {} is already on worker {worker}", wants.name));
    } else if bid.residents.iter().any(|resident| resident.machine == wants.machine) {
        against.push(format!("machine {} is already on its way to worker {worker}", wants.name));
    }
    against.extend(bid.troubles.iter().map(|trouble| format!("worker {worker} is not well: {trouble}")));
    if bid.worker.api_version != ferry_api::API_VERSION {
        against.push(format!(
            "worker {worker} speaks version {} of the agents' language and this one version {}; bring both to the same \
             version of ferry",
            bid.worker.api_version,
            ferry_api::API_VERSION
        ));
    }
    against.extend(check_cordon(&bid.worker).err().map(|error| error.message));
    against.extend(against_spec(&bid.worker, &wants.spec).into_iter().map(|error| error.message));
    let is_block_device = |frontend: &Frontend| matches!(frontend, Frontend::Fuse | Frontend::Ublk);
    if wants.needs_block_device() && !bid.frontends.iter().any(is_block_device) {
        against.push(format!(
            "worker {worker} can make no block device for the volumes that the machine mounts; see `ferry doctor` there"
        ));
    }
    against
}

/// What of the worker there is too little of.
fn against_capacity(wants: &Requirements, bid: &Bid) -> Vec<String> {
    let worker = &bid.worker.name;
    let volumes = against_volumes(&bid.worker, &wants.volumes);
    let mut against: Vec<String> = volumes.into_iter().map(|error| error.message).collect();
    let wanted = wants.spec.demand();
    let mut scarce = |what: &str, wanted: Option<u64>, all: u64, taken: u64| {
        let left = all.saturating_sub(taken);
        if let Some(wanted) = wanted.filter(|wanted| *wanted > left) {
            against.push(format!(
                "worker {worker} has {left} {what} left of {all} and the machine takes {wanted}; choose another worker or \
                 raise what it may give"
            ));
        }
    };
    let cpu_millis = |demand: &Demand| demand.cpu_millis.unwrap_or(0);
    let memory_bytes = |demand: &Demand| demand.memory_bytes.unwrap_or(0);
    let capacity = bid.capacity;
    scarce("thousandths of a processor", wanted.cpu_millis, capacity.cpu_millis, taken(bid, cpu_millis));
    scarce("bytes of memory", wanted.memory_bytes, capacity.memory_bytes, taken(bid, memory_bytes));
    against
}

/// Which rules of the machine, and of those that are there, would be broken.
fn against_rules(wants: &Requirements, bid: &Bid) -> Vec<String> {
    let worker = &bid.worker.name;
    let rules = &wants.spec.placement;
    let mut against = Vec::new();
    if let Some(region) = rules.region.as_ref().filter(|region| Some(*region) != bid.worker.region.as_ref()) {
        against.push(match &bid.worker.region {
            Some(other) => {
                format!("worker {worker} is in region {other} and the machine belongs to {region}")
            }
            None => format!("worker {worker} is in no region and the machine belongs to {region}"),
        });
    }
    for (label, value) in &rules.labels {
        match bid.worker.labels.get(label) {
            Some(found) if found == value => {}
            Some(found) => against
                .push(format!("worker {worker} has {label} = {found} and the machine asks for {value}")),
            None => against.push(format!("worker {worker} lacks the label {label} = {value}")),
        }
    }
    let group = rules.group.as_ref();
    for there in bid.residents.iter().filter(|there| there.machine != wants.machine) {
        let mine = rules.apart.iter().find(|other| other.is(&there.name, there.group.as_ref()));
        let its = there.apart.iter().find(|other| other.is(&wants.name, group));
        let Resident { name, .. } = there;
        if let Some(other) = mine {
            against.push(format!(
                "machine {name} is on worker {worker}, and the machine is to be apart from {other}"
            ));
        } else if let Some(other) = its {
            against.push(format!("machine {name} on worker {worker} is to be apart from {other}"));
        }
    }
    against
}

/// How well a worker fits, whether it may take the machine or not.
pub(crate) fn score(wants: &Requirements, bid: &Bid) -> Score {
    let is_there = |other: &&ferry_api::Other| {
        bid.residents.iter().any(|there| other.is(&there.name, there.group.as_ref()))
    };
    let near = wants.spec.placement.near.iter().filter(is_there).count();
    let room = &bid.worker.room;
    let all_bytes = room.used_bytes.saturating_add(room.promised_bytes).saturating_add(room.free_bytes);
    let wanted = wants.spec.demand();
    let (cpu, memory) = (bid.capacity.cpu_millis, bid.capacity.memory_bytes);
    let cpu_taken = taken(bid, nominal_cpu).saturating_add(nominal_cpu(&wanted));
    let memory_taken = taken(bid, nominal_memory).saturating_add(nominal_memory(&wanted));
    let left = [
        permille(room.free_bytes.saturating_sub(wants.disk_bytes()), all_bytes),
        permille(cpu.saturating_sub(cpu_taken), cpu),
        permille(memory.saturating_sub(memory_taken), memory),
        permille(cpu.saturating_sub(bid.busy_cpu_millis), cpu),
    ];
    Score {
        near: u32::try_from(near).unwrap_or(u32::MAX),
        left_permille: left.into_iter().min().unwrap_or(0),
    }
}

/// Thousandths of a processor that a machine is reckoned to take.
pub(crate) fn nominal_cpu(demand: &Demand) -> u64 {
    demand.cpu_millis.unwrap_or(NOMINAL_CPU_MILLIS)
}

fn nominal_memory(demand: &Demand) -> u64 {
    demand.memory_bytes.unwrap_or(NOMINAL_MEMORY_BYTES)
}

/// What all machines of a worker take together.
fn taken(bid: &Bid, of: impl Fn(&Demand) -> u64) -> u64 {
    bid.residents.iter().map(|there| of(&there.demand)).fold(0, u64::saturating_add)
}

/// A part in thousandths of the whole; of nothing there is nothing left.
pub(crate) fn permille(part: u64, whole: u64) -> u32 {
    let permille = (u128::from(part) * 1_000).checked_div(u128::from(whole)).unwrap_or(0);
    u32::try_from(permille.min(1_000)).expect("a thousand is less than that")
}
