//! Services of machines: clients come to any worker, see a pause while a machine moves, and no error.
#![allow(clippy::unwrap_used, reason = "a test ends at whatever it did not expect")]

mod support;

use ferry_api::{DirectoryView, KnownMachine, Machine, MachineState, Presence, ServiceStatus};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};
use support::cluster::{Cluster, Worker};
use support::network::Network;
use support::{IP, TC, needs, skip, skip_where_impossible, succeed, test_name, until};

/// In the environment of this program: it is a machine that listens there.
const PORT: &str = "FERRY_TEST_LISTENS_AT";
/// In the environment of this program, too: it listens at the machine's own address.
const OWN: &str = "FERRY_TEST_HAS_AN_ADDRESS";
/// Below what the system gives to outgoing connections.
const PORT_FIRST: u32 = 22_000;
const PORTS: u32 = 9_000;
/// What routes to machines of other workers bear.
const ROUTES_ARE: &str = "proto 215 metric 4096";
/// How long one attempt to reach an address may take.
const ATTEMPT: Duration = Duration::from_secs(2);

/// A port that no other test asks for.
fn fresh_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let next = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
    u16::try_from(PORT_FIRST + (std::process::id() * 16 + next) % PORTS).unwrap()
}

/// The machine of these tests: answers each line with the directory of the worker that it runs on, and the line.
#[test]
fn is_the_machine_where_it_is_asked_to_be() {
    let Ok(port) = std::env::var(PORT) else { return };
    let worker = std::env::var("TMPDIR").unwrap();
    // With a network of its own it listens there, else where nobody but its worker is.
    let own = std::env::var(OWN).ok().and_then(|_| std::env::var("FERRY_MACHINE_ADDRESS").ok());
    let listener =
        TcpListener::bind(own.map_or(format!("127.0.0.1:{port}"), |ip| format!("[{ip}]:{port}"))).unwrap();
    for client in listener.incoming().flatten() {
        let worker = worker.clone();
        std::thread::spawn(move || {
            let mut to = client.try_clone().unwrap();
            for line in BufReader::new(client).lines().map_while(Result::ok) {
                let _ = to.write_all(format!("{worker} {line}\n").as_bytes());
            }
        });
    }
}

fn machine_file(dir: &Path, name: &str, port: u16, more: &str) -> String {
    let path = dir.join(format!("{name}.toml"));
    let this = std::env::current_exe().unwrap();
    let words = ["--exact", "is_the_machine_where_it_is_asked_to_be", "--nocapture"];
    let text = format!(
        "name = \"{name}\"\ncommand = [{this:?}, {}]\nservices = [{{ port = {port} }}]\n{more}\n[env]\n{PORT} = \"{port}\"\n",
        words.map(|word| format!("{word:?}")).join(", "),
    );
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn create(worker: &Worker, dir: &Path, port: u16) -> Machine {
    worker.ask(&["machine", "create", "--file", &machine_file(dir, "echo", port, "")])
}

fn at(worker: &Worker, port: u16) -> SocketAddr {
    SocketAddr::new(worker.address.ip(), port)
}

/// What came of one question.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The answer.
    Told(String),
    /// Nobody listens there.
    Refused,
    /// The connection ended without an answer.
    Ended,
}

fn ask(address: SocketAddr, question: &str) -> Outcome {
    let stream = match TcpStream::connect(address) {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Outcome::Refused,
        Err(error) => panic!("{address}: {error}"),
    };
    let _ = (&stream).write_all(format!("{question}\n").as_bytes());
    let mut line = String::new();
    match BufReader::new(&stream).read_line(&mut line) {
        Ok(read) if read > 0 => Outcome::Told(line.trim_end().to_owned()),
        Ok(_) | Err(_) => Outcome::Ended,
    }
}

/// The answer of a machine that is reached at `address`, and the worker that it runs on by it.
fn told(address: SocketAddr) -> String {
    match ask(address, "where") {
        Outcome::Told(line) => line.strip_suffix(" where").unwrap().to_owned(),
        other @ (Outcome::Refused | Outcome::Ended) => panic!("{address}: {other:?}"),
    }
}

