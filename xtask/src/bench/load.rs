//! Somebody beside the machine who fills its disk, writes all over it, here and after a move there, or reads it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use ferry_volume::client::BlockClient;

use super::content::{MIB, Noise};
use super::control::Agents;
use super::interrupt;
use crate::soak::dice::Dice;

/// How long reads are measured, before a move and after.
const READING: Duration = Duration::from_secs(1);
const BLOCK: u64 = 4096;
const LOOK_EVERY: Duration = Duration::from_millis(1);
const DEADLINE: Duration = Duration::from_secs(600);

/// A disk on one of two workers, and as much of it as is in use.
pub struct Place {
    pub worker: usize,
    pub uri: String,
    /// Where the disk will be reached on the other worker after a move.
    pub next_uri: String,
    pub used_mib: u64,
}

impl Place {
    /// Where `volume` is, with the state directories of both workers below `state`.
    pub fn of(
        agents: &Agents,
        state: &Path,
        worker: usize,
        volume: &str,
        used_mib: u64,
    ) -> anyhow::Result<Self> {
        let told = agents.ask(worker, &["volume", "show", volume])?;
        let uri = told["guest_uri"].as_str().context("a volume has an address")?.to_owned();
        let (id, generation) = (told["id"].as_str(), told["generation"].as_u64());
        let (id, generation) = (id.context("a volume has an id")?, generation.context("and a generation")?);
        let copy = format!("{id}@{}", generation + 1);
        let socket: PathBuf = state.join(["w2", "w1"][worker]).join("volumes").join(copy).join("guest.sock");
        Ok(Self { worker, uri, next_uri: format!("nbd+unix:///?socket={}", socket.display()), used_mib })
    }

    /// Puts something that does not compress into all that is said to be in use.
    pub fn fill(&self) -> anyhow::Result<()> {
        let mut guest = BlockClient::connect_text(&self.uri).context("cannot come to the disk")?;
        let mut noise = Noise::new();
        for number in 0..self.used_mib {
            guest.write_at(number * MIB, noise.mebibyte(number)).context("cannot fill the disk")?;
        }
        guest.flush().context("cannot fill the disk")
    }
}

/// Does something while somebody writes blocks all over what is in use, here and after a move there, if `place` is given.
pub fn while_loaded<T>(place: Option<&Place>, act: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let is_over = AtomicBool::new(false);
    let write = |uri: &str, used_mib: u64| {
        let Ok(mut guest) = BlockClient::connect_text(uri) else { return std::thread::sleep(LOOK_EVERY) };
        let block = vec![0x5A; 16 * BLOCK as usize];
        let mut dice = Dice::new(1);
        while !is_over.load(Ordering::Relaxed) {
            // The machine goes, and its disk with it.
            let Ok(at) = block_at(&mut dice, used_mib - 1) else { return };
            let Ok(()) = guest.write_at(at, &block) else { return };
        }
    };
    std::thread::scope(|scope| {
        if let Some(place) = place {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    write(&place.uri, place.used_mib);
                    write(&place.next_uri, place.used_mib);
                }
            });
        }
        let done = act();
        is_over.store(true, Ordering::Relaxed);
        done
    })
}

/// The p99 of random reads of 4 KiB for a second, from when the disk lets somebody in. In microseconds.
pub fn reads_p99_us(uri: &str, used_mib: u64) -> anyhow::Result<f64> {
    let mut guest = interrupt::until("the disk lets its guest in", LOOK_EVERY, DEADLINE, || {
        Ok(BlockClient::connect_text(uri).ok())
    })?;
    let (begun, mut dice, mut took) = (Instant::now(), Dice::new(7), Vec::new());
    let mut block = vec![0; BLOCK as usize];
    while begun.elapsed() < READING {
        let asked = Instant::now();
        guest.read_at(block_at(&mut dice, used_mib)?, &mut block).context("cannot read the disk")?;
        took.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    took.sort_by(f64::total_cmp);
    Ok(took[(took.len() * 99).div_ceil(100) - 1])
}

/// Where a block within so many MiB begins, by chance.
fn block_at(dice: &mut Dice, mib: u64) -> anyhow::Result<u64> {
    Ok(dice.below(usize::try_from(mib * MIB / BLOCK)?) as u64 * BLOCK)
}
