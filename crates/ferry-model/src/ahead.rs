//! A warm move's one round of copying ahead: the source marks its copy, the target copies while the machine may write, and keeps
//! what is right once that is sealed. A live move has a second one, while the memory crosses.
//!
//! Invariant: nothing rests on it. Any moment of it may go wrong, and then the move is a cold one.

use crate::host::{Copy, Host, Input};
use crate::scope::{Bug, Scope};
use crate::target::Asks;
use ferry_api::{ErrorCode, Generation, JobId, Precopy, PrecopyVolume, VolumeKey, VolumePhase};
use ferry_crossing::{Ahead, KeptUp, MoveStep, Plan, Prepared, Reserved, minding, moving, target};
use ferry_fsm::Standing;

/// The last mark of a copy: whether it was written since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) number: u64,
    pub(crate) is_changed: bool,
}

/// What a clone that stands by has copied ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copied {
    /// It reads its source.
    Begun { mark: u64 },
    /// It holds a write that it read after that mark.
    Held { mark: u64, write: u8 },
    /// It is to find out whether that is right.
    Asking { mark: u64, write: u8 },
    /// Its sealed source has told whether that has changed since the mark.
    Told { write: u8, is_changed: bool },
}

impl Copy {
    /// An engine forgets the marks of a copy in the frame that opens it.
    pub(crate) fn unseal(&mut self, scope: &Scope) {
        if self.phase == VolumePhase::Open {
            return;
        }
        self.phase = VolumePhase::Open;
        if scope.bug != Some(Bug::UnsealKeepsMarks) {
            self.mark = None;
        }
    }

    /// A clone is opened: what was copied and not kept is gone.
    pub(crate) fn open(&mut self) {
        (self.phase, self.copied) = (VolumePhase::Open, None);
    }
}

/// The source's part.
impl Host {
    /// Marks the copies of a machine that runs, or did when its memory began to cross; not where the target has a base, which is asked
    /// for what has not changed, and no second time where nothing is held.
    pub(crate) fn mark_round(&mut self, standing: &Standing<MoveStep>) -> Result<(), ErrorCode> {
        let ahead = moving::memo_of::<Prepared>(standing, MoveStep::Prepare).ok();
        let is_first = ahead.is_none();
        if ahead.and_then(|prepared| prepared.ahead).is_some_and(|ahead| ahead.marks.is_empty()) {
            return Err(ErrorCode::Conflict);
        }
        let reserved: Reserved =
            moving::memo_of(standing, MoveStep::Reserve).map_err(|_| ErrorCode::Internal)?;
        let plan: Plan = moving::memo_of(standing, MoveStep::Plan).map_err(|_| ErrorCode::Internal)?;
        let machine = self.books.machines.values().next().ok_or(ErrorCode::NotFound)?;
        let has_base = reserved.volumes.iter().any(|volume| volume.base.is_some());
        let is_fit = |copy: &Copy| copy.phase == VolumePhase::Open && copy.block.is_some();
        let are_fit = plan.keys().iter().all(|key| self.copies.get(key).is_some_and(is_fit));
        if has_base || !are_fit || (is_first && !minding::is_up(machine)) {
            return Err(ErrorCode::Conflict);
        }
        for key in plan.keys() {
            let copy = self.copies.get_mut(&key).expect("it is fit");
            copy.marks_made += 1;
            copy.mark = Some(Mark { number: copy.marks_made, is_changed: false });
        }
        Ok(())
    }

    /// The marks of the last round; none where there was none that came through.
    fn marks(&self, plan: &Plan) -> Option<Vec<u64>> {
        plan.keys().iter().map(|key| Some(self.copies.get(key)?.mark?.number)).collect()
    }

    /// The move goes on as a cold one.
    pub(crate) fn forget_marks(&mut self, plan: &Plan) {
        for key in plan.keys() {
            if let Some(copy) = self.copies.get_mut(&key) {
                copy.mark = None;
            }
        }
    }

    /// What is remembered of the round.
    pub(crate) fn ahead(&self, scope: &Scope, plan: &Plan) -> Option<Ahead> {
        let marks = self.marks(plan).unwrap_or_default();
        scope.is_warm.then(|| Ahead { rounds: Vec::new(), marks, ended: String::new() })
    }

    /// The same of the round beside the memory.
    pub(crate) fn kept_up(&self, scope: &Scope, plan: &Plan) -> Option<KeptUp> {
        let marks = self.marks(plan).unwrap_or_default();
        (scope.is_warm && scope.is_live).then(|| KeptUp { marks, ..KeptUp::default() })
    }

    /// A round, or the wish that what it copied is kept: as of the marks of now, or of those that are remembered.
    pub(crate) fn asks_ahead(&self, job: JobId, plan: &Plan, kept: Option<&[u64]>) -> Option<Asks> {
        let marks = kept.map_or_else(|| self.marks(plan), |marks| Some(marks.to_vec()))?;
        let wish = |(planned, mark): (&ferry_crossing::PlannedVolume, u64)| PrecopyVolume {
            id: planned.id,
            source: String::new(),
            mark: kept.is_none().then_some(mark),
            since: kept.is_some().then_some(mark),
        };
        if marks.len() != plan.volumes.len() {
            return None;
        }
        let volumes = plan.volumes.iter().zip(marks).map(wish);
        Some(Asks::Precopy(Precopy { job, volumes: volumes.collect() }))
    }

