//! The volumes of this worker: for each copy a keeper that sees to it that the right volume server runs.
//!
//! ```text
//!  records ──ownership──▶ keeper (one task a copy) ──▶ service wanted ──▶ make · launch · open · export · end
//!                            ▲ poke                         volume server (a process of its own, outlives us)
//! ```
//!
//! Invariants: what a server may do follows from the records, never the other way round. A copy that was handed
//! over, by the records or by the mark that outlives a restored backup of them ([`crate::fences`]), is never opened for
//! writing. Everything done to one copy is done under its keeper's lock, with the record read under that lock.

mod attach;
mod base;
mod budget;
pub(crate) mod files;
mod fork;
mod grow;
mod keeper;
mod loss;
mod precopy;
mod proof;
mod room;
mod shares;
mod shrink;
mod unneeded;
mod view;

pub(crate) use view::{percent_encoded, phase};

pub use room::NoRoom;

use crate::config::{Config, volume_dir};
use crate::drivers::LaunchError;
use crate::fences::{FenceError, Fences};
use crate::host::Host;
use crate::mutex::locked;
use crate::peers::Peers;
use crate::records::{Change, Records, RecordsError, VolumeRecord};
use ferry_api::{ApiError, ErrorCode, JobId, PaceVolume, Room, VolumeId, VolumeKey, VolumeName, WorkerName};
use ferry_crossing::service::{self, Deletion, Wish};
use ferry_crossing::{Fence, Subject};
use ferry_volume::Credentials;
use ferry_volume::control::{Client, ControlError, DiskTrouble, Phase, Status};
use keeper::{Doomed, Keeper};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Why something could not be done with a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumesError {
    /// The records refuse or failed.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// There is no such copy.
    #[error("there is no copy {0} of a volume here; `ferry volume list` shows those there are")]
    NotHere(VolumeKey),
    /// The records do not allow it.
    #[error("the copy {key} of a volume cannot be {what}: it is {is}")]
    NotAllowed {
        /// The copy.
        key: VolumeKey,
        /// What was asked.
        what: &'static str,
        /// What the records say it is.
        is: String,
    },
    /// The mark of a hand-over bars the copy.
    #[error("the copy {key} of a volume is never written here again: {fence}; ask the agent of that worker")]
    Fenced {
        /// The copy.
        key: VolumeKey,
        /// What the mark says.
        fence: Fence,
    },
    /// The mark of a hand-over cannot be read or left.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// The server and the records disagree in a way that only a person can judge.
    #[error(
        "the volume server of {key} is {phase:?}, which the records do not allow ({is}); ask for help before you change anything"
    )]
    Astray {
        /// The copy.
        key: VolumeKey,
        /// What the server is.
        phase: Phase,
        /// What the records say.
        is: &'static str,
    },
    /// The records would have a copy deleted that holds what nobody else may have.
    #[error(
        "the copy {key} of a volume is {is} by the records, but {why}; it is left alone. If the records come from a backup, \
         find out which copy is the real one before you delete {}", dir.display()
    )]
    Precious {
        /// The copy.
        key: VolumeKey,
        /// What the records say.
        is: String,
        /// What speaks against it.
        why: &'static str,
        /// Its directory.
        dir: PathBuf,
    },
    /// The directory is gone.
    #[error("the directory {} of a volume is missing; bring it back from where it went", path.display())]
    Lost {
        /// The directory.
        path: PathBuf,
    },
    /// The directory could not be made.
    #[error("the volume {key} cannot be made")]
    Make {
        /// The copy.
        key: VolumeKey,
        /// Why.
        #[source]
        cause: ferry_volume::StoreError,
    },
    /// A source is not one Ferry can read from.
    #[error(transparent)]
    Source(#[from] ferry_volume::SourceUriError),
    /// A file operation failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// The server could not be started.
    #[error("the volume server of {key} cannot be started")]
    Launch {
        /// The copy.
        key: VolumeKey,
        /// Why.
        #[source]
        cause: LaunchError,
    },
    /// The server ended or did not answer after it was started.
    #[error("the volume server of {key} {what}: {said} (see {})", log.display())]
    NotServing {
        /// The copy.
        key: VolumeKey,
        /// How it failed.
        what: &'static str,
        /// The last line of its log.
        said: String,
        /// Its log.
        log: PathBuf,
    },
    /// The server is gone or refuses.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A volume cannot be grown to that size.
    #[error("volume {name} cannot be grown: {reason}")]
    BadSize {
        /// Its name.
        name: VolumeName,
        /// Why not.
        reason: String,
    },
    /// A frontend cannot be attached or detached.
    #[error("frontend {frontend} of volume {name}: {reason}")]
    Frontend {
        /// Its name.
        name: VolumeName,
        /// The frontend.
        frontend: ferry_api::Frontend,
        /// Why not.
        reason: String,
    },
    /// The server takes too long.
    #[error("the volume server of {0} does not answer; look at its process and its server.log")]
    Silent(VolumeKey),
    /// What was to be cleared away is needed.
    #[error("{} is not cleared away: {why}", path.display())]
    Needed {
        /// What.
        path: PathBuf,
        /// Why it stays.
        why: String,
    },
    /// The worker is being shut down.
    #[error(
        "this worker is being shut down, so that none of its volumes is served; ask again when it is back"
    )]
    GoingDown,
    /// There is not enough room.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

