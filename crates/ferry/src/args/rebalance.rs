//! What was typed of `ferry rebalance`.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Asking, Mode};
use crate::output::bytes::parse_span;

/// `ferry rebalance`
///
/// The plan is made from what all workers tell that the asked one knows, and changes nothing. Carried out, each worker that gives
/// machines has a job of its own; ctrl-C leaves them alone, and the same command again shows the same jobs
#[derive(Debug, Args)]
pub struct Rebalance {
    /// Say which machines would move, and how full workers are before and after; with --json it is what --apply takes
    #[arg(long, required_unless_present = "apply", conflicts_with_all = ["apply", "detach"])]
    pub plan: bool,
    /// Do exactly what a file with a plan says; where the world has changed, say how and do nothing, or only a part
    /// if it changes at that moment (exits with 8)
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["by", "tolerance", "only", "except", "mode", "max_parallel", "max_parallel_per_link", "bandwidth"]
    )]
    pub apply: Option<PathBuf>,
    /// By what workers are compared
    #[arg(long, value_enum, default_value_t = By::Room)]
    pub by: By,
    /// The gap between the fullest and the emptiest worker that is left alone, in percent of a worker
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub tolerance: u8,
    /// Only these machines, by name or id
    #[arg(long, value_name = "MACHINE", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Not these machines, by name or id
    #[arg(long, value_name = "MACHINE", value_delimiter = ',')]
    pub except: Vec<String>,
    /// What of each machine crosses before it stops, as for `ferry move`
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    pub mode: Mode,
    /// So many moves from one worker at once [default: its moves_at_once]
    #[arg(long, value_name = "N")]
    pub max_parallel: Option<NonZeroU32>,
    /// So many of them at once to one target
    #[arg(long, value_name = "N")]
    pub max_parallel_per_link: Option<NonZeroU32>,
    /// All moves from one worker together fetch no more than that from it a second in the background, as in 100MiB
    #[arg(long, value_name = "SIZE")]
    pub bandwidth: Option<String>,
    /// How long copies that stay behind are kept after nobody needs them, in whole hours, as in 24h [default: the worker's]
    #[arg(long, value_name = "SPAN", value_parser = parse_span, conflicts_with = "plan")]
    pub retention: Option<Duration>,
    /// Do not watch: print the jobs and leave
    #[arg(long)]
    pub detach: bool,
    #[command(flatten)]
    pub asking: Asking,
}

/// By what workers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// The part of their room that their own volumes take.
    Room,
    /// The part of their processors that their machines are known to take, by the limits of these.
    Load,
}
