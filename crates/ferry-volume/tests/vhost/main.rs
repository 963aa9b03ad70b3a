//! The vhost-user-blk frontend as virtual machines meet it: real servers, real shared memory, real virtqueues.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod moving;
mod vmm;
#[path = "../support/wait.rs"]
mod wait;

use ferry_volume::client::BlockClient;
use ferry_volume::control::{Client, Phase};

use ferry_volume::{
    CreateOptions, Frontend, FrontendKind, IoBackend, REGION_BYTES_DEFAULT, ServeError, ServeOptions,
    SourceUri, create, serve,
};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use vhost::VhostBackend;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};
use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vmm::{Answer, Ask, DATA_BYTES_MAX, IO_ERROR, MODERN, OK, PLAIN, SLOTS, UNSUPPORTED, Vmm};
use wait::{LOOK_EVERY, own_address, until};

const MIB: u64 = 1 << 20;
const ID: &str = "01JD9Z6M4Q5R6S7T8V9WAXBYCZ";
const VMM: Frontend = Frontend::VhostUserBlk {};

/// A volume of 64 MiB with a server on a thread.
struct Volume {
    dir: PathBuf,
    server: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Volume {
    fn create(dir: PathBuf, generation: u64, source: Option<SourceUri>) -> Self {
        Self::create_in(Phase::Open, dir, generation, source)
    }

    fn create_in(phase: Phase, dir: PathBuf, generation: u64, source: Option<SourceUri>) -> Self {
        let options = CreateOptions {
            dir: dir.clone(),
            id: ID.to_owned(),
            size_bytes: 64 * MIB,
            region_bytes: REGION_BYTES_DEFAULT,
            generation,
            phase,
            source,
            born_from: None,
            base: None,
            device: None,
            direct: false,
        };
        create(&options).unwrap();
        let mut volume = Self { dir, server: None };
        volume.start();
        volume
    }

    fn start(&mut self) {
        let options =
            ServeOptions { dir: self.dir.clone(), io: IoBackend::Auto, tls: None, count_heat: true };
        let server = std::thread::spawn(move || serve(&options));
        while Client::connect(&self.dir).is_err() {
            assert!(!server.is_finished(), "the server ended: {:?}", server.join());
            std::thread::sleep(LOOK_EVERY);
        }
        self.server = Some(server);
    }

    fn stop(&mut self) {
        self.control().shutdown().unwrap();
        self.server.take().expect("it was started").join().unwrap().unwrap();
    }

    fn control(&self) -> Client {
        Client::connect(&self.dir).unwrap()
    }

    fn attach(&self) -> PathBuf {
        self.control().attach(&VMM).unwrap()
    }

    fn nbd(&self) -> BlockClient {
        BlockClient::connect_unix(&self.dir.join("guest.sock")).unwrap()
    }

    fn seal_and_export(&self) -> SourceUri {
        let mut control = self.control();
        let listen = control.export(own_address()).unwrap();
        control.seal().unwrap();
        let status = control.status().unwrap();
        format!("nbd://{listen}/{}@{}", status.id, status.generation).parse().unwrap()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.server.is_some() && !std::thread::panicking() {
            self.stop();
        }
    }
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(31) ^ seed.wrapping_mul(0x9e37_79b9)) as u8 | 1).collect()
}

fn write(sector: u64, data: Vec<u8>) -> Ask {
    Ask { kind: VIRTIO_BLK_T_OUT, sector, data, room: 0 }
}