impl From<VolumesError> for ApiError {
    fn from(error: VolumesError) -> Self {
        use ferry_volume::{StoreError, directory::DirectoryError};
        let code = match error {
            VolumesError::Records(records) => return records.into(),
            VolumesError::NotHere(_) => ErrorCode::NotFound,
            VolumesError::NotAllowed { .. } | VolumesError::Needed { .. } | VolumesError::Frontend { .. } => {
                ErrorCode::Conflict
            }
            VolumesError::Fenced { .. } => ErrorCode::HandedOver,
            VolumesError::NoRoom(_) => ErrorCode::NoRoom,
            VolumesError::Source(_) => ErrorCode::BadSource,
            VolumesError::BadSize { .. } => ErrorCode::InvalidRequest,
            VolumesError::Silent(_) | VolumesError::GoingDown => ErrorCode::Unavailable,
            VolumesError::Make {
                cause:
                    StoreError::Geometry(_)
                    | StoreError::Device { .. }
                    | StoreError::Directory(DirectoryError::BadGeometry { .. }),
                ..
            } => ErrorCode::InvalidRequest,
            VolumesError::Astray { .. }
            | VolumesError::Precious { .. }
            | VolumesError::Fence(_)
            | VolumesError::Lost { .. }
            | VolumesError::Make { .. }
            | VolumesError::Io { .. }
            | VolumesError::Launch { .. }
            | VolumesError::NotServing { .. }
            | VolumesError::Control(_) => ErrorCode::Internal,
        };
        Self::because(code, &error)
    }
}

/// The volumes of this worker.
#[derive(Clone)]
pub struct Volumes {
    inner: Arc<Inner>,
}

struct Inner {
    worker: WorkerName,
    state_dir: PathBuf,
    export_listen: SocketAddr,
    advertise: String,
    room_bytes: Option<u64>,
    records: Records,
    fences: Fences,
    peers: Peers,
    host: Arc<dyn Host>,
    credentials: Option<Credentials>,
    /// Workers that belong to the cluster no more.
    expelled: Mutex<BTreeSet<WorkerName>>,
    keepers: Mutex<BTreeMap<VolumeKey, Arc<Keeper>>>,
    /// Checks of copies that nobody serves.
    at_rest: proof::AtRest,
    /// Told when the worker's budget is another, and when a server was started.
    budget_news: tokio::sync::Notify,
    /// What other workers have said that all that reads from them may take, and until when that holds.
    told_paces: Mutex<BTreeMap<WorkerName, (std::num::NonZeroU64, tokio::time::Instant)>>,
    /// Workers that have said since the last division that what reads from them may take as much as goes.
    ended_paces: Mutex<BTreeSet<WorkerName>>,
    /// Copies that this agent has given a share.
    shared: Mutex<BTreeSet<VolumeKey>>,
    /// Held while room is checked and taken.
    room: tokio::sync::Mutex<()>,
    /// No volume is served any more, whatever the records say.
    going_down: AtomicBool,
}

