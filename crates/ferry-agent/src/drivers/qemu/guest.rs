//! How a guest is asked to shut down: by its agent, or by its power button, pressed through QEMU's monitor.

use super::agent::GuestAgent;
use super::migration::memory;
use super::qmp::Monitor;
use crate::drivers::button::Button;
use crate::host::Doing;
use ferry_crossing::live::Memory;
use std::io;
use std::path::PathBuf;

/// The button.
#[derive(Debug)]
pub(super) struct PowerButton {
    /// The socket of the monitor.
    pub monitor: PathBuf,
    /// The agent, if the guest has one.
    pub agent: GuestAgent,
}

impl PowerButton {
    /// The monitor, and whether the guest is here with its memory.
    async fn monitor(&self) -> io::Result<(Monitor, bool)> {
        let mut monitor = Monitor::connect(&self.monitor).await?;
        let migrate = monitor.run("query-migrate").await?;
        let is_here = match memory(&migrate, &monitor.run("query-status").await?) {
            Memory::Here | Memory::Leaving(_) | Memory::Failed { .. } => true,
            Memory::Paused(_) | Memory::Finishing | Memory::Left | Memory::Awaited => false,
        };
        Ok((monitor, is_here))
    }
}

impl Button for PowerButton {
    /// One whose memory is not here, or not all of it, has nothing to write, and is ended.
    fn press(&self) -> Doing<'_, io::Result<()>> {
        Box::pin(async {
            let (mut monitor, is_here) = self.monitor().await?;
            let command = if is_here { "system_powerdown" } else { "quit" };
            monitor.run(command).await.map(drop)
        })
    }

    fn ask_inside(&self) -> Doing<'_, bool> {
        Box::pin(async {
            if !matches!(self.monitor().await, Ok((_, true))) {
                return false;
            }
            let asked = self.agent.shut_down().await;
            if let Err(error) = &asked {
                tracing::debug!(%error, "a guest's agent does not shut it down");
            }
            asked.is_ok()
        })
    }
}
