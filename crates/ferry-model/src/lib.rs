//! A model checker for the crossing: every order of events in small worlds.
//!
//! ```text
//!   world = workers (records · directories · processes · tasks) + calls ever sent + what the machine was told
//!     │
//!     ├─ agents' work   decide · conclude · Change · target · service · minding     the product's own functions
//!     ├─ the network    any call ever sent arrives, late, again, out of order, or never
//!     ├─ faults         agent or host dies, older records come back
//!     └─ a person       begins, repeats, cancels, reverses
//!     ▼
//!   promises: checked in every world; and from every world, once nothing goes wrong any more, the move ends
//! ```
//!
//! Machines of one group that move from several workers have a small model of their own, which knows leases and no bytes.
//!
//! What decides is not here: it is [`ferry_crossing`] and [`ferry_fsm`], the same functions that agents run. Here is
//! the shell around them, which has no time and no bytes (a volume is one block, a write is a number), and a search
//! that is breadth first, so that what it finds is as short as can be. It is our own and small rather than a library's
//! because a world here is a handful of numbers: what becomes of one worker is computed once and remembered.

mod ahead;
mod books;
mod groups;
mod host;
mod memory;
mod moments;
mod names;
mod promises;
mod quick;
pub mod scope;
mod search;
mod source;
mod target;
mod world;

pub use groups::{GroupBug, Groups, search_groups};
pub use scope::{Budget, Bug, Scope};
pub use search::{Counterexample, Report, search};
