//! VMs that move with their memory: the guest notices a pause at most, and whatever goes wrong before the hand-over costs it
//! nothing.

use super::authority::Authority;
use super::support::cluster::{Cluster, Worker};
use super::support::moments::{Crash, Die, Fail, Wish};
use super::support::programs::put_qemu;
use super::support::{DEBUGFS, E2FSCK, MKE2FS, QEMU, needs, skip, test_name, until};
use super::{create, guest, kept, pid, records, wait_for_more};
use ferry_api::{Arrival, Job, JobState, Machine, MovePlan};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// How late a guest may be with what it says of its clock, in seconds: it is written and read beside all else that this host does.
const CLOCK_SECONDS_MAX: u64 = 30;
/// How far the clock of a guest may be ahead of the host's, in seconds.
const AHEAD_SECONDS_MAX: u64 = 2;

/// What the guest says of itself on this worker: which boot it is, and the time.
pub fn said(worker: &Worker) -> Vec<(String, u64)> {
    let lines = worker.machines_said();
    let words = |line: &str| {
        let (boot, at) = line.trim_end().strip_prefix("VM is ")?.split_once(" at ")?;
        Some((boot.to_owned(), at.parse().ok()?))
    };
    // The last line may still be being written.
    lines.split_inclusive('\n').filter(|line| line.ends_with('\n')).filter_map(words).collect()
}

/// Waits until the guest has said something of itself on this worker since it was `known`, and answers which boot it is.
pub fn boot_id(worker: &Worker, known: usize) -> String {
    let (boot, at) = until("the guest says which boot it is", || {
        let said = said(worker);
        (said.len() > known).then(|| said.last().cloned()).flatten()
    });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let sane = now.saturating_sub(CLOCK_SECONDS_MAX)..=now + AHEAD_SECONDS_MAX;
    assert!(sane.contains(&at), "the guest takes {now} for {at}");
    boot
}

/// The guest goes on on this worker: it says which boot it is, and keeps more records.
pub fn goes_on(worker: &Worker) -> String {
    wait_for_more(worker);
    boot_id(worker, said(worker).len())
}

pub fn start_move(worker: &Worker, to: &str) -> Job {
    worker.ask(&["move", "vm", "--to", to, "--mode", "live", "--detach"])
}

pub fn follow(worker: &Worker, job: &Job) -> Job {
    until("the move has ended", || {
        let now: Job = worker.ask(&["job", "show", &job.id.to_string()]);
        now.state.is_final().then_some(now)
    })
}

pub fn memo<'a>(job: &'a Job, step: &str) -> &'a Value {
    job.steps.iter().find(|found| found.step == step).unwrap().memo.as_ref().unwrap()
}

/// Whether the machine's process is there, with its mark.
fn runs(worker: &Worker, machine: &Machine) -> bool {
    worker.processes().contains(&pid(machine))
}

/// Two workers, of which the first has the VM, which has kept some records.
pub fn lab() -> Option<(Cluster, Machine)> {
    guest().map(|_| with_vm(Cluster::two()))
}

/// The same with all that crosses over TLS; the certificates lie in the directory.
fn secured_lab(certificates: &Path) -> Option<(Cluster, Machine)> {
    guest()?;
    let names = ["w1", "w2"];
    let lines = names.map(|name| format!("tls = {:?}\n", certificates.join(name)));
    let cluster = Cluster::configured(&[(names[0], &lines[0]), (names[1], &lines[1])]);
    let authority = Authority::new();
    for worker in &cluster.workers {
        let dir = certificates.join(&worker.name);
        std::fs::create_dir(&dir).unwrap();
        authority.sign(&dir, &worker.address.ip().to_string());
        worker.start();
    }
    Some(with_vm(cluster))
}

fn with_vm(cluster: Cluster) -> (Cluster, Machine) {
    let (kernel, initrd) = guest().unwrap();
    // Said, since each agent would try what is of use here, and many agents die.
    let machine = create(cluster.pair().0, cluster.dir(), (&kernel, &initrd), "accel = \"tcg\"");
    wait_for_more(cluster.pair().0);
    (cluster, machine)
}

