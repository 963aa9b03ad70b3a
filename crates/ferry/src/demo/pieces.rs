//! The demo's filling and its verdict as commands of their own, for tests that arrange crossings of their own.
//!
//! The layout follows from the volume's size and `--used`, so both must be as they were for the filling.

use std::path::Path;

use anyhow::Result;
use ferry_volume::client::BlockClient;

use super::layout::Layout;
use super::{SEED, acks, check, fill};
use crate::exit::Exit;
use crate::output::say_json;

/// A volume that is filled or checked.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Its NBD URI.
    pub uri: String,
    /// Bytes of it that are filled.
    pub used_bytes: u64,
}

impl Piece {
    fn open(&self) -> Result<(BlockClient, Layout)> {
        let disk = BlockClient::connect_text(&self.uri)?;
        let layout = Layout::plan(disk.size_bytes(), self.used_bytes, SEED)?;
        Ok((disk, layout))
    }

    /// Fills it.
    ///
    /// # Errors
    /// The volume cannot be reached or refuses a write.
    pub fn fill(&self) -> Result<Exit> {
        let (mut disk, layout) = self.open()?;
        fill::fill(&mut disk, &layout, &mut |_| {})?;
        Ok(Exit::Done)
    }

    /// Checks it against the diary of its writer, and prints the verdict as JSON.
    ///
    /// # Errors
    /// Volume or diary cannot be read; then there is no verdict.
    pub fn check(&self, diary: &Path) -> Result<Exit> {
        let entries = acks::read(diary)?;
        let (mut disk, layout) = self.open()?;
        let verdict = check::check_diary(&mut disk, &layout, &entries)?;
        say_json(&verdict)?;
        Ok(if verdict.is_good() { Exit::Done } else { Exit::DataMissing })
    }
}
