//! What all lanes of a drill share: a directory, a block of addresses, and that nothing of it is left running.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Result, bail};

use super::lane::{Addresses, Lane, Wiring};
use super::row::Guest;
use crate::demo;
use crate::demo::layout::Layout;
use crate::demo::processes::{self, Ended};
use crate::demo::workers::fresh_directory;

/// How the names of all drills' directories begin.
const DIRECTORY_PREFIX: &str = "ferry-drill-";
/// A lane deep enough for all there will be.
const DEEPEST_LANE: &str = "9999/w1";
/// How many blocks of addresses are tried.
const BLOCKS_MAX: u32 = 64;
/// The machine's volume and how much of it is in use: enough to be on its way for a while, little enough to be read back in
/// each row.
const VOLUME_BYTES: u64 = 64 * 1024 * 1024;
const USED_BYTES: u64 = 4 * 1024 * 1024;

/// The house. Dropped, everything that was started in it is ended.
pub struct House {
    dir: PathBuf,
    block: [u8; 2],
    layout: Layout,
    lanes: AtomicUsize,
    ended: Ended,
    keep: bool,
    /// A lane was left to be looked at.
    has_evidence: AtomicBool,
}

impl House {
    /// Makes the directory in `parent`, and this process responsible for all that will be started.
    ///
    /// # Errors
    /// The directory cannot be made; there are no free addresses.
    pub fn found(parent: Option<&Path>, keep: bool) -> Result<Self> {
        processes::become_subreaper()?;
        let temporary = std::env::temp_dir();
        Ok(Self {
            block: free_block()?,
            layout: Layout::plan(VOLUME_BYTES, USED_BYTES, demo::SEED)?,
            dir: fresh_directory(parent.unwrap_or(&temporary), DIRECTORY_PREFIX, DEEPEST_LANE)?,
            lanes: AtomicUsize::new(0),
            ended: Ended::default(),
            keep,
            has_evidence: AtomicBool::new(false),
        })
    }

    /// Where everything of it lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The children that have ended.
    pub fn ended(&self) -> Ended {
        self.ended.clone()
    }

    /// A new lane at the addresses of `slot`, which nobody else uses.
    ///
    /// # Errors
    /// Something of it does not start.
    pub async fn lane(&self, slot: u8, wiring: Wiring, guest: Guest) -> Result<Lane> {
        let number = self.lanes.fetch_add(1, Ordering::Relaxed);
        let addresses = Addresses { block: self.block, slot };
        Lane::found(self.dir.join(number.to_string()), addresses, wiring, guest, self.layout).await
    }

    /// Ends a lane. Its directory stays if it is evidence, or all are kept.
    pub async fn give_up(&self, mut lane: Lane, is_evidence: bool) {
        let dir = lane.dir.clone();
        let end = dir.clone();
        // It ends what it can; what it could not is ended with the house.
        let _ = tokio::task::spawn_blocking(move || processes::end_kept(&end)).await;
        lane.link.close().await;
        drop(lane);
        self.has_evidence.fetch_or(is_evidence, Ordering::Relaxed);
        if !is_evidence && !self.keep {
            // What cannot be removed now goes with the house.
            let _ = std::fs::remove_dir_all(&dir);
        }
    }

    /// Ends everything, and removes what nobody needs.
    pub fn clear_up(&self) {
        processes::end_kept(&self.dir);
        processes::end_all(&[], &self.ended);
        if !self.keep && !self.has_evidence.load(Ordering::Relaxed) {
            // It lies in a directory for temporary files, or where a person looks.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.clear_up();
    }
}

/// 127.A.B.0/24 where nobody listens as a lane would.
fn free_block() -> Result<[u8; 2]> {
    let first = std::process::id();
    for candidate in first..first.saturating_add(BLOCKS_MAX) {
        let [_, _, a, b] = candidate.to_be_bytes();
        // 127.0 is everybody's.
        let a = a | 0x80;
        if TcpListener::bind((Ipv4Addr::new(127, a, b, 1), super::lane::AGENT_PORT)).is_ok() {
            return Ok([a, b]);
        }
    }
    bail!("no loopback addresses (127.128.0.0/9) are free to be listened at; a drill needs some of them")
}
