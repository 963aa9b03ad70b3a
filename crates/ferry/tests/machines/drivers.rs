//! What every driver keeps to, asked of each in the same way. A driver passes by one line at the end of this file.

use super::support::cluster::Cluster;
use super::support::devices::needs_loop_devices;
use super::support::peers::path_text;
use super::support::{MKE2FS, QEMU, RUNC, needs, oci, skip_where_impossible, succeed, until};
use ferry_agent::drivers::{
    Channel, Disk, Driver, Gates, HeldMachine, Launch, MicroVmDriver, OciDriver, ProcessDriver, QemuDriver,
    Vmm, Watch,
};
use ferry_api::{
    Accel, Driver as Kind, HealthCheck, Isolation, Limit, Limits, Machine, MachineId, MachineSpec,
    MachineState, MicroVmSpec, OciSource, OciSpec, Probe, QemuSpec, VolumeId,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// Longer than any of these tests.
const LONG: Duration = Duration::from_secs(600);
const TERM: i32 = 15;
/// What a machine of these tests may have, where it is limited.
const MEMORY_BYTES: u64 = 48 << 20;
const PIDS: u32 = 12;
/// How a VM's kernel is told to run busybox first ...
const VM_APPEND: &str =
    "console=ttyS0 quiet panic=-1 nokaslr cryptomgr.notests lpj=4000000 rdinit=/bin/busybox";
/// ... and what that does: the script that is its argument, told of the power button.
const VM_FIRST: &str = "PATH=/bin; busybox mkdir -p /dev; busybox mount -t devtmpfs dev /dev; /bin/busybox --install -s /bin; \
                        insmod /evdev.ko; insmod /button.ko; (eval $0) & it=$!; \
                        for keys in /dev/input/event*; do (head -c 24 $keys >/dev/null; kill -TERM $it) & done; \
                        wait $it; poweroff -f";

type Make = Box<dyn Fn(&Path) -> Arc<dyn Driver>>;
type Runs = Box<dyn Fn(&Path, &[&str]) -> MachineSpec>;

/// A driver, and how a machine of it is told to run a script, or a program that is not there.
pub(super) struct Subject {
    pub(super) dir: TempDir,
    make: Make,
    runs: Runs,
    refused: Box<dyn Fn(&Path) -> MachineSpec>,
}

impl Subject {
    /// As an agent that was just started has it.
    fn driver(&self) -> Arc<dyn Driver> {
        (self.make)(self.dir.path())
    }

    fn launch_of(&self, spec: MachineSpec) -> Launch {
        let id = MachineId::fresh();
        let dir = self.dir.path().join("machines").join(id.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        let env = BTreeMap::from([("FERRY_MACHINE_ID".to_owned(), id.to_string())]);
        let log = dir.join("machine.log");
        Launch {
            machine: id,
            name: "web".parse().unwrap(),
            spec,
            log,
            dir,
            env,
            mounts: Vec::new(),
            disks: Vec::new(),
        }
    }

    pub(super) fn launch(&self, script: &str) -> Launch {
        self.launch_of((self.runs)(self.dir.path(), &["sh", "-c", script]))
    }
}

fn log_of(launch: &Launch) -> String {
    // A serial console ends its lines in the old way.
    std::fs::read_to_string(&launch.log).unwrap_or_default().replace('\r', "")
}

async fn hold(subject: &Subject, launch: &Launch) -> Box<dyn HeldMachine> {
    let driver = subject.driver();
    driver.check(&launch.spec).await.unwrap();
    driver.start(launch).await.unwrap()
}

pub(super) async fn run(subject: &Subject, launch: &Launch) -> Watch {
    hold(subject, launch).await.release().unwrap()
}

pub(super) fn wait_until_logged(launch: &Launch, what: &str) {
    until(&format!("the log says {what}"), || log_of(launch).contains(what).then_some(()));
}

async fn what_a_machine_says_is_in_its_log_and_its_code_is_told(subject: Subject) {
    let launch = subject.launch("echo out; echo $FERRY_MACHINE_ID >&2; exit 7");
    let ended = run(&subject, &launch).await.ended().await;
    assert_eq!((ended.code, ended.signal), (Some(7), None), "{}", log_of(&launch));
    let id = &launch.env["FERRY_MACHINE_ID"];
    assert!(log_of(&launch).contains("out\n") && log_of(&launch).contains(id), "{}", log_of(&launch));
}

async fn a_machine_whose_mark_is_not_kept_never_runs(subject: Subject) {
    let launch = subject.launch("echo ran");
    let held = hold(&subject, &launch).await;
    let mark = held.mark().clone();
    assert!(subject.driver().find(&launch.dir, &mark).unwrap().is_some(), "it is held, and not found");
    held.abandon().await;
    assert!(subject.driver().find(&launch.dir, &mark).unwrap().is_none());
    assert_eq!(log_of(&launch), "");
}

async fn the_next_agent_finds_a_machine_and_stops_it_in_its_grace_time(subject: Subject) {
    let launch = subject.launch("trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.02; done");
    let held = hold(&subject, &launch).await;
    let mark = held.mark().clone();
    drop(held.release().unwrap());
    wait_until_logged(&launch, "up\n");
    let found = subject.driver().find(&launch.dir, &mark).unwrap().expect("it runs");
    assert_eq!(found.pid(), mark.pid);
    found.stop(TERM, LONG).await;
    assert!(log_of(&launch).contains("bye\n"), "{}", log_of(&launch));
    assert!(subject.driver().find(&launch.dir, &mark).unwrap().is_none());
}

async fn a_machine_that_ignores_its_signal_is_killed_with_what_it_started(subject: Subject) {
    let launch = subject.launch("trap '' TERM; sleep 1000 & echo up; while :; do sleep 0.02; done");
    let watch = run(&subject, &launch).await;
    wait_until_logged(&launch, "up\n");
    assert!(!processes_of(&launch).is_empty());
    let ended = watch.stop(TERM, Duration::ZERO).await;
    assert_eq!((ended.code, ended.signal), (None, Some(9)));
    until("nothing of it runs", || processes_of(&launch).is_empty().then_some(()));
    // And it can be started again.
    let again = Launch { spec: (subject.runs)(subject.dir.path(), &["sh", "-c", "echo again"]), ..launch };
    let _ = run(&subject, &again).await.ended().await;
    assert!(log_of(&again).contains("again\n"), "{}", log_of(&again));
}

/// The processes that have the machine's id in their environment.
fn processes_of(launch: &Launch) -> Vec<PathBuf> {
    let mark = format!("FERRY_MACHINE_ID={}", launch.env["FERRY_MACHINE_ID"]);
    let is_marked = |path: &PathBuf| {
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path()).filter(is_marked).collect()
}

async fn what_cannot_start_is_refused_before(subject: Subject) {
    let launch = subject.launch_of((subject.refused)(subject.dir.path()));
    let refused = subject.driver().check(&launch.spec).await.expect_err("it is not there").to_string();
    let fails = subject.driver().start(&launch).await.err().expect("it is not there").to_string();
    assert_eq!(refused, fails);
    assert!(!refused.contains('\n'), "{refused}");
    assert!(processes_of(&launch).is_empty());
}

async fn it_is_tried_where_the_machine_is_how_it_is(subject: Subject) {
    let launch = subject.launch("echo 1 > /tmp/$FERRY_MACHINE_ID; echo up; while :; do sleep 0.02; done");
    let held = hold(&subject, &launch).await;
    let mark = held.mark().clone();
    let watch = held.release().unwrap();
    wait_until_logged(&launch, "up\n");
    let driver = subject.driver();
    let ask = |script: &str| {
        let words = ["sh", "-c", script].map(str::to_owned).to_vec();
        HealthCheck { timeout_ms: 60_000, ..HealthCheck::from(Probe::Command(words)) }
    };
    let well = driver.try_health(&launch, &mark, &ask("[ -e /tmp/$FERRY_MACHINE_ID ]")).await;
    assert_eq!(well, Ok(()));
    let ill = driver.try_health(&launch, &mark, &ask("echo its head aches; exit 3")).await.unwrap_err();
    assert!(ill.ends_with("ended with code 3: its head aches"), "{ill}");
    // A hook is told more than the machine was.
    let mut telling = launch.clone();
    telling.env.insert("FERRY_HOOK".to_owned(), "quiesce".to_owned());
    assert_eq!(driver.try_health(&telling, &mark, &ask("[ $FERRY_HOOK = quiesce ]")).await, Ok(()));
    watch.stop(TERM, Duration::ZERO).await;
    let _ = std::fs::remove_file(Path::new("/tmp").join(&launch.env["FERRY_MACHINE_ID"]));
}

async fn it_is_kept_to_its_limits_and_leaves_no_group(subject: Subject) {
    let can = subject.driver().limits();
    if can.len() < Limit::ALL.len() {
        return skip_where_impossible("it_is_kept_to_its_limits_and_leaves_no_group", "control groups");
    }
    let limited = |script: &str, limits: Limits| {
        let launch = subject.launch(script);
        Launch { spec: MachineSpec { limits, ..launch.spec.clone() }, ..launch }
    };
    // Twice as much as it may have: a shell's variable grows until it is killed.
    let hungry = "echo up; x=0123456789abcdef; while :; do x=$x$x; done";
    let memory_bytes = MEMORY_BYTES.try_into().ok();
    let launch = limited(hungry, Limits { memory_bytes, ..Limits::default() });
    let ended = run(&subject, &launch).await.ended().await;
    assert!(ended.out_of_memory, "{ended:?}: {}", log_of(&launch));
    assert_eq!(groups_of(&launch), Vec::<PathBuf>::new());
    // Of a machine that is killed by somebody it is not said.
    let (pids, cpu_millis) = (PIDS.try_into().ok(), 500.try_into().ok());
    let many = "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do sleep 1000 & done; echo up; while :; do sleep 0.02; done";
    let launch = limited(many, Limits { pids, cpu_millis, memory_bytes: None });
    let watch = run(&subject, &launch).await;
    let refused = || log_of(&launch).to_lowercase().contains("fork").then_some(());
    until("a process more is refused", refused);
    assert!(!groups_of(&launch).is_empty());
    let ended = watch.stop(TERM, Duration::ZERO).await;
    assert!(!ended.out_of_memory, "{ended:?}");
    assert_eq!(groups_of(&launch), Vec::<PathBuf>::new());
}

/// The control groups that a machine has.
fn groups_of(launch: &Launch) -> Vec<PathBuf> {
    let name = format!("ferry-{}", launch.machine);
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
    let all = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|hierarchy| hierarchy.join(&name));
    all.filter(|group| group.exists()).collect()
}

/// Has a driver pass; `$subject` gives it, or none on a host that cannot run it.
macro_rules! conforms {
    ($name:ident, $subject:expr) => {
        mod $name {
            use super::*;
            conforms!(@ $subject,
                what_a_machine_says_is_in_its_log_and_its_code_is_told,
                a_machine_whose_mark_is_not_kept_never_runs,
                the_next_agent_finds_a_machine_and_stops_it_in_its_grace_time,
                a_machine_that_ignores_its_signal_is_killed_with_what_it_started,
                what_cannot_start_is_refused_before,
                it_is_tried_where_the_machine_is_how_it_is,
                it_is_kept_to_its_limits_and_leaves_no_group,
            );
        }
    };
    // A VM's exit code is its QEMU's, and nobody looks into it.
    ($name:ident, $subject:expr, without codes and health) => {
        mod $name {
            use super::*;
            conforms!(@ $subject,
                a_machine_whose_mark_is_not_kept_never_runs,
                the_next_agent_finds_a_machine_and_stops_it_in_its_grace_time,
                a_machine_that_ignores_its_signal_is_killed_with_what_it_started,
                what_cannot_start_is_refused_before,
            );
        }
    };
    (@ $subject:expr, $($test:ident,)+) => {$(
        #[tokio::test]
        async fn $test() {
            if let Some(subject) = $subject(stringify!($test)) {
                super::$test(subject).await;
            }
        }
    )+};
}

fn process_driver() -> ProcessDriver {
    ProcessDriver::new(Path::new(env!("CARGO_BIN_EXE_ferry")), Arc::new(Gates::default()))
}

fn of_words(words: &[&str]) -> MachineSpec {
    MachineSpec::process(words[0], words[1..].iter().copied())
}

fn plain(_test: &str) -> Option<Subject> {
    Some(Subject {
        dir: tempfile::tempdir().unwrap(),
        make: Box::new(|_| Arc::new(process_driver())),
        runs: Box::new(|_, words| of_words(words)),
        refused: Box::new(|_| of_words(&["no-such-program", "x"])),
    })
}

fn isolated(test: &str) -> Option<Subject> {
    if !rustix::process::geteuid().is_root() {
        skip_where_impossible(test, "root");
        return None;
    }
    let apart = |words: &[&str]| MachineSpec { isolation: Some(Isolation::default()), ..of_words(words) };
    Some(Subject {
        dir: tempfile::tempdir().unwrap(),
        make: Box::new(|_| Arc::new(process_driver())),
        runs: Box::new(move |_, words| apart(words)),
        refused: Box::new(move |_| apart(&["no-such-program", "x"])),
    })
}

fn may_run_containers(test: &str) -> bool {
    if !super::support::requires(test, &[RUNC]) {
        return false;
    }
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skip_where_impossible(test, "root");
    }
    is_root
}

