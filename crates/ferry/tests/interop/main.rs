//! Ferry's volume server against software that nobody here wrote: foreign clients on its guest socket, also while
//! the volume hydrates, and foreign servers as its source, also bad ones.
//!
//! The oracle is never Ferry: it is `nbdcopy`, `qemu-img compare`, `fio --verify`, or the image the test made.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

#[path = "../support/mod.rs"]
mod support;

mod bad_blocks;
mod bad_clients;
mod bad_days;
mod exports;
mod filters;
mod fio;
mod libnbd;
mod loop_devices;
mod qemu;
mod sources;

use std::path::Path;
use support::peers::{Peer, path_text};
use support::volume::Volume;
use support::{image, succeed};

/// A source so slow that a volume mostly hydrates still while a test works on it; it surely does where it was started by
/// [`Volume::start_slowly`]. It serves `image` at `rate` (as `16M`, in bits a second).
///
/// One thread a connection: nbdkit 1.32 aborts (`raw_send_socket: Assertion sock >= 0`) now and then when a client is
/// killed while several of its threads answer it.
fn slow_source(dir: &Path, image: &Path, rate: &str) -> Peer {
    let rate = format!("rate={rate}");
    Peer::nbdkit(dir, &["--threads=1", "--filter=rate", "-r", "file", path_text(image), &rate])
}

/// Reads the whole export at `uri` with nbdcopy into `dir/name`, and compares it with `expected`.
fn assert_reads_as(expected: &Path, uri: &str, dir: &Path, name: &str) {
    let copy = dir.join(name);
    succeed("nbdcopy", &[uri, path_text(&copy)]);
    image::assert_same(expected, &copy);
}

/// Fails unless the volume still hydrates: otherwise the test has shown nothing. To be asked of one that was started by
/// [`Volume::start_slowly`], or whose source is held: only these cannot be done yet.
fn assert_still_hydrating(volume: &Volume) {
    let hydration = volume.status().hydration;
    assert!(!hydration.complete, "the source was too fast for this test: {hydration:?}");
}
