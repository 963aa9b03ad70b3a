//! A VM that runs: a process like any other, which is asked to end by pressing its power button.

use super::migration::memory;
use super::qmp::{ANSWER_MAX, Monitor};
use crate::drivers::watch::{Ended, Watch, Watched};
use crate::host::Doing;
use ferry_crossing::live::Memory;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;
use tokio::time::timeout;

/// How long a guest is left to itself before its button is pressed again: one that is just booting does not hear it.
const PRESS_EVERY: Duration = Duration::from_secs(2);

/// A VM that is watched.
#[derive(Debug)]
pub(super) struct Guest {
    pub process: Watch,
    /// The socket of its monitor.
    pub monitor: PathBuf,
}

impl Watched for Guest {
    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn ended(&self) -> Doing<'_, Ended> {
        Box::pin(self.process.ended())
    }

    fn signal(&self, number: i32) {
        self.process.signal(number);
    }

    fn kill_group(&self) {
        self.process.kill_group();
    }

    fn end(&self, _signal: i32) -> Doing<'_, Ended> {
        Box::pin(async {
            let mut ended = pin!(self.process.ended());
            loop {
                // A signal would end QEMU under a guest that has not written what it has to write.
                if let Err(error) = press(&self.monitor).await {
                    tracing::debug!(pid = self.pid(), %error, "the power button of a machine cannot be pressed");
                }
                if let Ok(ended) = timeout(PRESS_EVERY, &mut ended).await {
                    return ended;
                }
            }
        })
    }
}

/// Presses the button. One whose memory is not here, or not all of it, has nothing to write, and is ended.
async fn press(monitor: &Path) -> io::Result<()> {
    let pressed = async {
        let mut monitor = Monitor::connect(monitor).await?;
        let migrate = monitor.run("query-migrate").await?;
        let stands = memory(&migrate, &monitor.run("query-status").await?);
        let command = match stands {
            Memory::Here | Memory::Leaving(_) | Memory::Failed { .. } => "system_powerdown",
            Memory::Paused(_) | Memory::Finishing | Memory::Left | Memory::Awaited => "quit",
        };
        monitor.run(command).await
    };
    timeout(ANSWER_MAX, pressed).await.map_err(io::Error::from)?.map(drop)
}
