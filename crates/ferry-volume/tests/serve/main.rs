//! Volume servers as their users meet them: real sockets, real files, several servers in one process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod device;
mod direct;
mod finish;
mod frontends;
mod grow;
mod heat;
mod killed;
mod live;
mod precopy;
mod share;
mod snapshots;
#[path = "../support/wait.rs"]
mod wait;

use ferry_engine::limits::GUARANTEED_BYTES_PER_S;
use ferry_nbd::wire;
use ferry_volume::client::{BlockClient, BlockError};
use ferry_volume::control::{Client, ControlError, Phase, Status};
use ferry_volume::{
    CreateOptions, IoBackend, REGION_BYTES_DEFAULT, ServeError, ServeOptions, SourceUri, create, serve,
};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use wait::{LOOK_EVERY, own_address, until};

const MIB: u64 = 1 << 20;

/// All of this is run twice: as `serve`, and over stores past the page cache as `serve_direct`.
fn stores_are_direct() -> bool {
    env!("CARGO_CRATE_NAME") == "serve_direct"
}

/// A volume with a server on a thread.
struct Volume {
    dir: PathBuf,
    io: IoBackend,
    server: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Volume {
    fn create(dir: PathBuf, id: &str, size_bytes: u64, generation: u64, source: Option<SourceUri>) -> Self {
        Self::create_with(IoBackend::Auto, dir, id, size_bytes, generation, source)
    }

    fn create_with(
        io: IoBackend,
        dir: PathBuf,
        id: &str,
        size_bytes: u64,
        generation: u64,
        source: Option<SourceUri>,
    ) -> Self {
        let options = CreateOptions {
            dir: dir.clone(),
            id: id.to_owned(),
            size_bytes,
            region_bytes: REGION_BYTES_DEFAULT,
            generation,
            phase: Phase::Open,
            source,
            born_from: None,
            base: None,
            device: None,
            direct: stores_are_direct(),
        };
        create(&options).unwrap();
        let mut volume = Self { dir, io, server: None };
        volume.start();
        volume
    }

    fn start(&mut self) {
        let options = ServeOptions { dir: self.dir.clone(), io: self.io, tls: None, count_heat: true };
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

    /// What a server that does not begin says.
    fn refusal(&self) -> String {
        serve(&ServeOptions { dir: self.dir.clone(), io: self.io, tls: None, count_heat: true })
            .unwrap_err()
            .to_string()
    }

    fn control(&self) -> Client {
        Client::connect(&self.dir).unwrap()
    }

    fn guest(&self) -> BlockClient {
        BlockClient::connect_unix(&self.dir.join("guest.sock")).unwrap()
    }

    /// Seals and exports the volume; gives the address for another server.
    fn seal_and_export(&self) -> SourceUri {
        let mut control = self.control();
        let listen = control.export(own_address()).unwrap();
        control.seal().unwrap();
        let status = control.status().unwrap();
        format!("nbd://{listen}/{}@{}", status.id, status.generation).parse().unwrap()
    }

    fn until(&self, condition: impl Fn(&Status) -> bool) -> Status {
        let mut control = self.control();
        until(|| Some(control.status().unwrap()).filter(&condition))
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.server.is_some() && !std::thread::panicking() {
            self.stop();
        }
    }
}

const A: &str = "01JD9Z6M4Q5R6S7T8V9WAXBYCZ";
const B: &str = "01JD9Z6M4Q5R6S7T8V9WAXBYD0";

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) | 1).collect()
}

fn read(client: &mut BlockClient, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    client.read_at(offset, &mut bytes).unwrap();
    bytes
}

#[test]
fn what_a_guest_flushed_is_there_after_a_restart() {
    let tmp = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(tmp.path().join(A), A, 64 * MIB, 1, None);
    let written = pattern(3, 10_000);
    let mut guest = volume.guest();
    guest.write_at(5 * MIB + 123, &written).unwrap();
    guest.flush().unwrap();
    drop(guest);
    volume.stop();
    volume.start();
    let mut guest = volume.guest();
    assert_eq!(read(&mut guest, 5 * MIB + 123, 10_000), written);
    assert_eq!(read(&mut guest, 0, 4096), [0; 4096]);
}

