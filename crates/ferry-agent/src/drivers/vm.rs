//! What VMs of every VMM have in common: what they cannot have, what they boot, and their gate.

use super::button::{Button, WithButton};
use super::gate::Held;
use super::{DriverError, HeldMachine, Watch};
use crate::host::Doing;
use crate::records::ProcessMark;
use ferry_api::{Isolation, MachineSpec, Network, Probe};
use std::path::PathBuf;

/// A VM behind its gate.
pub(super) struct HeldVm<B> {
    pub process: Box<Held>,
    pub button: B,
}

impl<B: Button> HeldMachine for HeldVm<B> {
    fn mark(&self) -> &ProcessMark {
        self.process.mark()
    }

    fn release(self: Box<Self>) -> Result<Watch, DriverError> {
        let Self { process, button } = *self;
        Ok(Watch::over(WithButton { process: process.release()?, button }))
    }

    fn abandon(self: Box<Self>) -> Doing<'static, ()> {
        self.process.abandon()
    }
}

/// What a kind of VM has beside its disks.
pub(super) struct Offers {
    /// An agent inside that runs commands.
    pub agent: bool,
    /// A network of its own, if that is asked for.
    pub network: bool,
}

/// Says so if a spec asks for what no such VM can have, or what only an agent inside it could do.
pub(super) fn check_spec(spec: &MachineSpec, offers: &Offers) -> Result<(), DriverError> {
    let network = offers.network && spec.network() == Network::Own;
    let isolation = Isolation { network: Network::Own, ..Isolation::default() };
    let is_shut_in = !spec.mounts.is_empty()
        || !spec.limits.is_none()
        || spec.isolation.as_ref().is_some_and(|asked| !network || *asked != isolation);
    if is_shut_in || !(network || spec.services.is_empty()) {
        return Err(DriverError::NotForVms);
    }
    let is_asked_inside = match spec.health.as_ref().map(|check| &check.probe) {
        None => false,
        Some(Probe::Command(_)) => true,
        Some(Probe::Tcp(_) | Probe::Http(_)) if !network => return Err(DriverError::NoWayIn),
        Some(Probe::Http(url)) if !url.is_of_itself() => {
            return Err(DriverError::AsksAnother { url: url.clone() });
        }
        Some(Probe::Tcp(_) | Probe::Http(_)) => false,
    };
    match offers.agent || (!is_asked_inside && spec.hooks.is_empty()) {
        true => Ok(()),
        false => Err(DriverError::NoGuestAgent),
    }
}

/// How the health check of a VM without an agent ends, if it ever came to one: what has one is not started.
pub(super) fn no_health<'a>() -> Doing<'a, Result<(), String>> {
    Box::pin(async { Err(DriverError::NoGuestAgent.to_string()) })
}

/// Says so if something that a VM boots is not there.
pub(super) fn find_images<const N: usize>(images: [Option<&PathBuf>; N]) -> Result<(), DriverError> {
    match images.into_iter().flatten().find(|path| !path.is_file()) {
        Some(path) => Err(DriverError::NoImage { path: path.clone() }),
        None => Ok(()),
    }
}
