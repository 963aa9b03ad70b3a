//! The directory of a cluster that has NATS servers already: workers tell of themselves in a bucket there.
#![allow(clippy::unwrap_used, reason = "a test ends at whatever it did not expect")]

mod support;

use ferry_api::{ClusterStatus, DirectoryView, HearsBy, Machine};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use support::cluster::{Cluster, Worker};
use support::nats::Nats;
use support::{NATS, needs, until};

const BUCKET: &str = "fleet";
const USER: (&str, &str) = ("ferry", "a-password");
/// A user of workers, who may do only what docs/directory.md says that one needs.
const WORKER: (&str, &str) = ("worker", "another-password");
/// The public key and the seed of an NKey, which everybody knows from NATS's own manual.
const NKEY: (&str, &str) = (
    "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
    "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY",
);

/// The table of a configuration that names that server without TLS.
fn table(nats: &Nats) -> String {
    format!("[directory]\nnats = \"nats://{}\"\nbucket = \"{BUCKET}\"\n", nats.address)
}

/// Workers with such configurations that belong together, and run.
fn joined(workers: &[(&str, &str)]) -> Cluster {
    let cluster = Cluster::configured(workers);
    cluster.found_with_all();
    cluster
}

fn view(worker: &Worker) -> DirectoryView {
    worker.ask(&["directory"])
}

/// Which of all workers this one knows to be there, itself among them; none while it cannot know.
fn there(view: &DirectoryView) -> Option<Vec<&str>> {
    let there = view.workers.iter().map(|known| known.is_there.map(|there| (known.name.as_str(), there)));
    let there: Option<Vec<_>> = there.collect();
    Some(there?.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect())
}

/// Waits until a worker hears that all are there, and nothing is wrong.
fn wait_whole(worker: &Worker, all: &[&str]) -> DirectoryView {
    until(&format!("{} hears {all:?}", worker.name), || {
        Some(view(worker)).filter(|view| there(view).as_deref() == Some(all) && view.troubles.is_empty())
    })
}

fn create(worker: &Worker, name: &str) -> Machine {
    worker.ask(&["machine", "create", name, "--volume", "data=16MiB", "--", "sleep", "1000"])
}

/// Waits until a worker has heard from its owner where a machine is.
fn wait_owned(worker: &Worker, machine: &Machine, owner: &str) {
    until(&format!("{} knows that {} is on {owner}", worker.name, machine.name), || {
        let machines = view(worker).machines;
        let is_it = |known: &ferry_api::KnownMachine| {
            known.mapping.machine == machine.id && known.is_certain && known.mapping.owner.as_str() == owner
        };
        machines.iter().any(is_it).then_some(())
    });
}

