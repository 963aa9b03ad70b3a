//! The client: an agent somewhere else, as an [`AgentApi`].

use super::courier::{Call, Courier};
use super::tls::ClientTls;
use super::wire::{CONNECT_TIMEOUT, Http, Unanswered, Way};
use crate::{
    AbandonSource, Activate, AgentApi, ApiError, ApiTokenMade, AskApiToken, AskCordon, AskDepartures,
    AskDrain, AskGarbage, AskJobs, AskJoinToken, AskLease, AskLog, AskMappings, AskNeed, AskRebalance,
    AskRoot, AskTestimony, AttachVolume, AttachedFrontend, Bid, CancelMove, ChangeSources, ClusterStatus,
    CopyRoot, CreateMachine, Crossing, Departures, DestroyMachine, DetachVolume, Digest, DirectoryView,
    DrainPlan, DrainStarted, DriverKind, EndLease, ErrorCode, EventsAfter, Expect, ForkVolume, Garbage,
    GrowVolume, Hold, ImportVolume, Job, JobEvents, JobId, JobJournal, Join, JoinTokenMade, Joined,
    LeaseAnswer, LeaseNeed, Losses, Machine, MachineLog, MachineRef, Mappings, Membership, MovePlan,
    OnSourceLoss, PaceFrom, PaceVolume, PaceWorker, PauseDrain, PlacementExplained, Precopy, Prepare,
    RebalancePlan, RebalanceStarted, Renew, Renewed, Reserve, Revoke, RevokeDone, SafeToStop, ServiceStatus,
    ShutDownWorker, StartDrain, StartMove, StartMoves, StartRebalance, Testimony, Truth, TruthRef, UndoMove,
    VerifyVolume, Volume, VolumeCheck, VolumeExport, VolumeKey, VolumeRef, WorkerInfo, WorkerName,
    WorkerShutDown,
};
use axum::http::{HeaderValue, Method};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// How long a call may take that does not wait for a machine to stop.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// What the URL of an agent's socket begins with.
const SOCKET: &str = "unix:";

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL is not one.
    #[error("'{url}' is not the address of an agent; write it like http://127.0.0.1:7433")]
    BadUrl {
        /// What was given.
        url: String,
    },
    /// The agent is to be reached over TLS, and nothing is known of whom to believe.
    #[error("{url} is reached over TLS; say with --ca (or FERRY_CA) which certificate authority to believe")]
    NoAuthority {
        /// The agent's.
        url: String,
    },
    /// Who asks that way is not to be asked for certificates or tokens.
    #[error(
        "a token for {url} would cross in the clear; give the address of an agent that begins with https://"
    )]
    InTheClear {
        /// The agent's.
        url: String,
    },
    /// The token cannot be sent.
    #[error("the token is not one line of plain text; give it as it was printed")]
    BadToken,
}

#[derive(Clone, Debug)]
enum Wire {
    Http(Http),
    Other(Arc<dyn Courier>),
}

/// An agent at a URL.
#[derive(Clone, Debug)]
pub struct Client {
    base: Url,
    /// The URL as people write it.
    shown: String,
    wire: Wire,
    /// What other agents are called with over TLS.
    others: Option<Http>,
}

