//! The others: qemu-nbd and nbdkit's file plugin on raw files, with the settings their own users would choose.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::processes::{self, Process};

/// Which program serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    QemuNbd,
    Nbdkit,
}

/// Where it is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// A unix socket, writable.
    Unix,
    /// TCP on the loopback, read only.
    Tcp,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::QemuNbd, Self::Nbdkit];

    pub fn program(self) -> &'static str {
        match self {
            Self::QemuNbd => "qemu-nbd",
            Self::Nbdkit => "nbdkit",
        }
    }

    /// Those that are installed; what is missing is said once, here.
    pub fn installed() -> Vec<Self> {
        let is_there = |kind: &Self| {
            let there = processes::is_there(kind.program());
            if !there {
                eprintln!("bench: SKIP: {} is not installed: nothing is compared with it", kind.program());
            }
            there
        };
        Self::ALL.into_iter().filter(is_there).collect()
    }
}

/// A running server of one raw file; ended when dropped.
pub struct Peer {
    pub uri: String,
    pub file: PathBuf,
    _server: Process,
}

impl Peer {
    /// Serves `file` ; a socket and a log in `dir` are called `name`.
    pub fn start(kind: Kind, door: Door, dir: &Path, name: &str, file: &Path) -> anyhow::Result<Self> {
        let (listener, uri) = match door {
            Door::Unix => {
                let socket = dir.join(format!("{name}.sock"));
                // A socket outlives the server that had it.
                if socket.exists() {
                    std::fs::remove_file(&socket).context("cannot replace a socket")?;
                }
                let listener = UnixListener::bind(&socket).context("cannot listen on a unix socket")?;
                (listener.into(), format!("nbd+unix:///?socket={}", socket.display()))
            }
            Door::Tcp => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
                let address = listener.local_addr().context("cannot tell where we listen")?;
                (listener.into(), format!("nbd://{address}/"))
            }
        };
        let path = file.to_str().context("the temporary directory's name is not text")?;
        let mut arguments = match kind {
            Kind::QemuNbd => vec![
                "--persistent",
                "--shared=16",
                "--format=raw",
                "--cache=writeback",
                "--aio=io_uring",
                "--discard=unmap",
            ],
            Kind::Nbdkit => vec!["--foreground"],
        };
        match (kind, door) {
            (Kind::QemuNbd | Kind::Nbdkit, Door::Tcp) => arguments.push("--read-only"),
            (Kind::QemuNbd | Kind::Nbdkit, Door::Unix) => {}
        }
        if kind == Kind::Nbdkit {
            arguments.push("file");
        }
        arguments.push(path);
        let log = dir.join(format!("{name}.log"));
        let server = Process::activate(kind.program(), &arguments, listener, &log)?;
        Ok(Self { uri, file: file.to_owned(), _server: server })
    }
}
