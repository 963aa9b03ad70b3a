//! Has an agent die, or a step of its jobs fail, at an exact moment: the other end of `ferry agent --drill`, whose moments
//! are told in `ferry_agent::moments`.

use super::until;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// What is beside the directory of a worker whose machine was killed.
const CRASHED: &str = "crashed";

/// What is wished of an agent.
#[derive(Clone, Copy, Debug)]
pub enum Wish<'a> {
    /// To die at this moment, as `kill -9` has it: `before` or `after`, and words that what happens then has, as in
    /// `after done:Seal` or `before call boot`.
    Die(&'a str),
    /// That this step fails for good after it was done.
    Fail(&'a str),
    /// That the machine whose directory is below that of this worker is dead at this moment: it is killed, once it runs.
    Crash(&'a str, &'a Path),
}
pub use Wish::{Crash, Die, Fail};

/// Grants `wishes` to the agent that asks at `socket`, until the test process ends.
pub fn grant(socket: &Path, wishes: &[Wish<'_>]) {
    let (mut deaths, mut failures, mut crashes) = (Vec::new(), Vec::new(), Vec::new());
    for wish in wishes {
        match wish {
            Die(moment) => deaths.push((*moment).to_owned()),
            Fail(step) => failures.push(format!("ends {step}")),
            Crash(moment, dir) => crashes.push(((*moment).to_owned(), dir.to_path_buf())),
        }
    }
    // An agent before this one may have had wishes of its own.
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            let Some((_, moment)) = line.trim_end().split_once(' ') else { continue };
            if let Some(at) = crashes.iter().position(|(crash, _)| is_at(moment, crash)) {
                // Once: the same moment may come again.
                kill_machine(&crashes.remove(at).1);
            }
            if deaths.iter().any(|death| is_at(moment, death)) {
                kill_process(socket_peercred(&stream).unwrap().pid, Signal::KILL).unwrap();
            } else {
                answer(
                    stream,
                    if failures.iter().any(|failure| failure == moment) { "fail\n" } else { "go\n" },
                );
            }
        }
    });
}

/// Kills the machine of a worker, and returns when it is gone.
fn kill_machine(dir: &Path) {
    let machines = dir.join("machines");
    let runs_there = |pid: &i32| {
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        cwd.starts_with(&machines)
    };
    let found = || {
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.find(runs_there)
    };
    let pid = until("the machine runs", found);
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    // One that is dead is in no directory any more, whoever has heard of it.
    until("the machine is gone", || (!runs_there(&pid)).then_some(()));
    std::fs::write(dir.with_extension(CRASHED), "").unwrap();
}

/// Whether the machine of the worker with this directory was killed as wished.
pub fn has_crashed(dir: &Path) -> bool {
    dir.with_extension(CRASHED).exists()
}

/// Whether `moment` is the side that `wanted` names first, and has all its other words.
fn is_at(moment: &str, wanted: &str) -> bool {
    let moment: Vec<&str> = moment.split_whitespace().collect();
    let mut words = wanted.split_whitespace();
    words.next() == moment.first().copied() && words.all(|word| moment.contains(&word))
}

fn answer(mut stream: UnixStream, answer: &str) {
    // Somebody else may have killed it meanwhile.
    let _ = stream.write_all(answer.as_bytes());
}
