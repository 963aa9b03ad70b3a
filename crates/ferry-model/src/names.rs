//! The few workers, volumes and jobs of a small world, by number. Names and ids are the same in every run.

use ferry_api::{GroupName, JobId, LeaseId, MachineId, MachineName, VolumeId, VolumeName, WorkerName};
use std::fmt::Display;
use std::str::FromStr;

fn parsed<T: FromStr>(text: impl Display) -> T {
    match text.to_string().parse() {
        Ok(value) => value,
        Err(_) => unreachable!("the names of the model are valid"),
    }
}

/// Worker number `index`: w1, w2, w3.
pub(crate) fn worker(index: usize) -> WorkerName {
    parsed(format!("w{}", index + 1))
}

/// The number of a worker.
pub(crate) fn index_of(worker: &WorkerName) -> usize {
    let number: usize = parsed(worker.to_string().trim_start_matches('w'));
    number - 1
}

/// The one machine.
pub(crate) fn machine() -> MachineId {
    parsed(format!("{:026}", 1))
}

/// Its name.
pub(crate) fn machine_name() -> MachineName {
    parsed("m")
}

/// Volume number `index`.
pub(crate) fn volume(index: usize) -> VolumeId {
    parsed(format!("{:026}", index + 1))
}

/// Its name.
pub(crate) fn volume_name(index: usize) -> VolumeName {
    parsed(format!("v{}", index + 1))
}

/// Job number `index`.
pub(crate) fn job(index: usize) -> JobId {
    parsed(format!("{:026}", index + 1))
}

/// What tells ids apart, short: the last of their letters.
pub(crate) fn short(id: impl Display) -> String {
    let text = id.to_string();
    text.trim_start_matches('0').to_owned()
}

/// The lease of an attempt of move number `index`.
pub(crate) fn lease(index: usize, attempt: u8) -> LeaseId {
    parsed(format!("{:026}", index * 100 + usize::from(attempt) + 1))
}

/// The one group.
pub(crate) fn group() -> GroupName {
    parsed("pg")
}
