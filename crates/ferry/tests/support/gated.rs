//! A source that can be held for ever at a place, and let go: nbdkit answers reads below the gate only once it is
//! open. So a clone of it surely hydrates still while a test looks, however fast or slow the host is.

use super::peers::{Peer, path_text};
use super::{NBDKIT, Tool};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::Path;

/// What a test with a gated source needs.
pub const GATED: [Tool; 2] = [NBDKIT, Tool { program: "flock", package: "util-linux" }];

/// An image behind a gate. Dropped, it opens the gate and ends.
pub struct Gated {
    // Opened first: the script behind it waits for this lock.
    gate: File,
    peer: Peer,
}

impl Gated {
    /// Serves `image` of `size_bytes` from `dir`; reads that begin below `gate_bytes` wait. All reads are of
    /// regions, of which fewer are below the gate than nbdkit has threads.
    pub fn serve(dir: &Path, image: &Path, size_bytes: u64, gate_bytes: u64) -> Self {
        let path = dir.join("gate");
        let gate = File::create(&path).unwrap();
        flock(&gate, FlockOperation::LockExclusive).unwrap();
        let read = format!(
            "if [ $4 -lt {gate_bytes} ]; then flock -s {} true; fi; \
             exec dd if={} skip=$4 count=$3 iflag=skip_bytes,count_bytes status=none",
            path.display(),
            path_text(image)
        );
        let arguments = [
            "--threads=64",
            "-r",
            "eval",
            &format!("get_size=echo {size_bytes}"),
            "thread_model=echo parallel",
            "can_multi_conn=exit 0",
            &format!("pread={read}"),
        ];
        Self { gate, peer: Peer::nbdkit(dir, &arguments) }
    }

    /// Where it is.
    pub fn uri(&self) -> String {
        self.peer.uri()
    }

    /// Lets everything through from now on.
    pub fn open(&self) {
        flock(&self.gate, FlockOperation::Unlock).unwrap();
    }
}
