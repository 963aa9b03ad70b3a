//! The router: one path for each call of [`AgentApi`].

use super::admit::{Asks, caller};
use super::table::{Routes, Table};
use crate::{
    AbandonSource, Activate, AgentApi, ApiError, AskApiToken, AskCordon, AskDepartures, AskDrain, AskGarbage,
    AskJobs, AskJoinToken, AskLease, AskLog, AskMappings, AskNeed, AskRebalance, AskRoot, AskTestimony,
    AskWorker, AttachVolume, Caller, CancelMove, ChangeSources, CreateMachine, DestroyMachine, DetachVolume,
    EndLease, ErrorCode, EventsAfter, Expect, ForkVolume, Generation, GrowVolume, Hold, ImportVolume, JobId,
    Join, Membership, OnSourceLoss, PaceFrom, PaceVolume, PaceWorker, PauseDrain, Precopy, Prepare, Renew,
    Reserve, Revoke, ShutDownWorker, StartDrain, StartMove, StartMoves, StartRebalance, UndoMove,
    VerifyVolume, VolumeKey, WorkerName,
};
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::str::FromStr;
use std::sync::Arc;

/// What scrapers are told that figures are.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves `api` over HTTP: the table of all calls, and of what each asks of its caller.
pub fn router<A: AgentApi>(api: Arc<A>) -> Router {
    routes(api).router
}

pub(super) fn routes<A: AgentApi>(api: Arc<A>) -> Routes {
    use Asks::{Admin, Operate, View, Worker, WorkerOrAdmin, WorkerOrOperate};
    between_moves(about_many_moves(about_clusters(Table::new())))
        .get("/v1/worker", View, worker::<A>)
        .post("/v1/worker/pace", Operate, worker_pace::<A>)
        .post("/v1/worker/cordon", Operate, worker_cordon::<A>)
        .post("/v1/worker/uncordon", Operate, worker_uncordon::<A>)
        .get("/v1/bid", View, bid::<A>)
        .get("/v1/worker/safe-to-stop", View, worker_safe_to_stop::<A>)
        .post("/v1/worker/shutdown", Admin, worker_shut_down::<A>)
        .get("/v1/metrics", View, metrics::<A>)
        .get("/v1/garbage", View, garbage::<A>)
        .post("/v1/garbage", Admin, garbage_clear::<A>)
        .get("/v1/truth/{of}", View, truth::<A>)
        .get("/v1/directory", View, directory::<A>)
        .get("/v1/services", View, services::<A>)
        .get("/v1/machines", View, machines::<A>)
        .post("/v1/machines", Admin, machine_create::<A>)
        .get("/v1/machines/{machine}", View, machine::<A>)
        .get("/v1/machines/{machine}/placement", View, machine_placement::<A>)
        .get("/v1/machines/{machine}/log", View, machine_log::<A>)
        .post("/v1/machines/{machine}/start", Operate, machine_start::<A>)
        .post("/v1/machines/{machine}/stop", Operate, machine_stop::<A>)
        .post("/v1/machines/{machine}/destroy", Admin, machine_destroy::<A>)
        .get("/v1/volumes", View, volumes::<A>)
        .post("/v1/volumes", WorkerOrAdmin, volume_import::<A>)
        .get("/v1/volumes/{volume}", View, volume::<A>)
        .delete("/v1/volumes/{volume}", Admin, volume_delete::<A>)
        .post("/v1/volumes/{volume}/pace", Operate, volume_pace::<A>)
        .post("/v1/volumes/{volume}/verify", Operate, volume_verify::<A>)
        .post("/v1/volumes/{volume}/fork", Admin, volume_fork::<A>)
        .post("/v1/volumes/{volume}/grow", Operate, volume_grow::<A>)
        .post("/v1/volumes/{volume}/attach", Operate, volume_attach::<A>)
        .post("/v1/volumes/{volume}/detach", Operate, volume_detach::<A>)
        .post("/v1/volumes/{volume}/on-source-loss", Operate, volume_on_source_loss::<A>)
        .post("/v1/volumes/{volume}/sources", Admin, volume_change_sources::<A>)
        .post("/v1/volumes/{volume}/abandon-source", Admin, volume_abandon_source::<A>)
        .post("/v1/moves", Operate, move_start::<A>)
        .post("/v1/moves/plan", View, move_plan::<A>)
        .post("/v1/moves/several", Operate, moves_start::<A>)
        .post("/v1/moves/undo", Operate, move_undo::<A>)
        .post("/v1/moves/cancel", Operate, move_cancel::<A>)
        .get("/v1/jobs", View, jobs::<A>)
        .get("/v1/jobs/{job}", View, job::<A>)
        .get("/v1/jobs/{job}/events", View, job_events::<A>)
        .get("/v1/jobs/{job}/journal", View, job_journal::<A>)
        .post("/v1/jobs/{job}/cancel", Operate, job_cancel::<A>)
        .post("/v1/jobs/{job}/resume", Operate, job_resume::<A>)
        .post("/v1/peer/hold", Worker, peer_hold::<A>)
        .post("/v1/peer/reserve", Worker, peer_reserve::<A>)
        .post("/v1/peer/prepare", Worker, peer_prepare::<A>)
        .post("/v1/peer/precopy", Worker, peer_precopy::<A>)
        .post("/v1/peer/expect", Worker, peer_expect::<A>)
        .post("/v1/peer/activate", Worker, peer_activate::<A>)
        .get("/v1/peer/crossings/{job}", Worker, peer_crossing::<A>)
        .post("/v1/peer/crossings/{job}/boot", Worker, peer_boot::<A>)
        .post("/v1/peer/crossings/{job}/forsake", Worker, peer_forsake::<A>)
        .post("/v1/peer/crossings/{job}/settle", Worker, peer_settle::<A>)
        .post("/v1/peer/crossings/{job}/release", Worker, peer_release::<A>)
        .get("/v1/peer/digest", Worker, peer_digest::<A>)
        .get("/v1/peer/mappings", Worker, peer_mappings::<A>)
        .post("/v1/peer/testimony", Worker, peer_testimony::<A>)
        .get("/v1/peer/exports/{volume}/{generation}", Worker, peer_export::<A>)
        .post("/v1/peer/roots/{volume}/{generation}", WorkerOrOperate, peer_root::<A>)
        .over(api)
}

