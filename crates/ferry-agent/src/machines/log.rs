//! What a machine writes: one file that only grows, whose oldest part is given back to the filesystem.
//!
//! The machine holds the file itself (`O_APPEND`) with nobody in between: a pipe would stall it, or lose what is in it,
//! when whoever copies dies. A file that is renamed is still written to until the machine opens it anew, which most never
//! do, and one that is copied and cut loses what is written between the two. So the head is punched out, where nobody
//! writes any more: no line is lost before its time, and the place of a line never changes.

use crate::machines::LOG;
use ferry_api::{AskLog, MachineLog, WorkerName};
use rustix::fs::{FallocateFlags, SeekFrom as Seek};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// What is given back at a time, in bytes: a multiple of every filesystem's block.
const SEGMENT_BYTES: u64 = 16 << 20;
/// How many segments are kept, the one that is being written among them.
const SEGMENTS_KEPT: u64 = 3;
/// How often logs are looked at for what may go.
pub(crate) const TRIM_PAUSE: Duration = Duration::from_secs(5);
/// How often somebody who waits for more looks.
pub(super) const FOLLOW_PAUSE: Duration = Duration::from_millis(100);
/// The most that is answered at once, in bytes.
const PIECE_BYTES_MAX: u64 = 256 << 10;
/// What is read at a time to find the beginning of a line, in bytes.
const LOOK_BYTES: u64 = 64 << 10;

/// Where what is kept begins in a log of this length. Pure.
fn kept_from(length: u64) -> u64 {
    (length / SEGMENT_BYTES + 1).saturating_sub(SEGMENTS_KEPT) * SEGMENT_BYTES
}

/// Gives back what is too old in the logs of all machines in a state directory.
///
/// # Errors
/// The directory of machines cannot be read. A log that cannot be trimmed is complained about and grows.
pub(crate) fn trim_all(state_dir: &Path) -> io::Result<()> {
    let machines = match std::fs::read_dir(state_dir.join("machines")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        machines => machines?,
    };
    for machine in machines {
        let path = machine?.path().join(LOG);
        match trim(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(log = %path.display(), %error, "what is old in a log cannot be given back; it grows");
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn trim(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let kept_from = kept_from(file.metadata()?.len());
    if data_from(&file)? < kept_from {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, punch, 0, kept_from)?;
    }
    Ok(())
}

/// The first byte that is not in the hole at the beginning.
fn data_from(file: &File) -> io::Result<u64> {
    match rustix::fs::seek(file, Seek::Data(0)) {
        Err(Errno::NXIO) => Ok(file.metadata()?.len()),
        other => Ok(other?),
    }
}

/// Reads a piece of a log as it is now; one that is not there is empty.
pub(super) fn read(
    path: &Path,
    ask: AskLog,
    worker: WorkerName,
    moved_to: Option<WorkerName>,
) -> io::Result<MachineLog> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Ok(MachineLog { worker, text: String::new(), from: 0, next: 0, end: 0, moved_to });
        }
        file => file?,
    };
    let (end, kept_from) = (file.metadata()?.len(), data_from(&file)?);
    let from = match (ask.after, ask.lines) {
        (Some(after), _) if after >= kept_from => after.min(end),
        (None, Some(lines)) => last_lines(&file, kept_from, end, lines)?,
        (Some(_) | None, _) if kept_from == 0 => 0,
        // The hole ends in the middle of a line.
        (Some(_) | None, _) => line_after(&file, kept_from, end)?,
    };
    let mut bytes = vec![0; usize::try_from((end - from).min(PIECE_BYTES_MAX)).unwrap_or_default()];
    file.read_exact_at(&mut bytes, from)?;
    bytes.truncate(whole(&bytes, from + (bytes.len() as u64) < end));
    let next = from + bytes.len() as u64;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(MachineLog { worker, text, from, next, end, moved_to })
}

/// How much of a piece can be told without cutting a line, if there is more, or a character. Pure.
fn whole(bytes: &[u8], has_more: bool) -> usize {
    if has_more && let Some(at) = bytes.iter().rposition(|byte| *byte == b'\n') {
        return at + 1;
    }
    match std::str::from_utf8(bytes) {
        // The beginning of a character whose rest is yet to come.
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Ok(_) | Err(_) => bytes.len(),
    }
}

/// The place of the first line that begins after `at`.
fn line_after(file: &File, at: u64, end: u64) -> io::Result<u64> {
    let mut from = at;
    while from < end {
        let bytes = look(file, from, (from + LOOK_BYTES).min(end))?;
        if let Some(found) = bytes.iter().position(|byte| *byte == b'\n') {
            return Ok(from + found as u64 + 1);
        }
        from += bytes.len() as u64;
    }
    Ok(at)
}

