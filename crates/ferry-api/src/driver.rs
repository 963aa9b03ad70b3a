//! What runs a machine: one variant for each driver, each with what only that driver must know.

use crate::{LiveFacts, MicroVmSpec, QemuSpec, VmModels};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// What runs a machine, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// A process of the worker.
    Process(ProcessSpec),
    /// A container of an OCI runtime.
    Oci(OciSpec),
    /// A VM, run by QEMU.
    Qemu(QemuSpec),
    /// A VM, run by cloud-hypervisor.
    CloudHypervisor(MicroVmSpec),
    /// A VM, run by firecracker.
    Firecracker(MicroVmSpec),
}

/// A process of the worker. It finds the NBD URI of each volume in `FERRY_VOLUME_<NAME>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessSpec {
    /// The program: a path, or a name looked up in the agent's `PATH`.
    pub command: String,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Further environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Its working directory; the machine's own directory on the worker if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<PathBuf>,
}

/// A container. Its volumes are those that it mounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OciSpec {
    /// What it is made of.
    pub from: OciSource,
    /// What it runs; what its image or bundle says if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Environment variables beside, or instead of, those of the image or bundle.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Its working directory inside; what its image or bundle says if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<PathBuf>,
}

/// What a container is made of: a directory that is on each worker on which it shall run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OciSource {
    /// An OCI bundle: `config.json` and a root file system.
    Bundle(PathBuf),
    /// An image in an OCI image layout.
    Image {
        /// The layout.
        path: PathBuf,
        /// Which of its images; the only one if not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tag: Option<String>,
    },
}

impl Driver {
    /// Which driver it is.
    #[must_use]
    pub fn kind(&self) -> DriverKind {
        match self {
            Self::Process(_) => DriverKind::Process,
            Self::Oci(_) => DriverKind::Oci,
            Self::Qemu(_) => DriverKind::Qemu,
            Self::CloudHypervisor(_) => DriverKind::CloudHypervisor,
            Self::Firecracker(_) => DriverKind::Firecracker,
        }
    }

    /// What the `process` driver must know, if it is the one.
    #[must_use]
    pub fn as_process(&self) -> Option<&ProcessSpec> {
        if let Self::Process(process) = self { Some(process) } else { None }
    }

    /// What the `oci` driver must know, if it is the one.
    #[must_use]
    pub fn as_oci(&self) -> Option<&OciSpec> {
        if let Self::Oci(oci) = self { Some(oci) } else { None }
    }

    /// What the `qemu` driver must know, if it is the one.
    #[must_use]
    pub fn as_qemu(&self) -> Option<&QemuSpec> {
        if let Self::Qemu(qemu) = self { Some(qemu) } else { None }
    }

    /// What the drivers of VMs without a PC's devices must know, if it is one of them.
    #[must_use]
    pub fn as_micro_vm(&self) -> Option<&MicroVmSpec> {
        match self {
            Self::CloudHypervisor(vm) | Self::Firecracker(vm) => Some(vm),
            Self::Process(_) | Self::Oci(_) | Self::Qemu(_) => None,
        }
    }

    /// Whether it runs a VM, whose kernel and network are its own.
    #[must_use]
    pub fn is_vm(&self) -> bool {
        match self {
            Self::Process(_) | Self::Oci(_) => false,
            Self::Qemu(_) | Self::CloudHypervisor(_) | Self::Firecracker(_) => true,
        }
    }
}

/// A driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriverKind {
    /// Runs processes.
    Process,
    /// Runs containers.
    Oci,
    /// Runs VMs.
    Qemu,
    /// Runs VMs, by cloud-hypervisor.
    CloudHypervisor,
    /// Runs VMs, by firecracker.
    Firecracker,
}

impl DriverKind {
    /// All that there are.
    pub const ALL: [Self; 5] =
        [Self::Process, Self::Oci, Self::Qemu, Self::CloudHypervisor, Self::Firecracker];

    /// Its name, as in `driver = "process"`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Oci => "oci",
            Self::Qemu => "qemu",
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Firecracker => "firecracker",
        }
    }
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whether a worker can run machines of one driver. The name is a text: a newer worker may have drivers that are not known
/// here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverInfo {
    /// [`DriverKind::as_str`].
    pub name: String,
    /// What was found that it runs with, in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// What of its machines can be limited here: [`crate::Limit::as_str`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<String>,
    /// Why it can run no machine here, in one sentence, if it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What counts when machines of it are to come with their memory; none if they cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveFacts>,
    /// What its VMs can be told to be; none if they are told no such thing, or that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<VmModels>,
}
