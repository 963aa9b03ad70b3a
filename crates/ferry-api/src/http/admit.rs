//! Who a caller is, and whether it may make a call. Nothing of a call is looked at before.

use super::router::refused;
use crate::{ApiError, Caller, ErrorCode, Gate, Presented, Role};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;
use std::net::IpAddr;
use std::sync::Arc;

/// What a call asks of its caller. It stands beside the path of every call, in the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// Nothing: the call carries its own proof.
    Nothing,
    /// That it may look. Workers may, too.
    View,
    /// That it may run what is there.
    Operate,
    /// That it may decide what is there.
    Admin,
    /// That it is a worker of the cluster.
    Worker,
    /// That it is a worker, or may run what is there.
    WorkerOrOperate,
    /// That it is a worker, or may decide what is there.
    WorkerOrAdmin,
}

impl Asks {
    /// The least role of those that may; none if no role is enough.
    fn role(self) -> Option<Role> {
        match self {
            Self::Nothing | Self::View => Some(Role::View),
            Self::Operate | Self::WorkerOrOperate => Some(Role::Operate),
            Self::Admin | Self::WorkerOrAdmin => Some(Role::Admin),
            Self::Worker => None,
        }
    }

    /// Refuses a caller who may not.
    pub(super) fn of(self, caller: &Caller) -> Result<(), ApiError> {
        let may = |role: Role| self.role().is_some_and(|least| role >= least);
        let allowed = match caller {
            Caller::Anybody => true,
            Caller::Local => may(Role::Admin),
            Caller::Token { role, .. } => may(*role),
            Caller::Worker(_) => match self {
                Self::Nothing | Self::View | Self::Worker | Self::WorkerOrOperate | Self::WorkerOrAdmin => {
                    true
                }
                Self::Operate | Self::Admin => false,
            },
        };
        match (allowed, self.role()) {
            (true, _) => Ok(()),
            (false, None) => Err(forbidden(format!(
                "{caller} may not ask for this, which workers ask of each other; have a worker do it"
            ))),
            (false, Some(least)) => {
                Err(forbidden(format!("{caller} may not ask for this; ask with a token of the role {least}")))
            }
        }
    }
}

fn forbidden(message: String) -> ApiError {
    ApiError::new(ErrorCode::Forbidden, message)
}

/// Where a caller over a network calls from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerAddress(pub IpAddr);

/// Which way a request came in, and what its connection was made with.
#[derive(Clone)]
pub enum Presence {
    Anybody,
    Local,
    Remote(Arc<Remote>),
}

pub struct Remote {
    pub gate: Arc<dyn Gate>,
    pub certificate: Option<Vec<u8>>,
}

/// Lets a call through whose caller may make it, and notes who that is.
pub async fn admit(asks: Asks, mut request: Request, next: Next) -> Response {
    match (caller(&request), asks) {
        (Err(_), Asks::Nothing) => next.run(request).await,
        (Err(refusal), _) => refused(refusal),
        (Ok(caller), asks) => match asks.of(&caller) {
            Ok(()) => {
                request.extensions_mut().insert(caller);
                next.run(request).await
            }
            Err(refusal) => refused(refusal),
        },
    }
}

/// Who makes a call.
pub fn caller(request: &Request) -> Result<Caller, ApiError> {
    match request.extensions().get() {
        Some(Presence::Anybody) => Ok(Caller::Anybody),
        Some(Presence::Local) => Ok(Caller::Local),
        Some(Presence::Remote(remote)) => match (bearer(request.headers())?, &remote.certificate) {
            (Some(token), _) => remote.gate.admit(Presented::Token(token)),
            (None, Some(certificate)) => remote.gate.admit(Presented::Certificate(certificate)),
            (None, None) => Err(unknown("this agent answers only whom it knows; show a token (FERRY_TOKEN)")),
        },
        None => Err(unknown("it is not known which way this call came in; call through an entrance")),
    }
}

/// The token that a request bears.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|text| text.split_once(' '));
    match token {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        Some(_) | None => Err(unknown("an agent takes tokens only; send 'Authorization: Bearer TOKEN'")),
    }
}

fn unknown(message: &str) -> ApiError {
    ApiError::new(ErrorCode::Unauthenticated, message)
}
