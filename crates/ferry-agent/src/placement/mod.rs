//! Where machines go: what this worker offers, what others offer, and which of them takes a machine.
//!
//! ```text
//!   offer ──▶ Bid            (holds count as taken)
//!   ask   ──▶ Market         the bids of all workers that are known here
//!   choose ─▶ hold there, the best first; the next one when it refuses
//!   plan ───▶ what a drain would do, and whether it may begin (drains)
//!   rebalances ▶ which moves would make workers alike, and whether a part of them may begin
//! ```
//!
//! Who fits, and who fits best, is decided in [`ferry_placement`]; here the facts are gathered and the answer is acted on.
//!
//! Invariant: a bid promises nothing. A hold keeps room for a machine for a minute at most, in memory: one that is lost with
//! its agent costs a move that is refused before anything stops.

mod ask;
mod choose;
mod cordon;
mod drains;
mod emptied;
mod holds;
mod offer;
mod plan;
mod rebalances;

pub(crate) use ask::{explain, market};
pub(crate) use choose::{best, choose_now, wants};
pub(crate) use cordon::{cordon, refuse_if_cordoned};
pub(crate) use drains::{drain_of, start_drain};
pub(crate) use holds::Holds;
pub(crate) use offer::bid;
pub(crate) use plan::{candidate, know};
pub(crate) use rebalances::{departures, plan_rebalance, start_rebalance};
