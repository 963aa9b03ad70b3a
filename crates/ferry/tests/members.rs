//! Workers that belong together: they join by tokens, know each other by certificates, and answer nobody else.
#![allow(clippy::unwrap_used, reason = "a test ends at whatever it did not expect")]

mod support;

use ferry_api::{
    ApiTokenMade, ClusterStatus, DirectoryView, Job, Losses, Machine, MachineState, RevokeDone, Volume,
    VolumeKey,
};
use ferry_cluster::{Authority, Home, Request, WorkerKey};
use ferry_volume::directory::VolumeConfig;
use ferry_volume::{Credentials, SourceUri, client, control};
use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};
use support::cluster::{Cluster, Said, Worker};
use support::gated::Gated;
use support::image;
use support::until;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const SIZE_BYTES: u64 = 16 << 20;

/// Workers that have not joined anything.
fn configured(names: &[&str]) -> Cluster {
    Cluster::configured(&names.iter().map(|name| (*name, "")).collect::<Vec<_>>())
}

/// A cluster of one worker, whose agent runs, and others that have not joined.
fn founded(names: &[&str]) -> Cluster {
    let cluster = configured(names);
    cluster.found();
    cluster
}

/// The same with all of them in it.
fn joined(names: &[&str]) -> Cluster {
    let cluster = configured(names);
    cluster.found_with_all();
    cluster
}

/// A join that is refused: the sentence. It has left no part in any cluster behind.
fn refused(worker: &Worker, words: &[&str]) -> String {
    let config = worker.config();
    let said = worker.ferry(&[&["agent", "join"], words, &["--config", config.to_str().unwrap()]].concat());
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(!worker.dir.join("cluster").exists());
    said.sentence()
}

fn status(worker: &Worker) -> ClusterStatus {
    worker.ask(&["cluster", "status"])
}

/// Waits until a worker's roster has that version.
fn wait_for_roster(worker: &Worker, version: u64) -> ClusterStatus {
    until(&format!("{} has roster {version}", worker.name), || {
        Some(status(worker)).filter(|status| status.roster_version == version)
    })
}

