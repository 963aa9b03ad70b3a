//! The `qemu` driver: a machine is a VM. Its QEMU is a process behind a gate as any machine's, and outlives the agent; its
//! monitor, its console and its log are in the machine's directory.

mod agent;
mod guest;
mod live;
mod migration;
mod probe;
mod qmp;
mod words;

use super::button::WithButton;
use super::gate::{Behind, Clothes, Gates};
use super::probe::try_at;
use super::tap::{self, HeldWithLink, Tap};
use super::vm::{self, HeldVm, Offers};
use super::{Channel, Driver, DriverError, Freeze, HeldMachine, Launch, Live, Watch, gate, watch};
use crate::host::Doing;
use crate::mutex::locked;
use crate::records::ProcessMark;
use agent::GuestAgent;
use ferry_api::{Accel as Wanted, HealthCheck, MachineSpec, Network, Probe, QemuSpec, VmModels};
use guest::PowerButton;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use tokio::sync::OnceCell;
use words::Accel;

/// QEMU's monitor, in the machine's directory.
pub(crate) const MONITOR_SOCKET: &str = "qmp.sock";
const KVM: &str = "/dev/kvm";

/// Runs machines as VMs.
#[derive(Debug)]
pub struct QemuDriver {
    gates: Arc<Gates>,
    /// How memory comes and goes.
    channel: Channel,
    /// Whether KVM is of use, or why not. Found out once: an agent does not live longer than its host's boot.
    kvm: OnceCell<Result<(), String>>,
    /// What the program said that it is, as of when it was last changed.
    known: Mutex<Option<Known>>,
}

/// A program that was asked what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    program: PathBuf,
    changed: Option<SystemTime>,
    version: String,
    models: Option<VmModels>,
}

impl QemuDriver {
    /// Runs machines that begin behind `gates` and whose memory moves through `channel`.
    #[must_use]
    pub fn new(gates: Arc<Gates>, channel: Channel) -> Self {
        Self { gates, channel, kvm: OnceCell::new(), known: Mutex::default() }
    }

    async fn kvm(&self, qemu: &Path) -> &Result<(), String> {
        let found = self.kvm.get_or_init(|| async {
            let found = match Path::new(KVM).exists() {
                true => probe::kvm(qemu).await,
                false => Err(format!("there is no {KVM}")),
            };
            if let Err(why) = &found {
                tracing::info!(%why, "KVM is of no use here");
            }
            found
        });
        found.await
    }

    /// What QEMU is here, asked again only when it was changed: this is told to whoever asks for the worker.
    async fn known(&self) -> Result<Known, DriverError> {
        let program = probe::find()?;
        let changed = std::fs::metadata(&program).and_then(|file| file.modified()).ok();
        if let Some(known) = &*locked(&self.known)
            && (&known.program, known.changed) == (&program, changed)
        {
            return Ok(known.clone());
        }
        let (version, models) = tokio::join!(probe::version(&program), probe::models(&program));
        let known = Known { program, changed, version: version?, models };
        *locked(&self.known) = Some(known.clone());
        Ok(known)
    }

    async fn accel(&self, qemu: &Path, wanted: Wanted) -> Result<Accel, DriverError> {
        match wanted {
            Wanted::Tcg => Ok(Accel::Tcg),
            Wanted::Auto => Ok(self.kvm(qemu).await.as_ref().map_or(Accel::Tcg, |()| Accel::Kvm)),
            Wanted::Kvm => match self.kvm(qemu).await {
                Ok(()) => Ok(Accel::Kvm),
                Err(why) => Err(DriverError::NoKvm { why: why.clone() }),
            },
        }
    }

    async fn checked(&self, spec: &MachineSpec) -> Result<(), DriverError> {
        let wanted = qemu_of(spec);
        vm::check_spec(spec, &Offers { agent: wanted.guest_agent, network: true })?;
        if spec.network() == Network::Own {
            tap::check()?;
        }
        find_images(wanted)?;
        let qemu = probe::qemu().await?;
        if let Some((field, name)) =
            self.known().await?.models.as_ref().and_then(|models| models.lacks(wanted))
        {
            return Err(DriverError::NoModel { field, name: name.to_owned() });
        }
        self.accel(&qemu, wanted.accel).await.map(drop)
    }

