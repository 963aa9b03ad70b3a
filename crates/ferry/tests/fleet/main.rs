//! A fleet's bad day: five workers as hosts of a network with links of limited bandwidth, forty small machines that never stop
//! writing. One worker is drained while a machine is moved by hand elsewhere, the agent of another worker is killed and started
//! again, and the link of a third is cut for twenty seconds; then the next one is drained, exactly as planned. Nothing is lost,
//! each machine runs once, and two machines of one group are never down at the same time, by what the machines themselves have
//! noted.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends at, and tells, what it did not expect"
)]

mod machines;
mod outcome;
#[path = "../support/mod.rs"]
mod support;

use ferry_api::{DrainPlan, Job, JobId, JobState};
use machines::{Guest, Kind, WORKERS, on_all, running};
use outcome::Outcome;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::cluster::{Cluster, Worker};
use support::devices::needs_loop_devices;
use support::ledger::{Entry, Ledger};
use support::network::Network;
use support::redis::Session;
use support::{E2FSCK, IP, MKE2FS, Over, REDIS, TC, needs, skip, test_name, until};

/// What each link lets through, in either direction.
const RATE: &str = "100mbit";
/// For how long a link is cut.
const CUT: Duration = Duration::from_secs(20);
/// A client's pause between two writes.
const CLIENT_PAUSE: Duration = Duration::from_millis(10);
/// The workers that are drained.
const FIRST: usize = 0;
const NEXT: usize = 1;
/// The worker that is left alone: clients come there.
const OBSERVER: usize = 4;

#[test]
fn two_workers_are_drained_under_load_amid_a_dead_agent_and_a_cut_link_and_nothing_is_lost() {
    needs!(IP, TC, MKE2FS, E2FSCK, REDIS);
    needs_loop_devices!();
    let network = match Network::of(WORKERS, RATE) {
        Ok(network) => network,
        Err(error) => return skip(test_name!(), &format!("network namespaces ({error})")),
    };
    let fleet = &Fleet::start(&network);
    std::thread::scope(|scope| {
        for guest in &fleet.guests {
            scope.spawn(move || fleet.client(guest));
        }
        // Also when an assertion ends the test: a scope waits for all that runs in it.
        let _over = Over(&fleet.is_over);
        fleet.settle_in();
        fleet.drain_amid_faults();
        fleet.drain_as_planned();
    });
    fleet.check();
}

struct Fleet<'a> {
    network: &'a Network,
    cluster: Cluster,
    guests: Vec<Guest>,
    is_over: AtomicBool,
    /// The writes that the clients of each machine were told of.
    ledgers: Mutex<BTreeMap<String, BTreeSet<Entry>>>,
    begun: Instant,
}

impl<'a> Fleet<'a> {
    fn start(network: &'a Network) -> Self {
        let begun = Instant::now();
        let cluster = Cluster::on(network, "");
        cluster.found_with_all();
        let guests = machines::guests(cluster.dir());
        let fleet = Self {
            network,
            cluster,
            guests,
            is_over: AtomicBool::default(),
            ledgers: Mutex::default(),
            begun,
        };
        fleet.tell("the workers belong together");
        machines::create(&fleet.cluster, &fleet.guests);
        fleet.tell(&format!("{} machines write", fleet.guests.len()));
        fleet
    }

    fn tell(&self, what: &str) {
        println!("fleet: {:>3} s: {what}", self.begun.elapsed().as_secs());
    }

    fn worker(&self, index: usize) -> &Worker {
        &self.cluster.workers[index]
    }

