//! The frontends of a volume: which are wanted, which run, and what is done to make the two the same.
//!
//! ```text
//!            ┌── wanted, and the volume is open ──▶ Starting ──▶ Running
//!          Down                                        │            │ no longer wanted, or not open
//!            ▲                                         ▼            ▼
//!            └───────────────────────────────────── Failed      Stopping ──▶ Down
//! ```
//!
//! What has run and is wanted lies in `volume.json`, so a server that starts again attaches what the one before it had. A frontend
//! runs only while the volume is open for its guest: a seal stops it, and what it takes back starts it again. One for VMs runs
//! on a volume that stands by as well, so that a VM whose memory is still to come finds its disk; the engine refuses all that
//! is asked until the volume is open.
//!
//! Starting and stopping may wait for the kernel, which may in turn wait for bytes of the volume; so each has a thread
//! of its own, and the loop only hears of the end.

mod fuse;
mod loop_device;
mod ublk;
mod vhost;

use super::command::{refused, whole_story};
use super::mailbox::Mailbox;
use super::{Server, ring_the_bell};
use crate::control::{Answer, Phase};
use crate::directory::DirectoryError;
use crate::frontend::{Frontend, FrontendKind, FrontendStatus};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
pub use ublk::{UblkDriver, probe_ublk};

/// A frontend that runs. Its threads reach the volume through the mailbox.
pub(crate) trait Running: Send {
    /// Where a guest finds it.
    fn address(&self) -> PathBuf;
    /// Why it should not be taken away from the guest now, in one sentence, if there is a reason. May wait.
    fn in_use(&self) -> Option<String> {
        None
    }
    /// The volume has this size now: what is to be done, on a thread that may wait, so that the guest sees it.
    fn grown(&self, size_bytes: u64) -> Box<dyn FnOnce() -> Result<(), String> + Send>;
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
        Frontend::Fuse {} => fuse::start(ground),
        Frontend::Ublk {} => ublk::start(ground),
        Frontend::VhostUserBlk {} => vhost::start(ground),
    }
}

/// Clears the block devices that a server which was killed has left on a volume, whose directory is to be removed.
///
/// # Errors
/// Something cannot be cleared; the reason is one sentence.
pub fn clear_devices(dir: &Path) -> Result<(), String> {
    fuse::clear(dir)?;
    ublk::clear(dir)
}

/// The block devices and mounts that are on the volume in this directory, whether somebody serves them or not.
pub(crate) fn devices_left(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let mut left = fuse::left(dir)?;
    left.extend(ublk::left(dir)?);
    Ok(left)
}

enum State {
    Down,
    /// As a volume of this size.
    Starting {
        size_bytes: u64,
    },
    Running(Box<dyn Running>),
    Stopping,
    Failed(String),
}

struct Attachment {
    frontend: Frontend,
    wanted: bool,
    /// It stands in `volume.json`, or will in a moment: it has run. One that has never run is forgotten if it fails.
    remembered: bool,
    state: State,
    /// Agents that wait until it runs, or is gone.
    askers: Vec<u64>,
}

/// What a thread that started or stopped a frontend has to tell.
enum News {
    Running(Box<dyn Running>),
    Failed(String),
    Down,
    /// It was not stopped, and why.
    InUse(Box<dyn Running>, String),
}

pub(super) struct Frontends {
    all: Vec<Attachment>,
    sender: Sender<(FrontendKind, News)>,
    news: Receiver<(FrontendKind, News)>,
    /// The server is about to end: none shall run.
    ending: bool,
}

impl Frontends {
    /// What is remembered of the volume in `dir`, and starts soon if it is `open`.
    pub(super) fn new(dir: &Path, remembered: &[Frontend], open: bool) -> Self {
        // A frontend that starts clears what is left of it itself, or goes on with it.
        let starts = |kind| open && remembered.iter().any(|frontend| frontend.kind() == kind);
        let fuse = if starts(FrontendKind::Fuse) { Ok(()) } else { fuse::clear(dir) };
        let ublk = if starts(FrontendKind::Ublk) { Ok(()) } else { ublk::clear(dir) };
        for reason in [fuse, ublk].into_iter().filter_map(Result::err) {
            tracing::error!(reason, "a block device is left that nobody serves");
        }
        let (sender, news) = channel();
        let attachment = |frontend: &Frontend| Attachment {
            frontend: frontend.clone(),
            wanted: true,
            remembered: true,
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
                State::Down | State::Starting { .. } | State::Running(_) | State::Stopping => None,
            },
        };
        self.all.iter().map(status).collect()
    }
}

impl Attachment {
    fn address(&self) -> Option<PathBuf> {
        match &self.state {
            State::Running(running) => Some(running.address()),
            State::Down | State::Starting { .. } | State::Stopping | State::Failed(_) => None,
        }
    }
}

