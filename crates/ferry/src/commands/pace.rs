//! `ferry volume pace` and `ferry worker pace`, and how a pace shows.

use std::num::NonZeroU64;
use std::time::Duration;

use anyhow::Result;
use ferry_api::http::Client;
use ferry_api::{AgentApi, PaceVolume, PaceWorker, VolumePace, VolumeRef, WorkerInfo};

use super::utc;
use crate::exit::Exit;
use crate::output::bytes::{Bytes, Span};
use crate::output::{Paint, say, say_json};

pub async fn volume(agent: &Client, json: bool, volume: &VolumeRef, pace: PaceVolume) -> Result<Exit> {
    let volume = agent.volume_pace(volume, pace).await?;
    if json {
        say_json(&volume)?;
    } else {
        let name = Paint::for_stdout().strong(volume.name.as_str());
        let [(_, budget), (_, guard), (_, finish)] = facts(&volume.pace);
        say(format_args!(
            "volume {name} hydrates with a budget of {budget} and a guard of {guard}, to finish by {finish}"
        ))?;
    }
    Ok(Exit::Done)
}

pub async fn worker(agent: &Client, json: bool, pace: PaceWorker) -> Result<Exit> {
    let worker = agent.worker_pace(pace).await?;
    if json {
        say_json(&worker)?;
    } else {
        let name = Paint::for_stdout().strong(worker.name.as_str());
        match worker.budget_bytes_per_s {
            Some(_) => {
                let budget = budget_text(worker.budget_bytes_per_s);
                say(format_args!("all volumes of worker {name} hydrate with a budget of {budget} together"))?;
            }
            None => say(format_args!("volumes of worker {name} hydrate without a common budget"))?,
        }
        for (from, most) in &worker.pair_budgets_bytes_per_s {
            say(format_args!("those that read from worker {from}: {} together", budget_text(Some(*most))))?;
        }
    }
    Ok(Exit::Done)
}

/// How a pace shows.
pub fn facts(pace: &VolumePace) -> [(&'static str, String); 3] {
    [("budget", own_and_share_text(pace)), ("guard", guard_text(pace)), ("finish by", finish_text(pace))]
}

fn finish_text(pace: &VolumePace) -> String {
    let expected = pace.expected_end_ms.map(|at_ms| format!("expected {}", utc(at_ms)));
    match (pace.finish_by_ms, expected) {
        (None, expected) => {
            expected.map_or_else(|| "none".to_owned(), |expected| format!("none, {expected}"))
        }
        (Some(at_ms), None) => utc(at_ms),
        (Some(at_ms), Some(expected)) => {
            let late_ms = pace.expected_end_ms.unwrap_or(0).saturating_sub(at_ms);
            let late = Span(Duration::from_millis(late_ms));
            let missed = if late_ms > 0 { format!(", {late} too late") } else { String::new() };
            format!("{}, {expected}{missed}", utc(at_ms))
        }
    }
}

fn own_and_share_text(pace: &VolumePace) -> String {
    let own = budget_text(pace.budget_bytes_per_s);
    match pace.share_bytes_per_s {
        None => own,
        Some(share) => format!("{own}; its share of the worker's: {}/s", Bytes(share.get())),
    }
}

pub fn budget_text(bytes_per_s: Option<NonZeroU64>) -> String {
    bytes_per_s.map_or_else(|| "none".to_owned(), |rate| format!("{}/s", Bytes(rate.get())))
}

/// `100 MiB/s; 50 MiB/s from w2`
pub fn budgets_text(worker: &WorkerInfo) -> String {
    let pairs = worker.pair_budgets_bytes_per_s.iter();
    let pairs = pairs.map(|(from, most)| format!("{} from {from}", budget_text(Some(*most))));
    let all: Vec<String> = [budget_text(worker.budget_bytes_per_s)].into_iter().chain(pairs).collect();
    all.join("; ")
}

fn guard_text(pace: &VolumePace) -> String {
    let span = |us| Span(Duration::from_micros(us));
    let Some(bound_us) = pace.guard_us else { return "none".to_owned() };
    let took = pace.guest_p99_us.map_or_else(String::new, |us| format!(", took {} lately", span(us)));
    let held =
        pace.guard_bytes_per_s.map_or_else(String::new, |rate| format!("; lets {}/s through", Bytes(rate)));
    format!("{} for 99 of 100 requests{took}{held}", span(bound_us.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_tells_what_it_sees_and_does() {
        let mut pace = VolumePace::default();
        assert_eq!(guard_text(&pace), "none");
        pace.guard_us = NonZeroU64::new(5_000);
        assert_eq!(guard_text(&pace), "5.0 ms for 99 of 100 requests");
        (pace.guest_p99_us, pace.guard_bytes_per_s) = (Some(180), Some(4 << 20));
        let shown = "5.0 ms for 99 of 100 requests, took 180 us lately; lets 4 MiB/s through";
        assert_eq!(guard_text(&pace), shown);
    }

    #[test]
    fn a_share_of_the_workers_budget_shows_beside_its_own() {
        let mut pace = VolumePace::default();
        assert_eq!(own_and_share_text(&pace), "none");
        pace.share_bytes_per_s = NonZeroU64::new(4 << 20);
        assert_eq!(own_and_share_text(&pace), "none; its share of the worker's: 4 MiB/s");
    }

    #[test]
    fn a_time_that_will_be_missed_says_by_how_much() {
        let mut pace = VolumePace::default();
        assert_eq!(finish_text(&pace), "none");
        (pace.finish_by_ms, pace.expected_end_ms) = (Some(1_800_000_000_000), Some(1_800_000_200_000));
        assert!(finish_text(&pace).ends_with("3 min 20 s too late"), "{}", finish_text(&pace));
        pace.expected_end_ms = Some(1_799_999_999_000);
        assert!(!finish_text(&pace).contains("late"));
    }
}
