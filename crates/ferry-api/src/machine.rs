//! Machines: stateful guests with an id that never changes.

use crate::{
    CONSOLE_SOCKET, Demand, Driver, Generation, Health, HealthCheck, Hooks, Isolation, JobId, Limits,
    MachineId, MachineName, Mount, Network, Placement, Probe, ProcessSpec, Service, VolumeId, VolumeName,
    VolumeRef, WorkerName,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv6Addr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::str::FromStr;

/// How long a machine may take to stop before it is killed, when nothing else is asked for, in milliseconds.
const STOP_GRACE_MS_DEFAULT: u64 = 30_000;

/// Version of machine specs that this program understands: 2 with mounts and isolation, 3 with services, 4 with health
/// checks, 5 with VMs, 6 with networks of their own, 7 with containers, 8 with limits, 9 with VMs of cloud-hypervisor and
/// firecracker, 10 with hooks, 11 with placement, 12 with VMs that have a guest agent or a network, 13 with VMs whose health is asked
/// by port or URL. A machine moves only to a worker that understands all of its spec.
pub const SPEC_VERSION: u32 = 13;

/// Asks for a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateMachine {
    /// Its name.
    pub name: MachineName,
    /// What it runs.
    pub spec: MachineSpec,
    /// Its disks.
    #[serde(default)]
    pub volumes: Vec<NewVolume>,
    /// Whether it starts at once.
    #[serde(default)]
    pub start: bool,
}

/// A disk for a machine that is created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewVolume {
    /// Name of the volume in the machine.
    pub name: VolumeName,
    /// Where it comes from.
    pub origin: VolumeOrigin,
}

/// Where a disk of a new machine comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum VolumeOrigin {
    /// Empty: reads as zeroes.
    Empty {
        /// Size in bytes, a multiple of 512.
        size_bytes: u64,
        /// Unit of copying in bytes, a power of two.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        region_bytes: Option<u32>,
        /// As in [`crate::ImportVolume`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        store: Option<PathBuf>,
        /// As in [`crate::ImportVolume`].
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        direct: bool,
    },
    /// A volume of this worker that belongs to no machine (an imported one). It takes the name given here.
    Existing {
        /// The volume.
        volume: VolumeRef,
    },
}

/// What a machine runs and how it is treated. Travels with the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineSpec {
    /// Who runs it.
    pub driver: Driver,
    /// Signal that asks it to stop.
    #[serde(default)]
    pub stop_signal: Signal,
    /// How long it may take to stop before it is killed, in milliseconds.
    #[serde(default = "stop_grace_ms_default")]
    pub stop_grace_ms: u64,
    /// What happens when it exits by itself.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Which of its volumes it finds as file systems, and where.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mounts: BTreeMap<VolumeName, Mount>,
    /// What it has for itself of the worker; none: it is a process like any other there, unless it mounts something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// What of it is reached on every worker, wherever it is; at most [`Service::PER_MACHINE_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
    /// How it is found out whether it is well; none: it is not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// What it may use at most.
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
    /// Which workers it may go to.
    #[serde(default, skip_serializing_if = "Placement::is_none")]
    pub placement: Placement,
    /// What it is told of its moves.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
}

fn stop_grace_ms_default() -> u64 {
    STOP_GRACE_MS_DEFAULT
}

impl MachineSpec {
    /// A machine that runs `command` with `args`, everything else by default.
    pub fn process(command: impl Into<String>, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self {
            driver: Driver::Process(ProcessSpec {
                command: command.into(),
                args,
                env: BTreeMap::new(),
                workdir: None,
            }),
            stop_signal: Signal::default(),
            stop_grace_ms: STOP_GRACE_MS_DEFAULT,
            restart: RestartPolicy::default(),
            mounts: BTreeMap::new(),
            isolation: None,
            services: Vec::new(),
            health: None,
            limits: Limits::default(),
            placement: Placement::default(),
            hooks: Hooks::default(),
        }
    }

    /// Whether it runs in namespaces of its own.
    #[must_use]
    pub fn is_isolated(&self) -> bool {
        self.isolation.is_some() || !self.mounts.is_empty()
    }

    /// What it has of the network.
    #[must_use]
    pub fn network(&self) -> Network {
        self.isolation.as_ref().map(|isolation| isolation.network).unwrap_or_default()
    }

    /// What it is known to take of a worker: what it is limited to, else what its VM is made with.
    #[must_use]
    pub fn demand(&self) -> Demand {
        let vm = match &self.driver {
            Driver::Process(_) | Driver::Oci(_) => None,
            Driver::Qemu(vm) => Some((vm.vcpus, vm.memory_mib)),
            Driver::CloudHypervisor(vm) | Driver::Firecracker(vm) => Some((vm.vcpus, vm.memory_mib)),
        };
        let limited_millis = self.limits.cpu_millis.map(|millis| u64::from(millis.get()));
        Demand {
            cpu_millis: limited_millis.or(vm.map(|(vcpus, _)| u64::from(vcpus) * 1_000)),
            memory_bytes: self
                .limits
                .memory_bytes
                .map(NonZeroU64::get)
                .or(vm.map(|(_, mib)| u64::from(mib) << 20)),
        }
    }