fn wait_served(workers: &[&Worker], port: u16) {
    for worker in workers {
        until(&format!("{} serves port {port}", worker.name), || TcpStream::connect(at(worker, port)).ok());
    }
}

fn services(worker: &Worker) -> Vec<ServiceStatus> {
    worker.ask(&["service", "list"])
}

/// What a worker has heard of a machine from its owner.
fn heard(worker: &Worker, machine: &Machine) -> Option<KnownMachine> {
    let view: DirectoryView = worker.ask(&["directory"]);
    view.machines.into_iter().find(|known| known.mapping.machine == machine.id && known.is_certain)
}

#[test]
fn every_worker_tells_which_workers_there_are_and_where_their_machines_are() {
    let cluster = Cluster::of(&[("w1", ""), ("w2", ""), ("w3", "")]);
    let [w1, w2, w3] = &cluster.workers[..] else { panic!("three workers") };
    let machine = create(w1, cluster.dir(), fresh_port());
    let owner = |worker| {
        heard(worker, &machine).map(|known| (known.mapping.owner.to_string(), known.mapping.generation.0))
    };
    for worker in [w1, w2, w3] {
        until("it is known where the machine is", || (owner(worker)? == ("w1".to_owned(), 1)).then_some(()));
    }
    let _: serde_json::Value = w1.ask(&["move", "echo", "--to", "w2"]);
    for worker in [w1, w2, w3] {
        until("it is known where the machine has gone", || {
            (owner(worker)? == ("w2".to_owned(), 2)).then_some(())
        });
    }
    let view: DirectoryView = w3.ask(&["directory"]);
    let told: Vec<_> =
        view.workers.iter().map(|worker| (worker.name.as_str(), worker.is_fresh, worker.machines)).collect();
    assert_eq!(told, [("w1", true, 0), ("w2", true, 1), ("w3", true, 0)]);
    assert!(
        view.workers
            .iter()
            .all(|worker| worker.about.as_ref().is_some_and(|about| about.capacity.cpu_millis > 0))
    );
    // Whoever asks elsewhere is told where, also when nobody answers there.
    w2.kill();
    let why = w3.refusal(&["move", "echo", "--to", "w1"], 1);
    assert!(why.contains("machine echo is not here but on worker w2"), "{why}");
}

