//! One worker: its records, jobs, machine drivers and volumes.
//!
//! ```text
//!   the door (AgentApi) ──▶ service ──▶ create · jobs · target
//!                                          │ changes
//!                                          ▼
//!                                       records ──touched──▶ keepers (volumes) · minders (machines)
//!                                                               │                    │
//!                                                         volume servers         processes
//! ```
//!
//! Invariant: the records are the only truth. Whoever wants something changes them, durably; keepers and minders
//! then make the world follow, however often the agent is killed in between.

mod arrivals;
pub mod ballast;
pub mod cluster;
pub mod config;
mod core;
mod create;
pub mod disks;
pub mod drivers;
pub mod entrances;
mod failure;
pub mod fences;
mod garbage;
mod hearing;
pub mod host;
mod identity;
pub mod jobs;
mod leases;
pub mod lying;
pub mod machines;
pub mod means;
mod metrics;
pub mod moments;
mod mutex;
pub mod peers;
mod placement;
pub mod records;
mod service;
mod services;
mod shutdown;
mod stopping;
mod target;
mod truth;
mod udev;
pub mod volumes;

pub use config::{Config, ConfigError};
pub use core::Ground;
pub use hearing::{CredentialsError, HearingError, NatsTrouble, try_bucket};
pub use service::{Agent, AgentError, run};
pub use services::NoServices;
pub use truth::{StateDir, truth_at_rest};
