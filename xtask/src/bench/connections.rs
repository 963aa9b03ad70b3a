//! `cargo xtask bench --what connections`: how long those wait who open connections, one after the other, at the proxies of both
//! workers while a machine moves, and whether anybody is refused.
//!
//! The machine is this program ([`answer`]): it answers each connection with one byte, so that a wait is from connecting to
//! that byte. A connection that reached the machine and ended with its process is counted apart; it is not refused.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::control::{Agents, Line, SERVICES_AT, tell};
use super::load::Place;
use super::options::Options;
use super::{interrupt, machine};

/// The heading by which the section is found again.
const HEADING: &str = "## Connections";
const ANSWER: u8 = b'!';
/// At each worker, each with one connection at a time.
const CLIENTS: usize = 4;
/// So many answers at each worker tell that all is as usual.
const ANSWERS_MORE: u64 = 100;
/// Between two connections of a client.
const PAUSE: Duration = Duration::from_millis(1);
const LOOK_EVERY: Duration = Duration::from_millis(5);
const DEADLINE: Duration = Duration::from_secs(120);

/// What the machine does: answers whoever comes, for ever.
pub fn answer(port: &str) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.parse()?)).context("cannot listen")?;
    for stream in listener.incoming() {
        // Whoever has gone needs no answer.
        let _ = stream.and_then(|mut stream| stream.write_all(&[ANSWER]));
    }
    Ok(())
}

/// Runs all of it and prints the section of the page that is kept.
pub fn run(root: &Path, options: &Options, ferry: &Path, dir: &Path) -> anyhow::Result<()> {
    let machine = machine::describe()?;
    let begun = jiff::Timestamp::now();
    let state = dir.join("moves");
    let agents = Agents::start(ferry, &state)?;
    let used_mib = options.used_mib[0];
    let port = create(&agents, dir, used_mib)?;
    Place::of(&agents, &state, 0, "data", used_mib)?.fill()?;
    let proxies = SERVICES_AT.map(|at| Proxy::new(SocketAddr::new(at.into(), port)));
    for proxy in &proxies {
        interrupt::until("a worker knows of the service", LOOK_EVERY, DEADLINE, || {
            Ok(proxy.is_answered().ok())
        })?;
    }
    let is_over = AtomicBool::new(false);
    let lines = std::thread::scope(|scope| {
        for proxy in &proxies {
            (0..CLIENTS).for_each(|_| drop(scope.spawn(|| proxy.connect_until(&is_over))));
        }
        let lines = lines(&agents, &proxies, options.pairs);
        is_over.store(true, Ordering::Relaxed);
        lines
    })?;
    let section = format!(
        "{HEADING}\n\nBy `cargo xtask bench --what connections`, {}, {} cores ({}), Linux {}, load average {} before: two agents on loopback, a machine \
         with {used_mib} MiB in use.\n{} moves of each kind, by turns, with {CLIENTS} clients at the proxy of each worker, who connect, read one byte and \
         connect again.\n\n{}",
        begun.strftime("%Y-%m-%d"),
        machine.cores,
        machine.processor,
        machine.kernel,
        machine.load,
        options.pairs,
        Line::table(&lines),
    );
    tell(root, options, HEADING, &section)
}

/// Makes the machine on the first worker; answers the port of its service.
fn create(agents: &Agents, dir: &Path, used_mib: u64) -> anyhow::Result<u16> {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let port = port.context("cannot find a free port")?.port();
    let program = std::env::current_exe().context("cannot tell what this program is")?;
    let text = format!(
        "name = \"web\"\ncommand = [{program:?}, \"bench\", \"--answer\", \"{port}\"]\nservices = [{{ port = {port} }}]\n\
         [volumes.data]\nsize = \"{}MiB\"\n",
        used_mib + 1
    );
    let file = dir.join("web.toml");
    std::fs::write(&file, text).context("cannot write the machine's file")?;
    agents.ask(0, &["machine", "create", "--file", &file.display().to_string()])?;
    Ok(port)
}

