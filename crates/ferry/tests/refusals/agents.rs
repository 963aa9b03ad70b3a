//! Bad days of an agent: its configuration is wrong, another has what it needs, its disk is full.

use super::support::cluster::Cluster;
use super::support::disk::SmallDisk;
use super::support::peers::path_text;
use super::support::{QEMU_IO, needs, qemu_io, run, skip, test_name, text};
use super::{MIB, NAME_RULE, belongings, create};
use ferry_api::{Machine, MachineState, WorkerInfo};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// `ferry agent` must end with exit code 1 and one sentence, which is answered.
fn agent_refusal(config: &Path) -> String {
    let worker = Cluster::configured(&[("w1", "")]);
    let said = worker.workers[0].ferry(&["agent", "--config", path_text(config)]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{said:?}");
    said.sentence()
}

#[test]
fn what_an_agent_needs_and_another_has_is_named() {
    let cluster = Cluster::of(&[("w1", "")]);
    let w1 = &cluster.workers[0];
    let info: WorkerInfo = w1.ask(&["worker", "show"]);
    let before = belongings(&cluster);
    let (dir, pid) = (w1.dir.display(), info.pid);
    assert_eq!(
        agent_refusal(&w1.config()),
        format!(
            "the state directory {dir} is in use by another agent (process {pid}, which holds {dir}/agent.lock); stop \
             that one or choose another state_dir"
        )
    );
    let other = cluster.dir().join("other.toml");
    let text = fs::read_to_string(w1.config()).unwrap();
    fs::write(&other, text.replace(&format!("\"{dir}\""), &format!("\"{dir}-other\""))).unwrap();
    assert_eq!(
        agent_refusal(&other),
        format!(
            "cannot listen on {}; choose another `listen` in the configuration, or end what has it: Address already in \
             use (os error 98)",
            w1.address
        )
    );
    assert_eq!(belongings(&cluster), before);
}

#[test]
fn a_wrong_configuration_is_refused_with_file_line_and_field() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ferry.toml");
    let name = file.display();
    let begin = "name = \"w1\"\nstate_dir = \"state\"\n";
    let cases = [
        (
            format!("{begin}retention_days = 3\n"),
            "3: unknown field `retention_days`, expected one of `name`, `state_dir`, `listen`, `insecure`, `socket_group`, `export_listen`, \
             `advertise`, `peers`, `region`, `labels`, `room_bytes`, `cpu_millis`, `memory_bytes`, `retention_hours`, `job_retention_days`, `jobs_kept`, `moves_at_once`, `services_listen`, `dns_listen`, `machine_routes`, \
             `services_hold_seconds`, `services_held_max`, `tls`, `directory`"
                .to_owned(),
        ),
        ("name = \"w1\"\n".to_owned(), "1: the field `state_dir` is missing; add it".to_owned()),
        ("state_dir = \"s\"\n".to_owned(), "1: the field `name` is missing; add it".to_owned()),
        (
            "name = \"w1\"\nstate_dir = 5\n".to_owned(),
            "2: state_dir: invalid type: integer `5`, expected a path in quotes".to_owned(),
        ),
        ("name = \"W1\"\nstate_dir = \"s\"\n".to_owned(), format!("1: name: 'W1' is not a name; {NAME_RULE}")),
        (
            format!("{begin}listen = \"here\"\n"),
            "3: listen: not an address with a port; write it like 127.0.0.1:7433".to_owned(),
        ),
        (
            format!("{begin}listen = \"0.0.0.0:7433\"\n"),
            "3: listen: 0.0.0.0:7433 is every address of this host; say with `advertise` which one others reach"
                .to_owned(),
        ),
        (
            format!("{begin}room_bytes = \"1TiB\"\n"),
            "3: room_bytes: invalid type: string \"1TiB\", expected a whole number, 0 or more".to_owned(),
        ),
        (
            format!("{begin}\n[peers]\nw2 = \"10.0.0.2\"\n"),
            "5: w2: '10.0.0.2' is not the address of an agent; write it like http://127.0.0.1:7433".to_owned(),
        ),
        (format!("{begin}name = \"w2\"\n"), "3: name: is there a second time; keep one".to_owned()),
    ];
    for (text, sentence) in cases {
        fs::write(&file, &text).unwrap();
        assert_eq!(agent_refusal(&file), format!("{name}:{sentence}"), "{text}");
    }
    assert!(!dir.path().join("state").exists(), "a refused configuration has made a directory");
    let missing = dir.path().join("missing.toml");
    let sentence = "check the path: No such file or directory (os error 2)";
    let missing_text = missing.display();
    assert_eq!(agent_refusal(&missing), format!("cannot read the configuration {missing_text}; {sentence}"));
}

