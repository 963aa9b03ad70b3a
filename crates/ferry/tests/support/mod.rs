//! What the integration tests share. First of all: tests that need a program nobody here wrote say so, loudly.

use std::io::Write;
use std::path::{Path, PathBuf};

/// A program from outside and the Debian package that has it.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    pub program: &'static str,
    pub package: &'static str,
}

/// Whether the test called `name` can run: all its tools are there.
///
/// A missing one is said past the test runner's capture, with the command that installs it, and the test returns.
/// With `CI=true` it panics instead: in CI a skip is a failure.
///
/// ```ignore
/// let true = support::requires("nbdcopy_reads_what_was_written", &[NBDCOPY]) else { return };
/// ```
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
    let said = writeln!(std::io::stderr().lock(), "{message}");
    said.expect("stderr takes a line");
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
