//! VMs: a guest with a kernel of its own writes records to a file system on its volume, says which are durable, and moves.
//! `cargo xtask lab vm` makes the guest; what it does is in `xtask/src/lab/vm.sh`.
#![allow(clippy::unwrap_used, reason = "a test ends at whatever it did not expect")]

#[path = "../../../ferry-volume/tests/support/authority.rs"]
mod authority;
#[path = "../../../../xtask/src/soak/dice.rs"]
mod dice;
mod frozen;
mod kills;
mod live;
#[path = "../support/mod.rs"]
mod support;

use ferry_api::{AskedBy, Health, HookName, HookRun, Job, Machine, MachineState, ServerState, WorkerInfo};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::cluster::{Cluster, Worker};
use support::peers::path_text;
use support::{
    DEBUGFS, E2FSCK, IP, MKE2FS, Over, QEMU, needs, skip, skip_where_impossible, succeed, test_name, until,
};

/// How often the VM moves: once in each mode, unless a soak asks for more.
const MOVES: usize = 3;
const MOVES_VARIABLE: &str = "FERRY_SOAK_MOVES";
/// Pause between two questions to the service of the VM.
const ASKED_AGAIN: Duration = Duration::from_millis(50);
/// How long a VM may take to answer again: without KVM a boot is slow.
const ANSWERED_MAX: Duration = Duration::from_secs(180);
/// Records that are kept between two disturbances.
const RECORDS: usize = 5;
/// What makes the guest's agent of use: hooks that tell on the console, and one that freezes. A boot is slow without KVM.
const HOOKS: &str = r#"guest_agent = true
[hooks.before_move]
command = ["sh", "-c", "echo VM told $FERRY_HOOK to $FERRY_MOVE_TO >/dev/console"]
timeout = "10m"
[hooks.quiesce]
freeze = true
timeout = "10m"
[hooks.after_move]
command = ["sh", "-c", "echo VM told $FERRY_HOOK to $FERRY_MOVE_TO >/dev/console"]
timeout = "10m"
"#;
const APPEND: &str =
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr cryptomgr.notests no_timer_check lpj=4000000";

/// The kernel and the initial RAM disk, if they have been made.
fn guest() -> Option<(PathBuf, PathBuf)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/lab/vm");
    let (kernel, initrd) = (dir.join("kernel"), dir.join("initrd"));
    (kernel.is_file() && initrd.is_file()).then_some((kernel, initrd))
}

/// Creates the VM `vm`, which boots `kernel`.
fn create(worker: &Worker, dir: &Path, images: (&Path, &Path), more: &str) -> Machine {
    create_with(worker, dir, images, "", more)
}

/// The same with further lines of its file outside of `[qemu]`.
fn create_with(
    worker: &Worker,
    dir: &Path,
    (kernel, initrd): (&Path, &Path),
    outside: &str,
    more: &str,
) -> Machine {
    let file = dir.join("vm.toml");
    let spec = format!(
        "name = \"vm\"\ndriver = \"qemu\"\nstop_grace = \"10m\"\n{outside}[qemu]\nkernel = {kernel:?}\ninitrd = {initrd:?}\nappend = {APPEND:?}\n\
         memory = \"192MiB\"\n{more}\n[volumes.data]\nsize = \"48MiB\"\n"
    );
    std::fs::write(&file, spec).unwrap();
    worker.ask(&["machine", "create", "--file", path_text(&file)])
}

/// The records that the guest said to be kept, on this worker, also before it moved away.
fn kept(worker: &Worker) -> BTreeSet<u64> {
    let said = worker.machines_said();
    said.lines().filter_map(|line| line.trim_end().strip_prefix("VM kept ")?.parse().ok()).collect()
}

/// Waits until the guest has kept more than it has by now.
fn wait_for_more(worker: &Worker) {
    let before = kept(worker).len();
    until("the guest keeps more records", || (kept(worker).len() >= before + RECORDS).then_some(()));
}

fn pid(machine: &Machine) -> u32 {
    let MachineState::Running { pid, .. } = machine.state else { panic!("{machine:?}") };
    pid
}

