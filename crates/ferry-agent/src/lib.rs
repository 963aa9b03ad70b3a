//! One worker: its records, jobs, machine drivers and volumes.

pub mod clock;
pub mod config;
pub mod drivers;
pub mod jobs;
pub mod peers;
pub mod records;
pub mod volumes;