    /// The earliest version of specs ([`SPEC_VERSION`]) that can say all of it.
    #[must_use]
    pub fn version(&self) -> u32 {
        let is_asked_outside = |check: &HealthCheck| !matches!(check.probe, Probe::Command(_));
        if self.driver.is_vm() && self.health.as_ref().is_some_and(is_asked_outside) {
            return 13;
        }
        if self.driver.as_qemu().is_some_and(|vm| vm.guest_agent || self.network() == Network::Own) {
            return 12;
        }
        if !self.placement.is_none() {
            return 11;
        }
        if !self.hooks.is_empty() {
            return 10;
        }
        if self.driver.as_micro_vm().is_some() {
            return 9;
        }
        if !self.limits.is_none() {
            return 8;
        }
        match (&self.driver, self.network(), &self.health, self.services.is_empty(), self.is_isolated()) {
            (Driver::Oci(_), ..) => 7,
            (_, Network::Own, ..) => 6,
            (Driver::CloudHypervisor(_) | Driver::Firecracker(_), ..) => 9,
            (Driver::Qemu(_), ..) => 5,
            (Driver::Process(_), _, Some(_), ..) => 4,
            (Driver::Process(_), _, None, false, _) => 3,
            (Driver::Process(_), _, None, true, true) => 2,
            (Driver::Process(_), _, None, true, false) => 1,
        }
    }
}

/// What happens when a machine exits by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// It is started again, later each time up to a limit.
    #[default]
    Always,
    /// It is started again unless it exited with 0.
    OnFailure,
    /// It stays down.
    Never,
}

/// A signal that may end a process, by its number on Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signal(i32);

/// A text is not a signal a machine can be stopped with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a stop signal; use one of TERM, INT, QUIT, HUP, USR1, USR2, KILL")]
pub struct SignalError {
    /// What was given.
    pub text: String,
}

impl Signal {
    const KNOWN: [(&str, i32); 7] =
        [("TERM", 15), ("INT", 2), ("QUIT", 3), ("HUP", 1), ("USR1", 10), ("USR2", 12), ("KILL", 9)];
    /// Asks politely.
    pub const TERM: Self = Self(15);
    /// Ends at once.
    pub const KILL: Self = Self(9);

    /// Its number on Linux.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }
}

impl Default for Signal {
    fn default() -> Self {
        Self::TERM
    }
}

impl FromStr for Signal {
    type Err = SignalError;

    fn from_str(text: &str) -> Result<Self, SignalError> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let known = Self::KNOWN.iter().find(|(known, _)| *known == name);
        known.map(|&(_, number)| Self(number)).ok_or_else(|| SignalError { text: text.to_owned() })
    }
}

impl TryFrom<String> for Signal {
    type Error = SignalError;

    fn try_from(text: String) -> Result<Self, SignalError> {
        text.parse()
    }
}

impl From<Signal> for String {
    fn from(signal: Signal) -> Self {
        signal.to_string()
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::KNOWN.iter().find(|(_, number)| *number == self.0);
        f.pad(known.expect("a signal is only made from the table of known ones").0)
    }
}

/// A machine on a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its id, the same on every worker.
    pub id: MachineId,
    /// Its name.
    pub name: MachineName,
    /// Its own address, the same on every worker ([`MachineId::address`]); it is reached there with `network = "own"`. None: who
    /// tells it is of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv6Addr>,
    /// The worker that tells this.
    pub worker: WorkerName,
    /// How often it has changed hands.
    pub generation: Generation,
    /// What it runs.
    pub spec: MachineSpec,
    /// Its disks.
    pub volumes: Vec<MachineVolume>,
    /// What its owner wants.
    pub desired: Desired,
    /// What is so.
    pub state: MachineState,
    /// How it is, if it runs and its spec says how to find out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// The job that holds it, if one does.
    pub job: Option<JobId>,
    /// How it ended the last time, if it did.
    pub last_exit: Option<Exit>,
    /// How long its last start on this worker took until its first process ran, in milliseconds; none if it was never started here, or who
    /// tells this is of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_ms: Option<u64>,
    /// Where its output goes on the worker.
    pub log: PathBuf,
    /// Since when it exists, in milliseconds since 1970.
    pub created_at_ms: u64,
}

impl Machine {
    /// Its serial console, a socket on its worker, if it is a VM.
    #[must_use]
    pub fn console(&self) -> Option<PathBuf> {
        self.spec.driver.as_qemu().map(|_| self.log.with_file_name(CONSOLE_SOCKET))
    }
}

