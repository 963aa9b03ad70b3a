//! The machine a table comes from.

use anyhow::Context;

/// What of a machine decides figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub cores: usize,
    pub processor: String,
    pub memory_mib: u64,
    pub kernel: String,
    /// Load average of the last minute: above nearly nothing, others worked here too.
    pub load: String,
}

impl Machine {
    /// How a kept table begins: what made it, when, and where.
    pub fn preamble(&self, what: &str, begun: jiff::Timestamp) -> String {
        let Self { cores, processor, kernel, load, .. } = self;
        let day = begun.strftime("%Y-%m-%d");
        format!(
            "By `cargo xtask bench --what {what}`, {day}, {cores} cores ({processor}), Linux {kernel}, load average {load} before:"
        )
    }
}

/// This machine, as it is now.
pub fn describe() -> anyhow::Result<Machine> {
    let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let memory_mib =
        kib_of(&read("/proc/meminfo")?, "MemTotal").context("/proc/meminfo names no MemTotal")? / 1024;
    let cores = std::thread::available_parallelism().context("cannot count the cores")?.get();
    let processor = field(&read("/proc/cpuinfo")?, "model name").unwrap_or("of unknown make").to_owned();
    let kernel = read("/proc/sys/kernel/osrelease")?.trim().to_owned();
    let load = read("/proc/loadavg")?.split(' ').next().unwrap_or_default().to_owned();
    Ok(Machine { cores, processor, memory_mib, kernel, load })
}

/// Resident memory of a process in MiB: now, and the most there ever was.
pub fn resident_mib(pid: u32) -> anyhow::Result<(f64, f64)> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let mib = |name| kib_of(&status, name).map(|kib| kib as f64 / 1024.0);
    mib("VmRSS").zip(mib("VmHWM")).with_context(|| format!("{path} tells no resident memory"))
}

/// What stands behind `name:` in the files of /proc.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let named = |line: &'a str| line.split_once(':').filter(|(key, _)| key.trim() == name);
    text.lines().find_map(named).map(|(_, value)| value.trim())
}

fn kib_of(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_are_found_by_their_whole_name() {
        let text = "Name:\tferry\nVmHWM:\t   20480 kB\nVmRSS:\t    9216 kB\nmodel name\t: A CPU @ 2 GHz\n";
        assert_eq!(kib_of(text, "VmRSS"), Some(9216));
        assert_eq!(kib_of(text, "RSS"), None);
        assert_eq!(field(text, "model name"), Some("A CPU @ 2 GHz"));
    }

    #[test]
    fn our_own_memory_can_be_told() {
        let (now, most) = resident_mib(std::process::id()).unwrap();
        assert!(now > 0.0 && most >= now);
    }
}
