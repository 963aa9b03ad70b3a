//! One connection, from when it came until it ends. What becomes of it is decided in [`ferry_crossing::proxy`].

use super::figures::{Figures, Held, ms_since};
use super::forward::{self, CONNECT_MAX, Request};
use super::{Inner, Key, Reached};
use crate::entrances::Secured;
use crate::mutex::locked;
use ferry_api::http::Stream;
use ferry_api::{Presence, WorkerName};
use ferry_crossing::directory::Known;
use ferry_crossing::proxy::{Act, Answer, Facts, Failed, Refusal, answer, decide};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::{Interest, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// First and longest pause between two attempts, while nothing changes.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));
/// How long what a machine has said at last may take to reach its client once the machine has ended.
const LAST_WORDS_MAX: Duration = Duration::from_secs(5);

/// A way to the machine.
struct Way {
    stream: Stream,
    /// The run of the machine that it leads to, if that is here.
    run: Option<u64>,
}

/// How a search for a way ends without one.
enum NoWay {
    Refused(Refusal),
    /// The client has gone.
    Gone,
}

/// Serves a client that came at `came`.
pub(super) async fn serve(inner: &Inner, key: Key, client: TcpStream, came: Instant) {
    let figures = inner.figures(key);
    figures.accepted.fetch_add(1, Relaxed);
    match way(inner, key, &client, came, &figures).await {
        Ok(mut way) => {
            let _open = figures.open();
            pass(inner, key, &mut Stream::Tcp(client), &mut way).await;
        }
        Err(NoWay::Refused(why)) => {
            tracing::info!(machine = %key.0, port = key.1, "a connection is refused: {why}");
            figures.refuse(why);
            forward::reset(&client);
        }
        Err(NoWay::Gone) => {}
    }
}

/// Looks for a way to the machine until there is one, or there shall be none.
async fn way(
    inner: &Inner,
    key: Key,
    client: &TcpStream,
    came: Instant,
    figures: &Arc<Figures>,
) -> Result<Way, NoWay> {
    let mut changed = inner.changed.subscribe();
    let (mut failed, mut pause) = (None::<Failed>, PAUSE.0);
    let mut place: Option<Held> = None;
    loop {
        changed.borrow_and_update();
        let known = inner.find(key.0);
        let facts = Facts {
            me: &inner.me,
            known: known.as_ref(),
            failed: failed.as_ref(),
            held: figures.held(),
            is_held: place.is_some(),
            waited_ms: ms_since(came),
        };
        match (decide(&facts, inner.limits), &known) {
            (Act::Connect, Some(known)) => match to_machine(key, known).await {
                Ok(stream) => {
                    let run = run_of(inner, Some(known));
                    // Else it has begun anew meanwhile, and so does this.
                    if run == run_of(inner, inner.find(key.0).as_ref()) {
                        return Ok(Way { stream: Stream::Tcp(stream), run });
                    }
                }
                Err(_) => failed = Some(Failed::NotListening),
            },
            (Act::Forward(worker), _) => match to_worker(inner, key, &worker).await {
                Ok(stream) => return Ok(Way { stream, run: None }),
                Err(why) => failed = why,
            },
            (Act::Refuse(why), _) => return Err(NoWay::Refused(why)),
            (Act::Hold | Act::Connect, _) => {
                place.get_or_insert_with(|| figures.hold(came));
                let left = inner.limits.hold_ms_max.saturating_sub(ms_since(came));
                tokio::select! {
                    _ = changed.changed() => pause = PAUSE.0,
                    () = sleep(pause.min(Duration::from_millis(left))) => pause = (pause * 2).min(PAUSE.1),
                    () = gone(client) => return Err(NoWay::Gone),
                }
                failed = None;
            }
        }
    }
}

/// To the machine, which runs here.
async fn to_machine(key: Key, known: &Known) -> io::Result<TcpStream> {
    let address = SocketAddr::new(Inner::home(key.0, known.mapping.network), key.1.get());
    let stream = forward::in_time(CONNECT_MAX, TcpStream::connect(address)).await?;
    forward::prepare(&stream);
    Ok(stream)
}

/// To the worker that has the machine. Nothing has failed when that names another one.
async fn to_worker(inner: &Inner, key: Key, worker: &WorkerName) -> Result<Stream, Option<Failed>> {
    let silent = || Some(Failed::Silent(worker.clone()));
    let Reached { at: to, tls } = locked(&inner.reached_at).get(worker).cloned().ok_or_else(silent)?;
    let asked = forward::ask(&to, tls.as_ref(), Request { machine: key.0, port: key.1 }).await;
    let (stream, answer) = asked.map_err(|error| {
        tracing::debug!(%worker, %to, %error, "a connection does not come through");
        silent()
    })?;
    let owned = match &answer {
        Answer::Through => return Ok(stream),
        Answer::Later | Answer::Stopped => return Err(Some(Failed::Answered(worker.clone(), answer))),
        Answer::Elsewhere { generation, owner } => Some((*generation, owner.clone())),
        Answer::Unknown => None,
    };
    locked(&inner.directory).correct(worker, key.0, owned);
    match inner.find(key.0) {
        Some(known) if known.mapping.owner == *worker => Err(Some(Failed::Answered(worker.clone(), answer))),
        Some(_) | None => Err(None),
    }
}

/// Serves another worker: lets its connection through to a machine of this one, or says why not.
pub(super) async fn serve_worker(
    inner: &Inner,
    secured: Option<&Secured>,
    worker: TcpStream,
) -> io::Result<()> {
    let mut worker = forward::admitted(secured, worker).await?;
    let Request { machine, port } = forward::asked(&mut worker).await?;
    let known = inner.find(machine);
    let of_it = |known: &Known| known.mapping.services.iter().any(|service| service.port == port);
    let known = known.filter(of_it);
    let mut said = answer(&inner.me, known.as_ref());
    let mut machine_side = None;
    if let (Answer::Through, Some(known)) = (&said, &known) {
        machine_side = to_machine((machine, port), known).await.ok();
        said = if machine_side.is_some() { said } else { Answer::Later };
    }
    forward::tell(&mut worker, &said).await?;
    if let Some(stream) = machine_side {
        let key = (machine, port);
        let _open = inner.figures(key).open();
        let run = run_of(inner, known.as_ref());
        pass(inner, key, &mut worker, &mut Way { stream: Stream::Tcp(stream), run }).await;
    }
    Ok(())
}

/// Since when the machine runs here, if it does.
fn run_of(inner: &Inner, known: Option<&Known>) -> Option<u64> {
    let mapping = &known?.mapping;
    match mapping.presence {
        Presence::Runs { since_ms } if mapping.owner == inner.me => Some(since_ms),
        Presence::Runs { .. } | Presence::Comes | Presence::Stopped => None,
    }
}

/// Passes bytes both ways until one side has ended, or the run of the machine has.
async fn pass(inner: &Inner, key: Key, client: &mut Stream, way: &mut Way) {
    let ended = async {
        match way.run {
            Some(run) => run_ended(inner, key, run).await,
            // The worker that has the machine sees to it.
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        passed = copy_bidirectional(client, &mut way.stream) => drop(passed),
        () = ended => client.tcp().into_iter().for_each(forward::reset),
    }
}

/// Resolves when that run of a machine has ended, and what it said at last has had its time.
async fn run_ended(inner: &Inner, key: Key, run: u64) {
    let mut changed = inner.changed.subscribe();
    loop {
        changed.borrow_and_update();
        if run_of(inner, inner.find(key.0).as_ref()) != Some(run) {
            return sleep(LAST_WORDS_MAX).await;
        }
        if changed.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Resolves when the client has closed its side: who does that before it was answered waits no more.
async fn gone(client: &TcpStream) {
    loop {
        match client.ready(Interest::READABLE).await {
            Ok(ready) if ready.is_read_closed() => return,
            // It has said something, which is for the machine. Its end is told when the next look is taken.
            Ok(_) => std::future::pending().await,
            Err(_) => return,
        }
    }
}
