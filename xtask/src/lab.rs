//! `cargo xtask lab`: Ferry with whole kernels and virtual machines around it. Too heavy for CI: it downloads kernels,
//! and boots them without KVM.

mod cgroups;
mod console;
mod debian;
mod guest;
mod seen;
mod ublk;
mod vhost;
mod vm;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::bench::{self, processes};

const USAGE: &str = "usage: cargo xtask lab vhost|ublk|cgroups [--ferry PATH]
       cargo xtask lab vm

  vhost  a Linux guest in QEMU whose disk is a volume, over vhost-user-blk; its volume server is killed under it
         (about a minute)
  ublk   an agent and its volumes in a guest whose kernel has ublk, once for each of two kernels; a filesystem on the
         block device while volume servers are killed, grow and lose their source (about six minutes)
  cgroups  machines with limits in a guest whose control groups are of version 2 (about a minute)
  vm     makes the VM that Ferry's tests move, in target/lab/vm (a download of 40 MB, then seconds)
  --ferry PATH  the program under test instead of a fresh release build

All need Debian's apt for kernels, which stay in target/lab, and all but the last qemu-system-x86_64.";

const QEMU: &str = "qemu-system-x86_64";

/// Runs the experiment that `arguments` name.
pub fn run(root: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let (experiment, ferry) = match arguments {
        ["vm"] => return vm(root),
        [experiment @ ("vhost" | "ublk" | "cgroups")] => (*experiment, None),
        [experiment @ ("vhost" | "ublk" | "cgroups"), "--ferry", path] => (*experiment, Some(*path)),
        _ => bail!("the lab was not told what to do\n\n{USAGE}"),
    };
    let ferry = match ferry {
        Some(path) => Path::new(path).canonicalize().context("there is no such program")?,
        None => bench::release_build(root)?,
    };
    bench::interrupt::watch()?;
    let kept = kept(root)?;
    match experiment {
        "vhost" => vhost::run(ferry, &kept),
        "cgroups" => cgroups::CGROUPS.run(&ferry, &kept),
        _ => ublk::UBLK.run(&ferry, &kept),
    }
}

/// Makes the VM that Ferry's tests move.
pub fn vm(root: &Path) -> anyhow::Result<()> {
    vm::make(&kept(root)?)
}

/// Where what is downloaded is kept.
fn kept(root: &Path) -> anyhow::Result<PathBuf> {
    let kept = root.join("target/lab");
    std::fs::create_dir_all(&kept).with_context(|| format!("cannot create {}", kept.display()))?;
    Ok(kept)
}

fn has_qemu() -> anyhow::Result<()> {
    if !processes::is_there(QEMU) {
        bail!(
            "{QEMU} is not installed: `apt-get install qemu-system-x86` (from the suite that qemu-utils is from)"
        );
    }
    Ok(())
}
