//! Moments at which a drill may hold an agent, and meanwhile kill whomever it likes.
//!
//! An agent that was started with `ferry agent --drill SOCKET` connects to that socket at each of them, says in one line
//! where it is, and goes on when it has read one line:
//!
//! ```text
//!   WORKER before|after write WORD ...   a transaction of the records: ENTRY[:STEP] for each entry of a journal; without
//!                                        entries crossing:STATE, machine:starts, or what is changed
//!   WORKER before|after call NAME        a call of a peer was heard, or is answered next
//!   WORKER after freeze                  the file systems of a machine are frozen, for a hook or a fork
//!   WORKER ends STEP                     a step of a job is done, and this is not noted yet
//!                                        answered `fail`, the step is taken to have failed for good; `go` is any other
//! ```
//!
//! Invariant: without that option nothing of this happens. The agent only ever connects out, and a socket at which nobody
//! answers holds nothing up.

use crate::records::Change;
use ferry_api::WorkerName;
use ferry_fsm::StepError;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::OnceLock;

/// One agent a process.
static DRILL: OnceLock<Drill> = OnceLock::new();

#[derive(Debug)]
struct Drill {
    worker: WorkerName,
    socket: PathBuf,
}

/// Has the agent of this process ask at `socket` at each moment, from now on and for good.
pub fn drill(worker: WorkerName, socket: PathBuf) {
    // Only the first one counts; there is one agent in a process.
    let _ = DRILL.set(Drill { worker, socket });
}

/// Which side of a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// It is about to happen.
    Before,
    /// It has happened, and nobody has acted on it yet.
    After,
}

impl When {
    fn as_str(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// Records are written in one transaction: entries of a journal, changes, or both. Holds the thread.
pub(crate) fn write(when: When, entries: &[String], changes: &[Change]) {
    if let Some(drill) = DRILL.get() {
        drill.ask(&format!("{} write {}", when.as_str(), words(entries, changes).join(" ")));
    }
}

/// A peer calls.
pub(crate) async fn call(when: When, name: &str) {
    if let Some(drill) = DRILL.get() {
        drill.ask_aside(format!("{} call {name}", when.as_str())).await;
    }
}

/// A machine was frozen.
pub(crate) async fn frozen() {
    if let Some(drill) = DRILL.get() {
        drill.ask_aside(format!("{} freeze", When::After.as_str())).await;
    }
}

/// How a step ended, unless it is to fail.
pub(crate) async fn end(step: &str, ended: Result<Value, StepError>) -> Result<Value, StepError> {
    let (Some(drill), Ok(memo)) = (DRILL.get(), ended.as_ref()) else { return ended };
    match drill.ask_aside(format!("ends {step}")).await {
        Answer::Go => Ok(memo.clone()),
        Answer::Fail => Err(StepError::fatal("the drill has it fail")),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Go,
    Fail,
}

impl Drill {
    /// Waits for the answer on a thread of its own.
    async fn ask_aside(&'static self, at: String) -> Answer {
        tokio::task::spawn_blocking(move || self.ask(&at)).await.unwrap_or(Answer::Go)
    }

    fn ask(&self, at: &str) -> Answer {
        let mut answer = String::new();
        let asked = UnixStream::connect(&self.socket).and_then(|mut stream| {
            writeln!(stream, "{} {at}", self.worker)?;
            BufReader::new(stream).read_line(&mut answer)
        });
        match asked {
            Ok(_) if answer == "fail\n" => Answer::Fail,
            Ok(_) => Answer::Go,
            Err(error) => {
                tracing::debug!(%error, at, "nobody holds the drill");
                Answer::Go
            }
        }
    }
}

fn words(entries: &[String], changes: &[Change]) -> Vec<String> {
    match entries {
        [] => changes.iter().map(of_change).collect(),
        entries => entries.iter().map(|entry| of_entry(entry)).collect(),
    }
}

fn of_entry(entry: &str) -> String {
    let entry: Value = serde_json::from_str(entry).unwrap_or_default();
    let word = |name| entry.get(name).and_then(Value::as_str).unwrap_or_default();
    match word("step") {
        "" => word("entry").to_owned(),
        step => format!("{}:{step}", word("entry")),
    }
}

fn of_change(change: &Change) -> String {
    if let Change::Crossing(crossing) = change {
        let state = serde_json::to_value(crossing.state).unwrap_or_default();
        return format!("crossing:{}", state.as_str().unwrap_or_default());
    }
    if let Change::ProcessStarts { .. } = change {
        return "machine:starts".to_owned();
    }
    // `Made(...)`, `Own { ... }`: what comes before differs from move to move.
    let shown = format!("{change:?}");
    shown.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::{Generation, VolumeId, VolumeKey};
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_transaction_is_named_after_its_entries_and_without_any_after_its_changes() {
        let made = Change::Made(VolumeKey { id: VolumeId::fresh(), generation: Generation(7) });
        let entries = [r#"{"entry":"done","step":"Seal","at_ms":1}"#, r#"{"entry":"finished","at_ms":2}"#];
        let entries = entries.map(str::to_owned);
        assert_eq!(words(&entries, std::slice::from_ref(&made)), ["done:Seal", "finished"]);
        assert_eq!(words(&[], &[made]), ["Made"]);
    }

    fn drill_in(dir: &std::path::Path) -> Drill {
        Drill { worker: "w1".parse().unwrap(), socket: dir.join("drill.sock") }
    }

    #[test]
    fn an_agent_says_where_it_is_and_does_as_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let drill = drill_in(dir.path());
        let listener = UnixListener::bind(&drill.socket).unwrap();
        for (said, answer) in [("go\n", Answer::Go), ("fail\n", Answer::Fail), ("", Answer::Go)] {
            let heard = std::thread::scope(|scope| {
                let asked = scope.spawn(|| drill.ask("ends Seal"));
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                stream.write_all(said.as_bytes()).unwrap();
                drop(stream);
                assert_eq!(asked.join().unwrap(), answer);
                line
            });
            assert_eq!(heard, "w1 ends Seal\n");
        }
    }

    #[test]
    fn an_agent_whose_drill_is_gone_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(drill_in(dir.path()).ask("before call boot"), Answer::Go);
    }
}
