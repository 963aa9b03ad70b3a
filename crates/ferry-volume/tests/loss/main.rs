//! Sources that hang, vanish, come back, or are given up for good: real servers, with a network in between.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/proxy.rs"]
mod proxy;
mod second;
#[path = "../support/wait.rs"]
mod wait;

use ferry_volume::client::BlockClient;
use ferry_volume::control::{Client, LossPolicy, Phase, Span, Status};
use ferry_volume::{
    CreateOptions, IoBackend, REGION_BYTES_DEFAULT, ServeError, ServeOptions, create, serve_impatiently,
};
use proxy::Proxy;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;
use wait::{LOOK_EVERY, own_address, until};

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;
const SIZE_BYTES: u64 = 16 * MIB;
const ID: &str = "01JD9Z6M4Q5R6S7T8V9WAXBYCZ";
/// Of a source, before it is connected to anew.
const SILENCE_MAX: Duration = Duration::from_secs(3);

struct Volume {
    dir: PathBuf,
    server: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Volume {
    fn create(dir: PathBuf, generation: u64, source: Option<&str>) -> Volume {
        let source = source.map(|uri| uri.parse().unwrap());
        let (id, region_bytes, phase) = (ID.to_owned(), REGION_BYTES_DEFAULT, Phase::Open);
        let options = CreateOptions {
            dir,
            id,
            size_bytes: SIZE_BYTES,
            region_bytes,
            generation,
            phase,
            source,
            born_from: None,
            base: None,
            device: None,
            direct: false,
        };
        create(&options).unwrap();
        let mut volume = Volume { dir: options.dir, server: None };
        volume.start();
        volume
    }

    fn start(&mut self) {
        let options =
            ServeOptions { dir: self.dir.clone(), io: IoBackend::Auto, tls: None, count_heat: true };
        let server = std::thread::spawn(move || serve_impatiently(&options, SILENCE_MAX));
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

    fn guest(&self) -> BlockClient {
        BlockClient::connect_unix(&self.dir.join("guest.sock")).unwrap()
    }

    fn until(&self, condition: impl Fn(&Status) -> bool) -> Status {
        let mut control = self.control();
        until(|| Some(control.status().unwrap()).filter(&condition))
    }

    /// A guest that reads a block and waits for as long as that takes.
    fn reads(&self, offset: u64) -> JoinHandle<Result<Vec<u8>, String>> {
        let mut guest = self.guest();
        std::thread::spawn(move || {
            let mut bytes = vec![0xee; BLOCK as usize];
            guest.read_at(offset, &mut bytes).map(|()| bytes).map_err(|e| e.to_string())
        })
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.server.is_some() && !std::thread::panicking() {
            self.stop();
        }
    }
}

fn content() -> Vec<u8> {
    (0..SIZE_BYTES).map(|at| (at / 512) as u8 | 1).collect()
}

fn block(offset: u64) -> Vec<u8> {
    content()[offset as usize..][..BLOCK as usize].to_vec()
}

/// A sealed volume full of [`content`], and where it can be read.
fn home(dir: &Path) -> (Volume, SocketAddr) {
    let home = Volume::create(dir.join("home"), 1, None);
    let mut guest = home.guest();
    guest.write_at(0, &content()).unwrap();
    let mut control = home.control();
    let address = control.export(own_address()).unwrap();
    control.seal().unwrap();
    (home, address)
}

/// A clone that hydrates only what its guest asks for.
fn quiet_clone(dir: &Path, source: SocketAddr) -> Volume {
    // Paused before it has a source that answers, so that nothing can have come already.
    let clone = Volume::create(dir.join("away"), 2, Some(&format!("nbd://127.0.0.1:1/{ID}@1")));
    clone.control().pause_hydration().unwrap();
    clone.control().set_source(&format!("nbd://{source}/{ID}@1")).unwrap();
    clone
}

fn read(guest: &mut BlockClient, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0xee; BLOCK as usize];
    guest.read_at(offset, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_guest_of_its_own_blocks_does_not_notice_a_source_that_hangs_and_the_server_does() {
    let tmp = tempfile::tempdir().unwrap();
    let (_home, address) = home(tmp.path());
    let proxy = Proxy::before(address);
    let clone = quiet_clone(tmp.path(), proxy.address);
    let mut guest = clone.guest();
    assert_eq!(read(&mut guest, 8 * MIB), block(8 * MIB));
    let kept = clone.until(|status| status.hydration.bytes_local >= BLOCK).hydration;
    proxy.hang();
    let cold = clone.reads(9 * MIB);
    clone.until(|status| status.source.as_ref().is_some_and(|source| source.requests_waiting == 1));
    // Whole blocks, what was written, what was read before, flushes.
    guest.write_at(9 * MIB + 4 * MIB, &[7; 3 * BLOCK as usize]).unwrap();
    guest.flush().unwrap();
    assert_eq!(read(&mut guest, 13 * MIB + BLOCK), [7; BLOCK as usize]);
    assert_eq!(read(&mut guest, 8 * MIB), block(8 * MIB));
    assert_eq!(clone.control().status().unwrap().hydration.bytes_fetched, kept.bytes_fetched);
    let seen = clone.until(|status| status.source.as_ref().is_some_and(|source| source.last_error.is_some()));
    let source = seen.source.unwrap();
    let said = source.last_error.unwrap();
    assert!(said.contains("has answered nothing for 3s") || said.contains("handshake"), "{said}");
    guest.write_at(0, &[8; BLOCK as usize]).unwrap();
    guest.flush().unwrap();
    assert!(!cold.is_finished(), "a block that nobody has was read");
    proxy.go_on();
    assert_eq!(cold.join().unwrap().unwrap(), block(9 * MIB));
    clone.control().resume_hydration().unwrap();
    let done = clone.until(|status| status.hydration.complete);
    assert!(done.hydration.bytes_fetched <= SIZE_BYTES, "{done:?}");
    let mut expected = content();
    expected[..BLOCK as usize].fill(8);
    expected[13 * MIB as usize..][..3 * BLOCK as usize].fill(7);
    let mut whole = vec![0; SIZE_BYTES as usize];
    guest.read_at(0, &mut whole).unwrap();
    assert!(whole == expected);
}

#[test]
fn a_source_that_is_slow_is_not_taken_for_one_that_hangs() {
    let tmp = tempfile::tempdir().unwrap();
    let (_home, address) = home(tmp.path());
    let proxy = Proxy::before(address);
    let clone = quiet_clone(tmp.path(), proxy.address);
    let mut guest = clone.guest();
    assert_eq!(read(&mut guest, 0), block(0));
    let connections = proxy.connections();
    proxy.be_slow();
    // In one answer, which takes longer than a source may be silent.
    let mut bytes = vec![0; 256 << 10];
    guest.read_at(MIB, &mut bytes).unwrap();
    assert!(bytes == content()[MIB as usize..][..bytes.len()]);
    assert_eq!(proxy.connections(), connections, "it was connected to anew");
}

#[test]
fn reads_of_what_only_an_absent_source_has_fail_when_the_policy_says_so_until_it_is_back() {
    let tmp = tempfile::tempdir().unwrap();
    let (mut home, address) = home(tmp.path());
    let mut clone = quiet_clone(tmp.path(), address);
    assert_eq!(read(&mut clone.guest(), 0), block(0));
    clone.until(|status| status.hydration.bytes_local >= BLOCK);
    home.stop();
    let gone = clone.until(|status| status.source.as_ref().is_some_and(|source| !source.connected));
    assert_eq!(gone.loss_policy, LossPolicy::Wait);
    let waits = clone.reads(4 * MIB);
    let waiting =
        clone.until(|status| status.source.as_ref().is_some_and(|source| source.requests_waiting == 1));
    assert!(waiting.source.unwrap().away_ms.is_some());
    assert!(!waits.is_finished(), "by default a read waits for ever");
    let policy = LossPolicy::FailAfterMs(NonZeroU64::new(300).unwrap());
    clone.control().set_loss_policy(policy).unwrap();
    let error = waits.join().unwrap().unwrap_err();
    assert!(error.contains("EIO") || error.to_lowercase().contains("i/o error"), "{error}");
    let mut guest = clone.guest();
    guest.write_at(5 * MIB, &[9; BLOCK as usize]).unwrap();
    guest.write_at(6 * MIB, &[9; 512]).unwrap_err();
    guest.flush().unwrap();
    assert_eq!((read(&mut guest, 0), read(&mut guest, 5 * MIB)), (block(0), vec![9; BLOCK as usize]));
    drop(guest);
    clone.stop();
    clone.start();
    assert_eq!(clone.control().status().unwrap().loss_policy, policy, "a restart remembers it");
    clone.reads(4 * MIB).join().unwrap().unwrap_err();
    home.start();
    clone.until(|status| status.source.as_ref().is_some_and(|source| source.connected));
    assert_eq!(read(&mut clone.guest(), 4 * MIB), block(4 * MIB));
    clone.until(|status| status.hydration.complete);
    assert_eq!(read(&mut clone.guest(), 6 * MIB), block(6 * MIB));
}

#[test]
fn a_source_is_given_up_only_by_who_repeats_what_that_costs() {
    let tmp = tempfile::tempdir().unwrap();
    let (mut home, address) = home(tmp.path());
    let mut clone = quiet_clone(tmp.path(), address);
    let mut guest = clone.guest();
    assert_eq!(read(&mut guest, 0), block(0));
    let status = clone.until(|status| status.hydration.bytes_local >= BLOCK);
    let mut control = clone.control();
    let refused = control.abandon_source(status.hydration.bytes_remote, false).unwrap_err().to_string();
    assert!(refused.contains("is connected"), "{refused}");
    home.stop();
    clone.until(|status| status.source.as_ref().is_some_and(|source| !source.connected));
    guest.write_at(2 * MIB, &[5; BLOCK as usize]).unwrap();
    let waits = clone.reads(9 * MIB);
    clone.until(|status| status.source.as_ref().is_some_and(|source| source.requests_waiting == 1));
    let told = control.losses().unwrap();
    assert_eq!((told.bytes, told.count), (SIZE_BYTES - 2 * BLOCK, 2));
    let first = Span { offset: BLOCK, len_bytes: 2 * MIB - BLOCK };
    let last = Span { offset: 2 * MIB + BLOCK, len_bytes: SIZE_BYTES - 2 * MIB - BLOCK };
    assert_eq!(told.listed, [first, last]);
    for wrong in [0, told.bytes - 1, SIZE_BYTES] {
        let refused = control.abandon_source(wrong, false).unwrap_err().to_string();
        assert!(refused.contains(&told.bytes.to_string()), "{refused}");
    }
    assert!(!waits.is_finished() && clone.control().status().unwrap().source.is_some());
    // The guest goes on writing: what was told is still what the person agreed to.
    guest.write_at(3 * MIB, &[6; BLOCK as usize]).unwrap();
    control.abandon_source(told.bytes, false).unwrap();
    assert_eq!(waits.join().unwrap().unwrap(), [0; BLOCK as usize], "who waited reads zeroes");
    control.abandon_source(told.bytes, false).unwrap();
    let check = |clone: &Volume| {
        let status = clone.until(|status| status.hydration.complete);
        assert_eq!((status.source, status.hydration.bytes_abandoned), (None, told.bytes - BLOCK));
        let mut guest = clone.guest();
        assert_eq!(read(&mut guest, 0), block(0));
        assert_eq!(read(&mut guest, 2 * MIB), [5; BLOCK as usize]);
        assert_eq!(read(&mut guest, 3 * MIB), [6; BLOCK as usize]);
        assert_eq!(read(&mut guest, 15 * MIB), [0; BLOCK as usize]);
    };
    check(&clone);
    drop((guest, control));
    clone.stop();
    let list = std::fs::read_to_string(clone.dir.join("abandoned.json")).unwrap();
    assert!(list.contains(&format!("\"bytes\":{}", told.bytes - BLOCK)), "{list}");
    assert!(list.contains(r#"{"offset":4096,"len_bytes":2093056}"#), "{list}");
    clone.start();
    check(&clone);
}

#[test]
fn a_list_of_losses_beside_a_map_that_still_has_its_source_counts_for_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let (_home, address) = home(tmp.path());
    let mut clone = quiet_clone(tmp.path(), address);
    clone.stop();
    let cut_off =
        format!(r#"{{"format":1,"id":"{ID}","generation":2,"source":null,"bytes":4096,"ranges":[]}}"#);
    std::fs::write(clone.dir.join("abandoned.json"), cut_off).unwrap();
    clone.start();
    assert!(!clone.dir.join("abandoned.json").exists());
    let status = clone.until(|status| status.hydration.complete);
    assert_eq!(status.hydration.bytes_abandoned, 0);
}
