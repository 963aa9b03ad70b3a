//! Ctrl-C and a request to end: nothing is torn down here. Whoever waits looks at the flag and returns an error, and
//! the guards on the way out end the processes and remove the files.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT, SIGTERM and SIGHUP raise the flag instead of ending the process.
pub fn watch() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot watch for ctrl-C")?;
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot watch for SIGHUP")?;
    drop(guard);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
        });
        INTERRUPTED.store(true, Ordering::SeqCst);
    });
    Ok(())
}

/// An error once somebody asked to end.
pub fn check() -> anyhow::Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) {
        bail!("interrupted: everything was ended and removed");
    }
    Ok(())
}

/// Looks every `interval` until `ready` gives something; an error after `deadline`, or when somebody asked to end.
pub fn until<T>(
    what: &str,
    interval: Duration,
    deadline: Duration,
    mut ready: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = ready()? {
            return Ok(found);
        }
        check()?;
        if begun.elapsed() > deadline {
            bail!("waited {} s in vain until {what}", deadline.as_secs());
        }
        std::thread::sleep(interval);
    }
}