fn moves() -> usize {
    std::env::var(MOVES_VARIABLE).map_or(MOVES, |typed| typed.parse().unwrap())
}

/// The file system is whole, and each record on it; answers them.
fn records(worker: &Worker) -> BTreeSet<u64> {
    let device = worker.ferry(&["volume", "attach", "data"]).stdout.trim().to_owned();
    succeed("e2fsck", &["-fn", &device]);
    let found = succeed("debugfs", &["-R", "cat /records", &device]);
    assert_eq!(worker.ferry(&["volume", "detach", "data"]).code, Some(0));
    found.lines().map(|line| line.parse().unwrap()).collect()
}

/// Which boot of the VM answers at its service, by way of a worker; nothing if the connection ends before that.
fn asked(worker: &Worker, port: u16) -> io::Result<Option<String>> {
    let mut stream = TcpStream::connect((worker.address.ip(), port))?;
    stream.write_all(b"GET /boot HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let boot = answer.split_once("\r\n\r\n").map(|(_, boot)| boot.to_owned());
    Ok(boot.filter(|boot| !boot.is_empty()))
}

/// The same by way of each worker.
fn served(cluster: &Cluster, port: u16) -> String {
    let ask = |worker| until("the service of the VM answers", || asked(worker, port).ok().flatten());
    let (w1, w2) = cluster.pair();
    let [by_one, by_other] = [w1, w2].map(ask);
    assert_eq!(by_one, by_other);
    by_one
}

/// Does something while somebody asks the service of the VM by way of one worker and the other, who is never refused. Tells also for how long
/// nobody was answered at the longest, up to the first answer behind it.
fn while_asked<T>(cluster: &Cluster, port: u16, act: impl FnOnce() -> T) -> (T, Duration) {
    let is_over = AtomicBool::new(false);
    let ask = || {
        let (mut longest, mut since) = (Duration::ZERO, Instant::now());
        for worker in cluster.workers.iter().cycle() {
            match asked(worker, port) {
                Ok(Some(_)) => {
                    longest = longest.max(since.elapsed());
                    since = Instant::now();
                    if is_over.load(Ordering::SeqCst) {
                        break;
                    }
                }
                Ok(None) => {}
                Err(error) => assert_ne!(error.kind(), io::ErrorKind::ConnectionRefused, "{}", worker.name),
            }
            assert!(since.elapsed() < ANSWERED_MAX, "nobody has been answered for {ANSWERED_MAX:?}");
            // The guest has other things to do, too.
            std::thread::sleep(ASKED_AGAIN);
        }
        longest
    };
    std::thread::scope(|scope| {
        let asking = scope.spawn(ask);
        // Also when an assertion ends the test: a scope waits for all that runs in it.
        let over = Over(&is_over);
        let done = act();
        drop(over);
        (done, asking.join().unwrap())
    })
}

/// What is said in a VM's file so that it has a network, a service at a port, and is asked how it is.
fn network(port: u16) -> String {
    format!(
        "network = \"own\"\nservices = [{{ port = 80, listen = {port} }}]\n\
         [health]\nhttp = \"http://localhost/boot\"\ninterval = \"200ms\"\n"
    )
}

/// Waits until a VM is well, asked at its address.
fn is_well(worker: &Worker) {
    let health = || worker.machine("vm").health.filter(|health| matches!(health, Health::Healthy { .. }));
    until("it is well, asked at its address", health);
}

/// What the agent inside a VM answers, while no agent of the worker asks it anything.
fn ask_inside(worker: &Worker, machine: &Machine, command: &str) -> Value {
    let socket = worker.dir.join("machines").join(machine.id.to_string()).join("guest-agent.sock");
    let mut guest = BufReader::new(UnixStream::connect(socket).unwrap());
    writeln!(guest.get_mut(), "{{\"execute\": \"{command}\"}}").unwrap();
    let mut answer = String::new();
    guest.read_line(&mut answer).unwrap();
    serde_json::from_str::<Value>(&answer).unwrap()["return"].clone()
}

/// Whoever serves its disk, and whoever looks after it, may die: it is the same VM, and goes on.
fn goes_on_whoever_dies(worker: &Worker, machine: &Machine) {
    let ServerState::Running { pid: server } = worker.volume("data").server else { panic!("it is served") };
    worker.kill_process(server);
    wait_for_more(worker);
    worker.restart();
    assert_eq!(pid(&worker.machine("vm")), pid(machine), "the agent has lost its VM");
    wait_for_more(worker);
}

#[test]
fn a_vm_moves_cold_warm_and_live_told_of_it_inside_and_keeps_every_record_it_acknowledged() {
    needs!(QEMU, MKE2FS, E2FSCK, DEBUGFS, IP);
    support::devices::needs_loop_devices!();
    if !Path::new("/dev/net/tun").exists() {
        return skip_where_impossible(test_name!(), "/dev/net/tun");
    }
    let Some((kernel, initrd)) = guest() else {
        return skip(test_name!(), "target/lab/vm (cargo xtask lab vm)");
    };
    let cluster = Cluster::two();
    let port = 31_000 + u16::try_from(std::process::id() % 900).unwrap();
    let (mut here, mut there) = cluster.pair();
    let machine = create_with(here, cluster.dir(), (&kernel, &initrd), &network(port), HOOKS);
    wait_for_more(here);
    let first = served(&cluster, port);
    is_well(here);

    goes_on_whoever_dies(here, &machine);

    let (mut acknowledged, mut boots) = (BTreeSet::new(), vec![first]);
    for turn in 0..moves() {
        wait_for_more(here);
        let mode = ["cold", "warm", "live"][turn % 3];
        let words = ["move", "vm", "--to", &there.name, "--mode", mode];
        let (job, unanswered): (Job, _) = while_asked(&cluster, port, || here.ask(&words));
        println!(
            "{mode} move: nobody refused, and nobody answered for {} ms at the longest",
            unanswered.as_millis()
        );
        let receipt: Value = here.ask(&["job", "receipt", &job.id.to_string()]);
        let hooks: Vec<HookRun> = serde_json::from_value(receipt["hooks"].clone()).unwrap();
        let expected =
            [HookName::BeforeMove, HookName::Quiesce, HookName::AfterMove].map(|name| (name, None));
        let told = |worker: &Worker, hook: &str| {
            let told = format!("VM told {hook} to {}", there.name);
            until(&told, || worker.machines_said().contains(&told).then_some(()));
        };
        told(here, "before_move");
        told(there, "after_move");
        assert_eq!(hooks.into_iter().map(|run| (run.hook, run.failure)).collect::<Vec<_>>(), expected);
        if mode != "live" {
            assert!(receipt.to_string().contains(r#""by":"guest_agent""#), "{receipt}");
        }
        acknowledged.extend(kept(here));
        std::mem::swap(&mut here, &mut there);
        // What was frozen for the move goes on, and its address has followed.
        wait_for_more(here);
        boots.push(served(&cluster, port));
        is_well(here);
    }
    // The same boot serves after a live move, and another one after any other.
    for (turn, pair) in boots.windows(2).enumerate() {
        assert_eq!(pair[0] == pair[1], turn % 3 == 2, "move {turn}: {boots:?}");
    }
    let stopped: Machine = here.ask(&["machine", "stop", "vm"]);
    let ended = stopped.last_exit.map(|exit| (exit.code, exit.asked));
    assert_eq!(ended, Some((Some(0), Some(AskedBy::GuestAgent))), "it was not shut down: {stopped:?}");
    assert!(here.machines_said().contains("VM shut down by"));
    let route =
        || succeed(IP.program, &["-6", "route", "show", &format!("{}/128", machine.address.unwrap())]);
    until("its interface is gone", || route().is_empty().then_some(()));
    acknowledged.extend(kept(here));
    let there = records(here);
    assert_eq!(acknowledged.difference(&there).collect::<Vec<_>>(), Vec::<&u64>::new());
    assert_eq!(there.len() as u64, *there.last().unwrap(), "a record is missing in between");
}

#[test]
fn a_vm_with_nbd_disks_has_a_console_and_loses_nothing_when_its_server_dies_and_when_a_move_is_refused() {
    needs!(QEMU, MKE2FS, E2FSCK, DEBUGFS);
    support::devices::needs_loop_devices!();
    let Some((made, initrd)) = guest() else {
        return skip(test_name!(), "target/lab/vm (cargo xtask lab vm)");
    };
    let cluster = Cluster::two();
    let (w1, _) = cluster.pair();
    let kernel = cluster.dir().join("kernel");
    std::fs::copy(made, &kernel).unwrap();
    let machine = create(w1, cluster.dir(), (&kernel, &initrd), "disk = \"nbd\"\naccel = \"tcg\"");
    wait_for_more(w1);
    let ServerState::Running { pid: server } = w1.volume("data").server else { panic!("it is served") };
    w1.kill_process(server);
    wait_for_more(w1);

    let mut console = Command::new(env!("CARGO_BIN_EXE_ferry"))
        .args(["machine", "console", "vm"])
        .env("FERRY_AGENT", w1.url())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(console.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("VM kept ")), "the console is silent");
    console.stdin.as_mut().unwrap().write_all(b"\x1d").unwrap();
    assert_eq!(console.wait().unwrap().code(), Some(0));

    // A worker on which it could not boot refuses it before it stops here.
    std::fs::remove_file(&kernel).unwrap();
    let said = w1.ferry(&["move", "vm", "--to", "w2"]);
    let missing = format!("{} is no file of this worker; put it there or choose another", kernel.display());
    assert!(said.code == Some(4) && said.stderr.contains(&missing), "{said:?}");
    assert_eq!(pid(&w1.machine("vm")), pid(&machine));
    wait_for_more(w1);
    let stopped: Machine = w1.ask(&["machine", "stop", "vm"]);
    assert_eq!(stopped.last_exit.map(|exit| exit.code), Some(Some(0)), "it was not shut down: {stopped:?}");
    let found = records(w1);
    assert_eq!(kept(w1).difference(&found).collect::<Vec<_>>(), Vec::<&u64>::new());
    assert_eq!(w1.ferry(&["machine", "destroy", "vm"]).code, Some(0));
    assert_eq!(w1.processes(), BTreeSet::new());
}

#[test]
fn a_vm_that_cannot_run_here_is_refused_in_a_sentence() {
    needs!(QEMU);
    let cluster = Cluster::two();
    let (w1, _) = cluster.pair();
    let file = cluster.dir().join("vm.toml");
    let refused = |lines: &str| {
        std::fs::write(&file, format!("name = \"vm\"\ndriver = \"qemu\"\n{lines}")).unwrap();
        w1.refusal(&["machine", "create", "--file", path_text(&file)], 1)
    };
    let said = refused("[qemu]\nkernel = \"/no/such/kernel\"\n");
    assert_eq!(said, "/no/such/kernel is no file of this worker; put it there or choose another");
    let network = "network = \"own\"\n";
    for (asked, why) in [
        ("[health]\ntcp = 80\n".to_owned(), "reaches a VM at its own address, and this one has none; "),
        (
            format!("{network}[health]\nhttp = \"http://10.1.2.3/\"\n"),
            "http://10.1.2.3/ is not of the VM itself; ",
        ),
        (format!("{network}[health]\ncommand = [\"true\"]\n"), "are run by the QEMU guest agent inside it; "),
    ] {
        let said = refused(&asked);
        assert!(said.contains(why), "{said}");
    }
    if !Path::new("/dev/kvm").exists() {
        let said = refused("[qemu]\naccel = \"kvm\"\n");
        assert!(said.starts_with("KVM is of no use on this worker: there is no /dev/kvm; "), "{said}");
    }
    let info: WorkerInfo = w1.ask(&["worker", "show"]);
    let qemu = info.drivers.iter().find(|driver| driver.name == "qemu").unwrap();
    assert!(qemu.error.is_none() && qemu.found.as_ref().unwrap().contains("qemu-system-x86_64"), "{qemu:?}");
}
