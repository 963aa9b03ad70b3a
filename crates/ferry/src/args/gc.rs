//! What was typed of `ferry gc`.

use clap::Args;

use super::Asking;

/// `ferry gc`
#[derive(Debug, Args)]
pub struct Gc {
    /// Only tell what would go, and why that is safe
    #[arg(long)]
    pub dry_run: bool,
    /// Also give up copies that are kept after a move before their time, where the volume is whole with its owner
    #[arg(long)]
    pub retained: bool,
    /// Also tell what stays, and why
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub asking: Asking,
}
