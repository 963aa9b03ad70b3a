//! What runs a machine: one variant for each driver, each with what only that driver must know.

use crate::QemuSpec;
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
    /// A VM, run by QEMU.
    Qemu(QemuSpec),
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

impl Driver {
    /// Which driver it is.
    #[must_use]
    pub fn kind(&self) -> DriverKind {
        match self {
            Self::Process(_) => DriverKind::Process,
            Self::Qemu(_) => DriverKind::Qemu,
        }
    }

    /// What the `process` driver must know, if it is the one.
    #[must_use]
    pub fn as_process(&self) -> Option<&ProcessSpec> {
        match self {
            Self::Process(process) => Some(process),
            Self::Qemu(_) => None,
        }
    }

    /// What the `qemu` driver must know, if it is the one.
    #[must_use]
    pub fn as_qemu(&self) -> Option<&QemuSpec> {
        match self {
            Self::Qemu(qemu) => Some(qemu),
            Self::Process(_) => None,
        }
    }
}

/// A driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DriverKind {
    /// Runs processes.
    Process,
    /// Runs VMs.
    Qemu,
}

impl DriverKind {
    /// All that there are.
    pub const ALL: [Self; 2] = [Self::Process, Self::Qemu];

    /// Its name, as in `driver = "process"`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Qemu => "qemu",
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
    /// Why it can run no machine here, in one sentence, if it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
