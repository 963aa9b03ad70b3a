//! Control groups: what keeps a machine to its limits, and tells that it was killed at that of its memory.
//!
//! ```text
//!  /sys/fs/cgroup/[memory/]ferry-MACHINE/    its limits
//!                             ├─ inside/     its first process, and what that starts
//!                             └─ container/  made by an OCI runtime
//! ```
//!
//! With version 2 there is one hierarchy, with version 1 one for each controller. A group goes when its machine has ended.

use super::DriverError;
use super::watch::{Ended, Watch, Watched};
use crate::host::Doing;
use crate::means::Means;
use ferry_api::{Capacity, Limit, Limits};
use std::fs;
use std::io;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// Where control groups are.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Where, in the group of a machine, its first process is, and where an OCI runtime makes its own.
const INSIDE: &str = "inside";
const CONTAINER: &str = "container";
/// In how long a machine may use its time of the processors once, in microseconds: what the kernel has by default.
const CPU_PERIOD_US: u64 = 100_000;
/// Microseconds of such a period that a thousandth of a processor has.
const CPU_MILLI_US: u64 = CPU_PERIOD_US / 1000;
/// How often, and after which pause, groups are tried to be removed in which something still dies.
const LOOKS_MAX: u32 = 500;
const PAUSE: Duration = Duration::from_millis(10);
const KILL: i32 = 9;
/// How a keeper, a shell or a runtime tells that its machine was killed.
const CODE_OF_KILLED: i32 = 128 + KILL;

/// The control groups of a worker, as its agent may use them; found out once, by making one.
#[derive(Debug, Default)]
pub(super) struct Groups {
    found: OnceLock<Vec<(Limit, Result<Hierarchy, String>)>>,
}

/// Where one controller is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    root: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Groups {
    /// What can be limited here.
    pub(super) fn limits(&self) -> Vec<Limit> {
        self.found().iter().filter(|(_, found)| found.is_ok()).map(|(limit, _)| *limit).collect()
    }

    /// Says so if one of these limits could not be kept, or is more than there is.
    ///
    /// # Errors
    /// `NoLimit`, `MoreThanThereIs`.
    pub(super) fn check(&self, limits: &Limits) -> Result<(), DriverError> {
        limits.kinds().try_for_each(|limit| self.hierarchy(limit).map(drop))?;
        // What the host does not tell refuses nobody.
        Means::of_this_host().map_or(Ok(()), |means| check_against(limits, means.capacity()))
    }

    /// Keeps a process, which has started nothing yet, and all that it will start to the limits of a machine.
    ///
    /// # Errors
    /// One of them cannot be kept; the process is to be ended.
    pub(super) fn enter(&self, machine: &str, limits: &Limits, pid: u32) -> Result<(), DriverError> {
        for limit in limits.kinds() {
            let hierarchy = self.hierarchy(limit)?;
            let kept = hierarchy.keep(&group_of(machine), limit, limits, pid);
            kept.map_err(|cause| DriverError::Io {
                doing: format!("limit the {limit} of machine {machine}"),
                cause,
            })?;
        }
        Ok(())
    }

    fn hierarchy(&self, wanted: Limit) -> Result<&Hierarchy, DriverError> {
        let found = self.found().iter().find(|(limit, _)| *limit == wanted).map(|(_, found)| found);
        let found = found.expect("all limits are looked for");
        found.as_ref().map_err(|why| DriverError::NoLimit { limit: wanted, why: why.clone() })
    }

    fn found(&self) -> &[(Limit, Result<Hierarchy, String>)] {
        self.found
            .get_or_init(|| Limit::ALL.map(|limit| (limit, try_limit(Path::new(CGROUPS), limit))).to_vec())
    }
}

/// Refuses a limit that is more than there is: whoever sets it counts on having that much.
fn check_against(limits: &Limits, there_is: Capacity) -> Result<(), DriverError> {
    let more = |limit, wanted: Option<u64>, has, unit| match wanted {
        Some(wanted) if wanted > has => Err(DriverError::MoreThanThereIs { limit, wanted, has, unit }),
        Some(_) | None => Ok(()),
    };
    let cpu_millis = limits.cpu_millis.map(|millis| u64::from(millis.get()));
    more(Limit::Memory, limits.memory_bytes.map(NonZeroU64::get), there_is.memory_bytes, "bytes")?;
    more(Limit::Cpu, cpu_millis, there_is.cpu_millis, "thousandths of a processor")
}

/// What of a machine can be limited on this host by whoever asks.
#[must_use]
pub fn limits() -> Vec<Limit> {
    Groups::default().limits()
}

/// What nobody else who tries something has at this moment, in this process or another.
pub(super) fn probe_name() -> String {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    format!("probe-{}-{}", std::process::id(), TRIED.fetch_add(1, Ordering::Relaxed))
}

