//! What a guest says on its console, which QEMU writes to a file.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use crate::bench::interrupt;
use crate::bench::processes::Process;

pub const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a guest may take from one step to the next.
pub const DEADLINE: Duration = Duration::from_secs(300);

/// Waits until the guest has said something.
pub fn until_said(qemu: &mut Process, console: &Path, what: &str) -> anyhow::Result<()> {
    until_heard(qemu, console, what.trim(), |said| said.contains(what))
}

/// Waits until what the guest has said is enough.
pub fn until_heard(
    qemu: &mut Process,
    console: &Path,
    what: &str,
    enough: impl Fn(&str) -> bool,
) -> anyhow::Result<()> {
    let waited = interrupt::until(what, LOOK_EVERY, DEADLINE, || {
        // Looked at first: what was said before the end counts.
        let ended = qemu.check();
        if enough(&said(console)) {
            return Ok(Some(()));
        }
        ended.map(|()| None)
    });
    waited.with_context(|| format!("the guest has said:\n{}", said(console)))
}

/// A terminal's lines end in two characters, ours in one.
pub fn said(console: &Path) -> String {
    let bytes = std::fs::read(console).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\r', "")
}