    /// Writes to a machine that has clients, through the observer, and notes each write that it was told of.
    fn client(&self, guest: &Guest) {
        let Some(port) = guest.port() else { return };
        let at = self.at(port);
        self.network.host(OBSERVER).inside(|| {
            let (mut session, mut number) = (None, 0);
            while !self.is_over.load(Ordering::SeqCst) {
                number += 1;
                let opened = session.take().map_or_else(|| Session::open(at), Ok);
                match opened.and_then(|mut open| open.put((0, number)).map(|()| open)) {
                    Ok(open) => {
                        session = Some(open);
                        self.ledgers
                            .lock()
                            .unwrap()
                            .entry(guest.name.clone())
                            .or_default()
                            .insert((0, number));
                    }
                    Err(error) => {
                        let is_refused = error.kind() == std::io::ErrorKind::ConnectionRefused;
                        assert!(
                            !is_refused,
                            "{} is refused by the observer, which nothing happens to",
                            guest.name
                        );
                    }
                }
                std::thread::sleep(CLIENT_PAUSE);
            }
        });
    }

    /// Where clients come to a port of a machine.
    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.network.address(OBSERVER), port)
    }

    /// Before anything bad happens: all clients are served, and a machine of each worker that will be drained has moved there and back, so
    /// that plans are made of something.
    fn settle_in(&self) {
        for guest in self.guests.iter().filter(|guest| guest.port().is_some()) {
            until(&format!("the client of {} is told of a write", guest.name), || {
                self.ledgers.lock().unwrap().contains_key(&guest.name).then_some(())
            });
        }
        let scouts = self.guests.iter().filter(|guest| guest.kind == Kind::Scout);
        for (scout, [home, away]) in scouts.zip([[FIRST, NEXT], [NEXT, FIRST]]) {
            self.worker(home).moves(&scout.name, self.worker(away));
            self.worker(away).moves(&scout.name, self.worker(home));
        }
        self.tell("a machine of each has moved there and back");
    }

    /// The first drain.
    fn drain_amid_faults(&self) {
        let plan = self.plan(FIRST);
        let [cut, killed] = self.two_targets(&plan);
        let drain = self.begin(FIRST, &[]);
        let by_hand = self.move_twin();
        until("a move to the worker whose link is to be cut is under way", || {
            let so_far = Outcome::of(self.drain(FIRST, drain), self.worker(FIRST));
            so_far.unfinished().iter().any(|to| to.as_str() == self.worker(cut).name).then_some(())
        });
        self.network.cut(cut);
        let cut_at = Instant::now();
        self.tell(&format!("the link of {} is cut", self.worker(cut).name));
        self.worker(killed).restart();
        self.tell(&format!("the agent of {} was killed and started again", self.worker(killed).name));
        std::thread::sleep(CUT.saturating_sub(cut_at.elapsed()));
        self.network.mend(cut);
        self.tell("the link is there again");
        self.finish(FIRST, drain, &plan);
        // It may have found the worker silent for too long; its machine is at home then, and moves with the next drain.
        until("the move by hand ends", || {
            let job: Job = self.worker(NEXT).ask(&["job", "show", &by_hand.to_string()]);
            job.state.is_final().then_some(())
        });
    }

    /// The machine on the next worker whose twin is leaving with the drain is moved by hand.
    fn move_twin(&self) -> JobId {
        let here = running(self.worker(NEXT));
        let twin =
            self.guests.iter().find(|guest| guest.group() == Some("twin") && here.contains(&guest.name));
        let twin = &twin.expect("one of the twins is there").name;
        let job: Job =
            self.worker(NEXT).ask(&["move", twin, "--to", &self.worker(OBSERVER).name, "--detach"]);
        job.id
    }

    /// The second drain, which is to do exactly what its plan says.
    fn drain_as_planned(&self) {
        let plan = self.plan(NEXT);
        let file = self.cluster.dir().join("plan.json");
        std::fs::write(&file, serde_json::to_string(&plan).unwrap()).unwrap();
        let drain = self.begin(NEXT, &["--apply", file.to_str().unwrap()]);
        let outcome = self.finish(NEXT, drain, &plan);
        for planned in &plan.machines {
            let name = planned.machine_name.as_str();
            assert_eq!(outcome.went_to(name), planned.to.as_ref(), "{name}");
        }
    }

    fn plan(&self, worker: usize) -> DrainPlan {
        let plan: DrainPlan = self.worker(worker).ask(&["drain", &self.worker(worker).name, "--plan"]);
        assert_eq!((plan.blocked().count(), plan.silent.len()), (0, 0), "{plan:#?}");
        let names: BTreeSet<String> = plan.machines.iter().map(|one| one.machine_name.to_string()).collect();
        assert_eq!(names, running(self.worker(worker)));
        self.tell(&format!("the drain of {} is planned", plan.from));
        plan
    }

    /// Two of the workers that machines go to.
    fn two_targets(&self, plan: &DrainPlan) -> [usize; 2] {
        let index = |name: &str| self.cluster.workers.iter().position(|worker| worker.name == name);
        let to: BTreeSet<usize> =
            plan.moves().filter_map(|planned| index(planned.to.as_ref()?.as_str())).collect();
        let mut to = to.into_iter().filter(|index| ![NEXT, OBSERVER].contains(index));
        [
            to.next().expect("machines go to several workers"),
            to.next().expect("machines go to several workers"),
        ]
    }

    fn begin(&self, worker: usize, words: &[&str]) -> JobId {
        let worker = self.worker(worker);
        let drain: Job = worker.ask(&[&["drain", &worker.name, "--detach"], words].concat());
        self.tell(&format!("the drain of {} begins", worker.name));
        drain.id
    }

    fn drain(&self, worker: usize, drain: JobId) -> Job {
        let job: Job = self.worker(worker).ask(&["job", "show", &drain.to_string()]);
        let goes_on = matches!(job.state, JobState::Waiting | JobState::Running | JobState::Succeeded);
        assert!(goes_on, "{job:#?}");
        job
    }

    /// Waits for the end of a drain and prints it.
    fn finish(&self, worker: usize, drain: JobId, plan: &DrainPlan) -> Outcome {
        let job =
            until("the drain ends", || Some(self.drain(worker, drain)).filter(|job| job.state.is_final()));
        self.tell("the drain is over");
        let worker = self.worker(worker);
        let outcome = Outcome::of(job, worker);
        outcome.tell(plan, &self.guests);
        assert_eq!(running(worker), BTreeSet::new());
        let safe = worker.ferry(&["worker", "safe-to-stop"]);
        assert_eq!(safe.code, Some(0), "{safe:?}");
        outcome
    }

    /// Each machine runs on one worker that was not drained, with all that it and its clients were promised; and of each group one was
    /// always there.
    fn check(&self) {
        let there: Vec<BTreeSet<String>> = self.cluster.workers.iter().map(running).collect();
        let all: BTreeSet<String> = self.guests.iter().map(|guest| guest.name.clone()).collect();
        assert_eq!(there.iter().flatten().cloned().collect::<BTreeSet<_>>(), all);
        assert_eq!(
            there.iter().map(BTreeSet::len).sum::<usize>(),
            all.len(),
            "each on one worker: {there:?}"
        );
        let ledgers = self.ledgers.lock().unwrap();
        on_all(&self.cluster, |index, worker| {
            for guest in self.guests.iter().filter(|guest| there[index].contains(&guest.name)) {
                let ledger = ledgers.get(&guest.name).cloned().unwrap_or_default();
                self.network.host(OBSERVER).inside(|| guest.check(worker, |port| self.at(port), &ledger));
            }
        });
        ["pair", "twin"].into_iter().for_each(|group| self.check_group(group));
        self.tell("nothing is lost");
    }

    fn check_group(&self, group: &str) {
        let of_it = self.guests.iter().filter(|guest| guest.group() == Some(group));
        let gaps: Vec<_> = of_it.map(Guest::gaps_ns).collect();
        let [one, other] = &gaps[..] else { panic!("the group has two machines") };
        assert!(!one.is_empty() && !other.is_empty(), "both of {group} have moved: {gaps:?}");
        for (down, up) in one {
            for (other_down, other_up) in other {
                assert!(up <= other_down || other_up <= down, "both of {group} were down: {gaps:?}");
            }
        }
    }
}
