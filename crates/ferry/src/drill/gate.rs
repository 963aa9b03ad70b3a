//! The socket at which the two agents say where they are. Nobody is held but the one whose moment is waited for.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::point::Moment;

/// Is told of every moment.
type Listener = Box<dyn FnMut(&Moment) + Send>;

/// What is done with a moment that is heard.
#[derive(Default)]
struct Wishes {
    /// The step that is made to fail.
    fails: Option<&'static str>,
    /// The moments at which their agent is held, once each.
    awaited: Vec<(Moment, oneshot::Sender<Held>)>,
    /// Is told of everything.
    listener: Option<Listener>,
    /// How long an agent is held before the listener is told.
    settle: Duration,
}

/// The socket. Dropped, it hears no more, and agents go on by themselves.
pub struct Gate {
    wishes: Arc<Mutex<Wishes>>,
    hearing: JoinHandle<()>,
}

/// An agent that waits. Dropped, it lets the agent go on.
pub struct Held {
    _go: oneshot::Sender<()>,
}

impl Gate {
    /// Listens on a socket at `path`.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn listen(path: &Path) -> Result<Self> {
        let listener = UnixListener::bind(path)
            .with_context(|| format!("the socket {} cannot be made", path.display()))?;
        let wishes = Arc::new(Mutex::new(Wishes::default()));
        let shared = Arc::clone(&wishes);
        let hearing = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(hear(Arc::clone(&shared), stream))),
                    // Agents that find nobody there go on by themselves.
                    Err(error) => return tracing::warn!(%error, "the socket of the drill is gone"),
                }
            }
        });
        Ok(Self { wishes, hearing })
    }

    /// Has a step fail from now on, or none.
    pub fn fail(&self, step: Option<&'static str>) {
        lock(&self.wishes).fails = step;
    }

    /// Resolves when an agent is at `moment` the next time, and holds it there until all who waited for it let go.
    pub fn await_moment(&self, moment: Moment) -> oneshot::Receiver<Held> {
        let (tell, told) = oneshot::channel();
        lock(&self.wishes).awaited.push((moment, tell));
        told
    }

    /// Tells `listener` of every moment from now on, when its agent has been held there for `settle`: what others were about
    /// to do has been done by then.
    pub fn listen_in(&self, settle: Duration, listener: impl FnMut(&Moment) + Send + 'static) {
        let mut wishes = lock(&self.wishes);
        wishes.listener = Some(Box::new(listener));
        wishes.settle = settle;
    }

    /// Wishes nothing any more.
    pub fn rest(&self) {
        *lock(&self.wishes) = Wishes::default();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.hearing.abort();
    }
}

/// One moment of an agent. One that is killed meanwhile does not hear the answer.
async fn hear(wishes: Arc<Mutex<Wishes>>, stream: UnixStream) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    let Ok(_) = stream.read_line(&mut line).await else { return };
    let Some(moment) = Moment::parse(&line) else { return };
    let settle = lock(&wishes).settle;
    tokio::time::sleep(settle).await;
    let (answer, waits) = decide(&mut lock(&wishes), &moment);
    for wait in waits {
        // Ends when who holds it lets go.
        let _ = wait.await;
    }
    let _ = stream.write_all(answer).await;
}

fn decide(wishes: &mut Wishes, moment: &Moment) -> (&'static [u8], Vec<oneshot::Receiver<()>>) {
    if let Some(listener) = &mut wishes.listener {
        listener(moment);
    }
    let is_to_fail = moment.at.strip_prefix("ends ").is_some_and(|step| wishes.fails == Some(step));
    let answer: &[u8] = if is_to_fail { b"fail\n" } else { b"go\n" };
    let waits = wishes.awaited.extract_if(.., |(awaited, _)| awaited == moment).filter_map(|(_, tell)| {
        let (go, wait) = oneshot::channel();
        // Nobody may wait for it any more; then it is not held.
        tell.send(Held { _go: go }).is_ok().then_some(wait)
    });
    (answer, waits.collect())
}

fn lock(wishes: &Mutex<Wishes>) -> MutexGuard<'_, Wishes> {
    wishes.lock().unwrap_or_else(PoisonError::into_inner)
}
