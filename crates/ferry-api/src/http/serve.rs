//! Serving the door at its entrances.

use super::entrance::{Arrived, Entrance};
use super::router;
use crate::AgentApi;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tower_service::Service;

/// How long calls that are under way may take to end once the door closes.
const GRACE: Duration = Duration::from_secs(2);
/// How long a caller may take to say what it wants, and how long a connection is kept that nobody uses.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Serves `api` at all `entrances` until `closing` resolves; then takes no new calls and gives those under way a moment.
pub async fn serve<A: AgentApi>(
    entrances: Vec<Entrance>,
    api: Arc<A>,
    closing: impl Future<Output = ()> + Send,
) {
    let router = router(api);
    let (to, mut arriving) = mpsc::channel(1);
    let mut doors = JoinSet::new();
    for entrance in entrances {
        doors.spawn(entrance.let_in(to.clone()));
    }
    let (open, is_open) = watch::channel(());
    let (under_way, mut all_ended) = mpsc::channel::<()>(1);
    let mut closing = pin!(closing);
    loop {
        tokio::select! {
            biased;
            () = &mut closing => break,
            // `to` is held here, so that there is always a next one.
            Some(arrived) = arriving.recv() => {
                let (router, is_open, under_way) = (router.clone(), is_open.clone(), under_way.clone());
                tokio::spawn(async move {
                    converse(arrived, router, is_open).await;
                    drop(under_way);
                });
            }
        }
    }
    doors.shutdown().await;
    drop((open, under_way));
    // Calls that take longer end with the process.
    let _ = tokio::time::timeout(GRACE, all_ended.recv()).await;
}

/// Answers what comes over one connection until it ends, or until the door closes.
async fn converse(arrived: Arrived, router: Router, mut is_open: watch::Receiver<()>) {
    let Arrived { stream, presence, address } = arrived;
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(presence.clone());
        if let Some(address) = address {
            request.extensions_mut().insert(address);
        }
        router.clone().call(request.map(Body::new))
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(SILENCE_MAX);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        // Never changed, only dropped.
        _ = is_open.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection ended early");
    }
}
