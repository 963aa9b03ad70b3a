//! The minder of one machine: compares what runs with what the records say, whenever one of them changed.
//!
//! Only the minder's own task starts, stops and reaps; others poke it and wait.

use super::filesystems::Devices;
use super::health::Nurse;
use super::policy::{RAN_WELL, stays_down, wait};
use super::{Inner, MachinesError};
use crate::drivers::{Ended, Watch};
use crate::records::{Change, MachineRecord, MemoryMoves, ProcessMark};
use ferry_api::{ApiError, ErrorCode, Exit, Health, MachineId, MachineState};
use ferry_crossing::Subject;
use ferry_crossing::minding::{Care, care, care_at_the_end};
use ferry_volume::control::Phase;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// First and longest wait before a start that failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// How long after a look at devices that told nothing the next one is.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Minds one machine.
pub(super) struct Minder {
    id: MachineId,
    poked: Notify,
    /// How many times somebody asked to be told when the minder is through, and which of them it has answered.
    asked: AtomicU64,
    answered: AtomicU64,
    news: Notify,
    seen: Mutex<Seen>,
}

/// What the minder found out and others may want to know.
#[derive(Default)]
struct Seen {
    /// Why the last start failed.
    trouble: Option<String>,
    /// How often it was started again since it last ran well.
    restarts: u32,
    /// When it may be started again, and the same for people.
    not_before: Option<(Instant, u64)>,
    /// Who looks after it while it runs, if it wants that.
    nurse: Option<Nurse>,
}

/// What a minder waits for.
enum Next {
    /// The machine is gone from the records.
    Gone,
    /// It does not run and shall not.
    Down,
    /// It runs and shall; perhaps another look after this time.
    Up(Watch, Option<Duration>),
    /// It shall run; another try after this time.
    Later(Duration),
}

impl Minder {
    /// Looks at the records again, soon.
    pub(super) fn poke(&self) {
        self.poked.notify_one();
    }

    /// Returns when everything was tried once that the records ask for now.
    pub(super) async fn settle(&self) {
        let ticket = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.poke();
        loop {
            // Those who wait go on in the order in which they came.
            let mut news = pin!(self.news.notified());
            news.as_mut().enable();
            if self.answered.load(Ordering::SeqCst) >= ticket {
                return;
            }
            news.await;
        }
    }

    /// Tells whoever has asked up to this ticket that the minder is through.
    fn answer(&self, ticket: u64) {
        self.answered.fetch_max(ticket, Ordering::SeqCst);
        self.news.notify_waiters();
    }

    /// Starts it at once the next time, however often it has ended.
    pub(super) fn forgive(&self) {
        let mut seen = self.seen();
        seen.restarts = 0;
        seen.not_before = None;
    }

    /// Why the last start failed, if it did.
    pub(super) fn trouble(&self) -> Option<String> {
        self.seen().trouble.clone()
    }

    /// How the machine is, if it runs and that is asked.
    pub(super) fn health(&self) -> Option<Health> {
        self.seen().nurse.as_ref().map(Nurse::health)
    }

