//! The writer's diary, outside the volume: what it was promised, and when it came and went.
//!
//! One fact a line, each ending in a CRC-32C of the line, appended in one write. A writer killed in the middle of a
//! line leaves a torn one behind; the next incarnation begins on a fresh line. So a line that does not parse is
//! forgiven only where a writer's life can end: before a `start` and at the end of the file.
//!
//! ```text
//! start <ns> <pid> <writer>     the process began            connected <ns>   it reached its volume
//! found <ns> <next number>      it knows where it left off   lost <ns>        the volume went away
//! ack <ns> <number> <offset> <checksum>                      stop <ns>        it is about to exit
//! clash <ns> <pid>              another one was at it when the process began, which must never be
//! ```

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;

/// A record the volume said was durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Wall clock when the flush was answered, nanoseconds since 1970.
    pub at_ns: u64,
    /// The record's number.
    pub number: u64,
    /// Where it was written, in bytes.
    pub offset: u64,
    /// Its CRC-32C.
    pub checksum: u32,
}

/// One line of the diary. Times are wall clock, nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The process began.
    Start {
        /// When.
        at_ns: u64,
        /// The process.
        pid: u32,
        /// The incarnation its records name.
        writer: u64,
    },
    /// It reached its volume.
    Connected {
        /// When.
        at_ns: u64,
    },
    /// It read its volume and knows where it left off.
    Found {
        /// When.
        at_ns: u64,
        /// The number of the record it writes next.
        next: u64,
    },
    /// A record is durable.
    Ack(Ack),
    /// The volume went away; it tries to reach it again.
    Lost {
        /// When.
        at_ns: u64,
    },
    /// It is about to exit because it was asked to.
    Stop {
        /// When.
        at_ns: u64,
    },
    /// Another writer was at the diary when this one began: the machine ran twice.
    Clash {
        /// When.
        at_ns: u64,
        /// The process that came second.
        pid: u32,
    },
}

impl Entry {
    fn to_line(self) -> String {
        let facts = match self {
            Self::Start { at_ns, pid, writer } => format!("start {at_ns} {pid} {writer}"),
            Self::Connected { at_ns } => format!("connected {at_ns}"),
            Self::Found { at_ns, next } => format!("found {at_ns} {next}"),
            Self::Ack(ack) => format!("ack {} {} {} {}", ack.at_ns, ack.number, ack.offset, ack.checksum),
            Self::Lost { at_ns } => format!("lost {at_ns}"),
            Self::Stop { at_ns } => format!("stop {at_ns}"),
            Self::Clash { at_ns, pid } => format!("clash {at_ns} {pid}"),
        };
        let checksum = crc32c::crc32c(facts.as_bytes());
        format!("{facts} {checksum:08x}\n")
    }

    fn from_line(line: &str) -> Option<Self> {
        let (facts, checksum) = line.rsplit_once(' ')?;
        if checksum != format!("{:08x}", crc32c::crc32c(facts.as_bytes())) {
            return None;
        }
        let mut words = facts.split(' ');
        let kind = words.next()?;
        let numbers: Vec<u64> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
        match (kind, numbers.as_slice()) {
            ("start", &[at_ns, pid, writer]) => {
                Some(Self::Start { at_ns, pid: u32::try_from(pid).ok()?, writer })
            }
            ("connected", &[at_ns]) => Some(Self::Connected { at_ns }),
            ("found", &[at_ns, next]) => Some(Self::Found { at_ns, next }),
            ("ack", &[at_ns, number, offset, checksum]) => {
                Some(Self::Ack(Ack { at_ns, number, offset, checksum: u32::try_from(checksum).ok()? }))
            }
            ("lost", &[at_ns]) => Some(Self::Lost { at_ns }),
            ("stop", &[at_ns]) => Some(Self::Stop { at_ns }),
            ("clash", &[at_ns, pid]) => Some(Self::Clash { at_ns, pid: u32::try_from(pid).ok()? }),
            _ => None,
        }
    }
}

/// The diary, open for appending by one incarnation, which has a lock on it.
#[derive(Debug)]
pub struct Diary {
    file: File,
    is_alone: bool,
}

