//! `ferry machine console`: a VM's serial console in this terminal.

use anyhow::{Context, Result, bail};
use ferry_api::http::Client;
use ferry_api::{AgentApi, MachineRef};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{Read, Write, stdin, stdout};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

use crate::exit::Exit;
use crate::output::complain;

/// Ctrl-], which leaves the console.
const LEAVE: u8 = 0x1d;
const CHUNK_BYTES: usize = 4096;

/// A terminal that passes each key on at once, until this is dropped.
struct Raw(Termios);

impl Raw {
    /// None where stdin is no terminal.
    fn make() -> Result<Option<Self>> {
        let Ok(before) = tcgetattr(stdin()) else { return Ok(None) };
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw).context("cannot prepare this terminal")?;
        Ok(Some(Self(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}

/// Connects this terminal with the console of a VM, until somebody types Ctrl-], or the VM ends.
pub async fn open(agent: &Client, machine: &MachineRef) -> Result<Exit> {
    let machine = agent.machine(machine).await?;
    let Some(socket) = machine.console() else {
        bail!("machine {} is no VM and has no console; see `ferry machine logs`", machine.name);
    };
    let console = UnixStream::connect(&socket).with_context(|| {
        let (name, worker) = (&machine.name, &machine.worker);
        format!(
            "cannot come to {}; is {name} running, is this worker {worker}, are you root",
            socket.display()
        )
    })?;
    let raw = Raw::make()?;
    if raw.is_some() {
        complain(&format!("this is the console of {}; Ctrl-] leaves it\r", machine.name));
    }
    let keys = console.try_clone().context("cannot use the console")?;
    // It waits for a key that may never come, and ends with the program.
    thread::spawn(move || {
        let _ = pass_keys(&keys);
        let _ = keys.shutdown(Shutdown::Both);
    });
    let shown = tokio::task::spawn_blocking(move || show(console)).await;
    drop(raw);
    shown.expect("showing a console does not panic").context("cannot show the console")?;
    Ok(Exit::Done)
}

/// Passes on what is typed, up to Ctrl-] or the end of stdin.
fn pass_keys(mut to: &UnixStream) -> std::io::Result<()> {
    let mut chunk = [0; CHUNK_BYTES];
    loop {
        let typed = match stdin().read(&mut chunk)? {
            0 => return Ok(()),
            len => &chunk[..len],
        };
        let leaves = typed.iter().position(|key| *key == LEAVE);
        to.write_all(&typed[..leaves.unwrap_or(typed.len())])?;
        if leaves.is_some() {
            return Ok(());
        }
    }
}

fn show(mut from: UnixStream) -> std::io::Result<()> {
    let mut chunk = [0; CHUNK_BYTES];
    loop {
        match from.read(&mut chunk)? {
            0 => return Ok(()),
            len => {
                stdout().write_all(&chunk[..len])?;
                stdout().flush()?;
            }
        }
    }
}