impl Server {
    pub(super) fn attach(&mut self, asker: u64, frontend: Frontend) -> Option<Answer> {
        let kind = frontend.kind();
        if !self.may_run(kind) {
            return Some(refused("only a volume that is open for its guest can be attached".to_owned()));
        }
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
            self.frontends.all.push(Attachment {
                frontend,
                wanted: true,
                remembered: false,
                state: State::Down,
                askers: vec![asker],
            });
        }
        self.follow_frontends();
        None
    }

    pub(super) fn detach(&mut self, asker: u64, kind: FrontendKind) -> Option<Answer> {
        let Some(there) = self.frontends.find(kind) else { return Some(Answer::Done) };
        let overruled = match std::mem::replace(&mut there.wanted, false) {
            true => std::mem::take(&mut there.askers),
            false => Vec::new(),
        };
        there.askers.push(asker);
        self.answer_all(overruled, &refused(format!("the frontend {kind} was detached meanwhile")));
        self.follow_frontends();
        None
    }

    /// Whether such a frontend may run, as things stand.
    fn may_run(&self, kind: FrontendKind) -> bool {
        let stands_by = self.phase() == Phase::Standby && kind == FrontendKind::VhostUserBlk;
        (self.phase() == Phase::Open || stands_by) && !self.frontends.ending
    }

    fn answer_all(&mut self, askers: Vec<u64>, answer: &Answer) {
        askers.into_iter().for_each(|asker| self.answer(asker, answer));
    }

    /// Stops all frontends for good, before the server ends.
    pub(super) fn end_frontends(&mut self) {
        self.frontends.ending = true;
        self.follow_frontends();
    }

    /// Starts and stops what must be, as things stand; answers those who wait for what has been reached.
    pub(super) fn follow_frontends(&mut self) {
        let mut answers = Vec::new();
        let mut all = std::mem::take(&mut self.frontends.all);
        all.retain_mut(|there| {
            let open = self.may_run(there.frontend.kind());
            let shall_run = there.wanted && open;
            there.state = match std::mem::replace(&mut there.state, State::Down) {
                State::Down if shall_run => self.start_frontend(&there.frontend),
                State::Running(running) if !shall_run => {
                    self.stop_frontend(there.frontend.kind(), running, open)
                }
                same @ (State::Down
                | State::Starting { .. }
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
        let remembered = self.remember_frontends().map_err(|e| refused(whole_story(&e)));
        for (asker, answer) in &answers {
            // What is done lasts only if it is remembered.
            self.answer(*asker, remembered.as_ref().err().unwrap_or(answer));
        }
    }

    /// `volume.json` follows: it names what has run, until that is gone.
    fn remember_frontends(&mut self) -> Result<(), DirectoryError> {
        let remembered = self.frontends.all.iter().filter(|there| there.remembered);
        let all: Vec<Frontend> = remembered.map(|there| there.frontend.clone()).collect();
        if all == self.store.config.frontends {
            return Ok(());
        }
        self.store.describe(|config| config.frontends = all)
    }

    /// The volume has become larger: guests of frontends see it.
    pub(super) fn grow_frontends(&self, size_bytes: u64) {
        for there in &self.frontends.all {
            if let State::Running(running) = &there.state {
                tell_of_growth(&**running, size_bytes);
            }
        }
    }

    fn start_frontend(&self, frontend: &Frontend) -> State {
        let ground = Ground {
            dir: self.store.dir.clone(),
            id: self.store.config.id.clone(),
            size_bytes: self.store.config.size_bytes,
            mailbox: self.mailbox.clone(),
        };
        match frontend.kind() {
            FrontendKind::Fuse | FrontendKind::Ublk => fuse::be_below_a_device(),
            FrontendKind::VhostUserBlk => {}
        }
        let frontend = frontend.clone();
        self.in_a_thread(frontend.kind(), move || match start(&frontend, ground) {
            Ok(running) => News::Running(running),
            Err(reason) => News::Failed(reason),
        });
        State::Starting { size_bytes: self.store.config.size_bytes }
    }

    /// Stops a frontend; one that its guest still uses only when the volume is no longer the guest's.
    fn stop_frontend(&self, kind: FrontendKind, running: Box<dyn Running>, ask_first: bool) -> State {
        self.in_a_thread(kind, move || match running.in_use().filter(|_| ask_first) {
            Some(reason) => News::InUse(running, reason),
            None => {
                running.stop();
                News::Down
            }
        });
        State::Stopping
    }

    fn in_a_thread(&self, kind: FrontendKind, work: impl FnOnce() -> News + Send + 'static) {
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
            let now_bytes = self.store.config.size_bytes;
            let there = self.frontends.find(kind).expect("an attachment stays while a thread works on it");
            let mut refusal = None;
            there.state = match news {
                News::Running(running) => {
                    // It may have grown meanwhile.
                    if !matches!(there.state, State::Starting { size_bytes } if size_bytes == now_bytes) {
                        tell_of_growth(&*running, now_bytes);
                    }
                    there.remembered |= there.wanted;
                    State::Running(running)
                }
                News::Down => State::Down,
                News::Failed(reason) => {
                    tracing::error!(%kind, reason, "a frontend cannot be attached");
                    if !there.remembered {
                        there.wanted = false;
                        refusal = Some((std::mem::take(&mut there.askers), refused(reason.clone())));
                    }
                    State::Failed(reason)
                }
                News::InUse(running, reason) => {
                    there.wanted = true;
                    refusal = Some((std::mem::take(&mut there.askers), refused(reason)));
                    State::Running(running)
                }
            };
            if let Some((askers, refusal)) = refusal {
                self.answer_all(askers, &refusal);
            }
            self.follow_frontends();
            self.end_if_asked();
        }
    }
}

fn tell_of_growth(running: &dyn Running, size_bytes: u64) {
    let tell = running.grown(size_bytes);
    std::thread::spawn(move || {
        if let Err(reason) = tell() {
            tracing::error!(reason, "a guest does not see that its volume has grown");
        }
    });
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
        (State::Down | State::Starting { .. } | State::Stopping | State::Running(_), _) => None,
    }
}
