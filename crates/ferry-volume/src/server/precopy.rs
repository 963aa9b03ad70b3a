//! Pre-copying, as agents ask for it: threads copy while the volume stands by and the loop serves nobody, see
//! [`crate::precopy`].
//!
//! Invariant: before the volume is opened, what was copied is adopted, or the engine knows that the store may hold anything there. Until
//! it is written over it lies in the data file; the next server makes holes of it.

use super::command::{refused, whole_story};
use super::{Server, ring_the_bell};
use crate::SourceUri;
use crate::control::{Adopted, Answer, Phase, PrecopyStatus};
use crate::directory::DATA;
use crate::precopy::{Copier, Held, PrecopyError, Right, Shared};
use ferry_engine::{Command, Event};
use std::fs::{File, OpenOptions};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};

/// What was copied, and who copies.
pub(super) struct Precopy {
    sender: Sender<(Arc<Shared>, Ended)>,
    ended: Receiver<(Arc<Shared>, Ended)>,
    /// None while a thread has it.
    held: Option<Held>,
    shared: Option<Arc<Shared>>,
    job: Option<Job>,
    failure: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Job {
    Round { mark: u64, since: Option<u64> },
    Adoption { asker: u64 },
}

/// How a thread ended; it gives back what is held.
struct Ended {
    held: Option<Held>,
    /// For an adoption: what is right.
    result: Result<Vec<Right>, PrecopyError>,
}

impl Precopy {
    pub(super) fn none() -> Self {
        let (sender, ended) = channel();
        Self { sender, ended, held: None, shared: None, job: None, failure: None }
    }

    /// From when this returns nobody writes to the store.
    pub(super) fn end(&mut self) {
        self.shared.take().into_iter().for_each(|shared| shared.end());
    }

    pub(super) fn status(&self) -> Option<PrecopyStatus> {
        let shared = self.shared.as_ref()?;
        let since = match self.job {
            Some(Job::Round { since, .. }) => since,
            Some(Job::Adoption { .. }) | None => self.held.as_ref().map(|held| held.since),
        };
        Some(PrecopyStatus {
            held_since: since,
            copies: matches!(self.job, Some(Job::Round { .. })),
            bytes_to_copy: shared.bytes_to_copy.load(Ordering::Relaxed),
            bytes_copied: shared.bytes_copied.load(Ordering::Relaxed),
            failure: self.failure.clone(),
        })
    }
}

impl Server {
    /// Begins to copy what has changed since `since`, or everything.
    pub(super) fn begin_round(&mut self, uri: &str, mark: u64, since: Option<u64>) -> Answer {
        if self.precopy.job == Some(Job::Round { mark, since }) {
            return Answer::Done;
        }
        if let Some(busy) = self.why_no_precopy() {
            return refused(busy);
        }
        let held = self.precopy.held.take();
        if since.is_some() && held.as_ref().map(|held| held.since) != since {
            self.precopy.held = held;
            return refused("nothing is held as of that mark; copy everything first".to_owned());
        }
        self.precopy.failure = None;
        let job = Job::Round { mark, since };
        self.begin(uri, job, move |copier, shared| {
            let Some(mut held) = held.filter(|_| since.is_some()) else {
                return match copier.copy_all(mark, shared) {
                    Ok(held) => Ended { held: Some(held), result: Ok(Vec::new()) },
                    Err(e) => Ended { held: None, result: Err(e) },
                };
            };
            let result = copier.catch_up(&mut held, mark, shared).map(|()| Vec::new());
            Ended { held: Some(held), result }
        })
        .unwrap_or(Answer::Done)
    }

    /// Begins to find out what of it is right; answered when that is durable.
    pub(super) fn begin_adoption(&mut self, asker: u64, uri: &str, since: u64) -> Option<Answer> {
        if self.is_adopted() {
            return self.command(asker, Command::Adopt);
        }
        if let Some(busy) = self.why_no_precopy() {
            return Some(refused(busy));
        }
        let Some(held) = self.precopy.held.take_if(|held| held.since == since) else {
            return Some(refused(
                "nothing is held as of that mark; all of the volume is at its source".to_owned(),
            ));
        };
        self.begin(uri, Job::Adoption { asker }, move |copier, _| {
            let result = copier.what_is_right(&held);
            Ended { held: Some(held), result }
        })
    }

    /// Opens the volume for its guest. What was copied and not adopted counts for nothing then.
    pub(super) fn open_guest_door(&mut self, asker: u64) -> Option<Answer> {
        if self.phase() == Phase::Standby && self.precopy.shared.is_some() {
            self.drop_precopy();
            self.engine.store_may_hold_anything();
        }
        self.command(asker, Command::Open)
    }