/// The place at which the last lines begin; one that is not complete counts.
fn last_lines(file: &File, kept_from: u64, end: u64, lines: u64) -> io::Result<u64> {
    if lines == 0 {
        return Ok(end);
    }
    // The end of the last line ends no line before those that are asked for.
    let mut until = end.saturating_sub(1).max(kept_from);
    let mut left = lines;
    while until > kept_from {
        let from = until.saturating_sub(LOOK_BYTES).max(kept_from);
        let bytes = look(file, from, until)?;
        for (at, _) in bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            left -= 1;
            if left == 0 {
                return Ok(from + at as u64 + 1);
            }
        }
        until = from;
    }
    if kept_from == 0 { Ok(0) } else { line_after(file, kept_from, end) }
}

fn look(file: &File, from: u64, until: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(until - from).unwrap_or_default()];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    fn log_of(text: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOG);
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn piece(path: &Path, ask: AskLog) -> MachineLog {
        read(path, ask, "w1".parse().unwrap(), None).unwrap()
    }

    fn lines(lines: u64) -> AskLog {
        AskLog { lines: Some(lines), ..AskLog::default() }
    }

    #[test]
    fn the_last_lines_are_found_also_an_incomplete_one() {
        let (_dir, path) = log_of(b"one\ntwo\n\nthree\nfo");
        let last = |n| piece(&path, lines(n)).text;
        assert_eq!((last(0).as_str(), last(1).as_str(), last(2).as_str()), ("", "fo", "three\nfo"));
        assert_eq!((last(3).as_str(), last(4).as_str()), ("\nthree\nfo", "two\n\nthree\nfo"));
        assert_eq!(last(9), "one\ntwo\n\nthree\nfo");
        assert_eq!(piece(&path.with_extension("missing"), lines(9)).end, 0);
    }

    #[test]
    fn a_log_is_read_on_from_where_the_last_piece_ended() {
        let text = "line of some length\n".repeat(40_000);
        let (_dir, path) = log_of(text.as_bytes());
        let (mut found, mut at) = (String::new(), 0);
        loop {
            let piece = piece(&path, AskLog { after: Some(at), ..AskLog::default() });
            assert!(piece.from == at && piece.text.ends_with('\n'), "a line is cut");
            found.push_str(&piece.text);
            at = piece.next;
            if at == piece.end {
                break;
            }
        }
        assert_eq!(found, text);
    }

    #[test]
    fn a_character_is_not_cut_and_other_bytes_are_told_somehow() {
        assert_eq!(whole("aé".as_bytes(), false), 3);
        assert_eq!(whole(&"aé".as_bytes()[..2], false), 1);
        assert_eq!(whole(b"a\xff", false), 2);
        assert_eq!(whole(b"a\nb", true), 2);
    }

    #[test]
    fn what_is_old_is_given_back_while_the_machine_writes_and_no_line_of_the_rest_is_lost() {
        let (_dir, path) = log_of(b"");
        let mut machine = OpenOptions::new().append(true).open(&path).unwrap();
        let line = |n: u64| format!("{n:>1023}\n");
        let count = 6 * SEGMENT_BYTES / 1024;
        for n in 0..count {
            machine.write_all(line(n).as_bytes()).unwrap();
            if n % 1000 == 0 {
                trim(&path).unwrap();
            }
        }
        trim(&path).unwrap();
        let found = path.metadata().unwrap();
        assert_eq!(found.len(), count * 1024, "the place of a line has changed");
        assert!(found.blocks() * 512 <= SEGMENTS_KEPT * SEGMENT_BYTES, "{} blocks", found.blocks());
        let first = piece(&path, AskLog::default());
        assert!(first.from >= kept_from(found.len()) && first.from < kept_from(found.len()) + 2048);
        let n: u64 = first.text.lines().next().unwrap().trim().parse().unwrap();
        assert_eq!(n * 1024, first.from);
        assert_eq!(piece(&path, lines(1)).text, line(count - 1));
        let gone = AskLog { after: Some(5), ..AskLog::default() };
        assert_eq!(piece(&path, gone).from, first.from, "what is gone is skipped");
    }

    #[test]
    fn a_log_keeps_whole_segments_and_at_least_all_but_one() {
        let mib = 1 << 20;
        assert_eq!([0, 47 * mib].map(kept_from), [0, 0]);
        assert_eq!([48 * mib, 63 * mib, 64 * mib].map(kept_from), [16 * mib, 16 * mib, 32 * mib]);
    }
}
