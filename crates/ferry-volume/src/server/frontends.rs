//! The frontends of a volume: which are wanted, which run, and what is done to make the two the same.
//!
//! ```text
//!            ┌── wanted, and the volume is open ──▶ Starting ──▶ Running
//!          Down                                        │            │ no longer wanted, or not open
//!            ▲                                         ▼            ▼
//!            └───────────────────────────────────── Failed      Stopping ──▶ Down
//! ```
//!
//! What is wanted lies in `volume.json`, so a server that starts again attaches what the one before it had. A frontend
//! runs only while the volume is open for its guest: a seal stops it, and what it takes back starts it again.
//!
//! Starting and stopping may wait for the kernel, which may in turn wait for bytes of the volume; so each has a thread
//! of its own, and the loop only hears of the end.

mod vhost;

use super::command::{refused, whole_story};
use super::mailbox::Mailbox;
use super::{Server, ring_the_bell};
use crate::control::{Answer, Phase};
use crate::frontend::{Frontend, FrontendKind, FrontendStatus};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};

/// A frontend that runs. Its threads reach the volume through the mailbox.
pub(crate) trait Running: Send {
    /// Where a guest finds it.
    fn address(&self) -> PathBuf;
    /// Takes it away from the guest. May wait for anything: the loop goes on meanwhile.
    fn stop(self: Box<Self>);
}

/// What a frontend stands on.
pub(crate) struct Ground {
    /// The volume's directory.
    pub(crate) dir: PathBuf,
    /// The volume's id.
    pub(crate) id: String,
    /// The volume's size in bytes.
    pub(crate) size_bytes: u64,
    /// Where its requests go.
    pub(crate) mailbox: Mailbox,
}

/// Starts a frontend; an error says in one sentence what was wrong and what to do.
fn start(frontend: &Frontend, ground: Ground) -> Result<Box<dyn Running>, String> {
    match frontend {
        Frontend::Fuse {} => Err(format!("this version of ferry has no frontend {}", frontend.kind())),
        Frontend::VhostUserBlk {} => vhost::start(ground),
    }
}

enum State {
    Down,
    Starting,
    Running(Box<dyn Running>),
    Stopping,
    Failed(String),
}

struct Attachment {
    frontend: Frontend,
    wanted: bool,
    state: State,
    /// Agents that wait until it runs, or is gone.
    askers: Vec<u64>,
}

/// What a thread that started or stopped a frontend has to tell.
type News = (FrontendKind, Result<Option<Box<dyn Running>>, String>);

pub(super) struct Frontends {
    all: Vec<Attachment>,
    sender: Sender<News>,
    news: Receiver<News>,
    /// The server is about to end: none shall run.
    ending: bool,
}

impl Frontends {
    pub(super) fn new(remembered: &[Frontend]) -> Self {
        let (sender, news) = channel();
        let attachment = |frontend: &Frontend| Attachment {
            frontend: frontend.clone(),
            wanted: true,
            state: State::Down,
            askers: Vec::new(),
        };
        Self { all: remembered.iter().map(attachment).collect(), sender, news, ending: false }
    }

    fn find(&mut self, kind: FrontendKind) -> Option<&mut Attachment> {
        self.all.iter_mut().find(|a| a.frontend.kind() == kind)
    }

    /// Whether nothing runs, nor is about to.
    pub(super) fn are_down(&self) -> bool {
        self.all.iter().all(|a| matches!(a.state, State::Down | State::Failed(_)))
    }

    pub(super) fn status(&self) -> Vec<FrontendStatus> {
        let status = |a: &Attachment| FrontendStatus {
            frontend: a.frontend.clone(),
            address: a.address(),
            error: match &a.state {
                State::Failed(reason) => Some(reason.clone()),
                State::Down | State::Starting | State::Running(_) | State::Stopping => None,
            },
        };
        self.all.iter().map(status).collect()
    }
}

impl Attachment {
    fn address(&self) -> Option<PathBuf> {
        match &self.state {
            State::Running(running) => Some(running.address()),
            State::Down | State::Starting | State::Stopping | State::Failed(_) => None,
        }
    }
}

impl Server {
    pub(super) fn attach(&mut self, asker: u64, frontend: Frontend) -> Option<Answer> {
        if self.phase() != Phase::Open {
            return Some(refused("only a volume that is open for its guest can be attached".to_owned()));
        }
        let kind = frontend.kind();
        if let Some(there) = self.frontends.find(kind) {
            if !there.wanted {
                return Some(refused(format!("the frontend {kind} is being detached; ask again")));
            }
            if there.frontend != frontend {
                return Some(refused(format!(
                    "the frontend {kind} is attached with other settings; detach it first"
                )));
            }
            there.askers.push(asker);
            if matches!(there.state, State::Failed(_)) {
                there.state = State::Down;
            }
        } else {
            if let Err(e) = self.store.describe(|config| config.frontends.push(frontend.clone())) {
                return Some(refused(whole_story(&e)));
            }
            let attachment = Attachment { frontend, wanted: true, state: State::Down, askers: vec![asker] };
            self.frontends.all.push(attachment);
        }
        self.follow_frontends();
        None
    }

