//! Where a clone may read from: an NBD server, or a raw image file on this host.

use ferry_nbd::Uri;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A source of blocks, written as a URI: `nbd://host:port/export`, `nbd+unix:///export?socket=PATH` or `file://PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SourceUri {
    /// Any NBD server.
    Nbd(Uri),
    /// A raw image, read in place (an absolute path).
    File(PathBuf),
}

/// Why a text is not a source.
#[derive(Debug, thiserror::Error)]
pub enum SourceUriError {
    /// It begins like an NBD URI and is not one.
    #[error("{text} is not an NBD address")]
    Nbd {
        /// What was given.
        text: String,
        /// What is wrong with it.
        #[source]
        cause: ferry_nbd::UriError,
    },
    /// A file must be named by its whole path.
    #[error("{text} does not name a file by its whole path; write file:///PATH")]
    RelativeFile {
        /// What was given.
        text: String,
    },
    /// Neither.
    #[error(
        "{text} is not a source; give nbd://HOST:PORT/EXPORT, nbd+unix:///EXPORT?socket=PATH or file:///PATH"
    )]
    Unknown {
        /// What was given.
        text: String,
    },
}

impl FromStr for SourceUri {
    type Err = SourceUriError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("file://") {
            let path = PathBuf::from(path);
            return match path.is_absolute() {
                true => Ok(Self::File(path)),
                false => Err(SourceUriError::RelativeFile { text: text.to_owned() }),
            };
        }
        if text.starts_with("nbd") {
            let parsed = text.parse::<Uri>();
            return parsed
                .map(Self::Nbd)
                .map_err(|cause| SourceUriError::Nbd { text: text.to_owned(), cause });
        }
        Err(SourceUriError::Unknown { text: text.to_owned() })
    }
}

impl fmt::Display for SourceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nbd(uri) => uri.fmt(f),
            Self::File(path) => write!(f, "file://{}", path.display()),
        }
    }
}

impl TryFrom<String> for SourceUri {
    type Error = SourceUriError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SourceUri> for String {
    fn from(uri: SourceUri) -> Self {
        uri.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_reads_back_as_it_was_written() {
        for text in ["nbd://10.0.0.1:10809/01J@3", "nbd+unix:///x?socket=/run/a.sock", "file:///srv/disk.raw"]
        {
            let uri: SourceUri = text.parse().unwrap();
            assert_eq!(uri.to_string().parse::<SourceUri>().unwrap(), uri);
        }
    }

    #[test]
    fn what_is_no_source_is_refused_with_the_forms_that_work() {
        for text in ["disk.raw", "http://x/y", "file://disk.raw", "nbd:unix", ""] {
            text.parse::<SourceUri>().unwrap_err();
        }
    }
}
