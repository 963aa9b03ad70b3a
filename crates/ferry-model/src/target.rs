//! What one agent asks of another, and how the other answers: the shell of [`ferry_crossing::target`].

use crate::host::{Host, Stepped};
use crate::names;
use crate::scope::{Bug, Scope};
use ferry_api::{
    Activate, ApiError, CrossingState, ErrorCode, JobId, Ownership, Precopy, Prepare, Reserve, ReserveVolume,
    VolumeKey, VolumePhase,
};
use ferry_crossing::service::{self, Service};
use ferry_crossing::{BaseRecord, Change, CrossingRecord, VolumeRecord, history, target};

/// A call on its way. The network may deliver it late, again, out of order, or never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) job: JobId,
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) asks: Asks,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    Reserve(Box<Reserve>),
    Prepare(Prepare),
    Precopy(Precopy),
    /// A process that waits for the memory.
    Expect,
    Activate(Activate),
    Forsake,
    Boot,
    Settle,
    Release,
}

impl Asks {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Reserve(_) => "reserve",
            Self::Prepare(_) => "prepare",
            Self::Precopy(wish) if wish.volumes.iter().all(|volume| volume.mark.is_some()) => "precopy",
            Self::Precopy(_) => "adopt",
            Self::Expect => "expect",
            Self::Activate(_) => "activate",
            Self::Forsake => "forsake",
            Self::Boot => "boot",
            Self::Settle => "settle",
            Self::Release => "release",
        }
    }
}

/// Which volumes of a reservation have a base, a bit each; the number of the process that waits for memory; of other calls nothing.
pub(crate) type Based = u8;

type Answer = Result<Based, ErrorCode>;

fn code(error: ApiError) -> ErrorCode {
    error.code
}

impl Host {
    /// A call arrives. With `cut` the agent dies right behind the transaction, if there is one.
    pub(crate) fn arrives(mut self, scope: &Scope, call: &Call, cut: bool) -> Option<Stepped> {
        let before = self.books.clone();
        let answer = match &call.asks {
            Asks::Reserve(reserve) => self.reserve(scope, reserve),
            Asks::Prepare(prepare) => self.prepare(scope, prepare, cut),
            Asks::Precopy(wish) => self.precopy(wish.clone()).map(|()| 0),
            Asks::Activate(activate) => self.activate(scope, activate, cut),
            Asks::Expect => self.expect(call.job, cut),
            Asks::Forsake => self.forsake(scope, call.job),
            Asks::Boot => self.boot(scope, call.job),
            Asks::Settle => self.settle(scope, call.job),
            Asks::Release => self.release(scope, call.job, cut),
        };
        if !cut {
            let mut stepped = Stepped::to(self);
            stepped.answers = Some(answer);
            return Some(stepped);
        }
        if std::rc::Rc::ptr_eq(&before, &self.books) {
            return None;
        }
        self.crash();
        Some(Stepped::to(self))
    }

    fn crossing(&self, job: JobId) -> Result<(CrossingRecord, Reserve), ErrorCode> {
        target::reserved(self.books.crossings.get(&job).cloned(), job).map_err(code)
    }

    fn reserve(&mut self, scope: &Scope, reserve: &Reserve) -> Answer {
        if target::reserved_before(self.books.crossings.get(&reserve.job), reserve).map_err(code)? {
            return Ok(self.based(reserve));
        }
        target::check_version(reserve).map_err(code)?;
        target::check_fences(reserve, &self.heeded(scope)).map_err(code)?;
        target::check_machine(self.books.machines.get(&reserve.machine), reserve).map_err(code)?;
        let expected = |crossing: &CrossingRecord| {
            target::is_expected(crossing)
                && crossing.reserve.as_ref().is_some_and(|known| known.machine_name == reserve.machine_name)
        };
        if self.books.crossings.values().any(expected) {
            return Err(ErrorCode::AlreadyExists);
        }
        let bases = reserve.volumes.iter().filter_map(|volume| Some((volume.id, self.base(volume)?)));
        let (crossing, volumes) = target::reservation(reserve.clone(), &bases.collect(), 0);
        let mut changes: Vec<Change> = volumes.into_iter().map(|v| Change::AddVolume(Box::new(v))).collect();
        changes.push(Change::Crossing(Box::new(crossing)));
        self.change(&changes)?;
        Ok(self.based(reserve))
    }

    /// What there is already of a volume that is to come. All workers know each other.
    fn base(&self, volume: &ReserveVolume) -> Option<BaseRecord> {
        let key = VolumeKey { id: volume.id, generation: volume.born_from? };
        let lies_whole = |record: &&VolumeRecord| {
            let copy = self.copies.get(&key);
            !matches!(record.ownership, Ownership::Retired { .. })
                || copy.is_some_and(|copy| copy.phase == VolumePhase::Sealed && copy.block.is_some())
        };
        target::base(volume, self.books.volumes.get(&key).filter(lies_whole), |_| true)
    }

    fn based(&self, reserve: &Reserve) -> Based {
        let keys = target::keys_of(reserve).into_iter().enumerate();
        let has = |key| self.books.volumes.get(&key).is_some_and(|record| record.base.is_some());
        keys.filter(|(_, key)| has(*key)).map(|(bit, _)| 1 << bit).sum()
    }

    fn prepare(&mut self, scope: &Scope, prepare: &Prepare, cut: bool) -> Answer {
        let (crossing, reserve) = self.crossing(prepare.job)?;
        let Some((_, changes)) = target::prepare(&crossing, &reserve, prepare).map_err(code)? else {
            return Ok(0);
        };
        target::check_fences(&reserve, &self.heeded(scope)).map_err(code)?;
        self.change(&changes)?;
        if cut {
            return Ok(0);
        }
        for key in target::keys_of(&reserve) {
            self.keep(scope, key);
            let copy = self.copies.get(&key);
            if copy.is_none_or(|copy| copy.phase != VolumePhase::Standby) {
                return Err(ErrorCode::Internal);
            }
        }
        Ok(0)
    }

