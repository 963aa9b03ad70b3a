//! A volume of the soak and its server, which can be killed and started again.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use ferry_volume::client::BlockClient;
use ferry_volume::control::{Client, Phase};
use ferry_volume::{CreateOptions, REGION_BYTES_DEFAULT};

use super::PATIENCE;
use crate::bench::interrupt;
use crate::bench::processes::Process;

const ID: &str = "01JD7Q0000000000000000000V";
const LOOK_EVERY: Duration = Duration::from_millis(5);
const DEADLINE: Duration = Duration::from_secs(60);
const LOG_LINES_TOLD: usize = 40;

pub struct Server {
    ferry: PathBuf,
    dir: PathBuf,
    generation: u64,
    process: Option<Process>,
}

impl Server {
    /// An open volume of this generation in a fresh directory below `parent`, empty or a clone of what its elder exports
    /// at `source`; its server runs.
    pub fn create(
        ferry: &Path,
        parent: &Path,
        generation: u64,
        size_bytes: u64,
        source: Option<SocketAddr>,
    ) -> anyhow::Result<Self> {
        let dir = parent.join(generation.to_string());
        let source = source.map(|address| format!("nbd://{address}/{ID}@{}", generation - 1).parse());
        ferry_volume::create(&CreateOptions {
            dir: dir.clone(),
            id: ID.to_owned(),
            size_bytes,
            region_bytes: REGION_BYTES_DEFAULT,
            generation,
            phase: Phase::Open,
            source: source.transpose().context("a source of the soak's own making")?,
            born_from: None,
            base: None,
            device: None,
            direct: false,
        })
        .context("cannot create a volume")?;
        let mut server = Self { ferry: ferry.to_owned(), dir, generation, process: None };
        server.start()?;
        Ok(server)
    }

    /// Starts the server and returns when it answers.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let arguments = [OsStr::new("volume-server"), OsStr::new("--dir"), self.dir.as_os_str()];
        self.process = None;
        let process = self.process.insert(Process::start(&self.ferry, &arguments, &self.log())?);
        interrupt::until("a volume server answers", LOOK_EVERY, DEADLINE, || {
            process.check()?;
            Ok(Client::connect(&self.dir).and_then(|mut client| client.status()).ok())
        })?;
        Ok(())
    }

    /// Ends the server at once.
    pub fn kill(&mut self) {
        self.process = None;
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// A connection of the guest's. Whoever waits on it for longer than [`PATIENCE`] gets an error.
    pub fn guest(&self) -> anyhow::Result<BlockClient> {
        guest_at(&self.guest_socket())
    }

    /// Where guests connect.
    pub fn guest_socket(&self) -> PathBuf {
        self.dir.join("guest.sock")
    }

    /// All there is to know about it when something went wrong: its own words, what its threads do, the end of its log.
    pub fn tell(&self) -> String {
        let status = Client::connect(&self.dir).and_then(|mut client| client.status());
        let status = status.map_or_else(|error| format!("says nothing: {error}"), |s| format!("{s:#?}"));
        let threads = self.process.as_ref().map(|process| threads_of(process.pid())).unwrap_or_default();
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(LOG_LINES_TOLD)..].join("\n");
        format!("-- generation {}: {status}\n{threads}-- its log ends:\n{last}", self.generation)
    }

    pub fn is_hydrated(&self) -> anyhow::Result<bool> {
        Ok(Client::connect(&self.dir)?.status()?.hydration.complete)
    }

    /// Lets hydration take so many bytes a second.
    pub fn set_budget(&self, bytes_per_s: NonZeroU64) -> anyhow::Result<()> {
        Ok(Client::connect(&self.dir)?.set_budget(Some(bytes_per_s))?)
    }

    pub fn seal(&self) -> anyhow::Result<()> {
        Ok(Client::connect(&self.dir)?.seal()?)
    }

    /// Lets the next generation read it; tells where.
    pub fn export(&self) -> anyhow::Result<SocketAddr> {
        Ok(Client::connect(&self.dir)?.export(([127, 0, 0, 1], 0).into())?)
    }

    /// Ends the server and removes its files: what came after it holds all.
    pub fn retire(mut self) -> anyhow::Result<()> {
        self.kill();
        std::fs::remove_dir_all(&self.dir)
            .with_context(|| format!("cannot remove generation {}", self.generation))
    }

    fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }
}

/// A guest's connection that is not waited on for ever.
pub fn guest_at(socket: &Path) -> anyhow::Result<BlockClient> {
    let guest = BlockClient::connect_unix(socket)?;
    guest.set_patience(Some(PATIENCE))?;
    Ok(guest)
}

/// Each thread, and where in the kernel it waits (proc_pid_wchan(5)).
fn threads_of(pid: u32) -> String {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let about = |dir: PathBuf| {
        let [name, waits] = ["comm", "wchan"]
            .map(|fact| std::fs::read_to_string(dir.join(fact)).unwrap_or_default().trim().to_owned());
        format!("thread {name} waits in {waits}\n")
    };
    threads.map(|thread| about(thread.path())).collect()
}
