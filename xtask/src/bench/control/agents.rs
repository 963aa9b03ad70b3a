//! Two workers as people have them, on loopback, asked through the command line.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::super::interrupt;
use super::super::processes::{self, Process};

/// Where the services of each worker's machines are reached.
pub const SERVICES_AT: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)];
const LOOK_EVERY: Duration = Duration::from_millis(5);
const START_DEADLINE: Duration = Duration::from_secs(30);

/// Workers `w1` and `w2`. Dropped, everything of theirs is ended; their directories are the caller's.
pub struct Agents {
    ferry: PathBuf,
    agents: Vec<(String, Process)>,
}

impl Agents {
    /// Starts both in the fresh directory `dir`.
    pub fn start(ferry: &Path, dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        // Both are held until both are known.
        let listeners = ["w1", "w2"].map(|name| Ok((name, TcpListener::bind("127.0.0.1:0")?.local_addr()?)));
        let listeners: Vec<_> =
            listeners.into_iter().collect::<std::io::Result<_>>().context("cannot find a free port")?;
        let peers: String =
            listeners.iter().map(|(name, address)| format!("{name} = \"http://{address}\"\n")).collect();
        let mut agents = Self { ferry: ferry.to_owned(), agents: Vec::new() };
        for ((name, address), services) in listeners.into_iter().zip(SERVICES_AT) {
            let (config, state) = (dir.join(format!("{name}.toml")), dir.join(name));
            let text = format!(
                "name = \"{name}\"\nlisten = \"{address}\"\nservices_listen = \"{services}:0\"\nstate_dir = \"{}\"\n[peers]\n{peers}",
                state.display()
            );
            std::fs::write(&config, text).context("cannot write a configuration")?;
            let arguments = [OsStr::new("agent"), OsStr::new("--config"), config.as_os_str()];
            let process = Process::start(ferry, &arguments, &dir.join(format!("{name}.log")))?;
            agents.agents.push((format!("http://{address}"), process));
        }
        for worker in 0..agents.agents.len() {
            interrupt::until("an agent answers", LOOK_EVERY, START_DEADLINE, || {
                agents.agents[worker].1.check()?;
                Ok(agents.ask(worker, &["worker", "show"]).ok())
            })?;
        }
        Ok(agents)
    }

    /// `ferry WORDS --json` at the agent of a worker.
    pub fn ask(&self, worker: usize, words: &[&str]) -> anyhow::Result<Value> {
        let machine = words.iter().position(|word| *word == "--").unwrap_or(words.len());
        let (words, of_machine) = words.split_at(machine);
        let asking = ["--json", "--agent", &self.agents[worker].0];
        let words = [words, &asking, of_machine].concat();
        let ferry = self.ferry.to_str().context("the program's path is no text")?;
        let said = processes::run(ferry, &words)?.stdout;
        serde_json::from_str(&said).with_context(|| format!("`ferry {}` says: {said}", words.join(" ")))
    }

    /// The process of an agent.
    pub fn pid(&self, worker: usize) -> u32 {
        self.agents[worker].1.pid()
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        // Machines and volume servers outlive their agent: it is the one that can end them.
        for worker in 0..self.agents.len() {
            if let Err(error) = self.ask(worker, &["worker", "shutdown", "--force"]) {
                eprintln!("bench: a worker cannot be shut down: {error:#}");
            }
        }
    }
}
