//! What was typed of `ferry drain`.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Asking, Mode};
use crate::output::bytes::parse_span;

/// `ferry drain`
///
/// The worker takes no machines from then on; each of its machines is moved to the worker that fits it best. The job runs on the
/// worker that is drained, and this command only shows it: ctrl-C leaves it alone, and the same command again shows the same job
#[derive(Debug, Args)]
pub struct Drain {
    /// Name of the worker, which the agent that is asked knows
    pub worker: String,
    /// Only say what the drain would do, and what is in the way; nothing changes. With --json it is what --apply takes
    #[arg(long, conflicts_with_all = ["apply", "pause", "resume", "cancel", "detach"])]
    pub plan: bool,
    /// Do exactly what a file with a plan says; where the world has changed, say how and do nothing (exits with 8)
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["only", "except", "mode", "max_parallel", "max_parallel_per_link", "bandwidth", "deadline", "force"]
    )]
    pub apply: Option<PathBuf>,
    /// Only these machines, by name or id
    #[arg(long, value_name = "MACHINE", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Not these machines, by name or id
    #[arg(long, value_name = "MACHINE", value_delimiter = ',')]
    pub except: Vec<String>,
    /// What of each machine crosses before it stops, as for `ferry move`
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    pub mode: Mode,
    /// So many moves at once [default: the worker's moves_at_once]
    #[arg(long, value_name = "N")]
    pub max_parallel: Option<NonZeroU32>,
    /// So many of them at once to one target
    #[arg(long, value_name = "N")]
    pub max_parallel_per_link: Option<NonZeroU32>,
    /// All its moves together fetch no more than that from the worker a second in the background, as in 100MiB
    #[arg(long, value_name = "SIZE")]
    pub bandwidth: Option<String>,
    /// Cancel what is not handed over that long after the drain begins
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub deadline: Option<Duration>,
    /// Pass workers that do not answer, though one of them may have a machine of a group that is down for a move; and where no
    /// worker keeps a machine's rules (region, labels, apart), break as few as can be: --plan says which
    #[arg(long)]
    pub force: bool,
    /// How long copies that stay behind are kept after nobody needs them, in whole hours, as in 24h [default: the worker's]
    #[arg(long, value_name = "SPAN", value_parser = parse_span, conflicts_with = "plan")]
    pub retention: Option<Duration>,
    /// Have the drain that is under way begin no further move
    #[arg(long, conflicts_with_all = ["apply", "resume", "cancel"])]
    pub pause: bool,
    /// Have the drain go on that was paused, or that waits for a person
    #[arg(long, conflicts_with_all = ["apply", "cancel"])]
    pub resume: bool,
    /// Cancel the drain that is under way: what was not handed over stays, and whether the worker takes machines is as before
    #[arg(long, conflicts_with = "apply")]
    pub cancel: bool,
    /// Show the drain that is under way, whatever it was asked for with; ctrl-C leaves it alone
    #[arg(
        long,
        conflicts_with_all = ["plan", "apply", "pause", "resume", "cancel", "detach", "only", "except", "max_parallel", "max_parallel_per_link", "bandwidth", "deadline", "force", "retention"]
    )]
    pub watch: bool,
    /// Do not watch: print the job and leave
    #[arg(long)]
    pub detach: bool,
    #[command(flatten)]
    pub asking: Asking,
}
