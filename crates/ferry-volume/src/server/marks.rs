//! Marks, as agents set, forget and see them.

use super::Server;
use super::command::refused;
use crate::control::{Answer, MarkStatus};
use ferry_engine::{BlockMap, Command, MarkId};

impl Server {
    /// Sets a mark for an agent; answered with its id when it is durable.
    pub(super) fn set_mark(&mut self, asker: u64) -> Option<Answer> {
        self.command(asker, Command::Mark)
    }

    pub(super) fn forget_mark(&mut self, asker: u64, mark: u64) -> Option<Answer> {
        if self.born_from().is_some() && MarkId(mark) == MarkId::BIRTH {
            return Some(refused(format!(
                "mark {mark} was set when the copy was made, and lives as long as it"
            )));
        }
        self.command(asker, Command::ForgetMark { mark: MarkId(mark) })
    }

    /// The marks that agents have set, oldest first, and what may have changed since each.
    pub(super) fn marks_of_agents(&self) -> impl Iterator<Item = (MarkId, &BlockMap)> {
        let birth = self.born_from().map(|_| MarkId::BIRTH);
        self.engine.marks().iter().filter(move |(mark, _)| Some(*mark) != birth)
    }

    pub(super) fn mark_status(&self) -> Vec<MarkStatus> {
        self.marks_of_agents()
            .map(|(mark, changed)| MarkStatus { mark: mark.0, bytes_changed: changed.bytes() })
            .collect()
    }
}
