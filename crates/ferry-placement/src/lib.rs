//! Who takes a machine, and what a drain would do: a market as values.
//!
//! ```text
//!   machine + bid      ──judge──▶ yes, with a score · no, with every reason
//!   machine + market   ──best───▶ the worker that fits best; what it takes is counted before the next one asks
//!   machines + market  ──drain::plan──▶ who goes where, how, in which wave, and what is in the way
//!   asked + under way  ──lead─────▶ whose move may begin now
//!   plan + world       ──compare──▶ in what the world is not as the plan says
//!   market             ──rebalance──▶ the few moves that make workers alike
//! ```
//!
//! Facts come in as bids, which workers tell of themselves, so a plan is as right as they are. It promises nothing: the
//! target has the last word when it reserves. The same facts give the same plan; ties go to the first by name.
//!
//! This crate is a pure heart: no I/O, no clock, no randomness. Whether a worker can run a machine at all it asks
//! `ferry-crossing`, as a move's own `Plan` does.

mod compare;
pub mod drain;
mod judge;
mod lead;
mod market;
pub mod rebalance;
mod requirements;
mod waves;

pub use compare::compare;
pub use judge::{Reason, Verdict, fits, judge};
pub use lead::{Lanes, Stage, UnderWay, allot, in_order};
pub use market::Market;
pub use rebalance::{Rebalance, RebalanceMove, Tolerance};
pub use requirements::{Requirements, resident};
pub use waves::AtOnce;
