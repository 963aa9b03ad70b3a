//! The hooks of a machine in a drill: each says where it is as an agent does, so that somebody may die while it runs, and notes in a
//! ledger that it was begun and that it is through.
//!
//! Invariant: a machine that was quiesced is told that it stays, wherever it goes on without having moved; one that has moved is told
//! that it has arrived. Only one that was killed itself needs not be told.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ferry_api::{Hook, HookName, Hooks};

use super::play::Ending;
use crate::exit::Exit;

/// What each line at the socket begins with, behind the worker.
pub const RUNS: &str = "runs hook";

/// What a hook is given.
#[derive(Clone, Debug)]
pub struct HookOptions {
    /// Where it notes that it was run.
    pub ledger: PathBuf,
    /// The socket of the drill.
    pub socket: PathBuf,
}

/// A line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which hook.
    pub hook: String,
    /// Whether it is through, and not just begun.
    pub is_through: bool,
}

/// The hooks of a machine whose ledger is there.
///
/// # Errors
/// A path is no text.
pub fn hooks(ledger: &Path, socket: &Path) -> Result<Hooks> {
    let program = std::env::current_exe().context("this program cannot find its own file")?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path is no text");
    let command = ["drill-hook", "--ledger", &text(ledger)?, "--socket", &text(socket)?].map(str::to_owned);
    let command: Vec<String> = [text(&program)?].into_iter().chain(command).collect();
    let hook = || Some(Hook::new(command.clone()));
    Ok(Hooks { before_move: hook(), quiesce: hook(), resume: hook(), after_move: hook() })
}

/// Runs as a hook.
///
/// # Errors
/// It was not started by an agent; the ledger cannot be written.
pub fn run(options: &HookOptions) -> Result<Exit> {
    let told =
        |name: &str| std::env::var(name).with_context(|| format!("{name} is not set; only agents run this"));
    let hook = told("FERRY_HOOK")?;
    let is_there = hook == HookName::AfterMove.as_str();
    let worker = told(if is_there { "FERRY_MOVE_TO" } else { "FERRY_MOVE_FROM" })?;
    note(&options.ledger, &hook, "begun")?;
    let asked = UnixStream::connect(&options.socket).and_then(|mut stream| {
        writeln!(stream, "{worker} {RUNS} {hook}")?;
        BufReader::new(stream).read_line(&mut String::new())
    });
    if let Err(error) = asked {
        tracing::debug!(%error, hook, "nobody holds the drill");
    }
    note(&options.ledger, &hook, "through")?;
    Ok(Exit::Done)
}

fn note(ledger: &Path, hook: &str, what: &str) -> Result<()> {
    let noted = OpenOptions::new().create(true).append(true).open(ledger);
    noted
        .and_then(|mut file| file.write_all(format!("{hook} {what}\n").as_bytes()))
        .with_context(|| format!("{} cannot be written", ledger.display()))
}

/// What a ledger says; nothing if there is none yet.
///
/// # Errors
/// It cannot be read.
pub fn read(ledger: &Path) -> Result<Vec<Run>> {
    let text = match std::fs::read_to_string(ledger) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other.with_context(|| format!("{} cannot be read", ledger.display()))?,
    };
    let run = |line: &str| {
        let (hook, what) = line.split_once(' ')?;
        Some(Run { hook: hook.to_owned(), is_through: what == "through" })
    };
    Ok(text.lines().filter_map(run).collect())
}

/// Whether a machine was told what it must be told in a move that ended so.
///
/// # Errors
/// It was not.
pub fn check(runs: &[Run], ending: Ending) -> Result<()> {
    let last = |hook: HookName, is_through: bool| {
        runs.iter().rposition(|run| run.hook == hook.as_str() && run.is_through == is_through)
    };
    let quiesced = last(HookName::Quiesce, false);
    let (must, never) = match ending {
        Ending::Moved => (HookName::AfterMove, Some(HookName::Resume)),
        Ending::Undone | Ending::Cancelled => (HookName::Resume, Some(HookName::AfterMove)),
        Ending::NeverBegan if runs.is_empty() => return Ok(()),
        Ending::NeverBegan => bail!("hooks of a move ran that never began: {runs:?}"),
    };
    if let Some(never) = never.filter(|never| last(*never, false).is_some()) {
        bail!("the {never} hook ran in a move that ended otherwise: {runs:?}");
    }
    let told = last(must, true);
    let is_owed = ending == Ending::Moved || quiesced.is_some();
    if is_owed && (told.is_none() || told < quiesced) {
        bail!("the machine was quiesced, and its {must} hook did not run after that: {runs:?}");
    }
    if ending == Ending::Moved && last(HookName::Quiesce, true).is_none() {
        bail!("the machine was stopped without having been quiesced: {runs:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(text: &str) -> Vec<Run> {
        let run =
            |word: &str| Run { hook: word.trim_end_matches('!').to_owned(), is_through: word.ends_with('!') };
        text.split_whitespace().map(run).collect()
    }

    #[test]
    fn a_machine_that_was_quiesced_and_stays_is_told_so_and_one_that_moved_is_told_that() {
        let holds = |text: &str, ending| check(&runs(text), ending).is_ok();
        assert!(holds("before_move before_move! quiesce quiesce! resume resume!", Ending::Undone));
        assert!(holds("quiesce quiesce quiesce! resume resume resume!", Ending::Cancelled));
        assert!(holds("before_move before_move!", Ending::Undone));
        assert!(!holds("quiesce quiesce!", Ending::Undone));
        assert!(!holds("quiesce quiesce! resume", Ending::Undone), "it was cut off");
        assert!(!holds("quiesce quiesce! resume resume! quiesce", Ending::Undone), "it was quiesced again");
        assert!(holds("quiesce quiesce! after_move after_move after_move!", Ending::Moved));
        assert!(!holds("quiesce quiesce! after_move", Ending::Moved));
        assert!(!holds("quiesce after_move after_move!", Ending::Moved), "it never was quiesced");
        assert!(!holds("quiesce quiesce! resume resume! after_move after_move!", Ending::Moved));
        assert!(holds("", Ending::NeverBegan) && !holds("before_move", Ending::NeverBegan));
    }
}