/// What workers say to each other of moves that are not between the two of them.
fn between_moves<A: AgentApi>(table: Table<A>) -> Table<A> {
    use Asks::Worker;
    table
        .post("/v1/peer/pace", Worker, peer_pace::<A>)
        .post("/v1/peer/leases", Worker, peer_lease::<A>)
        .post("/v1/peer/leases/end", Worker, peer_lease_end::<A>)
        .post("/v1/peer/leases/need", Worker, peer_lease_need::<A>)
}

/// The calls that move many machines: what would be done, and doing it.
fn about_many_moves<A: AgentApi>(table: Table<A>) -> Table<A> {
    use Asks::{Operate, View};
    table
        .post("/v1/drain", Operate, drain_start::<A>)
        .post("/v1/drain/plan", View, drain_plan::<A>)
        .post("/v1/drain/pause", Operate, drain_pause::<A>)
        .post("/v1/drain/cancel", Operate, drain_cancel::<A>)
        .post("/v1/departures", View, departures::<A>)
        .post("/v1/rebalance", Operate, rebalance_start::<A>)
        .post("/v1/rebalance/plan", View, rebalance_plan::<A>)
}

/// The calls about the cluster that the worker belongs to.
fn about_clusters<A: AgentApi>(table: Table<A>) -> Table<A> {
    use Asks::{Admin, Nothing, View, Worker};
    table
        .get("/v1/cluster", View, cluster::<A>)
        .post("/v1/cluster/token", Admin, cluster_token::<A>)
        .post("/v1/cluster/api-token", Admin, cluster_api_token::<A>)
        .post("/v1/cluster/revoke", Admin, cluster_revoke::<A>)
        // These carry their proof: the secret of a token, the signature of a key that the roster has.
        .post("/v1/cluster/join", Nothing, cluster_join::<A>)
        .post("/v1/cluster/renew", Nothing, cluster_renew::<A>)
        .post("/v1/peer/membership", Worker, peer_membership::<A>)
}

