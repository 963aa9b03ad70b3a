//! A server in a machine on ext4 on the machine's volume, while clients from outside write through the workers' proxies: cold and
//! warm moves there and back, with the source's agent killed in the middle. No write that a client was told of is lost, and
//! nobody is refused a connection.

use crate::support::cluster::Cluster;
use crate::support::ledger::{Entry, Ledger};
use crate::support::peers::path_text;
use crate::support::{Over, succeed, until};
use ferry_api::{AttachedFrontend, Machine, ServiceStatus};
use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Writes of each client between two moves.
const WRITES: usize = 20;
/// Clients at each worker.
const CLIENTS: usize = 2;
/// A client's pause before it connects again, as any client has one.
const PAUSE: Duration = Duration::from_millis(2);
/// Below what the system gives to outgoing connections.
const PORT_FIRST: u32 = 31_000;
const PORTS: u32 = 580;

/// What the machine runs.
pub trait Server: Sync {
    /// A client's connection.
    type Session: Ledger;

    /// Its name, for people.
    fn name(&self) -> &'static str;
    /// Of the servers of these tests, which one: each has ports of its own.
    fn place(&self) -> u32;
    /// The machine's file, but for its name, service and volume, and what it needs beside; `dir` is the test's own. The volume is
    /// mounted at `data`.
    fn spec(&self, dir: &Path, data: &str, port: u16) -> String;
    /// Makes it ready for clients, once.
    fn furnish(&self, session: &mut Self::Session) -> io::Result<()>;
    /// Gives rounds of copying something to do, for about a second.
    fn load(&self, at: SocketAddr);
    /// The server finds itself whole.
    fn check(&self, at: SocketAddr);
}

/// Moves the machine so often, by turns cold and warm, and looks for all that its clients were told of.
pub fn moves_there_and_back<S: Server>(server: &S, moves: u64) {
    let cluster = Cluster::two();
    let house = House::new(&cluster, server);
    house.create();
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
            house.writes();
            house.hop(number);
            println!("{}: {} moves, {}", server.name(), number + 1, house.figures());
        }
        house.writes();
    });
    house.check(usize::try_from(moves % 2).unwrap());
}

struct House<'a, S> {
    cluster: &'a Cluster,
    server: &'a S,
    port: u16,
    is_over: AtomicBool,
    /// How often the agent of a worker has died and come back, both counted: while that is odd nobody listens there.
    turns: [AtomicU64; 2],
    /// The writes that each client was told of.
    ledger: Mutex<BTreeSet<Entry>>,
    longest_ms: AtomicU64,
    ended: AtomicU64,
}

impl<'a, S: Server> House<'a, S> {
    fn new(cluster: &'a Cluster, server: &'a S) -> Self {
        let port = u16::try_from(PORT_FIRST + server.place() * PORTS + std::process::id() % PORTS).unwrap();
        // The server's user must come to where its volume is mounted.
        std::fs::set_permissions(cluster.dir(), PermissionsExt::from_mode(0o755)).unwrap();
        Self {
            cluster,
            server,
            port,
            is_over: AtomicBool::default(),
            turns: Default::default(),
            ledger: Mutex::default(),
            longest_ms: AtomicU64::default(),
            ended: AtomicU64::default(),
        }
    }

    fn at(&self, worker: usize) -> SocketAddr {
        SocketAddr::new(self.cluster.workers[worker].address.ip(), self.port)
    }

    /// Whether the agent of a worker is dead.
    fn is_away(&self, worker: usize) -> bool {
        !self.turns[worker].load(Ordering::SeqCst).is_multiple_of(2)
    }

    fn create(&self) {
        let (data, port) = (self.cluster.dir().join("data"), self.port);
        let text = format!(
            "name = \"db\"\nworkdir = \"/\"\nservices = [{{ port = {port} }}]\n{}\n[volumes.data]\nsize = \"512MiB\"\nmount = {data:?}\n",
            self.server.spec(self.cluster.dir(), path_text(&data), port),
        );
        let file = self.cluster.dir().join("db.toml");
        std::fs::write(&file, text).unwrap();
        let _: Machine = self.cluster.workers[0].ask(&["machine", "create", "--file", path_text(&file)]);
        until("the server answers", || self.server.furnish(&mut S::Session::open(self.at(0)).ok()?).ok());
        self.wait_served(1);
    }