impl Client {
    /// The agent at `url`, like `http://127.0.0.1:7433`, or at a socket of this host, like `unix:/var/lib/ferry/agent.sock`.
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// The URL is neither.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        match url.strip_prefix(SOCKET) {
            Some(path) if !path.is_empty() => {
                let base = Url::parse("http://localhost").expect("it is one");
                let wire = Wire::Http(Http::new(Way::Unix(PathBuf::from(path))));
                Ok(Self { base, shown: url.to_owned(), wire, others: None })
            }
            _ => Self::over(url, &["http"], Http::new(Way::Tcp)),
        }
    }

    /// The agent at `url`, like `https://10.0.0.1:7433`, over TLS.
    ///
    /// # Errors
    /// The URL is not an `https://` one.
    pub fn secured(url: &str, tls: ClientTls) -> Result<Self, ClientError> {
        Self::over(url, &["https"], Http::new(Way::Tls(tls)))
    }

    fn over(url: &str, schemes: &[&str], http: Http) -> Result<Self, ClientError> {
        let bad = || ClientError::BadUrl { url: url.to_owned() };
        let base = Url::parse(url).map_err(|_| bad())?;
        if base.host().is_none() || !matches!(base.path(), "" | "/") {
            return Err(bad());
        }
        if !schemes.contains(&base.scheme()) {
            let secured = base.scheme() == "https";
            return Err(if secured { ClientError::NoAuthority { url: url.to_owned() } } else { bad() });
        }
        let shown = base.as_str().trim_end_matches('/').to_owned();
        Ok(Self { base, shown, wire: Wire::Http(http), others: None })
    }

    /// Shows a token with each call.
    ///
    /// # Errors
    /// The token is none, or would cross a network in the clear.
    pub fn with_token(self, token: &str) -> Result<Self, ClientError> {
        let wire = match self.wire {
            Wire::Http(http) if matches!(http.way(), Way::Tcp) => {
                return Err(ClientError::InTheClear { url: self.shown });
            }
            Wire::Http(http) => Wire::Http(http.with_token(bearer(token)?)),
            Wire::Other(courier) => Wire::Other(courier),
        };
        Ok(Self { wire, ..self })
    }

    /// What agents are called with that are reached from this one on, over TLS.
    ///
    /// # Errors
    /// The token is none.
    pub fn with_others(self, tls: ClientTls, token: Option<&str>) -> Result<Self, ClientError> {
        let http = Http::new(Way::Tls(tls));
        let others = match token {
            Some(token) => http.with_token(bearer(token)?),
            None => http,
        };
        Ok(Self { others: Some(others), ..self })
    }

    /// Another agent, at `url`, called with what this one says of others.
    ///
    /// # Errors
    /// The URL is not one, or asks for what is not known.
    pub fn toward(&self, url: &str) -> Result<Self, ClientError> {
        let others = self.others.clone();
        let other = match &others {
            Some(http) if url.starts_with("https:") => Self::over(url, &["https"], http.anew())?,
            Some(_) | None => Self::new(url)?,
        };
        Ok(Self { others, ..other })
    }

    /// An agent to which `courier` takes what is asked; it is called `name` where its URL would be told.
    ///
    /// # Panics
    /// The name cannot be that of a host.
    #[must_use]
    pub fn by_courier(name: &str, courier: Arc<dyn Courier>) -> Self {
        let base = Url::parse(&format!("http://{name}")).expect("the name of a worker can be that of a host");
        let shown = base.as_str().trim_end_matches('/').to_owned();
        Self { base, shown, wire: Wire::Other(courier), others: None }
    }

    /// Whether the agent is reached by an address, not by a socket of this host.
    #[must_use]
    pub fn is_beyond_this_host(&self) -> bool {
        match &self.wire {
            Wire::Http(http) => !matches!(http.way(), Way::Unix(_)),
            Wire::Other(_) => true,
        }
    }

    /// What it is shown, and whom of its kind to believe, if it is reached over TLS.
    #[must_use]
    pub fn tls(&self) -> Option<&ClientTls> {
        match &self.wire {
            Wire::Http(http) => match http.way() {
                Way::Tls(tls) => Some(tls),
                Way::Tcp | Way::Unix(_) => None,
            },
            Wire::Other(_) => None,
        }
    }

    /// Where the agent is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.shown
    }

    async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, ApiError> {
        self.call(Method::GET, path, None::<&()>, Some(CALL_TIMEOUT)).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &[&str], body: &impl Serialize) -> Result<T, ApiError> {
        self.call(Method::POST, path, Some(body), Some(CALL_TIMEOUT)).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&impl Serialize>,
        timeout: Option<Duration>,
    ) -> Result<T, ApiError> {
        let body =
            body.map(|body| serde_json::to_vec(body).expect("requests are plain data and always encode"));
        self.send(method, self.url_of(path), body, timeout).await
    }

    fn url_of(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        let mut segments = url.path_segments_mut().expect("an http URL has a path");
        segments.pop_if_empty().push("v1").extend(path);
        drop(segments);
        url
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        url: Url,
        body: Option<Vec<u8>>,
        timeout: Option<Duration>,
    ) -> Result<T, ApiError> {
        let bytes = self.answer(method, url, body, timeout).await?;
        serde_json::from_slice(&bytes)
            .map_err(|e| self.strange(&format!("its answer is not understood, {e}")))
    }

    /// The body of an answer that is no refusal.
    async fn answer(
        &self,
        method: Method,
        url: Url,
        body: Option<Vec<u8>>,
        timeout: Option<Duration>,
    ) -> Result<Vec<u8>, ApiError> {
        let (status, bytes) = match &self.wire {
            Wire::Http(http) => {
                http.send(method, url.as_str(), body, timeout).await.map_err(|why| self.unreachable(why))?
            }
            Wire::Other(courier) => self.send_by(&**courier, method, url, body, timeout).await?,
        };
        if (200..300).contains(&status) {
            return Ok(bytes);
        }
        match serde_json::from_slice::<ApiError>(&bytes) {
            Ok(refusal) => Err(refusal),
            Err(_) => Err(self.strange(&format!("it answers with HTTP {status}"))),
        }
    }

    async fn send_by(
        &self,
        courier: &dyn Courier,
        method: Method,
        url: Url,
        body: Option<Vec<u8>>,
        timeout: Option<Duration>,
    ) -> Result<(u16, Vec<u8>), ApiError> {
        let path =
            url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let call = Call { method: method.to_string(), path, body: body.unwrap_or_default() };
        let carried = tokio::time::timeout(timeout.unwrap_or(Duration::MAX), courier.carry(call)).await;
        let carried = carried.unwrap_or_else(|_| Err("it did not answer in time".to_owned()));
        carried.map_err(|why| {
            let message = format!("the agent at {} went away before it answered ({why})", self.url());
            ApiError::new(ErrorCode::Unreachable, message)
        })
    }

    fn unreachable(&self, unanswered: Unanswered) -> ApiError {
        let start = "start it there, or give the right address";
        let (what, cause, then) = match unanswered {
            Unanswered::TooLate => ("did not answer in time".to_owned(), None, start),
            Unanswered::Unconnected(cause) => ("cannot be reached".to_owned(), Some(cause), start),
            Unanswered::Broken(cause) => ("went away before it answered".to_owned(), Some(cause), start),
            Unanswered::Refused(cause) => (
                "and this side do not accept each other".to_owned(),
                Some(cause),
                "look at both sides' certificates and clocks",
            ),
        };
        let cause = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
        let message = format!("the agent at {} {what}{cause}; {then}", self.url());
        ApiError::new(ErrorCode::Unreachable, message)
    }

    fn strange(&self, what: &str) -> ApiError {
        let url = self.url();
        let message =
            format!("what answers at {url} is not an agent of this version ({what}); check the address");
        ApiError::new(ErrorCode::VersionMismatch, message)
    }
}

