//! nbdkit's filters as hostile sources: late, failing, throttled, stalled, picky about sizes, or without what decent
//! servers offer. Whatever they do, the hydrated clone holds the image's bytes.

use super::sources::hydrates_through;
use super::support::peers::{Peer, path_text};
use super::support::volume::{MIB, Volume};
use super::support::{NBDCOPY, NBDKIT, QEMU_IO, image, needs, qemu_io, run, skip, test_name, until};
use super::{assert_reads_as, assert_still_hydrating};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

const SIZE_BYTES: u64 = 16 * MIB;

/// Filters, outermost first, and their parameters.
const HOSTILE: &[(&[&str], &[&str])] = &[
    (&["delay"], &["delay-read=20ms", "delay-extents=10ms", "delay-open=50ms"]),
    (&["error"], &["error-pread-rate=10%", "error-extents-rate=10%"]),
    (&["error"], &["error=EINVAL", "error-pread-rate=5%"]),
    (&["rate"], &["rate=400M"]),
    (&["retry-request", "error"], &["retry-request-delay=1", "error-pread-rate=10%"]),
    (
        &["blocksize-policy"],
        &[
            "blocksize-error-policy=error",
            "blocksize-minimum=4096",
            "blocksize-preferred=64K",
            "blocksize-maximum=256K",
        ],
    ),
    (&["nocache"], &[]),
    (&["nocache"], &["cachemode=emulate"]),
    (&["noextents"], &[]),
    (&["nozero"], &[]),
    (&["nozero"], &["zeromode=emulate"]),
    (&["noextents", "delay", "error"], &["delay-read=5ms", "error-pread-rate=10%"]),
];

/// Whether this nbdkit has the filter; a missing one is said as by [`skip`].
fn has_filter(test: &str, name: &str) -> bool {
    let filter = format!("--filter={name}");
    let is_there = run("nbdkit", &[&filter, "null", "--dump-plugin"]).status.success();
    if !is_there {
        skip(test, &format!("nbdkit's filter {name}"));
    }
    is_there
}

#[test]
fn a_clone_holds_its_sources_bytes_whatever_filter_is_before_them() {
    needs!(NBDKIT, NBDCOPY);
    for (filters, parameters) in HOSTILE {
        if !filters.iter().all(|name| has_filter(test_name!(), name)) {
            continue;
        }
        let options: Vec<String> = filters.iter().map(|name| format!("--filter={name}")).collect();
        let mut arguments: Vec<&str> = options.iter().map(String::as_str).collect();
        arguments.extend(*parameters);
        let hydration = hydrates_through(&arguments);
        assert!(hydration.bytes_fetched > 0, "{filters:?} {parameters:?}: {hydration:?}");
    }
}

/// The control socket of a pause filter. It answers a command's letter in the other case once it is done.
struct PauseControl(UnixStream);

impl PauseControl {
    fn connect(socket: &Path) -> Self {
        Self(until("the pause filter listens", || UnixStream::connect(socket).ok()))
    }

    fn say(&mut self, command: u8) {
        self.0.write_all(&[command]).unwrap();
        let mut answer = [0];
        self.0.read_exact(&mut answer).unwrap();
        assert_eq!(answer[0], command.to_ascii_uppercase());
    }
}

#[test]
fn a_source_that_pauses_holds_up_no_write_and_goes_on_where_it_was() {
    needs!(NBDKIT, NBDCOPY, QEMU_IO);
    if !has_filter(test_name!(), "pause") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    image::dense(&image, SIZE_BYTES, 71);
    let socket = dir.path().join("pause.sock");
    let control = format!("pause-control={}", path_text(&socket));
    let arguments =
        ["--filter=pause", "--filter=rate", "-r", "file", path_text(&image), "rate=32M", &control];
    let source = Peer::nbdkit(dir.path(), &arguments);
    let mut pause = PauseControl::connect(&socket);
    let volume = Volume::start_slowly(dir.path(), SIZE_BYTES, &source.uri());
    volume.wait_for("some of it is here", |status| status.hydration.bytes_local >= MIB);
    pause.say(b'p');
    volume.let_go();
    assert_still_hydrating(&volume);
    qemu_io(
        &volume.uri(),
        &["write -P 5 10M 1M", "write -z 12M 1M", "read -P 5 10M 1M", "read -P 0 12M 1M", "flush"],
    );
    assert_still_hydrating(&volume);
    pause.say(b'r');
    let hydration = volume.wait_hydrated().hydration;
    assert!(hydration.bytes_fetched <= SIZE_BYTES, "some was fetched twice: {hydration:?}");
    let file = File::options().write(true).open(&image).unwrap();
    file.write_all_at(&vec![5; MIB as usize], 10 * MIB).unwrap();
    file.write_all_at(&vec![0; MIB as usize], 12 * MIB).unwrap();
    assert_reads_as(&image, &volume.uri(), dir.path(), "copy");
}