    /// What a machine waits for that shall run and does not.
    pub(super) fn waiting(&self) -> MachineState {
        let seen = self.seen();
        match (&seen.trouble, seen.not_before) {
            (Some(trouble), _) => MachineState::Starting { waits_for: trouble.clone() },
            (None, Some((_, retry_at_ms))) => {
                MachineState::Restarting { retry_at_ms, restarts: seen.restarts }
            }
            (None, None) => MachineState::Starting { waits_for: "its volumes are being opened".to_owned() },
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The minder's task; ends when the machine is gone from the records.
    async fn run(self: Arc<Self>, inner: Arc<Inner>) {
        let mut running = None;
        let mut failures = 0;
        loop {
            let ticket = self.asked.load(Ordering::SeqCst);
            let next = match self.pass(&inner, running.take()).await {
                Ok(next) => {
                    failures = 0;
                    self.seen().trouble = None;
                    next
                }
                Err(error) => {
                    let trouble = ApiError::because(ErrorCode::Internal, &error).message;
                    tracing::warn!(machine = %self.id, error = %trouble, "a machine is not as it should be");
                    self.seen().trouble = Some(trouble);
                    failures += 1;
                    Next::Later(RETRY.0.saturating_mul(1 << failures.min(10)).min(RETRY.1))
                }
            };
            self.answer(ticket);
            match next {
                Next::Gone => {
                    inner.dismiss(&self);
                    // Whoever has asked meanwhile is told as well.
                    self.answer(u64::MAX);
                    return;
                }
                Next::Down => self.poked.notified().await,
                Next::Later(wait) => {
                    tokio::select! {
                        biased;
                        () = self.poked.notified() => {}
                        () = tokio::time::sleep(wait) => {}
                    }
                }
                Next::Up(watch, look_again) => {
                    let ended = tokio::select! {
                        biased;
                        ended = watch.ended() => Some(ended),
                        () = self.poked.notified() => None,
                        () = tokio::time::sleep(look_again.unwrap_or_default()), if look_again.is_some() => None,
                    };
                    match ended {
                        None => running = Some(watch),
                        Some(ended) => self.note_end(&inner, ended).await,
                    }
                }
            }
        }
    }

    /// Does what is to be done.
    async fn pass(&self, inner: &Arc<Inner>, running: Option<Watch>) -> Result<Next, MachinesError> {
        let Some(record) = inner.records.machine(self.id).await? else { return Ok(Next::Gone) };
        let running = match (running, &record.process) {
            (Some(watch), _) => Some(watch),
            (None, Some(mark)) => {
                let found = inner.host.driver(record.spec.driver.kind()).find(&inner.dir(self.id), mark)?;
                if found.is_none() {
                    inner.unmounted(&record).await?;
                    self.note_end(inner, Ended::UNSEEN).await;
                    return Ok(Next::Later(Duration::ZERO));
                }
                // An agent that died may have left it frozen.
                Inner::thaw(inner, &record);
                found
            }
            (None, None) => None,
        };
        let care = match inner.is_going_down.load(Ordering::Relaxed) {
            true => care_at_the_end(running.is_some()),
            false => care(&record, running.is_some()),
        };
        match (care, running) {
            (Care::Leave, Some(watch)) => {
                let look_again = match inner.devices(&record).await {
                    Devices::Kept => None,
                    Devices::Unknown => Some(LOOK_AGAIN),
                    Devices::Lost => return self.renew(inner, &record, &watch).await,
                };
                if let Some(mark) = &record.process {
                    self.look_after(inner, &record, mark)?;
                }
                Ok(Next::Up(watch, look_again))
            }
            (Care::Stop, Some(watch)) => {
                self.seen().nurse = None;
                let grace = match record.memory {
                    Some(MemoryMoves::Left) => Duration::ZERO,
                    Some(MemoryMoves::Away | MemoryMoves::Here) | None => {
                        Duration::from_millis(record.spec.stop_grace_ms)
                    }
                };
                let ended = watch.stop(record.spec.stop_signal.number(), grace).await;
                inner.unmounted(&record).await?;
                inner.records.change(vec![inner.process_ended(self.id, Some(ended), false)]).await?;
                Ok(Next::Down)
            }
            (Care::Leave | Care::Stop, None) => unreachable!("only what runs is left alone or stopped"),
            (Care::Rest, _) => Ok(Next::Down),
            (Care::Start, _) => {
                let not_before = self.seen().not_before;
                match not_before {
                    Some((at, _)) if at > Instant::now() => Ok(Next::Later(at - Instant::now())),
                    Some(_) | None => {
                        let (watch, mark) = inner.start(&record).await?;
                        self.look_after(inner, &record, &mark)?;
                        Ok(Next::Up(watch, None))
                    }
                }
            }
        }
    }

    /// Ends a machine that has lost a file system, so that it is started again on what its volume holds: nothing that it asks of that
    /// could succeed any more.
    async fn renew(
        &self,
        inner: &Inner,
        record: &MachineRecord,
        watch: &Watch,
    ) -> Result<Next, MachinesError> {
        tracing::warn!(
            machine = %record.name,
            "a volume that a machine had mounted was gone with its server; the machine is started again"
        );
        self.seen().nurse = None;
        watch.kill_group();
        let ended = watch.ended().await;
        inner.unmounted(record).await?;
        let exit = Exit { lost_its_disk: true, ..inner.exit(ended) };
        let ended = Change::ProcessEnded { machine: self.id, exit: Some(exit), stays_down: false };
        inner.records.change(vec![ended]).await?;
        Ok(Next::Later(Duration::ZERO))
    }

    /// Has somebody see how a machine is that runs, if nobody does yet and its spec asks for it.
    fn look_after(
        &self,
        inner: &Arc<Inner>,
        record: &MachineRecord,
        mark: &ProcessMark,
    ) -> Result<(), MachinesError> {
        if record.spec.health.is_some() && self.seen().nurse.is_none() {
            let launch = inner.launch(record, Vec::new(), Vec::new())?;
            self.seen().nurse = Nurse::begin(inner, launch, mark.clone());
        }
        Ok(())
    }

    /// Records that the process ended by itself, and decides what follows.
    async fn note_end(&self, inner: &Inner, ended: Ended) {
        self.seen().nurse = None;
        tracing::info!(machine = %self.id, %ended, "a machine ended");
        let record = match inner.records.machine(self.id).await {
            Ok(Some(record)) => record,
            Ok(None) => return,
            Err(error) => {
                return tracing::warn!(machine = %self.id, %error, "cannot read the record of a machine");
            }
        };
        // A machine that stays down leaves nothing mounted; one that starts again mounts what it finds.
        if let Err(error) = inner.unmounted(&record).await {
            let error = ApiError::because(ErrorCode::Internal, &error).message;
            tracing::warn!(machine = %self.id, %error, "the devices of a machine that ended are still held");
        }
        if record.memory == Some(MemoryMoves::Here) {
            // It never was the machine, which is started anew once it is known to run nowhere else.
            return self.record_end(inner, None, false).await;
        }
        let ran_ms = record
            .process
            .as_ref()
            .map_or(0, |process| inner.host.now_ms().saturating_sub(process.started_at_ms));
        // An end that was asked for (by somebody else's signal) is not held against a machine that shall be down.
        let stays_down = record.shall_run() && stays_down(record.spec.restart, ended);
        {
            let mut seen = self.seen();
            seen.restarts = if Duration::from_millis(ran_ms) >= RAN_WELL { 0 } else { seen.restarts + 1 };
            let pause = if seen.restarts == 0 { Duration::ZERO } else { wait(seen.restarts) };
            let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            seen.not_before = Some((Instant::now() + pause, inner.host.now_ms().saturating_add(pause_ms)));
        }
        self.record_end(inner, Some(ended), stays_down).await;
    }

    async fn record_end(&self, inner: &Inner, ended: Option<Ended>, stays_down: bool) {
        let ended = inner.process_ended(self.id, ended, stays_down);
        if let Err(error) = inner.records.change(vec![ended]).await {
            tracing::warn!(machine = %self.id, %error, "cannot record that a machine ended");
        }
    }
}

impl Inner {
    /// The minder of a machine; begins to mind it if nobody does yet.
    pub(super) fn minder(inner: &Arc<Self>, id: MachineId) -> Arc<Minder> {
        let mut minders = inner.minders.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = || {
            let minder = Arc::new(Minder {
                id,
                poked: Notify::new(),
                asked: AtomicU64::new(0),
                answered: AtomicU64::new(0),
                news: Notify::new(),
                seen: Mutex::default(),
            });
            tokio::spawn(Arc::clone(&minder).run(Arc::clone(inner)));
            minder
        };
        Arc::clone(minders.entry(id).or_insert_with(begin))
    }

    fn dismiss(&self, minder: &Arc<Minder>) {
        let mut minders = self.minders.lock().unwrap_or_else(PoisonError::into_inner);
        if minders.get(&minder.id).is_some_and(|minding| Arc::ptr_eq(minding, minder)) {
            minders.remove(&minder.id);
        }
    }

    /// Opens a machine's volumes and starts it; its process is recorded before it runs.
    async fn start(&self, record: &MachineRecord) -> Result<(Watch, ProcessMark), MachinesError> {
        if let Some(fence) = self.fences.barring(Subject::Machine(record.id), record.generation)? {
            return Err(MachinesError::Fenced { name: record.name.clone(), fence });
        }
        let begun = Instant::now();
        let driver = self.host.driver(record.spec.driver.kind());
        driver.check(&record.spec).await?;
        for (volume, key) in record.volumes.iter().zip(record.volume_keys()) {
            let name = || volume.name.clone();
            let status = self.volumes.converge(key).await;
            let status =
                status.map_err(|cause| MachinesError::Volume { name: name(), cause: Box::new(cause) })?;
            if status.is_none_or(|status| status.phase != Phase::Open) {
                return Err(MachinesError::VolumeNotOpen { name: name() });
            }
        }
        let (mounts, making) = self.to_mount(record).await?;
        let disks = self.disks(record).await?;
        let held = driver.start(&self.launch(record, mounts, disks)?).await?;
        let process = held.mark().clone();
        // What is made once, no later start has to make.
        let took = begun.elapsed().saturating_sub(making);
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let starts = Change::ProcessStarts { machine: record.id, process: process.clone(), took_ms };
        let recorded = self.records.change(vec![starts]).await;
        if let Err(error) = recorded {
            held.abandon().await;
            return Err(error.into());
        }
        match held.release() {
            Ok(watch) => Ok((watch, process)),
            Err(error) => {
                self.records.change(vec![self.process_ended(record.id, None, false)]).await?;
                Err(error.into())
            }
        }
    }

    fn process_ended(&self, machine: MachineId, ended: Option<Ended>, stays_down: bool) -> Change {
        Change::ProcessEnded { machine, exit: ended.map(|ended| self.exit(ended)), stays_down }
    }

    fn exit(&self, ended: Ended) -> Exit {
        Exit {
            code: ended.code,
            signal: ended.signal,
            out_of_memory: ended.out_of_memory,
            lost_its_disk: false,
            asked: ended.asked,
            at_ms: self.host.now_ms(),
        }
    }
}
