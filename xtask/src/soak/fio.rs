//! fio writes and verifies on a clone while the server of the clone and that of its source are killed at random moments.
//! fio sees none of it ([`super::steady`]); it must find all that it wrote, and around it all that the source had. When
//! the clone has everything it becomes the source of the next one.
//!
//! ```text
//! fio --> steady --> open, hydrating <-- link <-- sealed elder
//!                    killed                      killed
//! ```

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::dice::Dice;
use super::link::Link;
use super::oracle::{BLOCK_BYTES, content};
use super::server::Server;
use super::steady::Steady;
use super::tally::{Tally, Until};
use crate::bench::{interrupt, processes};

const BLOCKS: usize = 32 * 1024;
const SIZE_BYTES: u64 = (BLOCKS * BLOCK_BYTES) as u64;
/// fio's own part begins with the volume. Behind it everything stays as the first generation had it.
const FIO_BLOCKS: usize = BLOCKS / 4 * 3;
const FIO_BYTES: u64 = (FIO_BLOCKS * BLOCK_BYTES) as u64;
/// What the first generation is filled with.
const STAMP: u64 = 1;
/// Some requests lie between two kills, and at most so many.
const KILL_AFTER_MAX: usize = 400;
/// So slow that fio is at it as long as the clone hydrates.
const BUDGET_BYTES_PER_S: u64 = 4 * 1024 * 1024;
const BUDGET_IN_THE_END_BYTES_PER_S: u64 = 1024 * 1024 * 1024;
const AT_ONCE_BLOCKS: usize = 256;
const LOOK_EVERY: Duration = Duration::from_millis(1);
const HYDRATED_WITHIN: Duration = Duration::from_secs(600);

struct Soak {
    ferry: PathBuf,
    dir: tempfile::TempDir,
    dice: Dice,
    tally: Tally,
    link: Link,
    steady: Steady,
    open: Server,
    elder: Server,
}

/// Lets fio run, a clone after the other, until it is enough; an error with the last steps when it does not find what it
/// wrote.
pub fn run(ferry: PathBuf, seed: u64, until: Until) -> anyhow::Result<()> {
    ensure!(processes::is_there("fio"), "fio is not there (apt-get install fio)");
    let mut soak = Soak::start(ferry, seed, until)?;
    let outcome = soak.go_on(seed);
    soak.tally.print();
    outcome.with_context(|| {
        let servers = [&soak.open, &soak.elder].map(Server::tell).join("\n");
        format!("what happened last:\n{}\n{servers}", soak.tally.history())
    })
}

