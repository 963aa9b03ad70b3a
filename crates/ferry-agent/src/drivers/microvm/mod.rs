//! The `cloud-hypervisor` and `firecracker` drivers: a machine is a VM. Its VMM is a process behind a gate as any machine's, and
//! outlives the agent.
//!
//! All that the VM is the VMM is told as it starts, not by calls afterwards: an agent that dies between the two would leave a
//! machine that runs by its mark and does nothing. What is left to ask goes over the VMM's API socket, in the machine's directory.

mod told;

use super::button::{Button, WithButton};
use super::gate::{Behind, Clothes, Gates};
use super::process::find_program;
use super::socket::checked;
use super::vm::{self, HeldVm};
use super::{Driver, DriverError, HeldMachine, Launch, Watch, gate};
use crate::host::Doing;
use crate::records::ProcessMark;
use ferry_api::http::local;
use ferry_api::{HealthCheck, MachineSpec, MicroVmSpec};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The VMM's API, in the machine's directory.
pub(crate) const API_SOCKET: &str = "api.sock";
const KVM: &str = "/dev/kvm";

/// Which VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vmm {
    /// cloud-hypervisor.
    CloudHypervisor,
    /// firecracker.
    Firecracker,
}

impl Vmm {
    /// The program.
    const fn program(self) -> &'static str {
        match self {
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Firecracker => "firecracker",
        }
    }

    /// The most virtual processors that it gives a VM; none: as many as one likes.
    const fn vcpus_max(self) -> Option<u32> {
        match self {
            Self::CloudHypervisor => None,
            Self::Firecracker => Some(32),
        }
    }
}

/// Runs machines as VMs of one VMM.
#[derive(Debug)]
pub struct MicroVmDriver {
    vmm: Vmm,
    gates: Arc<Gates>,
    /// A path, or a name looked up in the agent's `PATH`.
    program: String,
    kvm: PathBuf,
}

/// A guest's power button, or what stands for it.
#[derive(Debug)]
struct PowerButton {
    vmm: Vmm,
    api: PathBuf,
}

impl MicroVmDriver {
    /// Runs machines that begin behind `gates`.
    #[must_use]
    pub fn new(vmm: Vmm, gates: Arc<Gates>) -> Self {
        Self { vmm, gates, program: vmm.program().to_owned(), kvm: KVM.into() }
    }

    /// The same by another program, which needs this instead of KVM.
    #[must_use]
    pub fn with(self, program: &Path, kvm: &Path) -> Self {
        Self { program: program.display().to_string(), kvm: kvm.to_owned(), ..self }
    }

    fn found(&self) -> Result<PathBuf, DriverError> {
        let program = find_program(&self.program)?;
        // Neither translates instructions, so without KVM it would end at once; with one that is of no use it says so in the machine's log.
        let opened = std::fs::OpenOptions::new().read(true).write(true).open(&self.kvm);
        opened.map_err(|cause| DriverError::NoKvm { why: format!("{}: {cause}", self.kvm.display()) })?;
        Ok(program)
    }

    fn checked(&self, spec: &MachineSpec) -> Result<PathBuf, DriverError> {
        vm::check_spec(spec, &vm::Offers { agent: false, network: false })?;
        let vm = vm_of(spec);
        if let Some(most) = self.vmm.vcpus_max().filter(|most| vm.vcpus > *most) {
            return Err(DriverError::TooManyVcpus { program: self.vmm.program(), most });
        }
        vm::find_images([Some(&vm.kernel), vm.initrd.as_ref()])?;
        self.found()
    }

    async fn hold(&self, launch: &Launch) -> Result<HeldVm<PowerButton>, DriverError> {
        let (program, vm) = (self.checked(&launch.spec)?, vm_of(&launch.spec));
        let api = launch.dir.join(API_SOCKET);
        checked(&api)?;
        // A VMM listens nowhere where another one has listened.
        remove(&api)?;
        let mut words: Vec<OsString> = vec![program.into()];
        match self.vmm {
            Vmm::CloudHypervisor => words.extend(told::to_cloud_hypervisor(&api, vm, &launch.disks)),
            Vmm::Firecracker => {
                let config = launch.dir.join(told::CONFIG_FILE);
                let failed = |cause| DriverError::Io { doing: format!("write {}", config.display()), cause };
                let said = told::to_firecracker(vm, &launch.disks).to_string();
                std::fs::write(&config, said).map_err(failed)?;
                words.extend(told::firecracker_words(&api, &config));
            }
        }
        let clothes = Clothes { env: vec![&launch.env], workdir: &launch.dir };
        let behind = Behind { name: self.vmm.program(), words: &words, clothes, log: &launch.log };
        let process = Box::new(self.gates.hold(&behind).await?);
        Ok(HeldVm { process, button: PowerButton { vmm: self.vmm, api } })
    }
}

fn remove(socket: &Path) -> Result<(), DriverError> {
    match std::fs::remove_file(socket) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(DriverError::Io { doing: format!("remove {}", socket.display()), cause })
        }
        _ => Ok(()),
    }
}

fn vm_of(spec: &MachineSpec) -> &MicroVmSpec {
    spec.driver.as_micro_vm().expect("each driver is only given what it runs")
}

impl Button for PowerButton {
    fn press(&self) -> Doing<'_, io::Result<()>> {
        Box::pin(async {
            match self.vmm {
                Vmm::CloudHypervisor => local::put(&self.api, "/api/v1/vm.power-button", None).await,
                // A firecracker has no power button; a kernel that is told `reboot=k` ends it at this.
                Vmm::Firecracker => {
                    let action = serde_json::json!({ "action_type": "SendCtrlAltDel" });
                    local::put(&self.api, "/actions", Some(action)).await
                }
            }
        })
    }
}

impl Driver for MicroVmDriver {
    fn probe(&self) -> Doing<'_, Result<String, DriverError>> {
        Box::pin(async { Ok(self.found()?.display().to_string()) })
    }

    fn check<'a>(&'a self, spec: &'a MachineSpec) -> Doing<'a, Result<(), DriverError>> {
        Box::pin(async { self.checked(spec).map(drop) })
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
        vm::no_health()
    }

    fn find(&self, dir: &Path, mark: &ProcessMark) -> Result<Option<Watch>, DriverError> {
        let button = PowerButton { vmm: self.vmm, api: dir.join(API_SOCKET) };
        Ok(gate::find(mark)?.map(|process| Watch::over(WithButton { process, button })))
    }
}
