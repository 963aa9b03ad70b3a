//! What dies while a fork follows. The volume that is forked hydrates itself, from a source that gives some of it only when
//! the test says so: so its fork surely lacks something, and some of that is owed to it by the source.

use crate::support::cluster::{Cluster, Worker};
use crate::support::gated::Gated;
use crate::support::image;
use ferry_api::{MachineState, ServerState, Volume};
use ferry_volume::client::BlockClient;

const MIB: u64 = 1 << 20;
const SIZE_BYTES: u64 = 8 * MIB;
/// What the source holds back.
const GATE_BYTES: u64 = 4 * MIB;
const BLOCK: usize = 4096;
/// Blocks that the machine writes before and after the fork, all of them held back.
const BEFORE: u64 = MIB;
const AFTER: u64 = 2 * MIB;

/// A machine on `w1`, whose volume `data` has a fork `copy` on `w2`.
struct Forked {
    cluster: Cluster,
    gated: Gated,
    /// What the fork must hold.
    as_it_was: Vec<u8>,
}

impl Forked {
    fn new() -> Self {
        let cluster = Cluster::two();
        let path = cluster.dir().join("image");
        image::dense(&path, SIZE_BYTES, 7);
        let gated = Gated::serve(cluster.dir(), &path, SIZE_BYTES, GATE_BYTES);
        let (w1, w2) = cluster.pair();
        let _: Volume = w1.ask(&["volume", "import", "disk", "--from", &gated.uri()]);
        let web = ["machine", "create", "web", "--volume", "data=disk", "--", "sleep", "1000"];
        let _: ferry_api::Machine = w1.ask(&web);
        let mut as_it_was = std::fs::read(&path).unwrap();
        write(w1, BEFORE, 1);
        as_it_was[BEFORE as usize..][..BLOCK].fill(1);
        let _: Volume = w1.ask(&["volume", "fork", "data", "copy", "--to", &w2.name]);
        write(w1, BEFORE, 2);
        write(w1, AFTER, 3);
        let owed = w1.volume("data").forks[0].bytes_owed;
        assert_eq!(owed, BLOCK as u64, "what the machine has overwritten before it came");
        Self { cluster, gated, as_it_was }
    }

    fn pair(&self) -> (&Worker, &Worker) {
        self.cluster.pair()
    }

    /// What the machine's volume holds when all has arrived.
    fn as_it_is(&self) -> Vec<u8> {
        let mut bytes = self.as_it_was.clone();
        bytes[BEFORE as usize..][..BLOCK].fill(2);
        bytes[AFTER as usize..][..BLOCK].fill(3);
        bytes
    }
}

fn guest(worker: &Worker, name: &str) -> BlockClient {
    BlockClient::connect_text(&worker.volume(name).guest_uri).unwrap()
}

fn write(worker: &Worker, offset: u64, value: u8) {
    guest(worker, "data").write_at(offset, &[value; BLOCK]).unwrap();
}

fn all(worker: &Worker, name: &str) -> Vec<u8> {
    let mut bytes = vec![0; SIZE_BYTES as usize];
    guest(worker, name).read_at(0, &mut bytes).unwrap();
    bytes
}

fn server(volume: &Volume) -> Option<u32> {
    match volume.server {
        ServerState::Running { pid } => Some(pid),
        ServerState::NotNeeded | ServerState::Down { .. } => None,
    }
}

/// Kills a volume's server, and returns when it was started again.
fn kill_server(worker: &Worker, name: &str) {
    let before = server(&worker.volume(name)).expect("a server runs");
    worker.kill_process(before);
    worker.wait_for_volume(name, "its server runs again", |v| server(v).is_some_and(|pid| pid != before));
}

fn is_whole(volume: &Volume) -> bool {
    volume.source.is_none()
}

#[test]
fn a_fork_whose_origins_server_dies_says_what_to_do_and_the_machine_goes_on() {
    let forked = Forked::new();
    let (w1, w2) = forked.pair();
    let MachineState::Running { pid, .. } = w1.machine("web").state else { panic!("it runs") };
    kill_server(w1, "data");
    // Unflushed, and yet there: only a power loss takes what was acknowledged.
    write(w1, AFTER, 3);
    assert!(matches!(w1.machine("web").state, MachineState::Running { pid: is, .. } if is == pid));
    w1.wait_for_volume("data", "the fork is struck off", |volume| volume.forks.is_empty());
    let lost = |volume: &Volume| volume.source.as_ref().is_some_and(|source| source.is_gone);
    w2.wait_for_volume("copy", "it knows that its snapshot is gone", lost);
    let shown = w2.ferry(&["volume", "show", "copy"]).stdout;
    assert!(shown.contains("open, cut off") && shown.contains("delete copy and fork again"), "{shown}");
    assert!(w2.ferry(&["volume", "list"]).stdout.contains("cut off"));
    // Which is then done.
    assert_eq!(w2.ferry(&["volume", "delete", "copy"]).code, Some(0));
    write(w1, BEFORE, 2);
    let _: Volume = w1.ask(&["volume", "fork", "data", "copy", "--to", &w2.name]);
    forked.gated.open();
    w2.wait_for_volume("copy", "it is whole", is_whole);
    assert!(all(w2, "copy") == forked.as_it_is(), "the new fork is the volume as it was then");
    w1.wait_for_volume("data", "it is whole", |volume| is_whole(volume) && volume.forks.is_empty());
    assert!(all(w1, "data") == forked.as_it_is(), "the machine has what it wrote");
}

#[test]
fn a_fork_whose_own_server_dies_goes_on_and_so_does_one_whose_agents_die() {
    let forked = Forked::new();
    let (w1, w2) = forked.pair();
    kill_server(w2, "copy");
    w1.restart();
    w2.restart();
    let has_source =
        |volume: &Volume| volume.source.as_ref().is_some_and(|source| source.connected == Some(true));
    w2.wait_for_volume("copy", "it reads its snapshot again", has_source);
    assert_eq!(w1.volume("data").forks.len(), 1);
    forked.gated.open();
    w2.wait_for_volume("copy", "it is whole", is_whole);
    w1.wait_for_volume("data", "it is whole", |volume| is_whole(volume) && volume.forks.is_empty());
    assert!(all(w2, "copy") == forked.as_it_was, "the fork is the volume as it was");
    assert!(all(w1, "data") == forked.as_it_is(), "the machine has what it wrote");
}
