//! What a driver must be able to do so that its machines move with their memory. The memory crosses from one machine's
//! process to the other's, and no agent is needed while it does.

use super::{DriverError, HeldMachine, Launch};
use crate::host::Doing;
use ferry_api::{LiveFacts, WorkerName};
pub use ferry_crossing::live::Memory;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Where memory arrives on a worker, and what proves who brings it and who takes it.
#[derive(Clone, Debug)]
pub struct Channel {
    /// The address that it arrives at.
    pub listen: IpAddr,
    /// A directory of certificates ([`ferry_volume::Credentials`]); none: whoever comes is believed.
    pub tls: Option<PathBuf>,
    /// Whether these are a cluster's, whose common names are the workers', so that memory is taken from the worker alone that the
    /// machine comes from; else from whoever has one.
    pub names_workers: bool,
}

/// Moves the memory of machines. A machine is known by its own directory, and its process is there and is watched. All may be
/// repeated.
pub trait Live: Send + Sync {
    /// What this worker has. May be asked often.
    ///
    /// # Errors
    /// It can run no machine here.
    fn offers(&self) -> Doing<'_, Result<LiveFacts, DriverError>>;

    /// How the machine in `dir` runs.
    ///
    /// # Errors
    /// It does not tell.
    fn runs_as<'a>(&'a self, dir: &'a Path) -> Doing<'a, Result<LiveFacts, DriverError>>;

    /// As [`super::Driver::start`], but what is let run waits for the memory of a machine that runs like `facts`.
    ///
    /// # Errors
    /// As there; this worker has not what the machine needs.
    fn expect<'a>(
        &'a self,
        launch: &'a Launch,
        facts: &'a LiveFacts,
    ) -> Doing<'a, Result<Box<dyn HeldMachine>, DriverError>>;

    /// Has a machine that waits for its memory listen for it, and take it from the worker `from`; answers the port.
    ///
    /// # Errors
    /// It does not.
    fn listen<'a>(&'a self, dir: &'a Path, from: &'a WorkerName) -> Doing<'a, Result<u16, DriverError>>;

    /// Begins to send the memory of a machine to `to`, `HOST:PORT`. It runs on, and is paused when only the rest is left.
    ///
    /// # Errors
    /// It is not begun.
    fn send<'a>(&'a self, dir: &'a Path, to: &'a str) -> Doing<'a, Result<(), DriverError>>;

    /// How the memory of a machine stands. If it is on its way this waits for news for a moment.
    ///
    /// # Errors
    /// It does not tell.
    fn memory<'a>(&'a self, dir: &'a Path) -> Doing<'a, Result<Memory, DriverError>>;

    /// Lets the rest of the memory of a paused machine go, and waits for the end of that.
    ///
    /// # Errors
    /// It does not tell how it ended.
    fn let_go<'a>(&'a self, dir: &'a Path) -> Doing<'a, Result<Memory, DriverError>>;

    /// Takes back what [`Live::send`] began: the machine runs on here. Nothing happens if nothing was sent.
    ///
    /// # Errors
    /// Its memory has left; it does not run yet.
    fn keep<'a>(&'a self, dir: &'a Path) -> Doing<'a, Result<(), DriverError>>;
}
