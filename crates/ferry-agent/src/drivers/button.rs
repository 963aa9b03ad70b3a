//! A machine that is asked to end: by what runs inside it, or else by a button, pressed again until it has ended, for one that is just booting
//! does not hear it.

use super::watch::{Ended, Watch, Watched};
use crate::host::Doing;
use ferry_api::AskedBy;
use std::fmt::Debug;
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::time::timeout;

/// How long whoever has the button may take to press it.
const PRESS_MAX: Duration = Duration::from_secs(10);
/// How long a guest is left to itself before its button is pressed again.
const PRESS_EVERY: Duration = Duration::from_secs(2);
/// How long a guest whose agent has agreed to shut it down is left to itself before its button is pressed.
const AGREED_MAX: Duration = Duration::from_secs(15);

/// What asks a machine to end.
pub(super) trait Button: Debug + Send + Sync + 'static {
    /// Presses it once.
    fn press(&self) -> Doing<'_, io::Result<()>>;

    /// Asks what runs inside instead; whether that has agreed.
    fn ask_inside(&self) -> Doing<'_, bool> {
        Box::pin(async { false })
    }
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
            let by = |ended, by| Ended { asked: Some(by), ..ended };
            let agreed = tokio::select! {
                biased;
                ended = &mut ended => return ended,
                agreed = self.button.ask_inside() => agreed,
            };
            if agreed && let Ok(ended) = timeout(AGREED_MAX, &mut ended).await {
                return by(ended, AskedBy::GuestAgent);
            }
            loop {
                // A signal would end the VMM under a guest that has not written what it has to write.
                let pressed = timeout(PRESS_MAX, self.button.press()).await;
                if let Err(error) = pressed.map_err(io::Error::from).flatten() {
                    tracing::debug!(pid = self.pid(), %error, "the power button of a machine cannot be pressed");
                }
                if let Ok(ended) = timeout(PRESS_EVERY, &mut ended).await {
                    return by(ended, AskedBy::PowerButton);
                }
            }
        })
    }
}
