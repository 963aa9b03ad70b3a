//! A guest small enough to boot in seconds without KVM: Debian's kernel, busybox, one script, and what it is given.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::debian::{Kernel, Suite};
use crate::bench::processes;

const SHELL: &str = "busybox-static";
/// Where busybox is fetched from.
const STABLE: &str = "trixie";
const FILE: u32 = 0o100_755;
const FOLDER: u32 = 0o40_755;
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr reboot=t cryptomgr.notests \
                            no_timer_check lpj=4000000";

/// What QEMU boots.
pub struct Guest {
    kernel: PathBuf,
    initrd: PathBuf,
}

/// What a guest is made of.
pub struct Parts<'a> {
    pub kernel: &'a Kernel,
    /// Modules that its script finds as `/NAME.ko`, unless they are built in.
    pub modules: &'a [&'a str],
    /// Programs of this host, which come with their libraries, in `/programs`.
    pub programs: &'a [PathBuf],
    /// What it runs.
    pub script: &'a str,
}

/// Makes a guest; its files lie in `dir`, what is downloaded for it stays in `kept`.
pub fn make(dir: &Path, kept: &Path, parts: &Parts<'_>) -> anyhow::Result<Guest> {
    let mut archive = Archive::default();
    archive.folder("bin");
    archive.entry("bin/busybox", FILE, &read(&Suite::new(STABLE, kept).file(SHELL, "busybox")?)?);
    archive.entry("init", FILE, parts.script.as_bytes());
    for module in parts.modules {
        if let Some(bytes) = parts.kernel.module(module)? {
            archive.entry(&format!("{module}.ko"), FILE, &bytes);
        }
    }
    let mut libraries = Vec::new();
    for program in parts.programs {
        let name = program.file_name().and_then(|name| name.to_str()).context("a program has no name")?;
        archive.folder("programs");
        archive.entry(&format!("programs/{name}"), FILE, &read(program)?);
        libraries.extend(libraries_of(program)?);
    }
    libraries.sort();
    libraries.dedup();
    for library in libraries {
        let path = library.trim_start_matches('/');
        path.match_indices('/').for_each(|(end, _)| archive.folder(&path[..end]));
        archive.entry(path, FILE, &read(Path::new(&library))?);
    }
    let initrd = dir.join("initrd");
    std::fs::write(&initrd, archive.end()).with_context(|| format!("cannot write {}", initrd.display()))?;
    Ok(Guest { kernel: parts.kernel.image()?, initrd })
}

impl Guest {
    /// How QEMU is told to boot it, without KVM, with a console on stdout.
    pub fn arguments(&self) -> Vec<OsString> {
        let machine =
            "-accel tcg,thread=multi -nodefaults -no-user-config -nographic -no-reboot -serial stdio";
        let mut arguments: Vec<OsString> = machine.split(' ').map(OsString::from).collect();
        arguments.extend(["-kernel".into(), self.kernel.clone().into()]);
        arguments.extend(["-initrd".into(), self.initrd.clone().into()]);
        arguments.extend(["-append".into(), COMMAND_LINE.into()]);
        arguments
    }
}

/// The libraries of a program of this host, and what loads them.
fn libraries_of(program: &Path) -> anyhow::Result<Vec<String>> {
    let program = program.to_str().context("the path of a program is not UTF-8")?;
    let said = processes::run("ldd", &[program])?.stdout;
    Ok(said.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect())
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
    folders: Vec<String>,
}

impl Archive {
    /// A folder, unless it is there.
    fn folder(&mut self, name: &str) {
        if !self.folders.iter().any(|known| known == name) {
            self.folders.push(name.to_owned());
            self.entry(name, FOLDER, &[]);
        }
    }

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
