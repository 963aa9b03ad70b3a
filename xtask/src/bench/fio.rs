//! fio as the guest of whichever server: one run, and what its JSON says.

use anyhow::{Context, bail};
use serde_json::Value;

use super::processes;

/// How long a run lasts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    Seconds(f64),
    /// So many requests, no place twice.
    Requests(u64),
}

/// One run.
#[derive(Debug, Clone, PartialEq)]
pub struct Job<'a> {
    pub uri: &'a str,
    /// As fio calls it: `randread`, `write`, ...
    pub pattern: &'a str,
    pub request_bytes: u64,
    pub depth: u32,
    pub connections: u32,
    /// The part of the export that is used, in bytes.
    pub offset_bytes: u64,
    pub size_bytes: u64,
    pub length: Length,
}

/// What a run gave, reads and writes together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    pub requests_per_s: f64,
    pub mib_per_s: f64,
    /// Completion latency in microseconds.
    pub p50_us: f64,
    pub p99_us: f64,
}

impl Job<'_> {
    /// Runs it to its end.
    pub fn run(&self) -> anyhow::Result<Figures> {
        let arguments = self.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        parse(&processes::run("fio", &arguments)?.stdout)
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            "--name=bench".to_owned(),
            "--ioengine=nbd".to_owned(),
            "--output-format=json".to_owned(),
            "--group_reporting=1".to_owned(),
            // One process, whatever the number of connections.
            "--thread=1".to_owned(),
            // Reads and writes as one, and one place for the figures whatever the pattern.
            "--unified_rw_reporting=1".to_owned(),
            "--percentile_list=50:99".to_owned(),
            format!("--uri={}", self.uri),
            format!("--rw={}", self.pattern),
            format!("--bs={}", self.request_bytes),
            format!("--iodepth={}", self.depth),
            format!("--numjobs={}", self.connections),
            format!("--offset={}", self.offset_bytes),
            format!("--size={}", self.size_bytes),
        ];
        match self.length {
            Length::Seconds(seconds) => arguments.extend([
                "--norandommap=1".to_owned(),
                "--time_based=1".to_owned(),
                format!("--runtime={:.0}ms", seconds * 1000.0),
            ]),
            Length::Requests(count) => arguments.push(format!("--number_ios={count}")),
        }
        arguments
    }
}

/// Reads the report that fio prints with `--output-format=json --unified_rw_reporting=1`, which may follow on lines
/// that are no JSON.
pub fn parse(printed: &str) -> anyhow::Result<Figures> {
    let start = if printed.starts_with('{') { Some(0) } else { printed.find("\n{").map(|at| at + 1) };
    let start = start.with_context(|| format!("fio printed no report: {}", printed.trim()))?;
    let report: Value = serde_json::from_str(&printed[start..]).context("fio's report is not JSON")?;
    let job = &report["jobs"][0];
    let number = |path: &str| {
        let found = job.pointer(path).and_then(Value::as_f64);
        found.with_context(|| format!("fio's report has no number in jobs/0{path}"))
    };
    let error = number("/error")?;
    if error != 0.0 {
        bail!("fio's requests failed with errno {error}");
    }
    if number("/mixed/total_ios")? == 0.0 {
        bail!("fio made no request");
    }
    Ok(Figures {
        requests_per_s: number("/mixed/iops")?,
        mib_per_s: number("/mixed/bw_bytes")? / super::content::MIB as f64,
        p50_us: number("/mixed/clat_ns/percentile/50.000000")? / 1000.0,
        p99_us: number("/mixed/clat_ns/percentile/99.000000")? / 1000.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(error: u32, total: u32) -> String {
        format!(
            r#"fio: connected to NBD server
{{ "fio version" : "fio-3.33", "jobs" : [ {{ "jobname" : "bench", "error" : {error}, "mixed" : {{
   "io_bytes" : 40591360, "bw_bytes" : 52428800, "bw" : 51200, "iops" : 9870.517928, "total_ios" : {total},
   "clat_ns" : {{ "mean" : 5660.1, "percentile" : {{ "50.000000" : 107451, "99.000000" : 20578304 }} }} }} }} ] }}"#
        )
    }

    #[test]
    fn the_report_is_found_behind_what_else_fio_says() {
        let figures = parse(&report(0, 9910)).unwrap();
        let expected =
            Figures { requests_per_s: 9870.517928, mib_per_s: 50.0, p50_us: 107.451, p99_us: 20578.304 };
        assert_eq!(figures, expected);
        let bare = report(0, 9910);
        assert_eq!(parse(bare.split_once('\n').unwrap().1).unwrap(), expected);
    }

    #[test]
    fn a_run_that_failed_did_nothing_or_said_nothing_gives_no_figure() {
        assert!(parse(&report(5, 9910)).unwrap_err().to_string().contains("errno 5"));
        assert!(parse(&report(0, 0)).unwrap_err().to_string().contains("no request"));
        assert!(parse("fio: engine nbd not loadable").unwrap_err().to_string().contains("not loadable"));
        let missing = report(0, 1).replace("iops", "eyeops");
        assert!(parse(&missing).unwrap_err().to_string().contains("jobs/0/mixed/iops"));
    }

    #[test]
    fn a_run_is_told_its_length_in_time_or_in_requests() {
        let job = Job {
            uri: "nbd://localhost",
            pattern: "randread",
            request_bytes: 4096,
            depth: 32,
            connections: 4,
            offset_bytes: 0,
            size_bytes: 1 << 20,
            length: Length::Seconds(0.75),
        };
        let line = job.arguments().join(" ");
        assert!(line.contains("--iodepth=32 --numjobs=4"), "{line}");
        assert!(line.contains("--time_based=1 --runtime=750ms"), "{line}");
        let line = Job { length: Length::Requests(100), ..job }.arguments().join(" ");
        assert!(line.contains("--number_ios=100") && !line.contains("time_based"), "{line}");
    }
}
