//! The engine: decides, for every event, what must be done.

use crate::event::Event;
use crate::geometry::{ByteRange, Geometry};
use crate::limits::Limits;
use crate::map::MapState;
use crate::operation::Operation;
use crate::status::EngineStatus;
use crate::truth::{Residence, Truth};

/// One volume's engine.
#[derive(Debug)]
pub struct Engine {
    truth: Truth,
}

impl Engine {
    /// An engine for the volume that `map` describes. The source counts as down until [`Event::SourceUp`].
    ///
    /// Before this, the shell has punched everything that the data file holds in remote ranges: after a crash it may
    /// hold what no bit vouches for.
    #[must_use]
    pub fn new(map: MapState, limits: Limits) -> Engine {
        let _ = limits;
        Engine { truth: map.truth }
    }

    /// Takes one event and appends to `out` what must be done, in order.
    ///
    /// # Panics
    /// If the shell breaks a rule of [`crate::event`], such as completing an operation twice.
    pub fn handle(&mut self, event: Event, out: &mut Vec<Operation>) {
        let _ = (event, out);
    }

    /// The volume's geometry.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.truth.geometry()
    }

    /// Which parts of the range are local, in order, each as long as can be.
    pub fn truth(&self, range: ByteRange) -> impl Iterator<Item = (ByteRange, Residence)> + '_ {
        self.truth.byte_runs(range)
    }

    /// Numbers for a person.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        unimplemented!("follows in the next slice")
    }

    /// Whether anything waits for time to pass. While this is false the shell may sleep until the next event.
    #[must_use]
    pub fn wants_tick(&self) -> bool {
        true
    }
}
