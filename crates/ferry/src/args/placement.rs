//! What was typed of `ferry placement`.

use clap::Subcommand;

use super::Asking;

/// `ferry placement ...`
#[derive(Debug, Subcommand)]
pub enum Placement {
    /// Tell of every worker whether a machine could go there, and every reason why not
    Explain {
        /// Name or id of the machine, on the worker that is asked
        machine: String,
        #[command(flatten)]
        asking: Asking,
    },
}
