//! Commands: one at a time, each durable before it is announced.
//!
//! ```text
//!              Open                Seal (writes are refused at once, those under way end, all is durable)
//!  Standby ──────────▶ Open ───────────────────────▶ Sealed
//!                        ▲                              │
//!                        └──────────── Unseal ──────────┘
//! ```
//!
//! Invariant: the phase changes when the map says so, not before, but for a store that takes no writes any more
//! ([`super::as_is`]); a command that fails has changed nothing. What was true of a sealed volume since a mark is so no more once it is
//! unsealed: the marks end in the same frame.

use crate::event::{Command, Errno};
use crate::map::Phase;
use crate::operation::{Notice, Operation, Refusal};

use super::Engine;
use super::as_is::Deed;

/// What to do with a command now.
pub(super) enum Verdict {
    /// It is as asked already.
    Already,
    Refused(Refusal),
    /// The store failed before.
    Failed(Errno),
    /// The store takes no writes, and it can be done without.
    AsIs(Deed),
    /// It must wait for what is under way.
    NotYet,
    Ready,
}

impl Engine {
    pub(super) fn command(&mut self, command: Command, out: &mut Vec<Operation>) {
        match command {
            Command::PauseHydration => self.hydration.pause(true),
            Command::ResumeHydration => self.hydration.pause(false),
            Command::SetBudget { bytes_per_s } => self.budget.set(bytes_per_s),
            Command::SetGuard { bound_us } => self.guard.set(bound_us),
            Command::SetLossPolicy { policy } => self.loss.set_policy(policy),
            Command::Snapshot { id } => self.snapshot_asked(id, out),
            Command::ForgetSnapshot { id } => self.forget_snapshot(id, out),
            Command::SetFinishBy { due_ms } => self.finish.set(due_ms),
            Command::Open
            | Command::Adopt
            | Command::Seal
            | Command::Unseal
            | Command::DetachSource
            | Command::AbandonSource
            | Command::Mark
            | Command::ForgetMark { .. }
            | Command::Grow { .. } => {
                if command == Command::Seal && self.phase == Phase::Open {
                    self.refuse_waiting_puts(Errno::EPERM, out);
                }
                self.deeds.push_back(command);
            }
        }
    }

    /// The oldest command if it can be carried out by a commit that starts now. Answers those that need none.
    pub(super) fn ready_command(&mut self, out: &mut Vec<Operation>) -> Option<Command> {
        while let Some(&command) = self.deeds.front() {
            let notice = match self.judge(command) {
                Verdict::Ready => return Some(command),
                Verdict::NotYet => return None,
                Verdict::AsIs(deed) => {
                    self.do_as_is(deed);
                    done_notice(command)
                }
                Verdict::Already => done_notice(command),
                Verdict::Refused(refusal) => Some(Notice::CommandRefused { command, refusal }),
                Verdict::Failed(errno) => Some(Notice::CommandFailed { command, errno }),
            };
            self.deeds.pop_front();
            out.extend(notice.map(Operation::Notice));
        }
        None
    }

