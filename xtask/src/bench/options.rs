//! What the caller may choose, and what holds when nothing is said.

use std::path::PathBuf;

use anyhow::{Context, bail};

/// Printed by `cargo xtask bench --help`.
pub const USAGE: &str = "usage: cargo xtask bench [options]

Measures Ferry's volume server beside qemu-nbd, nbdkit, nbdcopy and qemu-img and prints one table of ratios.
A tool that is missing is said, and its cells are skipped.

With `--what control` it measures instead what moves cost beside the machine's stop and start and the bytes, appends to
a journal, and an agent with many jobs.

With `--what interruption` it measures how long a machine writes nothing while it goes to another worker: killed, copied with
nbdcopy and started again, by a cold, a warm and (a VM) a live move, idle and under load.

With `--what live` it measures how long a VM writes nothing while it moves with its memory, beside QEMU's own migration of it.

With `--what connections` it measures how long those wait who connect to a machine by both workers' proxies while it moves, and
whether anybody is refused.

With `--what directory` it measures what it costs workers to know of each other, in fleets of 20 to 1,000.

options:
  --what WHAT          data, control, interruption, live, connections or directory (default data)
  --used-mib N,N       interruption, connections: data of the machine, one after the other (default 1024)
  --moves N            control: moves (default 20)
  --appends N          control: appends (default 1000)
  --jobs N             control: jobs in one agent (default 1000)
  --pairs N            rounds of each cell; all contenders run once in each (default 5)
  --seconds S          length of one fio run (default 1)
  --only TEXT          only cells whose name contains TEXT
  --size-mib N         size of the volume for reads and writes (default 512)
  --hydration-mib N    data of the volume that is hydrated (default 4096)
  --warm               leave out hydration from a cold page cache
  --ferry PATH         the program to measure (default: a release build of this tree)
  --dir PATH           where the temporary directory is made (default: the system's)
  --write              keep the table in docs/benchmarks.md";

/// The smallest volume for hydration, in MiB: below, a guest ends later than the hydration it is measured beside.
const HYDRATION_MIB_MIN: u64 = 128;
/// The smallest volume for reads and writes, in MiB.
const SIZE_MIB_MIN: u64 = 16;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Volume servers, beside others.
    Data,
    /// Agents.
    Control,
    /// Machines that move.
    Interruption,
    /// VMs that move with their memory.
    Live,
    /// Clients of a machine that moves.
    Connections,
    /// Workers that know of each other.
    Directory,
}

/// The caller's choice.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    pub what: What,
    pub moves: usize,
    pub appends: usize,
    pub jobs: usize,
    pub pairs: usize,
    /// Length of one fio run, in seconds.
    pub seconds: f64,
    pub only: Option<String>,
    pub size_mib: u64,
    /// Each of them is measured.
    pub used_mib: Vec<u64>,
    pub hydration_mib: u64,
    pub warm_only: bool,
    pub ferry: Option<PathBuf>,
    pub dir: Option<PathBuf>,
    pub write: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            what: What::Data,
            moves: 20,
            appends: 1_000,
            jobs: 1_000,
            pairs: 5,
            seconds: 1.0,
            only: None,
            size_mib: 512,
            used_mib: vec![1024],
            hydration_mib: 4096,
            warm_only: false,
            ferry: None,
            dir: None,
            write: false,
        }
    }
}

