//! A base: a copy of what a volume's source was itself made from, from which all can be read in which the two do not differ.

use crate::SourceUri;
use serde::{Deserialize, Serialize};

/// Length of a volume's id in an export's name.
const ID_LEN: usize = 26;

/// An export of the copy that a source was born from. It only spares the source work: without it, nothing is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// Where it is read.
    pub uri: SourceUri,
    /// Which generation of the volume it is: the one that the source says it was born from.
    pub generation: u64,
}

impl Base {
    /// Whether it can be what it says: an export of a Ferry volume of this id at that generation, or a foreign one, for which
    /// whoever names it vouches.
    pub(crate) fn is_plausible(&self, id: &str) -> bool {
        ferry_export(&self.uri).is_none_or(|export| export == format!("{id}@{}", self.generation))
    }
}

/// The export's name, if it is one that a Ferry volume server gives: `ULID@GENERATION` or `ULID@GENERATION~SNAPSHOT`.
pub(crate) fn ferry_export(uri: &SourceUri) -> Option<&str> {
    let SourceUri::Nbd(uri) = uri else { return None };
    let (id, version) = uri.export.split_once('@')?;
    let generation = version.split_once('~').map_or(version, |(generation, _)| generation);
    let is_ours = id.len() == ID_LEN
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && generation.parse::<u64>().is_ok();
    is_ours.then_some(uri.export.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_the_same_volume_at_the_generation_it_says_or_a_foreign_one() {
        let id = "01JD9Z6M4Q5R6S7T8V9WAXBYCZ";
        for (uri, may) in [
            ("nbd://10.0.0.1:1/01JD9Z6M4Q5R6S7T8V9WAXBYCZ@1", true),
            ("nbd://10.0.0.1:1/01JD9Z6M4Q5R6S7T8V9WAXBYCZ@2", false),
            ("nbd://10.0.0.1:1/01JD9Z6M4Q5R6S7T8V9WAXBYC0@1", false),
            ("nbd://10.0.0.1:1/01JD9Z6M4Q5R6S7T8V9WAXBYCZ@1~01JD9Z6M4Q5R6S7T8V9WAXBYC9", false),
            ("file:///srv/backup.raw", true),
        ] {
            let base = Base { uri: uri.parse().unwrap(), generation: 1 };
            assert_eq!(base.is_plausible(id), may, "{uri}");
        }
    }
}