    fn judge(&self, command: Command) -> Verdict {
        if self.durability.is_carrying_out(command) {
            return Verdict::NotYet;
        }
        let verdict = match (command, self.phase) {
            (Command::Open, Phase::Standby) | (Command::Unseal, Phase::Sealed) => Verdict::Ready,
            (Command::Open | Command::Unseal, Phase::Open) | (Command::Seal, Phase::Sealed) => {
                Verdict::Already
            }
            (Command::Open, Phase::Sealed) => Verdict::Refused(Refusal::Sealed),
            (Command::Adopt, _) if self.is_all_adopted() => Verdict::Already,
            (Command::Adopt, _) => Verdict::Ready,
            (Command::Seal | Command::Unseal, Phase::Standby) => Verdict::Refused(Refusal::Standby),
            (Command::Seal, Phase::Open) if self.writes_in_flight > 0 || self.growth.is_some() => {
                Verdict::NotYet
            }
            (Command::Seal, Phase::Open) => Verdict::Ready,
            (Command::DetachSource, _) if !self.has_source => Verdict::Already,
            (Command::DetachSource, _) if !self.complete => Verdict::Refused(Refusal::NotComplete),
            (Command::DetachSource, _) => Verdict::Ready,
            (Command::Mark, _) if self.marks().is_full() => Verdict::Refused(Refusal::TooManyMarks),
            (Command::Mark, _) => Verdict::Ready,
            (Command::ForgetMark { mark }, _) if self.marks().since(mark).is_none() => Verdict::Already,
            (Command::ForgetMark { .. }, _) => Verdict::Ready,
            (Command::Grow { size_bytes }, _) => self.judge_growth(size_bytes),
            (
                Command::PauseHydration
                | Command::ResumeHydration
                | Command::SetBudget { .. }
                | Command::SetGuard { .. }
                | Command::SetFinishBy { .. }
                | Command::Snapshot { .. }
                | Command::ForgetSnapshot { .. }
                | Command::SetLossPolicy { .. },
                _,
            ) => Verdict::Already,
            (Command::AbandonSource, _) if !self.has_source => Verdict::Already,
            (Command::AbandonSource, Phase::Standby) => Verdict::Refused(Refusal::Standby),
            (Command::AbandonSource, _) if !self.may_abandon() => Verdict::NotYet,
            (Command::AbandonSource, _) => Verdict::Ready,
        };
        match (verdict, self.durability.failed()) {
            (verdict @ (Verdict::Ready | Verdict::NotYet), Some(errno)) => {
                match (verdict, self.as_is(command)) {
                    (Verdict::NotYet, Some(_)) => Verdict::NotYet,
                    (_, Some(deed)) => Verdict::AsIs(deed),
                    (_, None) => Verdict::Failed(errno),
                }
            }
            (verdict, _) => verdict,
        }
    }

    pub(super) fn command_ended(
        &mut self,
        command: Command,
        result: Result<(), Errno>,
        out: &mut Vec<Operation>,
    ) {
        let front = self.deeds.pop_front();
        assert_eq!(front, Some(command), "commands end in the order in which they came");
        if let Err(errno) = result {
            if command == Command::AbandonSource {
                self.abandon_failed();
            }
            if command == Command::Mark {
                self.mark_not_made();
            }
            out.push(Operation::Notice(Notice::CommandFailed { command, errno }));
            return;
        }
        match command {
            Command::Open => self.phase = Phase::Open,
            Command::Unseal => {
                self.phase = Phase::Open;
                let ended: Vec<_> = self.marks().ending_with_a_seal().collect();
                ended.into_iter().for_each(|mark| self.mark_forgotten(mark));
            }
            Command::Seal => self.phase = Phase::Sealed,
            Command::DetachSource => self.has_source = false,
            Command::Mark => return self.mark_made(out),
            Command::ForgetMark { mark } => self.mark_forgotten(mark),
            // Announced when nothing under way stands against it.
            Command::Grow { size_bytes } => return self.growth_is_durable(size_bytes),
            Command::PauseHydration
            | Command::ResumeHydration
            | Command::SetBudget { .. }
            | Command::SetGuard { .. }
            | Command::SetFinishBy { .. }
            | Command::Snapshot { .. }
            | Command::ForgetSnapshot { .. }
            | Command::SetLossPolicy { .. }
            | Command::Adopt => {}
            Command::AbandonSource => self.abandoned(out),
        }
        out.extend(done_notice(command).map(Operation::Notice));
    }
}

fn done_notice(command: Command) -> Option<Notice> {
    match command {
        Command::Open => Some(Notice::Opened),
        Command::Adopt => Some(Notice::Adopted),
        Command::Seal => Some(Notice::Sealed),
        Command::Unseal => Some(Notice::Unsealed),
        Command::DetachSource => Some(Notice::SourceDetached),
        Command::Grow { size_bytes } => Some(Notice::Grown { size_bytes }),
        Command::ForgetMark { mark } => Some(Notice::MarkForgotten { mark }),
        // Told with its id, when it has one.
        Command::Mark => None,
        Command::PauseHydration
        | Command::ResumeHydration
        | Command::SetBudget { .. }
        | Command::SetGuard { .. }
        | Command::SetFinishBy { .. }
        | Command::Snapshot { .. }
        | Command::ForgetSnapshot { .. }
        | Command::SetLossPolicy { .. } => None,
        Command::AbandonSource => Some(Notice::SourceAbandoned),
    }
}
