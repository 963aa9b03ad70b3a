//! What agents ask about checksums: the root of what was sealed or of what arrived, and a check of the store.

use super::Server;
use super::arrivals::Arrivals;
use super::suspects::Suspects;
use super::walk::{Errand, Walk};
use crate::buffer::Buffer;
use crate::control::{Answer, Check, Phase, Receipt, RootState};
use crate::directory::DirectoryError;
use crate::store::Store;
use crate::sums_file::{self, SEALED, SumsFile};
use ferry_engine::sums::codec::SumsOf;
use ferry_engine::{ByteRange, MapState, RequestId, Sums};

/// All that a server knows of checksums.
pub(super) struct Ledger {
    /// Whose sums lie in the directory.
    pub(super) of: SumsOf,
    /// Of what came from the source.
    pub(super) arrivals: Arrivals,
    /// Of what was sealed, while the copy is.
    pub(super) sealed: Option<Sums>,
    /// The first request since the copy is sealed: what was read for an earlier one may have changed after.
    sealed_from: u64,
    /// Whether these, whole, lie beside the copy.
    pub(super) sealed_are_kept: bool,
    /// Why what was sealed could not be summed.
    pub(super) sum_failure: Option<String>,
    pub(super) walks: Vec<Walk>,
    /// How the last check ended.
    pub(super) checked: Option<Check>,
    /// What the source gives wrong.
    pub(super) suspects: Suspects,
}

impl Ledger {
    /// What lies in the directory of this store.
    ///
    /// # Errors
    /// A file operation failed.
    pub(super) fn open(store: &Store, state: &MapState) -> Result<Self, DirectoryError> {
        let of = SumsOf { volume_id: state.volume_id, generation: state.generation };
        Ok(Self {
            of,
            arrivals: Arrivals::open(store, of, state)?,
            sealed: None,
            sealed_from: 0,
            sealed_are_kept: false,
            sum_failure: None,
            walks: Vec::new(),
            checked: None,
            suspects: Suspects::default(),
        })
    }
}

impl Server {
    /// The copy is sealed from now on, or was when the server was started: its sums are gathered.
    pub(super) fn begin_sealed_sums(&mut self) {
        let geometry = self.engine.geometry();
        let kept = SumsFile::open(&self.store.dir, SEALED, self.ledger.of, geometry);
        let kept = kept.unwrap_or_else(|e| {
            tracing::warn!(error = %e, "the checksums of what was sealed cannot be read; they are made anew");
            None
        });
        self.ledger.sealed_from = self.next_id;
        self.ledger.sealed_are_kept = kept.is_some();
        self.ledger.sealed = Some(kept.map_or_else(|| Sums::new(geometry), |kept| kept.sums));
    }

    /// The copy may be written: what was said of it as it was sealed is no longer true.
    pub(super) fn forget_sealed_sums(&mut self) {
        self.ledger.sealed = None;
        self.ledger.sum_failure = None;
        self.end_walk(Errand::Sum);
        sums_file::remove(&self.store.dir, SEALED);
    }

    /// These bytes of the sealed copy were read for somebody who asked for their checksum, which is remembered.
    pub(super) fn remember_sum(&mut self, id: RequestId, offset: u64, buffer: &Buffer, crc32c: u32) {
        let range = ByteRange::new(offset, buffer.len() as u64);
        let (Some(sums), Some(range)) = (&mut self.ledger.sealed, range) else { return };
        if id.0 < self.ledger.sealed_from {
            return;
        }
        let geometry = sums.geometry();
        let Some(blocks) = geometry.blocks_covered(range) else { return };
        sums.arrived(blocks, |part| {
            let part = geometry.bytes_of(part);
            let at = (part.offset() - range.offset()) as usize;
            match part == range {
                true => crc32c,
                false => buffer.with_bytes(at, part.len_bytes() as usize, crc32c::crc32c),
            }
        });
        sums.take_news();
    }

    /// The root of what was sealed at a generation: of this copy, if it is of that generation, else of what arrived.
    pub(super) fn receipt(&mut self, of_generation: u64, first_region: u64, regions: Option<u64>) -> Answer {
        let is_own = of_generation == self.store.config.generation;
        if is_own && self.phase() != Phase::Sealed {
            let reason =
                format!("the copy of generation {of_generation} is not sealed, so it has no receipt");
            return Answer::Refused { reason };
        }
        let sums = if is_own { self.ledger.sealed.as_ref() } else { self.ledger.arrivals.sums() };
        let Some(sums) = sums else {
            return Answer::Receipt(Box::new(Receipt {
                root: RootState::Unknown { reason: "nothing is known of what arrived here".to_owned() },
                ..Receipt::default()
            }));
        };
        let count = sums.geometry().region_count();
        let end = regions.map_or(count, |regions| first_region.saturating_add(regions).min(count));
        let wanted = first_region.min(end)..end;
        let tally = sums.tally();
        let mut receipt = Receipt {
            root: RootState::Summing,
            regions: count,
            region_bytes: sums.geometry().region_bytes(),
            bytes_arrived: tally.bytes_arrived,
            bytes_zero: tally.bytes_zero,
            bytes_told: tally.bytes_told,
            is_gappy: sums.is_gappy(),
        };
        let is_missing = sums.first_unknown(wanted.start).is_some_and(|region| region < wanted.end);
        let is_all = wanted == (0..count);
        if !is_missing && let Some(root) = sums_file::root(sums, of_generation, wanted) {
            receipt.root = RootState::Known { root };
            if is_own && is_all && !self.ledger.sealed_are_kept {
                self.keep_sealed_sums();
            }
        } else if is_own {
            receipt.root = self.sum_sealed();
        } else if let Some(reason) = self.ledger.arrivals.refusal().map(str::to_owned) {
            receipt.root = RootState::Unknown { reason };
            self.ledger.arrivals.forgive();
            self.follow_source();
        } else if self.engine.status().complete && self.store.config.source.is_none() {
            let reason = "the source was forgotten before it told what never arrived".to_owned();
            receipt.root = RootState::Unknown { reason };
        }
        Answer::Receipt(Box::new(receipt))
    }

    /// Sums what nobody has asked for so far.
    fn sum_sealed(&mut self) -> RootState {
        if let Some(reason) = self.ledger.sum_failure.take() {
            return RootState::Unknown { reason };
        }
        // What is still remote is a hole in the store, and no zeroes.
        if self.engine.status().complete {
            self.begin_walk(Errand::Sum);
        } else if self.rest.is_held {
            let reason = "the copy is not whole, and what it lacks is not copied to it any more".to_owned();
            return RootState::Unknown { reason };
        }
        RootState::Summing
    }

    /// Checks the store, or tells how far that is.
    pub(super) fn verify(&mut self, anew: bool) -> Answer {
        let sums = if self.phase() == Phase::Sealed {
            self.ledger.sealed.as_ref()
        } else {
            self.ledger.arrivals.sums()
        };
        if anew && sums.is_none() {
            let reason = "this copy came from nowhere, so there is nothing to hold it against".to_owned();
            return Answer::Refused { reason };
        }
        if anew {
            self.begin_walk(Errand::Check);
        }
        match self.check() {
            Some(check) => Answer::Check(Box::new(check.clone())),
            None => Answer::Refused {
                reason: "nobody has asked for a check since the server was started".to_owned(),
            },
        }
    }
}
