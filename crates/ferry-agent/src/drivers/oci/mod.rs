//! The `oci` driver: a machine is a container, run by an installed runtime (runc or crun).
//!
//! ```text
//!  the gate ──exec──▶ keeper ──▶ init ──▶ runc run ──▶ the container
//!                     mounts the volumes, and an overlay
//!                     over the image: what is written there is in memory
//! ```
//!
//! A container is a process machine whose program is the runtime: gate, keeper, mark, signals, exit code and log are those of
//! the `process` driver, and so are its limits. The keeper's namespaces hold the runtime as well, so that nothing of it outlives the
//! keeper but its control groups, which go when the machine's end is noticed.

mod image;
pub(crate) mod images;
mod made;
mod runtime;

use super::init::{Inside, Overlay};
use super::isolated::{self, check_namespaces, own_network, write_inside};
use super::process::{ProcessDriver, machine_of};
use super::{Driver, DriverError, HeldMachine, Launch, MountedVolume, Watch, cgroup};
use crate::host::{Doing, blocking};
use crate::records::ProcessMark;
use ferry_api::{HealthCheck, Limit, MachineSpec, Mount, OciSpec, Probe};
pub use image::ImageError;
pub use images::Images;
use made::Made;
use oci_spec::runtime::{LinuxPidsBuilder, MountBuilder, Root, RootBuilder, Spec};
pub use runtime::RUNTIMES;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Mutex;

/// Where images are unpacked, in the agent's state directory.
const IMAGES: &str = "images";
/// What is Ferry's in the directory of a machine.
pub(crate) const OCI_DIR: &str = "oci";
/// Runs machines as containers.
#[derive(Debug)]
pub struct OciDriver {
    process: Arc<ProcessDriver>,
    images: Images,
    /// The runtime that was found to run containers here.
    runtime: Mutex<Option<PathBuf>>,
}

impl OciDriver {
    /// Runs containers, in keepers that `process` starts; images are unpacked below `state_dir`.
    #[must_use]
    pub fn new(process: Arc<ProcessDriver>, state_dir: &Path) -> Self {
        Self { process, images: Images::at(state_dir.join(IMAGES)), runtime: Mutex::default() }
    }

    /// The user and group that file systems of a machine belong to, if they are not root's.
    ///
    /// # Errors
    /// Its image is not there.
    pub(crate) async fn ids(&self, spec: &MachineSpec) -> Result<Option<(u32, u32)>, DriverError> {
        let made = self.made(spec).await?;
        let user = made.spec.process().as_ref().map(|process| (process.user().uid(), process.user().gid()));
        Ok(user.filter(|ids| *ids != (0, 0)))
    }

    /// Where images are unpacked.
    pub(crate) fn images(&self) -> &Images {
        &self.images
    }

    /// The runtime; tried by running a container with it, once for each agent.
    async fn runtime(&self) -> Result<PathBuf, DriverError> {
        let mut known = self.runtime.lock().await;
        match &*known {
            Some(found) => Ok(found.clone()),
            None => Ok(known.insert(blocking(runtime::find).await?).clone()),
        }
    }

    /// What the container of a machine is made of, without its volumes; unpacks its image if that is not done.
    async fn made(&self, spec: &MachineSpec) -> Result<Made, DriverError> {
        let oci = oci_of(spec).clone();
        let user = spec.isolation.as_ref().and_then(|isolation| isolation.user.clone());
        self.images.made(oci, user).await
    }

    /// Writes all that the keeper and the runtime read; answers the description for the keeper.
    async fn write(&self, launch: &Launch) -> Result<PathBuf, DriverError> {
        let runtime = self.runtime().await?;
        let Made { rootfs, mut spec } = self.made(&launch.spec).await?;
        let places = Places::make(&launch.dir.join(OCI_DIR))?;
        let volumes = places.mount(launch, &mut spec)?;
        spec.set_hostname(Some(launch.name.to_string()));
        let read_only = spec.root().as_ref().and_then(Root::readonly).unwrap_or(false);
        let root = RootBuilder::default().path(&places.root).readonly(read_only).build();
        spec.set_root(Some(root.expect("a root with a path is one")));
        if let Some(linux) = spec.linux_mut() {
            linux.set_cgroups_path(Some(cgroup::path_of_container(&machine_of(&launch.dir))));
            // The runtime has many threads of its own, so that this limit is kept by it, and the others around it.
            if let Some(limit) = launch.spec.limits.pids {
                let pids = LinuxPidsBuilder::default().limit(i64::from(limit.get())).build();
                let mut resources = linux.resources().clone().unwrap_or_default();
                resources.set_pids(Some(pids.expect("a limit of processes with a number is one")));
                linux.set_resources(Some(resources));
            }
        }
        if let Some(process) = spec.process_mut() {
            let mut env = process.env().clone().unwrap_or_default();
            env.extend(launch.env.iter().map(|(name, value)| format!("{name}={value}")));
            process.set_env(Some(env));
        }
        let config = places.dir.join("config.json");
        let saved = spec.save(&config);
        saved.map_err(|cause| failed("write", &config)(io::Error::other(cause)))?;
        let (state, bundle) = (places.state.to_string_lossy(), places.dir.to_string_lossy());
        let words = ["--root", &state, "run", "--bundle", &bundle, &machine_of(&launch.dir)];
        let inside = Inside {
            host_name: launch.name.to_string(),
            mounts: volumes,
            root: None,
            network: launch.spec.network(),
            own_network: own_network(launch)?,
            ids: None,
            program: runtime,
            args: words.map(str::to_owned).to_vec(),
            workdir: places.dir.clone(),
            overlay: Some(Overlay { lower: rootfs, memory: places.layer, at: places.root }),
        };
        write_inside(&launch.dir, &inside)
    }
}