    fn activate(&mut self, scope: &Scope, activate: &Activate, cut: bool) -> Answer {
        let (crossing, reserve) = self.crossing(activate.job)?;
        let Some((_, changes)) = target::activate(&crossing, &reserve, activate, 0).map_err(code)? else {
            return Ok(0);
        };
        target::check_fences(&reserve, &self.heeded(scope)).map_err(code)?;
        for volume in activate.volumes.iter().filter(|volume| !volume.holds) {
            self.give_up_copied(VolumeKey { id: volume.id, generation: volume.generation });
        }
        self.change(&changes)?;
        if !cut {
            for key in target::keys_of(&reserve) {
                self.keep(scope, key);
            }
        }
        Ok(0)
    }

    fn boot(&mut self, scope: &Scope, job: JobId) -> Answer {
        let (crossing, reserve) = self.crossing(job)?;
        if !target::boots(&crossing).map_err(code)? {
            return Ok(0);
        }
        let here = self.books.machines.get(&names::machine());
        if here.is_some_and(|here| target::is_still_here(here, &reserve)) {
            self.arrive()?;
            while self.mind(scope).is_some() {}
            let here = &self.books.machines[&names::machine()];
            if !ferry_crossing::minding::is_up(here) {
                return Err(ErrorCode::Unavailable);
            }
        }
        let awaited = self.arrived(&crossing);
        let booted = CrossingRecord { state: CrossingState::Booted, awaited, ..crossing };
        self.change(&[Change::Crossing(Box::new(booted))])?;
        Ok(0)
    }

    fn settle(&mut self, scope: &Scope, job: JobId) -> Answer {
        let (crossing, reserve) = self.crossing(job)?;
        if !target::settles(&crossing).map_err(code)? {
            return Ok(0);
        }
        for key in target::keys_of(&reserve) {
            let Some(record) = self.books.volumes.get(&key).cloned() else { continue };
            if record.source.is_none() {
                continue;
            }
            if service::wanted(&record.ownership, false) != Service::None {
                self.serving(scope, &record)?;
                if self.copies[&key].block.is_none() {
                    return Err(ErrorCode::Internal);
                }
            }
            self.change(&[Change::Source { key, source: None }])?;
        }
        let settled = CrossingRecord { state: CrossingState::Settled, ..crossing };
        self.change(&[Change::Crossing(Box::new(settled))])?;
        Ok(0)
    }

    /// Undoes what was reserved, as the source asks or as the sweep found out.
    pub(crate) fn release(&mut self, scope: &Scope, job: JobId, cut: bool) -> Answer {
        let released = target::release(self.books.crossings.get(&job).cloned(), job).map_err(code)?;
        if self.books.crossings.get(&job) != Some(&released) {
            self.change(&[Change::Crossing(Box::new(released))])?;
        }
        if !cut {
            self.drop_clones(scope, job);
        }
        Ok(0)
    }

    /// Deletes what a released job reserved.
    pub(crate) fn drop_clones(&mut self, scope: &Scope, job: JobId) {
        let Some(crossing) = self.books.crossings.get(&job).cloned() else { return };
        if crossing.state == CrossingState::Released {
            self.end_awaited(&crossing);
        }
        let reserve = crossing.reserve.clone().filter(|_| crossing.state == CrossingState::Released);
        for key in reserve.iter().flat_map(target::keys_of) {
            let volume = self.books.volumes.get(&key);
            if volume.is_some_and(|volume| target::is_reserved_by(volume, job)) {
                self.delete(scope, key);
            }
        }
        if crossing.state == CrossingState::Released && crossing.awaited.is_some() {
            let rid = CrossingRecord { awaited: None, ..crossing };
            self.change(&[Change::Crossing(Box::new(rid))]).expect("what is over may lose its rest");
        }
    }
}

impl Host {
    /// Forgets a move to here that nobody asks for any more.
    pub(crate) fn forget(&mut self, scope: &Scope, job: JobId) -> Option<()> {
        let crossing = self.books.crossings.get(&job)?;
        let is_spent = history::is_spent(crossing, &self.fences);
        if !is_spent && scope.bug != Some(Bug::ForgetsTooSoon) {
            return None;
        }
        self.change(&[Change::ForgetCrossing(job)]).ok()
    }

    /// Whether the source of a move has ended it, or knows nothing of it.
    pub(crate) fn has_ended(&self, job: JobId) -> bool {
        self.books.standing(job).is_none_or(|standing| standing.outcome.is_some())
    }

    /// Whether the source of a move, asked by its target's sweep, says that it was undone.
    pub(crate) fn says_undone(&self, scope: &Scope, job: JobId) -> bool {
        let Some(standing) = self.books.standing(job) else { return false };
        let state = match &standing.outcome {
            Some(ferry_fsm::Outcome::Succeeded) => ferry_api::JobState::Succeeded,
            Some(ferry_fsm::Outcome::Failed { .. }) => ferry_api::JobState::Failed,
            Some(ferry_fsm::Outcome::Cancelled) => ferry_api::JobState::Cancelled,
            None if standing.unwinding.is_some() => ferry_api::JobState::Unwinding,
            None => ferry_api::JobState::Running,
        };
        target::is_undone(state) || scope.bug == Some(Bug::SweepsTooMuch)
    }
}
