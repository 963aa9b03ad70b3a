//! What a worker does for its part in the cluster as time goes by: it tells the others what it knows and hears what they do,
//! and renews its certificate.

use super::Cluster;
use crate::host::now_ms;
use ferry_api::http::{Client, ClientTls};
use ferry_api::{AgentApi, ApiError, ErrorCode, Membership, Renew, WorkerName};
use ferry_cluster::{WorkerEntry, WorkerKey, renew_at_ms};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Pause between two rounds if there is no news.
const PAUSE: Duration = Duration::from_secs(60);
/// How many others are told in a round, so that what that costs does not grow with the cluster.
const TOLD_AT_ONCE: usize = 8;
/// How long one of the others may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// By how much clocks may differ before that is told, in milliseconds.
const SKEW_TOLD_MS: u64 = 60 * 1000;
/// About what a trouble with the own certificate is.
const CERTIFICATE: &str = "certificate";

impl Cluster {
    /// Keeps what this worker has of the cluster as new as what others have, for ever.
    pub(crate) async fn keep_up(self) {
        let mut news = self.0.news.subscribe();
        for round in 0_usize.. {
            let is_news = news.has_changed().unwrap_or(false);
            news.mark_unchanged();
            self.renew_if_due().await;
            // The keeper knows what nobody else does; from the others it goes on from one to a few.
            let keeps = self.held().papers.roster.keeper == self.0.me;
            let told = if keeps && is_news { self.all() } else { self.some(round) };
            self.tell(told).await;
            // The sender is this.
            let _ = timeout(PAUSE, news.changed()).await;
        }
    }

    fn all(&self) -> Vec<(WorkerName, Client)> {
        self.0.peers.watch().borrow().iter().map(|(name, client)| (name.clone(), client.clone())).collect()
    }

    /// The keeper, and a few others, in each round other ones.
    fn some(&self, round: usize) -> Vec<(WorkerName, Client)> {
        let (keeper, mut all) = (self.held().papers.roster.keeper.clone(), self.all());
        if all.len() > TOLD_AT_ONCE {
            let at = round * TOLD_AT_ONCE % all.len();
            all.rotate_left(at);
            if let Some(keeper) = all.iter().position(|(name, _)| *name == keeper) {
                all.swap(0, keeper);
            }
            all.truncate(TOLD_AT_ONCE);
        }
        all
    }

    /// Tells all other members, and one that has just been revoked. Gives those that cannot be reached.
    pub(super) async fn tell_all(&self, revoked: Option<WorkerEntry>) -> Vec<WorkerName> {
        let telling = self.tell(self.all());
        match revoked {
            Some(entry) => tokio::join!(telling, self.tell_revoked(&entry)).0,
            None => telling.await,
        }
    }

    /// Tells members what this one knows, and hears what they do. Gives those that cannot be reached.
    async fn tell(&self, members: Vec<(WorkerName, Client)>) -> Vec<WorkerName> {
        let mut telling = JoinSet::new();
        for (name, client) in members {
            let (this, told) = (self.clone(), self.told());
            telling.spawn(async move {
                let done = this.swap(&name, &client, told).await;
                this.note(name.as_str(), done.as_ref().err());
                done.is_err().then_some(name)
            });
        }
        let mut unreached: Vec<_> = telling.join_all().await.into_iter().flatten().collect();
        unreached.sort();
        unreached
    }

    async fn swap(&self, name: &WorkerName, client: &Client, told: Membership) -> Result<(), ApiError> {
        let heard = timeout(ANSWER_TIMEOUT, client.peer_membership(told)).await;
        let heard = heard.map_err(|_| {
            ApiError::new(ErrorCode::Unreachable, format!("worker {name} does not answer; look at its agent"))
        })??;
        let skew_ms = heard.now_ms.abs_diff(now_ms());
        let is_off = heard.now_ms != 0 && skew_ms > SKEW_TOLD_MS;
        let off = is_off.then(|| {
            let message =
                format!("the clocks of {name} and of this worker differ by {} s; set them", skew_ms / 1000);
            ApiError::new(ErrorCode::Conflict, message)
        });
        self.note(&format!("clock of {name}"), off.as_ref());
        self.take(Some(name.clone()), heard).await
    }

    /// Tells a worker that it belongs to the cluster no longer, and nothing else.
    async fn tell_revoked(&self, entry: &WorkerEntry) {
        let client = self.client(&self.held().papers, &entry.name, &entry.url, true);
        let told = Membership { gossip_keys: Vec::new(), ..self.told() };
        if let Ok(client) = client {
            // It may well be gone.
            let _ = timeout(ANSWER_TIMEOUT, client.peer_membership(told)).await;
        }
    }

    /// Gets a new certificate once two thirds of the time of this one have passed.
    async fn renew_if_due(&self) {
        let due_ms = {
            let identity = &self.held().papers.identity;
            renew_at_ms(identity.from_ms, identity.until_ms)
        };
        if now_ms() < due_ms {
            self.note(CERTIFICATE, None);
            return;
        }
        let renewed = self.renew_own().await;
        match &renewed {
            Ok(()) => {
                tracing::info!("the worker's certificate was renewed");
                // Connections that were made with the former one would still show it.
                self.all().iter().filter_map(|(_, client)| client.tls()).for_each(ClientTls::renewed);
            }
            Err(error) => tracing::warn!(%error, "the worker's certificate cannot be renewed"),
        }
        self.note(CERTIFICATE, renewed.as_ref().err());
    }

    async fn renew_own(&self) -> Result<(), ApiError> {
        let internal = |error: &dyn std::error::Error| ApiError::because(ErrorCode::Internal, error);
        let (_, key) = self.0.home.certificate_and_key().map_err(|error| internal(&error))?;
        let request = WorkerKey::from_pem(&key).and_then(|key| key.request());
        let request = request.map_err(|error| internal(&error))?;
        let renew = Renew { worker: self.0.me.clone(), request };
        let keeper = {
            let papers = &self.held().papers;
            let keeper = papers.roster.member(&papers.roster.keeper).cloned();
            // Without its certificate, which may have expired: the request proves who asks.
            keeper.filter(|keeper| keeper.name != self.0.me).map(|keeper| {
                self.client(papers, &keeper.name, &keeper.url, false).map_err(|error| internal(&error))
            })
        };
        let renewed = match keeper.transpose()? {
            Some(keeper) => keeper.cluster_renew(renew).await?,
            None => self.renew(renew).await?,
        };
        let badge = self.0.badge.clone();
        let kept = self.with(move |held, _| {
            held.papers.keep_certificate(&renewed.certificate).map_err(|e| internal(&e))?;
            badge.replace(&renewed.certificate, &key).map_err(|e| internal(&e))
        });
        kept.await
    }

    fn note(&self, about: &str, trouble: Option<&ApiError>) {
        let troubles = &mut self.held().troubles;
        match trouble {
            Some(trouble) => troubles.insert(about.to_owned(), trouble.message.clone()),
            None => troubles.remove(about),
        };
    }
}