/// Runs a call that changes something to its end, also when the caller goes away before: what it began must not
/// stay halfway, like a job that is durable and that nobody runs.
pub(super) async fn to_its_end(request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    match tokio::spawn(next.run(request)).await {
        Ok(response) => response,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// What a handler answers.
pub(super) struct Reply(Result<Response, ApiError>);

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        match self.0 {
            Ok(response) => response,
            Err(error) => {
                let status = StatusCode::from_u16(error.code.http_status());
                json(status.expect("codes map to HTTP statuses"), &error)
            }
        }
    }
}

/// The answer to a call that is refused.
pub fn refused(refusal: ApiError) -> Response {
    Reply(Err(refusal)).into_response()
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("answers are plain data and always encode");
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn reply<T: Serialize>(answer: Result<T, ApiError>) -> Reply {
    Reply(answer.map(|value| json(StatusCode::OK, &value)))
}

/// Reads a JSON body; an empty one is `{}`.
fn body<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, ApiError> {
    let bytes = if bytes.is_empty() { b"{}" } else { &bytes[..] };
    serde_json::from_slice(bytes)
        .map_err(|e| ApiError::new(ErrorCode::InvalidRequest, format!("the request is not understood: {e}")))
}

/// Reads a part of the path.
fn part<T: FromStr<Err: std::error::Error>>(text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|e| ApiError::because(ErrorCode::InvalidRequest, &e))
}

/// Reads what follows the path.
fn query<T>(asked: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    asked.map(|Query(asked)| asked).map_err(|e| ApiError::new(ErrorCode::InvalidRequest, e.body_text()))
}

/// Gives a handler without a body: the part of the path is parsed and handed to the call.
macro_rules! by_path {
    ($handler:ident) => {
        async fn $handler<A: AgentApi>(State(api): State<Arc<A>>, Path(text): Path<String>) -> Reply {
            match part(&text) {
                Ok(what) => reply(api.$handler(what).await),
                Err(e) => Reply(Err(e)),
            }
        }
    };
    (&$handler:ident) => {
        async fn $handler<A: AgentApi>(State(api): State<Arc<A>>, Path(text): Path<String>) -> Reply {
            match part(&text) {
                Ok(what) => reply(api.$handler(&what).await),
                Err(e) => Reply(Err(e)),
            }
        }
    };
}

/// Gives a handler whose body is handed to the call.
macro_rules! by_body {
    ($handler:ident, $body:ty) => {
        async fn $handler<A: AgentApi>(State(api): State<Arc<A>>, bytes: Bytes) -> Reply {
            match body::<$body>(&bytes) {
                Ok(what) => reply(api.$handler(what).await),
                Err(e) => Reply(Err(e)),
            }
        }
    };
}

/// Gives a handler whose input is the query.
macro_rules! by_query {
    ($handler:ident, $query:ty) => {
        async fn $handler<A: AgentApi>(
            State(api): State<Arc<A>>,
            asked: Result<Query<$query>, QueryRejection>,
        ) -> Reply {
            match query(asked) {
                Ok(asked) => reply(api.$handler(asked).await),
                Err(e) => Reply(Err(e)),
            }
        }
    };
}

