//! Whether machines are well, asked where they are.

use super::support::cluster::{Cluster, Worker};
use super::support::devices::needs_loop_devices;
use super::support::peers::path_text;
use super::support::{MKE2FS, needs, until};
use super::{create, wait_until_said};
use ferry_api::{Health, Job, Machine, MachineState};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

fn wait_for_health(worker: &Worker, what: &str, is_it: impl Fn(&Health) -> bool) -> Health {
    until(what, || worker.machine("web").health.filter(&is_it))
}

#[test]
fn a_machine_that_is_not_well_says_why_and_is_left_alone() {
    let cluster = Cluster::two();
    let (w1, _) = cluster.pair();
    let well = cluster.dir().join("well");
    std::fs::write(&well, "").unwrap();
    let file = cluster.dir().join("web.toml");
    let spec = format!(
        "name = \"web\"\ncommand = [\"sleep\", \"1000\"]\n[env]\nWELL = {well:?}\n[health]\n\
         command = [\"sh\", \"-c\", \"[ -e $WELL ] || {{ echo $FERRY_MACHINE_NAME is ill; exit 3; }}\"]\n\
         interval = \"20ms\"\nfailures = 2\n"
    );
    std::fs::write(&file, spec).unwrap();
    let made: Machine = w1.ask(&["machine", "create", "--file", path_text(&file)]);
    wait_for_health(w1, "it is well", |health| matches!(health, Health::Healthy { .. }));
    assert!(w1.ferry(&["machine", "list"]).stdout.contains(", healthy"));

    std::fs::remove_file(&well).unwrap();
    let ill = |health: &Health| matches!(health, Health::Unhealthy { why, .. } if why.ends_with("code 3: web is ill"));
    wait_for_health(w1, "it is ill", ill);
    w1.restart();
    wait_for_health(w1, "the next agent finds that, too", ill);
    let shown = w1.ferry(&["machine", "show", "web"]).stdout;
    assert!(shown.contains("unhealthy since") && shown.contains("web is ill"), "{shown}");
    let now = w1.machine("web");
    assert_eq!(super::pid(&now), super::pid(&made), "it was ended for it");
    std::fs::write(&well, "").unwrap();
    wait_for_health(w1, "it is well again", |health| matches!(health, Health::Healthy { .. }));
    let stopped: Machine = w1.ask(&["machine", "stop", "web"]);
    assert_eq!((stopped.state, stopped.health), (MachineState::Stopped, None));
}

#[test]
fn a_machine_that_is_unwell_where_it_was_moved_to_is_taken_back_with_what_it_wrote_and_the_receipt_says_so() {
    needs!(MKE2FS);
    needs_loop_devices!();
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let ill = cluster.dir().join("ill");
    std::fs::write(&ill, "").unwrap();
    // It knows by its own directory where it is; on its disk it notes each place.
    let check = format!(
        "case $PWD in */w2/*) [ ! -e {} ] || {{ echo it feels ill; exit 3; }};; esac",
        path_text(&ill)
    );
    let place = cluster.dir().join("data");
    let script = "case $PWD in */w2/*) echo w2;; *) echo w1;; esac >> $PLACE/places; sync; echo up $(cat $PLACE/places); \
                  trap 'exit 0' TERM; while :; do sleep 0.02; done";
    // So often that it certainly could be looked into.
    let more = format!(
        "[env]\nPLACE = {place:?}\n[health]\ncommand = [\"sh\", \"-c\", {check:?}]\ninterval = \"20ms\"\nfailures = 50\n"
    );
    let machine = create(w1, cluster.dir(), script, &more);
    wait_until_said(&machine, "up w1\n");

    let moved = w1.ferry(&["move", "web", "--to", "w2", "--undo-unhealthy"]);
    assert_eq!(moved.code, Some(4), "{moved:?}");
    assert!(
        moved.stderr.contains("found there not well: ") && moved.stderr.contains("it feels ill"),
        "{moved:?}"
    );
    wait_until_said(&w1.machine("web"), "up w1 w2 w1\n");
    let jobs: Vec<Job> = w1.ask(&["job", "list"]);
    let receipt = w1.ferry(&["job", "receipt", &jobs[0].id.to_string()]).stdout;
    assert!(receipt.contains("not well: ") && receipt.contains("taken back by job"), "{receipt}");

    // The target's agent dies meanwhile: the next one takes it back.
    let detached = ["move", "web", "--to", "w2", "--undo-unhealthy", "--detach"];
    assert_eq!(w1.ferry(&detached).code, Some(0));
    until("it runs on w2", || {
        let here: Vec<Machine> = w2.ask(&["machine", "list"]);
        here.iter().any(|machine| matches!(machine.state, MachineState::Running { .. })).then_some(())
    });
    w2.restart();
    until("it is back", || said_of(w1).contains("up w1 w2 w1 w2 w1\n").then_some(()));

    // What is well stays.
    std::fs::remove_file(&ill).unwrap();
    let moved = w1.ferry(&["move", "web", "--to", "w2", "--undo-unhealthy"]);
    assert_eq!(moved.code, Some(0), "{moved:?}");
    wait_until_said(&w2.machine("web"), "up w1 w2 w1 w2 w1 w2\n");
    let jobs: Vec<Job> = w1.ask(&["job", "list"]);
    let receipt = w1.ferry(&["job", "receipt", &jobs[0].id.to_string()]).stdout;
    assert!(receipt.lines().any(|line| line.contains("found there") && line.contains("well")), "{receipt}");
    let _: Machine = w2.ask(&["machine", "stop", "web"]);
}

