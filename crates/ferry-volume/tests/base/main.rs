//! Copies that are read from two others: the source, and a base that the source was itself made from.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod back;
#[path = "../support/wire.rs"]
mod bad_wire;
mod copy;
#[path = "../support/proxy.rs"]
#[expect(dead_code, reason = "the tests of lost sources do more with it")]
mod proxy;
mod told;
mod trouble;
#[path = "../support/wait.rs"]
mod wait;
