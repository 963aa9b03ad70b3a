//! What this worker has heard of all, for people and scripts.

use super::{Inner, Services};
use crate::mutex::locked;
use ferry_api::{
    AboutWorker, ApiError, Bid, DirectoryView, Hears, HearsBy, KnownMachine, KnownWorker, WorkerName,
};
use ferry_crossing::directory::{Known, Teller};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// How long what a worker says of itself is repeated before it looks again.
const ABOUT_PAUSE: Duration = Duration::from_secs(5);

/// What a worker says of itself, out of what it offers to machines and by what it hears of the others.
fn about(bid: Bid, hears_by: &HearsBy) -> AboutWorker {
    let Bid { worker, frontends: _, capacity, busy_cpu_millis, residents: _, troubles } = bid;
    AboutWorker {
        program_version: worker.program_version,
        spec_version: worker.spec_version,
        room: worker.room,
        capacity,
        busy_cpu_millis,
        region: worker.region,
        labels: worker.labels,
        cordon: worker.cordon,
        troubles,
        hears_by: Some(hears_by.to_string()),
    }
}

/// What keeps news from being heard at once: what is in the way of all of them, and who hears by something else.
fn troubles(me: &WorkerName, hears: &Hears, workers: &[KnownWorker]) -> Vec<String> {
    let own = hears.by.to_string();
    let others = workers.iter().filter(|worker| worker.name != *me && worker.is_fresh).filter_map(|worker| {
        let theirs = worker.about.as_ref()?.hears_by.as_ref().filter(|theirs| **theirs != own)?;
        Some(format!(
            "worker {} hears of the others by {theirs}, and {me} by {own}, so that they hear of each other late; give all workers of a \
             cluster the same [directory] in their configurations",
            worker.name
        ))
    });
    hears.trouble.clone().into_iter().chain(others).collect()
}

impl Services {
    /// What this worker says of itself; `look` is asked at most once in [`ABOUT_PAUSE`], however many others want to know.
    ///
    /// # Errors
    /// What `look` says.
    pub(crate) async fn about(
        &self,
        look: impl Future<Output = Result<Bid, ApiError>>,
    ) -> Result<AboutWorker, ApiError> {
        let mut said = self.inner.said.lock().await;
        if let Some((at, about)) = &*said
            && at.elapsed() < ABOUT_PAUSE
        {
            return Ok(about.clone());
        }
        let about = about(look.await?, &self.hearing().by);
        *said = Some((Instant::now(), about.clone()));
        Ok(about)
    }

    /// What is known here of all workers and their machines; `own` is what this one says of itself.
    pub(crate) fn view(&self, own: AboutWorker) -> DirectoryView {
        let Inner { me, directory, about, followed, .. } = &*self.inner;
        let hears = self.hearing();
        let (now_ms, directory) = (self.inner.now_ms(), locked(directory));
        locked(about).insert(me.clone(), own);
        let is_heard = match &hears.by {
            HearsBy::Requests => false,
            HearsBy::Gossip => true,
            HearsBy::Nats { .. } => hears.heard_ms_ago.is_some() && hears.trouble.is_none(),
        };
        let there = is_heard.then(|| self.inner.there());
        let (tellers, abouts, followed) = (directory.tellers(now_ms), locked(about), locked(followed));
        let known = |name: &WorkerName| tellers.iter().find(|teller| teller.name == *name);
        let names: BTreeSet<&WorkerName> =
            tellers.iter().map(|teller| &teller.name).chain(followed.iter()).collect();
        let is_there = |name: &WorkerName| there.as_ref().map(|there| name == me || there.contains(name));
        let worker = |name| KnownWorker {
            is_there: is_there(name),
            ..worker(name, known(name), abouts.get(name).cloned())
        };
        let workers: Vec<KnownWorker> = names.into_iter().map(worker).collect();
        DirectoryView {
            of: me.clone(),
            troubles: troubles(me, &hears, &workers),
            hears,
            workers,
            machines: directory.all(now_ms).into_iter().map(machine).collect(),
        }
    }
}

fn worker(name: &WorkerName, teller: Option<&Teller>, about: Option<AboutWorker>) -> KnownWorker {
    KnownWorker {
        name: name.clone(),
        heard_ms_ago: teller.map(|teller| teller.heard_ms_ago),
        is_there: None,
        is_fresh: teller.is_some_and(|teller| teller.is_fresh),
        machines: teller.map_or(0, |teller| u64::try_from(teller.machines).unwrap_or(u64::MAX)),
        about,
    }
}

fn machine(known: Known) -> KnownMachine {
    let Known { mapping, told_by, heard_ms_ago, is_certain } = known;
    KnownMachine { mapping, told_by, heard_ms_ago, is_certain }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::{Capacity, Labels, Room};

    fn hears_by(name: &str, by: Option<HearsBy>, is_fresh: bool) -> KnownWorker {
        let about = AboutWorker {
            program_version: String::new(),
            spec_version: 1,
            room: Room {
                limit_bytes: None,
                used_bytes: 0,
                handed_over_bytes: 0,
                promised_bytes: 0,
                free_bytes: 0,
            },
            capacity: Capacity { cpu_millis: 0, memory_bytes: 0 },
            busy_cpu_millis: 0,
            region: None,
            labels: Labels::default(),
            cordon: None,
            troubles: Vec::new(),
            hears_by: by.map(|by| by.to_string()),
        };
        let teller = Teller { name: name.parse().unwrap(), heard_ms_ago: 0, is_fresh, machines: 0 };
        worker(&teller.name, Some(&teller), Some(about))
    }

    #[test]
    fn whoever_hears_by_something_else_is_named_and_nobody_that_may_have_changed_since() {
        let bucket = || HearsBy::Nats { bucket: "ferry".to_owned() };
        let hears = Hears { by: bucket(), trouble: Some("it is lost".to_owned()), ..Hears::default() };
        let workers = [
            hears_by("w1", Some(HearsBy::Gossip), true),
            hears_by("w2", Some(bucket()), true),
            hears_by("w3", Some(HearsBy::Gossip), true),
            hears_by("w4", Some(HearsBy::Gossip), false),
            hears_by("w5", None, true),
        ];
        let said = troubles(&"w1".parse().unwrap(), &hears, &workers);
        assert_eq!(said.len(), 2, "{said:?}");
        assert_eq!(said[0], "it is lost");
        assert!(
            said[1].starts_with("worker w3 hears of the others by gossip, and w1 by the NATS bucket ferry"),
            "{said:?}"
        );
    }
}
