//! Names people give to workers, machines and volumes, and references by name or id.

use crate::{IdError, MachineId, VolumeId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longest name, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 63;
/// Length of the text of an id; a name of that length that reads as an id is refused.
const ID_BYTES: usize = 26;

/// A text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Wrong letters or length.
    #[error(
        "'{text}' is not a name; a name has 1 to {NAME_BYTES_MAX} of a-z, 0-9, - and _ and begins with a letter or digit"
    )]
    Letters {
        /// What was given.
        text: String,
    },
    /// It could be mistaken for an id.
    #[error("'{text}' reads like an id; choose a name that does not")]
    LikeAnId {
        /// What was given.
        text: String,
    },
}

fn check(text: &str) -> Result<(), NameError> {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let good = (1..=NAME_BYTES_MAX).contains(&bytes.len())
        && letter(bytes[0])
        && bytes.iter().all(|&b| letter(b) || b == b'-' || b == b'_');
    if !good {
        return Err(NameError::Letters { text: text.to_owned() });
    }
    if bytes.len() == ID_BYTES && text.parse::<VolumeId>().is_ok() {
        return Err(NameError::LikeAnId { text: text.to_owned() });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Longest name, in bytes.
            pub const BYTES_MAX: usize = NAME_BYTES_MAX;

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                check(&text)?;
                Ok(Self(text))
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::try_from(text.to_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// Name of a worker, as in the configuration of every agent.
    WorkerName
);
name!(
    /// Name of a machine, unique on the worker that runs it.
    MachineName
);
name!(
    /// Name of a volume, unique within its machine (or among the volumes of no machine on a worker).
    VolumeName
);

name!(
    /// Name of a service, for people.
    ServiceName
);
name!(
    /// Name of a group of machines that stand in for each other.
    GroupName
);
name!(
    /// Name of a region of workers.
    RegionName
);
name!(
    /// Name of a token for people and programs.
    TokenName
);
name!(
    /// Name of a label.
    LabelName
);
name!(
    /// What a label says.
    LabelValue
);

impl VolumeName {
    /// The environment variable in which a machine finds the NBD URI of this volume: `FERRY_VOLUME_` and the name
    /// in upper case, with `_` for `-`.
    #[must_use]
    pub fn environment_variable(&self) -> String {
        format!("FERRY_VOLUME_{}", self.0.to_ascii_uppercase().replace('-', "_"))
    }
}

macro_rules! reference {
    ($(#[$doc:meta])* $reference:ident, $id:ident, $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum $reference {
            /// By id.
            Id($id),
            /// By name.
            Name($name),
        }

        impl From<$id> for $reference {
            fn from(id: $id) -> Self {
                Self::Id(id)
            }
        }

        impl From<$name> for $reference {
            fn from(name: $name) -> Self {
                Self::Name(name)
            }
        }

        impl From<$reference> for String {
            fn from(reference: $reference) -> Self {
                reference.to_string()
            }
        }

        impl TryFrom<String> for $reference {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl FromStr for $reference {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let id: Result<$id, IdError> = text.parse();
                match id {
                    Ok(id) => Ok(Self::Id(id)),
                    Err(_) => text.parse().map(Self::Name),
                }
            }
        }

        impl fmt::Display for $reference {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    Self::Id(id) => id.fmt(f),
                    Self::Name(name) => name.fmt(f),
                }
            }
        }
    };
}

reference!(
    /// A machine by its id or its name.
    MachineRef,
    MachineId,
    MachineName
);
reference!(
    /// A volume by its id or its name.
    VolumeRef,
    VolumeId,
    VolumeName
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for good in ["a", "w1", "web-1", "db_main", "0"] {
            assert!(good.parse::<WorkerName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "Web", "a/b", "a b", "ä", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(bad.parse::<WorkerName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_that_reads_like_an_id_is_refused() {
        let text = VolumeId::fresh().to_string().to_ascii_lowercase();
        assert_eq!(text.parse::<MachineName>(), Err(NameError::LikeAnId { text }));
    }

    #[test]
    fn a_reference_is_an_id_or_a_name() {
        let id = MachineId::fresh();
        assert_eq!(id.to_string().parse::<MachineRef>().unwrap(), MachineRef::Id(id));
        let name: MachineName = "web".parse().unwrap();
        assert_eq!("web".parse::<MachineRef>().unwrap(), MachineRef::Name(name));
        assert!("We b".parse::<MachineRef>().is_err());
    }

    #[test]
    fn a_volume_name_gives_a_shell_variable() {
        assert_eq!("db-main".parse::<VolumeName>().unwrap().environment_variable(), "FERRY_VOLUME_DB_MAIN");
    }
}
