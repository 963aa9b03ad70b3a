//! Notes of what answered writes made local, appended once a turn of the loop, before the replies that wait for them.

use super::Server;
use ferry_engine::{Blocks, Errno, Event, OpId};

impl Server {
    /// A write is answered once this is noted.
    pub(super) fn note(&mut self, op: OpId, blocks: Blocks) {
        self.noting.push((op, blocks));
    }

    /// Appends the notes of this turn, and forgets those that the map has made needless. What cannot be noted the engine
    /// makes durable instead.
    pub(super) fn write_notes_down(&mut self) {
        let noting = std::mem::take(&mut self.noting);
        if !noting.is_empty() {
            let blocks: Vec<Blocks> = noting.iter().map(|(_, blocks)| *blocks).collect();
            let appended = self.store.notes.append(&blocks);
            if let Err(e) = &appended {
                tracing::warn!(error = %e, "unflushed writes cannot be noted; they are made durable before they are answered");
            }
            let result = appended.map_err(|e| Errno(e.raw_os_error().unwrap_or(libc::EIO)));
            noting.into_iter().for_each(|(op, _)| self.feed(Event::Done { op, result }));
        }
        if !self.store.notes.is_empty() {
            self.store.notes.need_only(self.engine.noted());
        }
    }
}
