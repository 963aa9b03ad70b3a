//! QEMU's monitor protocol (QEMU, docs/interop/qmp-spec.rst) as far as it is needed: a command, and its answer.

use serde_json::{Value, json};
use std::io;
use std::path::Path;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// The longest line that QEMU is expected to say, in bytes.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// A monitor that has agreed to take commands. QEMU talks to one at a time.
#[derive(Debug)]
pub(super) struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Comes to the monitor at `socket`.
    ///
    /// # Errors
    /// Nobody listens there, or it is no monitor.
    pub async fn connect(socket: &Path) -> io::Result<Self> {
        let mut monitor = Self { stream: BufReader::new(UnixStream::connect(socket).await?) };
        let greeting = monitor.heard().await?;
        if greeting.get("QMP").is_none() {
            return Err(io::Error::other(format!("QEMU does not greet: {greeting}")));
        }
        monitor.run("qmp_capabilities").await?;
        Ok(monitor)
    }

    /// Has a command without arguments done; answers what it returned.
    ///
    /// # Errors
    /// QEMU refuses, or is gone.
    pub async fn run(&mut self, command: &str) -> io::Result<Value> {
        let line = format!("{}\n", json!({ "execute": command }));
        self.stream.get_mut().write_all(line.as_bytes()).await?;
        loop {
            // Between the two there may be events, which nobody here waits for.
            let mut heard = self.heard().await?;
            if let Some(error) = heard.get("error") {
                return Err(io::Error::other(format!("QEMU refuses {command}: {}", error["desc"])));
            }
            if let Some(answer) = heard.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }

    async fn heard(&mut self) -> io::Result<Value> {
        let mut line = Vec::new();
        let mut limited = tokio::io::AsyncReadExt::take(&mut self.stream, LINE_BYTES_MAX);
        limited.read_until(b'\n', &mut line).await?;
        if line.last() != Some(&b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&line)?)
    }
}