    async fn hold(
        &self,
        launch: &Launch,
        spec: &QemuSpec,
        accel: Accel,
        more: &[OsString],
    ) -> Result<HeldWithLink<HeldVm<PowerButton>>, DriverError> {
        // That it is recent enough was checked a moment ago, and clients wait for the machine now.
        find_images(spec)?;
        let mut words: Vec<OsString> = vec![probe::find()?.into()];
        words.extend(words::words(launch, spec, accel)?);
        words.extend_from_slice(more);
        let behind = Behind {
            name: probe::PROGRAM,
            words: &words,
            clothes: Clothes { env: vec![&launch.env], workdir: &launch.dir },
            log: &launch.log,
        };
        if let Some(tap) = Tap::of(launch)? {
            tap.make().await?;
        }
        let held = self.gates.hold(&behind).await.inspect_err(|_| tap::remove(&tap::link_of(&launch.dir)))?;
        let vm = HeldVm { process: Box::new(held), button: button(&launch.dir) };
        Ok(HeldWithLink::new(vm, &launch.dir))
    }
}

fn find_images(spec: &QemuSpec) -> Result<(), DriverError> {
    vm::find_images([spec.kernel.as_ref(), spec.initrd.as_ref(), spec.firmware.as_ref()])
}

fn button(dir: &Path) -> PowerButton {
    PowerButton { monitor: dir.join(MONITOR_SOCKET), agent: GuestAgent::of(dir) }
}

fn qemu_of(spec: &MachineSpec) -> &QemuSpec {
    spec.driver.as_qemu().expect("each driver is only given what it runs")
}

impl Driver for QemuDriver {
    fn probe(&self) -> Doing<'_, Result<String, DriverError>> {
        Box::pin(async {
            // Only looked for: this is asked of each worker for each move, and what QEMU can is checked with each VM.
            let program = probe::find()?.display().to_string();
            Ok(match self.kvm.get() {
                None => program,
                Some(Ok(())) => format!("{program}, kvm"),
                Some(Err(why)) => format!("{program}, tcg; no kvm: {why}"),
            })
        })
    }

    fn check<'a>(&'a self, spec: &'a MachineSpec) -> Doing<'a, Result<(), DriverError>> {
        Box::pin(self.checked(spec))
    }

    fn start<'a>(&'a self, launch: &'a Launch) -> Doing<'a, Result<Box<dyn HeldMachine>, DriverError>> {
        Box::pin(async {
            let spec = qemu_of(&launch.spec);
            let accel = self.accel(&probe::find()?, spec.accel).await?;
            Ok(Box::new(self.hold(launch, spec, accel, &[]).await?) as Box<dyn HeldMachine>)
        })
    }

    fn try_health<'a>(
        &'a self,
        launch: &'a Launch,
        _mark: &'a ProcessMark,
        check: &'a HealthCheck,
    ) -> Doing<'a, Result<(), String>> {
        match check.probe {
            Probe::Command(_) => {
                Box::pin(async { GuestAgent::of(&launch.dir).run(check, &launch.env).await })
            }
            Probe::Tcp(_) | Probe::Http(_) => try_at(launch.machine.address().into(), check),
        }
    }

    fn freezes(&self, dir: &Path) -> Option<Box<dyn Freeze>> {
        Some(Box::new(GuestAgent::of(dir)))
    }

    fn models(&self) -> Doing<'_, Option<VmModels>> {
        Box::pin(async { self.known().await.ok()?.models })
    }

    fn live(&self) -> Option<&dyn Live> {
        Some(self)
    }

    fn find(&self, dir: &Path, mark: &ProcessMark) -> Result<Option<Watch>, DriverError> {
        let button = button(dir);
        let found = gate::find(mark)?.map(|process| Watch::over(WithButton { process, button }));
        let link = tap::link_of(dir);
        match (found, watch::is_over(mark)) {
            (Some(watch), false) => Ok(Some(tap::with_link(watch, link))),
            (over, _) => {
                tap::remove(&link);
                // One that waited for its memory, and that nobody watched, is reaped here.
                if let Some(watch) = over {
                    tokio::spawn(async move { watch.ended().await });
                }
                Ok(None)
            }
        }
    }
}
