//! A worker as the others know it.

use ferry_api::WorkerName;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A worker's agent, from its start to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The worker.
    pub name: WorkerName,
    /// Where its datagrams go.
    pub address: SocketAddr,
    /// Which of its agents this is. A later one has a higher number, also if the clock went back in between.
    pub epoch: u64,
}

impl foca::Identity for Member {
    type Addr = WorkerName;

    /// Whoever was given up by mistake is back at once.
    fn renew(&self) -> Option<Self> {
        Some(Self { epoch: self.epoch.saturating_add(1), ..self.clone() })
    }

    fn addr(&self) -> WorkerName {
        self.name.clone()
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        self.epoch > other.epoch
    }
}
