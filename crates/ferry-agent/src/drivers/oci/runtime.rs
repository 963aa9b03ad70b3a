//! The program that runs containers: found by running one.

use super::bind;
use crate::drivers::filesystem::find_tool;
use crate::drivers::isolated::may_make_namespaces;
use crate::drivers::{DriverError, cgroup};
use oci_spec::runtime::{RootBuilder, Spec};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runtimes that are looked for, in this order, each in the package of its name.
pub const RUNTIMES: [&str; 2] = ["runc", "crun"];

/// The first runtime with which a container runs.
///
/// # Errors
/// There is none.
pub(super) fn find() -> Result<PathBuf, DriverError> {
    may_make_namespaces()?;
    let mut last = DriverError::NoTool { tool: RUNTIMES[0], package: RUNTIMES[0] };
    for name in RUNTIMES {
        let Ok(runtime) = find_tool(name, name) else { continue };
        match try_runtime(&runtime) {
            Ok(()) => return Ok(runtime),
            Err(cause) => last = DriverError::Io { doing: format!("run a container with {name}"), cause },
        }
    }
    Err(last)
}

/// Runs a container of the worker's own programs.
fn try_runtime(runtime: &Path) -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    fs::create_dir(dir.path().join("rootfs"))?;
    let mut spec = Spec::default();
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for place in
        ["/bin", "/sbin", "/lib", "/lib64", "/usr"].into_iter().filter(|place| Path::new(place).is_dir())
    {
        mounts.push(bind(Path::new(place), Path::new(place), "ro"));
    }
    spec.set_mounts(Some(mounts));
    let place = RootBuilder::default().path("rootfs").readonly(false).build().map_err(io::Error::other)?;
    spec.set_root(Some(place));
    if let Some(process) = spec.process_mut() {
        process.set_args(Some(vec!["/bin/true".to_owned()])).set_terminal(Some(false));
    }
    let name = cgroup::probe_name();
    if let Some(linux) = spec.linux_mut() {
        linux.set_cgroups_path(Some(cgroup::path_of_container(&name)));
    }
    spec.save(dir.path().join("config.json")).map_err(io::Error::other)?;
    let ran = Command::new(runtime)
        .arg("--root")
        .arg(dir.path().join("state"))
        .args(["run", "--bundle"])
        .arg(dir.path())
        .arg(&name)
        .stdin(Stdio::null())
        .output()?;
    cgroup::remove(&name);
    match ran.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&ran.stderr).trim().replace('\n', " "))),
    }
}
