//! From facts to findings: what works, what is missing, for what it is needed, and what to do. Pure.

mod devices;
mod directory;
mod membership;
mod store;

use super::facts::{Cgroups, Device, Facts, Module};
use devices::{fuse, ublk};
use serde::Serialize;

/// Files that a worker's volume server may need open: connections of guests and workers, and its own.
const OPEN_FILES_MIN: u64 = 1024;
/// Bytes of memory that io_uring may want to lock before Linux 5.12.
const LOCKED_BYTES_MIN: u64 = 8 << 20;
/// No clock that is right shows less: the beginning of 2026, in seconds since 1970.
const NOW_MIN_S: u64 = 1_767_225_600;

/// Whether something is to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is.
    Works,
    /// It is not.
    Missing,
    /// Nobody tells.
    Unknown,
}

/// One thing that a worker may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The thing.
    pub what: &'static str,
    /// Whether it is to be had.
    pub state: State,
    /// What was seen.
    pub seen: String,
    /// What it is needed for.
    pub needed_for: &'static str,
    /// Whether no volume can be served without it.
    pub required: bool,
    /// What to do about it, one sentence; none if nothing needs to be done.
    pub advice: Option<String>,
}

/// Whether volumes can be served on a host with these findings.
pub fn serves_volumes(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| !finding.required || finding.state == State::Works)
}

/// Judges a host.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut all = store::store(facts);
    all.extend([io_uring(facts), open_files(facts), locked_memory(facts), clock(facts)]);
    all.extend([fuse(facts), ublk(facts), vhost_user(facts), kvm(facts)]);
    all.extend([namespaces(facts), cgroups(facts), runtime(facts)]);
    all.extend(kernel_drivers(facts));
    all.extend(membership::membership(facts));
    all.extend(directory::directory(facts));
    all
}

impl Finding {
    fn works(what: &'static str, needed_for: &'static str, seen: impl Into<String>) -> Self {
        Self { what, state: State::Works, seen: seen.into(), needed_for, required: false, advice: None }
    }

    fn missing(
        what: &'static str,
        needed_for: &'static str,
        seen: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        let advice = Some(advice.into());
        Self { what, state: State::Missing, seen: seen.into(), needed_for, required: false, advice }
    }

    fn required(self) -> Self {
        Self { required: true, ..self }
    }