fn write(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A server's configuration with certificates of a cluster, and users for whoever tests and for its workers.
fn guarded(tls: &Path, id: &str) -> String {
    let file = |name: &str| tls.join(name).display().to_string();
    let publish = [
        &format!("$KV.{BUCKET}.{id}.>"),
        &format!("$JS.API.STREAM.INFO.KV_{BUCKET}"),
        &format!("$JS.API.CONSUMER.*.KV_{BUCKET}"),
        &format!("$JS.API.CONSUMER.*.KV_{BUCKET}.>"),
        &format!("$JS.FC.KV_{BUCKET}.>"),
    ];
    format!(
        "allow_non_tls: true\ntls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}\n\
         authorization {{ users: [ {{ user: {:?}, password: {:?} }}, {{ user: {:?}, password: {:?}, permissions: {{ \
         publish: {publish:?}, subscribe: \"_INBOX.>\" }} }} ] }}",
        file("server-cert.pem"),
        file("server-key.pem"),
        file("ca-cert.pem"),
        USER.0,
        USER.1,
        WORKER.0,
        WORKER.1,
    )
}

#[test]
fn members_hear_of_each_other_over_tls_and_a_machine_s_owner_follows_its_move() {
    needs!(NATS);
    let dir = tempfile::tempdir().unwrap();
    let mut nats = Nats::configured(dir.path());
    let credentials = dir.path().join("nats.creds");
    write(&credentials, &format!("{}:{}\n", WORKER.0, WORKER.1), 0o600);
    let names = ["w1", "w2", "w3"];
    let lines = names.map(|name| {
        let tls = format!("{name}/cluster/tls");
        format!(
            "[directory]\nnats = \"tls://{}\"\nbucket = \"{BUCKET}\"\ncredentials = {credentials:?}\nca = \"{tls}/ca-cert.pem\"\n\
             certificate = \"{tls}/client-cert.pem\"\nkey = \"{tls}/client-key.pem\"\n",
            nats.address
        )
    });
    let cluster = Cluster::configured(&[("w1", &lines[0]), ("w2", &lines[1]), ("w3", &lines[2])]);
    cluster.found();
    let [w1, w2, w3] = &cluster.workers[..] else { panic!("three workers") };
    // The agent runs without the server, and says so.
    let alone =
        until("w1 says that there is no server", || Some(view(w1)).filter(|view| !view.troubles.is_empty()));
    assert!(alone.troubles[0].contains("cannot connect to tls://"), "{alone:?}");
    let status: ClusterStatus = w1.ask(&["cluster", "status"]);
    assert_eq!(status.troubles.len(), 1, "{status:?}");

    let id = status.cluster;
    nats.config = guarded(&w1.dir.join("cluster/tls"), &id);
    nats.start();
    let mut anybody = nats.session(Some(USER));
    anybody.make_bucket(BUCKET, 1);
    anybody.put(BUCKET, &format!("{id}.w2"), b"w2 has no machines");
    for worker in [w2, w3] {
        assert_eq!(worker.join(&w1.token(&[])).code, Some(0));
        worker.start();
    }
    for worker in [w1, w2, w3] {
        let view = wait_whole(worker, &names);
        assert_eq!(view.hears.by, HearsBy::Nats { bucket: BUCKET.to_owned() });
    }
    let machine = create(w1, "web");
    wait_owned(w3, &machine, "w1");
    w1.moves("web", w2);
    wait_owned(w3, &machine, "w2");

    // What anybody writes there is no worker's word, and counted.
    let before = view(w1);
    anybody.put(BUCKET, &format!("{id}.w3"), &[7; 200]);
    let after = until("the value is counted", || {
        Some(view(w1)).filter(|view| view.hears.ignored > before.hears.ignored)
    });
    assert_eq!(there(&after), Some(names.to_vec()));
    let shown = w1.ferry(&["directory"]).stdout;
    assert!(shown.contains("by the NATS bucket fleet, read") && shown.contains("are ignored"), "{shown}");
    let metrics = w1.ferry(&["worker", "metrics"]).stdout;
    assert!(metrics.contains("ferry_directory_connected 1"), "{metrics}");
}

#[test]
fn while_the_server_is_away_views_tell_their_age_and_are_whole_again_after() {
    needs!(NATS);
    let dir = tempfile::tempdir().unwrap();
    let mut nats = Nats::configured(dir.path());
    let users = format!("{{ nkey: {} }}, {{ user: {}, password: {:?} }}", NKEY.0, USER.0, USER.1);
    nats.config = format!("authorization {{ users: [ {users} ] }}");
    nats.start();
    nats.session(Some(USER)).make_bucket(BUCKET, 1);
    let seed = dir.path().join("nats.seed");
    write(&seed, &format!("{}\n", NKEY.1), 0o600);
    let lines = format!("{}credentials = {seed:?}\n", table(&nats));
    let cluster = joined(&[("w1", &lines), ("w2", &lines), ("w3", &lines)]);
    for worker in &cluster.workers {
        wait_whole(worker, &["w1", "w2", "w3"]);
    }
    let [w1, w2, w3] = &cluster.workers[..] else { panic!("three workers") };
    nats.kill();
    let away = until("w1 misses the server", || Some(view(w1)).filter(|view| !view.troubles.is_empty()));
    assert_eq!(there(&away), None, "who is there is not known: {away:?}");
    assert!(away.hears.heard_ms_ago.is_some(), "{away:?}");
    let older = until("it grows older", || {
        Some(view(w1)).filter(|view| view.hears.heard_ms_ago > away.hears.heard_ms_ago)
    });
    assert!(older.workers.iter().all(|known| known.is_fresh), "they are asked all the same: {older:?}");
    // What machines there are does not depend on it.
    let machine = create(w2, "web");
    w3.kill();
    nats.start();
    for worker in [w1, w2] {
        let whole = until("it is heard again", || Some(view(worker)).filter(|view| view.troubles.is_empty()));
        assert_eq!(there(&whole), Some(vec!["w1", "w2", "w3"]), "nobody was silent while nobody was read");
        wait_owned(worker, &machine, "w2");
    }
    w3.start();
    wait_whole(w3, &["w1", "w2", "w3"]);
    wait_owned(w3, &machine, "w2");
}

#[test]
fn a_bucket_that_is_not_there_or_not_fit_and_a_worker_that_gossips_are_told_with_what_to_do() {
    needs!(NATS);
    let dir = tempfile::tempdir().unwrap();
    let mut nats = Nats::configured(dir.path());
    nats.start();
    let lines = table(&nats);
    let cluster = joined(&[("w1", &lines), ("w2", "")]);
    let (w1, w2) = cluster.pair();
    let says = |worker: &Worker, words: &[&str]| {
        until(&format!("{} says {words:?}", worker.name), || {
            let troubles = view(worker).troubles;
            troubles.iter().any(|trouble| words.iter().all(|word| trouble.contains(word))).then_some(())
        });
    };
    says(w1, &["there is no bucket fleet", "nats kv add fleet --history 1"]);
    says(w1, &["worker w2 hears of the others by gossip, and w1 by the NATS bucket fleet"]);
    says(w2, &["worker w1 hears of the others by the NATS bucket fleet, and w2 by gossip"]);
    // They move machines to each other all the same.
    create(w1, "web");
    w1.moves("web", w2);
    nats.session(None).make_bucket(BUCKET, 5);
    says(w1, &["keeps 5 values of each key"]);
}

/// What the doctor says of the directory, as this worker's user: whether it is in order, what was seen, and what to do.
fn doctor_says(worker: &Worker) -> (bool, String, Option<String>) {
    let said = worker.ferry(&["doctor", "--json", "--config", worker.config().to_str().unwrap()]);
    assert_eq!(said.code, Some(0), "volumes can be served all the same: {said:?}");
    let report: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let found = report["findings"].as_array().unwrap().iter().find(|found| found["what"] == "directory");
    let found = found.unwrap_or_else(|| panic!("{said:?}"));
    let advice = found["advice"].as_str().map(str::to_owned);
    (found["state"] == "works", found["seen"].as_str().unwrap().to_owned(), advice)
}

#[test]
fn the_doctor_tries_the_bucket_says_what_is_in_the_way_and_leaves_nothing_there() {
    needs!(NATS);
    let dir = tempfile::tempdir().unwrap();
    let mut nats = Nats::configured(dir.path());
    let credentials = dir.path().join("nats.creds");
    let tls = "w1/cluster/tls";
    let lines = format!(
        "[directory]\nnats = \"tls://{}\"\nbucket = \"{BUCKET}\"\ncredentials = {credentials:?}\nca = \"{tls}/ca-cert.pem\"\n\
         certificate = \"{tls}/client-cert.pem\"\nkey = \"{tls}/client-key.pem\"\n",
        nats.address
    );
    let cluster = Cluster::configured(&[("w1", &lines)]);
    let w1 = &cluster.workers[0];
    let says = |what: &str, todo: &str| {
        let (works, seen, advice) = doctor_says(w1);
        assert!(!works && seen.contains(what), "{seen} {advice:?}");
        assert!(advice.as_ref().is_some_and(|advice| advice.contains(todo)), "{seen} {advice:?}");
    };
    says("there is no file", "put this worker's credentials there");
    write(&credentials, "worker:wrong\n", 0o600);
    says("cannot read", "correct [directory]");
    let said = w1.ferry(&["cluster", "init", "--config", w1.config().to_str().unwrap(), "--json"]);
    let made: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    says("cannot connect to tls://", "look whether NATS runs there");

    nats.config = guarded(&w1.dir.join("cluster/tls"), made["cluster"].as_str().unwrap());
    nats.start();
    says("credentials are not taken", "`credentials`");
    write(&credentials, &format!("{}:{}\n", WORKER.0, WORKER.1), 0o600);
    says("there is no bucket fleet", "nats kv add fleet");
    let mut anybody = nats.session(Some(USER));
    anybody.make_bucket(BUCKET, 1);
    let fine = (true, "the bucket fleet can be read and written".to_owned(), None);
    assert_eq!(doctor_says(w1), fine);
    assert_eq!(anybody.holds(BUCKET), (0, 0));

    // Users of another cluster of the same bucket.
    nats.kill();
    nats.config = guarded(&w1.dir.join("cluster/tls"), "another");
    nats.start();
    says("Permissions Violation for Publish", "this worker's user may do that");
    // Another authority's servers, and an account without JetStream.
    let other = rcgen::generate_simple_self_signed(vec![nats.address.ip().to_string()]).unwrap();
    let [cert, key] = ["other-cert.pem", "other-key.pem"].map(|name| dir.path().join(name));
    write(&cert, &other.cert.pem(), 0o600);
    write(&key, &other.signing_key.serialize_pem(), 0o600);
    let users = format!("{{ user: {:?}, password: {:?} }}", WORKER.0, WORKER.1);
    nats.kill();
    nats.config = format!("tls {{ cert_file: {cert:?}, key_file: {key:?} }}");
    nats.start();
    says("over TLS: ", "`ca`");
    nats.kill();
    let tls = guarded(&w1.dir.join("cluster/tls"), "any");
    let tls = tls.split("authorization").next().unwrap();
    nats.config = format!("{tls} accounts {{ plain {{ users: [ {users} ] }} }}");
    nats.start();
    says("JetStream is off", "turn it on");
}
