//! Workers that lack a program that a machine needs, or something on which it could run: found before anything stops, and nothing
//! is left behind.

use super::support::cluster::{Cluster, Worker};
use super::support::oci;
use super::support::peers::path_text;
use super::support::programs::put_qemu;
use super::support::{MKE2FS, QEMU, RUNC, find, needs, skip_where_impossible, test_name};
use super::{belongings, move_fails};
use ferry_api::{Machine, MachineState};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Two workers; the agent of the second finds only the programs in the directory that is answered, and in `sbin` beside it.
fn without_programs() -> (Cluster, PathBuf) {
    let mut cluster = Cluster::configured(&[("w1", ""), ("w2", "")]);
    let programs = cluster.dir().join("programs/bin");
    fs::create_dir_all(&programs).unwrap();
    cluster.workers[1].programs = Some(programs.clone());
    cluster.workers.iter().for_each(|worker| worker.start());
    (cluster, programs)
}

/// Writes the file of a machine.
fn file(cluster: &Cluster, spec: &str) -> PathBuf {
    let file = cluster.dir().join("machine.toml");
    fs::write(&file, spec).unwrap();
    file
}

/// That of a VM, with these lines in `[qemu]`.
fn vm(cluster: &Cluster, lines: &str) -> PathBuf {
    let kernel = cluster.dir().join("kernel");
    fs::write(&kernel, "none that boots").unwrap();
    let head = "name = \"vm\"\ndriver = \"qemu\"";
    file(
        cluster,
        &format!(
            "{head}\n[qemu]\nkernel = {kernel:?}\naccel = \"tcg\"\n{lines}[volumes.data]\nsize = \"1MiB\"\n"
        ),
    )
}

/// The machine of this file is refused with exactly this sentence, and nothing is left of it.
fn refused(cluster: &Cluster, worker: &Worker, file: &Path, sentence: &str) {
    let before = belongings(cluster);
    assert_eq!(worker.refusal(&["machine", "create", "--stopped", "--file", path_text(file)], 1), sentence);
    assert_eq!(belongings(cluster), before, "it has left something behind");
}

fn is_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skip_where_impossible(test, "root");
    }
    is_root
}

#[test]
fn a_vm_is_refused_where_there_is_no_qemu_and_stays_where_it_is() {
    let (cluster, _) = without_programs();
    let (w1, w2) = cluster.pair();
    let file = vm(&cluster, "");
    let missing =
        "qemu-system-x86_64 is not to be found on this worker; install it (apt-get install qemu-system-x86)";
    refused(&cluster, w2, &file, missing);

    needs!(QEMU);
    let vm: Machine = w1.ask(&["machine", "create", "--stopped", "--file", path_text(&file)]);
    assert_eq!(vm.state, MachineState::Stopped);
    let sentence = format!(
        "Plan: worker w2 cannot run the machine, whose driver is qemu: {missing}; put that right or choose another worker"
    );
    move_fails(&cluster, w1, "vm", "w2", &sentence);
}

#[test]
fn a_vm_is_refused_where_qemu_does_not_know_what_it_is_to_be() {
    needs!(QEMU);
    let (cluster, programs) = without_programs();
    let (w1, _) = cluster.pair();
    for (field, line) in [("machine", "machine = \"no-such\"\n"), ("cpu", "cpu = \"no-such,-avx\"\n")] {
        let unknown = format!(
            "the QEMU of this worker knows no {field} no-such (`qemu-system-x86_64 -{field} help` tells those that it does); \
             give another, or leave {field} out of [qemu]"
        );
        refused(&cluster, w1, &vm(&cluster, line), &unknown);
    }

    put_qemu(&programs);
    for (lines, lacks) in [("machine = \"pc\"\n", "machine pc"), ("cpu = \"Haswell\"\n", "cpu Haswell")] {
        let file = vm(&cluster, lines);
        let _: Machine = w1.ask(&["machine", "create", "--stopped", "--file", path_text(&file)]);
        let sentence = format!(
            "Plan: the QEMU of worker w2 knows no {lacks}; bring it to a version that does, or choose another worker"
        );
        move_fails(&cluster, w1, "vm", "w2", &sentence);
        assert_eq!(w1.ferry(&["machine", "destroy", "vm"]).code, Some(0));
    }
}

#[test]
fn a_container_is_refused_where_there_is_no_runtime_or_no_image_and_stays_where_it_is() {
    needs!(RUNC);
    if !is_root(test_name!()) {
        return;
    }
    let (cluster, _) = without_programs();
    let (w1, w2) = cluster.pair();
    let layout = cluster.dir().join("layout");
    oci::make_layout(&layout);
    let of = |layout: &Path| {
        let head = "name = \"web\"\ndriver = \"oci\"\ncommand = [\"sh\", \"-c\", \"sleep 1000\"]";
        file(&cluster, &format!("{head}\n[oci]\nimage = {layout:?}\n"))
    };
    let missing = "runc is not to be found on this worker; install it (apt-get install runc)";
    refused(&cluster, w2, &of(&layout), missing);
    let none = cluster.dir().join("none");
    let said = w1.refusal(&["machine", "create", "--stopped", "--file", path_text(&of(&none))], 1);
    assert!(said.contains(&format!("{} is no OCI image layout", none.display())), "{said}");

    let made: Machine = w1.ask(&["machine", "create", "--file", path_text(&of(&layout))]);
    assert!(matches!(made.state, MachineState::Running { .. }), "{made:?}");
    let sentence = format!(
        "Plan: worker w2 cannot run the machine, whose driver is oci: {missing}; put that right or choose another worker"
    );
    move_fails(&cluster, w1, "web", "w2", &sentence);
}

#[test]
fn a_machine_with_a_file_system_is_refused_where_none_can_be_made_or_mounted_and_stays_where_it_is() {
    needs!(MKE2FS);
    if !is_root(test_name!()) {
        return;
    }
    let (cluster, programs) = without_programs();
    let (w1, w2) = cluster.pair();
    let place = cluster.dir().join("data");
    let at = |place: &Path| {
        let head = "name = \"web\"\ncommand = [\"sleep\", \"1000\"]";
        file(&cluster, &format!("{head}\n[volumes.data]\nsize = \"64MiB\"\nmount = {place:?}\n"))
    };
    let missing = "mke2fs is not to be found on this worker; install it (apt-get install e2fsprogs)";
    refused(&cluster, w2, &at(&place), missing);
    let _: Machine = w1.ask(&["machine", "create", "--stopped", "--file", path_text(&at(&place))]);
    move_fails(&cluster, w1, "web", "w2", &format!("Reserve: worker w2 refuses: {missing}"));

    // With the tool, in `sbin`, but with something in the way.
    let sbin = programs.with_file_name("sbin");
    fs::create_dir(&sbin).unwrap();
    symlink(find("mke2fs").unwrap(), sbin.join("mke2fs")).unwrap();
    symlink(find("sleep").unwrap(), programs.join("sleep")).unwrap();
    fs::write(&place, "a file").unwrap();
    let cannot = |at: &Path| {
        format!(
            "nothing can be mounted at {}, since {} is no directory; make that a directory, or choose another place",
            at.display(),
            place.display()
        )
    };
    move_fails(&cluster, w1, "web", "w2", &format!("Reserve: worker w2 refuses: {}", cannot(&place)));
    let deeper = place.join("deeper");
    refused(&cluster, w2, &at(&deeper), &cannot(&deeper));
}