fn bearer(token: &str) -> Result<HeaderValue, ClientError> {
    HeaderValue::from_str(&format!("Bearer {}", token.trim())).map_err(|_| ClientError::BadToken)
}

impl AgentApi for Client {
    async fn worker(&self) -> Result<WorkerInfo, ApiError> {
        self.get(&["worker"]).await
    }

    async fn worker_for(&self, driver: DriverKind) -> Result<WorkerInfo, ApiError> {
        let mut url = self.url_of(&["worker"]);
        url.set_query(Some(&format!("driver={driver}")));
        self.send(Method::GET, url, None, Some(CALL_TIMEOUT)).await
    }

    async fn worker_pace(&self, pace: PaceWorker) -> Result<WorkerInfo, ApiError> {
        self.post(&["worker", "pace"], &pace).await
    }

    async fn worker_cordon(&self, ask: AskCordon) -> Result<WorkerInfo, ApiError> {
        self.post(&["worker", "cordon"], &ask).await
    }

    async fn worker_uncordon(&self) -> Result<WorkerInfo, ApiError> {
        self.post(&["worker", "uncordon"], &()).await
    }

    async fn bid(&self) -> Result<Bid, ApiError> {
        self.get(&["bid"]).await
    }

    async fn drain_plan(&self, ask: AskDrain) -> Result<DrainPlan, ApiError> {
        self.post(&["drain", "plan"], &ask).await
    }

    async fn drain_start(&self, start: StartDrain) -> Result<DrainStarted, ApiError> {
        self.post(&["drain"], &start).await
    }

    async fn drain_pause(&self, pause: PauseDrain) -> Result<Job, ApiError> {
        self.post(&["drain", "pause"], &pause).await
    }

    async fn drain_cancel(&self) -> Result<Job, ApiError> {
        self.post(&["drain", "cancel"], &()).await
    }

    async fn departures(&self, ask: AskDepartures) -> Result<Departures, ApiError> {
        self.post(&["departures"], &ask).await
    }

    async fn rebalance_plan(&self, ask: AskRebalance) -> Result<RebalancePlan, ApiError> {
        self.post(&["rebalance", "plan"], &ask).await
    }

    async fn rebalance_start(&self, start: StartRebalance) -> Result<RebalanceStarted, ApiError> {
        self.post(&["rebalance"], &start).await
    }

