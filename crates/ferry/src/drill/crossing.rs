//! One move as an operator sees it: asked for, followed to its end, whoever dies meanwhile.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use ferry_api::http::Client;
use ferry_api::{
    AgentApi, ApiError, AskJobs, EventsAfter, Job, JobId, JobState, MoveMode, PaceVolume, StartMove,
    StepState, UndoMove, VolumeRef, WorkerName,
};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::lane::{LOOK_EVERY, Lane, PATIENCE};
use crate::commands::job::{HYDRATE, is_away};
use crate::demo::machine_ref;

/// How fast a disk follows that is held back, in bytes a second: too slow to arrive before anything else happens.
const HELD_BACK: NonZeroU64 = NonZeroU64::new(64 * 1024).expect("not zero");
/// How long a disk is held back in a rehearsal, so that all has been heard that comes before it arrives.
const HELD_BACK_FOR: Duration = Duration::from_millis(500);
/// How long one question for news waits, in milliseconds.
const NEWS_WAIT_MS: u64 = 200;

/// Which way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the other worker; the copy that is left is kept for so many hours.
    There(u64),
    /// Back to where it came from.
    Back,
    /// To the other worker, copied ahead. Its disk is never held back: the rounds would be, too.
    Warm,
    /// The same with its memory.
    Live,
}

/// A move that is under way.
pub struct Crossing {
    source: Client,
    target: Client,
    to: WorkerName,
    way: Way,
    volume: VolumeRef,
    /// The last job that the source had before.
    before: Option<JobId>,
    asking: Option<JoinHandle<Result<Job, ApiError>>>,
    job: Option<JobId>,
    /// Whether the disk may arrive.
    may_arrive: bool,
    /// How long it is held back when it begins to follow.
    held_back_for: Duration,
    was_let_go: Arc<AtomicBool>,
    /// Who cancels it.
    person: JoinSet<()>,
}

/// What the source says of the move.
enum Seen {
    /// Nothing, now.
    Nothing,
    /// There is none, and there will be none.
    Never,
    Job(Box<Job>),
}

impl Crossing {
    /// Gets ready for a move from where the machine is.
    ///
    /// # Errors
    /// An agent does not answer.
    pub async fn prepare(lane: &Lane, way: Way) -> Result<Self> {
        let (source, target) = (&lane.seats[lane.home], &lane.seats[1 - lane.home]);
        let volume = VolumeRef::Id(lane.volume);
        let held_back = (!matches!(way, Way::Warm | Way::Live)).then_some(HELD_BACK);
        source.client.volume_pace(&volume, paced(held_back)).await?;
        Ok(Self {
            before: source.client.jobs(AskJobs::default()).await?.iter().map(|job| job.id).max(),
            source: source.client.clone(),
            target: target.client.clone(),
            to: target.name.parse()?,
            way,
            volume,
            asking: None,
            job: None,
            may_arrive: false,
            held_back_for: Duration::ZERO,
            was_let_go: Arc::default(),
            person: JoinSet::new(),
        })
    }

    /// Asks for it. An agent that dies over it may leave that without an answer.
    ///
    /// # Errors
    /// None: the name of the machine is one.
    pub fn start(&mut self) -> Result<()> {
        let (machine, source) = (machine_ref()?, self.source.clone());
        let there = match self.way {
            Way::There(hours) => Some((hours, MoveMode::Cold)),
            Way::Warm => Some((0, MoveMode::Warm)),
            Way::Live => Some((0, MoveMode::Live)),
            Way::Back => None,
        };
        self.asking = Some(match there {
            Some((hours, mode)) => {
                let start = StartMove::new(machine, self.to.clone().into());
                let start = StartMove { retention_hours: Some(hours), mode, ..start };
                tokio::spawn(async move { source.move_start(start).await })
            }
            None => {
                let undo = UndoMove { machine, of: None, retention_hours: Some(0) };
                tokio::spawn(async move { source.move_undo(undo).await })
            }
        });
        Ok(())
    }

    /// Has `person` see to it that it is cancelled, as long as it is followed.
    pub fn is_cancelled_by(&mut self, person: JoinSet<()>) {
        self.person = person;
    }

    /// From now on the disk may arrive.
    pub fn let_disk_go(&mut self) {
        self.may_arrive = true;
    }

    /// The disk may arrive some time after it has begun to follow.
    pub fn let_disk_go_later(&mut self) {
        (self.may_arrive, self.held_back_for) = (true, HELD_BACK_FOR);
    }

