//! A guest small enough to boot in seconds without KVM: Debian's kernel, busybox, one script, no files.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::bench::processes;

/// The kernel for virtual machines: small, and everything a guest needs is a module of it.
const KERNEL: &str = "linux-image-cloud-amd64";
const SHELL: &str = "busybox-static";
/// Modules in the order in which they need each other; those that a kernel has built in are not there.
const MODULES: &[&str] =
    &["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk"];
const FILE: u32 = 0o100_755;
const FOLDER: u32 = 0o40_755;

/// What QEMU boots.
pub struct Guest {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

/// Makes a guest that runs `init`; what is downloaded for it stays in `dir` for the next time.
pub fn make(dir: &Path, init: &str) -> anyhow::Result<Guest> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let package = kernel_package()?;
    let kernel = unpacked(dir, &package)?;
    let shell = unpacked(dir, SHELL)?;
    let mut archive = Archive::default();
    archive.entry("bin", FOLDER, &[]);
    archive.entry("bin/busybox", FILE, &read(&shell.join("bin/busybox"))?);
    archive.entry("init", FILE, init.as_bytes());
    let version = package.trim_start_matches("linux-image-");
    for module in MODULES {
        let folder = if *module == "virtio_blk" { "block" } else { "virtio" };
        let path = kernel.join(format!("lib/modules/{version}/kernel/drivers/{folder}/{module}.ko"));
        if path.exists() {
            archive.entry(&format!("{module}.ko"), FILE, &read(&path)?);
        }
    }
    let initrd = dir.join("initrd");
    std::fs::write(&initrd, archive.end()).with_context(|| format!("cannot write {}", initrd.display()))?;
    Ok(Guest { kernel: kernel.join(format!("boot/vmlinuz-{version}")), initrd })
}

/// The package with the kernel that Debian's own package of kernels asks for today.
fn kernel_package() -> anyhow::Result<String> {
    let said = processes::run("apt-cache", &["depends", KERNEL]).context("the lab needs Debian's apt")?;
    let named = said.stdout.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    named.map(str::to_owned).with_context(|| format!("{KERNEL} depends on no kernel; run `apt-get update`"))
}

/// The files of a package, downloaded unless they are there.
fn unpacked(dir: &Path, package: &str) -> anyhow::Result<PathBuf> {
    let files = dir.join(package);
    if files.exists() {
        return Ok(files);
    }
    let fresh = tempfile::tempdir_in(dir).context("cannot make a temporary directory")?;
    let script = format!(
        "cd '{}' && apt-get download -qq {package} && dpkg-deb -x *.deb files",
        fresh.path().display()
    );
    processes::run("sh", &["-c", &script])?;
    std::fs::rename(fresh.path().join("files"), &files).context("cannot keep a package's files")?;
    Ok(files)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.is_empty() {
        bail!("{} is empty", path.display());
    }
    Ok(bytes)
}

/// An archive as the kernel unpacks it (cpio, "newc"; Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let len = content.len() as u32;
        let name_len = name.len() as u32 + 1;
        let numbers = [self.entries, mode, 0, 0, 1, 0, len, 0, 0, 0, 0, name_len, 0];
        self.bytes.extend(b"070701");
        numbers.iter().for_each(|number| self.bytes.extend(format!("{number:08x}").bytes()));
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}
