//! The other workers: as configured, or, in a cluster, as its roster says from time to time.

use ferry_api::http::{Client, ClientError};
use ferry_api::{ApiError, ErrorCode, PeerInfo, WorkerName};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// How the other workers are reached. Clones share it.
#[derive(Clone, Debug)]
pub struct Peers {
    clients: Arc<watch::Sender<BTreeMap<WorkerName, Client>>>,
    /// What to do about a worker that is not known.
    remedy: &'static str,
}

impl Peers {
    /// The workers by name and URL.
    ///
    /// # Errors
    /// A URL is not one.
    pub fn new(urls: &BTreeMap<WorkerName, String>) -> Result<Self, ClientError> {
        let clients: Result<_, _> =
            urls.iter().map(|(name, url)| Ok((name.clone(), Client::new(url)?))).collect();
        Ok(Self::by(clients?))
    }

    /// The workers as they are reached by those clients.
    #[must_use]
    pub fn by(clients: BTreeMap<WorkerName, Client>) -> Self {
        let clients = Arc::new(watch::Sender::new(clients));
        Self { clients, remedy: "add it to [peers] in the configuration" }
    }

    /// The members of a cluster as they are reached by those clients.
    #[must_use]
    pub fn of_cluster(clients: BTreeMap<WorkerName, Client>) -> Self {
        Self { remedy: "`ferry cluster status` lists those that belong to the cluster", ..Self::by(clients) }
    }

    /// From now on they are these. A worker that is reached as before keeps its client.
    pub fn replace(&self, clients: BTreeMap<WorkerName, Client>) {
        self.clients.send_if_modified(|known| {
            let urls = |clients: &BTreeMap<WorkerName, Client>| {
                clients
                    .iter()
                    .map(|(name, client)| (name.clone(), client.url().to_owned()))
                    .collect::<Vec<_>>()
            };
            let is_new = urls(known) != urls(&clients);
            for (name, client) in clients.iter().filter(|_| is_new) {
                match known.get(name) {
                    Some(before) if before.url() == client.url() => {}
                    Some(_) | None => drop(known.insert(name.clone(), client.clone())),
                }
            }
            known.retain(|name, _| clients.contains_key(name));
            is_new
        });
    }

    /// Changes when they do.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<BTreeMap<WorkerName, Client>> {
        self.clients.subscribe()
    }

    /// The agent of the worker `name`.
    ///
    /// # Errors
    /// `UnknownWorker`, with the names that are known.
    pub fn client(&self, name: &WorkerName) -> Result<Client, ApiError> {
        let clients = self.clients.borrow();
        if let Some(client) = clients.get(name) {
            return Ok(client.clone());
        }
        let known: Vec<&str> = clients.keys().map(WorkerName::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let message = format!("worker {name} is not known here (known: {known}); {}", self.remedy);
        Err(ApiError::new(ErrorCode::UnknownWorker, message))
    }

    /// What to do about a worker that is not known, as the end of a sentence.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        self.remedy
    }

    /// All of them.
    #[must_use]
    pub fn list(&self) -> Vec<PeerInfo> {
        let clients = self.clients.borrow();
        clients.iter().map(|(name, c)| PeerInfo { name: name.clone(), url: c.url().to_owned() }).collect()
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
        assert!(refusal.message.ends_with(peers.remedy()) && peers.remedy().contains("[peers]"), "{refusal}");
    }

    #[test]
    fn whoever_watches_hears_of_a_worker_that_is_new_and_of_nothing_that_is_not() {
        let at = |name: &str, port| {
            (name.parse().unwrap(), Client::new(&format!("http://127.0.0.1:{port}")).unwrap())
        };
        let peers = Peers::of_cluster(BTreeMap::from([at("w2", 1)]));
        let mut watch = peers.watch();
        peers.replace(BTreeMap::from([at("w2", 1)]));
        assert!(!watch.has_changed().unwrap());
        peers.replace(BTreeMap::from([at("w2", 1), at("w3", 1)]));
        assert_eq!(watch.borrow_and_update().len(), 2);
        peers.replace(BTreeMap::from([at("w3", 2)]));
        assert!(watch.has_changed().unwrap());
        assert_eq!(peers.list()[0].url, "http://127.0.0.1:2");
        assert!(peers.client(&"w2".parse().unwrap()).unwrap_err().message.contains("cluster status"));
    }
}