    /// Whether the disk is held back no longer.
    pub fn disk_was_let_go(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.was_let_go)
    }

    /// Follows it to its end; none if it was never taken on. May be dropped and called again.
    ///
    /// # Errors
    /// It is refused, it is parked, or it does not end.
    pub async fn ended(&mut self) -> Result<Option<Job>> {
        self.follow_until(|job| job.state.is_final()).await
    }

    /// Follows it until the machine has moved and its disk follows.
    ///
    /// # Errors
    /// As [`Crossing::ended`]; or it ends before.
    pub async fn halfway(&mut self) -> Result<()> {
        let job = self.follow_until(|job| is_hydrating(job) || job.state.is_final()).await?;
        match job {
            Some(job) if is_hydrating(&job) => Ok(()),
            job => bail!("the way there went wrong ({})", in_words(job.as_ref())),
        }
    }

    async fn follow_until(&mut self, is_there: fn(&Job) -> bool) -> Result<Option<Job>> {
        let mut last = None;
        match timeout(PATIENCE, self.follow(is_there, &mut last)).await {
            Ok(there) => there,
            Err(_) => bail!("the move has not ended after {PATIENCE:?} ({})", in_words(last.as_ref())),
        }
    }

    async fn follow(&mut self, is_there: fn(&Job) -> bool, last: &mut Option<Job>) -> Result<Option<Job>> {
        loop {
            let job = match self.look().await? {
                Seen::Nothing => {
                    sleep(LOOK_EVERY).await;
                    continue;
                }
                Seen::Never => return Ok(None),
                Seen::Job(job) => *job,
            };
            if is_there(&job) {
                return Ok(Some(job));
            }
            if job.state == JobState::Parked {
                bail!("the move waits for a person ({})", in_words(Some(&job)));
            }
            if self.may_arrive && is_hydrating(&job) && !self.was_let_go.load(Ordering::Relaxed) {
                self.release_disk().await;
            }
            let news = EventsAfter { after: job.last_seq, wait_ms: NEWS_WAIT_MS };
            // Only to wait: what it tells is asked for again.
            let _ = self.source.job_events(job.id, news).await;
            *last = Some(job);
        }
    }

    async fn look(&mut self) -> Result<Seen> {
        if let Some(asking) = self.asking.take_if(|asking| asking.is_finished()) {
            match asking.await? {
                Ok(job) => self.job = Some(job.id),
                // Who was asked is dead: the next one knows what is durable.
                Err(refusal) if is_away(&refusal) => {}
                Err(refusal) => bail!("the move is refused: {refusal}"),
            }
        }
        let job = match self.job {
            Some(job) => self.source.job(job).await.map(Some),
            None => self.source.jobs(AskJobs::default()).await.map(|jobs| {
                jobs.into_iter()
                    .filter(|job| self.before.is_none_or(|before| job.id > before))
                    .max_by_key(|job| job.id)
            }),
        };
        match job {
            Ok(Some(job)) => {
                self.job = Some(job.id);
                Ok(Seen::Job(Box::new(job)))
            }
            Ok(None) if self.asking.is_none() => Ok(Seen::Never),
            Ok(None) => Ok(Seen::Nothing),
            Err(refusal) if is_away(&refusal) => Ok(Seen::Nothing),
            Err(refusal) => bail!("the move cannot be followed: {refusal}"),
        }
    }

    /// An agent that is dead or a server that is just started again is asked again later.
    async fn release_disk(&mut self) {
        sleep(std::mem::take(&mut self.held_back_for)).await;
        self.was_let_go.store(true, Ordering::Relaxed);
        // The source may itself still hydrate, when a machine goes back halfway.
        let source = self.source.volume_pace(&self.volume, paced(None)).await;
        let target = self.target.volume_pace(&self.volume, paced(None)).await;
        if source.is_err() || target.is_err() {
            self.was_let_go.store(false, Ordering::Relaxed);
            sleep(LOOK_EVERY).await;
        }
    }
}

/// Holds no disk back any more, wherever the machine is now.
///
/// # Errors
/// Its volume cannot be told.
pub async fn release_all(lane: &Lane) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while let Err(refusal) =
        lane.seats[lane.home].client.volume_pace(&VolumeRef::Id(lane.volume), paced(None)).await
    {
        if Instant::now() > deadline {
            return Err(refusal.into());
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// A move in one sentence.
pub fn in_words(job: Option<&Job>) -> String {
    let Some(job) = job else { return "nobody knows of it".to_owned() };
    let step = job.steps.iter().find(|step| step.state == StepState::Running);
    let step = step.map_or_else(String::new, |step| format!(" at {}, attempt {}", step.step, step.attempts));
    let why = job.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    format!("job {} is {:?}{step}{why}", job.id, job.state)
}

fn is_hydrating(job: &Job) -> bool {
    job.steps.iter().any(|step| step.step == HYDRATE && step.state == StepState::Running)
}

fn paced(budget_bytes_per_s: Option<NonZeroU64>) -> PaceVolume {
    PaceVolume { budget_bytes_per_s: Some(budget_bytes_per_s), ..PaceVolume::default() }
}