/// `ferry WORDS` over TLS, with a token or without.
fn over_tls(worker: &Worker, token: Option<&str>, ca: bool, words: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferry"));
    command.args(words).stdin(Stdio::null()).env("FERRY_AGENT", format!("https://{}", worker.address));
    command.env_remove("FERRY_TOKEN").env_remove("FERRY_CA");
    command.envs(token.map(|token| ("FERRY_TOKEN", token)));
    command.envs(ca.then(|| ("FERRY_CA", worker.dir.join("cluster/tls/ca-cert.pem"))));
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Gives a worker a certificate that the keeper made at another time.
fn certify(keeper: &Worker, worker: &Worker, at_ms: u64) {
    let read = |path| fs::read_to_string(path).unwrap();
    let tls = worker.dir.join("cluster/tls");
    let authority = read(keeper.dir.join("cluster/tls/ca-cert.pem"));
    let authority = Authority::from_pem(&authority, &read(keeper.dir.join("cluster/ca-key.pem"))).unwrap();
    let key = WorkerKey::from_pem(&read(tls.join("client-key.pem"))).unwrap();
    let request = Request::parse(&key.request().unwrap()).unwrap();
    let papers = Home::new(&worker.dir).papers().unwrap().unwrap();
    let (name, url) = (worker.name.parse().unwrap(), format!("https://{}", worker.address));
    let pem = authority.certify(&request, &papers.roster.cluster, &name, &url, at_ms).unwrap();
    for side in ["server", "client"] {
        fs::write(tls.join(format!("{side}-cert.pem")), &pem).unwrap();
    }
}

#[test]
fn a_machine_moves_between_workers_that_joined_and_nobody_else_is_answered() {
    let cluster = joined(&["w1", "w2"]);
    let (w1, w2) = cluster.pair();
    let known = wait_for_roster(w1, 2);
    assert_eq!(known.workers, wait_for_roster(w2, 2).workers);
    assert_eq!((known.keeper.as_str(), known.workers.len()), ("w1", 2));
    let said = w1.ferry(&["machine", "create", "web", "--volume", "data=16MiB", "--", "sleep", "1000"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    w1.moves("web", w2);
    assert!(matches!(w2.machine("web").state, MachineState::Running { .. }));
    w2.moves("web", w1);
    assert!(matches!(w1.machine("web").state, MachineState::Running { .. }));

    // At its socket an agent asks for no token; another worker does.
    let why = w1.refusal(&["drain", "w2", "--plan"], 1);
    assert!(why.starts_with("worker w2 answers over the network whoever has a token"), "{why}");
    let said = w1.ferry(&["top"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.contains("takes machines") && said.stdout.contains("not asked"), "{said:?}");
    assert!(said.stdout.contains("\nworker w2 answers over the network whoever has a token"), "{said:?}");

    // With the authority, and still without a token, there is a way to it, and it tells nothing.
    let ca = w1.dir.join("cluster/tls/ca-cert.pem");
    let said = w1.ferry(&["top", "--ca", ca.to_str().unwrap()]);
    assert!(said.stdout.contains("refuses") && !said.stdout.contains("silent"), "{said:?}");
    assert!(
        said.stdout.contains("\nworker w2 tells nothing: this agent answers only whom it knows"),
        "{said:?}"
    );

    let plain = w1.ferry(&["machine", "list", "--agent", &format!("http://{}", w1.address)]);
    assert_eq!((plain.code, &plain.stdout[..]), (Some(3), ""), "{plain:?}");
    let stranger = over_tls(w1, None, true, &["machine", "list"]);
    assert_eq!((stranger.code, &stranger.stdout[..]), (Some(1), ""), "{stranger:?}");
    assert!(stranger.sentence().contains("answers only whom it knows"), "{stranger:?}");
}

#[test]
fn a_worker_that_is_alone_in_its_cluster_says_where_its_members_are_listed() {
    let cluster = founded(&["w1"]);
    let w1 = &cluster.workers[0];
    let said = w1.ferry(&["machine", "create", "web", "--", "sleep", "1000"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let why = w1.refusal(&["move", "web", "--to", "auto"], 1);
    let listed =
        "no other worker is known here; `ferry cluster status` lists those that belong to the cluster";
    assert!(why.contains(listed), "{why}");
}

#[test]
fn a_machine_that_ran_before_its_worker_joined_runs_on_and_moves_to_the_others() {
    let cluster = configured(&["w1", "w2"]);
    let (w1, w2) = cluster.pair();
    w1.start();
    let said = w1.ferry(&["machine", "create", "web", "--volume", "data=16MiB", "--", "sleep", "1000"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let before = w1.machine("web").state;
    w1.kill();
    cluster.found_with_all();
    assert_eq!(w1.machine("web").state, before, "it runs on, as the process that it was");
    w1.moves("web", w2);
    assert!(matches!(w2.machine("web").state, MachineState::Running { .. }));
}

#[test]
fn what_was_still_to_be_fetched_when_workers_joined_is_fetched_over_tls() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let said = w1.ferry(&["machine", "create", "web", "--volume", "data=16MiB", "--", "sleep", "1000"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let mut guest = client::BlockClient::connect_text(&w1.volume("data").guest_uri).unwrap();
    (0..8).for_each(|mib| guest.write_at(mib << 20, &[7; 1 << 20]).unwrap());
    drop(guest);
    let _: Volume = w1.ask(&["volume", "pace", "data", "--max", "64KiB"]);
    let job: Job = w1.ask(&["move", "web", "--to", "w2", "--mode", "cold", "--detach"]);
    until("the machine runs on w2", || {
        let machines: Vec<Machine> = w2.ask(&["machine", "list"]);
        machines.iter().any(|machine| matches!(machine.state, MachineState::Running { .. })).then_some(())
    });
    w1.kill();
    w2.kill();
    cluster.found_with_all();
    w2.wait_for_volume("data", "it is read over TLS", |volume| {
        volume
            .source
            .as_ref()
            .is_some_and(|source| source.connected == Some(true) && source.uri.starts_with("nbds://"))
    });
    let _: Volume = w2.ask(&["volume", "pace", "data", "--max", "none"]);
    let watched = w1.ferry(&["job", "watch", &job.id.to_string()]);
    assert_eq!(watched.code, Some(0), "{watched:?}");
}

/// Which of the others a worker hears.
fn heard(worker: &Worker) -> Vec<(String, bool)> {
    let view: DirectoryView = worker.ask(&["directory"]);
    let there =
        |known: ferry_api::KnownWorker| (known.name.to_string(), known.is_there.expect("they gossip"));
    view.workers.into_iter().map(there).collect()
}

#[test]
fn members_hear_who_is_there_and_where_machines_are_and_miss_one_that_dies() {
    let cluster = joined(&["w1", "w2", "w3"]);
    let [w1, w2, w3] = &cluster.workers[..] else { panic!("three workers") };
    let all = |w3_is_there| {
        [("w1", true), ("w2", true), ("w3", w3_is_there)].map(|(name, there)| (name.to_owned(), there))
    };
    for worker in [w1, w2, w3] {
        until(&format!("{} hears all", worker.name), || (heard(worker) == all(true)).then_some(()));
    }
    let said = w1.ferry(&["machine", "create", "web", "--volume", "data=16MiB", "--", "sleep", "1000"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    w1.moves("web", w2);
    until("w3 knows where the machine is", || {
        let view: DirectoryView = w3.ask(&["directory"]);
        view.machines
            .iter()
            .any(|known| known.is_certain && known.mapping.owner.as_str() == "w2")
            .then_some(())
    });
    w3.kill();
    until("w1 misses w3", || (heard(w1) == all(false)).then_some(()));
    w3.start();
    until("w1 hears w3 again", || (heard(w1) == all(true)).then_some(()));
}

#[test]
fn a_token_that_expired_was_used_or_is_of_another_cluster_lets_nobody_in() {
    let (ours, theirs) = (founded(&["w1", "w2", "w3"]), founded(&["x1"]));
    let [w1, w2, w3] = &ours.workers[..] else { panic!("three") };
    let expired = w1.token(&["--ttl", "1ms"]);
    until("it has expired", || {
        Some(()).filter(|()| ferry_cluster::JoinToken::parse(&expired).unwrap().expires_ms < now_ms())
    });
    let why = refused(w2, &[&expired]);
    assert!(why.contains("this token has expired"), "{why}");

    let once = w1.token(&[]);
    assert_eq!(w2.join(&once).code, Some(0));
    let why = refused(w3, &[&once]);
    assert!(why.contains("was used already, by worker w2"), "{why}");

    let address = w1.address.to_string();
    let why = refused(w3, &[&address, "--token", &theirs.workers[0].token(&[])]);
    assert!(why.contains("UnknownIssuer") || why.contains("certificate"), "{why}");

    let for_another = w1.token(&["--worker", "w9"]);
    let why = refused(w3, &[&for_another]);
    assert!(why.contains("is for the worker w9"), "{why}");
    let why = refused(w3, &[&once[..once.len() - 3]]);
    assert!(why.contains("cut off or mistyped"), "{why}");
    // What went wrong before does not stand in the way of what is right.
    let right = w1.token(&[]);
    let said =
        w3.ferry(&["agent", "join", &address, "--token", &right, "--config", w3.config().to_str().unwrap()]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let again = w3.join(&w1.token(&[]));
    assert!(again.sentence().contains("belongs to cluster"), "{again:?}");
}

#[test]
fn two_workers_of_one_name_do_not_belong_to_one_cluster() {
    let (ours, theirs) = (joined(&["w1", "w2"]), Cluster::configured(&[("w2", "")]));
    let (w1, twin) = (&ours.workers[0], &theirs.workers[0]);
    let why = refused(twin, &[&w1.token(&[])]);
    assert!(why.contains("there is a worker w2 in the cluster already"), "{why}");
    let why = refused(twin, &[&w1.token(&["--worker", "w2", "--again"])]);
    assert!(
        why.contains("there is a worker w2 in the cluster already"),
        "not while that one is a member: {why}"
    );
}

#[test]
fn a_worker_that_was_revoked_is_told_so_and_comes_back_only_as_a_successor() {
    let cluster = joined(&["w1", "w2"]);
    let (w1, w2) = cluster.pair();
    wait_for_roster(w2, 2);
    let done: RevokeDone = w1.ask(&["cluster", "revoke", "w2", "--reason", "stolen"]);
    assert_eq!(done.status.workers[1].reason.as_deref(), Some("stolen"));
    let told = wait_for_roster(w2, 3);
    assert!(told.troubles[0].contains("worker w2 was revoked (stolen)"), "{told:?}");
    let said = w1.ferry(&["machine", "create", "web", "--volume", "data=16MiB", "--", "sleep", "1000"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let why = w1.refusal(&["move", "web", "--to", "w2"], 1);
    assert!(why.contains("worker w2 is not known here"), "{why}");

    // It comes back, and has never heard of it.
    let log = w2.log().len();
    w2.restart();
    until("it is told", || {
        Some(status(w2))
            .filter(|status| status.troubles.iter().any(|trouble| trouble.contains("was revoked (stolen)")))
    });
    assert!(!w2.log()[log..].contains("panicked"));
    w2.kill();
    fs::rename(w2.dir.join("cluster"), w2.dir.join("cluster.old")).unwrap();
    let why = refused(w2, &[&w1.token(&[])]);
    assert!(why.contains("a worker w2 was revoked") && why.contains("--again"), "{why}");
    let said = w2.join(&w1.token(&["--worker", "w2", "--again"]));
    assert_eq!(said.code, Some(0), "{said:?}");
    w2.start();
    wait_for_roster(w2, 4);
    w1.moves("web", w2);
}

#[test]
fn a_worker_that_comes_back_after_its_disk_was_given_up_runs_nothing_and_changes_nothing() {
    let cluster = joined(&["w1", "w2"]);
    let (w1, w2) = cluster.pair();
    wait_for_roster(w2, 2);
    // Its machine has been handed over, and nothing of the disk has followed when it dies.
    let image = cluster.dir().join("image");
    image::dense(&image, SIZE_BYTES, 83);
    let source = Gated::serve(cluster.dir(), &image, SIZE_BYTES, SIZE_BYTES);
    let _: Volume = w2.ask(&["volume", "import", "db", "--from", &source.uri()]);
    let _: Machine = w2.ask(&["machine", "create", "db", "--volume", "data=db", "--", "sleep", "1000000"]);
    let job: Job = w2.ask(&["move", "db", "--to", "w1", "--mode", "cold", "--detach"]);
    until("it runs on w1", || {
        let here: Vec<Machine> = w1.ask(&["machine", "list"]);
        here.iter().any(|machine| matches!(machine.state, MachineState::Running { .. })).then_some(())
    });
    w2.kill();
    w2.processes().into_iter().for_each(|pid| w2.kill_process(pid));
    let lost: Losses = w1.ask(&["volume", "abandon-source", "data"]);
    let figure = lost.bytes.to_string();
    let _: Losses = w1.ask(&["volume", "abandon-source", "data", "--lose", &figure, "--force"]);
    let _: RevokeDone = w1.ask(&["cluster", "revoke", "w2", "--reason", "burnt"]);
    let (machine, volume) = (w1.machine("db"), w1.volume("data"));
    assert!(volume.hydration.is_some_and(|counted| counted.complete));

    source.open();
    w2.start();
    until("it is told", || {
        let said = |trouble: &String| trouble.contains("worker w2 was revoked (burnt)");
        Some(status(w2)).filter(|status| status.troubles.iter().any(said))
    });
    let there: Job = w2.ask(&["job", "show", &job.id.to_string()]);
    assert!(!there.state.is_final(), "nobody has told it that its disk has arrived: {there:?}");
    assert!(w2.refusal(&["machine", "start", "db"], 1).contains("handed over"), "it is not its own any more");
    let (now, disk) = (w1.machine("db"), w1.volume("data"));
    assert_eq!((now.state, now.generation), (machine.state, machine.generation));
    let given_up =
        |volume: &Volume| volume.hydration.map(|counted| (counted.complete, counted.bytes_abandoned));
    assert_eq!((disk.generation, given_up(&disk)), (volume.generation, given_up(&volume)));
    assert!(disk.source.is_none(), "{disk:?}");
}

#[test]
fn a_worker_that_was_revoked_reads_no_volume_any_more() {
    let cluster = joined(&["w1", "w2"]);
    let (w1, w2) = cluster.pair();
    wait_for_roster(w2, 2);
    let said = w1.ferry(&["machine", "create", "web", "--volume", "data=16MiB", "--", "sleep", "1000"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let volume = w1.volume("data");
    let dir = w1.volume_dir(VolumeKey { id: volume.id, generation: volume.generation });
    let named = ["w1", "w2"].map(|worker| format!("spiffe://{}/worker/{worker}", status(w1).cluster));
    // As while a move to it is under way.
    let mut control = control::Client::connect(&dir).unwrap();
    let listen = control.export(SocketAddr::new(w1.address.ip(), 0)).unwrap();
    named.iter().for_each(|reader| control.admit(reader).unwrap());
    let export: SourceUri = format!("nbds://{listen}/{}@{}", volume.id, volume.generation).parse().unwrap();
    let read = |worker: &Worker| {
        let credentials = Credentials::load(&worker.dir.join("cluster/tls")).unwrap();
        client::reach(&export, Some(&credentials))
    };
    read(w2).unwrap();
    let _: RevokeDone = w1.ask(&["cluster", "revoke", "w2", "--reason", "lost"]);
    until("the volume's server is told", || {
        let readers = VolumeConfig::read(&dir).unwrap().readers;
        readers.filter(|readers| readers[..] == named[..1])
    });
    assert!(read(w2).is_err());
    read(w1).unwrap();
}

#[test]
fn a_certificate_is_renewed_in_time_and_also_when_it_has_expired_meanwhile() {
    let cluster = joined(&["w1", "w2"]);
    let (w1, w2) = cluster.pair();
    for age_ms in [6 * DAY_MS, 30 * DAY_MS] {
        w2.kill();
        certify(w1, w2, now_ms() - age_ms);
        w2.start();
        until("it is renewed", || {
            Some(status(w2)).filter(|now| now.certificate_until_ms > now_ms() + 6 * DAY_MS)
        });
        until("nothing is wrong", || Some(status(w2)).filter(|now| now.troubles.is_empty()));
    }
    // The keeper's own, by itself.
    w1.kill();
    certify(w1, w1, now_ms() - 6 * DAY_MS);
    w1.start();
    until("it is renewed", || {
        Some(status(w1)).filter(|now| now.certificate_until_ms > now_ms() + 6 * DAY_MS)
    });
}

#[test]
fn a_clock_that_is_days_off_is_told_as_that() {
    let cluster = founded(&["w1", "w2"]);
    let (w1, w2) = cluster.pair();
    let token = w1.token(&[]);
    // As it looks to a host whose clock is four days behind the keeper's.
    w1.kill();
    certify(w1, w1, now_ms() + 4 * DAY_MS);
    w1.start();
    let why = refused(w2, &[&token]);
    assert!(why.contains("good only in") && why.contains("set the clocks of both hosts"), "{why}");
}

#[test]
fn api_tokens_open_what_their_role_says_on_every_worker_until_they_are_revoked() {
    let cluster = joined(&["w1", "w2"]);
    let (w1, w2) = cluster.pair();
    let version = wait_for_roster(w2, 2).roster_version;
    let make = |name: &str, role: &str| -> String {
        let made: ApiTokenMade = w1.ask(&["cluster", "api-token", "--name", name, "--role", role]);
        made.token
    };
    let (view, admin) = (make("grafana", "view"), make("root", "admin"));
    for worker in [w1, w2] {
        for ca in [true, false] {
            let said = over_tls(worker, Some(&view), ca, &["machine", "list"]);
            assert_eq!(said.code, Some(0), "the token alone says whom it may be shown to: {said:?}");
        }
        let said = over_tls(worker, Some(&view), true, &["machine", "create", "web", "--", "sleep", "1000"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.sentence().contains("ask with a token of the role admin"), "{said:?}");
    }
    let said = over_tls(w2, Some(&admin), false, &["cluster", "token"]);
    assert!(said.sentence().contains("does not have the cluster's key; ask w1"), "{said:?}");
    let said = over_tls(w1, Some(&admin), false, &["cluster", "revoke", "--api-token", "grafana"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    wait_for_roster(w2, version + 1);
    for worker in [w1, w2] {
        let said = over_tls(worker, Some(&view), true, &["machine", "list"]);
        assert!(said.sentence().contains("the API token grafana was revoked"), "{said:?}");
    }
}

#[test]
fn a_worker_without_a_cluster_says_how_to_come_into_one() {
    let cluster = Cluster::of(&[("w1", "")]);
    let why = cluster.workers[0].refusal(&["cluster", "status"], 1);
    assert!(why.contains("ferry cluster init") && why.contains("ferry agent join"), "{why}");
}