    fn advised(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}

fn io_uring(facts: &Facts) -> Finding {
    let purpose = "serving volumes fast";
    match &facts.io_uring {
        Ok(()) => Finding::works("io_uring", purpose, "allowed"),
        Err(reason) => Finding::missing(
            "io_uring",
            purpose,
            format!("not to be had: {reason}"),
            "set kernel.io_uring_disabled to 0 and let the container's seccomp profile allow it; until then volumes are \
             served with threads, which costs more CPU",
        ),
    }
}

fn open_files(facts: &Facts) -> Finding {
    let purpose = "connections to a volume";
    match facts.open_files_max {
        Some(max) if max < OPEN_FILES_MIN => Finding::missing(
            "open files",
            purpose,
            format!("at most {max}"),
            format!("raise the limit to {OPEN_FILES_MIN} or more (LimitNOFILE= of the service, ulimit -n)"),
        )
        .required(),
        Some(max) => Finding::works("open files", purpose, format!("up to {max}")).required(),
        None => Finding::works("open files", purpose, "without a limit").required(),
    }
}

fn locked_memory(facts: &Facts) -> Finding {
    let purpose = "io_uring before Linux 5.12";
    match facts.locked_bytes_max {
        Some(max) if max < LOCKED_BYTES_MIN && version(&facts.kernel).is_some_and(|v| v < (5, 12)) => {
            Finding::missing(
                "locked memory",
                purpose,
                format!("at most {max} bytes"),
                format!(
                    "raise the limit to {LOCKED_BYTES_MIN} bytes (LimitMEMLOCK= of the service, ulimit -l)"
                ),
            )
        }
        Some(max) => Finding::works("locked memory", purpose, format!("up to {max} bytes")),
        None => Finding::works("locked memory", purpose, "without a limit"),
    }
}

fn clock(facts: &Facts) -> Finding {
    let purpose = "certificates, retention and what the journal tells";
    match facts.now_s >= NOW_MIN_S {
        true => Finding::works("clock", purpose, "later than this program"),
        false => Finding::missing(
            "clock",
            purpose,
            "it shows a time before this program was made",
            "set it, and keep it right with chrony or systemd-timesyncd",
        ),
    }
}

fn vhost_user(facts: &Facts) -> Finding {
    let (what, purpose) = (
        "QEMU",
        "virtual machines, on the NBD socket or, faster, on --frontend vhost-user-blk (which itself needs nothing)",
    );
    match &facts.programs.qemu {
        Some(path) => Finding::works(what, purpose, path.display().to_string()),
        None => Finding::missing(
            what,
            purpose,
            "no qemu-system program on the PATH",
            "install it (qemu-system-x86) if this worker is to run virtual machines",
        ),
    }
}

fn kvm(facts: &Facts) -> Finding {
    let (what, purpose) = ("KVM", "virtual machines at full speed");
    match facts.kvm {
        Device::Usable => {
            let seen = "/dev/kvm is there; whether it runs a machine was not tried";
            Finding { state: State::Unknown, ..Finding::works(what, purpose, seen) }
        }
        Device::Forbidden => Finding::missing(
            what,
            purpose,
            "/dev/kvm is not for this user",
            "add the agent's user to the group kvm, or run it as root",
        ),
        Device::Missing => Finding::missing(
            what,
            purpose,
            "there is no /dev/kvm",
            "turn on virtualization in the firmware, or nested virtualization where this is a virtual machine",
        ),
    }
}

fn namespaces(facts: &Facts) -> Finding {
    let (what, purpose) = ("network namespaces", "machines with a network of their own");
    match (facts.net_namespaces, facts.modules.veth) {
        (true, Module::There) => Finding::works(what, purpose, "with veth"),
        (true, Module::Untold) => Finding {
            state: State::Unknown,
            ..Finding::works(what, purpose, "there; whether veth is, this kernel does not tell")
        },
        (true, Module::Missing) => {
            Finding::missing(what, purpose, "there, but without veth", "use a kernel with the driver veth")
        }
        (false, _) => Finding::missing(
            what,
            purpose,
            "this kernel has none",
            "use a kernel with CONFIG_NET_NS, as all distributions have",
        ),
    }
}

fn cgroups(facts: &Facts) -> Finding {
    let (what, purpose) = ("cgroups", "limits on machines");
    let can: Vec<&str> = facts.limits.iter().map(|limit| limit.as_str()).collect();
    let limits = match can.is_empty() {
        true => "nothing can be limited".to_owned(),
        false => format!("can limit {}", can.join(", ")),
    };
    let run_as_root = "run the agent as root where it may write /sys/fs/cgroup";
    match (facts.cgroups, can.is_empty()) {
        (Cgroups::V2, false) => Finding::works(what, purpose, format!("version 2; {limits}")),
        (Cgroups::V1, false) => Finding::works(what, purpose, format!("version 1; {limits}")).advised(
            "prefer version 2 (systemd.unified_cgroup_hierarchy=1); crun needs it alone, runc takes both",
        ),
        (Cgroups::V2, true) => Finding::missing(what, purpose, format!("version 2; {limits}"), run_as_root),
        (Cgroups::V1, true) => Finding::missing(what, purpose, format!("version 1; {limits}"), run_as_root),
        (Cgroups::None, _) => Finding::missing(
            what,
            purpose,
            "none are mounted",
            "mount them (mount -t cgroup2 none /sys/fs/cgroup)",
        ),
    }
}

fn runtime(facts: &Facts) -> Finding {
    let (what, purpose) = ("OCI runtime", "containers");
    match &facts.programs.runtime {
        // A container has namespaces, which the agent makes.
        Some(path) if !facts.may_administer => Finding::missing(
            what,
            purpose,
            format!("{}, which this user may not run containers with", path.display()),
            "run the agent as root with CAP_SYS_ADMIN if this worker is to run containers",
        ),
        Some(path) => Finding::works(what, purpose, path.display().to_string()),
        None => Finding::missing(
            what,
            purpose,
            "neither runc nor crun on the PATH",
            "install runc or crun if this worker is to run containers",
        ),
    }
}

fn kernel_drivers(facts: &Facts) -> [Finding; 4] {
    let modules = facts.modules;
    let driver = |what, purpose, module, advice: &str| match module {
        Module::There => Finding::works(what, purpose, "in the kernel, or loadable"),
        Module::Missing => Finding::missing(what, purpose, "this kernel has it not", advice),
        Module::Untold => {
            let seen = "this kernel does not tell";
            Finding { state: State::Unknown, ..Finding::works(what, purpose, seen) }
        }
    };
    let cryptsetup = match &facts.programs.cryptsetup {
        Some(path) => Finding::works("cryptsetup", "opening encrypted volumes", path.display().to_string()),
        None => Finding::missing(
            "cryptsetup",
            "opening encrypted volumes",
            "not on the PATH",
            "install it (cryptsetup-bin) if volumes are to be encrypted",
        ),
    };
    let needless = "nothing needs to be done: Ferry's own volume server does without";
    [
        driver("dm-crypt", "encrypted volumes in the kernel", modules.dm_crypt, "use a kernel with dm-crypt"),
        cryptsetup,
        driver(
            "dm-clone",
            "clones in the kernel (Debian's kernels have it since 6.14)",
            modules.dm_clone,
            needless,
        ),
        driver("nbd", "a volume's NBD socket as a block device, by nbd-client", modules.nbd, needless),
    ]
}

/// Major and minor number of a kernel.
fn version(kernel: &str) -> Option<(u32, u32)> {
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::facts::{Modules, Programs, Store, Unwritable};
    use super::*;
    use ferry_volume::UblkDriver;

    /// A host that has everything.
    pub(super) fn rich() -> Facts {
        let there = Module::There;
        Facts {
            kernel: "6.18.5-generic".to_owned(),
            may_administer: true,
            io_uring: Ok(()),
            fuse: Device::Usable,
            loop_control: Device::Usable,
            ublk_control: Device::Usable,
            ublk_driver: Ok(UblkDriver { grows: true }),
            kvm: Device::Usable,
            net_namespaces: true,
            cgroups: Cgroups::V2,
            limits: ferry_api::Limit::ALL.to_vec(),
            modules: Modules { veth: there, nbd: there, dm_clone: there, dm_crypt: there, ublk: there },
            programs: Programs {
                qemu: Some("/usr/bin/qemu-system-x86_64".into()),
                cryptsetup: Some("/sbin/cryptsetup".into()),
                runtime: Some("/usr/bin/crun".into()),
            },
            store: Store {
                dir: "/var/lib/ferry".into(),
                writable: Ok(()),
                punches_holes: true,
                direct_io: true,
                reflinks: true,
                sockets_fit: true,
            },
            volumes: None,
            membership: Ok(None),
            directory: None,
            open_files_max: Some(1 << 20),
            locked_bytes_max: None,
            now_s: 1 << 31,
        }
    }

    fn finding(facts: &Facts, what: &str) -> Finding {
        judge(facts).into_iter().find(|finding| finding.what == what).unwrap()
    }

    #[test]
    fn a_host_that_has_everything_needs_no_advice() {
        let findings = judge(&rich());
        assert!(serves_volumes(&findings));
        for finding in findings {
            // A device node is no proof.
            let expected = if finding.what == "KVM" { State::Unknown } else { State::Works };
            assert_eq!((finding.state, finding.advice), (expected, None), "{}", finding.what);
        }
    }

    #[test]
    fn a_host_that_has_nothing_still_serves_volumes_and_is_told_what_to_do() {
        let missing = Module::Missing;
        let poor = Facts {
            kernel: "5.10.0".to_owned(),
            may_administer: false,
            io_uring: Err("Operation not permitted".to_owned()),
            fuse: Device::Missing,
            loop_control: Device::Missing,
            ublk_control: Device::Missing,
            ublk_driver: Err("there is no /dev/ublk-control".to_owned()),
            kvm: Device::Missing,
            net_namespaces: false,
            cgroups: Cgroups::None,
            limits: Vec::new(),
            modules: Modules {
                veth: missing,
                nbd: missing,
                dm_clone: missing,
                dm_crypt: missing,
                ublk: missing,
            },
            programs: Programs::default(),
            store: Store { punches_holes: false, direct_io: false, reflinks: false, ..rich().store },
            locked_bytes_max: Some(65536),
            now_s: 0,
            ..rich()
        };
        let findings = judge(&poor);
        assert!(serves_volumes(&findings));
        for finding in &findings {
            assert_eq!(finding.required, finding.state == State::Works, "{finding:?}");
            assert_eq!(finding.advice.is_some(), finding.state == State::Missing, "{finding:?}");
        }
    }

    #[test]
    fn a_runtime_is_of_no_use_to_whoever_may_make_no_namespaces() {
        let found = finding(&Facts { may_administer: false, ..rich() }, "OCI runtime");
        assert!(found.state == State::Missing && found.seen.contains("may not run containers"), "{found:?}");
    }

    #[test]
    fn without_a_directory_or_descriptors_no_volume_is_served() {
        let mut facts = rich();
        facts.store.writable = Err(Unwritable::Other("Permission denied".to_owned()));
        assert!(!serves_volumes(&judge(&facts)));
        let mut facts = rich();
        facts.store.sockets_fit = false;
        assert!(!serves_volumes(&judge(&facts)));
        let facts = Facts { open_files_max: Some(64), ..rich() };
        assert!(!serves_volumes(&judge(&facts)));
    }

    #[test]
    fn a_disk_that_takes_nothing_is_told_with_what_to_do_also_that_of_the_volumes_alone() {
        let mut facts = rich();
        facts.store.writable = Err(Unwritable::Full(Some(256 << 10)));
        let full = finding(&facts, "state directory");
        assert!(full.seen.contains("lives on the 256 KiB"), "{full:?}");
        assert!(full.advice.unwrap().contains("ferry drain"));
        let mut facts = rich();
        facts.volumes = Some(Store {
            dir: "/var/lib/ferry/volumes".into(),
            writable: Err(Unwritable::ReadOnly),
            ..facts.store.clone()
        });
        assert!(!serves_volumes(&judge(&facts)));
        assert_eq!(finding(&facts, "state directory").state, State::Works);
        let volumes = finding(&facts, "volumes");
        assert_eq!(volumes.seen, "the file system of /var/lib/ferry/volumes is read-only");
        assert!(volumes.advice.unwrap().contains("can be moved away"));
    }

    #[test]
    fn what_is_there_but_not_for_this_user_is_told_apart_from_what_is_missing() {
        let facts = Facts { may_administer: false, ..rich() };
        assert!(finding(&facts, "FUSE and loop").advice.unwrap().contains("root"));
        let facts = Facts { fuse: Device::Missing, ..rich() };
        assert!(finding(&facts, "FUSE and loop").advice.unwrap().contains("modprobe fuse"));
        let facts = Facts { ublk_control: Device::Missing, ..rich() };
        assert!(finding(&facts, "ublk").advice.unwrap().contains("modprobe ublk_drv"));
        let facts = Facts { kvm: Device::Forbidden, ..rich() };
        assert!(finding(&facts, "KVM").advice.unwrap().contains("group kvm"));
    }

    #[test]
    fn a_ublk_driver_is_judged_by_what_it_has() {
        let facts = Facts { ublk_driver: Ok(UblkDriver { grows: false }), ..rich() };
        let found = finding(&facts, "ublk");
        assert_eq!((found.state, found.advice.unwrap().contains("6.16")), (State::Works, true));
        let facts = Facts { ublk_driver: Err("it is too old".to_owned()), ..rich() };
        let found = finding(&facts, "ublk");
        assert_eq!((found.state, found.seen.contains("too old")), (State::Missing, true));
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(version("6.18.5-generic"), Some((6, 18)));
        assert_eq!(version("6.1"), Some((6, 1)));
        assert_eq!(version("rolling"), None);
        let (kernel, ublk_control) = ("6.1.0-13-amd64".to_owned(), Device::Missing);
        let modules = Modules { ublk: Module::Missing, ..rich().modules };
        let facts = Facts { kernel, ublk_control, modules, ..rich() };
        assert!(finding(&facts, "ublk").advice.unwrap().contains("6.5"));
        let facts = Facts { kernel: "6.18.5".to_owned(), locked_bytes_max: Some(65536), ..rich() };
        assert_eq!(finding(&facts, "locked memory").state, State::Works, "newer kernels do not ask for it");
    }
}
