//! Holding what a machine writes to its file systems, by what runs inside it.

use crate::host::Doing;
use ferry_crossing::guest_agent::Nonsense;
use std::io;

/// Why what runs inside a machine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The VMM has no such port, or has ended.
    #[error("the guest's agent cannot be reached: {0}")]
    NotThere(#[from] io::Error),
    /// Nothing comes.
    #[error("the guest's agent does not answer; see that qemu-ga runs in the guest")]
    Silent,
    /// It does not want to, or cannot.
    #[error("the guest's agent refuses: {why}")]
    Refuses {
        /// Its words.
        why: String,
    },
    /// What it says is none of its protocol.
    #[error(transparent)]
    Nonsense(#[from] Nonsense),
}

/// Freezes file systems. Both may be repeated.
pub trait Freeze: Send + Sync {
    /// Has all that was written reach the machine's disks, and holds what is written from then on. Takes as long as it takes.
    ///
    /// # Errors
    /// It is not done, or may be done later: thaw it.
    fn freeze(&self) -> Doing<'_, Result<(), GuestError>>;

    /// Lets it write again.
    ///
    /// # Errors
    /// It may still be frozen.
    fn thaw(&self) -> Doing<'_, Result<(), GuestError>>;
}