    pub(super) fn detach(&mut self, asker: u64, kind: FrontendKind) -> Option<Answer> {
        if self.frontends.find(kind).is_none() {
            return Some(Answer::Done);
        }
        if let Err(e) = self.store.describe(|config| config.frontends.retain(|f| f.kind() != kind)) {
            return Some(refused(whole_story(&e)));
        }
        let there = self.frontends.find(kind)?;
        let overruled = if std::mem::replace(&mut there.wanted, false) {
            std::mem::take(&mut there.askers)
        } else {
            Vec::new()
        };
        there.askers.push(asker);
        for asker in overruled {
            self.answer(asker, &refused(format!("the frontend {kind} was detached meanwhile")));
        }
        self.follow_frontends();
        None
    }

    /// Stops all frontends for good, before the server ends.
    pub(super) fn end_frontends(&mut self) {
        self.frontends.ending = true;
        self.follow_frontends();
    }

    /// Starts and stops what must be, as things stand; answers those who wait for what has been reached.
    pub(super) fn follow_frontends(&mut self) {
        let open = self.phase() == Phase::Open && !self.frontends.ending;
        let mut answers = Vec::new();
        let mut all = std::mem::take(&mut self.frontends.all);
        all.retain_mut(|there| {
            let shall_run = there.wanted && open;
            there.state = match std::mem::replace(&mut there.state, State::Down) {
                State::Down if shall_run => self.start_frontend(&there.frontend),
                State::Running(running) if !shall_run => self.stop_frontend(there.frontend.kind(), running),
                same @ (State::Down
                | State::Starting
                | State::Running(_)
                | State::Stopping
                | State::Failed(_)) => same,
            };
            if let Some(answer) = outcome(there, open) {
                answers.extend(there.askers.drain(..).map(|asker| (asker, answer.clone())));
            }
            there.wanted || !matches!(there.state, State::Down | State::Failed(_))
        });
        self.frontends.all = all;
        answers.iter().for_each(|(asker, answer)| self.answer(*asker, answer));
    }

    fn start_frontend(&self, frontend: &Frontend) -> State {
        let ground = Ground {
            dir: self.store.dir.clone(),
            id: self.store.config.id.clone(),
            size_bytes: self.store.config.size_bytes,
            mailbox: self.mailbox.clone(),
        };
        let frontend = frontend.clone();
        self.in_a_thread(frontend.kind(), move || start(&frontend, ground).map(Some));
        State::Starting
    }

    fn stop_frontend(&self, kind: FrontendKind, running: Box<dyn Running>) -> State {
        self.in_a_thread(kind, move || {
            running.stop();
            Ok(None)
        });
        State::Stopping
    }

    fn in_a_thread(
        &self,
        kind: FrontendKind,
        work: impl FnOnce() -> Result<Option<Box<dyn Running>>, String> + Send + 'static,
    ) {
        let (sender, bell) = (self.frontends.sender.clone(), self.wake.clone());
        std::thread::spawn(move || {
            // Fails only when the server is gone.
            let _ = sender.send((kind, work()));
            ring_the_bell(&bell);
        });
    }

    /// Hears what threads have started and stopped.
    pub(super) fn hear_of_frontends(&mut self) {
        while let Ok((kind, news)) = self.frontends.news.try_recv() {
            let there = self.frontends.find(kind).expect("an attachment stays while a thread works on it");
            there.state = match news {
                Ok(Some(running)) => State::Running(running),
                Ok(None) => State::Down,
                Err(reason) => {
                    tracing::error!(%kind, reason, "a frontend cannot be attached");
                    State::Failed(reason)
                }
            };
            self.follow_frontends();
            self.end_if_asked();
        }
    }
}

/// What those are told who wait for an attachment; none while it is on its way.
fn outcome(there: &Attachment, open: bool) -> Option<Answer> {
    match (&there.state, there.wanted) {
        (State::Running(running), true) => Some(Answer::Attached { address: running.address() }),
        (State::Failed(reason), true) => Some(refused(reason.clone())),
        (State::Down, true) if !open => {
            Some(refused("the volume is no longer open for its guest".to_owned()))
        }
        (State::Down | State::Failed(_), false) => Some(Answer::Done),
        (State::Down | State::Starting | State::Stopping | State::Running(_), _) => None,
    }
}