impl Volumes {
    /// The volumes of the worker that `config` describes. Nothing is looked at yet.
    #[must_use]
    pub fn new(
        config: &Config,
        records: Records,
        fences: Fences,
        peers: Peers,
        host: Arc<dyn Host>,
        credentials: Option<Credentials>,
    ) -> Self {
        let inner = Inner {
            worker: config.name.clone(),
            state_dir: config.state_dir.clone(),
            export_listen: config.export_listen,
            advertise: config.advertise.clone(),
            room_bytes: config.room_bytes,
            records,
            fences,
            peers,
            host,
            credentials,
            expelled: Mutex::default(),
            keepers: Mutex::default(),
            at_rest: proof::AtRest::default(),
            budget_news: tokio::sync::Notify::new(),
            told_paces: Mutex::default(),
            ended_paces: Mutex::default(),
            shared: Mutex::default(),
            room: tokio::sync::Mutex::default(),
            going_down: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What this worker proves itself with to those it reads from.
    pub(crate) fn credentials(&self) -> Option<Credentials> {
        self.inner.credentials.clone()
    }

    /// Keeps all volumes in the records from now on: finds servers that run and starts those that should.
    ///
    /// # Errors
    /// The records cannot be read, or what is left of deleted volumes cannot be removed.
    pub async fn keep_all(&self) -> Result<(), VolumesError> {
        self.inner.host.remove_leftovers()?;
        for record in self.inner.records.volumes().await? {
            self.poke(record.key());
        }
        Ok(())
    }

    /// Ends all volume servers for good, as far as this agent goes, with everything durable: clones before what they may
    /// read. Answers the copies whose servers ended, and why others did not, in one sentence each.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn go_down(&self) -> Result<(Vec<VolumeKey>, Vec<String>), VolumesError> {
        self.inner.going_down.store(true, Ordering::Relaxed);
        let mut records = self.inner.records.volumes().await?;
        records.sort_by_key(|record| {
            (matches!(record.ownership, ferry_api::Ownership::Retired { .. }), record.source.is_none())
        });
        let (mut ended, mut left) = (Vec::new(), Vec::new());
        for record in records {
            if self.inner.service(&record).await? == service::Service::None {
                continue;
            }
            match self.converge(record.key()).await {
                Ok(_) | Err(VolumesError::NotHere(_)) => ended.push(record.key()),
                Err(error) => {
                    let error = ApiError::from(error);
                    left.push(format!(
                        "the volume server of {} ({}) goes on: {error}",
                        record.name,
                        record.key()
                    ));
                }
            }
        }
        Ok((ended, left))
    }

    /// Has the keeper of a copy look at the records again. To be called after they changed.
    pub fn poke(&self, key: VolumeKey) {
        Inner::keeper(&self.inner, key).poke();
    }

    /// Has the keepers of all copies of a volume look at the records again: one may be the base of another.
    pub fn poke_copies(&self, id: VolumeId) {
        let keepers = self.inner.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        let copies = keepers.iter().filter(|(key, _)| key.id == id);
        copies.for_each(|(_, keeper)| keeper.poke());
    }

    /// Adds copies to the records together with `more` changes, if there is room for them. They are made and
    /// served from then on, as their ownership says.
    ///
    /// # Errors
    /// [`VolumesError::NoRoom`]; the records refuse.
    pub async fn add(&self, volumes: Vec<VolumeRecord>, more: Vec<Change>) -> Result<(), VolumesError> {
        self.add_beside(0, volumes, more).await
    }

    /// As [`Volumes::add`], where so many bytes are kept for others.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn add_beside(
        &self,
        kept_bytes: u64,
        volumes: Vec<VolumeRecord>,
        more: Vec<Change>,
    ) -> Result<(), VolumesError> {
        let _taking = self.inner.room.lock().await;
        let room = self.room().await?;
        room::check(&Room { free_bytes: room.free_bytes.saturating_sub(kept_bytes), ..room }, &volumes)?;
        let keys: Vec<VolumeKey> = volumes.iter().map(VolumeRecord::key).collect();
        let mut changes: Vec<Change> = volumes.into_iter().map(|v| Change::AddVolume(Box::new(v))).collect();
        changes.extend(more);
        self.inner.records.change(changes).await?;
        keys.into_iter().for_each(|key| self.poke(key));
        Ok(())
    }

    /// How much room there is.
    ///
    /// # Errors
    /// The records or the filesystem cannot be read.
    pub async fn room(&self) -> Result<Room, VolumesError> {
        let volumes = self.inner.records.volumes().await?;
        room::measure(&*self.inner.host, &self.inner.state_dir, self.inner.room_bytes, &volumes)
    }

    /// Does now what the records say is to be done for a copy, and tells whether it worked.
    ///
    /// # Errors
    /// It did not work; the keeper goes on trying.
    pub async fn converge(&self, key: VolumeKey) -> Result<Option<Status>, VolumesError> {
        Inner::keeper(&self.inner, key).converge(&self.inner).await
    }

    /// What the server of a copy tells.
    ///
    /// # Errors
    /// It does not run or does not answer.
    pub async fn status(&self, key: VolumeKey) -> Result<Status, VolumesError> {
        self.inner.status(key).await
    }