    fn wait_served(&self, worker: usize) {
        until("its port is served", || TcpStream::connect(self.at(worker)).ok());
    }

    /// Writes one entry after the other by the proxy of a worker, and notes each that it was told of.
    fn client(&self, worker: usize, id: i64) {
        let mut session = None;
        let mut number = 0;
        let mut since = Instant::now();
        while !self.is_over.load(Ordering::SeqCst) {
            // While the agent of its worker is dead it goes by the other, as clients do that know two.
            let by = if self.is_away(worker) { 1 - worker } else { worker };
            let turns = self.turns[by].load(Ordering::SeqCst);
            let opened = match session.take() {
                Some(open) => Ok(open),
                None => S::Session::open(self.at(by)),
            };
            number += 1;
            match opened.and_then(|mut open| open.put((id, number)).map(|()| open)) {
                Ok(open) => {
                    session = Some(open);
                    self.ledger.lock().unwrap().insert((id, number));
                    let waited = u64::try_from(since.elapsed().as_millis()).unwrap();
                    self.longest_ms.fetch_max(waited, Ordering::SeqCst);
                    since = Instant::now();
                }
                Err(error) => {
                    let is_refused = error.kind() == io::ErrorKind::ConnectionRefused;
                    // It may have been dead when this was refused, and be back by now.
                    let was_there = turns.is_multiple_of(2) && turns == self.turns[by].load(Ordering::SeqCst);
                    assert!(!is_refused || !was_there, "the proxy of worker {by} refuses a connection");
                    self.ended.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// It ends with each move and begins again.
    fn load(&self) {
        while !self.is_over.load(Ordering::SeqCst) {
            let by = usize::from(self.is_away(0));
            self.server.load(self.at(by));
        }
    }

    /// Returns when each client has written some more.
    fn writes(&self) {
        let count = || {
            let ledger = self.ledger.lock().unwrap();
            let mut counts = vec![0; CLIENTS * self.cluster.workers.len()];
            ledger.iter().for_each(|(client, _)| counts[usize::try_from(*client).unwrap()] += 1);
            counts
        };
        let before = count();
        until("all clients write", || {
            count().iter().zip(&before).all(|(now, before)| *now >= before + WRITES).then_some(())
        });
    }

    /// One move. While the agent of the source is dead nobody is expected to listen there.
    fn hop(&self, number: u64) {
        let here = usize::try_from(number % 2).unwrap();
        let (from, to) = (&self.cluster.workers[here], &self.cluster.workers[1 - here]);
        from.hops("db", to, number, || {
            self.turns[here].fetch_add(1, Ordering::SeqCst);
            from.restart();
            self.wait_served(here);
            self.turns[here].fetch_add(1, Ordering::SeqCst);
        });
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
            "{} writes acknowledged, {} attempts that ended, longest from one write to the next {} ms, longest wait at \
             the proxies {held_ms} ms, none refused",
            self.ledger.lock().unwrap().len(),
            self.ended.load(Ordering::SeqCst),
            self.longest_ms.load(Ordering::SeqCst),
        )
    }

    /// Every write is there, the server finds itself whole, and so does its file system.
    fn check(&self, here: usize) {
        let found = S::Session::open(self.at(1 - here)).unwrap().entries().unwrap();
        let ledger = self.ledger.lock().unwrap();
        let lost: Vec<_> = ledger.difference(&found).collect();
        assert!(lost.is_empty(), "writes that were acknowledged are lost: {lost:?}");
        self.server.check(self.at(here));
        println!(
            "{}: {} writes acknowledged, all of them found; it finds itself whole",
            self.server.name(),
            ledger.len()
        );
        let worker = &self.cluster.workers[here];
        let _: Machine = worker.ask(&["machine", "stop", "db"]);
        let device = worker.ask::<AttachedFrontend>(&["volume", "attach", "data"]).address.unwrap();
        succeed("e2fsck", &["-fn", path_text(&device)]);
        assert_eq!(worker.ferry(&["volume", "detach", "data"]).code, Some(0));
    }
}
