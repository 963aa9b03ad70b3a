//! The crossing as values: what the records hold, how they may change, the steps of a move, and what either side may
//! do at any moment.
//!
//! ```text
//!   source   Standing ──decide──▶ step ──moving──▶ requests, changes of the records
//!            several moves as children of one job: [`fleet`]; rounds of copying while the machine runs: [`ahead`];
//!            what its hooks make of a move: [`hooks`]
//!   target   request + record ──target──▶ refusal · done already · changes of the records
//!   owner    machine + moves that came here ──back──▶ where an undo takes it, which job a cancel means
//!   all      move of a machine of a group ──leases──▶ whether it may stop now
//!   both     Fence: what was handed over stays so, whatever the records say
//!            ownership ──service──▶ what a volume server is to do, what may be done with a copy
//!            record + what runs ──minding──▶ start or stop the machine
//!            journal + what is left of a move ──history──▶ whether it may be forgotten
//!            what a clone's source cannot give ──unreadable──▶ a sentence for a person
//!            what lies and runs here beside the records ──garbage──▶ what may be cleared away
//!            what is under way, runs and is read here ──stopping──▶ what keeps the host from being stopped
//!            bytes of a VM's guest agent ──guest_agent──▶ what it answers
//!   clients  who tells what of a machine ──directory──▶ where it is ──proxy──▶ connect, forward, hold or refuse
//!            where machines are + routes of a host ──routes──▶ which to make and which to remove
//!   all      what lies on every disk ──truth──▶ which copy is the real one
//! ```
//!
//! Everything that decides who may write a volume and where a machine runs is here, so that the agent and the model
//! that checks it (`ferry-model`) share it to the letter.
//!
//! This crate is a pure heart: no I/O, no clock, no randomness. Of `ferry-api` it uses the words only, never the door.

pub mod ahead;
pub mod back;
mod change;
pub mod directory;
pub mod drain;
pub mod feed;
mod fence;
pub mod fleet;
pub mod foresight;
pub mod garbage;
pub mod guest_agent;
pub mod history;
pub mod hooks;
pub mod judging;
pub mod leases;
mod line;
pub mod live;
pub mod minding;
pub mod moving;
pub mod proxy;
pub mod rebalance;
pub mod reckoning;
mod records;
mod refusal;
pub mod routes;
pub mod service;
pub mod stopping;
pub mod target;
pub mod truth;
pub mod unreadable;

pub use change::{Change, Rows, Touched};
pub use fence::{Fence, Subject};
pub use line::{
    Activated, Adopted, Ahead, Booted, HandedOver, Hydrated, KeptUp, MoveInput, MoveStep, Plan,
    PlannedVolume, Prepared, Proof, Receipt, Reserved, ReservedVolume, Retired, Round, Sealed, Stopped,
    VolumeReceipt,
};
pub use records::{
    AwaitedMachine, BaseRecord, CrossingRecord, DrainRecord, FilesystemMark, ForkRecord, JobRecord,
    JournalRow, MachineRecord, MemoryMoves, ProcessMark, SourceRecord, Standing, VolumeRecord, WorkerRecord,
};
pub use refusal::ChangeRefused;
