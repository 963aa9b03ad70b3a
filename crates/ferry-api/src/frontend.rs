//! Ways to a volume beside its NBD socket: what can be asked for, and how it stands.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A kind of frontend; a volume has at most one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Frontend {
    /// A block device on any Linux, made of FUSE and a loop device; needs root.
    Fuse,
    /// A block device of the kernel's ublk driver, which outlives its server; needs root.
    Ublk,
    /// A unix socket for a virtual machine monitor.
    VhostUserBlk,
}

impl Frontend {
    const ALL: [Self; 3] = [Self::Fuse, Self::Ublk, Self::VhostUserBlk];

    fn name(self) -> &'static str {
        match self {
            Self::Fuse => "fuse",
            Self::Ublk => "ublk",
            Self::VhostUserBlk => "vhost-user-blk",
        }
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that is no frontend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no frontend; choose ublk, fuse or vhost-user-blk")]
pub struct NoFrontend(String);

impl FromStr for Frontend {
    type Err = NoFrontend;

    fn from_str(text: &str) -> Result<Self, NoFrontend> {
        let known = Self::ALL.into_iter().find(|frontend| frontend.name() == text);
        known.ok_or_else(|| NoFrontend(text.to_owned()))
    }
}

/// Asks for a frontend on a volume, from now on and over restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachVolume {
    /// Which; the best block device that Ferry can make on this worker, if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontend: Option<Frontend>,
}

/// Asks for a frontend, or all, to be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetachVolume {
    /// Which; all, if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontend: Option<Frontend>,
}

/// A frontend that a volume has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedFrontend {
    /// Which.
    pub frontend: Frontend,
    /// Where its guest finds it: a block device or a socket; none while it is not to be had.
    pub address: Option<PathBuf>,
    /// Why it is not to be had, if it should be.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frontend_is_read_as_it_is_written() {
        for frontend in Frontend::ALL {
            assert_eq!(frontend.to_string().parse(), Ok(frontend));
        }
        assert_eq!("nbd".parse::<Frontend>(), Err(NoFrontend("nbd".to_owned())));
    }
}