impl Soak {
    fn start(ferry: PathBuf, seed: u64, until: Until) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("ferry-soak-").tempdir();
        let dir = dir.context("cannot make a temporary directory")?;
        let elder = Server::create(&ferry, dir.path(), 1, SIZE_BYTES, None)?;
        let mut guest = elder.guest()?;
        for first in (0..BLOCKS).step_by(AT_ONCE_BLOCKS) {
            guest.write_at((first * BLOCK_BYTES) as u64, &content(first, AT_ONCE_BLOCKS, STAMP))?;
        }
        let link = Link::start(seed)?;
        let steady = Steady::listen(&dir.path().join("fio.sock"), SIZE_BYTES)?;
        let open = follow(&ferry, &dir, &link, &elder, 2)?;
        let (dice, tally) = (Dice::new(seed), Tally::new(until));
        Ok(Self { ferry, dir, dice, tally, link, steady, open, elder })
    }

    fn go_on(&mut self, seed: u64) -> anyhow::Result<()> {
        while !self.tally.is_over() {
            self.steady.lead_to(&self.open.guest_socket());
            self.fio(seed.wrapping_add(self.tally.moves))?;
            self.hydrate()?;
            self.move_on()?;
        }
        Ok(())
    }

    /// One fio from its first write to the end of its verification, with the kills that fall into it.
    fn fio(&mut self, seed: u64) -> anyhow::Result<()> {
        let uri = format!("--uri=nbd+unix:///?socket={}", self.dir.path().join("fio.sock").display());
        let (size, seed) = (format!("--size={FIO_BYTES}"), format!("--randseed={seed}"));
        let arguments = [
            "--name=soak",
            "--ioengine=nbd",
            &uri,
            &size,
            &seed,
            "--rw=randrw",
            "--bsrange=4k-128k",
            "--bs_unaligned=0",
            "--iodepth=16",
            "--fsync=32",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_backlog=64",
            "--do_verify=1",
            "--verify_state_save=0",
        ];
        let outcome = thread::scope(|scope| {
            let fio = scope.spawn(|| processes::run("fio", &arguments));
            let mut next_kill = self.steady.answered();
            while !fio.is_finished() {
                let answered = self.steady.answered();
                if answered >= next_kill && !self.tally.is_over() {
                    if let Err(error) = self.kill_somebody() {
                        self.steady.give_up(&format!("{error:#}"));
                    }
                    next_kill = answered + 1 + self.dice.below(KILL_AFTER_MAX) as u64;
                }
                thread::sleep(LOOK_EVERY);
            }
            fio.join().expect("it returns its errors")
        });
        (self.tally.ops, self.tally.bytes) = (self.steady.answered(), self.steady.answered_bytes());
        if let Some(finding) = self.steady.finding() {
            bail!("{finding}");
        }
        outcome.context("fio does not find what it wrote").map(drop)
    }

    fn kill_somebody(&mut self) -> anyhow::Result<()> {
        let whom = self.dice.below(3);
        self.tally.note(format!("killed: {}", ["the open one", "the elder", "both"][whom]));
        let Self { open, elder, link, steady, tally, .. } = self;
        if whom != 0 {
            elder.kill();
            tally.kills += 1;
        }
        if whom != 1 {
            tally.kills += 1;
            steady.outlive(|| {
                open.kill();
                open.start()
            })?;
        }
        if whom != 0 {
            link.lead_to(None);
            elder.start()?;
            link.lead_to(Some(elder.export()?));
        }
        Ok(())
    }

    /// Lets the clone become whole, and holds it against what fio has verified and what the first generation had.
    fn hydrate(&mut self) -> anyhow::Result<()> {
        let verified = self.read(0, FIO_BLOCKS)?;
        self.open.set_budget(BUDGET_IN_THE_END_BYTES_PER_S.try_into().expect("it is not zero"))?;
        interrupt::until("the clone is whole", LOOK_EVERY, HYDRATED_WITHIN, || {
            Ok(self.open.is_hydrated()?.then_some(()))
        })?;
        ensure!(
            self.read(0, FIO_BLOCKS)? == verified,
            "what fio had verified has changed once the clone was whole"
        );
        let rest = self.read(FIO_BLOCKS, BLOCKS - FIO_BLOCKS)?;
        ensure!(
            rest == content(FIO_BLOCKS, BLOCKS - FIO_BLOCKS, STAMP),
            "what fio never wrote is not the source's"
        );
        self.tally.compared_bytes += SIZE_BYTES;
        Ok(())
    }

    fn read(&self, first: usize, count: usize) -> anyhow::Result<Vec<u8>> {
        let mut guest = self.open.guest()?;
        let mut bytes = vec![0; count * BLOCK_BYTES];
        let at_once = AT_ONCE_BLOCKS * BLOCK_BYTES;
        for (index, piece) in bytes.chunks_mut(at_once).enumerate() {
            guest.read_at((first * BLOCK_BYTES + index * at_once) as u64, piece)?;
        }
        Ok(bytes)
    }

    /// The whole clone becomes the source of the next one.
    fn move_on(&mut self) -> anyhow::Result<()> {
        self.tally.moves += 1;
        let next = follow(&self.ferry, &self.dir, &self.link, &self.open, self.tally.moves + 2)?;
        let elder = std::mem::replace(&mut self.open, next);
        std::mem::replace(&mut self.elder, elder).retire()
    }
}

/// Seals `elder` and makes the next generation a clone of it that hydrates slowly.
fn follow(
    ferry: &Path,
    dir: &tempfile::TempDir,
    link: &Link,
    elder: &Server,
    generation: u64,
) -> anyhow::Result<Server> {
    elder.seal()?;
    link.lead_to(Some(elder.export()?));
    let clone = Server::create(ferry, dir.path(), generation, SIZE_BYTES, Some(link.address()))?;
    clone.set_budget(BUDGET_BYTES_PER_S.try_into().expect("it is not zero"))?;
    Ok(clone)
}