#[test]
fn a_volume_that_stands_by_ends_when_it_is_told_to() {
    let tmp = tempfile::tempdir().unwrap();
    let options = CreateOptions {
        dir: tmp.path().join(A),
        id: A.to_owned(),
        size_bytes: 64 * MIB,
        region_bytes: REGION_BYTES_DEFAULT,
        generation: 2,
        phase: Phase::Standby,
        source: None,
        born_from: None,
        base: None,
        device: None,
        direct: stores_are_direct(),
    };
    create(&options).unwrap();
    let mut volume = Volume { dir: options.dir, io: IoBackend::Auto, server: None };
    volume.start();
    volume.stop();
}

#[test]
fn a_clone_is_usable_at_once_and_becomes_whole_without_copying_holes() {
    clone_of_a_sparse_volume(IoBackend::IoUring);
}

#[test]
fn a_clone_does_the_same_where_io_uring_is_forbidden() {
    clone_of_a_sparse_volume(IoBackend::Portable);
}

fn clone_of_a_sparse_volume(io: IoBackend) {
    let tmp = tempfile::tempdir().unwrap();
    let home = Volume::create_with(io, tmp.path().join("home"), A, 1024 * MIB, 1, None);
    let (first, last) = (pattern(1, 3 * MIB as usize), pattern(2, 4096));
    let mut guest = home.guest();
    guest.write_at(100 * MIB, &first).unwrap();
    guest.write_at(1024 * MIB - 4096, &last).unwrap();
    guest.flush().unwrap();
    let source = home.seal_and_export();
    let clone = Volume::create_with(io, tmp.path().join("away"), A, 1024 * MIB, 2, Some(source));
    let mut guest = clone.guest();
    assert_eq!(read(&mut guest, 101 * MIB, 4096), first[MIB as usize..][..4096]);
    guest.write_at(100 * MIB + 4096, &[9; 4096]).unwrap();
    let status = clone.until(|s| s.hydration.complete);
    assert!(status.hydration.bytes_fetched <= 5 * MIB, "{status:?}");
    assert_eq!(status.hydration.bytes_verified, status.hydration.bytes_fetched, "{status:?}");
    assert_eq!(status.hydration.checksum_errors, 0);
    drop(home);
    let mut expected = first;
    expected[4096..8192].fill(9);
    assert_eq!(read(&mut guest, 100 * MIB, expected.len()), expected);
    assert_eq!(read(&mut guest, 1024 * MIB - 4096, 4096), last);
    assert!(fs::metadata(tmp.path().join("away/data")).unwrap().blocks() * 512 <= 8 * MIB);
}

#[test]
fn reads_of_what_has_not_arrived_wait_until_the_source_is_back() {
    let tmp = tempfile::tempdir().unwrap();
    let mut home = Volume::create(tmp.path().join("home"), A, 64 * MIB, 1, None);
    let content = pattern(5, 8 * MIB as usize);
    home.guest().write_at(0, &content).unwrap();
    let source = home.seal_and_export();
    home.stop();
    let clone = Volume::create(tmp.path().join("away"), A, 64 * MIB, 2, Some(source));
    let mut guest = clone.guest();
    guest.write_at(MIB, &[7; 4096]).unwrap();
    guest.flush().unwrap();
    assert_eq!(read(&mut guest, MIB, 4096), [7; 4096], "what the guest wrote does not need the source");
    let waiting = std::thread::spawn(move || read(&mut guest, 4 * MIB, 4096));
    clone.until(|s| s.source.as_ref().is_some_and(|source| source.last_error.is_some()));
    assert!(!waiting.is_finished());
    home.start();
    assert_eq!(waiting.join().unwrap(), content[4 * MIB as usize..][..4096]);
    clone.until(|s| s.hydration.complete);
}

#[test]
fn a_raw_file_can_be_a_source() {
    let tmp = tempfile::tempdir().unwrap();
    let image = tmp.path().join("disk.raw");
    let file = fs::File::create(&image).unwrap();
    file.set_len(20 * MIB + 100).unwrap();
    let content = pattern(8, 3 * MIB as usize);
    file.write_all_at(&content, 7 * MIB).unwrap();
    file.write_all_at(b"end", 20 * MIB + 97).unwrap();
    let source = SourceUri::File(image);
    let clone = Volume::create(tmp.path().join(B), B, 20 * MIB + 512, 1, Some(source));
    let mut guest = clone.guest();
    assert_eq!(read(&mut guest, 20 * MIB + 97, 10), b"end\0\0\0\0\0\0\0");
    clone.until(|s| s.hydration.complete);
    assert_eq!(read(&mut guest, 7 * MIB, content.len()), content);
}

