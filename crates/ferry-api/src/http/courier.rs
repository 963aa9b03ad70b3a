//! Calls that go some other way than over HTTP.

use super::admit::Presence;
use axum::Router;
use axum::body::{Body, to_bytes};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use tower_service::Service;

/// One call as it goes over a wire.
#[derive(Clone, Debug)]
pub struct Call {
    /// `GET`, `POST` or `DELETE`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// JSON, or nothing.
    pub body: Vec<u8>,
}

impl Call {
    /// Has a router answer it, without any wire: status and body.
    ///
    /// # Panics
    /// The call is none that a [`Client`] makes.
    pub async fn answered_by(self, mut router: Router) -> (u16, Vec<u8>) {
        let request = axum::http::Request::builder().method(self.method.as_str()).uri(&self.path);
        let request = request.extension(Presence::Anybody);
        let request = request.body(Body::from(self.body)).expect("a client makes whole requests");
        let Ok(response) = router.call(request).await;
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), usize::MAX).await.expect("the answer lies in memory");
        (status, body.to_vec())
    }
}

/// An answer on its way: status and body, or why there is none.
pub type Carried<'a> = Pin<Box<dyn Future<Output = Result<(u16, Vec<u8>), String>> + Send + 'a>>;

/// Carries calls some other way than over HTTP.
pub trait Courier: Send + Sync + fmt::Debug {
    /// Takes a call to the agent and brings its answer.
    fn carry(&self, call: Call) -> Carried<'_>;
}
