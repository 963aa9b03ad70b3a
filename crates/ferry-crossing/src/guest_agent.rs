//! What the agent inside a VM is asked, and what it says (QEMU, docs/interop/qemu-ga-ref.rst).
//!
//! Invariant: a guest may say anything, for as long as it likes, and claim anything of itself. No more of it is kept than the limits here allow,
//! and nothing of it reaches a person's terminal but printable characters.

use serde::Deserialize;
use serde_json::{Value, json};

/// The most bytes that are listened to until a question is answered, stale answers included.
pub const HEARD_BYTES_MAX: usize = 2 << 20;
/// The most characters that are kept of what the guest says in words.
pub const WORDS_CHARS_MAX: usize = 200;
/// What a program in the guest finds its programs by, if nothing else is said.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Begins an answer that can be told from stale ones, and has the agent forget the beginning of a question. No byte of UTF-8.
const SENTINEL: u8 = 0xff;

/// Why what the guest says is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// It goes on and on.
    #[error("the guest's agent says more than {HEARD_BYTES_MAX} bytes; look after it in the guest")]
    TooMuch,
    /// It does not speak the protocol.
    #[error("what the guest's agent says is no answer; look after it in the guest")]
    NoAnswer,
}

/// What was heard.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// The agent is there, and what it says next answers what it is asked next.
    InStep,
    /// What it returns, or why it refuses, in its words.
    Answer(Result<Value, String>),
}

/// Listens to the agent over one connection: first until it is in step, then to its answer.
#[derive(Debug)]
pub struct Listener {
    token: u64,
    line: Vec<u8>,
    heard: usize,
    /// Whether the line began behind a sentinel.
    is_marked: bool,
    is_in_step: bool,
}

impl Listener {
    /// One that knows that the agent is in step by a number, which no other connection to this guest has had. It has at most 62 bits, for agents read
    /// signed ones.
    #[must_use]
    pub fn new(token: u64) -> Self {
        let token = token & (u64::MAX >> 2);
        Self { token, line: Vec::new(), heard: 0, is_marked: false, is_in_step: false }
    }

    /// What is to be said first.
    #[must_use]
    pub fn greeting(&self) -> Vec<u8> {
        let sync = json!({ "execute": "guest-sync-delimited", "arguments": { "id": self.token } });
        [&[SENTINEL][..], sync.to_string().as_bytes(), b"\n"].concat()
    }

    /// Takes what the guest has said since; none if that is not all yet. What follows what is answered here was not asked for, and is dropped.
    ///
    /// # Errors
    /// It is no answer; nothing more is to be heard from this agent over this connection.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<Option<Heard>, Nonsense> {
        for &byte in bytes {
            self.heard += 1;
            if self.heard > HEARD_BYTES_MAX {
                return Err(Nonsense::TooMuch);
            }
            match byte {
                SENTINEL => {
                    self.line.clear();
                    self.is_marked = true;
                }
                b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    if let Some(heard) = self.understand(&line)? {
                        return Ok(Some(heard));
                    }
                }
                other => self.line.push(other),
            }
        }
        Ok(None)
    }

    fn understand(&mut self, line: &[u8]) -> Result<Option<Heard>, Nonsense> {
        let said: Option<Value> = serde_json::from_slice(line).ok();
        if !self.is_in_step {
            let is_marked = std::mem::take(&mut self.is_marked);
            self.is_in_step = is_marked && said.is_some_and(|said| said["return"] == self.token);
            return Ok(self.is_in_step.then_some(Heard::InStep));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        let mut said = said.ok_or(Nonsense::NoAnswer)?;
        if let Some(why) = said["error"]["desc"].as_str() {
            return Ok(Some(Heard::Answer(Err(words(why)))));
        }
        match said.get_mut("return") {
            Some(answer) => Ok(Some(Heard::Answer(Ok(answer.take())))),
            None => Err(Nonsense::NoAnswer),
        }
    }
}

/// What a guest says, as a person may read it.
#[must_use]
pub fn words(said: &str) -> String {
    said.chars().filter(|c| !c.is_control()).take(WORDS_CHARS_MAX).collect()
}

/// What a guest is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask<'a> {
    /// To run a command, with this in its environment; answered as soon as it runs.
    Run {
        /// The program and its arguments.
        command: &'a [String],
        /// Names and values.
        env: Vec<(&'a str, &'a str)>,
    },
    /// What became of a process that it was asked to run.
    Outcome(i64),
    /// To hold all writes to its file systems, when all of it is on its disks.
    Freeze,
    /// To let them go on.
    Thaw,
    /// Whether they are held.
    Frozen,
    /// To shut down. Only a refusal is answered.
    ShutDown,
}

impl Ask<'_> {
    /// The line to say.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        let (name, arguments) = match self {
            Self::Run { command, env } => {
                let path = ("PATH", PATH);
                let has_path = env.iter().any(|(name, _)| *name == path.0);
                let env = env.iter().chain((!has_path).then_some(&path));
                let env: Vec<String> = env.map(|(name, value)| format!("{name}={value}")).collect();
                let (program, rest) =
                    command.split_first().map_or(("", &[][..]), |(p, rest)| (p.as_str(), rest));
                ("guest-exec", json!({ "path": program, "arg": rest, "env": env, "capture-output": true }))
            }
            Self::Outcome(pid) => ("guest-exec-status", json!({ "pid": pid })),
            Self::Freeze => ("guest-fsfreeze-freeze", json!({})),
            Self::Thaw => ("guest-fsfreeze-thaw", json!({})),
            Self::Frozen => ("guest-fsfreeze-status", json!({})),
            Self::ShutDown => ("guest-shutdown", json!({ "mode": "powerdown" })),
        };
        let mut line = json!({ "execute": name, "arguments": arguments }).to_string().into_bytes();
        line.push(b'\n');
        line
    }
}