impl Diary {
    /// Opens or creates the diary at `path` and ends a torn last line.
    ///
    /// # Errors
    /// The file cannot be opened, read or written.
    pub fn open(path: &Path) -> Result<Self> {
        let context = || format!("the acknowledgement log {} cannot be opened", path.display());
        let mut file =
            OpenOptions::new().create(true).append(true).read(true).open(path).with_context(context)?;
        if file.seek(SeekFrom::End(0)).with_context(context)? > 0 {
            file.seek(SeekFrom::End(-1)).with_context(context)?;
            let mut last = [0];
            file.read_exact(&mut last).with_context(context)?;
            if last != *b"\n" {
                file.write_all(b"\n").with_context(context)?;
            }
        }
        let is_alone = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        Ok(Self { file, is_alone })
    }

    /// Whether no other incarnation was at it when it was opened.
    pub fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// Appends one entry in one write.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(&mut self, entry: Entry) -> Result<()> {
        self.file.write_all(entry.to_line().as_bytes()).context("the acknowledgement log cannot be written")
    }
}

/// Everything the diary at `path` says so far; a file that is not there yet says nothing.
///
/// # Errors
/// The file cannot be read, or a line that nobody can have torn does not parse.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => {
            Err(error).with_context(|| format!("the acknowledgement log {} cannot be read", path.display()))
        }
    }
}

fn parse(text: &str) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut torn_line = None;
    // What follows the last newline is a line still being written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for (index, line) in whole.lines().enumerate() {
        match Entry::from_line(line) {
            Some(entry) => {
                if let Some(torn) = torn_line.take()
                    && !matches!(entry, Entry::Start { .. })
                {
                    bail!(
                        "line {torn} of the acknowledgement log is damaged, so not every record can be checked"
                    );
                }
                entries.push(entry);
            }
            None => torn_line = torn_line.or(Some(index + 1)),
        }
    }
    Ok(entries)
}

/// The acknowledged records of a diary, in its order.
pub fn acknowledged(entries: &[Entry]) -> impl Iterator<Item = Ack> {
    entries.iter().filter_map(|entry| if let Entry::Ack(ack) = entry { Some(*ack) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(pid: u32) -> Vec<Entry> {
        vec![
            Entry::Start { at_ns: 1, pid, writer: 9 },
            Entry::Connected { at_ns: 2 },
            Entry::Found { at_ns: 3, next: 12 },
            Entry::Ack(Ack { at_ns: 4, number: 12, offset: 49152, checksum: u32::MAX }),
            Entry::Lost { at_ns: 5 },
            Entry::Stop { at_ns: 6 },
            Entry::Clash { at_ns: 7, pid },
        ]
    }

    fn text(entries: &[Entry]) -> String {
        entries.iter().map(|entry| entry.to_line()).collect()
    }

    #[test]
    fn a_diary_reads_back_what_two_incarnations_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acks");
        assert_eq!(read(&path).unwrap(), []);
        for pid in [1, 2] {
            let mut diary = Diary::open(&path).unwrap();
            life(pid).into_iter().for_each(|entry| diary.append(entry).unwrap());
        }
        assert_eq!(read(&path).unwrap(), [life(1), life(2)].concat());
    }

    #[test]
    fn a_kill_in_the_middle_of_any_line_loses_only_that_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acks");
        let whole = text(&life(1));
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let kept = whole[..cut].matches('\n').count();
            // Cut just before its newline a line is whole: the next incarnation ends it.
            let kept_after = kept + usize::from(whole.as_bytes()[cut] == b'\n');
            assert_eq!(read(&path).unwrap(), life(1)[..kept], "cut at {cut}");

            let mut diary = Diary::open(&path).unwrap();
            life(2).into_iter().for_each(|entry| diary.append(entry).unwrap());
            assert_eq!(read(&path).unwrap(), [&life(1)[..kept_after], &life(2)].concat(), "cut at {cut}");
        }
    }

    #[test]
    fn a_second_writer_at_the_same_diary_is_not_alone_until_the_first_has_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acks");
        let first = Diary::open(&path).unwrap();
        assert!(first.is_alone());
        assert!(!Diary::open(&path).unwrap().is_alone());
        drop(first);
        assert!(Diary::open(&path).unwrap().is_alone());
    }

    #[test]
    fn a_damaged_line_that_no_kill_explains_is_refused() {
        let damaged = text(&life(1)).replace("ack 4 12", "ack 4 13");
        let error = parse(&damaged).unwrap_err().to_string();
        assert!(error.contains("line 4"), "{error}");
    }
}