/// Gives a handler without input.
macro_rules! plain {
    ($handler:ident) => {
        async fn $handler<A: AgentApi>(State(api): State<Arc<A>>) -> Reply {
            reply(api.$handler().await)
        }
    };
}

/// Gives a handler for what the worker that leads a move asks of its target: which job it is about, and what is asked.
macro_rules! for_a_move {
    ($handler:ident) => {
        async fn $handler<A: AgentApi>(
            State(api): State<Arc<A>>,
            Extension(caller): Extension<Caller>,
            Path(text): Path<String>,
        ) -> Reply {
            let of_its_own = async {
                let job = part(&text)?;
                leads(&*api, &caller, job, None).await?;
                api.$handler(job).await
            };
            reply(of_its_own.await)
        }
    };
    ($handler:ident, $body:ty, $about:expr) => {
        async fn $handler<A: AgentApi>(
            State(api): State<Arc<A>>,
            Extension(caller): Extension<Caller>,
            bytes: Bytes,
        ) -> Reply {
            let of_its_own = async {
                let asked = body::<$body>(&bytes)?;
                let about: fn(&$body) -> (JobId, Option<&WorkerName>) = $about;
                let (job, from) = about(&asked);
                leads(&*api, &caller, job, from).await?;
                api.$handler(asked).await
            };
            reply(of_its_own.await)
        }
    };
}

/// Refuses a worker what only the one that leads the move may ask; `from` is the one that the call itself names.
async fn leads<A: AgentApi>(
    api: &A,
    caller: &Caller,
    job: JobId,
    from: Option<&WorkerName>,
) -> Result<(), ApiError> {
    let Caller::Worker(name) = caller else { return Ok(()) };
    let known = api.peer_leads(job).await?;
    match known.as_ref().into_iter().chain(from).find(|leader| *leader != name) {
        None => Ok(()),
        Some(leader) => {
            let message = format!("move {job} is led by worker {leader}, not by {name}; have that one ask");
            Err(ApiError::new(ErrorCode::Forbidden, message))
        }
    }
}

plain!(worker_uncordon);
plain!(bid);
plain!(cluster);
plain!(drain_cancel);
plain!(worker_safe_to_stop);
plain!(machines);
plain!(services);
plain!(directory);
plain!(peer_digest);
plain!(volumes);
by_path!(&truth);
by_path!(&machine);
by_path!(&machine_placement);
by_path!(&machine_start);
by_path!(&machine_stop);
by_path!(&volume);
by_path!(&volume_delete);
by_path!(job);
by_path!(job_journal);
by_path!(job_cancel);
by_path!(job_resume);
by_body!(worker_cordon, AskCordon);
by_body!(drain_plan, AskDrain);
by_body!(drain_start, StartDrain);
by_body!(drain_pause, PauseDrain);
by_body!(departures, AskDepartures);
by_body!(rebalance_plan, AskRebalance);
by_body!(rebalance_start, StartRebalance);
by_body!(worker_shut_down, ShutDownWorker);
by_query!(jobs, AskJobs);
by_query!(garbage, AskGarbage);
by_body!(garbage_clear, AskGarbage);
by_body!(machine_create, CreateMachine);
by_body!(move_start, StartMove);
by_body!(move_plan, StartMove);
by_body!(moves_start, StartMoves);
by_body!(move_undo, UndoMove);
by_body!(move_cancel, CancelMove);
by_body!(cluster_token, AskJoinToken);
by_body!(cluster_api_token, AskApiToken);
by_body!(cluster_revoke, Revoke);
by_body!(cluster_join, Join);
by_body!(cluster_renew, Renew);
by_body!(peer_membership, Membership);
by_body!(peer_testimony, AskTestimony);
for_a_move!(peer_crossing);
for_a_move!(peer_boot);
for_a_move!(peer_forsake);
for_a_move!(peer_settle);
for_a_move!(peer_release);
for_a_move!(peer_hold, Hold, |hold| (hold.reserve.job, Some(&hold.reserve.from)));
for_a_move!(peer_reserve, Reserve, |reserve| (reserve.job, Some(&reserve.from)));
for_a_move!(peer_prepare, Prepare, |prepare| (prepare.job, None));
for_a_move!(peer_precopy, Precopy, |precopy| (precopy.job, None));
for_a_move!(peer_expect, Expect, |expect| (expect.job, None));
for_a_move!(peer_activate, Activate, |activate| (activate.job, None));
for_a_move!(peer_lease, AskLease, |ask| (ask.lease.job, Some(&ask.lease.from)));
by_body!(peer_lease_end, EndLease);
by_body!(peer_lease_need, AskNeed);

