//! The figures of a worker: whoever scrapes them can read them, and they survive the death of the agent.
#![allow(clippy::unwrap_used, reason = "a test ends at whatever it did not expect")]

mod support;

use ferry_api::{Job, JobState, Machine};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use support::cluster::{Cluster, Worker};
use support::moments::Fail;
use support::until;

/// The types of families, and all samples by name and labels as they are written.
#[derive(Debug)]
struct Page {
    types: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

impl Page {
    /// Reads what a worker tells, and panics at whatever OpenMetrics 1.0 does not allow.
    fn of(worker: &Worker) -> Self {
        let said = worker.ferry(&["worker", "metrics"]);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        Self::read(&said.stdout)
    }

    fn read(text: &str) -> Self {
        let body = text.trim_end().strip_suffix("# EOF").expect("it ends as it must");
        let mut page = Self { types: BTreeMap::new(), samples: BTreeMap::new() };
        let mut family = String::new();
        for line in body.lines() {
            if let Some(declared) = line.strip_prefix("# TYPE ") {
                let (name, kind) = declared.split_once(' ').unwrap();
                assert!(["gauge", "counter", "histogram"].contains(&kind), "{line}");
                assert_eq!(page.types.insert(name.to_owned(), kind.to_owned()), None, "{name} comes twice");
                family = name.to_owned();
            } else if !line.starts_with("# HELP ") {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let name = series.split('{').next().unwrap();
                let suffix =
                    name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} is not of {family}"));
                let allowed: &[&str] = match page.types[&family].as_str() {
                    "counter" => &["_total"],
                    "histogram" => &["_sum", "_count", "_bucket"],
                    _ => &[""],
                };
                assert!(allowed.contains(&suffix), "{line}");
                let value: f64 = value.parse().unwrap();
                assert!(value >= 0.0, "{line}");
                assert_eq!(page.samples.insert(series.to_owned(), value), None, "{series} comes twice");
            }
        }
        page
    }

    fn at(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("there is no {series} in {:#?}", self.samples))
    }

    /// The figures that only rise.
    fn rising(&self) -> impl Iterator<Item = (&String, &f64)> {
        let is_rising = |series: &str| {
            ["_total", "_count", "_bucket"].iter().any(|end| series.split('{').next().unwrap().ends_with(end))
        };
        self.samples.iter().filter(move |(series, _)| is_rising(series))
    }
}

fn machine(worker: &Worker) {
    let words = ["machine", "create", "web", "--volume", "data=8MiB", "--", "sleep", "1000000"];
    let _: Machine = worker.ask(&words);
}

#[test]
fn the_figures_are_text_that_scrapers_take() {
    let cluster = Cluster::of(&[("w1", "")]);
    let worker = &cluster.workers[0];
    machine(worker);
    let mut stream = TcpStream::connect(worker.address).unwrap();
    stream.write_all(b"GET /v1/metrics HTTP/1.1\r\nHost: w1\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, _) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    // A volume server that does not answer in time is left out.
    let has_asked_all = |page: &Page| page.at("ferry_volumes_served{phase=\"open\"}") == 1.0;
    let page = until("the volume is served", || Some(Page::of(worker)).filter(has_asked_all));
    assert_eq!(page.at("ferry_machines{state=\"running\"}"), 1.0);
    assert_eq!(page.at("ferry_volumes{ownership=\"ours\"}"), 1.0);
    assert!(page.at("process_resident_memory_bytes") > 1024.0 * 1024.0);
    assert!(page.at("ferry_records_bytes") > 0.0);
    let size = page.samples.iter().find(|(series, _)| series.starts_with("ferry_volume_size_bytes{"));
    assert_eq!(size.unwrap().1, &(8.0 * 1024.0 * 1024.0));
}

#[test]
fn a_finished_move_is_counted_once_also_after_the_agent_was_killed() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    machine(w1);
    w1.moves("web", w2);
    let boot = "ferry_step_seconds_count{kind=\"move\",step=\"Boot\"}";
    let ended = "ferry_jobs_ended_total{kind=\"move\",outcome=\"succeeded\"}";
    let before = Page::of(w1);
    assert_eq!((before.at(boot), before.at(ended)), (1.0, 1.0));
    assert_eq!(before.at("ferry_step_seconds_bucket{le=\"+Inf\",kind=\"move\",step=\"Boot\"}"), 1.0);
    assert!(before.at("ferry_journal_append_seconds_count") >= 11.0);
    w1.restart();
    let after = Page::of(w1);
    let of_jobs = |series: &str| series.starts_with("ferry_step") || series.starts_with("ferry_jobs");
    for (series, value) in before.rising().filter(|(series, _)| of_jobs(series)) {
        assert_eq!(after.at(series), *value, "{series}");
    }
    assert_eq!(Page::of(w2).at(boot), 0.0, "who leads a job counts it");
}

#[test]
fn a_parked_job_is_counted_until_a_person_resumes_it() {
    let cluster = Cluster::configured(&[("w1", ""), ("w2", "")]);
    let (w1, w2) = cluster.pair();
    w1.start_wishing(&[Fail("Boot")]);
    w2.start();
    machine(w1);
    let job: Job = w1.ask(&["move", "web", "--to", "w2", "--detach"]);
    let id = job.id.to_string();
    let state = || w1.ask::<Job>(&["job", "show", &id]).state;
    until("the job is parked", || (state() == JobState::Parked).then_some(()));
    w1.restart();
    let (parked, ever) =
        ("ferry_jobs{kind=\"move\",state=\"parked\"}", "ferry_jobs_parked_total{kind=\"move\"}");
    let page = Page::of(w1);
    assert_eq!((page.at(parked), page.at(ever)), (1.0, 1.0));
    assert_eq!(page.at("ferry_step_failures_total{kind=\"move\",step=\"Boot\"}"), 1.0);
    let _: Job = w1.ask(&["job", "resume", &id]);
    until("the job ends", || (state() == JobState::Succeeded).then_some(()));
    let page = Page::of(w1);
    assert_eq!((page.at(parked), page.at(ever)), (0.0, 1.0));
}
