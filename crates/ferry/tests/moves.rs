//! Machines with real input move between real workers, asked as people ask: by the command line. Afterwards every
//! byte, as software nobody here wrote reads it, is the one that was there.

#![allow(clippy::unwrap_used, reason = "a test ends at whatever it did not expect")]

mod support;

use ferry_api::{Generation, Machine, MachineState, Ownership, ServerState, Volume};
use support::cluster::{Cluster, Worker};
use support::{QEMU_IO, needs, run, text};

/// A machine that does nothing until it is asked to stop.
const IDLE: [&str; 3] = ["--", "sleep", "1000000"];

/// Creates a machine with these disks (`NAME=SIZE` or `NAME=VOLUME`) that does nothing.
fn create(worker: &Worker, name: &str, volumes: &[&str], more: &[&str]) -> Machine {
    let mut words = vec!["machine", "create", name];
    words.extend(volumes.iter().flat_map(|volume| ["--volume", volume]));
    words.extend_from_slice(more);
    words.extend(IDLE);
    worker.ask(&words)
}

/// What a guest does with its disk.
fn guest(volume: &Volume, commands: &[&str]) {
    let mut arguments = vec!["-f", "raw"];
    arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
    arguments.push(&volume.guest_uri);
    let output = run("qemu-io", &arguments);
    let said = text(&output);
    let failed = !output.status.success() || said.contains("verification failed") || said.contains("failed:");
    assert!(!failed, "qemu-io {commands:?}:\n{said}");
}

fn is_running(machine: &Machine) -> bool {
    matches!(machine.state, MachineState::Running { .. })
}

#[test]
fn both_volumes_of_a_machine_cross_together() {
    needs!(QEMU_IO);
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    create(w1, "web", &["data=64MiB", "log=32MiB"], &[]);
    guest(&w1.volume("data"), &["write -P 1 3M 5M", "flush"]);
    guest(&w1.volume("log"), &["write -P 2 0 1M", "write -P 3 31M 1M", "flush"]);

    w1.moves("web", w2);
    let web = w2.machine("web");
    assert!(is_running(&web), "{web:?}");
    assert_eq!(web.generation, Generation(2));
    let generations: Vec<_> = web.volumes.iter().map(|v| (v.name.to_string(), v.generation.0)).collect();
    assert_eq!(generations, [("data".to_owned(), 2), ("log".to_owned(), 2)]);
    guest(&w2.volume("data"), &["read -P 0 0 3M", "read -P 1 3M 5M", "read -P 0 8M 56M"]);
    guest(&w2.volume("log"), &["read -P 2 0 1M", "read -P 0 1M 30M", "read -P 3 31M 1M"]);
    for name in ["data", "log"] {
        let left = w1.volume(name);
        assert!(matches!(left.ownership, Ownership::Retired { .. }), "{left:?}");
        assert_eq!((left.server, left.export_uri), (ServerState::NotNeeded, None));
    }
}
