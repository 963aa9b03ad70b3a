//! `cargo xtask bench --what live`: how long a VM writes nothing while it moves with its memory, beside QEMU's own migration of
//! the same guest on a disk that both sides share.
//!
//! The guest is the lab's (`cargo xtask lab vm`): it says which of its records are durable, so that the longest time without one
//! is the pause as the guest has it. QEMU by itself moves no disk: both its sides open the same file.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::control::{Agents, Line, tell};
use super::gaps::{self, Crossed, Gaps};
use super::load::{Place, while_loaded};
use super::options::Options;
use super::processes::Process;
use super::{interrupt, machine};

/// The heading by which the section is found again.
const HEADING: &str = "## Live moves";
const QEMU: &str = "qemu-system-x86_64";
/// What a guest says of a record that is durable.
const KEPT: &str = "VM kept ";
/// Records after which a guest is known to write again.
const RECORDS: usize = 20;
const MEMORY: &str = "192M";
const DISK_MIB: u64 = 48;
const APPEND: &str =
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr cryptomgr.notests no_timer_check lpj=4000000";
/// The most that Ferry's pause may be of QEMU's own.
const RATIO: f64 = 1.5;
/// As Ferry has it at first.
const REST_MS: u64 = 50;
const LOOK_EVERY: Duration = Duration::from_millis(1);
const DEADLINE: Duration = Duration::from_secs(300);

/// Runs all of it and prints the section of the page that is kept.
pub fn run(root: &Path, options: &Options, ferry: &Path, dir: &Path) -> anyhow::Result<()> {
    crate::lab::vm(root)?;
    let machine = machine::describe()?;
    let begun = jiff::Timestamp::now();
    let guest = Guest::of_the_lab(root);
    let mut by_ferry = ByFerry::start(&guest, ferry, dir, None)?;
    let mut by_qemu = ByQemu::start(&guest, dir)?;
    let mut ms = [const { Vec::new() }; 2];
    for round in 0..options.pairs {
        eprintln!("bench: live, round {} of {}", round + 1, options.pairs);
        ms[0].push(by_qemu.moves()?);
        ms[1].push(by_ferry.moves(false)?.longest_ms);
    }
    let [own, ferry] = ms;
    let own = Line::new("QEMU's own migration, of a VM on a disk that both sides share", "ms", own);
    let beside = format!("QEMU's own {}", own.told_short());
    let bound = own.median() * RATIO;
    let lines = [
        Line::new("`ferry move --mode live`, its disk as well", "ms", ferry).beside(beside).at_most(bound),
        own,
    ];
    let section = format!(
        "{HEADING}\n\n{} two agents on loopback, a VM of {MEMORY} without KVM that writes records to ext4 one by one.\n{} times each, by turns. The \
         longest time without a record that the guest knows to be durable.\n\n{}",
        machine.preamble("live", begun),
        options.pairs,
        Line::table(&lines),
    );
    tell(root, options, HEADING, &section)
}

/// What a VM boots.
pub struct Guest {
    lab: PathBuf,
}

impl Guest {
    /// What `cargo xtask lab vm` has built.
    pub fn of_the_lab(root: &Path) -> Self {
        Self { lab: root.join("target/lab/vm") }
    }

    fn file(&self, name: &str) -> String {
        self.lab.join(name).display().to_string()
    }
}

/// A VM of two agents.
pub struct ByFerry {
    agents: Agents,
    state: PathBuf,
    consoles: [PathBuf; 2],
    worker: usize,
    rest_mib: Option<u64>,
}

impl ByFerry {
    /// With a second disk that has so much in use, if that is said.
    pub fn start(guest: &Guest, ferry: &Path, dir: &Path, rest_mib: Option<u64>) -> anyhow::Result<Self> {
        let state = dir.join("live");
        let agents = Agents::start(ferry, &state)?;
        let file = dir.join("vm.toml");
        let (kernel, initrd) = (guest.file("kernel"), guest.file("initrd"));
        let spec = format!(
            "name = \"vm\"\ndriver = \"qemu\"\n[qemu]\nkernel = {kernel:?}\ninitrd = {initrd:?}\nappend = {APPEND:?}\n\
             accel = \"tcg\"\nmemory = \"{MEMORY}iB\"\n[volumes.data]\nsize = \"{DISK_MIB}MiB\"\n"
        );
        let rest = rest_mib.map(|mib| format!("[volumes.rest]\nsize = \"{mib}MiB\"\n")).unwrap_or_default();
        std::fs::write(&file, spec + &rest).context("cannot write a machine's file")?;
        let file = file.to_str().context("the temporary directory's name is no text")?;
        let made = agents.ask(0, &["machine", "create", "--file", file])?;
        let id = made["id"].as_str().context("a machine has an id")?;
        let console = |worker: &str| state.join(worker).join("machines").join(id).join("machine.log");
        let consoles = ["w1", "w2"].map(console);
        until_it_writes(&consoles[0])?;
        let vm = Self { agents, state, consoles, worker: 0, rest_mib };
        vm.rest()?.as_ref().map_or(Ok(()), Place::fill)?;
        Ok(vm)
    }

