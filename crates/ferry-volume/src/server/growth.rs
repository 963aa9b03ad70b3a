//! A volume that grows while it is in use: the one place where the server learns its new size.
//!
//! Whoever connects from then on is told the new size. Who is connected keeps the one that was agreed on in the
//! handshake (a resize while connected is an experimental extension of NBD, which no client we know asks for). A frontend
//! tells its guest at once, where it has a way to.
//!
//! A file grows by zeroes. A block device may hold anything where the volume shall grow to: that is cleared first, beside
//! everything else, by unmapping it where the device can. Invariant: nothing is cleared that the volume has already, so
//! one growth on a device begins when the one before it is over.

use super::command::{refused, whole_story};
use super::disk::{PUNCH, is_unsupported};
use super::{Purpose, Server};
use crate::buffer::Buffer;
use crate::control::{Answer, Phase};
use crate::store::whole_units;
use ferry_engine::{Command, Geometry, Notice};
use std::io;

/// Zeroes written at a time where a device cannot unmap, in bytes.
const ZEROES_BYTES: u64 = 1 << 20;

/// A stretch of a device that is being cleared, so that the volume can grow there.
pub(crate) struct Clearing {
    asker: u64,
    size_bytes: u64,
    at: u64,
    end: u64,
    /// Set where the device cannot unmap.
    zeroes: Option<Buffer>,
}

impl Server {
    /// Makes the volume larger for an agent; answered when it is durable.
    pub(super) fn grow(&mut self, asker: u64, size_bytes: u64) -> Option<Answer> {
        let region_bytes = self.engine.geometry().region_bytes();
        if let Err(e) = Geometry::new(size_bytes, region_bytes) {
            return Some(refused(whole_story(&e)));
        }
        let grows = self.phase() == Phase::Open && size_bytes > self.engine.geometry().size_bytes();
        if self.store.config.store.device.is_some() {
            return match grows {
                true => self.grow_on_device(asker, size_bytes),
                // The engine knows why not.
                false => self.command(asker, Command::Grow { size_bytes }),
            };
        }
        // What is too small, or asked at the wrong time, the engine refuses; the file is no longer than was asked.
        if let Err(e) = self.store.lengthen(size_bytes) {
            return Some(refused(format!(
                "the data file cannot have {size_bytes} bytes: {e}; ask for fewer bytes"
            )));
        }
        self.command(asker, Command::Grow { size_bytes })
    }

    fn grow_on_device(&mut self, asker: u64, size_bytes: u64) -> Option<Answer> {
        if self.grows_on_device {
            return Some(refused("the volume is growing already; ask again when it has".to_owned()));
        }
        let has_bytes = match self.store.device_bytes() {
            Ok(has_bytes) => has_bytes,
            Err(e) => return Some(refused(format!("the volume's device does not tell its size: {e}"))),
        };
        if has_bytes < self.store.read_end(size_bytes) {
            return Some(refused(format!(
                "the volume's device has {has_bytes} bytes; enlarge the device first, or ask for at most that"
            )));
        }
        self.grows_on_device = true;
        let at = whole_units(self.engine.geometry().size_bytes());
        let end = whole_units(size_bytes).min(has_bytes);
        if at >= end {
            return self.command(asker, Command::Grow { size_bytes });
        }
        let purpose = Purpose::Cleared(Clearing { asker, size_bytes, at, end, zeroes: None });
        self.ring.fallocate(&self.store.data, PUNCH, at, end - at, purpose);
        None
    }

    /// A part of a device was cleared, or could not be.
    pub(super) fn cleared(&mut self, mut clearing: Clearing, result: io::Result<u32>) {
        match (result, &clearing.zeroes) {
            (Ok(_), None) => clearing.at = clearing.end,
            (Err(e), None) if is_unsupported(&e) => {
                let zeroes = self.pool.take(ZEROES_BYTES as usize);
                zeroes.zero(0, zeroes.len());
                clearing.zeroes = Some(zeroes);
            }
            (Ok(count), Some(_)) if count > 0 => clearing.at += u64::from(count),
            (Ok(_), Some(_)) => return self.not_cleared(&clearing, &io::ErrorKind::WriteZero.into()),
            (Err(e), _) => return self.not_cleared(&clearing, &e),
        }
        match &clearing.zeroes {
            Some(zeroes) if clearing.at < clearing.end => {
                let (zeroes, offset) = (zeroes.clone(), clearing.at);
                let len = ZEROES_BYTES.min(clearing.end - offset) as usize;
                let purpose = Purpose::Cleared(clearing);
                self.ring.write_at(&self.store.data, &zeroes, 0, len, offset, purpose);
            }
            Some(_) | None => {
                let Clearing { asker, size_bytes, .. } = clearing;
                // It is answered when the engine tells how that went.
                self.command(asker, Command::Grow { size_bytes });
            }
        }
    }

    fn not_cleared(&mut self, clearing: &Clearing, error: &io::Error) {
        self.grows_on_device = false;
        let at = clearing.at;
        let answer =
            refused(format!("the volume's device cannot be cleared at byte {at}: {error}; check the device"));
        self.answer(clearing.asker, &answer);
    }

    /// What a notice means for growths on a device.
    pub(super) fn follow_growth(&mut self, notice: &Notice) {
        if let Notice::Grown { .. }
        | Notice::CommandRefused { command: Command::Grow { .. }, .. }
        | Notice::CommandFailed { command: Command::Grow { .. }, .. } = notice
        {
            self.grows_on_device = false;
        }
    }

    /// The volume has this size from now on.
    pub(super) fn grown(&mut self, size_bytes: u64) {
        self.store.describe_growth(size_bytes);
        self.grow_frontends(size_bytes);
    }
}
