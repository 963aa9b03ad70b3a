//! The receipt of a move as a document: what it vouches for of a copy, and whether that is what the copy is found to be.
//!
//! Nothing here asks anybody. A receipt speaks of two copies: the one that was sealed, and the one that arrived at the
//! next generation. What lies on the disk of a copy is held against the checksums beside it, and the root of these against
//! the receipt: so neither can be exchanged unseen.

use ferry_agent::jobs::Receipt;
use ferry_api::{JobId, Ownership, Root, Volume, VolumeCheck};
use serde::Deserialize;
use serde_json::Value;

/// The version of the documents that are written. A document of before there were versions is one of the first.
pub const VERSION: u64 = 1;
/// Where a document says its version.
const VERSION_AT: &str = "version";

/// What matters of a document.
#[derive(Debug, Deserialize)]
pub struct Vouched {
    pub job: JobId,
    #[serde(flatten)]
    receipt: Receipt,
}

/// What a receipt says of a copy: the root of its checksums.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// Of what arrived there.
    Arrived { root: String },
    /// Of what was sealed there.
    Sealed { root: String },
}

/// Whether the checksums of a copy are those of the receipt.
#[derive(Debug, PartialEq, Eq)]
pub enum Held {
    Agrees,
    /// This is their root.
    Differs(String),
    /// It cannot be told, for this reason.
    Unknown(String),
}

/// Reads a document.
///
/// # Errors
/// It is none, or of a later version.
pub fn read(document: &[u8]) -> Result<Vouched, String> {
    let no_receipt = |error| {
        format!(
            "that is no receipt of a move ({error}); `ferry job receipt JOB --json` on the source prints one"
        )
    };
    let value: Value = serde_json::from_slice(document).map_err(no_receipt)?;
    match value.get(VERSION_AT).and_then(Value::as_u64) {
        Some(version) if version > VERSION => Err(format!(
            "that receipt is of version {version} and this ferry knows them up to {VERSION}; use a later ferry"
        )),
        Some(_) | None => serde_json::from_value(value).map_err(no_receipt),
    }
}

impl Claim {
    /// What `vouched` says of this copy.
    ///
    /// # Errors
    /// Nothing.
    pub fn of(vouched: &Vouched, volume: &Volume) -> Result<Self, String> {
        let (job, name) = (vouched.job, &volume.name);
        let Some(told) = vouched.receipt.volumes.iter().find(|told| told.key.id == volume.id) else {
            return Err(format!(
                "the receipt of job {job} is not about volume {name} ({}); give that of a move of its machine",
                volume.id
            ));
        };
        let (arrived, here) = (told.key.generation, volume.generation);
        if arrived != here && arrived != here.next() {
            return Err(format!(
                "the receipt of job {job} is about generation {arrived} of volume {name} and the one before, and here is \
                 generation {here}; give that of a later or an earlier move"
            ));
        }
        let is_changeable = matches!(volume.ownership, Ownership::Ours);
        if (arrived == here) != is_changeable {
            return Err(match is_changeable {
                true => {
                    format!("volume {name} was opened again since it was sealed for job {job}, which failed")
                }
                false => format!(
                    "generation {here} of volume {name} was sealed since it arrived by job {job}; give the receipt of \
                     the move that took it away"
                ),
            });
        }
        let root = told.proof.as_ref().and_then(|proof| proof.agreed_root());
        let root = root.map(str::to_owned).ok_or_else(|| {
            let unproven = told.proof.as_ref().and_then(|proof| proof.unproven.as_deref());
            let why = unproven.unwrap_or("nobody was asked for its root");
            format!("the receipt of job {job} vouches for nothing of volume {name}: {why}")
        })?;
        Ok(if is_changeable { Self::Arrived { root } } else { Self::Sealed { root } })
    }

    /// Holds what was found against it; `arrived` is what the copy says of what arrived.
    pub fn held(&self, check: &VolumeCheck, arrived: &Root) -> Held {
        let (claimed, found) = match self {
            Self::Arrived { root } => (root, arrived.clone()),
            Self::Sealed { root } => {
                let reason = "not all of the copy is known to be as it was sealed".to_owned();
                let found = check.root.clone();
                (root, found.map_or(Root::Unknown { reason }, |root| Root::Known { root }))
            }
        };
        match found {
            Root::Known { root } if root == *claimed => Held::Agrees,
            Root::Known { root } => Held::Differs(root),
            Root::Unknown { reason } => Held::Unknown(reason),
            Root::Summing => Held::Unknown("its root is not known yet".to_owned()),
        }
    }
}