#[test]
fn a_sealed_volume_refuses_writes_until_it_is_unsealed() {
    let tmp = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(tmp.path().join(A), A, MIB, 1, None);
    let mut guest = volume.guest();
    guest.write_at(0, &[1; 4096]).unwrap();
    volume.control().seal().unwrap();
    let refusal = guest.write_at(0, &[2; 4096]).unwrap_err();
    assert!(
        matches!(refusal, BlockError::Failed { errno: ferry_nbd::Errno::NotPermitted, .. }),
        "{refusal:?}"
    );
    volume.stop();
    volume.start();
    assert_eq!(volume.control().status().unwrap().phase, Phase::Sealed);
    assert!(matches!(volume.control().open().unwrap_err(), ControlError::Refused { .. }));
    volume.control().unseal().unwrap();
    let mut guest = volume.guest();
    guest.write_at(0, &[3; 4096]).unwrap();
    assert_eq!(read(&mut guest, 0, 4096), [3; 4096]);
}

#[test]
fn a_damaged_map_is_refused_and_left_as_it_is() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join(A);
    Volume::create(dir.clone(), A, MIB, 1, None).stop();
    let map = dir.join("map");
    let mut bytes = fs::read(&map).unwrap();
    bytes[40] ^= 1;
    fs::write(&map, &bytes).unwrap();
    let refusal = serve(&ServeOptions { dir: dir.clone(), io: IoBackend::Auto, tls: None, count_heat: true })
        .unwrap_err()
        .to_string();
    assert!(refusal.contains("map") && refusal.contains("damaged"), "{refusal}");
    assert_eq!(fs::read(&map).unwrap(), bytes);
    assert!(!Path::new(&dir.join("data")).metadata().unwrap().is_dir());
}

#[test]
fn a_volume_has_one_server_at_a_time() {
    let tmp = tempfile::tempdir().unwrap();
    let volume = Volume::create(tmp.path().join(A), A, MIB, 1, None);
    let refusal =
        serve(&ServeOptions { dir: volume.dir.clone(), io: IoBackend::Auto, tls: None, count_heat: true })
            .unwrap_err()
            .to_string();
    assert!(refusal.contains("in use"), "{refusal}");
}

#[test]
fn a_source_is_forgotten_only_when_nothing_is_remote() {
    let tmp = tempfile::tempdir().unwrap();
    let mut home = Volume::create(tmp.path().join("home"), A, 16 * MIB, 1, None);
    home.guest().write_at(0, &pattern(1, 1 << 20)).unwrap();
    let source = home.seal_and_export();
    home.stop();
    let clone = Volume::create(tmp.path().join("away"), A, 16 * MIB, 2, Some(source));
    assert!(matches!(clone.control().detach_source().unwrap_err(), ControlError::Refused { .. }));
    home.start();
    clone.until(|s| s.hydration.complete);
    clone.control().detach_source().unwrap();
    assert_eq!(clone.control().status().unwrap().source, None);
}

/// A sealed volume of 16 MiB whose server has ended, an open clone of it, and what both hold.
fn clone_of_a_stopped_home(tmp: &Path) -> (Volume, Volume, Vec<u8>) {
    let mut home = Volume::create(tmp.join("home"), A, 16 * MIB, 1, None);
    let bytes = pattern(1, 16 * MIB as usize);
    home.guest().write_at(0, &bytes).unwrap();
    let source = home.seal_and_export();
    home.stop();
    let clone = Volume::create(tmp.join("away"), A, 16 * MIB, 2, Some(source));
    (home, clone, bytes)
}

#[test]
fn a_budget_holds_the_background_alone_and_is_remembered() {
    let tmp = tempfile::tempdir().unwrap();
    let (mut home, mut clone, bytes) = clone_of_a_stopped_home(tmp.path());
    // Twelve days for each region after the first.
    let slow = NonZeroU64::new(1);
    clone.control().set_budget(slow).unwrap();
    home.start();
    clone.until(|s| s.hydration.bytes_fetched >= MIB);
    assert_eq!(read(&mut clone.guest(), 9 * MIB, 4096), bytes[9 * MIB as usize..][..4096]);
    assert_eq!(clone.control().status().unwrap().hydration.bytes_fetched, MIB + 4096);
    clone.stop();
    clone.start();
    let status = clone.until(|s| s.source.as_ref().is_some_and(|s| s.connected));
    assert_eq!(status.budget_bytes_per_s, slow);
    assert_eq!(read(&mut clone.guest(), 13 * MIB, 4096), bytes[13 * MIB as usize..][..4096]);
    assert!(clone.control().status().unwrap().hydration.bytes_fetched <= MIB + 4096);
    clone.control().set_budget(None).unwrap();
    let status = clone.until(|s| s.hydration.complete);
    assert_eq!(status.budget_bytes_per_s, None);
    assert_eq!(read(&mut clone.guest(), 0, bytes.len()), bytes);
}

