//! NBD servers that nobody here wrote, as sources. Each is a daemon on a unix socket: its start returns when it
//! listens, and it is ended by its process descriptor, so never anybody else in its place.

use super::{run, text, until};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Bytes of a sector of a disk.
pub const SECTOR: u64 = 512;

/// A running nbdkit or qemu-nbd; killed when dropped.
pub struct Peer {
    process: OwnedFd,
    socket: PathBuf,
    export: &'static str,
}

impl Peer {
    /// `nbdkit ARGUMENTS` on `dir/source.sock`. A socket left by a killed one is replaced.
    pub fn nbdkit(dir: &Path, arguments: &[&str]) -> Self {
        Self::nbdkit_at(dir, "source.sock", arguments)
    }

    /// As [`Peer::nbdkit`], on a socket of another name.
    pub fn nbdkit_at(dir: &Path, name: &str, arguments: &[&str]) -> Self {
        let (socket, pid_file) = fresh_socket(dir, name);
        let mut all = vec!["-U", path_text(&socket), "-P", path_text(&pid_file)];
        all.extend_from_slice(arguments);
        Self::daemon("nbdkit", &all, &socket, &pid_file)
    }

    /// An nbdkit that serves `image` of `size_bytes`, but not the sectors at these offsets, as long as `dir/sick` is there.
    pub fn sick(dir: &Path, image: &Path, size_bytes: u64, sectors: [u64; 2]) -> Self {
        let sick = dir.join("sick");
        std::fs::File::create(&sick).unwrap();
        let tests: String = sectors
            .iter()
            .map(|at| {
                format!(
                    "if [ -e {} ] && [ $4 -lt {} ] && [ $(($4 + $3)) -gt {at} ]; then echo EIO bad sector >&2; exit 1; fi; ",
                    sick.display(),
                    at + SECTOR
                )
            })
            .collect();
        let read = format!(
            "{tests} exec dd if={} skip=$4 count=$3 iflag=skip_bytes,count_bytes status=none",
            path_text(image)
        );
        let arguments = [
            "-r",
            "eval",
            &format!("get_size=echo {size_bytes}"),
            "thread_model=echo parallel",
            "can_multi_conn=exit 0",
            &format!("pread={read}"),
        ];
        Self::nbdkit(dir, &arguments)
    }

    /// `qemu-nbd` serving `image` of `format` read-only to any number of clients on `dir/source.sock`.
    pub fn qemu_nbd(dir: &Path, image: &Path, format: &str) -> Self {
        let (socket, pid_file) = fresh_socket(dir, "source.sock");
        let (socket_text, pid_text) = (path_text(&socket), format!("--pid-file={}", path_text(&pid_file)));
        let arguments = [
            "--fork",
            "--persistent",
            "--read-only",
            "--shared=16",
            &pid_text,
            "-k",
            socket_text,
            "-f",
            format,
            path_text(image),
        ];
        Self::daemon("qemu-nbd", &arguments, &socket, &pid_file)
    }

    fn daemon(program: &str, arguments: &[&str], socket: &Path, pid_file: &Path) -> Self {
        let output = run(program, arguments);
        assert!(output.status.success(), "{program} {arguments:?}: {}\n{}", output.status, text(&output));
        // It has forked when it listens; the daemon itself writes this file, in one line.
        let line = until(&format!("{program} tells its process id"), || {
            std::fs::read_to_string(pid_file).ok().filter(|line| line.ends_with('\n'))
        });
        let pid: i32 = line.trim().parse().unwrap();
        let pid = Pid::from_raw(pid).expect("a process id is positive");
        let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        Self { process, socket: socket.to_owned(), export: "" }
    }

    /// The address of its default export.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///{}?socket={}", self.export, self.socket.display())
    }

    /// Stops it in its tracks: its sockets stay open, and nothing answers.
    pub fn pause(&self) {
        pidfd_send_signal(&self.process, Signal::STOP).unwrap();
    }

    /// Lets a paused one go on.
    pub fn resume(&self) {
        pidfd_send_signal(&self.process, Signal::CONT).unwrap();
    }

    /// Ends it at once, as a power cut would, and returns when it is gone.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill and nothing to wait for.
        if pidfd_send_signal(&self.process, Signal::KILL).is_ok() {
            let mut ended = [PollFd::new(&self.process, PollFlags::IN)];
            poll(&mut ended, None).expect("a process descriptor can be waited for");
        }
    }
}

fn fresh_socket(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    let socket = dir.join(name);
    if socket.exists() {
        std::fs::remove_file(&socket).unwrap();
    }
    let pid_file = socket.with_extension("pid");
    if pid_file.exists() {
        std::fs::remove_file(&pid_file).unwrap();
    }
    (socket, pid_file)
}

/// Temporary directories have plain names.
pub fn path_text(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}