fn said_of(worker: &Worker) -> String {
    std::fs::read_to_string(&worker.machine("web").log).unwrap_or_default()
}

#[test]
fn a_machine_is_asked_inside_its_namespaces_as_its_user_and_a_hanging_check_does_not_hold_its_volume() {
    needs!(MKE2FS);
    needs_loop_devices!();
    let cluster = Cluster::two();
    let (w1, _) = cluster.pair();
    let place = cluster.dir().join("data");
    let check =
        "echo $(id -u) $(hostname) $(ls $PLACE/note) $$ >&2; [ ! -e $PLACE/hang ] || sleep 1000; exit 1";
    let more = format!(
        "user = \"4711\"\n[env]\nPLACE = {place:?}\n[health]\ncommand = [\"sh\", \"-c\", {check:?}]\ninterval = \"20ms\"\n\
         failures = 1\ntimeout = \"10m\"\n"
    );
    let script = "touch $PLACE/note; echo up; trap 'touch $PLACE/hang' USR1; while :; do sleep 0.02; done";
    let machine = create(w1, cluster.dir(), script, &more);
    wait_until_said(&machine, "up\n");
    let note = place.join("note");
    let inside = format!(": 4711 web {} ", path_text(&note));
    let told = wait_for_health(
        w1,
        "it tells what it sees",
        |health| matches!(health, Health::Unhealthy { why, .. } if why.contains(&inside)),
    );
    let Health::Unhealthy { why, .. } = told else { unreachable!() };
    let number: u32 = why.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(number < 10_000, "it has the number of a process of the worker: {why}");
    // The keeper passes it on.
    w1.signal_process(super::pid(&w1.machine("web")), rustix::process::Signal::USR1);
    until("the check hangs", || {
        let sleeps = |pid: &u32| {
            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x001000\0")
        };
        w1.processes().iter().any(sleeps).then_some(())
    });
    let begun = std::time::Instant::now();
    let _: Machine = w1.ask(&["machine", "stop", "web"]);
    // Far less than its own timeout, whatever this machine is busy with.
    assert!(begun.elapsed().as_secs() < 100, "a check held its volume");
    assert_eq!(super::loop_devices_below(cluster.dir()), Vec::<std::path::PathBuf>::new());
}

/// What one try says.
fn tried(probe: &str) -> Result<(), String> {
    let words = format!("{{\"inside\": null, \"probe\": {probe}, \"timeout_ms\": 60000}}");
    let output = Command::new(env!("CARGO_BIN_EXE_ferry")).args(["machine-probe", &words]).output().unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

#[test]
fn a_port_and_a_server_are_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_eq!(tried(&format!("{{\"tcp\": {port}}}")), Ok(()));
    let server = std::thread::spawn(move || {
        // The first connection is that of the try before.
        let answers = ["", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 503 Busy\r\n\r\n"];
        for (answer, connection) in answers.into_iter().zip(listener.incoming()) {
            let mut connection = connection.unwrap();
            let mut request = [0; 1024];
            let count = connection.read(&mut request).unwrap();
            assert!(count == 0 || request.starts_with(b"GET /well?x=1 HTTP/1.1\r\nHost: 127.0.0.1:"));
            connection.write_all(answer.as_bytes()).unwrap();
        }
    });
    let url = format!("{{\"http\": \"http://127.0.0.1:{port}/well?x=1\"}}");
    assert_eq!(tried(&url), Ok(()));
    assert!(tried(&url).unwrap_err().contains("it answers with status 503"));
    server.join().unwrap();
    let closed = tried(&format!("{{\"tcp\": {port}}}")).unwrap_err();
    assert!(closed.contains(&format!("a connection to port {port}: Connection refused")), "{closed}");
}
