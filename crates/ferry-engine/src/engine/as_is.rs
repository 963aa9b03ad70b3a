//! A store whose file system has become read-only cannot be told that it is sealed, and can be sealed all the same: nobody can change
//! it any more. So its machine can leave.
//!
//! What the guest wrote since its last flush may be lost by then, as after a power failure; it was told so, by an error for each
//! write and flush from then on. What it flushed is there, and in the map if the volume is whole: so only one that is whole is taken as it
//! is. Of one that is not, what arrived last may be missing where the truth has it as local.
//!
//! Invariant: such a seal holds as long as this engine does. Whoever goes on from the map finds the volume open, as if it had never been
//! sealed, and seals it again before it lets anybody write: that the volume was handed over is remembered elsewhere.

use crate::event::{Command, Errno};
use crate::map::Phase;
use crate::marks::MarkId;

use super::Engine;

/// What can be done on a store that takes no writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Deed {
    Seal,
    Unseal,
    ForgetMark(MarkId),
}

impl Engine {
    /// What comes of a command on a store that takes no writes; none of one that it cannot do without.
    pub(super) fn as_is(&self, command: Command) -> Option<Deed> {
        let is_whole = !self.has_source || self.complete;
        if self.durability.failed() != Some(Errno::EROFS) {
            return None;
        }
        match command {
            Command::Seal => (is_whole && self.phase == Phase::Open).then_some(Deed::Seal),
            Command::Unseal => self.durability.sealed_as_is.then_some(Deed::Unseal),
            Command::ForgetMark { mark } => Some(Deed::ForgetMark(mark)),
            Command::Open
            | Command::Adopt
            | Command::DetachSource
            | Command::AbandonSource
            | Command::Mark
            | Command::Grow { .. }
            | Command::PauseHydration
            | Command::ResumeHydration
            | Command::SetBudget { .. }
            | Command::SetGuard { .. }
            | Command::SetFinishBy { .. }
            | Command::Snapshot { .. }
            | Command::ForgetSnapshot { .. }
            | Command::SetLossPolicy { .. } => None,
        }
    }

    /// Does it, in memory alone.
    pub(super) fn do_as_is(&mut self, deed: Deed) {
        match deed {
            Deed::Seal => (self.phase, self.durability.sealed_as_is) = (Phase::Sealed, true),
            Deed::Unseal => {
                (self.phase, self.durability.sealed_as_is) = (Phase::Open, false);
                let ended: Vec<_> = self.marks().ending_with_a_seal().collect();
                ended.into_iter().for_each(|mark| self.mark_forgotten(mark));
            }
            Deed::ForgetMark(mark) => self.mark_forgotten(mark),
        }
    }
}
