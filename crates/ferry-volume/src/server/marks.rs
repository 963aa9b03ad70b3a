//! Marks, as agents set, forget and see them.

use super::Server;
use crate::control::{Answer, MarkStatus};
use ferry_engine::{Command, MarkId};

impl Server {
    /// Sets a mark for an agent; answered with its id when it is durable.
    pub(super) fn set_mark(&mut self, asker: u64) -> Option<Answer> {
        self.command(asker, Command::Mark)
    }

    pub(super) fn forget_mark(&mut self, asker: u64, mark: u64) -> Option<Answer> {
        self.command(asker, Command::ForgetMark { mark: MarkId(mark) })
    }

    pub(super) fn mark_status(&self) -> Vec<MarkStatus> {
        let marks = self.engine.marks().iter();
        marks.map(|(mark, changed)| MarkStatus { mark: mark.0, bytes_changed: changed.bytes() }).collect()
    }
}
