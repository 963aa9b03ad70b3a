//! The pace of hydration, as agents set it: told to the engine, and remembered in the volume's description.

use super::Server;
use super::command::{refused, whole_story};
use crate::control::Answer;
use crate::directory::VolumeConfig;
use ferry_engine::{Command, Event};
use std::num::NonZeroU64;

impl Server {
    /// Tells the engine what the description says.
    pub(super) fn pace_as_described(&mut self) {
        let VolumeConfig { budget_bytes_per_s, guard_us, .. } = self.store.config;
        self.feed(Event::Command(Command::SetBudget { bytes_per_s: budget_bytes_per_s }));
        self.feed(Event::Command(Command::SetGuard { bound_us: guard_us }));
    }

    pub(super) fn set_budget(&mut self, bytes_per_s: Option<NonZeroU64>) -> Answer {
        self.pace(|config| config.budget_bytes_per_s = bytes_per_s)
    }

    pub(super) fn set_guard(&mut self, bound_us: Option<NonZeroU64>) -> Answer {
        self.pace(|config| config.guard_us = bound_us)
    }

    fn pace(&mut self, change: impl FnOnce(&mut VolumeConfig)) -> Answer {
        match self.store.describe(change) {
            Ok(()) => {
                self.pace_as_described();
                Answer::Done
            }
            Err(e) => refused(whole_story(&e)),
        }
    }
}