#[test]
fn a_service_is_reached_on_every_worker_and_new_connections_wait_while_its_machine_moves() {
    const MOVES: usize = 4;
    let cluster = Cluster::of(&[("w1", ""), ("w2", ""), ("w3", "")]);
    let [w1, w2, w3] = &cluster.workers[..] else { panic!("three workers") };
    let port = fresh_port();
    create(w1, cluster.dir(), port);
    wait_served(&[w1, w2, w3], port);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients = cluster.workers.iter().map(|worker| {
            let stop = &stop;
            scope.spawn(move || {
                let (mut told, mut ended, mut longest) = (0_u64, 0_u64, Duration::ZERO);
                while !stop.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    match ask(at(worker, port), "x") {
                        Outcome::Told(_) => told += 1,
                        // It was through when the machine stopped.
                        Outcome::Ended => ended += 1,
                        Outcome::Refused => panic!("{} refuses", worker.name),
                    }
                    longest = longest.max(asked.elapsed());
                }
                (told, ended, longest)
            })
        });
        let clients: Vec<_> = clients.collect();
        for round in 0..MOVES {
            let (from, to) = if round % 2 == 0 { (w1, w2) } else { (w2, w1) };
            from.moves("echo", to);
            for worker in &cluster.workers {
                assert_eq!(told(at(worker, port)), to.dir.to_str().unwrap(), "by {}", worker.name);
            }
        }
        stop.store(true, Ordering::Relaxed);
        for (worker, client) in cluster.workers.iter().zip(clients) {
            let (told, ended, longest) = client.join().unwrap();
            println!("by {}: {told} answers, {ended} ended, the longest after {longest:?}", worker.name);
            assert!(told > 0 && ended <= 2 * MOVES as u64, "by {}: {told} {ended}", worker.name);
        }
    });
    for worker in &cluster.workers {
        // Where it is, is known of whoever was asked; of its owner it is heard a moment later.
        let heard = |of: &ServiceStatus| of.is_certain && matches!(of.presence, Presence::Runs { .. });
        let status = until("its owner was heard", || services(worker).pop().filter(heard));
        assert_eq!((status.refused, status.held, status.owner.as_str()), (0, 0, "w1"), "{status:?}");
        assert_eq!(status.generation.0, 1 + MOVES as u64, "{status:?}");
        assert!(status.accepted > 0, "{status:?}");
    }
    let metrics = w3.ferry(&["worker", "metrics"]).stdout;
    assert!(metrics.contains("ferry_service_longest_wait_seconds{machine=\"echo\""), "{metrics}");
    let shown = w2.ferry(&["service", "list"]).stdout;
    assert!(shown.contains("echo") && shown.contains(&at(w2, port).to_string()), "{shown}");
    assert_eq!(w1.ferry(&["machine", "destroy", "echo", "--stop"]).code, Some(0));
    until("nobody listens any more", || {
        cluster.workers.iter().all(|w| ask(at(w, port), "x") == Outcome::Refused).then_some(())
    });
    assert!(cluster.workers.iter().all(|w| services(w).is_empty()));
}

#[test]
fn a_connection_that_is_through_ends_with_its_machine_and_a_stopped_machine_refuses() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let port = fresh_port();
    create(w1, cluster.dir(), port);
    wait_served(&[w1, w2], port);
    let through = [w1, w2].map(|worker| {
        let mut stream = TcpStream::connect(at(worker, port)).unwrap();
        stream.write_all(b"x\n").unwrap();
        let mut first = [0; 1];
        stream.read_exact(&mut first).unwrap();
        stream
    });
    let _: Machine = w1.ask(&["machine", "stop", "echo"]);
    for mut stream in through {
        let mut rest = Vec::new();
        // Orderly or not, it ends.
        let _ = stream.read_to_end(&mut rest);
    }
    for worker in [w1, w2] {
        until("it is refused", || (ask(at(worker, port), "x") == Outcome::Ended).then_some(()));
        let is_stopped = |of: &ServiceStatus| of.presence == Presence::Stopped;
        let status = until("it is known to be stopped", || services(worker).pop().filter(is_stopped));
        assert!(status.last_refusal.unwrap().contains("is stopped; start it"));
    }
    let _: Machine = w1.ask(&["machine", "start", "echo"]);
    for worker in [w1, w2] {
        until("it is answered", || matches!(ask(at(worker, port), "x"), Outcome::Told(_)).then_some(()));
    }
}

#[test]
fn connections_wait_in_bounded_number_and_time() {
    let cluster = Cluster::of(&[("w1", "services_hold_seconds = 1"), ("w2", "services_held_max = 2")]);
    let (w1, w2) = cluster.pair();
    let port = fresh_port();
    let file = machine_file(cluster.dir(), "deaf", port, "");
    let text = std::fs::read_to_string(&file).unwrap();
    let command = text.lines().find(|line| line.starts_with("command")).unwrap();
    std::fs::write(&file, text.replace(command, "command = [\"sleep\", \"1000\"]")).unwrap();
    let machine: Machine = w1.ask(&["machine", "create", "--file", &file]);
    assert!(matches!(machine.state, MachineState::Running { .. }));
    wait_served(&[w1, w2], port);
    let of = |worker| services(worker).pop().unwrap();
    // What only looked whether somebody listens is gone.
    until("nobody waits", || (of(w2).held == 0).then_some(()));
    let held = [(); 2].map(|()| TcpStream::connect(at(w2, port)).unwrap());
    until("two wait", || (of(w2).held == 2).then_some(()));
    assert_eq!(ask(at(w2, port), "x"), Outcome::Ended);
    assert!(of(w2).last_refusal.unwrap().contains("services_held_max"));
    drop(held);
    until("they give their places free", || (of(w2).held == 0).then_some(()));
    let began = Instant::now();
    assert_eq!(ask(at(w1, port), "x"), Outcome::Ended);
    assert!(began.elapsed() >= Duration::from_secs(1), "it was to wait for a second");
    let status = of(w1);
    assert!(status.longest_wait_ms >= 1_000 && status.refused >= 1, "{status:?}");
    assert!(status.last_refusal.unwrap().contains("services_hold_seconds"));
}

