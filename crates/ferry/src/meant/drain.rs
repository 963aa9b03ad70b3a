//! What was meant by the words of `ferry drain`.

use std::path::Path;

use ferry_api::{AskDrain, MachineRef, StartDrain};
use serde::de::DeserializeOwned;

use super::{Meant, Misuse, Question, ask, mode_of, pace, parsed, retention_hours, when};
use crate::args;
use crate::commands::drain::Wish;

pub(super) fn question(typed: args::drain::Drain) -> Result<Meant, Misuse> {
    let wanted = AskDrain {
        only: machines(&typed.only)?,
        except: machines(&typed.except)?,
        mode: mode_of(typed.mode),
        max_parallel: typed.max_parallel,
        max_parallel_per_link: typed.max_parallel_per_link,
        bandwidth_bytes_per_s: typed.bandwidth.as_deref().map(pace::bandwidth).transpose()?,
        deadline_ms: typed.deadline.map(when::span_ms),
        force: typed.force,
    };
    let wish = if typed.plan {
        Wish::Plan(wanted)
    } else if typed.pause || typed.resume {
        Wish::Pause(typed.pause)
    } else if typed.cancel {
        Wish::Cancel
    } else if typed.watch {
        Wish::Watch
    } else {
        let plan = typed.apply.as_deref().map(|file| plan_in(file, "ferry drain")).transpose()?;
        let retention_hours = retention_hours(typed.retention)?;
        Wish::Start(Box::new(StartDrain { ask: wanted, plan, retention_hours }))
    };
    let worker = parsed(&typed.worker)?;
    ask(&typed.asking, Question::Drain { worker, wish, follow: !typed.detach })
}

/// The machines that were typed.
pub(super) fn machines(typed: &[String]) -> Result<Vec<MachineRef>, Misuse> {
    typed.iter().map(|machine| parsed(machine)).collect()
}

/// The plan in a file, which `command` has made.
pub(super) fn plan_in<T: DeserializeOwned>(file: &Path, command: &str) -> Result<T, Misuse> {
    let failed = |what: String| Misuse(format!("--apply {}: {what}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| failed(error.to_string()))?;
    let read = serde_json::from_str(&text);
    read.map_err(|error| failed(format!("it is no plan of `{command} --plan --json`: {error}")))
}
