//! Block devices for processes and containers: what the kernel makes them of.

use super::super::facts::{Device, Facts, Module};
use super::{Finding, version};

/// The first Linux whose ublk has what Ferry needs.
const UBLK_SINCE: (u32, u32) = (6, 5);

pub(super) fn fuse(facts: &Facts) -> Finding {
    let (what, purpose) = ("FUSE and loop", "a block device for a process or container (--frontend fuse)");
    let advice = match (facts.fuse, facts.loop_control, facts.may_administer) {
        (Device::Usable, Device::Usable, true) => {
            return Finding::works(what, purpose, "/dev/fuse and /dev/loop-control");
        }
        (Device::Missing, _, _) => {
            ("there is no /dev/fuse", "load the kernel's module `fuse` (modprobe fuse)")
        }
        (_, Device::Missing, _) => {
            ("there is no /dev/loop-control", "load the kernel's module `loop` (modprobe loop)")
        }
        (Device::Forbidden, _, _) | (_, Device::Forbidden, _) | (Device::Usable, Device::Usable, false) => (
            "both are there, and not for this user",
            "run the agent as root, in a container with CAP_SYS_ADMIN and both devices",
        ),
    };
    Finding::missing(what, purpose, advice.0, advice.1)
}

pub(super) fn ublk(facts: &Facts) -> Finding {
    let (what, purpose) =
        ("ublk", "a block device that outlives its volume server (--frontend ublk; chosen where it is)");
    let kernel = version(&facts.kernel);
    match (facts.ublk_control, facts.modules.ublk) {
        (Device::Usable, _) => match &facts.ublk_driver {
            Ok(driver) if driver.grows => Finding::works(what, purpose, "its driver has all that is needed"),
            Ok(_) => Finding::works(
                what,
                purpose,
                "its driver has what is needed, but a device shows a larger volume only when it is attached again",
            )
            .advised("use Linux 6.16 or later if volumes are to grow while they are mounted"),
            Err(reason) => Finding::missing(
                what,
                purpose,
                format!("it cannot be used: {reason}"),
                "nothing needs to be done: block devices are made of FUSE and loop; use Linux 6.5 or later, with io_uring",
            ),
        },
        (Device::Forbidden, _) => {
            Finding::missing(what, purpose, "/dev/ublk-control is not for this user", "run the agent as root")
        }
        (Device::Missing, Module::There) => Finding::missing(
            what,
            purpose,
            "its driver is not loaded",
            "load the kernel's module (modprobe ublk_drv), and at each boot (/etc/modules-load.d)",
        ),
        (Device::Missing, Module::Missing | Module::Untold) => {
            let seen = format!("Linux {} has no /dev/ublk-control", facts.kernel);
            let advice = match kernel.is_some_and(|kernel| kernel < UBLK_SINCE) {
                true => "nothing needs to be done: block devices are made of FUSE and loop; use Linux 6.5 or later for it",
                false => {
                    "nothing needs to be done: block devices are made of FUSE and loop; this kernel was built without it"
                }
            };
            Finding::missing(what, purpose, seen, advice)
        }
    }
}