async fn machine_destroy<A: AgentApi>(
    State(api): State<Arc<A>>,
    Path(text): Path<String>,
    bytes: Bytes,
) -> Reply {
    match part(&text).and_then(|machine| Ok((machine, body::<DestroyMachine>(&bytes)?))) {
        Ok((machine, destroy)) => reply(api.machine_destroy(&machine, destroy).await),
        Err(e) => Reply(Err(e)),
    }
}

async fn volume_import<A: AgentApi>(
    State(api): State<Arc<A>>,
    Extension(caller): Extension<Caller>,
    bytes: Bytes,
) -> Reply {
    match body::<ImportVolume>(&bytes).and_then(|import| only_its_own(&caller, import)) {
        Ok(import) => reply(api.volume_import(import).await),
        Err(e) => Reply(Err(e)),
    }
}

/// A worker has another one make a fork of what it serves itself, and nothing of that one's files or sockets.
fn only_its_own(caller: &Caller, import: ImportVolume) -> Result<ImportVolume, ApiError> {
    let over_network = ["nbd://", "nbds://"].iter().any(|scheme| import.source.starts_with(scheme));
    match caller {
        Caller::Worker(_) if !over_network || import.store.is_some() => {
            let message =
                format!("{caller} may have a volume made of what it serves only; import here as admin");
            Err(ApiError::new(ErrorCode::Forbidden, message))
        }
        Caller::Worker(_) | Caller::Anybody | Caller::Local | Caller::Token { .. } => Ok(import),
    }
}

async fn peer_pace<A: AgentApi>(
    State(api): State<Arc<A>>,
    Extension(caller): Extension<Caller>,
    bytes: Bytes,
) -> Reply {
    let of_its_own = async {
        let pace: PaceFrom = body(&bytes)?;
        if let Caller::Worker(name) = &caller
            && *name != pace.from
        {
            let from = pace.from;
            let message =
                format!("worker {name} may not say at what pace worker {from} is read; have that one ask");
            return Err(ApiError::new(ErrorCode::Forbidden, message));
        }
        api.peer_pace(pace).await
    };
    reply(of_its_own.await)
}

async fn worker<A: AgentApi>(
    State(api): State<Arc<A>>,
    asked: Result<Query<AskWorker>, QueryRejection>,
) -> Reply {
    match query(asked) {
        Ok(AskWorker { driver: None }) => reply(api.worker().await),
        Ok(AskWorker { driver: Some(driver) }) => reply(api.worker_for(driver).await),
        Err(e) => Reply(Err(e)),
    }
}

async fn worker_pace<A: AgentApi>(State(api): State<Arc<A>>, bytes: Bytes) -> Reply {
    match body::<PaceWorker>(&bytes) {
        Ok(pace) => reply(api.worker_pace(pace).await),
        Err(e) => Reply(Err(e)),
    }
}

async fn volume_pace<A: AgentApi>(
    State(api): State<Arc<A>>,
    Path(text): Path<String>,
    bytes: Bytes,
) -> Reply {
    match part(&text).and_then(|volume| Ok((volume, body::<PaceVolume>(&bytes)?))) {
        Ok((volume, pace)) => reply(api.volume_pace(&volume, pace).await),
        Err(e) => Reply(Err(e)),
    }
}

