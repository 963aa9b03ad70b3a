//! The pace of hydration, in virtual time, one promise a test.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

mod budget;
mod clone;
mod finish;
mod guard;
mod heat;