    async fn worker_safe_to_stop(&self) -> Result<SafeToStop, ApiError> {
        self.get(&["worker", "safe-to-stop"]).await
    }

    async fn worker_shut_down(&self, wish: ShutDownWorker) -> Result<WorkerShutDown, ApiError> {
        // As long as the grace times of its machines, which only the other side knows.
        self.call(Method::POST, &["worker", "shutdown"], Some(&wish), None).await
    }

    async fn metrics(&self) -> Result<String, ApiError> {
        let page = self.answer(Method::GET, self.url_of(&["metrics"]), None, Some(CALL_TIMEOUT)).await?;
        String::from_utf8(page).map_err(|e| self.strange(&format!("its figures are no text, {e}")))
    }

    async fn garbage(&self, ask: AskGarbage) -> Result<Garbage, ApiError> {
        let mut url = self.url_of(&["garbage"]);
        url.set_query(Some(&format!("retained={}", ask.retained)));
        self.send(Method::GET, url, None, None).await
    }

    async fn garbage_clear(&self, ask: AskGarbage) -> Result<Garbage, ApiError> {
        // As long as what goes takes to be removed.
        self.call(Method::POST, &["garbage"], Some(&ask), None).await
    }

    async fn truth(&self, of: &TruthRef) -> Result<Truth, ApiError> {
        self.get(&["truth", &of.to_string()]).await
    }

    async fn machine_create(&self, create: CreateMachine) -> Result<Machine, ApiError> {
        self.post(&["machines"], &create).await
    }

    async fn machines(&self) -> Result<Vec<Machine>, ApiError> {
        self.get(&["machines"]).await
    }

    async fn machine(&self, machine: &MachineRef) -> Result<Machine, ApiError> {
        self.get(&["machines", &machine.to_string()]).await
    }

    async fn machine_placement(&self, machine: &MachineRef) -> Result<PlacementExplained, ApiError> {
        self.get(&["machines", &machine.to_string(), "placement"]).await
    }

    async fn machine_log(&self, machine: &MachineRef, ask: AskLog) -> Result<MachineLog, ApiError> {
        let mut url = self.url_of(&["machines", &machine.to_string(), "log"]);
        let mut query = format!("wait_ms={}", ask.wait_ms);
        for (name, value) in [("after", ask.after), ("lines", ask.lines)] {
            if let Some(value) = value {
                query.push_str(&format!("&{name}={value}"));
            }
        }
        url.set_query(Some(&query));
        let wait = Duration::from_millis(ask.wait_ms.min(EventsAfter::WAIT_MS_MAX));
        self.send(Method::GET, url, None, Some(CALL_TIMEOUT + wait)).await
    }

    async fn machine_start(&self, machine: &MachineRef) -> Result<Machine, ApiError> {
        self.post(&["machines", &machine.to_string(), "start"], &()).await
    }

    async fn machine_stop(&self, machine: &MachineRef) -> Result<Machine, ApiError> {
        // As long as the machine's grace time, which only the other side knows.
        self.call(Method::POST, &["machines", &machine.to_string(), "stop"], None::<&()>, None).await
    }

    async fn machine_destroy(&self, machine: &MachineRef, destroy: DestroyMachine) -> Result<(), ApiError> {
        self.call(Method::POST, &["machines", &machine.to_string(), "destroy"], Some(&destroy), None).await
    }

    async fn volume_import(&self, import: ImportVolume) -> Result<Volume, ApiError> {
        self.post(&["volumes"], &import).await
    }

    async fn volumes(&self) -> Result<Vec<Volume>, ApiError> {
        self.get(&["volumes"]).await
    }

    async fn volume(&self, volume: &VolumeRef) -> Result<Volume, ApiError> {
        self.get(&["volumes", &volume.to_string()]).await
    }

    async fn volume_pace(&self, volume: &VolumeRef, pace: PaceVolume) -> Result<Volume, ApiError> {
        self.post(&["volumes", &volume.to_string(), "pace"], &pace).await
    }

    async fn volume_fork(&self, volume: &VolumeRef, fork: ForkVolume) -> Result<Volume, ApiError> {
        self.post(&["volumes", &volume.to_string(), "fork"], &fork).await
    }

    async fn volume_grow(&self, volume: &VolumeRef, grow: GrowVolume) -> Result<Volume, ApiError> {
        self.post(&["volumes", &volume.to_string(), "grow"], &grow).await
    }

    async fn volume_attach(
        &self,
        volume: &VolumeRef,
        attach: AttachVolume,
    ) -> Result<AttachedFrontend, ApiError> {
        self.post(&["volumes", &volume.to_string(), "attach"], &attach).await
    }

