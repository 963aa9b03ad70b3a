//! `ferry service ...` as it is typed.

use super::Asking;
use clap::Subcommand;

/// `ferry service ...`
#[derive(Debug, Subcommand)]
pub enum Service {
    /// List the services that this worker knows of: whose, where they are, and who waits for them
    List {
        #[command(flatten)]
        asking: Asking,
    },
}
