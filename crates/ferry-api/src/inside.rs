//! What a machine finds inside: file systems of its volumes, and namespaces of its own.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

/// A volume as a file system of its machine. Nobody else on the worker sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Where the machine finds it.
    pub path: MountPath,
    /// What it is. It is made on a volume that was created empty for this machine, once, and never on any other.
    #[serde(default)]
    pub fs: Filesystem,
    /// Whether the machine may only read it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// A kind of file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filesystem {
    /// The fourth extended one.
    #[default]
    Ext4,
}

impl Filesystem {
    /// Its name as the kernel knows it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
        }
    }
}

impl fmt::Display for Filesystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where something is mounted: absolute, not the root, and without `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MountPath(String);

/// A text is no place to mount something at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' is no place to mount a volume at; write a whole path below /, as in /var/lib/data, without .."
)]
pub struct MountPathError {
    /// What was given.
    pub text: String,
}

impl MountPath {
    /// As a path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// Where it is when the machine's root is the directory `root` of the worker.
    #[must_use]
    pub fn below(&self, root: &Path) -> PathBuf {
        root.join(self.0.trim_start_matches('/'))
    }
}

impl FromStr for MountPath {
    type Err = MountPathError;

    fn from_str(text: &str) -> Result<Self, MountPathError> {
        let mut parts = Path::new(text).components();
        let is_absolute = parts.next() == Some(Component::RootDir);
        let rest: Vec<Component<'_>> = parts.collect();
        let is_plain = !rest.is_empty() && rest.iter().all(|part| matches!(part, Component::Normal(_)));
        match is_absolute && is_plain && !text.contains('\0') {
            true => Ok(Self(text.to_owned())),
            false => Err(MountPathError { text: text.to_owned() }),
        }
    }
}

impl TryFrom<String> for MountPath {
    type Error = MountPathError;

    fn try_from(text: String) -> Result<Self, MountPathError> {
        text.parse()
    }
}

impl From<MountPath> for String {
    fn from(path: MountPath) -> Self {
        path.0
    }
}

impl fmt::Display for MountPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a machine has for itself: mounts, process numbers, IPC and host name always; the rest as it says here. It keeps
/// machines from getting in each other's way; it is no wall against a hostile one that runs as root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Isolation {
    /// The user that it runs as, by name or number, looked up in its own `/etc/passwd`; the agent's if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A directory of the worker that is its root file system, which it cannot write to; the worker's own if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// What it has of the network.
    #[serde(default)]
    pub network: Network,
}

/// What a machine has of the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// That of the worker.
    #[default]
    Host,
    /// Nothing.
    None,
    /// An interface of its own with the machine's own address ([`crate::MachineId::address`]), which its worker reaches.
    Own,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_mounted_at_a_whole_path_below_the_root() {
        for text in ["/", "data", "/a/../b", "", "../x"] {
            assert!(text.parse::<MountPath>().is_err(), "{text}");
        }
        let path: MountPath = "/var/lib/x".parse().unwrap();
        assert_eq!(path.below(Path::new("/srv/root")), Path::new("/srv/root/var/lib/x"));
    }
}
