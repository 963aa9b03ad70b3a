//! Taking over what was copied while the volume stood by: a warm move copies from a source whose guest still writes, and
//! what that has not changed since is right when the source is sealed.
//!
//! Until then the map says that all is remote, and that is the truth: what lies in the store is of use only once the sealed
//! source has said what has changed. So nothing here turns back, and a server that ends before has lost nothing but work.

use crate::geometry::Blocks;
use crate::map::Phase;

use super::Engine;

impl Engine {
    /// The store holds of these blocks what the sealed source holds. Durable with the next [`crate::Command::Adopt`].
    ///
    /// # Panics
    /// If the volume does not stand by: from then on a guest may have written.
    pub fn adopt(&mut self, blocks: Blocks) {
        assert_eq!(self.phase, Phase::Standby, "only what nobody has written to takes over what was copied");
        self.became_local(blocks);
    }

    /// Whether the map knows all that is local, and nothing is under way to it.
    pub(super) fn is_all_adopted(&self) -> bool {
        self.durability.blocks_unpersisted() == 0
    }
}