#[test]
fn a_vm_moves_live_there_and_back_over_tls_and_is_the_same_boot_with_every_record_it_acknowledged() {
    needs!(QEMU, MKE2FS, E2FSCK, DEBUGFS);
    super::support::devices::needs_loop_devices!();
    let certificates = tempfile::tempdir().unwrap();
    let Some((cluster, _)) = secured_lab(certificates.path()) else {
        return skip(test_name!(), "target/lab/vm (cargo xtask lab vm)");
    };
    let (mut here, mut there) = cluster.pair();
    let boot = goes_on(here);
    let plan: MovePlan = here.ask(&["move", "vm", "--to", &there.name, "--mode", "live", "--plan"]);
    assert_eq!((plan.blockers.len(), plan.mode.is_live()), (0, true), "{plan:?}");

    let mut acknowledged = BTreeSet::new();
    for turn in 0..2 {
        let machine = here.machine("vm");
        let known = said(there).len();
        let moved = follow(here, &start_move(here, &there.name));
        assert_eq!(moved.state, JobState::Succeeded, "{moved:#?}");
        assert_eq!(
            memo(&moved, "Boot")["arrival"],
            serde_json::to_value(Arrival::Live).unwrap(),
            "{moved:#?}"
        );
        assert!(memo(&moved, "Stop")["memory"]["bytes"].as_u64().unwrap() > 1 << 20, "{moved:#?}");
        let receipt = here.ferry(&["job", "receipt", &moved.id.to_string()]).stdout;
        assert!(receipt.contains("before it was paused; it went on with it"), "{receipt}");
        // What is left of it here is never continued.
        until("nothing of the machine is left at the source", || (!runs(here, &machine)).then_some(()));
        acknowledged.extend(kept(here));
        let (_, last) = said(here).pop().unwrap();
        std::mem::swap(&mut here, &mut there);
        assert_eq!(boot_id(here, known), boot);
        let (_, first) = said(here)[known];
        assert!(first >= last, "its clock went back from {last} to {first}");
        wait_for_more(here);
        // It is minded by the next agent, too.
        if turn == 0 {
            let machine = here.machine("vm");
            here.restart();
            assert_eq!(pid(&here.machine("vm")), pid(&machine), "the agent has lost its VM");
        }
    }
    let stopped: Machine = here.ask(&["machine", "stop", "vm"]);
    assert_eq!(stopped.last_exit.map(|exit| exit.code), Some(Some(0)), "it was not shut down: {stopped:?}");
    acknowledged.extend(kept(here));
    let found = records(here);
    assert_eq!(acknowledged.difference(&found).collect::<Vec<_>>(), Vec::<&u64>::new());
    assert_eq!(found.len() as u64, *found.last().unwrap(), "a record is missing in between");
}

/// Moves the VM of a lab live, while the agent of the source, or of the target, has these wishes; answers how that ended.
fn move_wishing(cluster: &Cluster, source: &[Wish<'_>], target: &[Wish<'_>]) -> Job {
    let (w1, w2) = cluster.pair();
    for (worker, wishes) in [(w1, source), (w2, target)] {
        worker.kill();
        worker.start_wishing(wishes);
    }
    let job = start_move(w1, &w2.name);
    for (worker, wishes) in [(w1, source), (w2, target)] {
        if wishes.iter().any(|wish| matches!(wish, Die(_))) {
            worker.wait_for_end();
            let rest: Vec<_> = wishes.iter().copied().filter(|wish| matches!(wish, Fail(_))).collect();
            worker.start_wishing(&rest);
        }
    }
    follow(w1, &job)
}

#[test]
fn whatever_fails_before_the_hand_over_leaves_the_vm_running_at_home_and_it_can_move_then() {
    needs!(QEMU, MKE2FS);
    let Some((mut cluster, machine)) = lab() else {
        return skip(test_name!(), "target/lab/vm (cargo xtask lab vm)");
    };
    refused_by_another_qemu(&mut cluster);
    let (w1, w2) = cluster.pair();
    let boot = goes_on(w1);
    // Each of them with whoever leads, or takes part, dead in between.
    let cases: [(&[Wish<'_>], &[Wish<'_>]); 4] = [
        (&[Fail("Stop")], &[]),
        (&[Fail("Seal")], &[]),
        (&[Die("after begun:Seal"), Fail("Seal")], &[]),
        (&[Fail("Seal")], &[Die("before call release")]),
    ];
    for (source, target) in cases {
        let job = move_wishing(&cluster, source, target);
        assert_eq!(job.state, JobState::Failed, "{source:?} {target:?}: {job:#?}");
        assert_eq!(goes_on(w1), boot, "{source:?} {target:?}");
        assert!(runs(w1, &machine), "{source:?} {target:?}");
        until("nothing is left at the target", || w2.processes().is_empty().then_some(()));
    }
    assert!(!w2.dir.join("machines").join(machine.id.to_string()).exists());

    // One that is there waits for the memory, and dies with it.
    w1.kill();
    w1.start_wishing(&[Die("before done:Stop")]);
    let job = start_move(w1, &w2.name);
    w1.wait_for_end();
    let awaits: Vec<u32> = w2.processes().into_iter().filter(|pid| is_qemu(*pid)).collect();
    assert_eq!(awaits.len(), 1, "{awaits:?}");
    w2.kill_process(awaits[0]);
    w1.start();
    let job = follow(w1, &job);
    assert_eq!(job.state, JobState::Failed, "{job:#?}");
    assert_eq!(goes_on(w1), boot);

    let job = move_wishing(&cluster, &[], &[]);
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
    assert_eq!(goes_on(w2), boot);
}

