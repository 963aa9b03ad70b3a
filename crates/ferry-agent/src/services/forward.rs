//! How one worker takes a connection to another that has the machine: a line that names the machine and its port, a line
//! that answers, and then the bytes of the connection. The lines are drawn in docs/formats.md.
//!
//! In a cluster all of that is within TLS, and both sides are workers of it.
//!
//! Invariant: whoever owns the machine is asked for each connection, so that no word about where it is can be too old.

use crate::entrances::Secured;
use ferry_api::http::{ClientTls, Stream};
use ferry_api::{Caller, Generation, MachineId, Presented};
use ferry_crossing::proxy::Answer;
use rustix::net::sockopt;
use std::io;
use std::num::NonZeroU16;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What each line begins with.
const GREETING: &str = "ferry 1";
/// Longest line, in bytes, its end included.
const LINE_BYTES_MAX: usize = 160;
/// How long connecting to a worker or a machine may take.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How long the other side may take with its line. The worker that has the machine connects to it meanwhile.
pub(super) const LINE_MAX: Duration = Duration::from_secs(5);
/// After how long without a byte the other side is asked for a sign of life, and how many it may miss.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVES_MAX: u32 = 3;

/// What a connection from another worker is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// The machine.
    pub(super) machine: MachineId,
    /// Its port.
    pub(super) port: NonZeroU16,
}

impl Request {
    fn line(&self) -> String {
        format!("{GREETING} to {} {}\n", self.machine, self.port)
    }

    fn read(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix(GREETING)?.strip_prefix(" to ")?.split(' ');
        let request = Self { machine: words.next()?.parse().ok()?, port: words.next()?.parse().ok()? };
        words.next().is_none().then_some(request)
    }
}

fn answer_line(answer: &Answer) -> String {
    match answer {
        Answer::Through => format!("{GREETING} through\n"),
        Answer::Later => format!("{GREETING} later\n"),
        Answer::Stopped => format!("{GREETING} stopped\n"),
        Answer::Unknown => format!("{GREETING} unknown\n"),
        Answer::Elsewhere { generation, owner } => {
            format!("{GREETING} elsewhere {generation} {owner}\n")
        }
    }
}

fn read_answer(line: &str) -> Option<Answer> {
    let mut words = line.strip_prefix(GREETING)?.strip_prefix(' ')?.split(' ');
    let answer = match words.next()? {
        "through" => Answer::Through,
        "later" => Answer::Later,
        "stopped" => Answer::Stopped,
        "unknown" => Answer::Unknown,
        "elsewhere" => {
            let generation = Generation(words.next()?.parse().ok()?);
            Answer::Elsewhere { generation, owner: words.next()?.parse().ok()? }
        }
        _ => return None,
    };
    words.next().is_none().then_some(answer)
}

/// Asks the worker that is reached at `to` to let a connection through; what follows on the stream goes to the machine then.
pub(super) async fn ask(to: &str, tls: Option<&ClientTls>, request: Request) -> io::Result<(Stream, Answer)> {
    let stream = in_time(CONNECT_MAX, TcpStream::connect(to)).await?;
    prepare(&stream);
    let mut stream = match tls {
        Some(tls) => {
            let host = to.rsplit_once(':').map_or(to, |(host, _)| host);
            in_time(CONNECT_MAX, tls.secure(host, stream)).await?
        }
        None => Stream::Tcp(stream),
    };
    let answer = in_time(LINE_MAX, async {
        stream.write_all(request.line().as_bytes()).await?;
        let line = read_line(&mut stream).await?;
        read_answer(&line).ok_or_else(|| strange(&line))
    });
    let answer = answer.await?;
    Ok((stream, answer))
}

/// Who comes from another worker; nobody else is answered, if it is known who the workers are.
pub(super) async fn admitted(secured: Option<&Secured>, stream: TcpStream) -> io::Result<Stream> {
    let Some(Secured { tls, gate }) = secured else { return Ok(Stream::Tcp(stream)) };
    let stream = in_time(LINE_MAX, tls.secure(stream)).await?;
    let nobody = || io::Error::new(io::ErrorKind::PermissionDenied, "it shows no certificate");
    let shown = stream.certificate().ok_or_else(nobody)?;
    match gate.admit(Presented::Certificate(shown)) {
        Ok(Caller::Worker(_)) => Ok(stream),
        Ok(caller) => Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{caller} is no worker"))),
        Err(refusal) => Err(io::Error::new(io::ErrorKind::PermissionDenied, refusal)),
    }
}

/// What another worker asks for.
pub(super) async fn asked(stream: &mut Stream) -> io::Result<Request> {
    let line = in_time(LINE_MAX, read_line(stream)).await?;
    Request::read(&line).ok_or_else(|| strange(&line))
}

/// Answers another worker.
pub(super) async fn tell(stream: &mut Stream, answer: &Answer) -> io::Result<()> {
    in_time(LINE_MAX, stream.write_all(answer_line(answer).as_bytes())).await
}

/// One line without its end, and not a byte more: what follows is not ours.
async fn read_line(stream: &mut Stream) -> io::Result<String> {
    let mut line = Vec::with_capacity(LINE_BYTES_MAX);
    loop {
        match stream.read_u8().await? {
            b'\n' => return String::from_utf8(line).map_err(io::Error::other),
            byte => line.push(byte),
        }
        if line.len() >= LINE_BYTES_MAX {
            return Err(io::Error::other("a line is too long"));
        }
    }
}

fn strange(line: &str) -> io::Error {
    io::Error::other(format!("'{}' is not what a worker of this version says", line.escape_debug()))
}

/// Has the system notice when the other side of a connection is gone without a word, and send small pieces at once.
pub(super) fn prepare(stream: &TcpStream) {
    let set = || -> rustix::io::Result<()> {
        sockopt::set_tcp_nodelay(stream, true)?;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
        sockopt::set_tcp_keepintvl(stream, KEEPALIVE)?;
        sockopt::set_tcp_keepcnt(stream, KEEPALIVES_MAX)
    };
    if let Err(error) = set() {
        tracing::debug!(%error, "a connection cannot be watched");
    }
}

/// Ends a connection so that its client sees an error at once, and no orderly end.
pub(super) fn reset(stream: &TcpStream) {
    // Without it the end is an orderly one.
    let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

/// What `act` answers, if it does in time.
pub(super) async fn in_time<T>(most: Duration, act: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(most, act).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_and_fits_a_line() {
        let request = Request { machine: MachineId::fresh(), port: NonZeroU16::MAX };
        assert_eq!(Request::read(request.line().trim_end()), Some(request));
        let owner = "w".repeat(63).parse().unwrap();
        let longest = Answer::Elsewhere { generation: Generation(u64::MAX), owner };
        for answer in [Answer::Through, Answer::Later, Answer::Stopped, Answer::Unknown, longest] {
            let line = answer_line(&answer);
            assert!(line.len() <= LINE_BYTES_MAX, "{line}");
            assert_eq!(read_answer(line.trim_end()), Some(answer));
        }
        assert_eq!(read_answer("ferry 1 through all"), None);
    }

    proptest! {
        #[test]
        fn any_line_is_understood_exactly_or_not_at_all(line in "(ferry 1 (to |elsewhere |later)?)?[ -~]{0,60}") {
            if let Some(request) = Request::read(&line) {
                prop_assert_eq!(Request::read(request.line().trim_end()), Some(request));
            }
            if let Some(answer) = read_answer(&line) {
                prop_assert_eq!(read_answer(answer_line(&answer).trim_end()), Some(answer));
            }
        }
    }
}
