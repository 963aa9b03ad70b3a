//! Services: what of a machine is reached over TCP on every worker that knows of it, and what workers tell each other about
//! where it is.

use crate::{AboutWorker, Generation, MachineId, MachineName, Network, ServiceName, WorkerName};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU16;

/// A port of a machine that is reachable on every worker, wherever the machine is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its name, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ServiceName>,
    /// Where the machine listens.
    pub port: NonZeroU16,
    /// Where the workers listen for it; the same port if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<NonZeroU16>,
    /// What is spoken there.
    #[serde(default, skip_serializing_if = "is_tcp")]
    pub protocol: Protocol,
}

impl Service {
    /// How many services a machine has at most.
    pub const PER_MACHINE_MAX: usize = 16;

    /// The port on which the workers listen for it.
    #[must_use]
    pub fn listens_on(&self) -> NonZeroU16 {
        self.listen.unwrap_or(self.port)
    }
}

/// What is spoken at a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Streams of bytes.
    #[default]
    Tcp,
}

// serde gives a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_tcp(protocol: &Protocol) -> bool {
    *protocol == Protocol::Tcp
}

/// Where a machine is, as a worker tells it. Of several the one with the highest generation is right, and of those the
/// owner's own word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub name: MachineName,
    /// How often it has changed hands.
    pub generation: Generation,
    /// The worker that owns it at that generation.
    pub owner: WorkerName,
    /// What of it can be reached.
    pub services: Vec<Service>,
    /// Where it listens: on the worker, or at an address of its own.
    #[serde(default)]
    pub network: Network,
    /// Whether it can be reached now.
    pub presence: Presence,
}

/// Whether a machine can be reached on its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// It runs.
    Runs {
        /// Since when, in milliseconds since 1970: another time means that it was started again.
        since_ms: u64,
    },
    /// It shall run and does not yet, or is on its way.
    Comes,
    /// It shall not run.
    Stopped,
}

/// Asks a worker for its mappings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskMappings {
    /// The revision that is known already; 0 for none. While it is the current one the worker waits.
    #[serde(default)]
    pub known: u64,
    /// For how long, in milliseconds.
    #[serde(default)]
    pub wait_ms: u64,
    /// Whether it is enough to be told what has changed since the revision that is known.
    #[serde(default)]
    pub changes: bool,
}

impl AskMappings {
    /// Longest wait a worker grants, in milliseconds.
    pub const WAIT_MS_MAX: u64 = 20_000;
}

/// The mappings of which a worker has records: those of its own machines, and of those it handed over and still remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mappings {
    /// The worker that tells them.
    pub worker: WorkerName,
    /// Which state of them this is. A later one of the same agent is higher.
    pub revision: u64,
    /// If given, this is only what has changed since that revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Machines of which nothing is told any more since then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<MachineId>,
    /// For how long they may be taken for right without asking again, in milliseconds.
    pub valid_ms: u64,
    /// `host:port` at which the worker takes connections for its machines from other workers.
    pub reached_at: String,
    /// Where its machines are.
    pub mappings: Vec<Mapping>,
    /// What the worker says of itself. An agent that does not tell is an older one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<AboutWorker>,
}

impl Mappings {
    /// How many machines a worker tells of at most.
    pub const MACHINES_MAX: usize = 65_536;
}

/// A service as it stands on a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// The service.
    pub service: Service,
    /// Whose it is.
    pub machine: MachineId,
    /// Its name.
    pub machine_name: MachineName,
    /// The worker that owns the machine, as far as is known here.
    pub owner: WorkerName,
    /// At this generation.
    pub generation: Generation,
    /// Whether it can be reached there.
    pub presence: Presence,
    /// Whether the owner itself has said so, and not too long ago.
    pub is_certain: bool,
    /// `address:port` where this worker listens for it; none if it does not.
    pub listens_at: Option<String>,
    /// Why it does not, in one sentence.
    pub trouble: Option<String>,
    /// Connections that are through now.
    pub connections: u64,
    /// Connections that wait for the machine now.
    pub held: u64,
    /// Connections that came since the agent started.
    pub accepted: u64,
    /// Those of them that were refused.
    pub refused: u64,
    /// Why the last of those was, in one sentence.
    pub last_refusal: Option<String>,
    /// The longest that one of them waited for the machine, in milliseconds, whatever came of it; those that wait now count.
    pub longest_wait_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_a_port_and_says_only_what_differs() {
        let service: Service = serde_json::from_str(r#"{"port": 5432}"#).unwrap();
        assert_eq!(service.listens_on().get(), 5432);
        assert_eq!(serde_json::to_string(&service).unwrap(), r#"{"port":5432}"#);
        let other: Service = serde_json::from_str(r#"{"port": 5432, "listen": 15432}"#).unwrap();
        assert_eq!(other.listens_on().get(), 15432);
        for wrong in [r#"{"port": 0}"#, r#"{"port": 1, "listem": 2}"#, r#"{"port": 1, "protocol": "udp"}"#] {
            assert!(serde_json::from_str::<Service>(wrong).is_err(), "{wrong}");
        }
    }
}
