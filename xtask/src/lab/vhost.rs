//! `cargo xtask lab vhost`: a Linux guest in QEMU with a volume as its disk, over vhost-user-blk. It writes, reads back,
//! trims and compares, while its volume server is killed and started again under it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use ferry_volume::control::{Client, Phase};
use ferry_volume::{CreateOptions, Frontend, REGION_BYTES_DEFAULT};

use super::console::{DEADLINE, LOOK_EVERY, said, until_said};
use super::debian::Suite;
use super::guest::{self, Parts};
use super::{QEMU, has_qemu};
use crate::bench::interrupt;
use crate::bench::processes::Process;

const SUITE: &str = "trixie";
/// Modules in the order in which they need each other; those that a kernel has built in are not there.
const MODULES: &[&str] =
    &["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk"];
const ID: &str = "01JD7Q0000000000000000000V";
const SIZE_BYTES: u64 = 256 << 20;
/// After which of the guest's steps the volume server is killed.
const KILLED_AFTER: &[&str] = &["LAB step 40\n", "LAB step 80\n", "LAB step 120\n", "LAB step 160\n"];
/// What the guest must have said.
const MUST_SAY: &[&str] = &[
    "LAB queues 2\n",
    "LAB serial 01JD7Q00000000000000\n",
    "LAB bytes 268435456\n",
    "LAB cache write back\n",
    "LAB written\n",
    "LAB read back\n",
    "LAB discarded\n",
    "LAB zero\n",
    "LAB the rest is there\n",
    "LAB nothing was lost\n",
    "LAB done\n",
];

struct Server {
    ferry: PathBuf,
    dir: PathBuf,
    process: Option<Process>,
}

impl Server {
    /// Starts a server, after the one before it was killed; gives the way to command it.
    fn start(&mut self) -> anyhow::Result<Client> {
        self.process = None;
        let arguments = [OsStr::new("volume-server"), OsStr::new("--dir"), self.dir.as_os_str()];
        self.process = Some(Process::start(&self.ferry, &arguments, &self.dir.join("server.log"))?);
        interrupt::until("a volume server answers", LOOK_EVERY, DEADLINE, || {
            Ok(Client::connect(&self.dir).ok())
        })
    }
}

/// Runs it with the program at `ferry`; downloads are kept in `kept`.
pub fn run(ferry: PathBuf, kept: &Path) -> anyhow::Result<()> {
    has_qemu()?;
    let tmp = tempfile::tempdir().context("cannot make a temporary directory")?;
    let kernel = Suite::new(SUITE, kept).kernel()?;
    let script = include_str!("vhost.sh");
    let guest =
        guest::make(tmp.path(), kept, &Parts { kernel: &kernel, modules: MODULES, programs: &[], script })?;
    let dir = tmp.path().join("volume");
    ferry_volume::create(&CreateOptions {
        dir: dir.clone(),
        id: ID.to_owned(),
        size_bytes: SIZE_BYTES,
        region_bytes: REGION_BYTES_DEFAULT,
        generation: 1,
        phase: Phase::Open,
        source: None,
        born_from: None,
        base: None,
        device: None,
        direct: false,
    })
    .context("cannot create a volume")?;
    let mut server = Server { ferry, dir, process: None };
    let socket = server.start()?.attach(&Frontend::VhostUserBlk {})?;
    let console = tmp.path().join("console");
    let begun = Instant::now();
    let arguments = arguments(&guest, &socket);
    let arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
    let mut qemu = Process::start(Path::new(QEMU), &arguments, &console)?;
    for step in KILLED_AFTER {
        until_said(&mut qemu, &console, step)?;
        server.start()?;
        println!("lab: the volume server was killed and started again after {:?}", step.trim());
    }
    until_said(&mut qemu, &console, "LAB done\n")?;
    let said = said(&console);
    said.lines()
        .filter(|line| line.starts_with("LAB") && !line.contains("step"))
        .for_each(|line| println!("{line}"));
    if let Some(missing) = MUST_SAY.iter().find(|line| !said.contains(**line)) {
        bail!("the guest did not say {:?}; it said:\n{said}", missing.trim());
    }
    if said.contains("LAB failed") || said.contains("I/O error") {
        bail!("something failed in the guest; it said:\n{said}");
    }
    println!("lab: vhost: everything held, {} s after QEMU was started", begun.elapsed().as_secs());
    Ok(())
}

fn arguments(guest: &guest::Guest, socket: &Path) -> Vec<OsString> {
    let mut channel = OsString::from("socket,id=disk,reconnect-ms=100,path=");
    channel.push(socket);
    let machine = "-smp 2 -m 256 -object memory-backend-memfd,id=ram,size=256M,share=on \
                   -machine q35,memory-backend=ram -device vhost-user-blk-pci,chardev=disk,num-queues=2";
    let mut arguments = guest.arguments();
    arguments.extend(machine.split(' ').map(OsString::from));
    arguments.extend(["-chardev".into(), channel]);
    arguments
}
