//! What QEMU tells of a migration (QEMU, qapi/migration.json, qapi/run-state.json), and what it is told. Pure.

use ferry_crossing::live::{Memory, MemoryCopied, REST_MS_SHORT};
use serde_json::{Value, json};

/// The most that memory may take of a link, in bytes a second: QEMU's own default is less than links have today.
const BANDWIDTH_MAX: u64 = 16 << 30;

/// What QEMU must be able to do at the source: above all, to ask before the machine is let go.
pub(super) fn abilities_at_source() -> Value {
    let on = |name: &str| json!({ "capability": name, "state": true });
    json!({ "capabilities": [on("pause-before-switchover"), on("auto-converge"), on("events")] })
}

/// And at the target.
pub(super) fn abilities_at_target() -> Value {
    json!({ "capabilities": [{ "capability": "events", "state": true }] })
}

/// How memory is sent to a host; `tls` names the object that holds the certificates, or is empty.
pub(super) fn parameters_at_source(tls: &str, host: &str) -> Value {
    json!({
        "tls-creds": tls,
        "tls-hostname": if tls.is_empty() { "" } else { host },
        "max-bandwidth": BANDWIDTH_MAX,
        "downtime-limit": REST_MS_SHORT,
    })
}

/// How the memory stands, by the answers to `query-migrate` and `query-status`.
pub(super) fn memory(migrate: &Value, status: &Value) -> Memory {
    let runs_as = status["status"].as_str().unwrap_or_default();
    if runs_as == "inmigrate" {
        return Memory::Awaited;
    }
    match (migrate["status"].as_str().unwrap_or("none"), runs_as) {
        (_, "postmigrate") => Memory::Left,
        // Of a machine that has arrived its QEMU says so, too.
        ("none" | "completed", _) => Memory::Here,
        ("pre-switchover", _) => Memory::Paused(copied(migrate)),
        ("device", _) => Memory::Finishing,
        ("failed", _) => {
            let why = migrate["error-desc"].as_str().unwrap_or("QEMU does not say why");
            Memory::Failed { why: why.to_owned() }
        }
        ("cancelled", _) => Memory::Failed { why: "it was taken back".to_owned() },
        (_, _) => Memory::Leaving(copied(migrate)),
    }
}

fn copied(migrate: &Value) -> MemoryCopied {
    let count = |name: &str| migrate["ram"][name].as_u64().unwrap_or(0);
    MemoryCopied {
        bytes: count("transferred"),
        bytes_left: count("remaining"),
        passes: count("dirty-sync-count"),
    }
}

/// The port that a QEMU listens on for memory, by its answer to `query-migrate`.
pub(super) fn port(migrate: &Value) -> Option<u16> {
    migrate["socket-address"].get(0)?["port"].as_str()?.parse().ok()
}

/// QEMU's name and exact version, by its answer to `query-version`, as [`of_version_line`] gives it.
pub(super) fn program(version: &Value) -> String {
    let number = |name: &str| version["qemu"][name].as_u64().unwrap_or(0);
    let package = version["package"].as_str().filter(|package| !package.is_empty());
    let package = package.map(|package| format!(" ({package})")).unwrap_or_default();
    format!("QEMU {}.{}.{}{package}", number("major"), number("minor"), number("micro"))
}

/// The same by what `--version` says.
pub(super) fn of_version_line(line: &str) -> String {
    line.trim().replacen("QEMU emulator version", "QEMU", 1)
}

/// The CPU that a machine on KVM can see, by `/proc/cpuinfo`.
pub(super) fn cpu(info: &str) -> String {
    let of = |name: &str| {
        let line = info.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let mut flags: Vec<String> = of("flags").split_whitespace().map(str::to_owned).collect();
    flags.sort_unstable();
    format!("{}; {}", of("model name"), flags.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_memory_stands_is_read_from_what_qemu_says() {
        let status = |status: &str| json!({ "status": status, "running": status == "running" });
        let ram = json!({ "transferred": 7, "remaining": 3, "dirty-sync-count": 2 });
        let copied = MemoryCopied { bytes: 7, bytes_left: 3, passes: 2 };
        let stands = |migration: &str, runs_as: &str| {
            memory(&json!({ "status": migration, "ram": ram, "error-desc": "no" }), &status(runs_as))
        };
        assert_eq!(memory(&json!({}), &status("running")), Memory::Here);
        assert_eq!(stands("setup", "running"), Memory::Leaving(copied));
        assert_eq!(stands("active", "running"), Memory::Leaving(copied));
        assert_eq!(stands("pre-switchover", "finish-migrate"), Memory::Paused(copied));
        assert_eq!(stands("device", "finish-migrate"), Memory::Finishing);
        assert_eq!(stands("completed", "postmigrate"), Memory::Left);
        assert_eq!(stands("completed", "running"), Memory::Here, "at the target");
        assert_eq!(stands("active", "inmigrate"), Memory::Awaited);
        assert_eq!(stands("failed", "running"), Memory::Failed { why: "no".to_owned() });
        assert_eq!(stands("cancelling", "running"), Memory::Leaving(copied), "not yet");
    }

    #[test]
    fn a_version_reads_the_same_from_the_program_and_from_one_that_runs() {
        let told =
            json!({ "qemu": { "major": 10, "minor": 0, "micro": 2 }, "package": "Debian 1:10.0.2+ds-2" });
        assert_eq!(program(&told), of_version_line("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\n"));
        let plain = json!({ "qemu": { "major": 9, "minor": 2, "micro": 0 }, "package": "" });
        assert_eq!(program(&plain), of_version_line("QEMU emulator version 9.2.0"));
    }

    #[test]
    fn cpus_are_the_same_if_they_can_the_same_in_whatever_order_it_is_told() {
        let info =
            |flags: &str| format!("processor\t: 0\nmodel name\t: A: B\nflags\t\t: {flags}\nprocessor\t: 1\n");
        assert_eq!(cpu(&info("sse avx")), "A: B; avx sse");
        assert_eq!(cpu(&info("avx sse")), cpu(&info("sse avx")));
    }

    #[test]
    fn the_port_is_where_qemu_says_that_it_listens() {
        let told = json!({ "status": "setup", "socket-address": [{ "type": "inet", "host": "::", "port": "40123" }] });
        assert_eq!((port(&told), port(&json!({}))), (Some(40123), None));
    }
}
