//! What is to be done with a machine, decided from its record and from whether it runs.

use crate::records::{MachineRecord, MemoryMoves};

/// What is to be done with a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Care {
    /// It runs and shall: wait until it ends.
    Leave,
    /// It runs and shall not: stop it.
    Stop,
    /// It shall run and does not: open its volumes and start it.
    Start,
    /// It does not run and shall not.
    Rest,
}

/// What is to be done with a machine that runs or does not.
#[must_use]
pub fn care(record: &MachineRecord, runs: bool) -> Care {
    match (runs, record.shall_run()) {
        // It is paused, and holds the memory of the machine.
        (true, false) if record.memory == Some(MemoryMoves::Away) => Care::Leave,
        (true, true) => Care::Leave,
        (true, false) => Care::Stop,
        (false, true) => Care::Start,
        (false, false) => Care::Rest,
    }
}

/// What is to be done with a machine while its host goes down, whatever its record says.
#[must_use]
pub fn care_at_the_end(runs: bool) -> Care {
    if runs { Care::Stop } else { Care::Rest }
}

/// Whether a machine that was asked to stop has: the records know of no process and want none.
#[must_use]
pub fn is_down(record: &MachineRecord) -> bool {
    record.process.is_none() && !record.shall_run()
}

/// Whether a machine that was asked to run does, or is not to run.
#[must_use]
pub fn is_up(record: &MachineRecord) -> bool {
    !record.shall_run() || record.process.is_some()
}
