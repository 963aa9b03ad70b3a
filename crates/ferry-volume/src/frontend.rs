//! The words for frontends: ways to a volume beside its NBD socket, each attached and detached while it is served.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// A frontend, as it is asked for and as `volume.json` remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Frontend {
    /// A file in a FUSE filesystem with a loop device on it: a block device on any Linux; needs root.
    Fuse {},
    /// A block device of the kernel's ublk driver (Linux 6.5 or later), which outlives its server; needs root.
    Ublk {},
    /// A unix socket that speaks vhost-user-blk: for QEMU and other virtual machine monitors.
    VhostUserBlk {},
}

/// The kind of a frontend; a volume has at most one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrontendKind {
    /// [`Frontend::Fuse`].
    Fuse,
    /// [`Frontend::Ublk`].
    Ublk,
    /// [`Frontend::VhostUserBlk`].
    VhostUserBlk,
}

impl Frontend {
    /// Its kind.
    pub fn kind(&self) -> FrontendKind {
        match self {
            Self::Fuse {} => FrontendKind::Fuse,
            Self::Ublk {} => FrontendKind::Ublk,
            Self::VhostUserBlk {} => FrontendKind::VhostUserBlk,
        }
    }
}

impl fmt::Display for FrontendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fuse => "fuse",
            Self::Ublk => "ublk",
            Self::VhostUserBlk => "vhost-user-blk",
        })
    }
}

/// How a frontend stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontendStatus {
    /// What was asked for.
    pub frontend: Frontend,
    /// Where the guest finds it: a block device or a socket; none while it is not to be had.
    pub address: Option<PathBuf>,
    /// Why it is not to be had, if it should be.
    pub error: Option<String>,
}
