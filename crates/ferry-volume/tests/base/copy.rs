//! A copy of one volume with a server on a thread, as a move makes it.

use super::wait::{LOOK_EVERY, own_address, until};
use ferry_volume::client::BlockClient;
use ferry_volume::control::{Client, Phase, RootState, Status};
use ferry_volume::{
    Base, CreateOptions, IoBackend, ServeError, ServeOptions, SourceUri, create, serve_impatiently,
};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const BLOCK: u64 = 4096;
pub const SIZE: u64 = 16 * MIB;
pub const ID: &str = "01JD9Z6M4Q5R6S7T8V9WAXBYCZ";

/// How long a source or base that was asked may say nothing: never what a test is about, but for those that are.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Files that a server which is killed leaves behind.
const LEFT: [&str; 5] = ["data", "map", "volume.json", "unflushed", "arrived.sums"];

pub struct Copy {
    pub dir: PathBuf,
    silence_max: Duration,
    server: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Copy {
    /// The first copy of a volume.
    pub fn first(dir: &Path, size_bytes: u64) -> Copy {
        Copy::create(dir, size_bytes, 1, None, None)
    }

    /// The next copy after the one that `source` is an export of.
    pub fn next(dir: &Path, generation: u64, source: &SourceUri, base: Option<Base>) -> Copy {
        Copy::sized(dir, SIZE, generation, source, base)
    }

    pub fn sized(
        dir: &Path,
        size_bytes: u64,
        generation: u64,
        source: &SourceUri,
        base: Option<Base>,
    ) -> Copy {
        Copy::create(dir, size_bytes, generation, Some(source.clone()), base)
    }

    /// One that fetches only what is read.
    pub fn next_held(dir: &Path, generation: u64, source: &SourceUri, base: Option<Base>) -> Copy {
        let copy = Copy::made(dir, SIZE, generation, Phase::Standby, Some(source.clone()), base);
        copy.open_held()
    }

    /// The same, and it takes whoever says nothing for so long for dead.
    pub fn next_impatient(
        dir: &Path,
        generation: u64,
        source: &SourceUri,
        base: Option<Base>,
        silence_max: Duration,
    ) -> Copy {
        let mut copy = Copy::made(dir, SIZE, generation, Phase::Standby, Some(source.clone()), base);
        copy.stop();
        copy.silence_max = silence_max;
        copy.start();
        copy.open_held()
    }

    fn open_held(self) -> Copy {
        self.control().hold_hydration(true).unwrap();
        self.control().open().unwrap();
        self
    }

    fn create(
        dir: &Path,
        size_bytes: u64,
        generation: u64,
        source: Option<SourceUri>,
        base: Option<Base>,
    ) -> Copy {
        Copy::made(dir, size_bytes, generation, Phase::Open, source, base)
    }

    fn made(
        dir: &Path,
        size_bytes: u64,
        generation: u64,
        phase: Phase,
        source: Option<SourceUri>,
        base: Option<Base>,
    ) -> Copy {
        fs::create_dir_all(dir).unwrap();
        let dir = dir.join(format!("copy{generation}"));
        let options = CreateOptions {
            dir: dir.clone(),
            id: ID.to_owned(),
            size_bytes,
            region_bytes: 256 * KIB as u32,
            generation,
            phase,
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
        let mut copy = Copy { dir, silence_max: SILENCE_MAX, server: None };
        copy.start();
        copy
    }

    pub fn start(&mut self) {
        let options =
            ServeOptions { dir: self.dir.clone(), io: IoBackend::Auto, tls: None, count_heat: true };
        let silence_max = self.silence_max;
        let server = std::thread::spawn(move || serve_impatiently(&options, silence_max));
        while Client::connect(&self.dir).is_err() {
            assert!(!server.is_finished(), "the server ended: {:?}", server.join());
            std::thread::sleep(LOOK_EVERY);
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
        self.export(own_address())
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
        until(|| Some(control.status().unwrap()).filter(&condition))
    }

    pub fn until_whole(&self) -> Status {
        self.until(|status| status.hydration.complete)
    }

    /// The receipt of what was sealed at a generation, when it is known whether there is one.
    pub fn receipt(&self, of_generation: u64) -> RootState {
        let mut control = self.control();
        until(|| {
            let root = control.receipt(of_generation, 0, None).unwrap().root;
            (root != RootState::Summing).then_some(root)
        })
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

/// The first copy of a volume, sealed: six MiB of data, and nothing behind them.
pub struct Origin {
    pub copy: Copy,
    pub uri: SourceUri,
    /// All that it holds.
    pub bytes: Vec<u8>,
}

impl Origin {
    pub fn new(dir: &Path) -> Origin {
        Origin::with(dir, &[])
    }

    /// With other bytes at some offsets.
    pub fn with(dir: &Path, others: &[(u64, &[u8])]) -> Origin {
        let mut bytes = pattern(1, 6 * MIB);
        others.iter().for_each(|(at, other)| bytes[*at as usize..][..other.len()].copy_from_slice(other));
        let copy = Copy::first(dir, SIZE);
        copy.guest().write_at(0, &bytes).unwrap();
        bytes.resize(SIZE as usize, 0);
        let uri = copy.seal();
        Origin { copy, uri, bytes }
    }
}

/// What is read where the source does not differ from it.
pub fn as_base(uri: &SourceUri, generation: u64) -> Base {
    Base { uri: uri.clone(), generation }
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
