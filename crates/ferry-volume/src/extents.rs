//! Which parts of a sparse file hold data, as its filesystem tells it.

use rustix::fs::{SeekFrom, seek};
use std::io;
use std::os::fd::AsFd;

/// A stretch of a file that holds data, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileExtent {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) data: bool,
}

/// The stretches of `start..end`, in order and without gaps, at most `limit` of them (then the answer ends early).
/// What lies beyond the end of the file is a hole. A filesystem that cannot tell says that all is data.
pub(crate) fn file_extents(fd: impl AsFd, start: u64, end: u64, limit: usize) -> io::Result<Vec<FileExtent>> {
    let mut found = Vec::new();
    let mut at = start;
    while at < end && found.len() < limit {
        let data_start = match seek(&fd, SeekFrom::Data(at)) {
            Ok(data_start) => data_start.min(end),
            Err(rustix::io::Errno::NXIO) => end,
            Err(rustix::io::Errno::INVAL) => {
                found.push(FileExtent { start: at, end, data: true });
                break;
            }
            Err(e) => return Err(e.into()),
        };
        if data_start > at {
            found.push(FileExtent { start: at, end: data_start, data: false });
            at = data_start;
            continue;
        }
        let hole_start = match seek(&fd, SeekFrom::Hole(at)) {
            Ok(hole_start) => hole_start.min(end),
            Err(rustix::io::Errno::NXIO) => end,
            Err(e) => return Err(e.into()),
        };
        // A writer may punch a hole between the two questions; a stretch is never empty all the same.
        let hole_start = hole_start.max(at + 1);
        found.push(FileExtent { start: at, end: hole_start, data: true });
        at = hole_start;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_sparse_file_shows_its_holes_and_its_data() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[7; 65536], 262_144).unwrap();
        let found = file_extents(&file, 0, 1 << 20, 10).unwrap();
        assert_eq!(found.iter().map(|e| e.end - e.start).sum::<u64>(), 1 << 20);
        let data: u64 = found.iter().filter(|e| e.data).map(|e| e.end - e.start).sum();
        assert!((65536..1 << 20).contains(&data), "{found:?}");
        assert!(found.iter().any(|e| e.data && e.start <= 262_144 && e.end >= 327_680));
    }

    #[test]
    fn beyond_the_end_of_the_file_is_a_hole() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(
            file_extents(&file, 0, 8192, 10).unwrap(),
            [FileExtent { start: 0, end: 8192, data: false }]
        );
    }

    #[test]
    fn the_answer_keeps_to_its_limit() {
        let file = tempfile::tempfile().unwrap();
        for i in 0..8 {
            file.write_all_at(&[1; 4096], i * 131_072).unwrap();
        }
        assert_eq!(file_extents(&file, 0, 1 << 20, 3).unwrap().len(), 3);
    }
}
