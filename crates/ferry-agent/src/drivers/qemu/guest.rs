//! A guest's power button, pressed through QEMU's monitor.

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
}

impl Button for PowerButton {
    /// One whose memory is not here, or not all of it, has nothing to write, and is ended.
    fn press(&self) -> Doing<'_, io::Result<()>> {
        Box::pin(async {
            let mut monitor = Monitor::connect(&self.monitor).await?;
            let migrate = monitor.run("query-migrate").await?;
            let stands = memory(&migrate, &monitor.run("query-status").await?);
            let command = match stands {
                Memory::Here | Memory::Leaving(_) | Memory::Failed { .. } => "system_powerdown",
                Memory::Paused(_) | Memory::Finishing | Memory::Left | Memory::Awaited => "quit",
            };
            monitor.run(command).await.map(drop)
        })
    }
}
