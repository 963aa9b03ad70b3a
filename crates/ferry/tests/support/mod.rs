//! What the integration tests share: real volume servers, servers nobody here wrote, disk images, and one way to
//! say that a program is missing. Everything lives in temporary directories and ends with its test.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "each test binary compiles this room and uses a part of it"
)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends at, and tells, what it did not expect"
)]

pub mod cluster;
pub mod crossing;
pub mod devices;
pub mod disk;
pub mod files;
pub mod gated;
mod hops;
pub mod image;
pub mod ledger;
pub mod leftovers;
pub mod members;
pub mod moments;
pub mod nats;
pub mod network;
pub mod oci;
pub mod peers;
pub mod programs;
pub mod redis;
pub mod sqlite;
pub mod volume;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a condition may take to come true before the test gives up on it, in any test on any machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at a condition that nothing announces.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Ends what goes on beside a test when it is dropped, also where an assertion ends that.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A program from outside and the Debian package that has it.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    pub program: &'static str,
    pub package: &'static str,
}

pub const NBDKIT: Tool = Tool { program: "nbdkit", package: "nbdkit" };
pub const NBDINFO: Tool = Tool { program: "nbdinfo", package: "libnbd-bin" };
pub const NBDCOPY: Tool = Tool { program: "nbdcopy", package: "libnbd-bin" };
pub const QEMU_IMG: Tool = Tool { program: "qemu-img", package: "qemu-utils" };
pub const QEMU_IO: Tool = Tool { program: "qemu-io", package: "qemu-utils" };
pub const QEMU_NBD: Tool = Tool { program: "qemu-nbd", package: "qemu-utils" };
pub const FIO: Tool = Tool { program: "fio", package: "fio" };
pub const UNSHARE: Tool = Tool { program: "unshare", package: "util-linux" };
pub const LOSETUP: Tool = Tool { program: "losetup", package: "mount" };
pub const FSTRIM: Tool = Tool { program: "fstrim", package: "util-linux" };
pub const MKE2FS: Tool = Tool { program: "mke2fs", package: "e2fsprogs" };
pub const E2FSCK: Tool = Tool { program: "e2fsck", package: "e2fsprogs" };
pub const DUMPE2FS: Tool = Tool { program: "dumpe2fs", package: "e2fsprogs" };
pub const SQLITE: Tool = Tool { program: "sqlite3", package: "sqlite3" };
pub const REDIS: Tool = Tool { program: "redis-server", package: "redis-server" };
pub const REDIS_BENCHMARK: Tool = Tool { program: "redis-benchmark", package: "redis-tools" };
pub const NATS: Tool = Tool { program: "nats-server", package: "nats-server" };
pub const IP: Tool = Tool { program: "ip", package: "iproute2" };
pub const TC: Tool = Tool { program: "tc", package: "iproute2" };
pub const RUNC: Tool = Tool { program: "runc", package: "runc" };
pub const DEBUGFS: Tool = Tool { program: "debugfs", package: "e2fsprogs" };
pub const QEMU: Tool = Tool { program: "qemu-system-x86_64", package: "qemu-system-x86" };

/// Returns from the test when one of the tools is missing, after saying so. In CI that is a failure.
macro_rules! needs {
    ($($tool:expr),+ $(,)?) => {
        if !crate::support::requires(crate::support::test_name!(), &[$($tool),+]) {
            return;
        }
    };
}

/// The path of the function this stands in.
macro_rules! test_name {
    () => {{
        fn here() {}
        std::any::type_name_of_val(&here).trim_end_matches("::here")
    }};
}

pub(crate) use {needs, test_name};

/// Whether the test called `name` can run: all its tools are there. Each missing one is said as by [`skip`].
#[must_use = "a test whose tool is missing must return"]
pub fn requires(name: &str, tools: &[Tool]) -> bool {
    let missing: Vec<&Tool> = tools.iter().filter(|tool| find(tool.program).is_none()).collect();
    for tool in &missing {
        skip(name, &format!("{} (apt-get install {})", tool.program, tool.package));
    }
    missing.is_empty()
}

/// Says that the test called `name` does not run because it needs `what`; panics with `CI=true`.
pub fn skip(name: &str, what: &str) {
    let message = format!("SKIP {name}: needs {what}");
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{message}; in CI a skip is a failure");
    // The test runner captures only what the print macros write.
    writeln!(std::io::stderr().lock(), "{message}").expect("stderr takes a line");
}

/// Says that the test called `name` cannot run on this host, also not in CI, because it offers no `what`.
pub fn skip_where_impossible(name: &str, what: &str) {
    writeln!(std::io::stderr().lock(), "SKIP {name}: this host offers no {what}")
        .expect("stderr takes a line");
}

/// Where `program` is: on the `PATH`, or where Debian keeps what root uses.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Runs a program to its end, whatever that is. One that does not end in time is ended, and the test with it.
pub fn run(program: &str, arguments: &[&str]) -> Output {
    const ENDED_BY_TIMEOUT: i32 = 124;
    let path = find(program).unwrap_or_else(|| panic!("{program} was required above"));
    let output = Command::new("timeout")
        .args(["--kill-after=5", &PATIENCE.as_secs().to_string()])
        .arg(path)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let in_time = output.status.code() != Some(ENDED_BY_TIMEOUT);
    assert!(in_time, "{program} {arguments:?} did not end within {PATIENCE:?}\n{}", text(&output));
    output
}

/// Runs a program that must succeed and returns what it printed.
pub fn succeed(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let said = text(&output);
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs qemu-io commands on an export, one after the other; each must succeed, and every pattern that is read must be
/// there.
pub fn qemu_io(uri: &str, commands: &[&str]) {
    let mut arguments = vec!["-f", "raw"];
    arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
    arguments.push(uri);
    let output = run(QEMU_IO.program, &arguments);
    let said = text(&output);
    // qemu-io ends with success although a pattern was not there.
    let failed = !output.status.success() || said.contains("verification failed") || said.contains("failed:");
    assert!(!failed, "qemu-io {commands:?}:\n{said}");
}

/// Both streams of a program, as text.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Looks until `condition` gives something. Panics with `what` when it never does.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}