fn read(sector: u64, room: usize) -> Ask {
    Ask { kind: VIRTIO_BLK_T_IN, sector, data: Vec::new(), room: room as u32 }
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

#[test]
fn what_a_guest_wrote_and_flushed_is_there_for_everybody() {
    let tmp = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(tmp.path().join(ID), 1, None);
    let socket = volume.attach();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let written = pattern(1, DATA_BYTES_MAX);
    for manners in [MODERN, PLAIN] {
        let mut vmm = Vmm::boot(&socket, 1, manners);
        let disk = &mut vmm.queues[0];
        assert_eq!(disk.status(VIRTIO_BLK_T_OUT, 100, &written), OK);
        assert_eq!(disk.read(100, DATA_BYTES_MAX as u32), written);
        assert_eq!(disk.read(99, 1024)[..512], [0; 512]);
        assert_eq!(disk.status(VIRTIO_BLK_T_FLUSH, 0, &[]), OK);
        let mut seen = vec![0; DATA_BYTES_MAX];
        volume.nbd().read_at(51200, &mut seen).unwrap();
        assert_eq!(seen, written);
        volume.nbd().write_at(8 * MIB, &[9; 512]).unwrap();
        assert_eq!(disk.read(8 * MIB / 512, 512), [9; 512]);
    }
    volume.stop();
    volume.start();
    let socket = volume.attach();
    assert_eq!(Vmm::boot(&socket, 1, MODERN).queues[0].read(100, DATA_BYTES_MAX as u32), written);
}

#[test]
fn many_requests_in_many_queues_are_all_answered_once() {
    let tmp = tempfile::tempdir().unwrap();
    let volume = Volume::create(tmp.path().join(ID), 1, None);
    let socket = volume.attach();
    for manners in [MODERN, PLAIN] {
        let mut vmm = Vmm::boot(&socket, 4, manners);
        std::thread::scope(|scope| {
            for (number, disk) in vmm.queues.iter_mut().enumerate() {
                scope.spawn(move || hammer(number as u64, disk));
            }
        });
    }
}

/// Writes a stretch of its own in bursts, then reads it back in bursts.
fn hammer(number: u64, disk: &mut vmm::Driver) {
    const ROUNDS: u64 = 20;
    let sector = |round: u64, slot: u16| number * 32768 + round * 256 + u64::from(slot) * 8;
    let content = |sector: u64| pattern(sector, 4096);
    for round in 0..ROUNDS {
        let asks = (0..SLOTS).map(|n| write(sector(round, n), content(sector(round, n))));
        let mut under_way: Vec<u16> = asks.map(|ask| disk.submit(&ask).unwrap()).collect();
        disk.kick();
        while !under_way.is_empty() {
            let Answer { slot, status, .. } = disk.wait();
            assert_eq!(status, OK);
            let place = under_way.iter().position(|&s| s == slot).expect("a request is answered once");
            under_way.swap_remove(place);
        }
    }
    for round in 0..ROUNDS {
        let mut expected = HashMap::new();
        for n in 0..SLOTS {
            expected.insert(disk.submit(&read(sector(round, n), 4096)).unwrap(), sector(round, n));
            // Each is kicked for on its own, as by a guest with many processes.
            disk.kick();
        }
        while !expected.is_empty() {
            let Answer { slot, status, data, .. } = disk.wait();
            let sector = expected.remove(&slot).expect("a request is answered once");
            assert!(status == OK && data == content(sector), "sector {sector}");
        }
    }
    assert!(disk.take().is_none(), "nothing is answered twice");
}

#[test]
fn what_a_guest_discards_or_zeroes_reads_as_zeroes_and_gives_its_space_back() {
    let tmp = tempfile::tempdir().unwrap();
    let volume = Volume::create(tmp.path().join(ID), 1, None);
    let mut vmm = Vmm::boot(&volume.attach(), 1, MODERN);
    let disk = &mut vmm.queues[0];
    for n in 0..64 {
        assert_eq!(disk.status(VIRTIO_BLK_T_OUT, n * 64, &pattern(n, 32768)), OK);
    }
    assert_eq!(disk.status(VIRTIO_BLK_T_FLUSH, 0, &[]), OK);
    let space = || std::fs::metadata(volume.dir.join("data")).unwrap().blocks() * 512;
    let before = space();
    let two = [range(0, 1024, 0), range(2048, 1024, 0)].concat();
    assert_eq!(disk.status(VIRTIO_BLK_T_DISCARD, 0, &two), OK);
    assert_eq!(disk.status(VIRTIO_BLK_T_WRITE_ZEROES, 0, &range(1024, 64, 0)), OK);
    assert_eq!(disk.status(VIRTIO_BLK_T_WRITE_ZEROES, 0, &range(3073, 63, 1)), OK);
    assert_eq!(disk.status(VIRTIO_BLK_T_FLUSH, 0, &[]), OK);
    assert!(space() + MIB <= before, "{before} became {}", space());
    for sector in [0, 960, 1024, 2048, 2984] {
        assert_eq!(disk.read(sector, 32768), [0; 32768], "sector {sector}");
    }
    assert_eq!(disk.read(3072, 512), pattern(48, 512));
    assert_eq!(disk.read(3073, 63 * 512), vec![0; 63 * 512]);
    assert_eq!(disk.read(1088, 512), pattern(17, 512));
}

#[test]
fn a_guest_learns_what_its_disk_is() {
    let tmp = tempfile::tempdir().unwrap();
    let volume = Volume::create(tmp.path().join(ID), 1, None);
    let mut vmm = Vmm::boot(&volume.attach(), 2, MODERN);
    assert_eq!(vmm.config(0, 8), 64 * MIB / 512);
    assert_eq!(vmm.config(20, 4), 512);
    assert_eq!(vmm.config(24, 1), 3);
    let serial = |room| Ask { kind: VIRTIO_BLK_T_GET_ID, room, ..Ask::default() };
    let disk = &mut vmm.queues[1];
    assert_eq!(disk.ask(&serial(20)).data, ID.as_bytes()[..20]);
    assert_eq!(disk.ask(&serial(3)).data, ID.as_bytes()[..3]);
}

#[test]
fn a_request_that_makes_no_sense_fails_alone() {
    let tmp = tempfile::tempdir().unwrap();
    let volume = Volume::create(tmp.path().join(ID), 1, None);
    let mut vmm = Vmm::boot(&volume.attach(), 1, MODERN);
    let disk = &mut vmm.queues[0];
    let end = 64 * MIB / 512;
    assert_eq!(disk.status(VIRTIO_BLK_T_OUT, end, &[1; 512]), IO_ERROR);
    assert_eq!(disk.status(VIRTIO_BLK_T_OUT, u64::MAX, &[1; 512]), IO_ERROR);
    assert_eq!(disk.status(VIRTIO_BLK_T_OUT, 0, &[1; 100]), IO_ERROR);
    assert_eq!(disk.ask(&read(end - 1, 1024)).status, IO_ERROR);
    assert_eq!(disk.status(VIRTIO_BLK_T_DISCARD, 0, &range(0, 8, 1)), UNSUPPORTED);
    assert_eq!(disk.status(VIRTIO_BLK_T_DISCARD, 0, &[0; 17]), IO_ERROR);
    assert_eq!(disk.status(99, 0, &[]), UNSUPPORTED);
    // Data that lies where there is no memory.
    let at = disk.slot(0);
    for (kind, flags) in [(VIRTIO_BLK_T_IN, VRING_DESC_F_WRITE), (VIRTIO_BLK_T_OUT, 0)] {
        let head = disk.submit(&Ask { kind, ..Ask::default() });
        let answer = disk.wait_after_kick();
        assert_eq!((Some(answer.slot), answer.status), (head, IO_ERROR), "a request without data");
        disk.describe_direct(0, (at, 16, VRING_DESC_F_NEXT, 1));
        disk.describe_direct(1, (1 << 50, 4096, flags | VRING_DESC_F_NEXT, 2));
        disk.describe_direct(2, (at + 16, 1, VRING_DESC_F_WRITE, 0));
        disk.make_available(0);
        assert_eq!(disk.wait_after_kick().status, IO_ERROR, "{kind}");
    }
    assert_eq!(disk.status(VIRTIO_BLK_T_OUT, 0, &[7; 512]), OK);
    assert_eq!(disk.read(0, 512), [7; 512]);
}

#[test]
fn a_queue_that_breaks_the_rules_hurts_nobody_else() {
    let tmp = tempfile::tempdir().unwrap();
    let volume = Volume::create(tmp.path().join(ID), 1, None);
    let socket = volume.attach();
    let mut vmm = Vmm::boot(&socket, 8, PLAIN);
    let breaks: [fn(&mut vmm::Driver); 7] = [
        |disk| disk.claim(500),
        |disk| disk.make_available(4096),
        // Round in circles.
        |disk| {
            disk.describe_direct(0, (0, 16, VRING_DESC_F_NEXT, 0));
            disk.make_available(0);
        },
        // Nowhere to put the status.
        |disk| {
            disk.describe_direct(0, (0, 16, 0, 0));
            disk.make_available(0);
        },
        |disk| {
            disk.describe_direct(0, (0, 16, VRING_DESC_F_NEXT, 1));
            disk.describe_direct(1, (1 << 50, 1, VRING_DESC_F_WRITE, 0));
            disk.make_available(0);
        },
        // Something to read after something to write.
        |disk| {
            disk.describe_direct(0, (0, 16, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1));
            disk.describe_direct(1, (0, 16, 0, 0));
            disk.make_available(0);
        },
        // A table of descriptors that has no end.
        |disk| {
            disk.describe_direct(0, (0, u32::MAX - 15, 4, 0));
            disk.make_available(0);
        },
    ];
    for (number, breaks) in breaks.into_iter().enumerate() {
        breaks(&mut vmm.queues[number]);
        vmm.queues[number].kick();
        vmm.queues[number].error.wait();
        assert_eq!(vmm.queues[7].status(VIRTIO_BLK_T_OUT, 0, &[7; 512]), OK);
    }
    volume.nbd().write_at(0, &[8; 512]).unwrap();
    assert_eq!(vmm.queues[7].read(0, 512), [8; 512]);
    drop(vmm);
    assert_eq!(Vmm::boot(&socket, 1, MODERN).queues[0].read(0, 512), [8; 512]);
}

#[test]
fn a_vmm_that_talks_nonsense_is_sent_away_and_the_next_one_is_served() {
    let tmp = tempfile::tempdir().unwrap();
    let volume = Volume::create(tmp.path().join(ID), 1, None);
    let socket = volume.attach();
    let header = |request: u32, len: u32| [request, 1, len].map(u32::to_ne_bytes).concat();
    for nonsense in [vec![0xff; 12], header(5, 4096), header(21, 0), [header(8, 8), vec![0xff; 8]].concat()] {
        let mut vmm = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        vmm.write_all(&nonsense).unwrap();
        vmm.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(vmm.read(&mut [0; 1]).unwrap_or(0), 0, "it is sent away");
    }
    assert_eq!(Vmm::boot(&socket, 1, MODERN).queues[0].read(0, 512), [0; 512]);
}

#[test]
fn a_queue_that_is_stopped_has_answered_everything_and_goes_on_where_it_was() {
    let tmp = tempfile::tempdir().unwrap();
    let volume = Volume::create(tmp.path().join(ID), 1, None);
    let mut vmm = Vmm::boot(&volume.attach(), 1, MODERN);
    let mut next = 0;
    for _ in 0..20 {
        vmm.queues[0].call.quiet();
        vmm.queues[0].want_call();
        let before = vmm.queues[0].device_used();
        for n in 0..SLOTS {
            vmm.queues[0].submit(&write(u64::from(n) * 8, pattern(7, 4096))).unwrap();
        }
        vmm.queues[0].kick();
        next = vmm.frontend.get_vring_base(0).unwrap() as u16;
        let answered = vmm.queues[0].device_used();
        assert_eq!(answered, next, "what was taken was answered");
        if answered != before {
            vmm.queues[0].call.wait();
        }
        vmm.start_queues();
        while vmm.queues[0].is_waiting() {
            assert_eq!(vmm.queues[0].wait().status, OK);
        }
    }
    assert!(next > 0);
}

#[test]
fn what_was_under_way_when_the_server_ended_is_answered_by_the_next_one() {
    let tmp = tempfile::tempdir().unwrap();
    let mut home = Volume::create(tmp.path().join("home"), 1, None);
    let content = pattern(5, 4096);
    for n in 0..8 {
        home.nbd().write_at(n * MIB, &content).unwrap();
    }
    let source = home.seal_and_export();
    home.stop();
    let mut away = Volume::create(tmp.path().join("away"), 2, Some(source));
    let socket = away.attach();
    let mut vmm = Vmm::boot(&socket, 2, MODERN);
    // These wait for a source that is not there; what is written meanwhile is answered.
    let mut waiting = Vec::new();
    for n in 0..8 {
        waiting.push(vmm.queues[0].submit(&read(n * MIB / 512, 4096)).unwrap());
        assert_eq!(vmm.queues[0].device_used(), n as u16);
        let written = vmm.queues[0].ask(&write(32 * MIB / 512 + n * 8, vec![3; 4096]));
        assert_eq!(written.status, OK);
    }
    away.stop();
    home.start();
    away.start();
    vmm.queues[1].call.quiet();
    vmm.reconnect(&away.attach());
    // It may have been answered, and the guest not told.
    vmm.queues[1].call.wait();
    while !waiting.is_empty() {
        let Answer { slot, status, data, .. } = vmm.queues[0].wait();
        assert!(status == OK && data == content);
        waiting.retain(|&w| w != slot);
    }
    assert_eq!(vmm.queues[1].read(32 * MIB / 512, 4096), [3; 4096]);
}

#[test]
fn one_vmm_is_served_at_a_time_and_none_without_the_frontend() {
    let tmp = tempfile::tempdir().unwrap();
    let volume = Volume::create(tmp.path().join(ID), 1, None);
    let socket = volume.attach();
    let mut first = Vmm::boot(&socket, 1, MODERN);
    let path = socket.clone();
    let second = std::thread::spawn(move || Vmm::boot(&path, 1, MODERN).queues[0].read(0, 512));
    assert_eq!(first.queues[0].status(VIRTIO_BLK_T_OUT, 0, &[6; 512]), OK);
    assert!(!second.is_finished());
    drop(first);
    assert_eq!(second.join().unwrap(), [6; 512]);
    volume.control().detach(FrontendKind::VhostUserBlk).unwrap();
    assert!(!Path::new(&socket).exists());
    assert!(vhost::vhost_user::Frontend::connect(&socket, 1).is_err());
}

#[test]
fn a_seal_takes_the_disk_away_from_the_machine() {
    let tmp = tempfile::tempdir().unwrap();
    let volume = Volume::create(tmp.path().join(ID), 1, None);
    let socket = volume.attach();
    let vmm = Vmm::boot(&socket, 1, MODERN);
    volume.control().seal().unwrap();
    until(|| (!socket.exists()).then_some(()));
    assert!(vmm.frontend.get_features().is_err(), "the VMM was sent away");
    volume.control().unseal().unwrap();
    assert_eq!(Vmm::boot(&volume.attach(), 1, MODERN).queues[0].status(VIRTIO_BLK_T_OUT, 0, &[1; 512]), OK);
}

#[test]
fn a_guest_learns_that_its_disk_has_grown_and_uses_what_is_new() {
    let tmp = tempfile::tempdir().unwrap();
    let volume = Volume::create(tmp.path().join(ID), 1, None);
    let mut vmm = Vmm::boot(&volume.attach(), 1, MODERN);
    let mut news = vmm.listen();
    let end = 64 * MIB / 512;
    assert_eq!(vmm.queues[0].status(VIRTIO_BLK_T_OUT, end, &[1; 512]), IO_ERROR);
    volume.control().grow(128 * MIB).unwrap();
    let mut message = [0; 12];
    news.read_exact(&mut message).unwrap();
    assert_eq!(message, [2_u32, 1, 0].map(u32::to_ne_bytes).concat()[..], "the configuration has changed");
    assert_eq!(vmm.config(0, 8), 128 * MIB / 512);
    assert_eq!(vmm.queues[0].status(VIRTIO_BLK_T_OUT, end, &[1; 512]), OK);
    assert_eq!(vmm.queues[0].read(end, 512), [1; 512]);
}
