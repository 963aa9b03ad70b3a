//! A volume that becomes larger while it is in use: the one place where the server learns its new size.
//!
//! Whoever connects from then on is told the new size. Who is connected keeps the one that was agreed on in the
//! handshake (a resize while connected is an experimental extension of NBD, which no client we know asks for). A frontend
//! tells its guest at once, where it has a way to.

use super::Server;
use super::command::{refused, whole_story};
use crate::control::Answer;
use ferry_engine::{Command, Geometry};

impl Server {
    /// Makes the volume larger for an agent; answered when it is durable.
    pub(super) fn grow(&mut self, asker: u64, size_bytes: u64) -> Option<Answer> {
        let region_bytes = self.engine.geometry().region_bytes();
        if let Err(e) = Geometry::new(size_bytes, region_bytes) {
            return Some(refused(whole_story(&e)));
        }
        if self.store.config.store.device.is_some() {
            let reason = "a volume on a block device cannot grow; fork it, and grow the fork";
            return Some(refused(reason.to_owned()));
        }
        // What is too small, or asked at the wrong time, the engine refuses; the file is no longer than was asked.
        if let Err(e) = self.store.lengthen(size_bytes) {
            return Some(refused(format!(
                "the data file cannot have {size_bytes} bytes: {e}; ask for fewer bytes"
            )));
        }
        self.command(asker, Command::Grow { size_bytes })
    }

    /// The volume has this size from now on.
    pub(super) fn grown(&mut self, size_bytes: u64) {
        self.store.describe_growth(size_bytes);
        self.grow_frontends(size_bytes);
    }
}
