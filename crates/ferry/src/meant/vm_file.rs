//! The part of a machine's file that says what a VM is.

use crate::output::bytes::parse_size;
use ferry_api::{Accel, MicroVmSpec, QemuDisk, QemuSpec, QemuWord};
use serde::{Deserialize, Deserializer, Serialize};
use std::path::PathBuf;

const MIB: u64 = 1 << 20;

/// A VM as a person writes it down: as [`QemuSpec`], but for its memory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmInFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kernel: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    initrd: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    append: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    firmware: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    machine: Option<QemuWord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cpu: Option<QemuWord>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "memory")]
    memory: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vcpus: Option<u32>,
    #[serde(default)]
    accel: Accel,
    #[serde(default)]
    disk: QemuDisk,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    guest_agent: bool,
}

impl TryFrom<VmInFile> for QemuSpec {
    type Error = String;

    fn try_from(file: VmInFile) -> Result<Self, String> {
        if file.kernel.is_none() && (file.initrd.is_some() || file.append.is_some()) {
            return Err("field qemu: initrd and append are for a kernel; say which with `kernel`".to_owned());
        }
        let defaults = Self::default();
        let memory_mib = match &file.memory {
            Some(text) => mib(text)?,
            None => defaults.memory_mib,
        };
        Ok(Self {
            kernel: file.kernel,
            initrd: file.initrd,
            append: file.append,
            firmware: file.firmware,
            machine: file.machine.unwrap_or(defaults.machine),
            cpu: file.cpu,
            memory_mib,
            vcpus: file.vcpus.unwrap_or(defaults.vcpus),
            accel: file.accel,
            disk: file.disk,
            guest_agent: file.guest_agent,
        })
    }
}

impl From<QemuSpec> for VmInFile {
    fn from(spec: QemuSpec) -> Self {
        Self {
            kernel: spec.kernel,
            initrd: spec.initrd,
            append: spec.append,
            firmware: spec.firmware,
            machine: Some(spec.machine),
            cpu: spec.cpu,
            memory: Some(format!("{}MiB", spec.memory_mib)),
            vcpus: Some(spec.vcpus),
            accel: spec.accel,
            disk: spec.disk,
            guest_agent: spec.guest_agent,
        }
    }
}

/// A VM without a PC's devices as a person writes it down: as [`MicroVmSpec`], but for its memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MicroVmInFile {
    kernel: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    initrd: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    append: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "memory")]
    memory: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vcpus: Option<u32>,
}

impl TryFrom<MicroVmInFile> for MicroVmSpec {
    type Error = String;

    fn try_from(file: MicroVmInFile) -> Result<Self, String> {
        let least = Self::of(file.kernel);
        let memory_mib = match &file.memory {
            Some(text) => mib(text)?,
            None => least.memory_mib,
        };
        let vcpus = file.vcpus.unwrap_or(least.vcpus);
        Ok(Self { initrd: file.initrd, append: file.append, memory_mib, vcpus, ..least })
    }
}

impl From<MicroVmSpec> for MicroVmInFile {
    fn from(spec: MicroVmSpec) -> Self {
        Self {
            kernel: spec.kernel,
            initrd: spec.initrd,
            append: spec.append,
            memory: Some(format!("{}MiB", spec.memory_mib)),
            vcpus: Some(spec.vcpus),
        }
    }
}

fn mib(text: &str) -> Result<u32, String> {
    let bytes = parse_size(text)?;
    let whole = bytes.is_multiple_of(MIB) && bytes > 0;
    let mib = u32::try_from(bytes / MIB).ok().filter(|_| whole);
    mib.ok_or_else(|| format!("'{text}' is no memory of a VM; give a multiple of 1MiB, as in \"512MiB\""))
}

/// Checked here, so that the line is told.
fn memory<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    mib(&text).map_err(serde::de::Error::custom)?;
    Ok(Some(text))
}
