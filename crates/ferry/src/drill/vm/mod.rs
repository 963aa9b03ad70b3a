//! A stand-in for QEMU, so that a drill can move a machine with its memory in no time and where there is no QEMU: it takes
//! QEMU's words, speaks its monitor's protocol and sends its memory to another one of itself. What moves it is the agent as it is.
//!
//! Its guest is the demo's writer, but for this: where it goes on it knows from its memory, and looks for it on its volume only
//! when it boots. Its diary is open as long as it runs, so that one that runs elsewhere at the same time is noted there.
//!
//! ```text
//!   boot ──▶ Running ──pause──▶ Paused ──let go──▶ Left
//!              ▲  ▲───kept, or it did not cross──┘
//!   Awaits ────┘ all of its memory has come
//! ```

mod memory;
mod monitor;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use ferry_volume::client::BlockClient;

use crate::demo::acks::{Diary, Entry};
use crate::demo::records::Ring;
use crate::demo::writer::{Session, now_ns};
use crate::exit::Exit;
use crate::output::say;
use memory::Memory;
use monitor::Monitor;

/// What it says that it is: a version that the agent takes.
const VERSION: &str = "QEMU emulator version 10.0.0 (stand-in)";
/// Pause before the volume is tried again after it went away.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// Where it finds its volume.
const VOLUME_VARIABLE: &str = "FERRY_VOLUME_DATA";

/// What a guest is told that is not for QEMU: the `append` of its spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Where on its volume its records go.
    pub ring: (u64, u64),
    /// Pause between two records.
    pub interval_ms: u64,
    /// The port at which its memory arrives; 0: any.
    pub port: u16,
}

impl Told {
    /// As a guest reads it.
    pub fn to_text(self) -> String {
        format!("{} {} {} {}", self.ring.0, self.ring.1, self.interval_ms, self.port)
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut numbers = text.split(' ').map(str::parse);
        let mut next = || numbers.next()?.ok();
        let (ring, interval_ms) = ((next()?, next()?), next()?);
        Some(Self { ring, interval_ms, port: next()?.try_into().ok()? })
    }
}

/// How the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runs {
    /// Its memory is still to come.
    Awaits,
    Running,
    Paused,
    /// Its memory has left.
    Left,
    /// Its power button was pressed.
    Ending,
}

#[derive(Debug)]
struct State {
    runs: Runs,
    /// Whether the guest has come to rest; then `memory` is all that it knows.
    is_at_rest: bool,
    memory: Memory,
    moves: memory::Moves,
}

/// A guest and what moves it.
#[derive(Debug)]
struct Vm {
    state: Mutex<State>,
    changed: Condvar,
    monitor: Monitor,
}

impl Vm {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how it stands, and tells whoever waits for that.
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
        self.monitor.tell_news();
    }

    /// Waits until it stands like this.
    fn wait(&self, until: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let waited = self.changed.wait_while(self.lock(), |state| !until(state));
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Is a VM that was started with these words, until its guest ends.
///
/// # Errors
/// The words are none that a drill gives; the diary or the monitor's socket cannot be made.
pub fn run(words: &[OsString]) -> Result<Exit> {
    if words == ["--version"] {
        say(VERSION)?;
        return Ok(Exit::Done);
    }
    let after = |word: &str| words.iter().skip_while(|found| *found != word).nth(1);
    let told = after("-append").and_then(|text| Told::from_text(text.to_str()?));
    let told = told.context("a VM of a drill is told where its records go")?;
    let diary = PathBuf::from(after("-kernel").context("a VM of a drill is told where its diary is")?);
    let is_awaited = after("-incoming").is_some();
    let vm = Arc::new(Vm {
        state: Mutex::new(State {
            runs: if is_awaited { Runs::Awaits } else { Runs::Running },
            is_at_rest: is_awaited,
            memory: Memory::default(),
            moves: memory::Moves::default(),
        }),
        changed: Condvar::new(),
        monitor: Monitor::default(),
    });
    let socket = words.iter().find_map(|word| monitor::socket_of(word));
    monitor::listen(&vm, &socket.context("a VM of a drill is told where its monitor is")?, told.port)?;
    let uri = std::env::var(VOLUME_VARIABLE).context("a VM of a drill is told where its volume is")?;
    let guest = Guest { vm: &vm, told, diary, uri };
    guest.live()?;
    Ok(Exit::Done)
}

struct Guest<'a> {
    vm: &'a Vm,
    told: Told,
    diary: PathBuf,
    uri: String,
}

impl Guest<'_> {
    fn live(&self) -> Result<()> {
        let (offset, len) = self.told.ring;
        let ring = Ring::new(offset, len).ok_or_else(|| anyhow!("a ring of {len} bytes holds no record"))?;
        loop {
            let mut memory = {
                let mut state = self.vm.wait(|state| matches!(state.runs, Runs::Running | Runs::Ending));
                if state.runs == Runs::Ending {
                    return Ok(());
                }
                state.is_at_rest = false;
                state.memory
            };
            self.run(&mut memory, ring)?;
            self.vm.change(|state| {
                state.memory = memory;
                state.is_at_rest = true;
            });
        }
    }

    /// Runs until it shall not.
    fn run(&self, memory: &mut Memory, ring: Ring) -> Result<()> {
        let mut diary = Diary::open(&self.diary)?;
        if memory.writer == 0 {
            memory.writer = now_ns() ^ u64::from(std::process::id()).rotate_left(48);
            let pid = std::process::id();
            diary.append(Entry::Start { at_ns: now_ns(), pid, writer: memory.writer })?;
        }
        if !diary.is_alone() {
            diary.append(Entry::Clash { at_ns: now_ns(), pid: std::process::id() })?;
        }
        while self.runs() {
            if let Err(error) = self.write_records(memory, ring, &mut diary) {
                tracing::debug!(%error, "the volume is away");
                std::thread::sleep(RECONNECT_PAUSE);
            }
        }
        if self.vm.lock().runs == Runs::Ending {
            diary.append(Entry::Stop { at_ns: now_ns() })?;
        }
        Ok(())
    }

    fn write_records(&self, memory: &mut Memory, ring: Ring, diary: &mut Diary) -> Result<()> {
        let mut disk = BlockClient::connect_text(&self.uri)?;
        diary.append(Entry::Connected { at_ns: now_ns() })?;
        let mut session = Session { disk: &mut disk, diary, ring, writer: memory.writer };
        let mut next = match memory.next {
            Some(next) => next,
            None => session.find_the_end()?,
        };
        session.diary.append(Entry::Found { at_ns: now_ns(), next })?;
        while self.runs() {
            session.write_record(next)?;
            next += 1;
            memory.next = Some(next);
            std::thread::sleep(Duration::from_millis(self.told.interval_ms));
        }
        Ok(())
    }

    fn runs(&self) -> bool {
        self.vm.lock().runs == Runs::Running
    }
}

/// The command line of a VM that was started for a drill, once it is one: a program that becomes this.
pub fn script(program: &OsStr) -> OsString {
    let mut script = OsString::from("#!/bin/sh\nexec '");
    script.push(program);
    script.push("' drill-vm \"$@\"\n");
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_is_told_reads_back() {
        let told = Told { ring: (4096, 1 << 20), interval_ms: 2, port: 7435 };
        assert_eq!(Told::from_text(&told.to_text()), Some(told));
        assert_eq!(Told::from_text("4096 1"), None);
    }
}