#[test]
fn under_a_guard_that_nothing_satisfies_hydration_goes_on_slowly_and_ends() {
    let tmp = tempfile::tempdir().unwrap();
    let mut home = Volume::create(tmp.path().join("home"), A, 6 * MIB, 1, None);
    home.guest().write_at(0, &pattern(1, 6 * MIB as usize)).unwrap();
    let source = home.seal_and_export();
    home.stop();
    let mut clone = Volume::create(tmp.path().join("away"), A, 6 * MIB, 2, Some(source));
    // A microsecond: no guest is as quick as that. It is remembered, too.
    let bound = NonZeroU64::new(1);
    clone.control().set_guard(bound).unwrap();
    clone.stop();
    clone.start();
    home.start();
    let mut guest = clone.guest();
    let mut slowest = u64::MAX;
    let status = loop {
        (0..100).for_each(|_| guest.write_at(0, &[9; 4096]).unwrap());
        let status = clone.control().status().unwrap();
        slowest = slowest.min(status.guard_bytes_per_s.unwrap_or(u64::MAX));
        if status.hydration.complete {
            break status;
        }
        assert!(status.guest_p99_us.is_none_or(|us| us > 1), "{status:?}");
    };
    assert_eq!(slowest, GUARANTEED_BYTES_PER_S, "it backs off as far as it may");
    assert_eq!(status.guard_us, bound);
    assert_eq!(read(&mut guest, 0, 4096), [9; 4096]);
}

#[test]
fn making_a_volume_twice_is_making_it_once() {
    let tmp = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(tmp.path().join(A), A, MIB, 1, None);
    volume.guest().write_at(0, &[4; 4096]).unwrap();
    volume.stop();
    let mut volume = Volume::create(tmp.path().join(A), A, MIB, 1, None);
    assert_eq!(read(&mut volume.guest(), 0, 4096), [4; 4096]);
    volume.stop();
}

#[test]
fn a_read_of_thousands_of_scattered_remote_blocks_is_answered() {
    let tmp = tempfile::tempdir().unwrap();
    let mut home = Volume::create(tmp.path().join("home"), A, 32 * MIB, 1, None);
    let mut expected = pattern(6, 32 * MIB as usize);
    home.guest().write_at(0, &expected).unwrap();
    let source = home.seal_and_export();
    home.stop();
    let clone = Volume::create(tmp.path().join("away"), A, 32 * MIB, 2, Some(source));
    let mut guest = clone.guest();
    for block in (0..8192).step_by(2) {
        guest.write_at(block * 4096, &[9; 4096]).unwrap();
        expected[block as usize * 4096..][..4096].fill(9);
    }
    let waiting = std::thread::spawn(move || read(&mut guest, 0, 32 * MIB as usize));
    clone.until(|s| s.hydration.cold_reads == 1);
    home.start();
    assert!(waiting.join().unwrap() == expected);
}

#[test]
fn a_guest_that_takes_its_leave_still_means_what_it_has_written() {
    let tmp = tempfile::tempdir().unwrap();
    let mut home = Volume::create(tmp.path().join("home"), A, MIB, 1, None);
    home.guest().write_at(0, &[1; 4096]).unwrap();
    let source = home.seal_and_export();
    home.stop();
    let clone = Volume::create(tmp.path().join("away"), A, MIB, 2, Some(source));
    let mut guest = UnixStream::connect(clone.dir.join("guest.sock")).unwrap();
    let mut bytes = 3_u32.to_be_bytes().to_vec();
    bytes.extend(wire::OPTION_MAGIC.to_be_bytes());
    bytes.extend(wire::OPT_EXPORT_NAME.to_be_bytes());
    bytes.extend(0_u32.to_be_bytes());
    for (kind, len_bytes) in [(wire::CMD_WRITE, 100_u32), (wire::CMD_DISC, 0)] {
        bytes.extend(wire::REQUEST_MAGIC.to_be_bytes());
        bytes.extend([0; 2]);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0; 16]);
        bytes.extend(len_bytes.to_be_bytes());
        bytes.extend(vec![2; len_bytes as usize]);
    }
    guest.write_all(&bytes).unwrap();
    home.start();
    let mut answers = Vec::new();
    guest.read_to_end(&mut answers).unwrap();
    let mut expected = [1; 4096];
    expected[..100].fill(2);
    assert_eq!(read(&mut clone.guest(), 0, 4096), expected);
}

