//! Bad days of machines: a file system that cannot be mounted, a volume's server that dies under one that is, and a signal
//! that is ignored.

use super::support::cluster::Cluster;
use super::support::devices::{loop_devices_below, mounts_below, needs_loop_devices};
use super::support::peers::path_text;
use super::support::{DEBUGFS, DUMPE2FS, E2FSCK, MKE2FS, needs, succeed, until};
use super::{assert_clean, assert_unrepaired, create, numbers, pid, said, wait_until_said};
use ferry_api::{Job, JobState, Machine, MachineState, ServerState, Volume};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// Where ext4 keeps how many blocks it has, in bytes. They are in the checksum of its superblock.
const BLOCKS_AT: u64 = 1024 + 4;
/// Promises of the machine between two deaths.
const PROMISES: usize = 20;

#[test]
fn a_file_system_that_the_kernel_refuses_is_told_in_the_log_and_left_as_it_is() {
    needs!(MKE2FS);
    needs_loop_devices!();
    let cluster = Cluster::two();
    let (w1, _) = cluster.pair();
    let image = cluster.dir().join("image");
    File::create(&image).unwrap().set_len(16 << 20).unwrap();
    succeed("mke2fs", &["-q", "-t", "ext4", path_text(&image)]);
    File::options().write(true).open(&image).unwrap().write_all_at(&[0xFF], BLOCKS_AT).unwrap();
    let _: Volume = w1.ask(&["volume", "import", "disk", "--from", path_text(&image)]);
    let (place, spec) = (cluster.dir().join("data"), cluster.dir().join("web.toml"));
    let head = "name = \"web\"\ncommand = [\"sleep\", \"1000\"]\nrestart = \"never\"";
    fs::write(&spec, format!("{head}\n[volumes.data]\nvolume = \"disk\"\nmount = {place:?}\n")).unwrap();
    let machine: Machine = w1.ask(&["machine", "create", "--file", path_text(&spec)]);

    let ended = until("it ends", || w1.machine("web").last_exit);
    assert_eq!(ended.code, Some(1));
    let told = said(&machine);
    let begin = "ferry: cannot mount the ext4 file system of /dev/";
    assert!(told.starts_with(begin) && told.lines().count() == 1, "{told}");
    assert!(told.contains(path_text(&place)) && told.contains("`e2fsck -fn`"), "{told}");
    until("it is down", || (w1.machine("web").state == MachineState::Stopped).then_some(()));
    assert_eq!(loop_devices_below(cluster.dir()), Vec::<std::path::PathBuf>::new());
    assert_unrepaired(w1, &image);
}

#[test]
fn a_server_that_dies_under_a_mounted_file_system_costs_a_restart_and_nothing_that_was_promised() {
    needs!(MKE2FS, E2FSCK, DUMPE2FS, DEBUGFS);
    needs_loop_devices!();
    if ferry_volume::probe_ublk().is_ok() {
        // Those devices outlive their servers: `cargo xtask lab ublk`.
        return;
    }
    let cluster = Cluster::two();
    let (w1, _) = cluster.pair();
    let ledger = cluster.dir().join("ledger");
    let script = "n=$(tail -n 1 $PLACE/ledger 2>/dev/null); n=${n:-0}; echo up; \
                  while :; do n=$((n+1)); echo $n >> $PLACE/ledger && sync $PLACE/ledger && echo $n >> $LEDGER || sleep 0.02; done";
    let more = format!("[env]\nPLACE = {:?}\nLEDGER = {ledger:?}", cluster.dir().join("data"));
    let mut machine = create(w1, cluster.dir(), script, &more);
    let promised = || numbers(&fs::read_to_string(&ledger).unwrap_or_default());
    let promises_more = || {
        let before = promised().len();
        until("it promises more", || (promised().len() >= before + PROMISES).then_some(()));
    };
    wait_until_said(&machine, "up\n");
    // The second time no agent is there to see it.
    for agent_lives in [true, false] {
        promises_more();
        let ServerState::Running { pid: server } = w1.volume("data").server else { panic!("it is served") };
        if !agent_lives {
            w1.kill();
        }
        w1.kill_process(server);
        if !agent_lives {
            w1.start();
        }
        let again = until("it is started again", || {
            let now = w1.machine("web");
            let is_another =
                matches!(now.state, MachineState::Running { pid, .. } if pid != self::pid(&machine));
            is_another.then_some(now)
        });
        let exit = again.last_exit.unwrap();
        assert!(exit.lost_its_disk, "{exit:?}");
        let shown = w1.ferry(&["machine", "show", "web"]).stdout;
        assert!(shown.contains("a volume that it had mounted was gone with its server"), "{shown}");
        machine = again;
    }
    promises_more();
    let _: Machine = w1.ask(&["machine", "stop", "web"]);
    assert_clean(w1, |device| {
        let kept = numbers(&succeed("debugfs", &["-R", "cat /ledger", path_text(device)]));
        assert_eq!(promised().difference(&kept).collect::<Vec<_>>(), Vec::<&u64>::new());
    });
    assert_eq!(w1.ferry(&["machine", "destroy", "web"]).code, Some(0));
    assert_eq!(w1.processes(), BTreeSet::new());
}

#[test]
fn the_receipt_of_a_move_says_that_the_machine_ignored_its_signal_and_was_killed() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let deaf = "trap '' TERM; echo deaf; while :; do sleep 1000000; done";
    let machine: Machine = w1.ask(&["machine", "create", "web", "--grace", "200ms", "--", "sh", "-c", deaf]);
    wait_until_said(&machine, "deaf\n");
    let job: Job = w1.moves("web", w2);
    assert_eq!(job.state, JobState::Succeeded);
    let receipt = w1.ferry(&["job", "receipt", &job.id.to_string()]).stdout;
    assert!(receipt.contains("killed after its grace time of 200 ms"), "{receipt}");
}

#[test]
fn a_cluster_whose_test_ends_while_machines_run_leaves_no_device_and_no_mount() {
    needs!(MKE2FS);
    needs_loop_devices!();
    let cluster = Cluster::of(&[("w1", "")]);
    let dir = cluster.dir().to_owned();
    let machine = create(&cluster.workers[0], &dir, "echo up; exec sleep 1000", "");
    wait_until_said(&machine, "up\n");
    assert_eq!(loop_devices_below(&dir).len(), 1);
    drop(cluster);
    assert_eq!((loop_devices_below(&dir), mounts_below(&dir)), (vec![], 0));
    assert!(!dir.exists(), "nothing keeps its directory");
}
