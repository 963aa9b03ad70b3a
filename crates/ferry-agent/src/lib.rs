//! One worker: its records, jobs, machine drivers and volumes.
