//! A volume in a temporary directory with a real `ferry volume-server` process.

use super::until;
use ferry_volume::control::{Client, Phase, Status};
use ferry_volume::directory::VolumeConfig;
use ferry_volume::{CreateOptions, SourceUri};
use std::fs::File;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// One mebibyte, in bytes.
pub const MIB: u64 = 1024 * 1024;
const ID: &str = "01JD7Q0000000000000000000V";
const REGION_BYTES: u32 = 1024 * 1024;
/// A volume of 16 MiB takes minutes at this pace, whatever it copies first: longer than any test looks.
const SLOW_BYTES_PER_S: NonZeroU64 = NonZeroU64::new(64 * 1024).expect("it is not zero");

/// A volume and, while it runs, its server; killed when dropped.
pub struct Volume {
    dir: PathBuf,
    server: Option<Child>,
}

impl Volume {
    /// An open volume of `size_bytes` in `parent/volume`, empty or a clone of `source`; its server runs.
    pub fn start(parent: &Path, size_bytes: u64, source: Option<&str>) -> Self {
        let mut volume = Self::create(parent, size_bytes, source);
        volume.serve();
        volume
    }

    /// An open clone that copies next to nothing by itself before [`Volume::let_go`]: so it surely hydrates still while a
    /// test looks, however slow the host is. What a guest reads is fetched at once.
    pub fn start_slowly(parent: &Path, size_bytes: u64, source: &str) -> Self {
        let mut volume = Self::create(parent, size_bytes, Some(source));
        let mut config = VolumeConfig::read(&volume.dir).unwrap();
        config.budget_bytes_per_s = Some(SLOW_BYTES_PER_S);
        config.write(&volume.dir).unwrap();
        volume.serve();
        volume
    }

    /// Lets a clone that was started slowly copy as fast as its source gives.
    pub fn let_go(&self) {
        self.control().set_budget(None).unwrap();
    }

    /// As [`Volume::start`], but nobody serves it yet.
    pub fn create(parent: &Path, size_bytes: u64, source: Option<&str>) -> Self {
        Self::create_on(parent, size_bytes, source, None)
    }

    /// As [`Volume::create`], with its bytes on a block device.
    pub fn create_on(parent: &Path, size_bytes: u64, source: Option<&str>, device: Option<PathBuf>) -> Self {
        let dir = parent.join("volume");
        let source: Option<SourceUri> = source.map(|uri| uri.parse().unwrap());
        ferry_volume::create(&CreateOptions {
            dir: dir.clone(),
            id: ID.to_owned(),
            size_bytes,
            region_bytes: REGION_BYTES,
            generation: 1,
            phase: Phase::Open,
            source,
            born_from: None,
            base: None,
            device,
            direct: false,
        })
        .unwrap();
        Self { dir, server: None }
    }

    /// Starts the server and returns when it answers.
    pub fn serve(&mut self) {
        assert!(self.server.is_none(), "one server at a time");
        let mut server = self.spawn();
        until("the volume server answers", || {
            if let Some(status) = server.try_wait().unwrap() {
                panic!("the volume server ended with {status}:\n{}", self.log());
            }
            Client::connect(&self.dir).ok()?.status().ok()
        });
        self.server = Some(server);
    }

    /// Starts a server that must refuse; returns how it ended and all it said.
    pub fn serve_in_vain(&self) -> (ExitStatus, String) {
        let status = self.spawn().wait().unwrap();
        (status, self.log())
    }

    fn spawn(&self) -> Child {
        // As the agent starts it: what it says lands on the same disk as its data.
        let log = File::options().create(true).append(true).open(self.dir.join("server.log")).unwrap();
        Command::new(env!("CARGO_BIN_EXE_ferry"))
            .args(["volume-server", "--dir"])
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// The volume's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the guest connects.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.dir.join("guest.sock").display())
    }

    /// A fresh connection to the control socket.
    pub fn control(&self) -> Client {
        Client::connect(&self.dir).unwrap()
    }

    pub fn status(&self) -> Status {
        self.control().status().unwrap()
    }

    /// Looks at the status until `condition` holds, and returns that status.
    pub fn wait_for(&self, what: &str, condition: impl Fn(&Status) -> bool) -> Status {
        let mut control = self.control();
        until(what, || Some(control.status().unwrap()).filter(&condition))
    }

    /// Waits until nothing is remote.
    pub fn wait_hydrated(&self) -> Status {
        self.wait_for("the volume is hydrated", |status| status.hydration.complete)
    }

    /// What the server said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("server.log")).unwrap_or_default()
    }

    /// Ends the server at once, as a power cut of the process would.
    pub fn kill(&mut self) {
        let mut server = self.server.take().expect("a server runs");
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// Asks the server to end and waits for it.
    pub fn shut_down(&mut self) {
        self.control().shutdown().unwrap();
        let status = self.server.take().expect("a server runs").wait().unwrap();
        assert!(status.success(), "the volume server ended with {status}:\n{}", self.log());
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the volume server said:\n{}", self.log());
        }
        if self.server.is_some() {
            self.kill();
            // What a test that failed had attached must not keep its directory from being removed.
            if let Err(reason) = ferry_volume::clear_devices(&self.dir) {
                println!("{reason}");
            }
        }
    }
}
