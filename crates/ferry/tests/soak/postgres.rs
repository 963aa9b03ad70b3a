//! PostgreSQL, as Debian packages it, on ext4 on the machine's volume, while clients from outside commit through the workers'
//! proxies: cold and warm moves there and back, with the source's agent killed in the middle. No commit that a client was told
//! of is lost, the database finds itself whole, and nobody is refused a connection.
//!
//! As a test it is two moves; `cargo xtask soak --what postgres --moves 10` is as many as somebody wants.

use super::{has_booted, told};
use crate::support::cluster::{Cluster, Worker};
use crate::support::devices::needs_loop_devices;
use crate::support::peers::path_text;
use crate::support::{E2FSCK, MKE2FS, needs, run, skip, succeed, test_name, until};
use ferry_api::{AttachedFrontend, Job, JobState, Machine, ServiceStatus, StepState};
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// So many moves are enough for a test: one cold, one warm.
const MOVES: u64 = 2;
/// Commits of each client between two moves.
const COMMITS: usize = 20;
/// Clients at each worker.
const CLIENTS: usize = 2;
/// A client's pause before it connects again, as any client has one.
const PAUSE: Duration = Duration::from_millis(2);
/// Below what the system gives to outgoing connections.
const PORT_FIRST: u32 = 31_000;
const PORTS: u32 = 1_700;

#[test]
fn a_postgres_that_moves_there_and_back_keeps_every_commit_and_refuses_nobody() {
    needs!(MKE2FS, E2FSCK);
    needs_loop_devices!();
    let Some(bin) = programs() else {
        return skip(test_name!(), "PostgreSQL below /usr/lib/postgresql (apt-get install postgresql)");
    };
    let cluster = Cluster::two();
    let house = House::new(&cluster, &bin);
    house.create();
    let moves = told("FERRY_SOAK_MOVES").unwrap_or(MOVES);
    std::thread::scope(|scope| {
        for (at, _) in cluster.workers.iter().enumerate() {
            for client in 0..CLIENTS {
                let house = &house;
                scope.spawn(move || house.client(at, i64::try_from(at * CLIENTS + client).unwrap()));
            }
        }
        scope.spawn(|| house.load());
        // Also when an assertion ends the test: a scope waits for all that runs in it.
        let _over = Over(&house.is_over);
        for number in 0..moves {
            house.commits();
            house.hop(number);
            println!("postgres: {} moves, {}", number + 1, house.figures());
        }
        house.commits();
    });
    house.check(usize::try_from(moves % 2).unwrap());
}

/// Where the programs of the newest PostgreSQL here are.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let has_all = |bin: &PathBuf| {
        ["initdb", "postgres", "pgbench", "pg_amcheck"].iter().all(|name| bin.join(name).exists())
    };
    versions.map(|version| version.path().join("bin")).filter(has_all).max()
}

/// Ends the clients when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct House<'a> {
    cluster: &'a Cluster,
    bin: &'a Path,
    port: u16,
    is_over: AtomicBool,
    /// Whether the agent of a worker is dead: then nobody listens there.
    is_away: [AtomicBool; 2],
    /// The commits that each client was told of.
    ledger: Mutex<BTreeSet<(i64, i64)>>,
    longest_ms: AtomicU64,
    ended: AtomicU64,
}

impl<'a> House<'a> {
    fn new(cluster: &'a Cluster, bin: &'a Path) -> Self {
        let port = u16::try_from(PORT_FIRST + std::process::id() % PORTS).unwrap();
        // The user of the database must come to where its volume is mounted.
        std::fs::set_permissions(cluster.dir(), PermissionsExt::from_mode(0o755)).unwrap();
        Self {
            cluster,
            bin,
            port,
            is_over: AtomicBool::default(),
            is_away: Default::default(),
            ledger: Mutex::default(),
            longest_ms: AtomicU64::default(),
            ended: AtomicU64::default(),
        }
    }

    fn at(&self, worker: usize) -> SocketAddr {
        SocketAddr::new(self.cluster.workers[worker].address.ip(), self.port)
    }