    async fn volume_detach(&self, volume: &VolumeRef, detach: DetachVolume) -> Result<Volume, ApiError> {
        self.post(&["volumes", &volume.to_string(), "detach"], &detach).await
    }

    async fn volume_on_source_loss(
        &self,
        volume: &VolumeRef,
        wish: OnSourceLoss,
    ) -> Result<Volume, ApiError> {
        self.post(&["volumes", &volume.to_string(), "on-source-loss"], &wish).await
    }

    async fn volume_change_sources(
        &self,
        volume: &VolumeRef,
        change: ChangeSources,
    ) -> Result<Volume, ApiError> {
        self.post(&["volumes", &volume.to_string(), "sources"], &change).await
    }

    async fn volume_abandon_source(
        &self,
        volume: &VolumeRef,
        abandon: AbandonSource,
    ) -> Result<Losses, ApiError> {
        self.post(&["volumes", &volume.to_string(), "abandon-source"], &abandon).await
    }

    async fn volume_verify(&self, volume: &VolumeRef, verify: VerifyVolume) -> Result<VolumeCheck, ApiError> {
        self.post(&["volumes", &volume.to_string(), "verify"], &verify).await
    }

    async fn volume_delete(&self, volume: &VolumeRef) -> Result<(), ApiError> {
        self.call(Method::DELETE, &["volumes", &volume.to_string()], None::<&()>, Some(CALL_TIMEOUT)).await
    }

    async fn move_start(&self, start: StartMove) -> Result<Job, ApiError> {
        self.post(&["moves"], &start).await
    }

    async fn move_plan(&self, start: StartMove) -> Result<MovePlan, ApiError> {
        self.post(&["moves", "plan"], &start).await
    }

    async fn move_undo(&self, undo: UndoMove) -> Result<Job, ApiError> {
        self.post(&["moves", "undo"], &undo).await
    }

    async fn move_cancel(&self, cancel: CancelMove) -> Result<Job, ApiError> {
        self.post(&["moves", "cancel"], &cancel).await
    }

    async fn moves_start(&self, start: StartMoves) -> Result<Job, ApiError> {
        self.post(&["moves", "several"], &start).await
    }

    async fn jobs(&self, asked: AskJobs) -> Result<Vec<Job>, ApiError> {
        let mut url = self.url_of(&["jobs"]);
        let before = asked.before.map_or_else(String::new, |job| format!("&before={job}"));
        url.set_query(Some(&format!("ended_max={}{before}", asked.ended_max)));
        self.send(Method::GET, url, None, Some(CALL_TIMEOUT)).await
    }

    async fn job_journal(&self, job: JobId) -> Result<JobJournal, ApiError> {
        self.get(&["jobs", &job.to_string(), "journal"]).await
    }

    async fn job(&self, job: JobId) -> Result<Job, ApiError> {
        self.get(&["jobs", &job.to_string()]).await
    }

    async fn job_events(&self, job: JobId, events: EventsAfter) -> Result<JobEvents, ApiError> {
        let mut url = self.url_of(&["jobs", &job.to_string(), "events"]);
        url.set_query(Some(&format!("after={}&wait_ms={}", events.after, events.wait_ms)));
        let wait = Duration::from_millis(events.wait_ms.min(EventsAfter::WAIT_MS_MAX));
        self.send(Method::GET, url, None, Some(CALL_TIMEOUT + wait)).await
    }

    async fn job_cancel(&self, job: JobId) -> Result<Job, ApiError> {
        self.post(&["jobs", &job.to_string(), "cancel"], &()).await
    }

    async fn job_resume(&self, job: JobId) -> Result<Job, ApiError> {
        self.post(&["jobs", &job.to_string(), "resume"], &()).await
    }

    async fn peer_hold(&self, hold: Hold) -> Result<(), ApiError> {
        self.post(&["peer", "hold"], &hold).await
    }

    async fn peer_reserve(&self, reserve: Reserve) -> Result<Crossing, ApiError> {
        self.post(&["peer", "reserve"], &reserve).await
    }

    async fn peer_prepare(&self, prepare: Prepare) -> Result<Crossing, ApiError> {
        self.post(&["peer", "prepare"], &prepare).await
    }

    async fn peer_precopy(&self, precopy: Precopy) -> Result<Crossing, ApiError> {
        // The last one waits for disks.
        self.post(&["peer", "precopy"], &precopy).await
    }