impl Driver for OciDriver {
    fn probe(&self) -> Doing<'_, Result<String, DriverError>> {
        Box::pin(async {
            let runtime = self.runtime().await?;
            Ok(runtime.file_name().unwrap_or_default().to_string_lossy().into_owned())
        })
    }

    fn limits(&self) -> Vec<Limit> {
        self.process.limits()
    }

    fn check<'a>(&'a self, spec: &'a MachineSpec) -> Doing<'a, Result<(), DriverError>> {
        Box::pin(async {
            self.runtime().await?;
            check_namespaces(spec)?;
            self.process.check_limits(&spec.limits)?;
            self.made(spec).await.map(drop)
        })
    }

    fn start<'a>(&'a self, launch: &'a Launch) -> Doing<'a, Result<Box<dyn HeldMachine>, DriverError>> {
        Box::pin(async {
            let plan = self.write(launch).await?;
            Ok(Box::new(self.process.hold_keeper(launch, plan).await?) as Box<dyn HeldMachine>)
        })
    }

    fn try_health<'a>(
        &'a self,
        launch: &'a Launch,
        mark: &'a ProcessMark,
        check: &'a HealthCheck,
    ) -> Doing<'a, Result<(), String>> {
        Box::pin(async move {
            let probe = match &check.probe {
                Probe::Command(words) => {
                    let runtime = self.runtime().await.map_err(|error| error.to_string())?;
                    let state = launch.dir.join(OCI_DIR).join("state");
                    let exec = [runtime, "--root".into(), state, "exec".into()];
                    let exec = exec.iter().map(|word| word.to_string_lossy().into_owned());
                    // Beside what the container has: a hook is told more than that.
                    let env = launch.env.iter().map(|(name, value)| format!("--env={name}={value}"));
                    let inside = std::iter::once(machine_of(&launch.dir)).chain(words.iter().cloned());
                    Probe::Command(exec.chain(env).chain(inside).collect())
                }
                other @ (Probe::Tcp(_) | Probe::Http(_)) => other.clone(),
            };
            self.process.try_in_keeper(launch, mark, probe, check).await
        })
    }

    fn devices(&self, dir: &Path) -> Vec<PathBuf> {
        isolated::devices(dir)
    }

    fn find(&self, dir: &Path, mark: &ProcessMark) -> Result<Option<Watch>, DriverError> {
        self.process.find(dir, mark)
    }
}

/// Where the parts of a container lie, in the directory of its machine.
struct Places {
    dir: PathBuf,
    root: PathBuf,
    layer: PathBuf,
    state: PathBuf,
}

impl Places {
    fn make(dir: &Path) -> Result<Self, DriverError> {
        // What a runtime that was killed has left says of a container that it still runs.
        if dir.exists() {
            fs::remove_dir_all(dir).map_err(failed("remove", dir))?;
        }
        let [root, layer, state] = ["rootfs", "layer", "state"].map(|name| dir.join(name));
        for made in [&root, &layer, &state] {
            fs::create_dir_all(made).map_err(failed("make", made))?;
        }
        Ok(Self { dir: dir.to_owned(), root, layer, state })
    }

    /// Has the runtime mount what the keeper will have mounted beside; tells what that is.
    fn mount(&self, launch: &Launch, spec: &mut Spec) -> Result<Vec<MountedVolume>, DriverError> {
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        let mut volumes = Vec::new();
        for (at, MountedVolume { device, mount }) in launch.mounts.iter().enumerate() {
            let place = self.dir.join("volumes").join(at.to_string());
            fs::create_dir_all(&place).map_err(failed("make", &place))?;
            let how = if mount.read_only { "ro" } else { "rw" };
            mounts.push(bind(&place, mount.path.as_path(), how));
            let path = place.to_string_lossy().into_owned().try_into();
            let path = path.map_err(|cause| failed("mount at", &place)(io::Error::other(cause)))?;
            volumes.push(MountedVolume { device: device.clone(), mount: Mount { path, ..mount.clone() } });
        }
        spec.set_mounts(Some(mounts));
        Ok(volumes)
    }
}

/// A mount of what is at `source` also at `place`.
fn bind(source: &Path, place: &Path, how: &str) -> oci_spec::runtime::Mount {
    let options = ["rbind", how].map(str::to_owned);
    let bind = MountBuilder::default().destination(place).typ("bind").source(source).options(options);
    bind.build().expect("a mount with a place is one")
}

fn failed(doing: &str, path: &Path) -> impl Fn(io::Error) -> DriverError + use<> {
    let doing = format!("{doing} {}", path.display());
    move |cause| DriverError::Io { doing: doing.clone(), cause }
}

/// What this driver is to run.
fn oci_of(spec: &MachineSpec) -> &OciSpec {
    spec.driver.as_oci().expect("each driver is only given what it runs")
}