    fn create(&self) {
        let (data, bin, port) = (self.cluster.dir().join("data"), self.bin, self.port);
        let script = format!(
            "d={data}/db; [ -e $d/PG_VERSION ] || {bin}/initdb -A trust -U postgres -E UTF8 --locale=C -D $d || exit 1\n\
             exec {bin}/postgres -D $d -p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
             -c shared_buffers=16MB -c max_connections=30",
            data = data.display(),
            bin = bin.display()
        );
        let text = format!(
            "name = \"db\"\ncommand = [\"sh\", \"-c\", {script:?}]\nuser = \"postgres\"\nstop_signal = \"INT\"\n\
             workdir = \"/\"\nservices = [{{ port = {port} }}]\n[volumes.data]\nsize = \"512MiB\"\nmount = {data:?}\n"
        );
        let file = self.cluster.dir().join("db.toml");
        std::fs::write(&file, text).unwrap();
        let _: Machine = self.cluster.workers[0].ask(&["machine", "create", "--file", path_text(&file)]);
        until("the database answers", || {
            let mut session = Session::open(self.at(0)).ok()?;
            session.ask("CREATE TABLE ledger (client bigint, n bigint, PRIMARY KEY (client, n))").ok()
        });
        let load = ["-i", "-q", "-s", "1", "-U", "postgres", "postgres"];
        self.postgres("pgbench", &load, 0);
        self.wait_served(1);
    }

    fn wait_served(&self, worker: usize) {
        until("its port is served", || TcpStream::connect(self.at(worker)).ok());
    }

    /// Runs one of PostgreSQL's programs by the proxy of a worker.
    fn postgres(&self, program: &str, words: &[&str], worker: usize) -> String {
        let (host, port) = (self.at(worker).ip().to_string(), self.port.to_string());
        succeed(path_text(&self.bin.join(program)), &[&["-h", &host, "-p", &port], words].concat())
    }