/// The process that runs what was asked for.
///
/// # Errors
/// That is no answer to [`Ask::Run`].
pub fn pid(answer: &Value) -> Result<i64, Nonsense> {
    answer["pid"].as_i64().ok_or(Nonsense::NoAnswer)
}

/// Whether file systems are held.
///
/// # Errors
/// That is no answer to [`Ask::Frozen`].
pub fn is_frozen(answer: &Value) -> Result<bool, Nonsense> {
    answer.as_str().map(|said| said == "frozen").ok_or(Nonsense::NoAnswer)
}

/// How a process in a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; 128 and the number of the signal if one ended it.
    pub code: i32,
    /// What it wrote, base64 as it came: to stderr if that is anything, else to stdout.
    pub said: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Status {
    exited: bool,
    exitcode: Option<i32>,
    signal: Option<i32>,
    out_data: Option<String>,
    err_data: Option<String>,
}

/// How it ended, if it has.
///
/// # Errors
/// That is no answer to [`Ask::Outcome`].
pub fn outcome(answer: Value) -> Result<Option<Ended>, Nonsense> {
    let status: Status = serde_json::from_value(answer).map_err(|_| Nonsense::NoAnswer)?;
    if !status.exited {
        return Ok(None);
    }
    let code = status.exitcode.or(status.signal.map(|signal| signal.saturating_add(128)));
    let said = [status.err_data, status.out_data].into_iter().flatten().find(|said| !said.is_empty());
    Ok(Some(Ended { code: code.ok_or(Nonsense::NoAnswer)?, said: said.unwrap_or_default() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_step(token: u64) -> Listener {
        let mut listener = Listener::new(token);
        let said = format!("{{\"return\": {token}}}\n");
        assert_eq!(listener.hear(&[&[SENTINEL], said.as_bytes()].concat()), Ok(Some(Heard::InStep)));
        listener
    }

    #[test]
    fn what_was_said_to_others_is_passed_over() {
        let mut listener = Listener::new(7);
        // The rest of an answer, one that is not marked, and one to somebody else.
        assert_eq!(
            listener.hear(b"\"x\"}\n{\"return\": 7}\n\xff{\"return\": 6}\n{\"return\": 7}\n"),
            Ok(None)
        );
        assert_eq!(listener.hear(b"{\"return\": {\xff{\"ret"), Ok(None));
        assert_eq!(listener.hear(b"urn\": 7}\n{\"return\": \"early\"}\n"), Ok(Some(Heard::InStep)));
        assert_eq!(listener.hear(b"{\"return\": {}}\n"), Ok(Some(Heard::Answer(Ok(json!({}))))));
    }

    #[test]
    fn a_refusal_is_told_in_characters_that_a_terminal_takes() {
        let said = json!({ "error": { "class": "GenericError", "desc": format!("no\u{1b}[2J {}", "x".repeat(999)) } });
        let heard = in_step(1).hear(format!("{said}\n").as_bytes());
        let Ok(Some(Heard::Answer(Err(why)))) = heard else { panic!("{heard:?}") };
        assert!(why.starts_with("no[2J xx") && why.chars().count() == WORDS_CHARS_MAX, "{why}");
    }

    #[test]
    fn a_guest_that_floods_or_talks_nonsense_is_not_listened_to() {
        let mut listener = Listener::new(1);
        let flood = vec![b'\n'; HEARD_BYTES_MAX];
        assert_eq!(listener.hear(&flood), Ok(None));
        assert_eq!(listener.hear(b"x"), Err(Nonsense::TooMuch));
        for said in ["no JSON\n", "[]\n", "{\"error\": 1}\n", "7\n", "{}\n"] {
            assert_eq!(in_step(1).hear(said.as_bytes()), Err(Nonsense::NoAnswer), "{said}");
        }
    }

    #[test]
    fn it_is_known_how_a_process_ended() {
        assert_eq!(pid(&json!({ "pid": 12 })), Ok(12));
        assert_eq!(outcome(json!({ "exited": false })), Ok(None));
        let ended = |code, said: &str| Ok(Some(Ended { code, said: said.to_owned() }));
        assert_eq!(outcome(json!({ "exited": true, "exitcode": 0, "out-data": "b2sK" })), ended(0, "b2sK"));
        let both = json!({ "exited": true, "signal": 9, "out-data": "b2sK", "err-data": "bm8K" });
        assert_eq!(outcome(both), ended(137, "bm8K"));
        for lie in [
            json!({ "exited": true }),
            json!({ "exited": 1 }),
            json!([]),
            json!({ "exited": true, "exitcode": 1e30 }),
        ] {
            assert_eq!(outcome(lie.clone()), Err(Nonsense::NoAnswer), "{lie}");
        }
        assert_eq!((is_frozen(&json!("thawed")), is_frozen(&json!(1))), (Ok(false), Err(Nonsense::NoAnswer)));
    }

    #[test]
    fn a_command_is_run_with_its_words_and_finds_its_programs() {
        let command = ["sh", "-c", "true"].map(str::to_owned);
        let line = Ask::Run { command: &command, env: vec![("FERRY_HOOK", "quiesce")] }.line();
        let said: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(said["arguments"]["arg"], json!(["-c", "true"]));
        assert_eq!(said["arguments"]["env"], json!(["FERRY_HOOK=quiesce", format!("PATH={PATH}")]));
        assert_eq!((said["arguments"]["path"].as_str(), line.last()), (Some("sh"), Some(&b'\n')));
    }
}
