//! One worker: its records, jobs, machine drivers and volumes.

pub mod clock;
pub mod jobs;
pub mod records;
