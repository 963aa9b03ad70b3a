//! `cargo xtask lab`: Ferry with whole kernels and virtual machines around it. Too heavy for CI: it downloads a kernel,
//! and boots it without KVM.

mod guest;
mod vhost;

use std::path::Path;

use anyhow::{Context, bail};

use crate::bench;

const USAGE: &str = "usage: cargo xtask lab vhost [--ferry PATH]

  vhost  a Linux guest in QEMU whose disk is a volume, over vhost-user-blk; its volume server is killed under it
         (needs qemu-system-x86_64, and Debian's apt for a kernel, which stays in target/lab; about a minute)
  --ferry PATH  the program under test instead of a fresh release build";

/// Runs the experiment that `arguments` name.
pub fn run(root: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let ferry = match arguments {
        ["vhost"] => bench::release_build(root)?,
        ["vhost", "--ferry", path] => Path::new(path).canonicalize().context("there is no such program")?,
        _ => bail!("the lab was not told what to do\n\n{USAGE}"),
    };
    bench::interrupt::watch()?;
    vhost::run(ferry, &root.join("target/lab"))
}
