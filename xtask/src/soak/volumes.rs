//! A random guest on a volume that moves again and again, each time over a link that cuts its connections,
//! while the servers of both sides are killed (`kill -9`) and come back. Every read is checked against an oracle of
//! every block, after a kill and before each move all of them are.
//!
//! ```text
//! open, hydrating <-- link <-- sealed elder      (both are killed now and then; the elder stays away for a while)
//!        | hydrated, read and compared
//!        v
//! sealed: the elder of the next generation
//! ```

use std::path::PathBuf;
use std::thread;

use anyhow::Context;
use ferry_volume::client::{BlockClient, BlockError};

use super::dice::Dice;
use super::link::Link;
use super::oracle::{BLOCK_BYTES, Oracle, content};
use super::server::Server;
use super::tally::{Tally, Until};
use crate::bench::interrupt;

const BLOCKS: usize = 16 * 1024;
const SIZE_BYTES: u64 = (BLOCKS * BLOCK_BYTES) as u64;
/// The longest request of the guest.
const REQUEST_BLOCKS_MAX: usize = 32;
/// How many blocks are read at once when all are compared.
const COMPARED_AT_ONCE: usize = 256;
/// Each generation serves at least so many requests.
const OPS_PER_MOVE_MIN: u64 = 2000;
/// Once in so many requests the open server is killed, and the elder.
const KILL_ONCE_IN: usize = 600;
/// How many requests the elder may stay away for.
const AWAY_OPS_MAX: usize = 400;
const BUDGET_MIB_PER_S_MAX: usize = 24;

struct Soak {
    ferry: PathBuf,
    dir: tempfile::TempDir,
    dice: Dice,
    oracle: Oracle,
    tally: Tally,
    link: Link,
    open: Server,
    guest: BlockClient,
    /// The sealed generation before the open one, until that is hydrated.
    elder: Option<Server>,
    /// How many requests until the elder comes back.
    away_ops: usize,
    /// Blocks that this generation's guest has made its own: they are served with the elder away.
    own: Vec<bool>,
}

/// Soaks until it is enough; an error with the last steps at the first byte that is not as it must be.
pub fn run(ferry: PathBuf, seed: u64, until: Until) -> anyhow::Result<()> {
    let mut soak = Soak::start(ferry, seed, until)?;
    let outcome = soak.go_on();
    soak.tally.print();
    outcome.with_context(|| format!("what happened last:\n{}\n{}", soak.tally.history(), soak.tell_servers()))
}