/// Moves by turns, and what was waited for in each.
fn lines(agents: &Agents, proxies: &[Proxy; 2], rounds: usize) -> anyhow::Result<Vec<Line>> {
    let ways = ["cold", "warm"];
    let mut waits_ms = [const { [const { Vec::new() }; 2] }; 2];
    let mut usual_ms = Vec::new();
    let mut at = 0;
    for round in 0..rounds {
        eprintln!("bench: round {} of {rounds}", round + 1);
        for (way, waits_ms) in ways.iter().zip(&mut waits_ms) {
            for proxy in proxies {
                proxy.settle()?;
                usual_ms.push(proxy.longest_ms());
            }
            let job = agents.ask(at, &["move", "web", "--to", ["w2", "w1"][at], "--mode", way])?;
            ensure!(job["state"] == "succeeded", "a move did not succeed: {job}");
            let ahead = &job["steps"][2]["memo"]["ahead"];
            ensure!(*way == "cold" || ahead["rounds"][0].is_object(), "it was no warm move: {ahead}");
            for (side, waits_ms) in [at, 1 - at].into_iter().zip(waits_ms) {
                proxies[side].goes_on()?;
                waits_ms.push(proxies[side].longest_ms());
            }
            // The next move must not find there what this one has left, or it would have nothing to copy ahead.
            agents.ask(at, &["gc", "--retained"])?;
            at = 1 - at;
        }
    }
    let usual = Line::new("", "ms", usual_ms).told_short();
    let mut lines = Vec::new();
    for (way, waits_ms) in ways.iter().zip(waits_ms) {
        for (side, waits_ms) in ["it leaves", "it comes to"].iter().zip(waits_ms) {
            let what = format!("{way} move: longest wait at the worker that {side}");
            lines.push(Line::new(&what, "ms", waits_ms).beside(format!("without a move {usual}")));
        }
    }
    let mut refused: u64 = proxies.iter().map(|proxy| proxy.refused.load(Ordering::Relaxed)).sum();
    for worker in 0..proxies.len() {
        let told = agents.ask(worker, &["service", "list"])?;
        refused += told[0]["refused"].as_u64().context("a service tells how many were refused")?;
    }
    let of = |count: fn(&Proxy) -> &AtomicU64| -> u64 {
        proxies.iter().map(|proxy| count(proxy).load(Ordering::Relaxed)).sum()
    };
    let beside = format!("{} answered", of(|proxy| &proxy.answered));
    lines.push(Line::new("connections refused", "in all", vec![refused as f64]).beside(beside).at_most(0.0));
    let broken = of(|proxy| &proxy.broken_off) as f64;
    lines.push(Line::new("connections that ended with the machine's process", "in all", vec![broken]));
    Ok(lines)
}

/// A worker's proxy, as its clients find it.
struct Proxy {
    at: SocketAddr,
    answered: AtomicU64,
    refused: AtomicU64,
    broken_off: AtomicU64,
    /// Since it was last asked for.
    longest_us: AtomicU64,
}

impl Proxy {
    fn new(at: SocketAddr) -> Self {
        let [answered, refused, broken_off, longest_us] = [const { AtomicU64::new(0) }; 4];
        Self { at, answered, refused, broken_off, longest_us }
    }

    fn connect_until(&self, is_over: &AtomicBool) {
        let mut since = Instant::now();
        while !is_over.load(Ordering::Relaxed) {
            let tried = self.is_answered();
            let waited = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
            std::thread::sleep(PAUSE);
            let count = match tried {
                Ok(()) => {
                    self.longest_us.fetch_max(waited, Ordering::Relaxed);
                    since = Instant::now();
                    &self.answered
                }
                // Whoever was not answered waits on, with his next connection.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => &self.refused,
                Err(_) => &self.broken_off,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_answered(&self) -> io::Result<()> {
        TcpStream::connect(self.at)?.read_exact(&mut [0])
    }

    /// Returns when it has answered some more.
    fn goes_on(&self) -> anyhow::Result<()> {
        let count = || self.answered.load(Ordering::Relaxed);
        let before = count();
        interrupt::until("a proxy answers", LOOK_EVERY, DEADLINE, || {
            Ok((count() >= before + ANSWERS_MORE).then_some(()))
        })
    }

    /// Returns when nothing of before is in what is measured, and some was measured.
    fn settle(&self) -> anyhow::Result<()> {
        self.goes_on()?;
        self.longest_ms();
        self.goes_on()
    }

    /// The longest that somebody has waited since this was last asked.
    fn longest_ms(&self) -> f64 {
        self.longest_us.swap(0, Ordering::Relaxed) as f64 / 1e3
    }
}
