//! Who listens: one listener for each port that a service claims, and one for other workers.
//!
//! A port that is taken keeps nothing from running: it is said where services are listed, and tried again.

use super::figures::ms_since;
use super::{Inner, Key, forward, proxy};
use crate::entrances::Secured;
use crate::mutex::locked;
use ferry_api::Service;
use ferry_crossing::directory::Claim;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

/// How often a port that was taken is tried again, while nothing changes.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// How many connections of one service are open or wait on one worker at once; further ones stay with the kernel.
const CONNECTIONS_MAX: usize = 4096;
/// How many connections from other workers are open at once.
const FROM_WORKERS_MAX: usize = 16_384;
/// Pause after the system has refused a connection (it has no descriptors left, for example).
const BREATH: Duration = Duration::from_millis(100);

/// A port with a listener.
struct Listening {
    key: Key,
    task: AbortHandle,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens for clients at the ports that are claimed, for ever.
pub(super) async fn for_clients(inner: Arc<Inner>) {
    let mut changed = inner.changed.subscribe();
    let (mut tasks, mut listening) = (JoinSet::new(), BTreeMap::new());
    loop {
        changed.borrow_and_update();
        let claims = locked(&inner.directory).claims(inner.now_ms());
        keep_books(&inner, follow(&inner, &claims, &mut listening, &mut tasks));
        // Nobody is told when a port is given free.
        let _ = timeout(TRY_AGAIN, changed.changed()).await;
        while tasks.try_join_next().is_some() {}
    }
}

/// Listens where `claims` say, and nowhere else. Tells where each service is served, or why it is not.
fn follow(
    inner: &Arc<Inner>,
    claims: &BTreeMap<NonZeroU16, Vec<Claim>>,
    listening: &mut BTreeMap<NonZeroU16, Listening>,
    tasks: &mut JoinSet<()>,
) -> BTreeMap<Key, Result<SocketAddr, String>> {
    // What nobody claims is given free first, so that another may have it.
    listening.retain(|port, held| {
        let first = claims.get(port).and_then(|claims| claims.first());
        first.is_some_and(|claim| held.key == (claim.machine, claim.service.port))
    });
    let mut places = BTreeMap::new();
    for (port, claim) in
        claims.iter().flat_map(|(port, claims)| claims.iter().map(move |claim| (*port, claim)))
    {
        let key = (claim.machine, claim.service.port);
        let place = match (&claim.lost_to, listening.contains_key(&port)) {
            (Some(other), _) => Err(format!(
                "port {port} of the workers is that of the older machine {other}; give the service another `listen`"
            )),
            (None, true) => Ok(SocketAddr::new(inner.listen.ip(), port.get())),
            (None, false) => begin(inner, claim, tasks).map(|(address, task)| {
                listening.insert(port, Listening { key, task });
                address
            }),
        };
        places.insert(key, place);
    }
    places
}

/// Notes where this worker listens, and forgets what was counted of services that are gone.
fn keep_books(inner: &Inner, places: BTreeMap<Key, Result<SocketAddr, String>>) {
    let known: BTreeSet<Key> = places.keys().copied().collect();
    let before = std::mem::replace(&mut *locked(&inner.places), places);
    for (key, place) in locked(&inner.places).iter() {
        let was_said = before.get(key).is_some_and(|before| before == place);
        if let (Err(why), false) = (place, was_said) {
            tracing::warn!(machine = %key.0, port = key.1, "a service is not served here: {why}");
        }
    }
    locked(&inner.figures).retain(|key, _| known.contains(key));
}

fn begin(
    inner: &Arc<Inner>,
    claim: &Claim,
    tasks: &mut JoinSet<()>,
) -> Result<(SocketAddr, AbortHandle), String> {
    inner.may_listen(&claim.service, claim.network)?;
    let address = SocketAddr::new(inner.listen.ip(), claim.service.listens_on().get());
    let listener = listen_at(address)?;
    let (machine, service) = (claim.machine, claim.service.clone());
    let serving = serve(Arc::clone(inner), listener, (machine, service.port), service);
    Ok((address, tasks.spawn(serving)))
}

/// Listens there.
pub(super) fn listen_at(address: SocketAddr) -> Result<TcpListener, String> {
    let bound = std::net::TcpListener::bind(address)
        .and_then(|bound| bound.set_nonblocking(true).and_then(|()| TcpListener::from_std(bound)));
    bound.map_err(|cause| {
        format!(
            "this worker cannot listen at {address} ({cause}); end what has the port, or give the service another \
             `listen`"
        )
    })
}

/// Serves clients of one service, for ever.
async fn serve(inner: Arc<Inner>, listener: TcpListener, key: Key, service: Service) {
    tracing::debug!(machine = %key.0, port = %service.listens_on(), "a service is served");
    let mut open = JoinSet::new();
    loop {
        let client = accept(&listener, &mut open, CONNECTIONS_MAX).await;
        let came = Instant::now();
        let inner = Arc::clone(&inner);
        open.spawn(async move { proxy::serve(&inner, key, client, came).await });
    }
}

/// Takes connections of other workers for machines of this one, for ever.
pub(super) async fn for_workers(inner: Arc<Inner>, listener: TcpListener, secured: Option<Secured>) {
    let mut open = JoinSet::new();
    loop {
        let worker = accept(&listener, &mut open, FROM_WORKERS_MAX).await;
        let (inner, secured) = (Arc::clone(&inner), secured.clone());
        open.spawn(async move {
            let came = Instant::now();
            if let Err(error) = proxy::serve_worker(&inner, secured.as_ref(), worker).await {
                tracing::debug!(%error, after_ms = ms_since(came), "a connection from another worker ends");
            }
        });
    }
}

/// The next connection, once fewer than `most` are open.
async fn accept(listener: &TcpListener, open: &mut JoinSet<()>, most: usize) -> TcpStream {
    loop {
        while open.try_join_next().is_some() {}
        if open.len() >= most {
            open.join_next().await;
            continue;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = open.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                forward::prepare(&stream);
                return stream;
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be taken");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}
