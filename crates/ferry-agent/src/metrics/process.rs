//! What the system says of the agent's own process.

/// The agent's process. What the system does not tell is left out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    /// Memory that it has in use, in bytes.
    pub(super) resident_bytes: Option<u64>,
    /// Descriptors that it has open.
    pub(super) open_fds: Option<u64>,
}

impl Process {
    /// The process that asks.
    pub(super) fn this() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").ok();
        let open = std::fs::read_dir("/proc/self/fd").ok();
        Self {
            resident_bytes: status.as_deref().and_then(resident_bytes),
            open_fds: open.map(|entries| entries.count() as u64),
        }
    }
}

/// The resident memory by `/proc/PID/status`, which has it in KiB.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_process_is_read_as_linux_writes_it() {
        assert_eq!(resident_bytes("VmSize:\t  9 kB\nVmRSS:\t   10240 kB\n"), Some(10 * 1024 * 1024));
        assert_eq!(resident_bytes("Name:\tferry\n"), None);
        assert!(Process::this().resident_bytes.is_some_and(|bytes| bytes > 0));
    }
}
