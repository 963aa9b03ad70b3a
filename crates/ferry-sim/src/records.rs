//! What agents write in their records, for people, and what must be true when they do.

use crate::world::{HostIndex, State};
use ferry_agent::records::Change;
use serde_json::Value;

/// A write in a few words.
#[must_use]
pub fn in_words(entries: &[String], changes: &[Change]) -> String {
    let mut words = Vec::new();
    for entry in entries.iter().filter_map(|entry| serde_json::from_str::<Value>(entry).ok()) {
        let word = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let error = entry.pointer("/error/message").and_then(Value::as_str).unwrap_or_default();
        let outcome = entry.get("outcome").map(ToString::to_string).unwrap_or_default();
        words.push(format!("{} {} {outcome}{error}", word("entry"), word("step")).trim().to_owned());
    }
    for change in changes {
        words.push(match change {
            Change::AddMachine(record) => format!("AddMachine {}", record.id),
            Change::AddVolume(record) => format!("AddVolume {} {:?}", record.key(), record.ownership),
            Change::AddJob(record) => format!("AddJob {}", record.id),
            Change::Crossing(record) => format!("Crossing {} {:?}", record.job, record.state),
            other => format!("{other:?}"),
        });
    }
    format!("writes {}", words.join("; "))
}

/// A job that ends as it must leave its machine as it must.
pub fn check_end(state: &mut State, host: HostIndex, entries: &[String]) {
    let entries = entries.iter().filter_map(|entry| serde_json::from_str::<Value>(entry).ok());
    for entry in entries.filter(|entry| entry.get("entry").and_then(Value::as_str) == Some("finished")) {
        let outcome = entry.get("outcome").map(ToString::to_string).unwrap_or_default();
        let _ = host;
        state.count(match outcome {
            text if text.contains("succeeded") => "moves that succeeded",
            text if text.contains("cancelled") => "moves that were cancelled",
            _ => "moves that failed",
        });
    }
}