/// A target that has another QEMU is refused in Plan.
fn refused_by_another_qemu(cluster: &mut Cluster) {
    let programs = cluster.dir().join("other-programs");
    put_qemu(&programs);
    let restarted = |cluster: &mut Cluster, programs| {
        cluster.workers[1].kill();
        cluster.workers[1].programs = programs;
        cluster.workers[1].start();
    };
    restarted(cluster, Some(programs));
    let said = cluster.workers[0].ferry(&["move", "vm", "--to", "w2", "--mode", "live"]);
    let (begin, end) =
        ("Plan: the machine runs on QEMU ", "; bring both to the same version, or move it --mode warm");
    let told = said.sentence();
    assert!(said.code == Some(4) && told.contains(begin) && told.ends_with(end), "{told}");
    assert!(told.contains(" and worker w2 has QEMU 99.9.0"), "{told}");
    restarted(cluster, None);
}

#[test]
fn a_vm_that_dies_while_it_is_paused_for_its_move_boots_at_the_target_with_every_record_it_acknowledged() {
    needs!(QEMU, MKE2FS, E2FSCK, DEBUGFS);
    super::support::devices::needs_loop_devices!();
    let Some((cluster, _)) = lab() else { return skip(test_name!(), "target/lab/vm (cargo xtask lab vm)") };
    let (w1, w2) = cluster.pair();
    let boot = goes_on(w1);
    let job = move_wishing(&cluster, &[Crash("after done:Stop", &w1.dir)], &[]);
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
    assert_eq!(memo(&job, "Boot")["arrival"], serde_json::to_value(Arrival::Rebooted).unwrap());
    assert_ne!(goes_on(w2), boot);
    until("nothing of it is left at the source", || {
        w1.processes().iter().all(|pid| !is_qemu(*pid)).then_some(())
    });
    let stopped: Machine = w2.ask(&["machine", "stop", "vm"]);
    assert_eq!(stopped.last_exit.map(|exit| exit.code), Some(Some(0)), "it was not shut down: {stopped:?}");
    let found = records(w2);
    let acknowledged: BTreeSet<u64> = kept(w1).union(&kept(w2)).copied().collect();
    assert_eq!(acknowledged.difference(&found).collect::<Vec<_>>(), Vec::<&u64>::new());
}

pub fn is_qemu(pid: u32) -> bool {
    let name = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm"));
    name.is_ok_and(|name| name.starts_with("qemu"))
}

#[test]
fn agents_that_die_around_the_hand_over_cost_the_vm_nothing_and_memory_that_is_lost_behind_it_a_boot() {
    needs!(QEMU, MKE2FS);
    let Some((cluster, _)) = lab() else { return skip(test_name!(), "target/lab/vm (cargo xtask lab vm)") };
    let (w1, w2) = cluster.pair();
    let boot = goes_on(w1);
    let cases: [(&[Wish<'_>], &[Wish<'_>]); 2] = [
        (&[Die("before done:HandOver")], &[Die("after write crossing:activated")]),
        (&[Die("after done:Activate")], &[Die("after call boot")]),
    ];
    for (turn, (source, target)) in cases.into_iter().enumerate() {
        let job = move_wishing(&cluster, source, target);
        assert_eq!(job.state, JobState::Succeeded, "{source:?} {target:?}: {job:#?}");
        assert_eq!(goes_on(w2), boot, "{source:?} {target:?}");
        if turn == 0 {
            let back = follow(w2, &start_move(w2, &w1.name));
            assert_eq!(back.state, JobState::Succeeded, "{back:#?}");
            assert_eq!(goes_on(w1), boot);
        }
    }

    // Back again, but what holds the memory is killed once the target owns the machine.
    w2.kill();
    w2.start_wishing(&[Die("after done:Activate")]);
    let machine = w2.machine("vm");
    let known = said(w1).len();
    let job = start_move(w2, &w1.name);
    w2.wait_for_end();
    w2.kill_process(pid(&machine));
    w2.start();
    let job = follow(w2, &job);
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
    assert_eq!(memo(&job, "Boot")["arrival"], serde_json::to_value(Arrival::Rebooted).unwrap());
    assert_ne!(boot_id(w1, known), boot, "it was rebooted");
    wait_for_more(w1);
}
