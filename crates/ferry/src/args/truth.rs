//! What was typed of `ferry truth`.

use clap::Args;

use super::Asking;

/// `ferry truth`
#[derive(Debug, Args)]
pub struct Truth {
    /// Name or id of a machine or volume; a machine goes before a volume of its name
    #[arg(value_name = "MACHINE|VOLUME")]
    pub of: String,
    /// Do not ask agents: read this worker's state directory, whether its agent runs or not; repeat it for all workers
    /// whose files you have. With NAME= it is that worker's, whatever it says itself
    #[arg(long = "state-dir", value_name = "[NAME=]DIR")]
    pub state_dirs: Vec<String>,
    #[command(flatten)]
    pub asking: Asking,
}