    /// Exports a copy to another worker, which can read it once it is sealed. Answers its NBD URI.
    ///
    /// # Errors
    /// This worker has no right to it any more, or its server does not run or refuses.
    pub async fn export(&self, key: VolumeKey, reader: Option<&WorkerName>) -> Result<String, VolumesError> {
        let keeper = Inner::keeper(&self.inner, key);
        let _held = keeper.lock().await;
        let record = self.inner.record(key).await?;
        self.inner.permit(&record, Wish::Export, "exported").await?;
        let status = self.inner.serving(&record).await?;
        self.inner.admit(key, reader).await?;
        let address = match status.export {
            Some(address) => address,
            None => {
                let listen = self.inner.export_listen;
                self.inner.ask(key, move |client| client.export(listen)).await?
            }
        };
        Ok(self.inner.export_uri(key, address))
    }

    /// Lets those workers, and no others, read nothing here any more, whatever they were admitted to: they were revoked.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn expel(&self, revoked: BTreeSet<WorkerName>) -> Result<(), VolumesError> {
        let before = std::mem::replace(&mut *locked(&self.inner.expelled), revoked.clone());
        if !revoked.is_subset(&before) {
            self.inner.records.volumes().await?.iter().for_each(|record| self.poke(record.key()));
        }
        Ok(())
    }

    /// Exports a copy no longer. A server that does not run is started for it: it would listen again by itself.
    ///
    /// # Errors
    /// The server cannot be started or refuses.
    pub async fn withdraw(&self, key: VolumeKey) -> Result<(), VolumesError> {
        let keeper = Inner::keeper(&self.inner, key);
        let _held = keeper.lock().await;
        let record = self.inner.record(key).await?;
        self.inner.serving(&record).await?;
        self.inner.ask(key, Client::withdraw).await
    }

    /// Makes durable what was written to a copy so far.
    ///
    /// # Errors
    /// Its server does not run, or its disk failed.
    pub async fn flush(&self, key: VolumeKey) -> Result<(), VolumesError> {
        self.inner.ask(key, Client::flush).await
    }

    /// The same before it is sealed, so that the seal has little to do. On a disk that takes no writes any more nothing can be done ahead.
    ///
    /// # Errors
    /// As [`Volumes::flush`].
    pub(crate) async fn flush_ahead(&self, key: VolumeKey) -> Result<(), VolumesError> {
        match self.flush(key).await {
            Err(VolumesError::Control(ControlError::Refused { .. })) if self.is_read_only(key).await => {
                Ok(())
            }
            other => other,
        }
    }

    async fn is_read_only(&self, key: VolumeKey) -> bool {
        let status = self.inner.status(key).await;
        status.is_ok_and(|status| status.disk_trouble == Some(DiskTrouble::ReadOnly))
    }

    /// Makes a copy unchangeable, which the records must say is sealed. Durable when it answers.
    ///
    /// # Errors
    /// The records do not say so, or the server does not run or refuses.
    pub async fn seal(&self, key: VolumeKey) -> Result<(), VolumesError> {
        let keeper = Inner::keeper(&self.inner, key);
        let _held = keeper.lock().await;
        let record = self.inner.record(key).await?;
        self.inner.permit(&record, Wish::Seal, "sealed").await?;
        self.inner.serving(&record).await?;
        self.inner.ask(key, Client::seal).await
    }

    /// Lets the guest write a copy again that was sealed; the records must say that it is ours.
    ///
    /// # Errors
    /// The records do not say so, it is fenced, or the server does not run or refuses.
    pub async fn unseal(&self, key: VolumeKey) -> Result<(), VolumesError> {
        let keeper = Inner::keeper(&self.inner, key);
        let _held = keeper.lock().await;
        let record = self.inner.record(key).await?;
        self.inner.permit(&record, Wish::Unseal, "opened again").await?;
        self.inner.serving(&record).await?;
        // Also when it is open: a seal that somebody asked for and did not wait for may still be under way, and the
        // server does one after the other.
        self.inner.ask(key, Client::unseal).await
    }

    /// Leaves a durable mark that a copy was handed over. From then on neither it nor an earlier one is ever opened here
    /// for writing, or made, whatever the records say.
    ///
    /// # Errors
    /// The mark cannot be written.
    pub async fn fence(&self, key: VolumeKey, to: &WorkerName, job: JobId) -> Result<(), VolumesError> {
        let keeper = Inner::keeper(&self.inner, key);
        let _held = keeper.lock().await;
        let fence = Fence { generation: key.generation, to: to.clone(), job };
        Ok(self.inner.fences.raise(Subject::Volume(key.id), fence).await?)
    }

    /// Ends export and server of a copy that nobody reads any more; the copy stays. The records must say it is
    /// handed over or retired.
    ///
    /// # Errors
    /// The records do not say so, or the server refuses.
    pub async fn retire(&self, key: VolumeKey) -> Result<(), VolumesError> {
        let keeper = Inner::keeper(&self.inner, key);
        let _held = keeper.lock().await;
        let record = self.inner.record(key).await?;
        self.inner.permit(&record, Wish::Retire, "retired").await?;
        keeper.give_up();
        ignore_absent(self.inner.ask(key, Client::withdraw).await)?;
        self.inner.end_server(key, Doomed::No).await
    }

    /// Forgets the source of a copy that is whole.
    ///
    /// # Errors
    /// Blocks are still remote, or the server does not run.
    pub async fn detach_source(&self, key: VolumeKey) -> Result<(), VolumesError> {
        let keeper = Inner::keeper(&self.inner, key);
        let _held = keeper.lock().await;
        let record = self.inner.record(key).await?;
        if record.source.is_none() {
            return Ok(());
        }
        // One that has moved on and was retired is served by nobody, and reads from nobody.
        if service::wanted(&record.ownership, false) != service::Service::None {
            self.inner.serving(&record).await?;
            self.inner.ask(key, Client::detach_source).await?;
        }
        Ok(self.inner.records.change(vec![Change::Source { key, source: None }]).await?)
    }

    /// Sets the pace of a copy's hydration; its server remembers it.
    ///
    /// # Errors
    /// Nobody serves the copy, or its server refuses.
    pub async fn pace(&self, key: VolumeKey, pace: PaceVolume) -> Result<(), VolumesError> {
        let keeper = Inner::keeper(&self.inner, key);
        let _held = keeper.lock().await;
        let record = self.inner.record(key).await?;
        if service::wanted(&record.ownership, false) == service::Service::None {
            return Err(not_allowed(&record, "given another pace"));
        }
        self.inner.serving(&record).await?;
        self.inner.ask(key, move |client| set_pace(client, pace)).await
    }

    /// Deletes a copy: its server, its directory, its record. Nothing happens if it is not there.
    ///
    /// # Errors
    /// It was handed over and may still be read by its owner; or a file operation failed.
    pub async fn delete(&self, key: VolumeKey) -> Result<(), VolumesError> {
        let keeper = Inner::keeper(&self.inner, key);
        let _held = keeper.lock().await;
        let Some(record) = self.inner.records.volume(key).await? else { return Ok(()) };
        let dir = volume_dir(&self.inner.state_dir, key);
        let barred = self.inner.fences.barring(Subject::Volume(key.id), key.generation)?.is_some();
        let is_base = self.inner.is_base(key).await?;
        match files::deletion(&*self.inner.host, &record, barred, is_base)? {
            Deletion::Fits => {}
            Deletion::Refused => return Err(not_allowed(&record, "deleted")),
            Deletion::Astray(why) => {
                let is = service::in_words(&record.ownership);
                return Err(VolumesError::Precious { key, is, why, dir });
            }
        }
        self.inner.end_server(key, Doomed::Yes).await?;
        let leftover = self.inner.host.set_aside(key)?;
        files::give_back_device(&record).await;
        self.inner.records.change(vec![Change::RemoveVolume(key)]).await?;
        keeper.poke();
        self.inner.host.remove(leftover).await
    }
}

fn not_allowed(record: &VolumeRecord, what: &'static str) -> VolumesError {
    VolumesError::NotAllowed { key: record.key(), what, is: service::in_words(&record.ownership) }
}

/// A server that is not there needs not be told to stop doing something.
fn ignore_absent(result: Result<(), VolumesError>) -> Result<(), VolumesError> {
    match result {
        Err(VolumesError::Control(ControlError::NotRunning { .. })) => Ok(()),
        other => other,
    }
}

/// Tells a server what is given of a pace.
fn set_pace(client: &mut Client, pace: PaceVolume) -> Result<(), ControlError> {
    let PaceVolume { budget_bytes_per_s, guard_us, finish_by_ms } = pace;
    budget_bytes_per_s.map_or(Ok(()), |budget| client.set_budget(budget))?;
    guard_us.map_or(Ok(()), |bound| client.set_guard(bound))?;
    // Last: whether it can be met depends on the budget.
    finish_by_ms.map_or(Ok(()), |at_ms| client.set_finish_by(at_ms))
}

#[cfg(test)]
mod tests;
