//! The other workers, as configured.

use ferry_api::http::{Client, ClientError};
use ferry_api::{ApiError, ErrorCode, PeerInfo, WorkerName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How the other workers are reached.
#[derive(Clone, Debug)]
pub struct Peers {
    clients: Arc<BTreeMap<WorkerName, Client>>,
}

impl Peers {
    /// The workers by name and URL.
    ///
    /// # Errors
    /// A URL is not one.
    pub fn new(urls: &BTreeMap<WorkerName, String>) -> Result<Self, ClientError> {
        let clients: Result<_, _> =
            urls.iter().map(|(name, url)| Ok((name.clone(), Client::new(url)?))).collect();
        Ok(Self { clients: Arc::new(clients?) })
    }

    /// The workers as they are reached by those clients.
    #[must_use]
    pub fn by(clients: BTreeMap<WorkerName, Client>) -> Self {
        Self { clients: Arc::new(clients) }
    }

    /// The agent of the worker `name`.
    ///
    /// # Errors
    /// `UnknownWorker`, with the names that are known.
    pub fn client(&self, name: &WorkerName) -> Result<Client, ApiError> {
        if let Some(client) = self.clients.get(name) {
            return Ok(client.clone());
        }
        let known: Vec<&str> = self.clients.keys().map(WorkerName::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let message = format!(
            "worker {name} is not known here (known: {known}); add it to [peers] in the configuration"
        );
        Err(ApiError::new(ErrorCode::UnknownWorker, message))
    }

    /// All of them.
    #[must_use]
    pub fn list(&self) -> Vec<PeerInfo> {
        self.clients
            .iter()
            .map(|(name, c)| PeerInfo { name: name.clone(), url: c.url().to_owned() })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_worker_is_refused_with_those_that_are_known() {
        let w2: WorkerName = "w2".parse().unwrap();
        let peers = Peers::new(&BTreeMap::from([(w2.clone(), "http://127.0.0.1:1".to_owned())])).unwrap();
        assert!(peers.client(&w2).is_ok());
        let refusal = peers.client(&"w3".parse().unwrap()).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::UnknownWorker);
        assert!(refusal.message.contains("known: w2"), "{refusal}");
    }
}