    /// The second disk, where it is now.
    fn rest(&self) -> anyhow::Result<Option<Place>> {
        self.rest_mib.map(|mib| Place::of(&self.agents, &self.state, self.worker, "rest", mib)).transpose()
    }

    /// Moves it to the other worker, under load while somebody writes its second disk.
    pub fn moves(&mut self, load: bool) -> anyhow::Result<Moved> {
        let (here, there) = (self.worker, 1 - self.worker);
        let rest = self.rest()?;
        let moved = while_loaded(rest.as_ref().filter(|_| load), || self.moves_to(here, there))?;
        self.worker = there;
        // Only now: both workers have one disk here, and deleting a copy keeps flushes waiting.
        self.agents.ask(here, &["gc", "--retained"])?;
        Ok(moved)
    }

    fn moves_to(&self, here: usize, there: usize) -> anyhow::Result<Moved> {
        let (job, moments_ns) = watched([&self.consoles[here], &self.consoles[there]], || {
            let to = ["w1", "w2"][there];
            let words = ["move", "vm", "--to", to, "--mode", "live", "--retention", "1h"];
            let job = self.agents.ask(here, &words)?;
            ensure!(job["state"] == "succeeded", "a move did not succeed: {job}");
            ensure!(job["steps"][7]["memo"]["arrival"] == "live", "it was no live move: {job}");
            Ok(job)
        })?;
        let gaps = Gaps::around(Crossed::of(&job)?, &moments_ns);
        eprintln!("bench: live move, {:.0} ms without a record: {}", gaps.away_ms, gaps::steps_told(&job));
        Ok(Moved { gaps, longest_ms: gaps::longest_ms(&moments_ns) })
    }
}

/// How long a VM wrote nothing while it moved.
pub struct Moved {
    pub gaps: Gaps,
    /// Whenever that was, until the move was over.
    pub longest_ms: f64,
}

/// A VM that QEMU migrates by itself, and the disk that all its sides share.
struct ByQemu {
    words: Vec<OsString>,
    dir: PathBuf,
    count: u32,
    side: Side,
}

/// A QEMU.
struct Side {
    _process: Process,
    monitor: Monitor,
    console: PathBuf,
}

impl ByQemu {
    fn start(guest: &Guest, dir: &Path) -> anyhow::Result<Self> {
        let disk = dir.join("shared.raw");
        let file = std::fs::File::create(&disk).context("cannot make a disk")?;
        file.set_len(DISK_MIB << 20).context("cannot make a disk")?;
        let node = json!({ "driver": "file", "filename": disk, "node-name": "disk", "locking": "off", "discard": "unmap" });
        let words = [
            "-nodefaults -no-user-config -display none -accel tcg,thread=multi -cpu max -machine q35,memory-backend=ram",
            &format!("-m {MEMORY} -smp 1 -object memory-backend-memfd,id=ram,size={MEMORY},share=on"),
            "-device virtio-blk-pci,drive=disk,write-cache=on -serial chardev:console",
        ];
        let mut words: Vec<OsString> =
            words.iter().flat_map(|line| line.split(' ')).map(OsString::from).collect();
        let (kernel, initrd) = (guest.file("kernel"), guest.file("initrd"));
        let rest =
            ["-blockdev", &node.to_string(), "-kernel", &kernel, "-initrd", &initrd, "-append", APPEND];
        words.extend(rest.map(OsString::from));
        let side = Side::start(&words, dir, 0, &[])?;
        until_it_writes(&side.console)?;
        Ok(Self { words, dir: dir.to_owned(), count: 0, side })
    }

    /// Migrates it to a fresh QEMU; how long it wrote nothing, in milliseconds.
    fn moves(&mut self) -> anyhow::Result<f64> {
        self.count += 1;
        let mut next = Side::start(&self.words, &self.dir, self.count, &["-incoming", "defer"])?;
        let uri = format!("unix:{}", self.dir.join(format!("memory{}", self.count)).display());
        next.monitor.ask("migrate-incoming", json!({ "uri": uri }))?;
        let monitor = &mut self.side.monitor;
        let ((), moments_ns) = watched([&self.side.console, &next.console], || {
            monitor.ask(
                "migrate-set-parameters",
                json!({ "max-bandwidth": 16_u64 << 30, "downtime-limit": REST_MS }),
            )?;
            monitor.ask("migrate", json!({ "uri": uri }))?;
            interrupt::until("QEMU has migrated its guest", LOOK_EVERY, DEADLINE, || {
                let told = monitor.ask("query-migrate", json!({}))?;
                ensure!(told["status"] != "failed", "QEMU did not migrate its guest: {told}");
                Ok((told["status"] == "completed").then_some(()))
            })
        })?;
        self.side = next;
        Ok(gaps::longest_ms(&moments_ns))
    }
}

