//! How the memory of a stand-in crosses.
//!
//! ```text
//!   MAGIC · pages (what takes a real one so long; none of it is needed) ··· pause ··· writer: u64 · next: u64
//! ```
//!
//! As with QEMU, it has left when the last of it was sent, one that cannot be sent runs on where it is, and one that does not
//! come whole ends who waited for it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;

use anyhow::{Result, ensure};

use super::{Runs, Vm};

const MAGIC: [u8; 8] = *b"drill-vm";
const PAGES_BYTES: usize = 256 * 1024;

/// All that a guest knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Which boot of it this is; 0: it has not booted yet.
    pub writer: u64,
    /// The record that it writes next; none: it has to look for that on its volume.
    pub next: Option<u64>,
}

/// How the moving of it stands.
#[derive(Debug)]
pub struct Moves {
    /// QEMU's word for it.
    pub status: &'static str,
    /// Why it failed.
    pub error: Option<String>,
    /// Where it is waited for.
    pub port: Option<u16>,
    /// Bytes that were sent.
    pub sent: usize,
    /// Whether the rest of it may go; none: nobody has said yet.
    pub may_go: Option<bool>,
}

impl Default for Moves {
    fn default() -> Self {
        Self { status: "none", error: None, port: None, sent: 0, may_go: None }
    }
}

/// Sends it to `to`, on a thread of its own.
pub fn send(vm: &Arc<Vm>, to: String) {
    vm.change(|state| state.moves = Moves { status: "setup", ..Moves::default() });
    let vm = Arc::clone(vm);
    std::thread::spawn(move || {
        let crossed = cross(&vm, &to);
        vm.change(|state| {
            let (runs, status) = match &crossed {
                Ok(true) => (Runs::Left, "completed"),
                Ok(false) => (Runs::Running, "cancelled"),
                Err(_) => (Runs::Running, "failed"),
            };
            if state.runs != Runs::Ending {
                state.runs = runs;
            }
            state.moves.status = status;
            state.moves.error = crossed.err().map(|error| format!("{error:#}"));
        });
    });
}

/// Whether it has left, or was kept.
fn cross(vm: &Vm, to: &str) -> Result<bool> {
    let mut stream = TcpStream::connect(to)?;
    vm.change(|state| state.moves.status = "active");
    stream.write_all(&MAGIC)?;
    stream.write_all(&vec![0; PAGES_BYTES])?;
    vm.change(|state| {
        state.moves.sent = PAGES_BYTES;
        if state.runs == Runs::Running {
            state.runs = Runs::Paused;
        }
    });
    drop(vm.wait(|state| state.is_at_rest));
    vm.change(|state| state.moves.status = "pre-switchover");
    let memory = {
        let state = vm.wait(|state| state.moves.may_go.is_some());
        if state.moves.may_go == Some(false) {
            return Ok(false);
        }
        state.memory
    };
    vm.change(|state| state.moves.status = "device");
    let words = [memory.writer, memory.next.unwrap_or(u64::MAX)].map(u64::to_le_bytes);
    stream.write_all(words.as_flattened())?;
    stream.shutdown(Shutdown::Write)?;
    Ok(true)
}

/// Waits for it at `ip`, on a thread of its own; what does not come whole ends this process.
///
/// # Errors
/// Nobody can listen there.
pub fn await_at(vm: &Arc<Vm>, ip: &str, port: u16) -> Result<()> {
    let listener = TcpListener::bind((ip, port))?;
    let port = listener.local_addr()?.port();
    vm.change(|state| {
        state.moves.status = "setup";
        state.moves.port = Some(port);
    });
    let vm = Arc::clone(vm);
    std::thread::spawn(move || match take(&listener) {
        Ok(memory) => vm.change(|state| {
            state.memory = memory;
            state.moves.status = "completed";
            state.runs = Runs::Running;
        }),
        Err(error) => {
            tracing::warn!(%error, "the memory does not come");
            std::process::exit(1);
        }
    });
    Ok(())
}

fn take(listener: &TcpListener) -> Result<Memory> {
    let (mut stream, _) = listener.accept()?;
    let mut magic = [0; MAGIC.len()];
    stream.read_exact(&mut magic)?;
    ensure!(magic == MAGIC, "this is no memory");
    stream.read_exact(&mut vec![0; PAGES_BYTES])?;
    let mut words = [[0; 8]; 2];
    stream.read_exact(words.as_flattened_mut())?;
    let [writer, next] = words.map(u64::from_le_bytes);
    Ok(Memory { writer, next: (next != u64::MAX).then_some(next) })
}
