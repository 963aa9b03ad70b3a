//! Who belongs to a cluster, and how that is proved.
//!
//! ```text
//!   keeper (one worker)                                   every worker
//!   authority · ledger (tokens given out)                 certificate · roster (who belongs, who no longer)
//!        │ signs                                               ▲
//!        └────────── certificates, rosters, API tokens ────────┘
//! ```
//!
//! What is decided here takes the time as an argument and touches nothing: tokens, the roster, the ledger, what a certificate
//! says. Around that are thin shells: the authority that signs, the directory where all lies, TLS.
//!
//! Invariants: a worker belongs to the cluster if and only if the newest roster that a worker has names it with the key of its
//! certificate; a key that was revoked never belongs again; nothing is given to a joiner before that its token is spent is
//! durable.

mod authority;
mod bearer;
mod encoding;
mod fingerprint;
mod home;
mod identity;
mod keeper;
mod ledger;
mod roster;
mod signed;
mod tls;
mod token;

pub use authority::{
    Authority, AuthorityError, AuthorityKey, CERTIFICATE_MS, KeyError, Request, WorkerKey, renew_at_ms,
};
pub use bearer::{Bearer, BearerError, authority_of};
pub use fingerprint::{Fingerprint, NotAFingerprint};
pub use home::{Founding, Home, HomeError, Papers};
pub use identity::{ClusterId, Identity, NotAnIdentity, worker_uri};
pub use keeper::{Keeper, KeeperError};
pub use ledger::{Ledger, Spent, Ticket, TicketRefusal};
pub use roster::{
    Admission, JoinRefusal, Offered, Roster, RosterError, Standing, Stranger, TokenRevoked, WorkerEntry,
};
pub use signed::{NotBelieved, open, sign};
pub use tls::{Badge, TlsError, Whom, client, client_with_token, server};
pub use token::{JoinToken, Secret, TokenError};
