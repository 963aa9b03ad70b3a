//! The agent inside a guest (QEMU, docs/interop/qemu-ga-ref.rst), over the socket where QEMU has the other end of its port.
//!
//! Each question has a connection of its own, in step from its beginning: whoever waits for a command to end keeps nobody from shutting the guest
//! down, and what a guest says too late reaches nobody.

use crate::drivers::probe;
use crate::drivers::{Freeze, GuestError};
use crate::host::Doing;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ferry_api::{HealthCheck, Probe};
use ferry_crossing::guest_agent::{self as said, Ask, Heard, Listener};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// The socket, in the machine's directory.
pub(super) const SOCKET: &str = "guest-agent.sock";
/// How long the agent may take to say that it is there, where something else can be done instead.
const THERE_MAX: Duration = Duration::from_secs(15);
/// How long an answer may take where it is asked again.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long a refusal to shut down may take: that it is done is not said.
const REFUSAL_MAX: Duration = Duration::from_millis(500);
/// The first and the longest pause between two looks at a command that runs.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// The agent of one guest.
#[derive(Clone, Debug)]
pub(super) struct GuestAgent {
    socket: PathBuf,
}

impl GuestAgent {
    /// That of the machine in `dir`.
    pub fn of(dir: &Path) -> Self {
        Self { socket: dir.join(SOCKET) }
    }

    /// Asks, and waits for the answer as long as that takes.
    async fn ask(&self, ask: &Ask<'_>) -> Result<Value, GuestError> {
        Connection::in_step(&self.socket).await?.ask(ask).await
    }

    async fn ask_within(&self, ask: &Ask<'_>, at_most: Duration) -> Result<Value, GuestError> {
        timeout(at_most, self.ask(ask)).await.map_err(|_| GuestError::Silent)?
    }

    /// Has the guest shut down.
    ///
    /// # Errors
    /// There is no agent that listens, or it refuses.
    pub async fn shut_down(&self) -> Result<(), GuestError> {
        let there = timeout(THERE_MAX, Connection::in_step(&self.socket)).await;
        let mut connection = there.map_err(|_| GuestError::Silent)??;
        connection.say(&Ask::ShutDown.line()).await?;
        match timeout(REFUSAL_MAX, connection.heard()).await {
            Ok(Ok(Heard::Answer(Err(why)))) => Err(GuestError::Refuses { why }),
            // Silence, or an end, is what is wanted.
            Ok(Ok(Heard::Answer(Ok(_)) | Heard::InStep) | Err(_)) | Err(_) => Ok(()),
        }
    }

    /// Runs a command in the guest; what is not through in its time is killed there.
    ///
    /// # Errors
    /// Why it did not succeed, in words.
    pub async fn run(&self, check: &HealthCheck, env: &BTreeMap<String, String>) -> Result<(), String> {
        let Probe::Command(command) = &check.probe else {
            return Err("only commands can be run by a guest's agent".to_owned());
        };
        let env = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let until = Instant::now() + Duration::from_millis(check.timeout_ms);
        let ended = match timeout_at(until, Connection::in_step(&self.socket)).await {
            Ok(Ok(connection)) => timeout_at(until, self.ended(connection, &Ask::Run { command, env })).await,
            Ok(Err(error)) => Ok(Err(error)),
            Err(_) => Ok(Err(GuestError::Silent)),
        };
        match ended {
            Err(_) => Err(probe::late(check)),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(ended)) => {
                let words = BASE64_STANDARD.decode(ended.said.trim_end()).unwrap_or_default();
                probe::verdict(Some(ended.code), probe::last_line(&words), check)
            }
        }
    }

    async fn ended(&self, connection: Connection, run: &Ask<'_>) -> Result<said::Ended, GuestError> {
        let pid = said::pid(&connection.ask(run).await?)?;
        let mut running = Running { agent: self, pid: Some(pid) };
        let mut pause = LOOK.0;
        loop {
            if let Some(ended) = said::outcome(self.ask(&Ask::Outcome(pid)).await?)? {
                running.pid = None;
                return Ok(ended);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LOOK.1);
        }
    }
}