#[test]
fn an_agent_without_a_cluster_refuses_to_be_reached_by_others_unless_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ferry.toml");
    let begin = "name = \"w1\"\nstate_dir = \"state\"\n";
    let cases = [
        (
            "listen = \"0.0.0.0:7433\"\nadvertise = \"w1.example\"\n",
            "the agent would obey whoever reaches 0.0.0.0:7433; join a cluster (ferry agent join), or let `listen` be an \
             address like 127.0.0.1:7433, or say `insecure = true` in the configuration if nobody else reaches it",
        ),
        (
            "listen = \"127.0.0.1:7433\"\nexport_listen = \"0.0.0.0:0\"\n",
            "volumes would be read by whoever reaches 0.0.0.0:0; join a cluster (ferry agent join), or give `tls`, or let \
             `export_listen` be an address like 127.0.0.1:0, or say `insecure = true` in the configuration",
        ),
    ];
    for (lines, sentence) in cases {
        fs::write(&file, format!("{begin}{lines}")).unwrap();
        assert_eq!(agent_refusal(&file), sentence, "{lines}");
    }
}

#[test]
fn an_agent_is_asked_at_its_socket_by_its_own_user_and_leaves_none_behind() {
    let cluster = Cluster::of(&[("w1", "")]);
    let w1 = &cluster.workers[0];
    let socket = w1.dir.join("agent.sock");
    assert_eq!(fs::metadata(&socket).unwrap().mode() & 0o777, 0o600);
    let url = format!("unix:{}", socket.display());
    let info: WorkerInfo = w1.ask(&["worker", "show", "--agent", &url]);
    assert_eq!(info.name.as_str(), "w1");
    let said = w1.ferry(&["worker", "cordon", "--agent", &url]);
    assert_eq!(said.code, Some(0), "{said:?}");
    // One that was killed is followed by one that listens there again.
    w1.restart();
    let info: WorkerInfo = w1.ask(&["worker", "show", "--agent", &url]);
    assert!(info.cordon.is_some(), "{info:?}");
    let said = w1.ferry(&["worker", "shutdown", "--agent", &url]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(w1.wait_for_end().success());
    assert!(!socket.exists(), "nobody listens there any more");
    let said = w1.ferry(&["worker", "show", "--agent", &url]);
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(said.sentence().contains(&url), "{said:?}");
}

#[test]
fn a_disk_that_fills_up_reaches_the_guest_and_more_room_makes_it_go_on() {
    needs!(QEMU_IO);
    let cluster = Cluster::configured(&[("w1", "")]);
    let w1 = &cluster.workers[0];
    let Some(disk) = SmallDisk::mount(&w1.dir, 24 * MIB) else {
        return skip(test_name!(), "the right to mount a tmpfs (run as root)");
    };
    w1.start();
    let web = create(w1, "web", &["data=64MiB"]);
    let volume = w1.volume("data");
    qemu_io(&volume.guest_uri, &["write -P 1 0 8M", "flush"]);
    let full = run("qemu-io", &["-f", "raw", "-c", "write -P 2 16M 32M", &volume.guest_uri]);
    assert!(text(&full).contains("No space left on device"), "{}", text(&full));
    qemu_io(&volume.guest_uri, &["read -P 1 0 8M", "read -P 0 48M 16M"]);
    assert_eq!(w1.volume("data").server, volume.server);
    assert_eq!(w1.machine("web").state, web.state);

    // An agent that can note nothing any more says so and ends; machine and volume go on without it.
    let said = w1.ferry(&["machine", "stop", "web"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let sentence = "the records could not be written, so the agent stops: database or disk is full; free space or mend \
                    the disk and start it again";
    assert_eq!(said.sentence(), sentence);
    assert_eq!(w1.wait_for_end().code(), Some(1));
    qemu_io(&volume.guest_uri, &["read -P 1 0 8M"]);

    disk.resize(64 * MIB);
    qemu_io(&volume.guest_uri, &["write -P 2 16M 32M", "flush"]);
    w1.start();
    assert_eq!(w1.machine("web").state, web.state);
    let stopped: Machine = w1.ask(&["machine", "stop", "web"]);
    assert_eq!(stopped.state, MachineState::Stopped);
    qemu_io(&volume.guest_uri, &["read -P 1 0 8M", "read -P 0 8M 8M", "read -P 2 16M 32M"]);
}