/// Where a limit can be kept, found out by keeping it for nobody.
fn try_limit(root: &Path, limit: Limit) -> Result<Hierarchy, String> {
    let hierarchy = Hierarchy::of(root, limit)?;
    let one = |limit| {
        let (memory, count) = ((1 << 30).try_into().ok(), 1000.try_into().ok());
        match limit {
            Limit::Memory => Limits { memory_bytes: memory, ..Limits::default() },
            Limit::Cpu => Limits { cpu_millis: count, ..Limits::default() },
            Limit::Pids => Limits { pids: count, ..Limits::default() },
        }
    };
    let group = format!("{}-{limit}", group_of(&probe_name()));
    let made = hierarchy.make(&group, limit, &one(limit));
    remove_below(&hierarchy.root.join(group));
    match made {
        Ok(_) => Ok(hierarchy),
        Err(cause) => Err(format!("its agent cannot make a control group in {} ({cause})", root.display())),
    }
}

impl Hierarchy {
    fn of(root: &Path, limit: Limit) -> Result<Self, String> {
        let unified = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        if unified.split_whitespace().any(|controller| controller == limit.as_str()) {
            return Ok(Self { root: root.to_owned(), version: Version::V2 });
        }
        let own = root.join(limit.as_str());
        match own.join("cgroup.procs").exists() {
            true => Ok(Self { root: own, version: Version::V1 }),
            false => Err(format!("its kernel has no {limit} controller in {}", root.display())),
        }
    }

    /// Makes a group with a limit; answers where its processes go.
    fn make(&self, group: &str, limit: Limit, limits: &Limits) -> io::Result<PathBuf> {
        let group = self.root.join(group);
        if self.version == Version::V2 {
            fs::write(self.root.join("cgroup.subtree_control"), format!("+{limit}"))?;
        }
        // In a group with limits of version 2 that has others in it there can be no process.
        let inside = group.join(INSIDE);
        fs::create_dir_all(&inside)?;
        for (file, value) in settings(self.version, limit, limits) {
            fs::write(group.join(file), value)?;
        }
        Ok(inside)
    }

    fn keep(&self, group: &str, limit: Limit, limits: &Limits, pid: u32) -> io::Result<()> {
        let inside = self.make(group, limit, limits)?;
        fs::write(inside.join("cgroup.procs"), pid.to_string())
    }
}

/// Which files of a group say a limit, and what is written there (cgroups(7), Documentation/admin-guide/cgroup-v2.rst).
fn settings(version: Version, limit: Limit, limits: &Limits) -> Vec<(&'static str, String)> {
    let cpu_us = limits.cpu_millis.map(|millis| u64::from(millis.get()) * CPU_MILLI_US);
    let memory = limits.memory_bytes.map(|bytes| bytes.to_string());
    let pids = limits.pids.map(|pids| pids.to_string());
    let all = match (version, limit) {
        (Version::V2, Limit::Memory) => vec![memory.map(|bytes| ("memory.max", bytes))],
        (Version::V1, Limit::Memory) => vec![memory.map(|bytes| ("memory.limit_in_bytes", bytes))],
        (Version::V2, Limit::Cpu) => vec![cpu_us.map(|us| ("cpu.max", format!("{us} {CPU_PERIOD_US}")))],
        (Version::V1, Limit::Cpu) => vec![
            cpu_us.map(|_| ("cpu.cfs_period_us", CPU_PERIOD_US.to_string())),
            cpu_us.map(|us| ("cpu.cfs_quota_us", us.to_string())),
        ],
        (Version::V1 | Version::V2, Limit::Pids) => vec![pids.map(|pids| ("pids.max", pids))],
    };
    all.into_iter().flatten().collect()
}

/// The path, in each hierarchy, of the group that an OCI runtime makes for a machine.
pub(super) fn path_of_container(machine: &str) -> PathBuf {
    Path::new("/").join(group_of(machine)).join(CONTAINER)
}

fn group_of(machine: &str) -> String {
    format!("ferry-{machine}")
}

/// Removes the groups of a machine that has ended, with those that it has made in them; tells whether all are gone. One in which
/// something still runs stays.
pub(super) fn remove(machine: &str) -> bool {
    // All are tried, also when one stays.
    let left = hierarchies().filter(|hierarchy| !remove_below(&hierarchy.join(group_of(machine))));
    left.count() == 0
}

/// Whether a machine wanted more memory than its limit and did not get it.
fn is_out_of_memory(machine: &str) -> bool {
    let text = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    hierarchies().map(|hierarchy| hierarchy.join(group_of(machine))).any(|group| {
        let killed = text(group.join("memory.events"));
        let killed = killed.lines().filter_map(|line| line.strip_prefix("oom_kill "));
        let failed = text(group.join("memory.failcnt"));
        killed.chain([failed.as_str()]).any(|count| count.trim().parse::<u64>().is_ok_and(|count| count > 0))
    })
}

