//! Ids that never change, and generations that only rise.

use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use ulid::Ulid;

/// A text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not an id; an id has 26 letters and digits, like 01JD2V6M5X8Y3Q4R5S6T7V8W9X")]
pub struct IdError {
    /// What was given.
    pub text: String,
}

thread_local! {
    /// The next id that this thread makes, if they are to be repeatable.
    static NEXT: Cell<Option<u128>> = const { Cell::new(None) };
}

/// From now on the ids that this thread makes are this number and those that follow it, so that what a simulation does
/// can be repeated. Never for real machines: their ids must differ from those of all other workers.
pub fn count_from(first: u128) {
    NEXT.set(Some(first));
}

fn fresh() -> Ulid {
    match NEXT.get() {
        None => Ulid::generate(),
        Some(next) => {
            NEXT.set(Some(next + 1));
            Ulid(next)
        }
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Ulid);

        impl $name {
            /// A fresh id, unlike all others (from the time and randomness).
            #[must_use]
            pub fn fresh() -> Self {
                Self(fresh())
            }

            /// When it was made, in milliseconds since 1970, by the clock of whoever made it.
            #[must_use]
            pub fn made_at_ms(self) -> u64 {
                self.0.timestamp_ms()
            }
        }

        impl From<Ulid> for $name {
            fn from(ulid: Ulid) -> Self {
                Self(ulid)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Ulid::from_string(text).map(Self).map_err(|_| IdError { text: text.to_owned() })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0.to_string())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id!(
    /// A machine; the same on every worker it ever runs on.
    MachineId
);
id!(
    /// A volume; the same on every worker that ever holds a copy of it.
    VolumeId
);
id!(
    /// A job; also the key under which a target knows a move.
    JobId
);
id!(
    /// One attempt of one move at being the only machine of its group that is down.
    LeaseId
);

/// How often ownership has changed hands, counted from 1. At a generation exactly one worker may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation of something just created.
    pub const FIRST: Self = Self(1);

    /// The generation after the next hand-over.
    ///
    /// # Panics
    /// After 2^64 hand-overs.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("nothing changes hands 2^64 times"))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One copy of a volume on one worker: `VOLUME@GENERATION`. Also the name of its NBD export and of its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VolumeKey {
    /// The volume.
    pub id: VolumeId,
    /// The generation this copy belongs to.
    pub generation: Generation,
}

impl fmt::Display for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.generation)
    }
}

impl FromStr for VolumeKey {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError { text: text.to_owned() };
        let (id, generation) = text.split_once('@').ok_or_else(wrong)?;
        let key = Self { id: id.parse()?, generation: Generation(generation.parse().map_err(|_| wrong())?) };
        // There is one way to write a copy: `@01` names none.
        if key.to_string() == text { Ok(key) } else { Err(wrong()) }
    }
}

/// What addresses of machines are derived in; all of them begin alike for it.
const ADDRESS_CONTEXT: &str = "ferry 1 address of a machine";
/// Bytes that the addresses of all machines begin with: the mark of unique local ones, and 40 bits of Ferry's own.
const ADDRESS_PREFIX_BYTES: usize = 6;

impl MachineId {
    /// The machine's own address, the same on every worker: unique local (`fd00::/8`), the first 48 bits the same for all
    /// machines, the rest from the BLAKE3 of the id (docs/formats.md).
    #[must_use]
    pub fn address(self) -> Ipv6Addr {
        let mut address = [0; 16];
        let (prefix, rest) = address.split_at_mut(ADDRESS_PREFIX_BYTES);
        prefix[0] = 0xfd;
        blake3::Hasher::new_derive_key(ADDRESS_CONTEXT).finalize_xof().fill(&mut prefix[1..]);
        blake3::Hasher::new_derive_key(ADDRESS_CONTEXT).update(&self.0.to_bytes()).finalize_xof().fill(rest);
        Ipv6Addr::from(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_one_unique_local_address_for_ever() {
        let machine: MachineId = "01M8B0ZM45ES6YH9E3M6B683NF".parse().unwrap();
        let known: Ipv6Addr = "fd1a:f928:b0af:2da7:10a4:1e68:6e72:b864".parse().unwrap();
        assert_eq!(machine.address(), known, "what is written in docs/formats.md has changed");
        let other = MachineId::fresh().address();
        assert_ne!(machine.address(), other);
        assert_eq!(
            machine.address().octets()[..6],
            other.octets()[..6],
            "one route may lead to all machines"
        );
    }

    #[test]
    fn an_id_reads_back_as_it_was_written() {
        let id = VolumeId::fresh();
        assert_eq!(id.to_string().parse::<VolumeId>().unwrap(), id);
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<VolumeId>(&json).unwrap(), id);
    }

    #[test]
    fn what_is_not_an_id_is_refused_in_json_too() {
        assert!("disk".parse::<MachineId>().is_err());
        assert!(serde_json::from_str::<JobId>("\"disk\"").is_err());
    }

    #[test]
    fn a_copy_is_written_as_its_export_is_named() {
        let id = VolumeId::fresh();
        let key = VolumeKey { id, generation: Generation::FIRST.next() };
        assert_eq!(key.to_string(), format!("{id}@2"));
        assert_eq!(format!("{id}@2").parse(), Ok(key));
        for bad in [format!("{id}"), format!("{id}@"), format!("{id}@02"), format!("{id}@2.deleted")] {
            assert!(bad.parse::<VolumeKey>().is_err(), "{bad}");
        }
    }
}