async fn volume_fork<A: AgentApi>(
    State(api): State<Arc<A>>,
    Path(text): Path<String>,
    bytes: Bytes,
) -> Reply {
    match part(&text).and_then(|volume| Ok((volume, body::<ForkVolume>(&bytes)?))) {
        Ok((volume, fork)) => reply(api.volume_fork(&volume, fork).await),
        Err(e) => Reply(Err(e)),
    }
}

async fn volume_grow<A: AgentApi>(
    State(api): State<Arc<A>>,
    Path(text): Path<String>,
    bytes: Bytes,
) -> Reply {
    match part(&text).and_then(|volume| Ok((volume, body::<GrowVolume>(&bytes)?))) {
        Ok((volume, grow)) => reply(api.volume_grow(&volume, grow).await),
        Err(e) => Reply(Err(e)),
    }
}

async fn metrics<A: AgentApi>(State(api): State<Arc<A>>) -> Reply {
    let text = |page: String| ([(header::CONTENT_TYPE, OPENMETRICS)], page).into_response();
    Reply(api.metrics().await.map(text))
}

async fn volume_attach<A: AgentApi>(
    State(api): State<Arc<A>>,
    Path(text): Path<String>,
    bytes: Bytes,
) -> Reply {
    match part(&text).and_then(|volume| Ok((volume, body::<AttachVolume>(&bytes)?))) {
        Ok((volume, attach)) => reply(api.volume_attach(&volume, attach).await),
        Err(e) => Reply(Err(e)),
    }
}

async fn volume_detach<A: AgentApi>(
    State(api): State<Arc<A>>,
    Path(text): Path<String>,
    bytes: Bytes,
) -> Reply {
    match part(&text).and_then(|volume| Ok((volume, body::<DetachVolume>(&bytes)?))) {
        Ok((volume, detach)) => reply(api.volume_detach(&volume, detach).await),
        Err(e) => Reply(Err(e)),
    }
}

async fn volume_on_source_loss<A: AgentApi>(
    State(api): State<Arc<A>>,
    Path(text): Path<String>,
    bytes: Bytes,
) -> Reply {
    match part(&text).and_then(|volume| Ok((volume, body::<OnSourceLoss>(&bytes)?))) {
        Ok((volume, wish)) => reply(api.volume_on_source_loss(&volume, wish).await),
        Err(e) => Reply(Err(e)),
    }
}

async fn volume_change_sources<A: AgentApi>(
    State(api): State<Arc<A>>,
    Path(text): Path<String>,
    bytes: Bytes,
) -> Reply {
    match part(&text).and_then(|volume| Ok((volume, body::<ChangeSources>(&bytes)?))) {
        Ok((volume, change)) => reply(api.volume_change_sources(&volume, change).await),
        Err(e) => Reply(Err(e)),
    }
}

async fn volume_abandon_source<A: AgentApi>(
    State(api): State<Arc<A>>,
    Path(text): Path<String>,
    bytes: Bytes,
) -> Reply {
    match part(&text).and_then(|volume| Ok((volume, body::<AbandonSource>(&bytes)?))) {
        Ok((volume, abandon)) => reply(api.volume_abandon_source(&volume, abandon).await),
        Err(e) => Reply(Err(e)),
    }
}

async fn volume_verify<A: AgentApi>(
    State(api): State<Arc<A>>,
    Path(text): Path<String>,
    bytes: Bytes,
) -> Reply {
    match part(&text).and_then(|volume| Ok((volume, body::<VerifyVolume>(&bytes)?))) {
        Ok((volume, verify)) => reply(api.volume_verify(&volume, verify).await),
        Err(e) => Reply(Err(e)),
    }
}

