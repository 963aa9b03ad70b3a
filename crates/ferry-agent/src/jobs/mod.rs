//! Jobs: durable pieces of work. The journal decides, this room acts.
//!
//! ```text
//!  Executor ── one task a job ──▶ decide(standing) ──▶ Journal::append ──▶ Work::perform · undo
//!     ▲ cancel, resume               ▲                   │ fails: the agent stops     │
//!     │                              └── entry applied ◀─┴──── done, failed ◀─────────┘
//!  the door (AgentApi)
//! ```
//!
//! - `executor`, `task` run jobs of any kind and know nothing of machines; `queues` is who waits for whom, `journal`
//!   what they need of the records, `view` how a job looks from outside.
//! - `mover` does the steps of a move (`verify` the one that proves what arrived), `world` is what it needs of both
//!   workers, `live` what is different for a machine that moves with its memory, `leases` for one that belongs to a group. What the steps are and what may be done when is decided in [`ferry_crossing`].
//! - `fleet` leads the moves of several machines as children of one job; `drain` those of all machines, until the worker is empty; `rebalance` those that a plan names, to the workers
//!   that it names; `office` is where people ask for a job of any
//!   kind.
//! - `history` forgets jobs that ended long ago, by `age`, a clock that nobody can set forward;
//!   `reaper` deletes what was retired when its time has come; `sweep` lets a target forget moves that were undone
//!   while it was away; `judge` takes back what arrived and is not well.
//!
//! Invariant: nothing acts on a decision that is not in the journal, and one machine has one active job at most.

mod age;
mod ahead;
mod bandwidth;
mod children;
mod clock;
mod drain;
mod executor;
mod fleet;
mod foresee;
mod history;
mod journal;
mod judge;
mod keep_up;
mod leases;
mod live;
mod mover;
mod notices;
mod office;
mod queues;
mod reaper;
mod rebalance;
mod sweep;
mod task;
mod verify;
mod view;
mod world;

pub use age::AgeClock;
pub use clock::{Clock, HostClock};
pub use drain::{Drain, begin_drain};
pub use executor::{Executor, JobRefusal};
pub use ferry_crossing::{
    Activated, Adopted, Booted, HandedOver, Hydrated, MoveInput, MoveStep, Plan, PlannedVolume, Prepared,
    Proof, Receipt, Reserved, ReservedVolume, Retired, Sealed, Stopped, VolumeReceipt,
};
pub use fleet::{Fleet, begin_fleet};
pub use foresee::Looked;
pub(crate) use foresee::past_moves;
pub use history::{Targets, forget};
pub use journal::Journal;
pub use judge::{Arrivals, judge_arrivals};
pub(crate) use mover::begin_move_with;
pub use mover::{MOVES, Mover, begin_move};
pub use office::Office;
pub(crate) use queues::QueueFigures;
pub use queues::Queues;
pub use reaper::{Attic, reap};
pub use rebalance::{Rebalance, begin_rebalance};
pub use sweep::{Guests, sweep};
pub use task::{StepContext, Work};
pub use world::{Emptied, Home, Occupant, Target};

#[cfg(test)]
mod tests;
