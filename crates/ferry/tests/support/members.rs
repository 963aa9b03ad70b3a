//! How workers come to belong together.

use super::cluster::{Cluster, Said, Worker};
use ferry_api::JoinTokenMade;

impl Cluster {
    /// Makes a cluster of the first worker, and starts its agent.
    pub fn found(&self) {
        let first = &self.workers[0];
        let said = first.ferry(&["cluster", "init", "--config", first.config().to_str().unwrap()]);
        assert_eq!(said.code, Some(0), "{said:?}");
        first.start();
    }

    /// The same, with all others joined to it and their agents started.
    pub fn found_with_all(&self) {
        self.found();
        for worker in &self.workers[1..] {
            let said = worker.join(&self.workers[0].token(&[]));
            assert_eq!(said.code, Some(0), "{said:?}");
            worker.start();
        }
    }
}

impl Worker {
    /// A token of the cluster that this worker keeps; `more` are further words of the command.
    pub fn token(&self, more: &[&str]) -> String {
        let made: JoinTokenMade = self.ask(&[&["cluster", "token"], more].concat());
        made.token
    }

    /// Joins the cluster that the token is of.
    pub fn join(&self, token: &str) -> Said {
        self.ferry(&["agent", "join", token, "--config", self.config().to_str().unwrap()])
    }
}
