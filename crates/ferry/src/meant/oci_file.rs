//! The part of a machine's file that says what a container is made of.

use ferry_api::OciSource;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a container is made of, as a person writes it down.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OciInFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bundle: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
}

impl TryFrom<OciInFile> for OciSource {
    type Error = &'static str;

    fn try_from(file: OciInFile) -> Result<Self, &'static str> {
        match file {
            OciInFile { bundle: Some(bundle), image: None, tag: None } => Ok(Self::Bundle(bundle)),
            OciInFile { bundle: None, image: Some(path), tag } => Ok(Self::Image { path, tag }),
            OciInFile { .. } => Err("give either `bundle`, or `image` and, if it holds several, `tag`"),
        }
    }
}

impl From<OciSource> for OciInFile {
    fn from(source: OciSource) -> Self {
        match source {
            OciSource::Bundle(bundle) => Self { bundle: Some(bundle), image: None, tag: None },
            OciSource::Image { path, tag } => Self { bundle: None, image: Some(path), tag },
        }
    }
}