    async fn peer_expect(&self, expect: Expect) -> Result<Crossing, ApiError> {
        // The last one waits for disks.
        self.post(&["peer", "expect"], &expect).await
    }

    async fn peer_activate(&self, activate: Activate) -> Result<Crossing, ApiError> {
        self.post(&["peer", "activate"], &activate).await
    }

    async fn peer_boot(&self, job: JobId) -> Result<Crossing, ApiError> {
        self.post(&["peer", "crossings", &job.to_string(), "boot"], &()).await
    }

    async fn peer_forsake(&self, job: JobId) -> Result<Crossing, ApiError> {
        self.post(&["peer", "crossings", &job.to_string(), "forsake"], &()).await
    }

    async fn peer_crossing(&self, job: JobId) -> Result<Crossing, ApiError> {
        self.get(&["peer", "crossings", &job.to_string()]).await
    }

    async fn peer_settle(&self, job: JobId) -> Result<Crossing, ApiError> {
        self.post(&["peer", "crossings", &job.to_string(), "settle"], &()).await
    }

    async fn peer_release(&self, job: JobId) -> Result<(), ApiError> {
        self.post(&["peer", "crossings", &job.to_string(), "release"], &()).await
    }

    async fn peer_testimony(&self, ask: AskTestimony) -> Result<Testimony, ApiError> {
        self.post(&["peer", "testimony"], &ask).await
    }

    async fn services(&self) -> Result<Vec<ServiceStatus>, ApiError> {
        self.get(&["services"]).await
    }

    async fn directory(&self) -> Result<DirectoryView, ApiError> {
        self.get(&["directory"]).await
    }

    async fn peer_digest(&self) -> Result<Digest, ApiError> {
        self.get(&["peer", "digest"]).await
    }

    async fn peer_mappings(&self, ask: AskMappings) -> Result<Mappings, ApiError> {
        let mut url = self.url_of(&["peer", "mappings"]);
        url.set_query(Some(&format!("known={}&wait_ms={}&changes={}", ask.known, ask.wait_ms, ask.changes)));
        let wait = Duration::from_millis(ask.wait_ms.min(AskMappings::WAIT_MS_MAX));
        self.send(Method::GET, url, None, Some(CONNECT_TIMEOUT + wait)).await
    }

    async fn cluster(&self) -> Result<ClusterStatus, ApiError> {
        self.get(&["cluster"]).await
    }

    async fn cluster_token(&self, ask: AskJoinToken) -> Result<JoinTokenMade, ApiError> {
        self.post(&["cluster", "token"], &ask).await
    }

    async fn cluster_api_token(&self, ask: AskApiToken) -> Result<ApiTokenMade, ApiError> {
        self.post(&["cluster", "api-token"], &ask).await
    }

    async fn cluster_revoke(&self, revoke: Revoke) -> Result<RevokeDone, ApiError> {
        self.post(&["cluster", "revoke"], &revoke).await
    }

    async fn cluster_join(&self, join: Join) -> Result<Joined, ApiError> {
        self.post(&["cluster", "join"], &join).await
    }

    async fn cluster_renew(&self, renew: Renew) -> Result<Renewed, ApiError> {
        self.post(&["cluster", "renew"], &renew).await
    }

    async fn peer_membership(&self, told: Membership) -> Result<Membership, ApiError> {
        self.post(&["peer", "membership"], &told).await
    }

    async fn peer_pace(&self, pace: PaceFrom) -> Result<(), ApiError> {
        self.post(&["peer", "pace"], &pace).await
    }

    async fn peer_lease(&self, ask: AskLease) -> Result<LeaseAnswer, ApiError> {
        self.post(&["peer", "leases"], &ask).await
    }

    async fn peer_lease_end(&self, end: EndLease) -> Result<(), ApiError> {
        self.post(&["peer", "leases", "end"], &end).await
    }

    async fn peer_lease_need(&self, ask: AskNeed) -> Result<LeaseNeed, ApiError> {
        self.post(&["peer", "leases", "need"], &ask).await
    }

    async fn peer_root(&self, copy: VolumeKey, of: AskRoot) -> Result<CopyRoot, ApiError> {
        self.post(&["peer", "roots", &copy.id.to_string(), &copy.generation.to_string()], &of).await
    }

    async fn peer_export(
        &self,
        copy: VolumeKey,
        _reader: Option<WorkerName>,
    ) -> Result<VolumeExport, ApiError> {
        self.get(&["peer", "exports", &copy.id.to_string(), &copy.generation.to_string()]).await
    }
}
