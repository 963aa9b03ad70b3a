//! Workers that lack a program that a machine needs: found before anything stops.

use super::support::cluster::Cluster;
use super::support::peers::path_text;
use super::support::{QEMU, needs};
use ferry_api::{Machine, MachineState};
use std::fs;

#[test]
fn a_vm_is_refused_where_there_is_no_qemu_and_stays_where_it_is() {
    let mut cluster = Cluster::configured(&[("w1", ""), ("w2", "")]);
    let none = cluster.dir().join("no-programs");
    fs::create_dir(&none).unwrap();
    cluster.workers[1].programs = Some(none);
    cluster.workers.iter().for_each(|worker| worker.start());
    let (w1, w2) = cluster.pair();
    let (kernel, file) = (cluster.dir().join("kernel"), cluster.dir().join("vm.toml"));
    fs::write(&kernel, "none that boots").unwrap();
    let spec = format!(
        "name = \"vm\"\ndriver = \"qemu\"\n[qemu]\nkernel = {kernel:?}\naccel = \"tcg\"\n[volumes.data]\nsize = \"1MiB\"\n"
    );
    fs::write(&file, spec).unwrap();
    let missing =
        "qemu-system-x86_64 is not to be found on this worker; install it (apt-get install qemu-system-x86)";
    let said = w2.refusal(&["machine", "create", "--stopped", "--file", path_text(&file)], 1);
    assert_eq!(said, missing);

    needs!(QEMU);
    let vm: Machine = w1.ask(&["machine", "create", "--stopped", "--file", path_text(&file)]);
    assert_eq!(vm.state, MachineState::Stopped);
    let said = w1.ferry(&["move", "vm", "--to", "w2"]);
    assert!(said.code == Some(4) && said.stderr.contains(missing), "{said:?}");
    assert_eq!(w1.machine("vm").state, MachineState::Stopped);
    assert!(fs::read_dir(w2.dir.join("volumes")).map_or(true, |mut dirs| dirs.next().is_none()));
}