#[test]
fn a_port_that_is_taken_is_told_at_create_and_keeps_no_machine_from_moving() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let port = fresh_port();
    let file = machine_file(cluster.dir(), "echo", port, "");
    let taken = TcpListener::bind(at(w1, port)).unwrap();
    let said = w1.refusal(&["machine", "create", "--file", &file], 1);
    assert!(
        said.contains(&format!("cannot listen at {}", at(w1, port))) && said.contains("`listen`"),
        "{said}"
    );
    drop(taken);
    let taken = TcpListener::bind(at(w2, port)).unwrap();
    let _: Machine = w1.ask(&["machine", "create", "--file", &file]);
    wait_served(&[w1], port);
    let said = w1.refusal(&["machine", "create", "other", "--file", &file], 1);
    assert!(said.contains("is that of machine"), "{said}");
    w1.moves("echo", w2);
    until("it says that the port is taken", || {
        let shown = w2.ferry(&["machine", "show", "echo"]).stdout;
        shown.contains("not served: this worker cannot listen at").then_some(())
    });
    assert_eq!(told(at(w1, port)), w2.dir.to_str().unwrap(), "by the worker that has the port");
    drop(taken);
    wait_served(&[w2], port);
    assert_eq!(told(at(w2, port)), w2.dir.to_str().unwrap());
}

#[test]
fn while_the_owners_agent_is_dead_others_let_connections_wait() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let port = fresh_port();
    create(w1, cluster.dir(), port);
    wait_served(&[w1, w2], port);
    w1.kill();
    std::thread::scope(|scope| {
        let held = scope.spawn(|| told(at(w2, port)));
        until("it waits", || services(w2).iter().any(|of| of.held == 1).then_some(()));
        w1.start();
        assert_eq!(held.join().unwrap(), w1.dir.to_str().unwrap());
    });
}

#[test]
fn a_machine_takes_the_network_of_its_own_along_and_leaves_no_interface_behind() {
    if !rustix::process::geteuid().is_root() {
        return skip_where_impossible(test_name!(), "root");
    }
    needs!(IP);
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let port = fresh_port();
    let file = machine_file(cluster.dir(), "echo", port, "network = \"own\"");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}{OWN} = \"1\"\n")).unwrap();
    let machine: Machine = w1.ask(&["machine", "create", "--file", &file]);
    let address = machine.address.unwrap();
    let direct = SocketAddr::new(address.into(), port);
    wait_served(&[w1, w2], port);
    let route = || succeed(IP.program, &["-6", "route", "show", &format!("{address}/128")]);
    let is_on = |worker: &Worker| {
        let on = worker.dir.to_str().unwrap();
        for by in [at(w1, port), at(w2, port), direct] {
            assert_eq!(told(by), on, "by {by}");
        }
        assert_eq!(route().lines().count(), 1, "{}", route());
    };
    is_on(w1);
    w1.moves("echo", w2);
    is_on(w2);
    w2.moves("echo", w1);
    is_on(w1);
    let shown = w1.ferry(&["machine", "show", "echo"]).stdout;
    assert!(shown.contains(&address.to_string()) && shown.contains("a network of its own"), "{shown}");
    assert_eq!(w1.ferry(&["machine", "destroy", "echo", "--stop"]).code, Some(0));
    until("its interface is gone", || route().is_empty().then_some(()));
}