    /// Of which volumes the target's clone holds what is right, if it kept anything (`Mover::holds` in the agent).
    pub(crate) fn holds(&self, scope: &Scope, standing: &Standing<MoveStep>, plan: &Plan) -> Vec<bool> {
        let marks = moving::marks(standing);
        let vouched = |(index, key): (usize, &VolumeKey)| {
            let mark = self.copies.get(key).and_then(|copy| copy.mark);
            match (marks.get(index), mark) {
                (Some(_), _) if scope.bug == Some(Bug::VouchesUnseen) => true,
                (Some(number), Some(mark)) => *number == mark.number,
                _ => false,
            }
        };
        plan.keys().iter().enumerate().map(vouched).collect()
    }

    /// Whether the target holds what its round was to copy.
    pub(crate) fn finds_copied(&self, job: JobId, plan: &Plan, at_target: &Host) -> bool {
        let Some(marks) = self.marks(plan) else { return false };
        let Some(crossing) = at_target.books.crossings.get(&job) else { return false };
        let keys = crossing.reserve.iter().flat_map(target::keys_of);
        keys.zip(marks).all(|(key, number)| {
            let copied = at_target.copies.get(&key).and_then(|copy| copy.copied);
            matches!(copied, Some(Copied::Held { mark, .. }) if mark == number)
        })
    }
}

/// The target's part.
impl Host {
    /// Begins a round, or is to keep what is right of it.
    pub(crate) fn precopy(&mut self, wish: Precopy) -> Result<(), ErrorCode> {
        let known = target::reserved(self.books.crossings.get(&wish.job).cloned(), wish.job);
        let (crossing, reserve) = known.map_err(|error| error.code)?;
        let wishes = target::precopy(&crossing, &reserve, wish).map_err(|error| error.code)?;
        for (key, wish) in wishes {
            let copy = self.copies.get_mut(&key).ok_or(ErrorCode::NotFound)?;
            if copy.phase != VolumePhase::Standby {
                return Err(ErrorCode::Conflict);
            }
            copy.copied = Some(match (wish.mark, wish.since, copy.copied) {
                (None, Some(_), _) if copy.block.is_some() => continue,
                (Some(mark), _, _) if copy.block.is_none() => Copied::Begun { mark },
                (None, Some(since), Some(Copied::Held { mark, write })) if mark == since => {
                    Copied::Asking { mark, write }
                }
                _ => return Err(ErrorCode::Conflict),
            });
        }
        Ok(())
    }

    /// A clone whose source does not vouch for it is made anew before it is opened.
    pub(crate) fn give_up_copied(&mut self, key: VolumeKey) {
        if let Some(copy) = self.copies.get_mut(&key).filter(|copy| copy.phase == VolumePhase::Standby) {
            (copy.block, copy.copied) = (None, None);
        }
    }

    /// Whatever volume servers know and no disk does is gone.
    pub(crate) fn forget_copied(&mut self) {
        self.copies.values_mut().for_each(|copy| copy.copied = None);
    }

    /// A clone has read its source.
    pub(crate) fn copied(&mut self, key: VolumeKey, write: u8) -> Option<()> {
        let copied = &mut self.copies.get_mut(&key)?.copied;
        let Some(Copied::Begun { mark }) = *copied else { return None };
        *copied = Some(Copied::Held { mark, write });
        Some(())
    }

    /// Its sealed source tells a clone whether anything has changed since the mark.
    pub(crate) fn told(&mut self, key: VolumeKey, is_changed: bool) -> Option<()> {
        let copied = &mut self.copies.get_mut(&key)?.copied;
        let Some(Copied::Asking { write, .. }) = *copied else { return None };
        *copied = Some(Copied::Told { write, is_changed });
        Some(())
    }

    /// A clone keeps what is right.
    pub(crate) fn adopt(&mut self, key: VolumeKey) -> Option<()> {
        let copy = self.copies.get_mut(&key).filter(|copy| copy.phase == VolumePhase::Standby)?;
        let Some(Copied::Told { write, is_changed }) = copy.copied.take() else { return None };
        copy.block = (!is_changed).then_some(write);
        Some(())
    }

    /// What a clone does next of it by itself, with what its source tells; nothing if that cannot be asked now.
    pub(crate) fn next_ahead(scope: &Scope, hosts: &[&Host], at: usize, key: VolumeKey) -> Option<Input> {
        let copied = hosts[at].copies.get(&key)?.copied?;
        let source = VolumeKey { id: key.id, generation: Generation(key.generation.0.checked_sub(1)?) };
        let from = hosts.iter().find(|host| host.copies.contains_key(&source))?;
        let copy = &from.copies[&source];
        match copied {
            Copied::Begun { .. } => {
                crate::promises::read(hosts, from.index, source).map(|write| Input::Copied(key, write))
            }
            Copied::Held { .. } => None,
            Copied::Asking { mark, .. } => {
                let known = copy.mark.filter(|known| known.number == mark)?;
                let is_changed = known.is_changed && scope.bug != Some(Bug::KeepsWhatChanged);
                (copy.phase == VolumePhase::Sealed).then_some(Input::Told(key, is_changed))
            }
            Copied::Told { .. } => Some(Input::Adopt(key)),
        }
    }
}
