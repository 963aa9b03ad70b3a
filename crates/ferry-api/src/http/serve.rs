//! Serving the door on a socket.

use super::router;
use crate::AgentApi;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// How long calls that are under way may take to end once the door closes.
const GRACE: Duration = Duration::from_secs(2);

/// Serves `api` on `listener` until `closing` resolves; then takes no new calls and gives those under way a moment.
///
/// # Errors
/// The listener failed.
pub async fn serve<A: AgentApi>(
    listener: TcpListener,
    api: Arc<A>,
    closing: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (closed, is_closed) = oneshot::channel();
    let closing = async move {
        closing.await;
        // The receiver waits below for as long as anything is served.
        let _ = closed.send(());
    };
    let serving = axum::serve(listener, router(api)).with_graceful_shutdown(closing).into_future();
    tokio::select! {
        served = serving => served,
        () = async { let _ = is_closed.await; tokio::time::sleep(GRACE).await } => Ok(()),
    }
}