impl Freeze for GuestAgent {
    fn freeze(&self) -> Doing<'_, Result<(), GuestError>> {
        Box::pin(async {
            // One that was frozen by an agent that died meanwhile refuses everything else.
            if said::is_frozen(&self.ask(&Ask::Frozen).await?)? {
                self.ask(&Ask::Thaw).await?;
            }
            self.ask(&Ask::Freeze).await.map(drop)
        })
    }

    fn thaw(&self) -> Doing<'_, Result<(), GuestError>> {
        Box::pin(async {
            if said::is_frozen(&self.ask_within(&Ask::Frozen, ANSWER_MAX).await?)? {
                self.ask_within(&Ask::Thaw, ANSWER_MAX).await?;
            }
            Ok(())
        })
    }
}

/// A command that runs in a guest; dropped, it is killed.
struct Running<'a> {
    agent: &'a GuestAgent,
    pid: Option<i64>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let Some(pid) = self.pid else { return };
        let agent = self.agent.clone();
        tokio::spawn(async move {
            let command = ["kill", "-KILL", &pid.to_string()].map(str::to_owned);
            let ask = Ask::Run { command: &command, env: Vec::new() };
            if let Err(error) = agent.ask_within(&ask, ANSWER_MAX).await {
                tracing::warn!(%error, "a command that took too long in a guest cannot be killed there");
            }
        });
    }
}

struct Connection {
    stream: UnixStream,
    listener: Listener,
}

impl Connection {
    /// One to an agent that is there.
    async fn in_step(socket: &Path) -> Result<Self, GuestError> {
        let stream = UnixStream::connect(socket).await?;
        let mut connection = Self { stream, listener: Listener::new(token()) };
        let greeting = connection.listener.greeting();
        connection.say(&greeting).await?;
        match connection.heard().await? {
            Heard::InStep => Ok(connection),
            Heard::Answer(_) => Err(said::Nonsense::NoAnswer.into()),
        }
    }

    async fn ask(mut self, ask: &Ask<'_>) -> Result<Value, GuestError> {
        self.say(&ask.line()).await?;
        match self.heard().await? {
            Heard::Answer(answer) => answer.map_err(|why| GuestError::Refuses { why }),
            Heard::InStep => Err(said::Nonsense::NoAnswer.into()),
        }
    }

    async fn say(&mut self, line: &[u8]) -> Result<(), GuestError> {
        Ok(self.stream.write_all(line).await?)
    }

    async fn heard(&mut self) -> Result<Heard, GuestError> {
        let mut piece = [0; 4096];
        loop {
            let count = self.stream.read(&mut piece).await?;
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            if let Some(heard) = self.listener.hear(&piece[..count])? {
                return Ok(heard);
            }
        }
    }
}