async fn machine_log<A: AgentApi>(
    State(api): State<Arc<A>>,
    Path(text): Path<String>,
    asked: Result<Query<AskLog>, QueryRejection>,
) -> Reply {
    match part(&text).and_then(|machine| Ok((machine, query(asked)?))) {
        Ok((machine, mut ask)) => {
            ask.wait_ms = ask.wait_ms.min(EventsAfter::WAIT_MS_MAX);
            reply(api.machine_log(&machine, ask).await)
        }
        Err(e) => Reply(Err(e)),
    }
}

async fn peer_mappings<A: AgentApi>(
    State(api): State<Arc<A>>,
    asked: Result<Query<AskMappings>, QueryRejection>,
) -> Reply {
    match query(asked) {
        Ok(mut asked) => {
            asked.wait_ms = asked.wait_ms.min(AskMappings::WAIT_MS_MAX);
            reply(api.peer_mappings(asked).await)
        }
        Err(e) => Reply(Err(e)),
    }
}

async fn job_events<A: AgentApi>(
    State(api): State<Arc<A>>,
    Path(text): Path<String>,
    Query(mut events): Query<EventsAfter>,
) -> Reply {
    events.wait_ms = events.wait_ms.min(EventsAfter::WAIT_MS_MAX);
    match part(&text) {
        Ok(job) => reply(api.job_events(job, events).await),
        Err(e) => Reply(Err(e)),
    }
}

async fn peer_export<A: AgentApi>(
    State(api): State<Arc<A>>,
    Extension(caller): Extension<Caller>,
    Path(copy): Path<(String, String)>,
) -> Reply {
    match key(&copy) {
        Ok(copy) => reply(api.peer_export(copy, worker_of(caller)).await),
        Err(e) => Reply(Err(e)),
    }
}

async fn peer_root<A: AgentApi>(
    State(api): State<Arc<A>>,
    Path(copy): Path<(String, String)>,
    bytes: Bytes,
) -> Reply {
    match key(&copy).and_then(|copy| Ok((copy, body::<AskRoot>(&bytes)?))) {
        Ok((copy, of)) => reply(api.peer_root(copy, of).await),
        Err(e) => Reply(Err(e)),
    }
}

/// Which worker calls, if one does.
fn worker_of(caller: Caller) -> Option<WorkerName> {
    match caller {
        Caller::Worker(name) => Some(name),
        Caller::Anybody | Caller::Local | Caller::Token { .. } => None,
    }
}

/// A copy as a path names it: volume and generation.
fn key((volume, generation): &(String, String)) -> Result<VolumeKey, ApiError> {
    Ok(VolumeKey { id: part(volume)?, generation: Generation(part(generation)?) })
}

pub(super) async fn no_such_call(request: Request) -> Reply {
    // Not even that is told to whoever is not known.
    if let Err(refusal) = caller(&request).and_then(|caller| Asks::View.of(&caller)) {
        return Reply(Err(refusal));
    }
    let path = request.uri().path();
    let message = format!("there is no call {path} with this method; the caller may be of another version");
    Reply(Err(ApiError::new(ErrorCode::NotFound, message)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::handler::Handler;
    use axum::http::Method;
    use axum::middleware::from_fn;
    use tokio::sync::{Notify, mpsc};

    #[tokio::test]
    async fn what_was_asked_is_done_also_when_the_caller_goes_away() {
        let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (done, mut is_done) = mpsc::channel(1);
        let handler = {
            let (begun, go) = (begun.clone(), go.clone());
            move || async move {
                begun.notify_one();
                go.notified().await;
                done.send(()).await.unwrap();
            }
        };
        let request = Request::builder().method(Method::POST).body(Body::empty()).unwrap();
        let call = Handler::call(handler.layer(from_fn(to_its_end)), request, ());
        tokio::select! {
            _ = call => panic!("it waits"),
            () = begun.notified() => {}
        }
        go.notify_one();
        assert_eq!(is_done.recv().await, Some(()), "it was dropped on the way");
    }
}
