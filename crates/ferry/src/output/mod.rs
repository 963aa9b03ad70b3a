//! Everything a person or a script gets to see passes through here: lines, colours, tables, JSON, complaints.
//!
//! Invariant: facts go to stdout, complaints to stderr, and colours only to a terminal that wants them. Nothing here
//! panics when the reader goes away: a broken pipe is an error like others and ends the program quietly.

pub mod board;
pub mod bytes;
pub mod live;
pub mod progress;
pub mod table;

use std::io::{self, IsTerminal, Write};

use owo_colors::OwoColorize;
use serde::Serialize;

/// Writes one line to stdout.
///
/// # Errors
/// The reader went away, or the disk is full.
pub fn say(line: impl std::fmt::Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

/// Writes one value to stdout as indented JSON.
///
/// # Errors
/// As [`say`].
pub fn say_json(value: &impl Serialize) -> io::Result<()> {
    say(serde_json::to_string_pretty(value)?)
}

/// Writes one value to stdout as one line of JSON.
///
/// # Errors
/// As [`say`].
pub fn say_json_line(value: &impl Serialize) -> io::Result<()> {
    say(serde_json::to_string(value)?)
}

/// Writes one sentence to stderr as `ferry: SENTENCE`.
pub fn complain(sentence: &str) {
    let mark = Paint::for_stderr().bad("ferry:");
    // Nobody is left to be told if stderr is gone.
    let _ = writeln!(io::stderr().lock(), "{mark} {sentence}");
}

/// An error and its causes in one line; a cause that is already told is not told again.
pub fn in_one_line(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain() {
        let text = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        if sentence.is_empty() {
            sentence = text;
        } else if !sentence.contains(&text) {
            sentence = format!("{sentence}: {text}");
        }
    }
    sentence
}

/// True if stdout is a terminal that can redraw lines.
pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Columns and lines of the terminal that stdout is; of none, or one that does not say, what is usual.
pub fn terminal_size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        Ok(_) | Err(_) => (80, 24),
    }
}

/// Colours, if they are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    colours: bool,
}

impl Paint {
    /// For lines that go to stdout.
    pub fn for_stdout() -> Self {
        Self { colours: stdout_is_terminal() && colours_are_wanted() }
    }

    /// For lines that go to stderr.
    pub fn for_stderr() -> Self {
        Self { colours: io::stderr().is_terminal() && colours_are_wanted() }
    }

    /// No colours.
    #[cfg(test)]
    pub fn none() -> Self {
        Self { colours: false }
    }

    /// Something that went well.
    pub fn good(self, text: &str) -> String {
        if self.colours { text.green().to_string() } else { text.to_owned() }
    }

    /// Something that went wrong.
    pub fn bad(self, text: &str) -> String {
        if self.colours { text.red().bold().to_string() } else { text.to_owned() }
    }

    /// Something to look at.
    pub fn strong(self, text: &str) -> String {
        if self.colours { text.bold().to_string() } else { text.to_owned() }
    }

    /// Something of less weight.
    pub fn faint(self, text: &str) -> String {
        if self.colours { text.dimmed().to_string() } else { text.to_owned() }
    }
}

/// <https://no-color.org>: a variable that is there and not empty.
fn colours_are_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn an_error_and_its_causes_are_one_line() {
        let error = Err::<(), _>(anyhow!("no such\nfile")).context("the config cannot be read").unwrap_err();
        assert_eq!(in_one_line(&error), "the config cannot be read: no such file");
    }

    #[test]
    fn a_cause_that_the_sentence_already_tells_is_not_told_again() {
        let error = Err::<(), _>(anyhow!("disk full")).context("disk full on w1").unwrap_err();
        assert_eq!(in_one_line(&error), "disk full on w1");
    }

    #[test]
    fn without_colours_text_stays_as_it_is() {
        let paint = Paint::none();
        assert_eq!(
            [paint.good("a"), paint.bad("b"), paint.strong("c"), paint.faint("d")],
            ["a", "b", "c", "d"]
        );
    }
}
