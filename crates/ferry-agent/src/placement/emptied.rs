//! What a drain needs of the worker that it empties.

use super::choose::{choose, hold};
use super::{market, wants};
use crate::core::Core;
use crate::jobs::{Emptied, Looked, MoveInput, Occupant};
use crate::records::Standing;
use crate::stopping;
use ferry_api::{AgentApi, ApiError, Job, JobId, PaceFrom, WorkerName};
use ferry_crossing::stopping::in_a_sentence;
use ferry_crossing::target::is_expected;
use ferry_placement::Market;
use std::collections::BTreeSet;
use std::num::NonZeroU64;

type Answer<T> = Result<T, ApiError>;

impl Emptied for Core {
    async fn machines(&self) -> Answer<Vec<Occupant>> {
        let machines = self.records.machines().await?.into_iter();
        Ok(machines
            .map(|record| Occupant {
                machine: record.id,
                name: record.name,
                group: record.spec.placement.group,
                job: record.job,
                is_here: record.standing == Standing::Ours && !record.doomed,
            })
            .collect())
    }

    async fn arriving(&self) -> Answer<usize> {
        Ok(self.records.crossings_under_way().await?.iter().filter(|crossing| is_expected(crossing)).count())
    }

    async fn is_paused(&self, drain: JobId) -> Answer<bool> {
        let drained = self.records.worker().await?.drain;
        Ok(drained.is_some_and(|drained| drained.job == drain && drained.paused))
    }

    async fn market(&self) -> Market {
        market(self).await
    }

    async fn choose(
        &self,
        market: &mut Market,
        asked: (JobId, &Looked, &MoveInput),
        but: &BTreeSet<WorkerName>,
        force: bool,
    ) -> Result<WorkerName, String> {
        let to = choose(self, market, asked, but, force).await.map_err(|error| error.message)?;
        market.take(&wants(&self.config.name, asked.1), &to);
        Ok(to)
    }

    async fn hold(
        &self,
        market: &mut Market,
        asked: (JobId, &Looked, &MoveInput),
        to: &WorkerName,
        force: bool,
    ) -> Result<(), String> {
        hold(self, asked, to, force).await.map_err(|error| error.message)?;
        market.take(&wants(&self.config.name, asked.1), to);
        Ok(())
    }

    async fn pace(&self, to: &WorkerName, bytes_per_s: Option<NonZeroU64>) -> Answer<()> {
        let pace = PaceFrom { from: self.config.name.clone(), bytes_per_s };
        self.peers.client(to)?.peer_pace(pace).await
    }

    async fn owes(&self, jobs: Vec<Job>) -> Answer<Vec<String>> {
        let crossings = self.records.crossings_under_way().await?;
        let reasons = stopping::needed_here(self, crossings, jobs).await?;
        Ok(reasons.iter().map(in_a_sentence).collect())
    }
}
