//! QEMU's monitor protocol (QEMU, docs/interop/qmp-spec.rst) as far as it is needed: a command, its answer, and news.

use serde_json::{Value, json};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The longest line that QEMU is expected to say, in bytes.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// How long QEMU may take to answer.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A monitor that has agreed to take commands. QEMU talks to one at a time.
#[derive(Debug)]
pub(super) struct Monitor {
    stream: BufReader<UnixStream>,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    /// Whether there were news while an answer was waited for.
    has_news: bool,
}

impl Monitor {
    /// Comes to the monitor at `socket`.
    ///
    /// # Errors
    /// Nobody listens there, or it is no monitor; it talks to somebody else.
    pub async fn connect(socket: &Path) -> io::Result<Self> {
        let mut monitor = Self {
            stream: BufReader::new(UnixStream::connect(socket).await?),
            line: Vec::new(),
            has_news: false,
        };
        let greeting = timeout(ANSWER_MAX, monitor.heard()).await??;
        if greeting.get("QMP").is_none() {
            return Err(io::Error::other(format!("QEMU does not greet: {greeting}")));
        }
        monitor.run("qmp_capabilities").await?;
        Ok(monitor)
    }

    /// Has a command without arguments done; answers what it returned.
    ///
    /// # Errors
    /// QEMU refuses, is gone or does not answer.
    pub async fn run(&mut self, command: &str) -> io::Result<Value> {
        self.ask(command, json!({})).await
    }

    /// Has a command done; answers what it returned.
    ///
    /// # Errors
    /// As [`Monitor::run`].
    pub async fn ask(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.stream.get_mut().write_all(line.as_bytes()).await?;
        timeout(ANSWER_MAX, self.answer(command)).await?
    }

    async fn answer(&mut self, command: &str) -> io::Result<Value> {
        loop {
            let mut heard = self.heard().await?;
            if let Some(error) = heard.get("error") {
                return Err(io::Error::other(format!("QEMU refuses {command}: {}", error["desc"])));
            }
            if let Some(answer) = heard.get_mut("return") {
                return Ok(answer.take());
            }
            self.has_news = true;
        }
    }

    /// Waits until QEMU tells of something, at most so long. It may have told of it since this was last asked.
    ///
    /// # Errors
    /// QEMU is gone.
    pub async fn news(&mut self, at_most: Duration) -> io::Result<()> {
        if std::mem::take(&mut self.has_news) {
            return Ok(());
        }
        match timeout(at_most, self.heard()).await {
            Ok(heard) => heard.map(drop),
            Err(_nothing_new) => Ok(()),
        }
    }

    /// The next line. One that is waited for in vain loses nothing.
    async fn heard(&mut self) -> io::Result<Value> {
        let room = LINE_BYTES_MAX.saturating_sub(self.line.len() as u64);
        let mut limited = AsyncReadExt::take(&mut self.stream, room);
        limited.read_until(b'\n', &mut self.line).await?;
        if self.line.last() != Some(&b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&std::mem::take(&mut self.line))?)
    }
}
