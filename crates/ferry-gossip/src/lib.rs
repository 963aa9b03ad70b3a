//! Who of the workers is there, and who has news.
//!
//! ```text
//!   datagrams in ─▶ Sealer ─▶ Gossip ─▶ Effect: send a datagram · wake me later · somebody came, went, has news
//! ```
//!
//! Membership is SWIM, by `foca`. Beside it each worker spreads one [`Fact`] of itself, which says little more than in what
//! state its map of machines is; whoever has an older one asks the worker itself. So what must arrive is pulled from whoever
//! owns it, and what gossip loses costs time only: workers compare what they know with a [`Digest`], now and then, in pairs.
//!
//! Where a fleet has a store of keys and values already, the same facts lie there instead, sealed likewise: a [`Bucket`] is one
//! worker's part in that.
//!
//! Nothing here does I/O or reads a clock, and the dice are thrown from a seed that is given: the same events give the same
//! effects, so a thousand workers can be watched in one thread (`tests/many.rs`, `cargo xtask bench --what directory`).

mod bucket;
mod fact;
pub mod fleet;
mod gossip;
mod member;
mod sealed;

pub use bucket::{Bucket, Fleet, Kept, NotTaken, RENEW_PAUSE, SILENT_MS_MAX, Seen, Unfit};
pub use fact::{Fact, Facts};
pub use ferry_api::Digest;
pub use gossip::{Effect, Gossip, Wake};
pub use member::Member;
pub use sealed::{GossipKey, KeyId, Medium, SealError, Sealer};

/// How often a worker looks for one of those that it misses ([`Gossip::seek`]).
pub const SEEK_PAUSE: std::time::Duration = std::time::Duration::from_secs(2);
/// How often a worker compares what it knows with another one ([`Gossip::compare`]).
pub const COMPARE_PAUSE: std::time::Duration = std::time::Duration::from_secs(10);

/// Largest datagram before it is sealed, in bytes: what passes through every network in one piece, less the seal.
pub const DATAGRAM_BYTES_MAX: usize = 1_400 - sealed::SEAL_BYTES_MAX;
