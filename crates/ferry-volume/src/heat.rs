//! Heat between volume servers, and over restarts: asked of a source over a connection of its own, kept in a small file.
//!
//! Heat is advice. What cannot be asked, read or written is left alone: the volume then hydrates in order.

use crate::client::{BlockClient, BlockError};
use crate::tls::Credentials;
use ferry_engine::heat::{CLASS_MAX, HEAT_FILE_BYTES_MAX, HEAT_RUNS_MAX};
use ferry_engine::{ByteRange, Heat, Hot};
use ferry_nbd::{CONTEXT_HEAT, Extent, Uri};
use std::fs;
use std::io::Read;
use std::path::Path;

/// Name of the file in the volume's directory.
const HEAT: &str = "heat";
/// Questions to one source at most: each is answered by thousands of extents.
const QUESTIONS_MAX: usize = 64;

/// Asks a source how hot it is. Nothing, if it does not know.
///
/// # Errors
/// The source cannot be reached, or does not answer.
pub(crate) fn ask(uri: &Uri, credentials: Option<&Credentials>) -> Result<Vec<Hot>, BlockError> {
    let mut client = BlockClient::connect_for(uri, CONTEXT_HEAT, credentials)?;
    let (mut hot, mut at) = (Vec::new(), 0);
    for _ in 0..QUESTIONS_MAX {
        let Some(extents) = client.block_status(CONTEXT_HEAT, at)? else { break };
        at = gather(&extents, at, &mut hot);
        if extents.is_empty() || at >= client.size_bytes() || hot.len() >= HEAT_RUNS_MAX {
            break;
        }
    }
    Ok(hot)
}

/// Takes what an answer tells from `at` on; gives up to where it does.
fn gather(extents: &[Extent], at: u64, hot: &mut Vec<Hot>) -> u64 {
    extents.iter().fold(at, |at, extent| {
        let class = extent.flags.min(u64::from(CLASS_MAX)) as u8;
        let range = ByteRange::new(at, extent.len_bytes).filter(|_| class > 0);
        hot.extend(range.map(|range| Hot { range, class }));
        at.saturating_add(extent.len_bytes)
    })
}

/// What an answer about `range` says: at most so many extents.
pub(crate) fn extents(heat: &Heat, range: ByteRange, limit: usize) -> Vec<Extent> {
    let classes = heat.classes(range).take(limit);
    classes.map(|(len_bytes, class)| Extent { len_bytes, flags: u64::from(class) }).collect()
}

/// What was kept in the volume's directory, if it can be used.
pub(crate) fn load(dir: &Path, size_bytes: u64) -> Option<Heat> {
    let file = fs::File::open(dir.join(HEAT)).ok()?;
    let mut bytes = Vec::new();
    file.take(HEAT_FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).ok()?;
    Heat::decode(&bytes, size_bytes)
}

/// Keeps the heat in the volume's directory. Nobody waits for the disk: what a crash leaves is whole or not used.
pub(crate) fn keep(dir: &Path, heat: &Heat) {
    if heat.is_empty() {
        return;
    }
    let fresh = dir.join(format!("{HEAT}.new"));
    let kept = fs::write(&fresh, heat.encode()).and_then(|()| fs::rename(&fresh, dir.join(HEAT)));
    if let Err(e) = kept {
        tracing::warn!(error = %e, "what the guest touches often is not remembered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_is_told_is_what_is_understood() {
        let mut heat = Heat::new();
        for offset in [3, 70, 3, 4, 3, 70] {
            heat.touch(ByteRange::new(offset * MIB, 4096).unwrap());
        }
        let whole = ByteRange::new(0, 1 << 40).unwrap();
        let (mut hot, mut at) = (Vec::new(), 0);
        while at < whole.end() {
            let rest = ByteRange::new(at, whole.end() - at).unwrap();
            at = gather(&extents(&heat, rest, 2), at, &mut hot);
        }
        let of = |spot, class| Hot { range: ByteRange::new(spot * MIB, MIB).unwrap(), class };
        assert_eq!(hot, [of(3, 2), of(4, 1), of(70, 2)]);
    }

    #[test]
    fn what_a_strange_source_says_is_taken_within_reason() {
        let mut hot = Vec::new();
        let strange = [(u64::MAX, 0), (u64::MAX, u64::MAX), (0, 5)];
        let strange = strange.map(|(len_bytes, flags)| Extent { len_bytes, flags });
        assert_eq!(gather(&strange, 7, &mut hot), u64::MAX);
        assert!(hot.iter().all(|hot| hot.class <= CLASS_MAX));
    }

    #[test]
    fn a_file_that_is_no_heat_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path(), MIB), None);
        let mut heat = Heat::new();
        heat.touch(ByteRange::new(0, 1).unwrap());
        keep(dir.path(), &heat);
        assert!(load(dir.path(), MIB).is_some());
        fs::write(dir.path().join(HEAT), [0; 100]).unwrap();
        assert_eq!(load(dir.path(), MIB), None);
    }
}