/// A disk of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineVolume {
    /// Name in the machine.
    pub name: VolumeName,
    /// The volume.
    pub volume: VolumeId,
    /// The generation that the machine uses (on a worker that handed it over: the last one it used there).
    pub generation: Generation,
}

/// What the owner of a machine wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// It shall run.
    Running,
    /// It shall not run.
    Stopped,
}

/// What is so with a machine on a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum MachineState {
    /// It does not run, as wanted.
    Stopped,
    /// It shall run and does not yet (its volumes are not there yet, for example).
    Starting {
        /// What it waits for, in one sentence.
        waits_for: String,
    },
    /// It runs.
    Running {
        /// Process id of its first process.
        pid: u32,
        /// Since when, in milliseconds since 1970.
        since_ms: u64,
    },
    /// It exited and will be started again.
    Restarting {
        /// When, in milliseconds since 1970.
        retry_at_ms: u64,
        /// How often it has been started again since it last ran well.
        restarts: u32,
    },
    /// A job keeps it down on its way to another worker.
    Halted {
        /// The job.
        job: JobId,
    },
    /// It belongs to another worker now.
    HandedOver {
        /// That worker.
        to: WorkerName,
    },
}

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code, if it exited.
    pub code: Option<i32>,
    /// Number of the signal that killed it, if one did.
    pub signal: Option<i32>,
    /// When this was noticed, in milliseconds since 1970. Neither code nor signal are known for a machine that
    /// outlived the agent that started it.
    pub at_ms: u64,
    /// Whether it was killed since it wanted more memory than its limit ([`Limits::memory_bytes`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub out_of_memory: bool,
    /// Whether it was killed since a block device that it had mounted was gone with its volume's server. It is started again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost_its_disk: bool,
    /// By what a VM was asked to end, the last time before it did; none: it was not asked, or is no VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<AskedBy>,
}

/// By what a VM is asked to shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AskedBy {
    /// The agent inside it.
    GuestAgent,
    /// Its power button, or what stands for it.
    PowerButton,
}

impl fmt::Display for AskedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::GuestAgent => "its guest agent",
            Self::PowerButton => "its power button",
        })
    }
}

/// Asks for the end of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestroyMachine {
    /// Also when it runs: it is stopped first.
    #[serde(default)]
    pub stop: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_read_with_or_without_sig() {
        for text in ["TERM", "sigterm", "SIGTERM"] {
            assert_eq!(text.parse::<Signal>().unwrap(), Signal::TERM);
        }
        assert!("WINCH".parse::<Signal>().is_err());
        assert_eq!(serde_json::to_string(&Signal::KILL).unwrap(), "\"KILL\"");
    }

    #[test]
    fn a_spec_that_an_earlier_program_does_not_know_says_so() {
        let mut spec = MachineSpec::process("sleep", ["1"]);
        assert_eq!(spec.version(), 1);
        assert!(!serde_json::to_string(&spec).unwrap().contains("mounts"));
        let mount = Mount {
            path: "/data".to_owned().try_into().unwrap(),
            fs: crate::Filesystem::Ext4,
            read_only: false,
        };
        spec.mounts.insert("data".parse().unwrap(), mount);
        assert_eq!((spec.version(), spec.is_isolated()), (2, true));
        spec.services.push(serde_json::from_str(r#"{"port": 80}"#).unwrap());
        assert_eq!(spec.version(), 3);
        spec.health = Some(Probe::Command(vec!["true".to_owned()]).into());
        assert_eq!(spec.version(), 4);
        let vm = MachineSpec { driver: Driver::Qemu(crate::QemuSpec::default()), ..spec.clone() };
        assert_eq!(vm.version(), 5);
        spec.isolation = Some(Isolation { network: Network::Own, ..Isolation::default() });
        assert_eq!(spec.version(), 6);
        spec.hooks.quiesce = Some(crate::Hook::new(vec!["sync".to_owned()]));
        assert_eq!(spec.version(), 10);
        spec.placement.group = Some("web".parse().unwrap());
        assert_eq!(spec.version(), 11);
        let vm = crate::QemuSpec { guest_agent: true, ..crate::QemuSpec::default() };
        spec.driver = Driver::Qemu(vm);
        assert_eq!(spec.version(), 12);
        spec.health = Some(Probe::Tcp(80.try_into().unwrap()).into());
        assert_eq!(spec.version(), SPEC_VERSION);
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<MachineSpec>(&json).unwrap(), spec);
    }

    #[test]
    fn a_spec_says_only_what_differs_from_the_default() {
        let json = r#"{"driver": {"process": {"command": "sleep", "args": ["1"]}}}"#;
        assert_eq!(serde_json::from_str::<MachineSpec>(json).unwrap(), MachineSpec::process("sleep", ["1"]));
        assert!(
            serde_json::from_str::<MachineSpec>(r#"{"driver": {"process": {"comand": "sleep"}}}"#).is_err()
        );
    }
}
