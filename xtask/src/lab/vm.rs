//! `cargo xtask lab vm`: the VM that Ferry's tests move, as a kernel and an initial RAM disk in `target/lab/vm`.

use std::path::Path;

use anyhow::Context;

use super::debian::Suite;
use super::guest::{self, Parts};
use crate::bench::processes;

/// The suite whose kernel boots fastest without KVM.
const SUITE: &str = "bookworm";
/// Those that a kernel has built in are not there.
const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "crc16",
    "mbcache",
    "jbd2",
    "crc32c_generic",
    "ext4",
    "evdev",
    "button",
    "virtio_console",
    "failover",
    "net_failover",
    "virtio_net",
    "qemu_fw_cfg",
];

/// Makes it anew; what is downloaded for it stays in `kept`.
pub fn make(kept: &Path) -> anyhow::Result<()> {
    let dir = kept.join("vm");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let suite = Suite::new(SUITE, kept);
    let kernel = suite.kernel()?;
    let mke2fs = processes::run("sh", &["-c", "PATH=$PATH:/usr/sbin:/sbin; command -v mke2fs"]);
    let mke2fs = mke2fs.context("the VM needs mke2fs: apt-get install e2fsprogs")?;
    let programs = [mke2fs.stdout.trim().into(), suite.file("qemu-guest-agent", "qemu-ga")?];
    let script = include_str!("vm.sh");
    guest::make(&dir, kept, &Parts { kernel: &kernel, modules: MODULES, programs: &programs, script })?;
    std::fs::copy(kernel.image()?, dir.join("kernel")).context("cannot copy the kernel")?;
    Ok(())
}