impl Soak {
    fn start(ferry: PathBuf, seed: u64, until: Until) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("ferry-soak-").tempdir();
        let dir = dir.context("cannot make a temporary directory")?;
        let open = Server::create(&ferry, dir.path(), 1, SIZE_BYTES, None)?;
        Ok(Self {
            guest: open.guest()?,
            open,
            ferry,
            dir,
            dice: Dice::new(seed),
            oracle: Oracle::new(BLOCKS),
            tally: Tally::new(until),
            link: Link::start(seed)?,
            elder: None,
            away_ops: 0,
            own: vec![true; BLOCKS],
        })
    }

    fn go_on(&mut self) -> anyhow::Result<()> {
        let mut ops_at_move = 0;
        while !self.tally.is_over() {
            interrupt::check()?;
            let is_killed = self.dice.once_in(KILL_ONCE_IN);
            self.request(is_killed)?;
            self.trouble_the_elder()?;
            let has_served = self.tally.ops - ops_at_move >= OPS_PER_MOVE_MIN;
            if has_served && self.tally.ops.is_multiple_of(64) && self.open.is_hydrated()? {
                self.compare_everything()?;
                self.move_on()?;
                ops_at_move = self.tally.ops;
            }
        }
        self.elder_comes_back()?;
        self.compare_everything()
    }

    /// One request of the guest's; with `is_killed` its server is killed while it is under way.
    fn request(&mut self, is_killed: bool) -> anyhow::Result<()> {
        let count = 1 + self.dice.below(REQUEST_BLOCKS_MAX);
        let first = self.dice.below(BLOCKS - count);
        let kind = self.dice.below(16);
        let request = match kind {
            0 => Request::Flush,
            1..=6 => Request::Read,
            7 => Request::Zeroes,
            8 => Request::Trim,
            _ => Request::Write(self.oracle.fresh_stamp()),
        };
        // A read of what only the elder has waits for it, as it should: this guest has no time for that.
        let waits = self.elder_is_away() && !self.own[first..first + count].iter().all(|own| *own);
        if waits && matches!(request, Request::Read) {
            return Ok(());
        }
        let whereabouts = request.has_range().then(|| format!(" {count} blocks at {first}"));
        let killed = if is_killed { ", killed" } else { "" };
        self.tally.note(format!("{request:?}{}{killed}", whereabouts.unwrap_or_default()));
        if let Some(stamp) = request.stamp() {
            self.oracle.attempt(first, count, stamp);
            self.own[first..first + count].fill(true);
        }
        let mut bytes = Vec::new();
        let (guest, open) = (&mut self.guest, &mut self.open);
        let outcome = thread::scope(|scope| {
            if is_killed {
                scope.spawn(|| open.kill());
            }
            request.make(guest, first, count, &mut bytes)
        });
        match outcome {
            Ok(()) => {
                self.tally.ops += 1;
                self.tally.bytes += bytes.len() as u64;
                match request {
                    Request::Read => self.oracle.check(first, &bytes)?,
                    Request::Write(_) | Request::Zeroes | Request::Trim => self.oracle.answered(first, count),
                    Request::Flush => {}
                }
            }
            Err(_) if is_killed => {}
            Err(error) => return Err(error).context("a request failed though its server was not killed"),
        }
        if is_killed { self.come_back() } else { Ok(()) }
    }

    /// Starts the killed server of the open volume, and reads every block that the kill left in doubt.
    fn come_back(&mut self) -> anyhow::Result<()> {
        self.tally.kills += 1;
        self.open.start()?;
        self.guest = self.open.guest()?;
        // A write that was lost may have left its block to the elder.
        self.elder_comes_back()?;
        let mut bytes = vec![0; BLOCK_BYTES];
        for block in self.oracle.doubtful() {
            self.guest.read_at((block * BLOCK_BYTES) as u64, &mut bytes)?;
            self.oracle.settle(block, &bytes)?;
        }
        self.compare_everything()
    }

    fn trouble_the_elder(&mut self) -> anyhow::Result<()> {
        if self.elder_is_away() {
            self.away_ops -= 1;
            if self.away_ops == 0 {
                self.elder_comes_back()?;
            }
        } else if let Some(elder) = &mut self.elder
            && self.dice.once_in(KILL_ONCE_IN)
        {
            elder.kill();
            self.link.lead_to(None);
            self.away_ops = 1 + self.dice.below(AWAY_OPS_MAX);
            self.tally.kills += 1;
            self.tally.note(format!("the elder is killed, for {} requests", self.away_ops));
        }
        Ok(())
    }

    fn elder_is_away(&self) -> bool {
        self.elder.as_ref().is_some_and(|elder| !elder.is_running())
    }

    fn elder_comes_back(&mut self) -> anyhow::Result<()> {
        if let Some(elder) = self.elder.as_mut().filter(|elder| !elder.is_running()) {
            elder.start()?;
            self.link.lead_to(Some(elder.export()?));
            self.away_ops = 0;
            self.tally.note("the elder is back".to_owned());
        }
        Ok(())
    }

    /// Seals the open volume, which is hydrated, and goes on with a clone of it.
    fn move_on(&mut self) -> anyhow::Result<()> {
        if let Some(elder) = self.elder.take() {
            elder.retire()?;
        }
        self.open.seal()?;
        self.link.lead_to(Some(self.open.export()?));
        self.tally.moves += 1;
        let generation = self.tally.moves + 1;
        let source = Some(self.link.address());
        let clone = Server::create(&self.ferry, self.dir.path(), generation, SIZE_BYTES, source)?;
        let budget = (1 + self.dice.below(BUDGET_MIB_PER_S_MAX)) as u64 * 1024 * 1024;
        clone.set_budget(budget.try_into().expect("it is at least a mebibyte"))?;
        self.guest = clone.guest()?;
        self.elder = Some(std::mem::replace(&mut self.open, clone));
        self.away_ops = 0;
        self.own.fill(false);
        self.tally.note(format!("moved: generation {generation} hydrates with {budget} bytes/s"));
        Ok(())
    }

    fn tell_servers(&self) -> String {
        let servers = std::iter::once(&self.open).chain(&self.elder);
        servers.map(Server::tell).collect::<Vec<_>>().join("\n")
    }

    fn compare_everything(&mut self) -> anyhow::Result<()> {
        let mut bytes = vec![0; COMPARED_AT_ONCE * BLOCK_BYTES];
        for first in (0..self.oracle.len()).step_by(COMPARED_AT_ONCE) {
            interrupt::check()?;
            self.guest.read_at((first * BLOCK_BYTES) as u64, &mut bytes)?;
            self.oracle.check(first, &bytes)?;
            self.tally.compared_bytes += bytes.len() as u64;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Request {
    Read,
    Write(u64),
    Zeroes,
    Trim,
    Flush,
}

impl Request {
    fn has_range(self) -> bool {
        !matches!(self, Self::Flush)
    }

    /// What the blocks hold once it is done, if it changes them.
    fn stamp(self) -> Option<u64> {
        match self {
            Self::Write(stamp) => Some(stamp),
            Self::Zeroes | Self::Trim => Some(0),
            Self::Read | Self::Flush => None,
        }
    }

    /// Makes it; `bytes` are what was read or written.
    fn make(
        self,
        guest: &mut BlockClient,
        first: usize,
        count: usize,
        bytes: &mut Vec<u8>,
    ) -> Result<(), BlockError> {
        let (offset, len) = ((first * BLOCK_BYTES) as u64, count * BLOCK_BYTES);
        match self {
            Self::Read => {
                bytes.resize(len, 0);
                guest.read_at(offset, bytes)
            }
            Self::Write(stamp) => {
                *bytes = content(first, count, stamp);
                guest.write_at(offset, bytes)
            }
            Self::Zeroes => guest.write_zeroes(offset, len as u64),
            Self::Trim => guest.trim(offset, len as u64),
            Self::Flush => guest.flush(),
        }
    }
}
