//! kill -9 between real processes: whatever dies, when it is back the move goes on or unwinds, the machine has all it
//! ever wrote, and never runs twice.
//!
//! `agents` die at exact moments (`ferry agent --drill`); `hydration` is when agents, volume
//! servers and the machine die while the disk follows; `forks` is the same while a fork follows; `hooks` is when a
//! machine is told of its move; `machine` is when the machine itself dies; `warm` is what moves need that
//! copy ahead.
#![allow(clippy::unwrap_used, reason = "a test ends at whatever it did not expect")]

mod agents;
mod forks;
mod hooks;
mod hydration;
mod machine;
#[path = "../support/mod.rs"]
mod support;
mod warm;