/// The worker that a machine runs on by its answer, if that comes soon.
fn told_soon(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, ATTEMPT).ok()?;
    stream.set_read_timeout(Some(ATTEMPT)).ok()?;
    stream.write_all(b"where\n").ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    line.trim_end().strip_suffix(" where").map(str::to_owned)
}

#[test]
fn the_address_of_a_machine_is_reached_from_hosts_of_other_workers_wherever_it_goes() {
    needs!(IP, TC);
    let network = match Network::of(2, "100mbit") {
        Ok(network) => network,
        Err(error) => return skip(test_name!(), &format!("network namespaces ({error})")),
    };
    if !network.speak_ipv6() {
        return skip_where_impossible(test_name!(), "IPv6");
    }
    let peers = [0, 1].map(|index| format!("w{} = \"http://[{}]:7433\"", index + 1, network.ipv6(index)));
    let lines = format!("insecure = true\nmachine_routes = true\n[peers]\n{}\n", peers.join("\n"));
    let cluster = Cluster::on_by(&network, |index| network.ipv6(index).into(), &lines);
    let (w1, w2) = cluster.pair();
    let routes = |host: usize| network.host(host).ip(&format!("-6 route show {ROUTES_ARE}"));
    // An agent that was killed has left a route to a machine that was destroyed since.
    network.host(1).ip(&format!("-6 route add fd00::dead/128 via {} {ROUTES_ARE}", network.ipv6(0)));
    [w1, w2].into_iter().for_each(Worker::start);
    until("what was left is gone", || routes(1).is_empty().then_some(()));

    let port = fresh_port();
    let file = machine_file(cluster.dir(), "echo", port, "network = \"own\"");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}{OWN} = \"1\"\n")).unwrap();
    let machine: Machine = w1.ask(&["machine", "create", "--file", &file]);
    let direct = SocketAddr::new(machine.address.unwrap().into(), port);
    let is_on = |worker: &Worker| {
        for from in [w1, w2] {
            until(&format!("it is reached on {} from the host of {}", worker.name, from.name), || {
                (from.there(|| told_soon(direct))? == worker.dir.to_str()?).then_some(())
            });
        }
    };
    is_on(w1);
    assert_eq!((routes(0).lines().count(), routes(1).lines().count()), (0, 1));
    // An agent that starts again leaves the way open.
    w2.restart();
    assert!(w2.there(|| told_soon(direct)).is_some());
    w1.moves("echo", w2);
    is_on(w2);
    until("no route leads away from the machine's own worker", || routes(1).is_empty().then_some(()));
    assert_eq!(routes(0).lines().count(), 1, "{}", routes(0));
    assert_eq!(w2.ferry(&["machine", "destroy", "echo", "--stop"]).code, Some(0));
    until("no route leads to what is destroyed", || routes(0).is_empty().then_some(()));
}

#[test]
fn a_machine_is_found_by_its_name_on_every_worker() {
    let port = fresh_port();
    let dns =
        |worker: &str| format!("dns_listen = \"127.0.0.1:{}\"", port + if worker == "w1" { 1 } else { 2 });
    let cluster = Cluster::of(&[("w1", &dns("w1")), ("w2", &dns("w2"))]);
    let (w1, w2) = cluster.pair();
    create(w1, cluster.dir(), port);
    wait_served(&[w1, w2], port);
    for (worker, dns) in [(w1, port + 1), (w2, port + 2)] {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let head = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0";
        let question = [head, &b"\x04echo\x05ferry\x08internal\0\0\x01\0\x01"[..]].concat();
        socket.send_to(&question, ("127.0.0.1", dns)).unwrap();
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).unwrap();
        let IpAddr::V4(ip) = worker.address.ip() else { panic!("workers have such addresses here") };
        assert_eq!(answer[..2], question[..2]);
        assert_eq!(answer[length - 4..length], ip.octets(), "the address of the worker that was asked");
    }
}
