//! A volume with a server on a thread.

use crate::wait::{LOOK_EVERY, own_address, until};
use ferry_volume::client::BlockClient;
use ferry_volume::control::{Check, CheckState, Client, Phase, Receipt, RootState, Status};
use ferry_volume::{
    CreateOptions, IoBackend, REGION_BYTES_DEFAULT, ServeError, ServeOptions, SourceUri, create, serve,
};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::thread::JoinHandle;

pub const MIB: u64 = 1 << 20;
pub const ID: &str = "01JD9Z6M4Q5R6S7T8V9WAXBYCZ";

pub struct Volume {
    pub dir: PathBuf,
    server: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Volume {
    pub fn create(dir: PathBuf, size_bytes: u64, generation: u64, source: Option<SourceUri>) -> Self {
        let options = CreateOptions {
            dir: dir.clone(),
            id: ID.to_owned(),
            size_bytes,
            region_bytes: REGION_BYTES_DEFAULT,
            generation,
            phase: Phase::Open,
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

    pub fn start(&mut self) {
        let options =
            ServeOptions { dir: self.dir.clone(), io: IoBackend::Auto, tls: None, count_heat: true };
        let server = std::thread::spawn(move || serve(&options));
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

    pub fn control(&self) -> Client {
        Client::connect(&self.dir).unwrap()
    }

    pub fn guest(&self) -> BlockClient {
        BlockClient::connect_unix(&self.dir.join("guest.sock")).unwrap()
    }

    /// Seals and exports the volume; gives the address for another server.
    pub fn seal_and_export(&self) -> SourceUri {
        let mut control = self.control();
        let listen = control.export(own_address()).unwrap();
        control.seal().unwrap();
        let status = control.status().unwrap();
        format!("nbd://{listen}/{}@{}", status.id, status.generation).parse().unwrap()
    }

    pub fn until(&self, condition: impl Fn(&Status) -> bool) -> Status {
        let mut control = self.control();
        until(|| Some(control.status().unwrap()).filter(&condition))
    }

    /// The receipt of what was sealed at generation 1, when it is known whether there is one.
    pub fn receipt(&self) -> Receipt {
        let mut control = self.control();
        until(|| Some(control.receipt(1, 0, None).unwrap()).filter(|it| it.root != RootState::Summing))
    }

    pub fn root(&self) -> String {
        match self.receipt().root {
            RootState::Known { root } => root,
            RootState::Summing => panic!("it is waited for"),
            RootState::Unknown { reason } => panic!("no root: {reason}"),
        }
    }

    /// Checks the store and waits for the end of that.
    pub fn check(&self) -> Check {
        let mut control = self.control();
        let mut anew = true;
        until(|| {
            let check = control.verify(std::mem::take(&mut anew)).unwrap();
            (check.state != CheckState::Running).then_some(check)
        })
    }

    /// Flips a bit in the data file, behind the server's back.
    pub fn flip(&self, offset: u64) {
        let data = OpenOptions::new().read(true).write(true).open(self.dir.join("data")).unwrap();
        let mut byte = [0];
        data.read_exact_at(&mut byte, offset).unwrap();
        data.write_all_at(&[byte[0] ^ 4], offset).unwrap();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.server.is_some() && !std::thread::panicking() {
            self.stop();
        }
    }
}

/// Bytes none of which is zero.
pub fn pattern(seed: u8, len: u64) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 12) as u8).wrapping_add(seed) | 1)
        .collect()
}
