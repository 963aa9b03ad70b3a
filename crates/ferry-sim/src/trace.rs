//! What happened, one line an event, for people; and a fingerprint of all of it, to compare two runs.

use std::collections::VecDeque;

/// Lines kept when not all are asked for.
const LINES_KEPT: usize = 400;

/// The lines of a simulation.
#[derive(Debug)]
pub struct Trace {
    lines: VecDeque<String>,
    is_whole: bool,
    count: u64,
    fingerprint: u64,
}

impl Trace {
    /// An empty trace that keeps every line, or only the last few hundred.
    #[must_use]
    pub fn new(is_whole: bool) -> Self {
        Self { lines: VecDeque::new(), is_whole, count: 0, fingerprint: 0xCBF2_9CE4_8422_2325 }
    }

    /// Appends what happened to `who` at a time.
    pub fn say(&mut self, at_ms: u64, who: &str, what: &str) {
        let line = format!("{:>7}.{:03}  {who:<7} {}", at_ms / 1_000, at_ms % 1_000, short(what));
        for byte in line.bytes() {
            self.fingerprint = (self.fingerprint ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        self.count += 1;
        self.keep(line);
    }

    /// Appends a line that only people look at.
    pub fn mutter(&mut self, at_ms: u64, who: &str, what: &str) {
        if self.is_whole {
            let (s, ms) = (at_ms / 1_000, at_ms % 1_000);
            self.keep(format!("{s:>7}.{ms:03}  {who:<7}     | {}", short(what)));
        }
    }

    fn keep(&mut self, line: String) {
        if !self.is_whole && self.lines.len() == LINES_KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// The same for two runs that did the same.
    #[must_use]
    pub const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// How many events there were.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The lines that were kept.
    #[must_use]
    pub fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}

/// Ids as people like them: they count from 1 in a simulation.
#[must_use]
pub fn short(text: &str) -> String {
    const ZEROES: &str = "00000000000000000000";
    const ID_LEN: usize = 26;
    let (mut rest, mut out) = (text, String::with_capacity(text.len()));
    while let Some(at) = rest.find(ZEROES) {
        out.push_str(&rest[..at]);
        let end = rest.len().min(at + ID_LEN);
        let id = rest.get(at..end).unwrap_or(ZEROES);
        out.push('#');
        out.push_str(id.trim_start_matches('0'));
        rest = rest.get(end..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_and_everything_else_is_as_it_was() {
        assert_eq!(
            short("copy 0000000000000000000000000A@2 of 00000000000000000000000001"),
            "copy #A@2 of #1"
        );
        assert_eq!(short("nothing 000"), "nothing 000");
    }
}
