//! Machines that have arrived here and are taken back if they are not well: what `jobs/judge.rs` looks at, and what it does.

mod told;

pub(crate) use told::tell_arrived;

use crate::core::Core;
use crate::jobs::{Arrivals, Executor, HostClock, MoveInput, Mover, begin_move_with};
use crate::records::{Change, CrossingRecord, Records};
use ferry_api::{ApiError, JobId, Judged, Machine, MoveMode};
use ferry_crossing::{back, judging, target};
use ferry_fsm::Terms;
use std::sync::Arc;

type Answer<T> = Result<T, ApiError>;
type Moves = Executor<Records, HostClock, Mover<Core, HostClock>>;

/// The moves to this worker, and how those back are begun.
pub(crate) struct Arrived {
    pub(crate) core: Arc<Core>,
    pub(crate) moves: Arc<Moves>,
    /// How long the copies that a way back leaves here are kept, in milliseconds.
    pub(crate) retention_ms: u64,
}

impl Arrived {
    /// The move, if it still waits; to be judged while its turn is held.
    async fn waiting_one(&self, job: JobId) -> Answer<Option<CrossingRecord>> {
        Ok(self.core.records.crossing(job).await?.filter(judging::waits))
    }

    fn now_ms(&self) -> u64 {
        self.core.host.now_ms()
    }

    /// What the way back is, and the note of it.
    async fn way_back(&self, crossing: &CrossingRecord) -> Answer<MoveInput> {
        let (_, reserve) = target::reserved(Some(crossing.clone()), crossing.job)?;
        let machine = self.core.machines.find(&reserve.machine.into()).await?;
        let (_, to) = back::came_from(&machine, std::slice::from_ref(crossing), Some(crossing.job))?;
        self.core.peers.client(&to)?;
        Ok(MoveInput {
            machine: machine.id,
            machine_name: machine.name,
            from: self.core.config.name.clone(),
            to,
            retention_ms: self.retention_ms,
            mode: MoveMode::Cold,
            undo_unhealthy: false,
            way_back: true,
            force: false,
        })
    }
}

fn noted(crossing: &CrossingRecord, judged: Judged) -> Change {
    Change::Crossing(Box::new(CrossingRecord { judged: Some(judged), ..crossing.clone() }))
}

impl Arrivals for Arrived {
    async fn waiting(&self) -> Answer<Vec<(JobId, Option<Machine>)>> {
        let mut waiting = Vec::new();
        for crossing in self.core.records.crossings_under_way().await? {
            if judging::waits(&crossing) {
                waiting.push((crossing.job, self.core.target.crossing(crossing.job).await?.machine_now));
            }
        }
        Ok(waiting)
    }

    async fn stays(&self, job: JobId, why: Option<String>) -> Answer<()> {
        let turn = self.core.target.turn(job);
        let _turn = turn.lock().await;
        let Some(crossing) = self.waiting_one(job).await? else { return Ok(()) };
        let at_ms = self.now_ms();
        let judged = match why {
            None => Judged::Well { at_ms },
            Some(why) => Judged::Stays { why, at_ms },
        };
        Ok(self.core.records.change(vec![noted(&crossing, judged)]).await?)
    }

    async fn take_back(&self, job: JobId, why: String) -> Answer<()> {
        let turn = self.core.target.turn(job);
        let _turn = turn.lock().await;
        let Some(crossing) = self.waiting_one(job).await? else { return Ok(()) };
        let at_ms = self.now_ms();
        let input = match self.way_back(&crossing).await {
            Ok(input) => input,
            Err(error) => {
                let why = format!("it is not well ({why}), and cannot be taken back: {}", error.message);
                return Ok(self
                    .core
                    .records
                    .change(vec![noted(&crossing, Judged::Stays { why, at_ms })])
                    .await?);
            }
        };
        let back = JobId::fresh();
        let note = noted(&crossing, Judged::TakenBack { job: back, why, at_ms });
        begin_move_with(&self.moves, back, input, Terms::default(), vec![note]).await?;
        Ok(())
    }

    async fn come(&self) {
        self.core.target.one_to_judge().await;
    }
}
