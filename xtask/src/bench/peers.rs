//! The others: qemu-nbd and nbdkit's file plugin on raw files, with the settings their own users would choose.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;

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
pub enum Door<'a> {
    /// A unix socket, writable.
    Unix,
    /// TCP on the loopback, read only.
    Tcp,
    /// The same with mutual TLS, by the certificates in this directory.
    Tls(&'a Path),
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
    _server: Process,
}

impl Peer {
    /// Serves `file` ; a socket and a log in `dir` are called `name`.
    pub fn start(kind: Kind, door: Door<'_>, dir: &Path, name: &str, file: &Path) -> anyhow::Result<Self> {
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
            Door::Tls(certificates) => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
                let port = listener.local_addr().context("cannot tell where we listen")?.port();
                let certificates = certificates.display();
                (listener.into(), format!("nbds://localhost:{port}/?tls-certificates={certificates}"))
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
        if door != Door::Unix {
            arguments.push("--read-only");
        }
        let secure = secure_arguments(kind, door);
        arguments.extend(secure.iter().map(String::as_str));
        if kind == Kind::Nbdkit {
            arguments.push("file");
        }
        arguments.push(path);
        let log = dir.join(format!("{name}.log"));
        let server = Process::activate(kind.program(), &arguments, listener, &log)?;
        Ok(Self { uri, _server: server })
    }
}

/// What makes it ask for TLS, and for a certificate of whoever comes.
fn secure_arguments(kind: Kind, door: Door<'_>) -> Vec<String> {
    let Door::Tls(certificates) = door else { return Vec::new() };
    let dir = certificates.display();
    match kind {
        Kind::QemuNbd => vec![
            format!("--object=tls-creds-x509,id=tls,endpoint=server,verify-peer=on,dir={dir}"),
            "--tls-creds=tls".to_owned(),
        ],
        Kind::Nbdkit => vec![
            "--tls=require".to_owned(),
            "--tls-verify-peer".to_owned(),
            format!("--tls-certificates={dir}"),
        ],
    }
}
