//! A volume of Ferry's in a directory, and its server.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use ferry_volume::client::BlockClient;
use ferry_volume::control::{Client, Phase, Status};
use ferry_volume::{CreateOptions, REGION_BYTES_DEFAULT};

use super::content::{MIB, Noise};
use super::interrupt;
use super::processes::Process;

/// All volumes of a bench share it: a server only knows its own.
const ID: &str = "01JD7Q0000000000000000000V";
const GENERATION: u64 = 1;
const LOOK_EVERY: Duration = Duration::from_millis(2);
const START_DEADLINE: Duration = Duration::from_secs(30);
const HYDRATION_DEADLINE: Duration = Duration::from_secs(180);

/// A volume whose server runs; when dropped, first the server is ended, then the files are removed.
pub struct Volume {
    server: Process,
    dir: Files,
}

/// A volume's directory; removed when dropped, so that what failed leaves no disk full.
struct Files(PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("bench: cannot remove {}: {error}", self.0.display());
        }
    }
}

impl Volume {
    /// A volume in the fresh directory `dir`, empty or a clone of `source`; returns when its server answers. `tls`: the
    /// directory of its certificates.
    pub fn start(
        ferry: &Path,
        dir: PathBuf,
        size_bytes: u64,
        phase: Phase,
        source: Option<&str>,
        tls: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let source = source.map(str::parse).transpose().context("a source of the bench's own making")?;
        ferry_volume::create(&CreateOptions {
            dir: dir.clone(),
            id: ID.to_owned(),
            size_bytes,
            region_bytes: REGION_BYTES_DEFAULT,
            generation: GENERATION,
            phase,
            source,
            born_from: None,
            base: None,
            device: None,
            direct: false,
        })
        .context("cannot create a volume")?;
        let files = Files(dir.clone());
        let mut volume = Self { server: serve(ferry, &dir, tls, &[])?, dir: files };
        volume.wait_until_it_answers()?;
        Ok(volume)
    }

    /// Ends the server and starts another one, which speaks TLS; tells where.
    pub fn restart_with_tls(&mut self, ferry: &Path, certificates: &Path) -> anyhow::Result<String> {
        self.server.end();
        self.server = serve(ferry, &self.dir.0, Some(certificates), &[])?;
        self.wait_until_it_answers()?;
        self.export("nbds")
    }

    /// Ends the server and starts another one, which does not count what its guest touches.
    pub fn restart_without_heat(&mut self, ferry: &Path) -> anyhow::Result<()> {
        self.server.end();
        self.server = serve(ferry, &self.dir.0, None, &["--no-heat"])?;
        self.wait_until_it_answers()
    }

    fn wait_until_it_answers(&mut self) -> anyhow::Result<()> {
        interrupt::until("a volume server answers", LOOK_EVERY, START_DEADLINE, || {
            self.server.check().with_context(|| self.said())?;
            Ok(Client::connect(&self.dir.0).and_then(|mut client| client.status()).ok())
        })?;
        Ok(())
    }

    /// An open volume of `size_mib` with the bench's content, all of it local and durable.
    pub fn filled(ferry: &Path, dir: PathBuf, size_mib: u64) -> anyhow::Result<Self> {
        let volume = Self::start(ferry, dir, size_mib * MIB, Phase::Open, None, None)?;
        let mut guest = BlockClient::connect_unix(&volume.dir.0.join("guest.sock"))?;
        let mut noise = Noise::new();
        for number in 0..size_mib {
            guest.write_at(number * MIB, noise.mebibyte(number)).context("cannot fill a volume")?;
            interrupt::check()?;
        }
        guest.flush().context("cannot fill a volume")?;
        Ok(volume)
    }

    /// Seals the volume and lets others read it over TCP on a port of the kernel's choice; tells where.
    pub fn seal_and_export(&self) -> anyhow::Result<String> {
        self.control()?.seal()?;
        self.export("nbd")
    }

    fn export(&self, scheme: &str) -> anyhow::Result<String> {
        let address = self.control()?.export(([127, 0, 0, 1], 0).into())?;
        Ok(format!("{scheme}://{address}/{ID}@{GENERATION}"))
    }

    pub fn control(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.dir.0)?)
    }

    pub fn status(&self) -> anyhow::Result<Status> {
        Ok(self.control()?.status()?)
    }

    /// Looks at the status until `condition` holds.
    pub fn wait_for(&self, what: &str, condition: impl Fn(&Status) -> bool) -> anyhow::Result<()> {
        let mut control = self.control()?;
        interrupt::until(what, LOOK_EVERY, HYDRATION_DEADLINE, || {
            Ok(condition(&control.status()?).then_some(()))
        })
    }

    /// Waits until nothing is remote and the map on disk says so.
    pub fn wait_hydrated(&self) -> anyhow::Result<()> {
        self.wait_for("a clone is hydrated", |status| status.hydration.complete)
    }

    /// Where its guest connects.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.dir.0.join("guest.sock").display())
    }

    /// The file with the volume's bytes at their own places.
    pub fn data(&self) -> PathBuf {
        self.dir.0.join("data")
    }

    /// Bytes of its map on disk.
    pub fn map_bytes(&self) -> anyhow::Result<u64> {
        Ok(std::fs::metadata(self.dir.0.join("map")).context("cannot look at a map")?.len())
    }

    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    fn said(&self) -> String {
        let log = std::fs::read_to_string(self.dir.0.join("server.log")).unwrap_or_default();
        format!("a volume server did not start; it said `{}`", log.trim())
    }
}

fn serve(ferry: &Path, dir: &Path, tls: Option<&Path>, more: &[&str]) -> anyhow::Result<Process> {
    let mut arguments = vec![OsStr::new("volume-server"), OsStr::new("--dir"), dir.as_os_str()];
    if let Some(certificates) = tls {
        arguments.extend([OsStr::new("--tls"), certificates.as_os_str()]);
    }
    arguments.extend(more.iter().map(OsStr::new));
    Process::start(ferry, &arguments, &dir.join("server.log"))
}
