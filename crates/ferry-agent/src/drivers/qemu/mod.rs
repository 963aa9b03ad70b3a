//! The `qemu` driver: a machine is a VM. Its QEMU is a process behind a gate as any machine's, and outlives the agent; its
//! monitor, its console and its log are in the machine's directory.

mod guest;
mod probe;
mod qmp;
mod words;

use super::gate::{Behind, Clothes, Gates, Held};
use super::{Driver, DriverError, HeldMachine, Launch, Watch, gate};
use crate::host::Doing;
use crate::records::ProcessMark;
use ferry_api::{Accel as Wanted, HealthCheck, MachineSpec, QemuSpec};
use guest::Guest;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::OnceCell;
use words::Accel;

/// QEMU's monitor, in the machine's directory.
pub(crate) const MONITOR_SOCKET: &str = "qmp.sock";
const KVM: &str = "/dev/kvm";

/// Runs machines as VMs.
#[derive(Debug)]
pub struct QemuDriver {
    gates: Arc<Gates>,
    /// Whether KVM is of use, or why not. Found out once: an agent does not live longer than its host's boot.
    kvm: OnceCell<Result<(), String>>,
}

/// A VM behind its gate.
struct HeldVm {
    process: Box<Held>,
    monitor: PathBuf,
}

impl QemuDriver {
    /// Runs machines that begin behind `gates`.
    #[must_use]
    pub fn new(gates: Arc<Gates>) -> Self {
        Self { gates, kvm: OnceCell::new() }
    }

    async fn kvm(&self, qemu: &Path) -> &Result<(), String> {
        let found = self.kvm.get_or_init(|| async {
            let found = match Path::new(KVM).exists() {
                true => probe::counts(qemu, &Accel::Kvm.words(), probe::COUNTING_MAX).await,
                false => Err(format!("there is no {KVM}")),
            };
            if let Err(why) = &found {
                tracing::info!(%why, "KVM is of no use here");
            }
            found
        });
        found.await
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
        if spec.is_isolated() || !spec.limits.is_none() || !spec.services.is_empty() || spec.health.is_some()
        {
            return Err(DriverError::NotForVms);
        }
        find_images(wanted)?;
        let qemu = probe::qemu().await?;
        self.accel(&qemu, wanted.accel).await.map(drop)
    }

    async fn hold(&self, launch: &Launch) -> Result<HeldVm, DriverError> {
        // That it is recent enough was checked a moment ago, and clients wait for the machine now.
        let (program, spec) = (probe::find()?, qemu_of(&launch.spec));
        find_images(spec)?;
        let accel = self.accel(&program, spec.accel).await?;
        let mut words: Vec<OsString> = vec![program.into()];
        words.extend(words::words(launch, spec, accel)?);
        let monitor = launch.dir.join(MONITOR_SOCKET);
        let behind = Behind {
            name: probe::PROGRAM,
            words: &words,
            clothes: Clothes { env: vec![&launch.env], workdir: &launch.dir },
            log: &launch.log,
        };
        Ok(HeldVm { process: Box::new(self.gates.hold(&behind).await?), monitor })
    }
}

/// Says so if something that it boots is not there.
fn find_images(spec: &QemuSpec) -> Result<(), DriverError> {
    let mut images = [&spec.kernel, &spec.initrd, &spec.firmware].into_iter().flatten();
    match images.find(|path| !path.is_file()) {
        Some(path) => Err(DriverError::NoImage { path: path.clone() }),
        None => Ok(()),
    }
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
        Box::pin(async { Ok(Box::new(self.hold(launch).await?) as Box<dyn HeldMachine>) })
    }

    fn try_health<'a>(
        &'a self,
        _launch: &'a Launch,
        _mark: &'a ProcessMark,
        _check: &'a HealthCheck,
    ) -> Doing<'a, Result<(), String>> {
        // One that has a check is not started.
        Box::pin(async { Err(DriverError::NotForVms.to_string()) })
    }

    fn find(&self, dir: &Path, mark: &ProcessMark) -> Result<Option<Watch>, DriverError> {
        let monitor = dir.join(MONITOR_SOCKET);
        Ok(gate::find(mark)?.map(|process| Watch::over(Guest { process, monitor })))
    }
}

impl HeldMachine for HeldVm {
    fn mark(&self) -> &ProcessMark {
        self.process.mark()
    }

    fn release(self: Box<Self>) -> Result<Watch, DriverError> {
        let Self { process, monitor } = *self;
        Ok(Watch::over(Guest { process: process.release()?, monitor }))
    }

    fn abandon(self: Box<Self>) -> Doing<'static, ()> {
        self.process.abandon()
    }
}
