//! A copy of one volume with a server on a thread, as a move makes it.

use ferry_volume::client::BlockClient;
use ferry_volume::control::{Client, Phase, Status};
use ferry_volume::{Base, CreateOptions, IoBackend, ServeError, ServeOptions, SourceUri, create, serve};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const BLOCK: u64 = 4096;
pub const SIZE: u64 = 16 * MIB;
pub const ID: &str = "01JD9Z6M4Q5R6S7T8V9WAXBYCZ";

/// Files that a server which is killed leaves behind.
const LEFT: [&str; 5] = ["data", "map", "volume.json", "unflushed", "arrived.sums"];

pub struct Copy {
    pub dir: PathBuf,
    server: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Copy {
    /// The first copy of a volume.
    pub fn first(dir: &Path, size_bytes: u64) -> Copy {
        Copy::create(dir, size_bytes, 1, None, None)
    }

    /// The next copy after the one that `source` is an export of.
    pub fn next(dir: &Path, generation: u64, source: &SourceUri, base: Option<Base>) -> Copy {
        Copy::create(dir, SIZE, generation, Some(source.clone()), base)
    }

    fn create(
        dir: &Path,
        size_bytes: u64,
        generation: u64,
        source: Option<SourceUri>,
        base: Option<Base>,
    ) -> Copy {
        let dir = dir.join(format!("copy{generation}"));
        let options = CreateOptions {
            dir: dir.clone(),
            id: ID.to_owned(),
            size_bytes,
            region_bytes: 256 * KIB as u32,
            generation,
            phase: Phase::Open,
            born_from: source.as_ref().map(|_| generation - 1),
            source,
            base,
            device: None,
            direct: false,
        };
        create(&options).unwrap();
        Copy::started(dir)
    }

    fn started(dir: PathBuf) -> Copy {
        let mut copy = Copy { dir, server: None };
        copy.start();
        copy
    }

    pub fn start(&mut self) {
        let options =
            ServeOptions { dir: self.dir.clone(), io: IoBackend::Auto, tls: None, count_heat: true };
        let server = std::thread::spawn(move || serve(&options));
        while Client::connect(&self.dir).is_err() {
            assert!(!server.is_finished(), "the server ended: {:?}", server.join());
            std::thread::yield_now();
        }
        self.server = Some(server);
    }

    pub fn stop(&mut self) {
        self.control().shutdown().unwrap();
        self.server.take().expect("it was started").join().unwrap().unwrap();
    }

    /// The same copy as a server that is killed now leaves it, with another server. Nothing may be under way.
    pub fn killed(&self, dir: &Path) -> Copy {
        let left = dir.join("killed");
        fs::create_dir_all(&left).unwrap();
        for file in LEFT {
            if self.dir.join(file).exists() {
                fs::copy(self.dir.join(file), left.join(file)).unwrap();
            }
        }
        Copy::started(left)
    }

    pub fn control(&self) -> Client {
        Client::connect(&self.dir).unwrap()
    }

    pub fn guest(&self) -> BlockClient {
        BlockClient::connect_unix(&self.dir.join("guest.sock")).unwrap()
    }

    pub fn status(&self) -> Status {
        self.control().status().unwrap()
    }

    /// Seals and exports the copy; gives the address for another server.
    pub fn seal(&self) -> SourceUri {
        self.control().seal().unwrap();
        self.export("127.0.0.1:0".parse().unwrap())
    }

    pub fn export(&self, listen: SocketAddr) -> SourceUri {
        let listen = self.control().export(listen).unwrap();
        format!("nbd://{listen}/{ID}@{}", self.status().generation).parse().unwrap()
    }

    /// Nobody reaches the sealed copy any more until it is exported again. Gives its address.
    pub fn away(&self) -> SocketAddr {
        let listen = self.status().export.expect("it was exported");
        self.control().withdraw().unwrap();
        listen
    }

    pub fn until(&self, condition: impl Fn(&Status) -> bool) -> Status {
        let mut control = self.control();
        loop {
            let status = control.status().unwrap();
            if condition(&status) {
                return status;
            }
            std::thread::yield_now();
        }
    }

    pub fn until_whole(&self) -> Status {
        self.until(|status| status.hydration.complete)
    }

    /// All that the guest reads.
    pub fn bytes(&self) -> Vec<u8> {
        let mut guest = self.guest();
        let mut bytes = vec![0xee; guest.size_bytes() as usize];
        for (at, part) in bytes.chunks_mut(MIB as usize).enumerate() {
            guest.read_at(at as u64 * MIB, part).unwrap();
        }
        bytes
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if self.server.is_some() && !std::thread::panicking() {
            self.stop();
        }
    }
}

/// Bytes of which none is zero, others for each seed.
pub fn pattern(seed: u64, len: u64) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31).wrapping_add(seed.wrapping_mul(7919)) >> 3) as u8 | 1).collect()
}

/// The ranges (offset and length) in which a sealed copy says that it may differ from a generation; none if it does not tell.
pub fn differences(uri: &SourceUri, generation: u64) -> Option<Vec<(u64, u64)>> {
    let SourceUri::Nbd(uri) = uri else { panic!("a copy is exported over NBD") };
    let mut client = BlockClient::connect_for_base(uri, generation, None).unwrap();
    let mut found = Vec::new();
    let tell = |range: ferry_nbd::ByteRange| found.push((range.offset(), range.len_bytes()));
    client.each_difference(generation, tell).unwrap().then_some(found)
}
