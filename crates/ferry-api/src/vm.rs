//! What a VM is, as far as its VMM must know.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Memory that a VM has if its spec does not say, in MiB.
const MEMORY_MIB_DEFAULT: u32 = 512;

/// A VM, run by QEMU. It boots the kernel that is given here, or else by its firmware from its first volume. It finds its
/// volumes as virtio disks, in the order in which the machine has them, each with the first 20 characters of the volume's id as its serial
/// number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QemuSpec {
    /// A kernel of the worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// An initial RAM disk of the worker, for that kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// The command line of that kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append: Option<String>,
    /// Firmware of the worker instead of QEMU's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<PathBuf>,
    /// QEMU's name for the kind of machine.
    #[serde(default = "machine_default")]
    pub machine: QemuWord,
    /// QEMU's name for the CPU, with what it shall have and not; if not given, all that there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<QemuWord>,
    /// Memory in MiB.
    #[serde(default = "memory_mib_default")]
    pub memory_mib: u32,
    /// Virtual CPUs.
    #[serde(default = "vcpus_default")]
    pub vcpus: u32,
    /// How its instructions are run.
    #[serde(default)]
    pub accel: Accel,
    /// How it comes to its volumes.
    #[serde(default)]
    pub disk: QemuDisk,
    /// Whether it has a port for the QEMU guest agent, which is expected to run in it: hooks are run by that, and it is shut down by
    /// it. The port is a device, so it is said here and not found out: both sides of a live move must have the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guest_agent: bool,
}

impl Default for QemuSpec {
    fn default() -> Self {
        Self {
            kernel: None,
            initrd: None,
            append: None,
            firmware: None,
            machine: machine_default(),
            cpu: None,
            memory_mib: MEMORY_MIB_DEFAULT,
            vcpus: vcpus_default(),
            accel: Accel::default(),
            disk: QemuDisk::default(),
            guest_agent: false,
        }
    }
}

/// What the QEMU of a worker knows, by its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmModels {
    /// Kinds of machines.
    pub machines: Vec<String>,
    /// CPUs.
    pub cpus: Vec<String>,
}

impl VmModels {
    /// What of a VM is not among them, with what `[qemu]` calls it; nothing if it can be had.
    #[must_use]
    pub fn lacks<'a>(&self, vm: &'a QemuSpec) -> Option<(&'static str, &'a str)> {
        let asked = [("machine", Some(&vm.machine), &self.machines), ("cpu", vm.cpu.as_ref(), &self.cpus)];
        let mut lacking = asked.into_iter().filter_map(|(field, word, known)| {
            // What it shall have and not follows behind commas.
            let name = word?.as_str().split(',').next()?;
            (!known.iter().any(|known| known == name)).then_some((field, name))
        });
        lacking.next()
    }
}

fn machine_default() -> QemuWord {
    QemuWord("q35".to_owned())
}

fn memory_mib_default() -> u32 {
    MEMORY_MIB_DEFAULT
}

fn vcpus_default() -> u32 {
    1
}

/// A VM without a PC's devices and firmware, run by cloud-hypervisor or firecracker, which need KVM. It boots a kernel that is given, and
/// finds its volumes as virtio disks, in the order in which the machine has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MicroVmSpec {
    /// A kernel of the worker.
    pub kernel: PathBuf,
    /// An initial RAM disk of the worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line; what its VMM has for one if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append: Option<String>,
    /// Memory in MiB.
    #[serde(default = "memory_mib_default")]
    pub memory_mib: u32,
    /// Virtual CPUs.
    #[serde(default = "vcpus_default")]
    pub vcpus: u32,
}

impl MicroVmSpec {
    /// One that boots this kernel.
    #[must_use]
    pub fn of(kernel: PathBuf) -> Self {
        Self { kernel, initrd: None, append: None, memory_mib: MEMORY_MIB_DEFAULT, vcpus: vcpus_default() }
    }
}

/// A VM's serial console, a socket in its directory.
pub const CONSOLE_SOCKET: &str = "console.sock";

/// How a VM's instructions are run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accel {
    /// By KVM where that is of use, else by TCG.
    #[default]
    Auto,
    /// By the processor itself.
    Kvm,
    /// Translated by QEMU.
    Tcg,
}

/// How a VM comes to its volumes. Its guest sees virtio disks either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QemuDisk {
    /// The volume's server reads and writes the guest's memory.
    #[default]
    VhostUserBlk,
    /// QEMU asks the volume's server.
    Nbd,
}

/// One of QEMU's names, which can say nothing else to it: letters, digits and `. _ - + = ,`, but no comma first or last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QemuWord(String);

/// A text is no name of QEMU's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no name that QEMU could know; write one as in q35, or host,-avx512f")]
pub struct QemuWordError {
    /// What was given.
    pub text: String,
}

impl QemuWord {
    /// As a text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for QemuWord {
    type Err = QemuWordError;

    fn from_str(text: &str) -> Result<Self, QemuWordError> {
        let is_known = |c: char| c.is_ascii_alphanumeric() || "._-+=,".contains(c);
        let is_name = text.starts_with(|c: char| c.is_ascii_alphanumeric()) && !text.ends_with(',');
        match is_name && text.chars().all(is_known) {
            true => Ok(Self(text.to_owned())),
            false => Err(QemuWordError { text: text.to_owned() }),
        }
    }
}

impl TryFrom<String> for QemuWord {
    type Error = QemuWordError;

    fn try_from(text: String) -> Result<Self, QemuWordError> {
        text.parse()
    }
}

impl From<QemuWord> for String {
    fn from(word: QemuWord) -> Self {
        word.0
    }
}

impl fmt::Display for QemuWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_qemus_says_nothing_else() {
        for text in ["", "-cpu", "a b", "q35,", ",x", "a\0", "q35\n-monitor"] {
            assert!(text.parse::<QemuWord>().is_err(), "{text:?}");
        }
        assert_eq!("host,-avx512f".parse::<QemuWord>().unwrap().as_str(), "host,-avx512f");
        assert_eq!(serde_json::from_str::<QemuSpec>("{}").unwrap(), QemuSpec::default());
    }
}
