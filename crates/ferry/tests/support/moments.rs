//! Has an agent die, or a step of its jobs fail, at an exact moment: the other end of `ferry agent --drill`, whose moments
//! are told in `ferry_agent::moments`.

use rustix::net::sockopt::socket_peercred;
use rustix::process::{Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// What is wished of an agent.
#[derive(Clone, Copy, Debug)]
pub enum Wish<'a> {
    /// To die at this moment, as `kill -9` has it: `before` or `after`, and words that what happens then has, as in
    /// `after done:Seal` or `before call boot`.
    Die(&'a str),
    /// That this step fails for good after it was done.
    Fail(&'a str),
}
pub use Wish::{Die, Fail};

/// Grants `wishes` to the agent that asks at `socket`, until the test process ends.
pub fn grant(socket: &Path, wishes: &[Wish<'_>]) {
    let (mut deaths, mut failures) = (Vec::new(), Vec::new());
    for wish in wishes {
        match wish {
            Die(moment) => deaths.push((*moment).to_owned()),
            Fail(step) => failures.push(format!("ends {step}")),
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
