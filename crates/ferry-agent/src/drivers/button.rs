//! A machine that is asked to end by a button, pressed again until it has: one that is just booting does not hear it.

use super::watch::{Ended, Watch, Watched};
use crate::host::Doing;
use std::fmt::Debug;
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::time::timeout;

/// How long whoever has the button may take to press it.
const PRESS_MAX: Duration = Duration::from_secs(10);
/// How long a guest is left to itself before its button is pressed again.
const PRESS_EVERY: Duration = Duration::from_secs(2);

/// What asks a machine to end.
pub(super) trait Button: Debug + Send + Sync + 'static {
    /// Presses it once.
    fn press(&self) -> Doing<'_, io::Result<()>>;
}

/// A process like any other, but for its button.
#[derive(Debug)]
pub(super) struct WithButton<B> {
    pub process: Watch,
    pub button: B,
}

impl<B: Button> Watched for WithButton<B> {
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
                // A signal would end the VMM under a guest that has not written what it has to write.
                let pressed = timeout(PRESS_MAX, self.button.press()).await;
                if let Err(error) = pressed.map_err(io::Error::from).flatten() {
                    tracing::debug!(pid = self.pid(), %error, "the power button of a machine cannot be pressed");
                }
                if let Ok(ended) = timeout(PRESS_EVERY, &mut ended).await {
                    return ended;
                }
            }
        })
    }
}
