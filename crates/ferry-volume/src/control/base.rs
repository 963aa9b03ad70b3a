//! What the control socket tells of a base.

use serde::{Deserialize, Serialize};

/// How the link to a base stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseStatus {
    /// Where it is read.
    pub uri: String,
    /// Which generation of the volume it is.
    pub generation: u64,
    /// Whether the server is connected to it now.
    pub connected: bool,
    /// The source has told in what it differs from it, so that the rest is asked of the base.
    pub is_used: bool,
    /// The last thing that went wrong with it, if anything did since the last connection.
    pub last_error: Option<String>,
}
