//! The monitor of a stand-in: as much of QEMU's protocol (docs/interop/qmp-spec.rst) as the agent speaks. It talks to one at a
//! time, and tells it of news.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Runs, Vm, memory};

/// How the word begins that names the socket.
const SOCKET: &[u8] = b"socket,id=monitor,";
const PATH: &[u8] = b"path=";

/// Who is talked to.
#[derive(Debug, Default)]
pub struct Monitor {
    client: Mutex<Option<UnixStream>>,
}

impl Monitor {
    fn client(&self) -> MutexGuard<'_, Option<UnixStream>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, line: &Value) -> io::Result<()> {
        match &mut *self.client() {
            Some(client) => client.write_all(format!("{line}\n").as_bytes()),
            None => Ok(()),
        }
    }

    /// Tells whoever is there that something has changed.
    pub fn tell_news(&self) {
        // Who has gone asks again.
        let _ = self.say(&json!({ "event": "MIGRATION", "data": {} }));
    }
}

/// The monitor's socket, if it is this word of QEMU's that names it.
pub fn socket_of(word: &OsStr) -> Option<PathBuf> {
    let rest = word.as_bytes().strip_prefix(SOCKET)?;
    let at = rest.windows(PATH.len()).position(|bytes| bytes == PATH)?;
    // A comma is written twice.
    let path = rest[at + PATH.len()..].split(|byte| *byte == b',').filter(|part| !part.is_empty());
    let path = path.collect::<Vec<_>>().join(&b',');
    Some(PathBuf::from(std::ffi::OsString::from_vec(path)))
}

/// Listens, on a thread of its own; memory that is to come is waited for at `port`.
///
/// # Errors
/// The socket cannot be made.
pub fn listen(vm: &Arc<Vm>, socket: &Path, port: u16) -> Result<()> {
    // QEMU takes the place of one that was there before, too.
    let _ = std::fs::remove_file(socket);
    let listener =
        UnixListener::bind(socket).with_context(|| format!("{} cannot be made", socket.display()))?;
    let vm = Arc::clone(vm);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // Who goes away in the middle comes again.
            let _ = talk(&vm, client, port);
            *vm.monitor.client() = None;
        }
    });
    Ok(())
}

fn talk(vm: &Arc<Vm>, client: UnixStream, port: u16) -> io::Result<()> {
    let lines = BufReader::new(client.try_clone()?).lines();
    *vm.monitor.client() = Some(client);
    vm.monitor.say(&json!({ "QMP": { "version": {}, "capabilities": [] } }))?;
    for line in lines {
        let asked: Value = serde_json::from_str(&line?)?;
        let answer = match obey(vm, &asked, port) {
            Ok(answer) => json!({ "return": answer }),
            Err(error) => json!({ "error": { "class": "GenericError", "desc": format!("{error:#}") } }),
        };
        vm.monitor.say(&answer)?;
    }
    Ok(())
}

fn obey(vm: &Arc<Vm>, asked: &Value, port: u16) -> Result<Value> {
    let uri = || asked["arguments"]["uri"].as_str().and_then(|uri| uri.strip_prefix("tcp:"));
    match asked["execute"].as_str().unwrap_or_default() {
        "qmp_capabilities" | "migrate-set-capabilities" | "migrate-set-parameters" => {}
        "query-version" => {
            return Ok(json!({ "qemu": { "major": 10, "minor": 0, "micro": 0 }, "package": "stand-in" }));
        }
        "query-kvm" => return Ok(json!({ "enabled": false, "present": false })),
        "query-status" => return Ok(status(vm)),
        "query-migrate" => return Ok(migration(vm)),
        "migrate-incoming" => {
            let (ip, _) = uri().and_then(|uri| uri.rsplit_once(':')).context("memory comes over TCP")?;
            memory::await_at(vm, ip, port)?;
        }
        "migrate" => memory::send(vm, uri().context("memory goes over TCP")?.to_owned()),
        "migrate-continue" => vm.change(|state| state.moves.may_go = state.moves.may_go.or(Some(true))),
        "migrate_cancel" => vm.change(|state| state.moves.may_go = state.moves.may_go.or(Some(false))),
        "system_powerdown" => vm.change(|state| state.runs = Runs::Ending),
        "quit" => std::process::exit(0),
        other => anyhow::bail!("a stand-in knows no {other}"),
    }
    Ok(json!({}))
}

fn status(vm: &Vm) -> Value {
    let status = match vm.lock().runs {
        Runs::Awaits => "inmigrate",
        Runs::Running => "running",
        Runs::Paused => "finish-migrate",
        Runs::Left => "postmigrate",
        Runs::Ending => "shutdown",
    };
    json!({ "status": status, "running": status == "running" })
}

fn migration(vm: &Vm) -> Value {
    let moves = &vm.lock().moves;
    if moves.status == "none" {
        return json!({});
    }
    let mut told = json!({
        "status": moves.status,
        "ram": { "transferred": moves.sent, "remaining": 0, "dirty-sync-count": 1 },
    });
    if let Some(error) = &moves.error {
        told["error-desc"] = json!(error);
    }
    if let Some(port) = moves.port {
        told["socket-address"] = json!([{ "type": "inet", "host": "", "port": port.to_string() }]);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monitor_is_where_the_words_of_qemu_say() {
        let socket = |word: &str| socket_of(OsStr::new(word));
        let told = socket("socket,id=monitor,server=on,wait=off,path=/a/b,,c/qmp.sock");
        assert_eq!(told, Some(PathBuf::from("/a/b,c/qmp.sock")));
        assert_eq!(socket("socket,id=console,server=on,wait=off,path=/a"), None);
    }
}