    pub(super) fn adopted(&self) -> Adopted {
        let status = self.engine.status();
        Adopted { bytes_held: status.bytes_local, bytes_remote: status.bytes_remote }
    }

    /// A thread has ended.
    pub(super) fn hear_of_precopy(&mut self) {
        while let Ok((shared, ended)) = self.precopy.ended.try_recv() {
            // One that was told to end may have taken its time.
            let is_ours = self.precopy.shared.as_ref().is_some_and(|ours| Arc::ptr_eq(ours, &shared));
            let Some(job) = self.precopy.job.take_if(|_| is_ours) else { continue };
            self.precopy.held = ended.held;
            match (job, ended.result) {
                (Job::Round { .. }, Ok(_)) => {}
                (Job::Round { .. }, Err(e)) => self.precopy.failure = Some(whole_story(&e)),
                (Job::Adoption { asker }, Err(e)) => self.answer(asker, &refused(whole_story(&e))),
                (Job::Adoption { asker }, Ok(right)) => self.adopt(asker, &right),
            }
        }
    }

    /// Copies no faster than what crosses in the background may.
    pub(super) fn pace_precopy(&mut self) {
        if let Some(shared) = &self.precopy.shared {
            let both = [self.store.config.budget_bytes_per_s, self.share.at(self.now_ms())];
            let rate = both.into_iter().flatten().min().map_or(0, NonZeroU64::get);
            shared.bytes_per_s.store(rate, Ordering::Relaxed);
        }
    }

    fn adopt(&mut self, asker: u64, right: &[Right]) {
        self.drop_precopy();
        for part in right {
            self.note_copied(part.blocks, part.crc32c);
            self.engine.adopt(part.blocks);
        }
        // What has changed since was copied, too, and lies where it is remote now.
        self.engine.store_may_hold_anything();
        self.commanded.push((asker, Command::Adopt));
        self.feed(Event::Command(Command::Adopt));
    }

    fn drop_precopy(&mut self) {
        self.precopy.end();
        self.precopy.held = None;
        self.precopy.failure = None;
        if let Some(Job::Adoption { asker }) = self.precopy.job.take() {
            self.answer(asker, &refused("the volume was opened meanwhile".to_owned()));
        }
    }

    /// Whether what was copied is local already: it was asked before, and the answer was lost.
    fn is_adopted(&self) -> bool {
        let status = self.engine.status();
        Phase::of_map(status.phase) == Phase::Standby && status.bytes_local > 0
    }

    /// Why there can be no copying now, if there cannot.
    fn why_no_precopy(&self) -> Option<String> {
        if self.phase() != Phase::Standby {
            return Some("only a volume that stands by copies ahead".to_owned());
        }
        if self.store.config.store.device.is_some() || self.store.direct.is_some() {
            return Some(
                "only into a file with buffered I/O is copied ahead; it follows when it is opened".to_owned(),
            );
        }
        if self.is_adopted() {
            return Some("what was copied ahead is adopted already".to_owned());
        }
        let busy = "it copies ahead already; wait until that has ended";
        self.precopy.job.is_some().then(|| busy.to_owned())
    }

    /// Starts a thread for a job; gives why it does not start, if so.
    fn begin(
        &mut self,
        uri: &str,
        job: Job,
        work: impl FnOnce(&Copier, &Shared) -> Ended + Send + 'static,
    ) -> Option<Answer> {
        let uri = match uri.parse() {
            Ok(SourceUri::Nbd(uri)) => uri,
            Ok(SourceUri::File(_)) => {
                return Some(refused("a file has no guest; give an NBD export".to_owned()));
            }
            Err(e) => return Some(refused(whole_story(&e))),
        };
        let data = match self.open_data() {
            Ok(data) => data,
            Err(e) => return Some(refused(format!("the data file cannot be opened: {e}"))),
        };
        let geometry = self.engine.geometry();
        let copier = Copier { uri, credentials: self.credentials.clone(), data, geometry };
        let shared = self.precopy.shared.get_or_insert_with(|| Arc::new(Shared::new())).clone();
        self.pace_precopy();
        let (sender, wake) = (self.precopy.sender.clone(), self.wake.clone());
        let run = move || {
            // Whoever listened may be gone.
            let ended = work(&copier, &shared);
            let _ = sender.send((shared, ended));
            ring_the_bell(&wake);
        };
        match std::thread::Builder::new().name("precopy".to_owned()).spawn(run) {
            Ok(_) => {
                self.precopy.job = Some(job);
                None
            }
            Err(e) => Some(refused(format!("there is no thread to copy with: {e}"))),
        }
    }

    fn open_data(&self) -> std::io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.store.dir.join(DATA))
    }
}