#[test]
fn readers_of_a_seal_that_was_taken_back_are_sent_away() {
    let tmp = tempfile::tempdir().unwrap();
    let home = Volume::create(tmp.path().join(A), A, MIB, 1, None);
    let SourceUri::Nbd(uri) = home.seal_and_export() else { panic!("an export is read over NBD") };
    let mut reader = BlockClient::connect(&uri, None).unwrap();
    assert_eq!(read(&mut reader, 0, 4096), [0; 4096]);
    home.control().unseal().unwrap();
    assert!(matches!(reader.read_at(0, &mut [0; 4096]).unwrap_err(), BlockError::Broken(_)));
    assert!(BlockClient::connect(&uri, None).is_err());
}

#[test]
fn other_workers_cannot_keep_the_guest_out() {
    let tmp = tempfile::tempdir().unwrap();
    let home = Volume::create(tmp.path().join(A), A, MIB, 1, None);
    let listen = home.control().export(own_address()).unwrap();
    let readers: Vec<TcpStream> = (0..64)
        .map(|_| {
            let mut reader = TcpStream::connect(listen).unwrap();
            reader.read_exact(&mut [0; 18]).unwrap();
            reader
        })
        .collect();
    home.guest().write_at(0, &[1; 4096]).unwrap();
    drop(readers);
}

#[test]
fn a_command_is_answered_when_it_was_carried_out_and_not_with_an_earlier_one_of_its_kind() {
    let tmp = tempfile::tempdir().unwrap();
    let volume = Volume::create(tmp.path().join(A), A, MIB, 1, None);
    let mut agent = UnixStream::connect(volume.dir.join("control.sock")).unwrap();
    agent.write_all(b"{\"ask\":\"seal\"}\n{\"ask\":\"unseal\"}\n{\"ask\":\"seal\"}\n").unwrap();
    let answers: Vec<String> = BufReader::new(&agent).lines().take(3).map(Result::unwrap).collect();
    assert_eq!(answers, [r#"{"answer":"done"}"#; 3]);
    assert_eq!(volume.control().status().unwrap().phase, Phase::Sealed);
}

#[test]
fn only_its_owner_reads_the_bytes_of_a_volume() {
    let tmp = tempfile::tempdir().unwrap();
    let volume = Volume::create(tmp.path().join(A), A, MIB, 1, None);
    for name in ["data", "guest.sock", "control.sock"] {
        assert_eq!(fs::metadata(volume.dir.join(name)).unwrap().mode() & 0o077, 0, "{name}");
    }
}

#[test]
fn an_agent_that_takes_no_answers_does_not_keep_a_server_from_ending() {
    let tmp = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(tmp.path().join(A), A, MIB, 1, None);
    let mut deaf = UnixStream::connect(volume.dir.join("control.sock")).unwrap();
    deaf.write_all(&b"{\"ask\":\"status\"}\n".repeat(2000)).unwrap();
    deaf.read_exact(&mut [0]).unwrap();
    volume.stop();
}

#[test]
fn whatever_crosses_while_a_guest_reads_in_sequence_is_checked() {
    let tmp = tempfile::tempdir().unwrap();
    let home = Volume::create(tmp.path().join("home"), A, 64 * MIB, 1, None);
    let content = pattern(6, 48 * MIB as usize);
    for (index, piece) in content.chunks(8 * MIB as usize).enumerate() {
        home.guest().write_at(index as u64 * 8 * MIB, piece).unwrap();
    }
    let source = home.seal_and_export();
    let clone = Volume::create(tmp.path().join("away"), A, 64 * MIB, 2, Some(source));
    let mut guest = clone.guest();
    // From the end of the data, where the background comes last.
    for at in (24 * MIB..48 * MIB).step_by(64 << 10) {
        assert_eq!(read(&mut guest, at, 64 << 10), content[at as usize..][..64 << 10]);
    }
    let status = clone.until(|s| s.hydration.complete);
    assert!(status.hydration.bytes_verified >= status.hydration.bytes_fetched, "{status:?}");
}
