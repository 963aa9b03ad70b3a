//! How the table of calls is put together.

use super::admit::{Asks, admit};
use super::router::{no_such_call, to_its_end};
use crate::AgentApi;
use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::from_fn;
use axum::routing::{MethodRouter, delete, get, post};
use std::sync::Arc;

/// Calls while they are put together. There is no way to add one without saying what it asks of its caller.
pub struct Table<A> {
    router: Router<Arc<A>>,
    asked: Vec<(Method, &'static str, Asks)>,
}

/// All calls.
pub struct Routes {
    pub router: Router,
    /// What each asks of its caller, for the test that makes them all.
    #[cfg_attr(not(test), expect(dead_code, reason = "the router has it, too, where nothing can be read"))]
    pub asked: Vec<(Method, &'static str, Asks)>,
}

impl<A: AgentApi> Table<A> {
    pub fn new() -> Self {
        Self { router: Router::new(), asked: Vec::new() }
    }

    pub fn get<T: 'static>(self, path: &'static str, asks: Asks, handler: impl Handler<T, Arc<A>>) -> Self {
        self.add(Method::GET, path, asks, get(handler))
    }

    pub fn post<T: 'static>(self, path: &'static str, asks: Asks, handler: impl Handler<T, Arc<A>>) -> Self {
        self.add(Method::POST, path, asks, post(handler))
    }

    pub fn delete<T: 'static>(
        self,
        path: &'static str,
        asks: Asks,
        handler: impl Handler<T, Arc<A>>,
    ) -> Self {
        self.add(Method::DELETE, path, asks, delete(handler))
    }

    fn add(mut self, method: Method, path: &'static str, asks: Asks, handler: MethodRouter<Arc<A>>) -> Self {
        let admitted = handler.route_layer(from_fn(move |request, next| admit(asks, request, next)));
        self.asked.push((method, path, asks));
        Self { router: self.router.route(path, admitted), ..self }
    }

    pub fn over(self, api: Arc<A>) -> Routes {
        let router = self.router.fallback(no_such_call).method_not_allowed_fallback(no_such_call);
        Routes { router: router.layer(from_fn(to_its_end)).with_state(api), asked: self.asked }
    }
}
