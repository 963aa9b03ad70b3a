//! What this host has for machines, and how busy it is, as its kernel tells.

use ferry_api::{Capacity, Frontend};
use std::fs::File;
use std::io;

/// The bit of CAP_SYS_ADMIN (linux/capability.h).
const CAP_SYS_ADMIN: u32 = 21;

/// What a host has for machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Means {
    /// Processors, in thousandths of one.
    pub cpu_millis: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Processors that were busy or waited for over the last minute, in thousandths of one.
    pub busy_cpu_millis: u64,
}

impl Means {
    /// Those of this host.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn of_this_host() -> io::Result<Self> {
        let memory = std::fs::read_to_string("/proc/meminfo")?;
        let load = std::fs::read_to_string("/proc/loadavg")?;
        let odd = |what: &str| io::Error::other(format!("{what} says something unexpected"));
        Ok(Self {
            cpu_millis: std::thread::available_parallelism()?.get() as u64 * 1_000,
            memory_bytes: memory_bytes(&memory).ok_or_else(|| odd("/proc/meminfo"))?,
            busy_cpu_millis: load_millis(&load).ok_or_else(|| odd("/proc/loadavg"))?,
        })
    }

    /// What of them machines can have, if they have all.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        Capacity { cpu_millis: self.cpu_millis, memory_bytes: self.memory_bytes }
    }
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The first figure, in thousandths: it has two decimals (proc_loadavg(5)).
fn load_millis(loadavg: &str) -> Option<u64> {
    let (whole, hundredths) = loadavg.split_whitespace().next()?.split_once('.')?;
    let (whole, hundredths): (u64, u64) = (whole.parse().ok()?, hundredths.parse().ok()?);
    whole.checked_mul(1_000)?.checked_add(hundredths.checked_mul(10)?)
}

/// Whether this process may administer the host, mount and make devices included.
#[must_use]
pub fn may_administer() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    effective.is_some_and(|bits| bits >> CAP_SYS_ADMIN & 1 == 1)
}

/// What this process can make of a volume beside its NBD socket.
#[must_use]
pub fn frontends() -> Vec<Frontend> {
    let opens = |path| File::options().read(true).write(true).open(path).is_ok();
    let fuse = may_administer() && opens("/dev/fuse") && opens("/dev/loop-control");
    let ublk = ferry_volume::probe_ublk().is_ok();
    let can = [(fuse, Frontend::Fuse), (ublk, Frontend::Ublk), (true, Frontend::VhostUserBlk)];
    can.into_iter().filter_map(|(can, frontend)| can.then_some(frontend)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_understood() {
        assert_eq!(memory_bytes("MemTotal:       16384 kB\nMemFree:  1 kB\n"), Some(16 << 20));
        assert_eq!(memory_bytes("MemFree:  1 kB\n"), None);
        assert_eq!(load_millis("1.25 0.50 0.10 1/200 4711\n"), Some(1_250));
        assert_eq!(load_millis(""), None);
        assert!(Means::of_this_host().unwrap().cpu_millis >= 1_000);
    }
}
