//! How the program ends: the codes that `ferry --help` documents.

use std::process::ExitCode;

use ferry_api::{ApiError, ErrorCode, JobState};

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Refused or failed.
    Failed,
    /// The command line is wrong.
    Misuse,
    /// The agent cannot be reached.
    Unreachable,
    /// The job that was followed did not succeed.
    JobFailed,
    /// Data is missing or is not what it should be.
    DataMissing,
    /// The worker is not safe to stop.
    NotSafe,
    /// Nobody can tell for sure which copy is the real one.
    NotCertain,
    /// The world is not as a plan says.
    Deviates,
    /// Ctrl-C.
    Interrupted,
    /// As the machine that this process kept.
    AsMachine(u8),
}

impl Exit {
    /// The code for what went wrong in `error`.
    pub fn of_error(error: &anyhow::Error) -> Self {
        match error.downcast_ref::<ApiError>() {
            Some(refusal) if refusal.code == ErrorCode::Unreachable => Self::Unreachable,
            Some(_) | None => Self::Failed,
        }
    }

    /// The code for a followed job that stands like this.
    pub fn of_job(state: JobState) -> Self {
        match state {
            JobState::Succeeded | JobState::Waiting | JobState::Running | JobState::Unwinding => Self::Done,
            JobState::Failed | JobState::Cancelled | JobState::Parked => Self::JobFailed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Misuse => 2,
            Exit::Unreachable => 3,
            Exit::JobFailed => 4,
            Exit::DataMissing => 5,
            Exit::NotSafe => 6,
            Exit::NotCertain => 7,
            Exit::Deviates => 8,
            Exit::Interrupted => 130,
            Exit::AsMachine(code) => code,
        })
    }
}