impl Options {
    /// Reads what follows `bench` on the command line; refuses what no bench could be run with.
    pub fn parse(arguments: &[&str]) -> anyhow::Result<Self> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(&name) = arguments.next() {
            let mut value = || arguments.next().copied().with_context(|| format!("{name} needs a value"));
            match name {
                "--what" => options.what = what(value()?)?,
                "--moves" => options.moves = number(name, value()?)?,
                "--appends" => options.appends = number(name, value()?)?,
                "--jobs" => options.jobs = number(name, value()?)?,
                "--pairs" => options.pairs = number(name, value()?)?,
                "--seconds" => options.seconds = number(name, value()?)?,
                "--only" => options.only = Some(value()?.to_owned()),
                "--size-mib" => options.size_mib = number(name, value()?)?,
                "--used-mib" => options.used_mib = numbers(name, value()?)?,
                "--hydration-mib" => options.hydration_mib = number(name, value()?)?,
                "--warm" => options.warm_only = true,
                "--ferry" => options.ferry = Some(value()?.into()),
                "--dir" => options.dir = Some(value()?.into()),
                "--write" => options.write = true,
                unknown => bail!("`{unknown}` is not an option of bench\n\n{USAGE}"),
            }
        }
        if [options.moves, options.appends, options.jobs].contains(&0) {
            bail!("--moves, --appends and --jobs must be at least 1");
        }
        if options.pairs == 0 {
            bail!("--pairs must be at least 1");
        }
        if !(options.seconds.is_finite() && options.seconds >= 0.1) {
            bail!("--seconds must be at least 0.1");
        }
        if options.used_mib.iter().any(|mib| *mib < SIZE_MIB_MIN) {
            bail!("--used-mib must be at least {SIZE_MIB_MIN}");
        }
        if options.size_mib < SIZE_MIB_MIN {
            bail!("--size-mib must be at least {SIZE_MIB_MIN}");
        }
        if options.hydration_mib < HYDRATION_MIB_MIN {
            bail!("--hydration-mib must be at least {HYDRATION_MIB_MIN}");
        }
        if options.write && options.only.is_some() {
            bail!("--write keeps the whole table: leave --only out");
        }
        Ok(options)
    }
}

fn what(text: &str) -> anyhow::Result<What> {
    match text {
        "data" => Ok(What::Data),
        "control" => Ok(What::Control),
        "interruption" => Ok(What::Interruption),
        "live" => Ok(What::Live),
        "connections" => Ok(What::Connections),
        "directory" => Ok(What::Directory),
        other => bail!("--what is data, control, interruption, live or connections, not `{other}`"),
    }
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> anyhow::Result<T> {
    text.parse().ok().with_context(|| format!("{name} needs a number, not `{text}`"))
}

fn numbers<T: std::str::FromStr>(name: &str, text: &str) -> anyhow::Result<Vec<T>> {
    text.split(',').map(|each| number(name, each)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_said_means_five_pairs_of_all_cells() {
        let options = Options::parse(&[]).unwrap();
        assert_eq!(options, Options::default());
        assert_eq!((options.pairs, options.hydration_mib, options.only), (5, 4096, None));
    }

    #[test]
    fn every_option_is_taken() {
        let line = "--what control --moves 3 --appends 4 --jobs 5 --pairs 2 --seconds 0.5 --only qd --size-mib 64 --used-mib 32,64 --hydration-mib 256 --warm --ferry f --dir d";
        let options = Options::parse(&line.split(' ').collect::<Vec<_>>()).unwrap();
        let expected = Options {
            what: What::Control,
            moves: 3,
            appends: 4,
            jobs: 5,
            pairs: 2,
            seconds: 0.5,
            only: Some("qd".to_owned()),
            size_mib: 64,
            used_mib: vec![32, 64],
            hydration_mib: 256,
            warm_only: true,
            ferry: Some("f".into()),
            dir: Some("d".into()),
            write: false,
        };
        assert_eq!(options, expected);
        assert!(Options::parse(&["--write"]).unwrap().write);
    }

    #[test]
    fn what_makes_no_bench_is_refused() {
        for line in [
            "--pairs 0",
            "--pairs",
            "--pairs x",
            "--seconds 0",
            "--seconds inf",
            "--size-mib 1",
            "--hydration-mib 1",
            "--write --only hydration",
            "--fast",
        ] {
            assert!(Options::parse(&line.split(' ').collect::<Vec<_>>()).is_err(), "{line}");
        }
    }
}
