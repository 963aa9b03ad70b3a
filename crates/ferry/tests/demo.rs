//! The demo as a process, small: the whole path of Ferry between real processes, and nothing left behind.

#[path = "support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::leftovers::{assert_nothing_is_left, processes_of};

const MIB: u64 = 1024 * 1024;

/// `ferry demo` on a small volume, with everything it makes below `dir`.
fn demo(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ferry"));
    command.args(["demo", "--size", "1GiB", "--used", "16MiB"]).args(words).env("TMPDIR", dir);
    command.stdin(Stdio::null());
    command
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a number"))
}

#[test]
fn the_demo_moves_a_machine_and_finds_every_acknowledged_record() {
    let dir = tempfile::tempdir().unwrap();
    let output = demo(dir.path(), &["--json"]).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{complaint}");

    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["ok"], true);
    let check = &summary["check"];
    assert_eq!(check["records_intact"], check["records_acknowledged"], "{check}");
    assert!(number(&check["records_intact"]) >= 500, "{check}");
    assert_eq!(check["fill_bytes_checked"], 16 * MIB);

    assert_eq!(summary["job"]["state"], "succeeded");
    let steps = summary["job"]["steps"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["state"] == "done"), "{steps:?}");

    // The data and the records crossed, and next to nothing of the other thousand MiB.
    let copied = number(&summary["bytes_copied"]);
    assert!((16 * MIB..128 * MIB).contains(&copied), "{copied} bytes copied");
    assert!(number(&summary["bytes_in_use"]) >= 16 * MIB);
    assert_eq!(summary["bytes_verified"], summary["bytes_copied"]);
    let gap = &summary["interruption"];
    assert_eq!(
        number(&gap["total_us"]).abs_diff(number(&gap["ferry_us"]) + number(&gap["machine_us"])) / 2,
        0
    );
    assert!(number(&gap["total_us"]) > 0);
    assert_nothing_is_left(dir.path());
}

/// Reads the demo's lines until one has `part` in it.
fn read_until(child: &mut Child, part: &str) -> Vec<String> {
    let stdout = child.stdout.as_mut().expect("the demo was started with a pipe");
    let mut lines = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.expect("the demo writes UTF-8");
        let is_it = line.contains(part);
        lines.push(line);
        if is_it {
            return lines;
        }
    }
    panic!("no line has {part:?} in it: {lines:?}");
}

#[test]
fn a_demo_that_is_interrupted_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = demo(dir.path(), &[]).stdout(Stdio::piped()).spawn().unwrap();
    // Agents, volume server and machine all run now.
    read_until(&mut child, "records acknowledged");
    assert!(processes_of(dir.path()).len() >= 4);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_nothing_is_left(dir.path());
}

#[test]
fn a_kept_demo_can_be_talked_to_and_ended_with_the_commands_it_prints() {
    let dir = tempfile::tempdir().unwrap();
    let output = demo(dir.path(), &["--keep"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));

    let urls: Vec<&str> =
        said.lines().filter_map(|line| line.trim().strip_prefix("ferry worker show --agent ")).collect();
    let state_at = |url: &str| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ferry"));
        let shown = command.args(["machine", "show", "writer", "--json", "--agent", url]).output().unwrap();
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        shown["state"]["state"].as_str().unwrap().to_owned()
    };
    let states: Vec<String> = urls.iter().map(|url| state_at(url)).collect();

    // A move later there are other processes than those the demo has seen.
    let words: Vec<&str> =
        said.lines().find(|line| line.contains("--to w1")).unwrap().split_whitespace().collect();
    assert_eq!(words[..2], ["ferry", "move"]);
    let moved = Command::new(assert_cmd::cargo::cargo_bin!("ferry")).args(&words[1..]).output().unwrap();

    let words: Vec<&str> =
        said.lines().find(|line| line.contains("demo --end")).unwrap().split_whitespace().collect();
    let ended = Command::new(assert_cmd::cargo::cargo_bin!("ferry")).args(&words[1..]).status().unwrap();
    assert!(moved.status.success() && ended.success());
    assert_eq!(states, ["handed_over", "running"]);
    assert_nothing_is_left(dir.path());
}

#[test]
fn a_temporary_directory_too_deep_for_sockets_is_refused_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(80));
    std::fs::create_dir(&deep).unwrap();
    let output = demo(&deep, &[]).output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint.starts_with("ferry: ") && complaint.contains("TMPDIR"), "{complaint}");
    assert_nothing_is_left(&deep);
}