    /// Commits one row after the other by the proxy of a worker, and notes each that it was told of.
    fn client(&self, worker: usize, id: i64) {
        let mut session = None;
        let mut number = 0;
        let mut since = Instant::now();
        while !self.is_over.load(Ordering::SeqCst) {
            // While the agent of its worker is dead it goes by the other, as clients do that know two.
            let by = if self.is_away[worker].load(Ordering::SeqCst) { 1 - worker } else { worker };
            let opened = match session.take() {
                Some(open) => Ok(open),
                None => Session::open(self.at(by)),
            };
            number += 1;
            let asked = opened.and_then(|mut open| {
                open.ask(&format!("INSERT INTO ledger VALUES ({id}, {number})")).map(|_| open)
            });
            match asked {
                Ok(open) => {
                    session = Some(open);
                    self.ledger.lock().unwrap().insert((id, number));
                    let waited = u64::try_from(since.elapsed().as_millis()).unwrap();
                    self.longest_ms.fetch_max(waited, Ordering::SeqCst);
                    since = Instant::now();
                }
                Err(error) => {
                    let is_refused = error.kind() == io::ErrorKind::ConnectionRefused;
                    let is_dead = self.is_away[by].load(Ordering::SeqCst);
                    assert!(!is_refused || is_dead, "the proxy of worker {by} refuses a connection");
                    self.ended.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// Something for rounds of copying to do: as much as pgbench writes. It ends with each move and begins again.
    fn load(&self) {
        while !self.is_over.load(Ordering::SeqCst) {
            let by = usize::from(self.is_away[0].load(Ordering::SeqCst));
            let (host, port) = (self.at(by).ip().to_string(), self.port.to_string());
            let words = ["-h", &host, "-p", &port, "-U", "postgres", "-n", "-c", "2", "-T", "1", "postgres"];
            run(path_text(&self.bin.join("pgbench")), &words);
        }
    }

    /// Returns when each client has committed some more.
    fn commits(&self) {
        let count = || {
            let ledger = self.ledger.lock().unwrap();
            let mut counts = vec![0; CLIENTS * self.cluster.workers.len()];
            ledger.iter().for_each(|(client, _)| counts[usize::try_from(*client).unwrap()] += 1);
            counts
        };
        let before = count();
        until("all clients commit", || {
            count().iter().zip(&before).all(|(now, before)| *now >= before + COMMITS).then_some(())
        });
    }

    /// One move, by turns cold and warm; in every second one, by turns again, the source's agent dies while the machine is down.
    fn hop(&self, number: u64) {
        let here = usize::try_from(number % 2).unwrap();
        let (from, to) = (&self.cluster.workers[here], &self.cluster.workers[1 - here]);
        let mode = if number.is_multiple_of(2) { "cold" } else { "warm" };
        let job: Job = from.ask(&["move", "db", "--to", &to.name, "--mode", mode, "--detach"]);
        if matches!(number % 4, 1 | 2) {
            self.kill_amid(from, here, &job);
        }
        let job = until("the move ends", || {
            let job: Job = from.ask(&["job", "show", &job.id.to_string()]);
            job.state.is_final().then_some(job)
        });
        assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
        assert!(has_booted(&job));
    }

    /// Kills the agent of the source while the machine stops, or right after, and starts it again.
    fn kill_amid(&self, from: &Worker, here: usize, job: &Job) {
        until("the machine stops", || {
            let job: Job = from.ask(&["job", "show", &job.id.to_string()]);
            let stop = job.steps.iter().find(|step| step.step == "Stop")?;
            (stop.state != StepState::Waiting).then_some(())
        });
        self.is_away[here].store(true, Ordering::SeqCst);
        from.restart();
        self.wait_served(here);
        self.is_away[here].store(false, Ordering::SeqCst);
    }

    fn figures(&self) -> String {
        let services = self.cluster.workers.iter().flat_map(|worker| {
            let services: Vec<ServiceStatus> = worker.ask(&["service", "list"]);
            services
        });
        let (mut refused, mut held_ms) = (0, 0);
        services.for_each(|of| (refused, held_ms) = (refused + of.refused, held_ms.max(of.longest_wait_ms)));
        assert_eq!(refused, 0, "connections were refused");
        format!(
            "{} commits acknowledged, {} attempts that ended, longest from one commit to the next {} ms, longest wait at \
             the proxies {held_ms} ms, none refused",
            self.ledger.lock().unwrap().len(),
            self.ended.load(Ordering::SeqCst),
            self.longest_ms.load(Ordering::SeqCst),
        )
    }

    /// Every commit is there, the database finds itself whole, and so does its file system.
    fn check(&self, here: usize) {
        let mut session = Session::open(self.at(1 - here)).unwrap();
        let rows = session.ask("SELECT client || ' ' || n FROM ledger").unwrap();
        let found: BTreeSet<(i64, i64)> = rows
            .iter()
            .map(|row| {
                let (client, n) = row.split_once(' ').unwrap();
                (client.parse().unwrap(), n.parse().unwrap())
            })
            .collect();
        let ledger = self.ledger.lock().unwrap();
        let lost: Vec<_> = ledger.difference(&found).collect();
        assert!(lost.is_empty(), "commits that were acknowledged are lost: {lost:?}");
        let words = ["-U", "postgres", "--install-missing", "--heapallindexed", "postgres"];
        self.postgres("pg_amcheck", &words, here);
        println!("postgres: {} commits acknowledged, all of them found; pg_amcheck is content", ledger.len());
        let worker = &self.cluster.workers[here];
        let _: Machine = worker.ask(&["machine", "stop", "db"]);
        let device = worker.ask::<AttachedFrontend>(&["volume", "attach", "data"]).address.unwrap();
        succeed("e2fsck", &["-fn", path_text(&device)]);
        assert_eq!(worker.ferry(&["volume", "detach", "data"]).code, Some(0));
    }
}

/// A connection to PostgreSQL: as much of its protocol (version 3) as a ledger needs.
struct Session(TcpStream);

impl Session {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let words = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
        let length = u32::try_from(words.len() + 4).unwrap();
        stream.write_all(&[&length.to_be_bytes(), &words[..]].concat())?;
        let mut session = Self(stream);
        session.until_ready()?;
        Ok(session)
    }

    /// Runs a statement; once it has returned the statement is committed. Answers the first column of all rows.
    fn ask(&mut self, statement: &str) -> io::Result<Vec<String>> {
        let length = u32::try_from(statement.len() + 5).unwrap();
        let message = [b"Q", &length.to_be_bytes()[..], statement.as_bytes(), b"\0"].concat();
        self.0.write_all(&message)?;
        self.until_ready()
    }

    /// Reads up to where the server is ready for the next statement.
    fn until_ready(&mut self) -> io::Result<Vec<String>> {
        let mut rows = Vec::new();
        let mut failed = None;
        loop {
            let mut head = [0; 5];
            self.0.read_exact(&mut head)?;
            let [kind, length @ ..] = head;
            let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
            self.0.read_exact(&mut body)?;
            match kind {
                // A row: how many columns, then the length of the first, and the first.
                b'D' => rows.push(String::from_utf8_lossy(&body[6..]).into_owned()),
                b'E' => failed = Some(io::Error::other(String::from_utf8_lossy(&body).into_owned())),
                b'Z' => return failed.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }
}
