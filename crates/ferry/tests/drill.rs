//! The drill as a process: a few of its rows, and nothing left behind.
#![allow(clippy::unwrap_used, reason = "a test ends at whatever it did not expect")]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::leftovers::assert_nothing_is_left;

/// `ferry drill`, with everything it makes below `dir`.
fn drill(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ferry"));
    command.arg("drill").args(words).arg("--dir").arg(dir).env("TMPDIR", dir).stdin(Stdio::null());
    command
}

fn report(output: &Output) -> Value {
    let complaint = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {complaint}"))
}

/// The names of the rows that a drill of these words would play.
fn rows_of(dir: &Path, words: &[&str]) -> Vec<String> {
    let told = drill(dir, words).arg("--list").output().unwrap();
    String::from_utf8(told.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn whoever_dies_at_the_hand_over_the_machine_runs_once_with_every_record() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["--all", "--only", "move: source before write done:HandOver"];
    let all = rows_of(dir.path(), &words);
    let (live, others): (Vec<_>, Vec<_>) = all.iter().partition(|row| row.starts_with("live "));
    // Four who live, each and in pairs, and three outages; of a cold move and of a warm one. Of a live one also its
    // machine, which is only paused.
    assert_eq!((others.len(), live.len()), (26, 18), "{all:#?}");

    // Each seventh is played, so that all three sorts of moves are among them.
    let part = [&words[..], &["--every", "7", "--json"]].concat();
    let report = report(&drill(dir.path(), &part).output().unwrap());
    assert_eq!(report["ok"], true, "{report:#}");
    let rows = report["rows"].as_array().unwrap();
    let kinds: BTreeSet<_> = rows.iter().map(|row| row["kind"].as_str().unwrap()).collect();
    assert_eq!((rows.len(), kinds.len()), (all.len().div_ceil(7), 3), "{report:#}");
    assert!(rows.iter().all(|row| row["point"].as_str().unwrap().contains("done:HandOver")), "{report:#}");
    assert_nothing_is_left(dir.path());
}

#[test]
fn a_move_that_was_cancelled_leaves_the_machine_at_home_whoever_dies() {
    let dir = tempfile::tempdir().unwrap();
    let which = "cancelled move: source after write cancel_asked";
    let words = ["--all", "--only", which, "--every", "3", "--json"];
    let report = report(&drill(dir.path(), &words).output().unwrap());
    assert_eq!(report["ok"], true, "{report:#}");
    let rows = report["rows"].as_array().unwrap();
    assert!(!rows.is_empty() && rows.iter().all(|row| row["ending"] == "cancelled"), "{report:#}");
    assert_nothing_is_left(dir.path());
}

#[test]
fn a_machine_that_was_quiesced_is_told_that_it_stays_whoever_dies_while_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["--all", "--only", "with hooks: source runs hook resume: kill source agent", "--json"];
    let report = report(&drill(dir.path(), &words).output().unwrap());
    assert_eq!(report["ok"], true, "{report:#}");
    let rows = report["rows"].as_array().unwrap();
    // The agent alone, and with each of the others who live then.
    assert!(rows.len() > 2 && rows.iter().all(|row| row["ending"] == "undone"), "{report:#}");
    assert_nothing_is_left(dir.path());
}

#[test]
fn the_rows_of_a_drill_are_told_and_a_name_that_none_has_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let told = rows_of(dir.path(), &["--all", "--only", "call boot"]);
    let is_told = |name: &str| told.iter().any(|row| row == name);
    assert!(is_told("move: target after call boot: kill source agent + target server"), "{told:#?}");
    assert!(is_told("move: target before call boot: cut link"), "{told:#?}");
    assert!(told.iter().all(|row| row.contains("call boot")), "{told:#?}");

    let refused = drill(dir.path(), &["--only", "no such row"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--all --list"), "{refused:?}");
    assert_nothing_is_left(dir.path());
}

#[test]
fn a_drill_that_is_interrupted_ends_and_removes_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = drill(dir.path(), &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    let estimate = said.next().unwrap().unwrap();
    assert!(estimate.contains("rows") && estimate.contains("about"), "{estimate}");
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    // Who reads must read on: what is still told must not meet a closed pipe.
    said.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_nothing_is_left(dir.path());
}