fn container(from: OciSource, words: &[&str]) -> MachineSpec {
    let command = words.iter().map(|word| (*word).to_owned()).collect();
    let oci = OciSpec { from, command, env: BTreeMap::new(), workdir: None };
    MachineSpec { driver: Kind::Oci(oci), ..MachineSpec::process("unused", [""]) }
}

fn container_of_an_image(test: &str) -> Option<Subject> {
    if !may_run_containers(test) {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    oci::make_layout(&dir.path().join("layout"));
    let of = |path: PathBuf, words: &[&str]| container(OciSource::Image { path, tag: None }, words);
    Some(Subject {
        dir,
        make: Box::new(make_oci),
        runs: Box::new(move |dir, words| of(dir.join("layout"), words)),
        refused: Box::new(move |dir| of(dir.join("no-such-layout"), &["sh"])),
    })
}

fn make_oci(dir: &Path) -> Arc<dyn Driver> {
    Arc::new(OciDriver::new(Arc::new(process_driver()), dir))
}

fn container_of_a_bundle(test: &str) -> Option<Subject> {
    if !may_run_containers(test) {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    make_bundle(&dir.path().join("bundle"));
    Some(Subject {
        dir,
        make: Box::new(make_oci),
        runs: Box::new(|dir, words| container(OciSource::Bundle(dir.join("bundle")), words)),
        refused: Box::new(|dir| container(OciSource::Bundle(dir.join("no-such-bundle")), &["sh"])),
    })
}

/// Makes a bundle with a shell and a few tools.
fn make_bundle(bundle: &Path) {
    let root = bundle.join("rootfs");
    oci::copy_tools(&root);
    succeed("runc", &["spec", "--bundle", path_text(bundle)]);
    let config = bundle.join("config.json");
    let mut said: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    said["root"]["readonly"] = false.into();
    std::fs::write(&config, said.to_string()).unwrap();
}

/// Where the lab's guest is: a VM whose first process runs a script, which hears the power button as a signal.
pub(super) fn vm(test: &str) -> Option<Subject> {
    if !super::support::requires(test, &[QEMU]) {
        return None;
    }
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/lab/vm");
    let [kernel, initrd] = ["kernel", "initrd"].map(|name| lab.join(name));
    if !kernel.is_file() || !initrd.is_file() {
        super::support::skip(test, "target/lab/vm (cargo xtask lab vm)");
        return None;
    }
    let of = move |initrd: PathBuf, words: &[&str]| {
        let script = words[words.len() - 1];
        assert!(!script.contains('"'), "the kernel ends a word of its command line there");
        let append = Some(format!("{VM_APPEND} -- sh -c \"{VM_FIRST}\" \"{script}\""));
        let accel = Accel::Tcg;
        let kernel = Some(kernel.clone());
        let vm = QemuSpec { kernel, initrd: Some(initrd), append, accel, ..QemuSpec::default() };
        MachineSpec { driver: Kind::Qemu(vm), ..MachineSpec::process("unused", [""]) }
    };
    let of_none = of.clone();
    Some(Subject {
        dir: tempfile::tempdir().unwrap(),
        make: Box::new(|_| {
            let channel =
                Channel { listen: std::net::Ipv4Addr::LOCALHOST.into(), tls: None, names_workers: false };
            Arc::new(QemuDriver::new(Arc::new(Gates::default()), channel))
        }),
        runs: Box::new(move |_, words| of(initrd.clone(), words)),
        refused: Box::new(move |dir| of_none(dir.join("no-such-disk"), &["x"])),
    })
}

/// A VM of the stand-in for a VMM.
fn micro_vm(vmm: Vmm, name: &'static str, kind: fn(MicroVmSpec) -> Kind) -> Option<Subject> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("kernel"), "").unwrap();
    let program = super::stand_in::make(dir.path(), name);
    let of = move |kernel: PathBuf, script: &str| {
        let append = Some(format!("console=ttyS0 {}{script}", super::stand_in::SCRIPT));
        let driver = kind(MicroVmSpec { append, ..MicroVmSpec::of(kernel) });
        MachineSpec { driver, ..MachineSpec::process("unused", [""]) }
    };
    let make = move |_: &Path| {
        let driver = MicroVmDriver::new(vmm, Arc::new(Gates::default()));
        Arc::new(driver.with(&program, Path::new("/dev/null"))) as Arc<dyn Driver>
    };
    Some(Subject {
        dir,
        make: Box::new(make),
        runs: Box::new(move |dir, words| of(dir.join("kernel"), words[words.len() - 1])),
        refused: Box::new(move |dir| of(dir.join("no-such-kernel"), "")),
    })
}

fn cloud_hypervisor(_test: &str) -> Option<Subject> {
    micro_vm(Vmm::CloudHypervisor, "cloud-hypervisor", Kind::CloudHypervisor)
}

fn firecracker(_test: &str) -> Option<Subject> {
    micro_vm(Vmm::Firecracker, "firecracker", Kind::Firecracker)
}

conforms!(process, plain);
conforms!(process_with_namespaces, isolated);
conforms!(oci_image, container_of_an_image);
conforms!(oci_bundle, container_of_a_bundle);
conforms!(qemu, vm, without codes and health);
conforms!(cloud_hypervisor_stand_in, cloud_hypervisor, without codes and health);
conforms!(firecracker_stand_in, firecracker, without codes and health);

#[tokio::test]
async fn a_vmm_is_told_of_every_disk_as_it_publishes_and_comes_to_each() {
    for subject in [cloud_hypervisor, firecracker].map(|make| make("").unwrap()) {
        let mut launch = subject.launch("echo up; sleep 1000");
        let sockets = ["a", "b"].map(|name| launch.dir.join(name));
        let servers = sockets.clone().map(|socket| std::os::unix::net::UnixListener::bind(socket).unwrap());
        launch.disks = sockets
            .map(|socket| Disk { volume: VolumeId::fresh(), nbd: PathBuf::new(), vhost: Some(socket) })
            .into();
        let watch = run(&subject, &launch).await;
        for server in servers {
            drop(server.accept().unwrap());
        }
        wait_until_logged(&launch, "up\n");
        watch.stop(TERM, LONG).await;
        assert!(!log_of(&launch).contains("refuses"), "{}", log_of(&launch));
    }
}

#[test]
fn a_container_finds_its_volume_as_its_user_also_after_a_move() {
    needs!(RUNC, MKE2FS);
    needs_loop_devices!();
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    oci::make_layout(&cluster.dir().join("layout"));
    let file = cluster.dir().join("web.toml");
    let script = "read n < /data/n || n=0; n=$((n+1)); echo $n > /data/n; echo run $n as $(id -u) in $(pwd); \
                  trap 'exit 0' TERM; while :; do sleep 0.05; done";
    let spec = |layout: &Path| {
        format!(
            "name = \"web\"\ndriver = \"oci\"\nuser = \"4711\"\nworkdir = \"/data\"\ncommand = [\"sh\", \"-c\", {script:?}]\n\
             [oci]\nimage = {layout:?}\n[volumes.data]\nsize = \"64MiB\"\nmount = \"/data\"\n"
        )
    };
    std::fs::write(&file, spec(&cluster.dir().join("none"))).unwrap();
    let said = w1.refusal(&["machine", "create", "--file", path_text(&file)], 1);
    assert!(said.contains("is no OCI image layout"), "{said}");
    std::fs::write(&file, spec(&cluster.dir().join("layout"))).unwrap();
    let made: Machine = w1.ask(&["machine", "create", "--file", path_text(&file)]);
    super::wait_until_said(&made, "run 1 as 4711 in /data\n");
    w1.restart();
    assert_eq!(super::pid(&w1.machine("web")), super::pid(&made), "the agent has lost its machine");
    let written = w1.ferry(&["machine", "spec", "web"]).stdout;
    assert!(written.contains("driver = \"oci\"") && written.contains("[oci]"), "{written}");
    w1.moves("web", w2);
    super::wait_until_said(&w2.machine("web"), "run 2 as 4711 in /data\n");
    // Without what it runs on, it is told before it stops.
    std::fs::rename(cluster.dir().join("layout"), cluster.dir().join("away")).unwrap();
    let said = w2.ferry(&["move", "web", "--to", "w1"]);
    assert!(said.code != Some(0) && said.stderr.contains("worker w1 refuses"), "{said:?}");
    let stopped: Machine = w2.ask(&["machine", "stop", "web"]);
    assert_eq!(stopped.state, MachineState::Stopped);
    assert_eq!(super::loop_devices_below(cluster.dir()), Vec::<PathBuf>::new());
}