/// A number that no connection before had, of whichever agent of this worker.
fn token() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(since.as_nanos()).unwrap_or_default();
    let last = LAST.fetch_max(now, Ordering::Relaxed);
    if now > last { now } else { LAST.fetch_add(1, Ordering::Relaxed) + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::UnixListener;

    /// A guest whose agent answers by `answer` what it is asked, behind a stale answer; none: it is silent.
    fn guest(
        dir: &Path,
        answer: impl Fn(&str, &Value) -> Option<Value> + Send + 'static,
    ) -> (GuestAgent, Arc<Mutex<Vec<Value>>>) {
        let listener = UnixListener::bind(dir.join(SOCKET)).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                let mut line = Vec::new();
                while matches!(stream.read_until(b'\n', &mut line).await, Ok(1..)) {
                    let from = line.iter().position(|byte| *byte != 0xff).unwrap();
                    let said: Value = serde_json::from_slice(&line[from..]).unwrap();
                    line.clear();
                    let name = said["execute"].as_str().unwrap();
                    let answered = match name {
                        "guest-sync-delimited" => Some(format!(
                            "{{\"stale\": 1}}\n\u{0}{{\"return\": {}}}\n",
                            said["arguments"]["id"]
                        )),
                        _ => {
                            noted.lock().unwrap().push(said.clone());
                            answer(name, &said["arguments"]).map(|answer| format!("{answer}\n"))
                        }
                    };
                    let Some(answered) = answered else { continue };
                    let bytes: Vec<u8> =
                        answered.bytes().map(|byte| if byte == 0 { 0xff } else { byte }).collect();
                    stream.get_mut().write_all(&bytes).await.unwrap();
                }
            }
        });
        (GuestAgent::of(dir), asked)
    }

    fn check(timeout_ms: u64) -> HealthCheck {
        HealthCheck { timeout_ms, ..Probe::Command(vec!["sync".to_owned(), "-f".to_owned()]).into() }
    }

    fn names(asked: &Mutex<Vec<Value>>) -> Vec<String> {
        let asked = asked.lock().unwrap();
        asked
            .iter()
            .map(|said| said["execute"].as_str().unwrap().trim_start_matches("guest-").to_owned())
            .collect()
    }

    #[tokio::test]
    async fn a_command_is_run_in_the_guest_and_its_last_words_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let looks = AtomicU64::new(0);
        let (agent, asked) = guest(dir.path(), move |name, _| {
            Some(match (name, looks.fetch_add(1, Ordering::Relaxed)) {
                ("guest-exec", _) => serde_json::json!({ "return": { "pid": 7 } }),
                (_, 1) => serde_json::json!({ "return": { "exited": false } }),
                (_, _) => {
                    serde_json::json!({ "return": { "exited": true, "exitcode": 3, "err-data": "aXQgaXMgZnVsbBtbMko=" } })
                }
            })
        });
        let env = BTreeMap::from([("FERRY_HOOK".to_owned(), "quiesce".to_owned())]);
        let failed = agent.run(&check(600_000), &env).await.unwrap_err();
        assert_eq!(failed, "`sync -f` ended with code 3: it is full[2J");
        assert_eq!(names(&asked), ["exec", "exec-status", "exec-status"]);
        assert_eq!(asked.lock().unwrap()[0]["arguments"]["env"][0], "FERRY_HOOK=quiesce");
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_killed_in_the_guest() {
        let dir = tempfile::tempdir().unwrap();
        let (agent, asked) = guest(dir.path(), |name, _| {
            let answer = if name == "guest-exec" { r#"{"pid": 7}"# } else { r#"{"exited": false}"# };
            Some(serde_json::from_str(&format!("{{\"return\": {answer}}}")).unwrap())
        });
        let failed = agent.run(&check(100), &BTreeMap::new()).await.unwrap_err();
        assert_eq!(failed, "`sync -f` took longer than 100 ms");
        let is_kill =
            |said: &Value| said["arguments"]["path"] == "kill" && said["arguments"]["arg"][1] == "7";
        while !asked.lock().unwrap().last().is_some_and(is_kill) {
            sleep(LOOK.0).await;
        }
    }

    #[tokio::test]
    async fn what_an_agent_that_died_has_frozen_is_thawed_before_it_is_frozen_again() {
        let dir = tempfile::tempdir().unwrap();
        let frozen = Mutex::new(true);
        let (agent, asked) = guest(dir.path(), move |name, _| {
            let mut frozen = frozen.lock().unwrap();
            Some(match name {
                "guest-fsfreeze-status" => {
                    serde_json::json!({ "return": if *frozen { "frozen" } else { "thawed" } })
                }
                _ if name.ends_with("freeze") && *frozen => {
                    serde_json::json!({ "error": { "desc": "it is frozen" } })
                }
                _ => {
                    *frozen = name.ends_with("freeze");
                    serde_json::json!({ "return": 1 })
                }
            })
        });
        agent.freeze().await.unwrap();
        agent.thaw().await.unwrap();
        agent.thaw().await.unwrap();
        let expected = ["status", "thaw", "freeze", "status", "thaw", "status"];
        assert_eq!(names(&asked), expected.map(|name| format!("fsfreeze-{name}")));
    }

    #[tokio::test]
    async fn a_guest_is_shut_down_unless_its_agent_refuses_or_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let (agent, _) = guest(dir.path(), |_, said| (said["mode"] != "powerdown").then(|| said.clone()));
        assert!(agent.shut_down().await.is_ok());
        let other = tempfile::tempdir().unwrap();
        assert!(matches!(GuestAgent::of(other.path()).shut_down().await, Err(GuestError::NotThere(_))));
        let refuses = |_: &str, _: &Value| Some(serde_json::json!({ "error": { "desc": "not now" } }));
        let (agent, _) = guest(other.path(), refuses);
        assert!(matches!(agent.shut_down().await, Err(GuestError::Refuses { why }) if why == "not now"));
    }
}