/// Each hierarchy that may be there.
fn hierarchies() -> impl Iterator<Item = PathBuf> {
    let controllers = fs::read_dir(CGROUPS).into_iter().flatten().flatten().map(|entry| entry.path());
    controllers.chain([PathBuf::from(CGROUPS)])
}

/// Removes a group and all in it, if nothing runs there any more.
fn remove_below(group: &Path) -> bool {
    let within = fs::read_dir(group).into_iter().flatten().flatten();
    for entry in within.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_below(&entry.path());
    }
    // There is none in most hierarchies.
    let _ = fs::remove_dir(group);
    !group.exists()
}

/// A machine that is watched: when it has ended, so have its groups.
#[derive(Debug)]
struct Grouped {
    inner: Watch,
    machine: String,
    /// It was killed from here.
    was_killed: AtomicBool,
}

/// Watches the groups of a machine with it.
pub(super) fn watched(inner: Watch, machine: String) -> Watch {
    Watch::over(Grouped { inner, machine, was_killed: AtomicBool::new(false) })
}

impl Watched for Grouped {
    fn pid(&self) -> u32 {
        self.inner.pid()
    }

    fn ended(&self) -> Doing<'_, Ended> {
        Box::pin(async {
            let mut ended = self.inner.ended().await;
            let is_killed = ended.signal == Some(KILL) || ended.code == Some(CODE_OF_KILLED);
            ended.out_of_memory =
                is_killed && !self.was_killed.load(Ordering::Relaxed) && is_out_of_memory(&self.machine);
            // What died with it is gone a moment later.
            for _ in 0..LOOKS_MAX {
                if remove(&self.machine) {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            ended
        })
    }

    fn signal(&self, number: i32) {
        self.inner.signal(number);
    }

    fn kill_group(&self) {
        self.was_killed.store(true, Ordering::Relaxed);
        self.inner.kill_group();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            memory_bytes: (64 << 20).try_into().ok(),
            cpu_millis: 1500.try_into().ok(),
            pids: 7.try_into().ok(),
        }
    }

    fn said(version: Version) -> Vec<String> {
        let limits = limits();
        let all = limits.kinds().flat_map(|limit| settings(version, limit, &limits));
        all.map(|(file, value)| format!("{file}={value}")).collect()
    }

    #[test]
    fn limits_are_said_as_each_version_of_control_groups_wants_them() {
        assert_eq!(said(Version::V2), ["memory.max=67108864", "cpu.max=150000 100000", "pids.max=7"]);
        let v1 = [
            "memory.limit_in_bytes=67108864",
            "cpu.cfs_period_us=100000",
            "cpu.cfs_quota_us=150000",
            "pids.max=7",
        ];
        assert_eq!(said(Version::V1), v1);
    }

    #[test]
    fn a_controller_is_found_in_the_unified_hierarchy_or_in_its_own() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpuset memory\n").unwrap();
        fs::create_dir(dir.path().join("cpu")).unwrap();
        fs::write(dir.path().join("cpu/cgroup.procs"), "").unwrap();
        let of = |limit| Hierarchy::of(dir.path(), limit);
        assert_eq!(of(Limit::Memory).unwrap().version, Version::V2);
        assert_eq!(of(Limit::Cpu), Ok(Hierarchy { root: dir.path().join("cpu"), version: Version::V1 }));
        assert!(of(Limit::Pids).unwrap_err().contains("no pids controller"));
    }

    #[test]
    fn a_limit_that_is_more_than_there_is_is_refused_with_both_figures() {
        let there_is = Capacity { cpu_millis: 1500, memory_bytes: 64 << 20 };
        assert!(check_against(&limits(), there_is).is_ok(), "all that there is");
        let more = Limits { cpu_millis: 1501.try_into().ok(), ..limits() };
        let said = check_against(&more, there_is).unwrap_err().to_string();
        assert!(said.contains("has 1500 thousandths of a processor") && said.contains("1501"), "{said}");
        let more = Limits { memory_bytes: ((64 << 20) + 1).try_into().ok(), ..limits() };
        let said = check_against(&more, there_is).unwrap_err().to_string();
        assert!(said.contains("has 67108864 bytes") && said.contains("67108865"), "{said}");
    }

    #[test]
    fn where_no_group_can_be_made_it_is_said_why() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "memory\n").unwrap();
        // A directory in its place: nothing can be written there, also by root.
        fs::create_dir(dir.path().join("cgroup.subtree_control")).unwrap();
        let why = try_limit(dir.path(), Limit::Memory).unwrap_err();
        assert!(why.starts_with("its agent cannot make a control group in "), "{why}");
    }
}