impl Side {
    fn start(words: &[OsString], dir: &Path, number: u32, more: &[&str]) -> anyhow::Result<Self> {
        let [socket, console, log] =
            ["qmp", "console", "qemu"].map(|name| dir.join(format!("{name}{number}")));
        let own = [
            "-qmp".to_owned(),
            format!("unix:{},server=on,wait=off", socket.display()),
            "-chardev".to_owned(),
            format!("file,id=console,path={}", console.display()),
        ];
        let own = own.iter().map(OsString::from).chain(words.iter().cloned());
        let words: Vec<OsString> = own.chain(more.iter().map(OsString::from)).collect();
        let words: Vec<_> = words.iter().map(OsString::as_os_str).collect();
        let mut process = Process::start(Path::new(QEMU), &words, &log)?;
        let monitor = interrupt::until("QEMU answers", LOOK_EVERY, DEADLINE, || {
            process.check().with_context(|| format!("see {}", log.display()))?;
            Ok(Monitor::connect(&socket).ok())
        })?;
        Ok(Self { _process: process, monitor, console })
    }
}

/// QEMU's monitor.
struct Monitor(BufReader<UnixStream>);

impl Monitor {
    fn connect(socket: &Path) -> anyhow::Result<Self> {
        let mut monitor = Self(BufReader::new(UnixStream::connect(socket)?));
        monitor.0.read_line(&mut String::new())?;
        monitor.ask("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    fn ask(&mut self, command: &str, arguments: Value) -> anyhow::Result<Value> {
        writeln!(self.0.get_mut(), "{}", json!({ "execute": command, "arguments": arguments }))?;
        loop {
            let mut line = String::new();
            ensure!(self.0.read_line(&mut line)? > 0, "QEMU is gone");
            let mut heard: Value = serde_json::from_str(&line)?;
            if let Some(error) = heard.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
            if let Some(answer) = heard.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }
}

/// A guest's console, read as it grows.
struct Console {
    path: PathBuf,
    read: u64,
}

impl Console {
    /// What comes from now on.
    fn of(path: &Path) -> Self {
        let read = std::fs::metadata(path).map_or(0, |file| file.len());
        Self { path: path.to_owned(), read }
    }

    /// How many records were said to be kept since the last look.
    fn kept(&mut self) -> usize {
        let Ok(mut file) = std::fs::File::open(&self.path) else { return 0 };
        let mut said = Vec::new();
        if file.seek(SeekFrom::Start(self.read)).and_then(|_| file.read_to_end(&mut said)).is_err() {
            return 0;
        }
        // The rest of a line is read when it is whole.
        let whole = said.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.read += whole as u64;
        String::from_utf8_lossy(&said[..whole]).lines().filter(|line| line.starts_with(KEPT)).count()
    }
}

fn until_it_writes(console: &Path) -> anyhow::Result<()> {
    let (mut console, mut kept) = (Console::of(console), 0);
    interrupt::until("the guest writes", LOOK_EVERY, DEADLINE, || {
        kept += console.kept();
        Ok((kept >= RECORDS).then_some(()))
    })
}

/// When records were kept, as either console says, while `act` is done and until the guest writes on the second one; in nanoseconds
/// since 1970.
fn watched<T>(
    consoles: [&Path; 2],
    act: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Vec<u64>)> {
    until_it_writes(consoles[0])?;
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut consoles = consoles.map(Console::of);
            let mut moments_ns = vec![now_ns()];
            while !is_over.load(Ordering::Relaxed) {
                if consoles.iter_mut().map(Console::kept).sum::<usize>() > 0 {
                    moments_ns.push(now_ns());
                }
                std::thread::sleep(LOOK_EVERY);
            }
            moments_ns
        });
        let done = act().and_then(|done| until_it_writes(consoles[1]).map(|()| done));
        is_over.store(true, Ordering::Relaxed);
        let moments_ns = watching.join().expect("watching does not panic");
        done.map(|done| (done, moments_ns))
    })
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).expect("the nanoseconds since 1970 fit 64 bits until 2554")
}
