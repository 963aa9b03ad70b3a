//! Redis, as Debian packages it, with every write in its log on the disk before it is acknowledged (`appendfsync always`), while
//! its clients write: see [`super::house`].
//!
//! As a test it is two moves; `cargo xtask soak --what redis --moves 10` is as many as somebody wants.

use super::house::{Entry, Ledger, Server, entry_of, moves_there_and_back};
use super::told;
use crate::support::devices::needs_loop_devices;
use crate::support::{E2FSCK, MKE2FS, REDIS, REDIS_BENCHMARK, needs, run};
use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

/// So many moves are enough for a test: one cold, one warm.
const MOVES: u64 = 2;

#[test]
fn a_redis_that_moves_there_and_back_keeps_every_write_and_refuses_nobody() {
    needs!(MKE2FS, E2FSCK, REDIS, REDIS_BENCHMARK);
    needs_loop_devices!();
    moves_there_and_back(&Redis, told("FERRY_SOAK_MOVES").unwrap_or(MOVES));
}

struct Redis;

impl Server for Redis {
    type Session = Session;

    fn name(&self) -> &'static str {
        "redis"
    }

    fn place(&self) -> u32 {
        1
    }

    fn spec(&self, _dir: &Path, data: &str, port: u16) -> String {
        let words = [
            "redis-server",
            "--dir",
            data,
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
        ];
        format!("command = {words:?}\nuser = \"redis\"\n")
    }

    fn furnish(&self, session: &mut Session) -> io::Result<()> {
        session.ask(&["PING"]).map(drop)
    }

    fn load(&self, at: SocketAddr) {
        let (host, port) = (at.ip().to_string(), at.port().to_string());
        let words = [
            "-h", &host, "-p", &port, "-t", "set", "-c", "2", "-n", "1000", "-d", "4000", "-r", "2000", "-q",
        ];
        run("redis-benchmark", &words);
    }

    fn check(&self, at: SocketAddr) {
        let told = Session::open(at).unwrap().ask(&["INFO", "persistence"]).unwrap().concat();
        assert!(told.contains("aof_enabled:1") && told.contains("aof_last_write_status:ok"), "{told}");
    }
}

/// A connection to Redis: as much of its protocol (RESP 2) as a ledger needs.
struct Session(BufReader<TcpStream>);

impl Ledger for Session {
    fn open(at: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(at)?;
        stream.set_nodelay(true)?;
        let mut session = Self(BufReader::new(stream));
        // While it reads its log it refuses everything.
        session.ask(&["PING"])?;
        Ok(session)
    }

    fn put(&mut self, (client, number): Entry) -> io::Result<()> {
        self.ask(&["SADD", "ledger", &format!("{client} {number}")]).map(drop)
    }

    fn entries(&mut self) -> io::Result<BTreeSet<Entry>> {
        Ok(self.ask(&["SMEMBERS", "ledger"])?.iter().map(|text| entry_of(text)).collect())
    }
}

impl Session {
    /// Gives a command; answers its texts.
    fn ask(&mut self, words: &[&str]) -> io::Result<Vec<String>> {
        let mut message = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| message += &format!("${}\r\n{word}\r\n", word.len()));
        self.0.get_mut().write_all(message.as_bytes())?;
        match self.line()? {
            line if line.starts_with('*') => (0..count(&line)?).map(|_| self.text()).collect(),
            line => Ok(vec![self.rest(line)?]),
        }
    }

    fn text(&mut self) -> io::Result<String> {
        let line = self.line()?;
        self.rest(line)
    }

    /// What follows a first line: nothing, or so many bytes.
    fn rest(&mut self, line: String) -> io::Result<String> {
        match line.as_bytes().first() {
            Some(b'-') => Err(io::Error::other(line)),
            Some(b'$') => {
                let mut bytes = vec![0; count(&line)? + 2];
                self.0.read_exact(&mut bytes)?;
                Ok(String::from_utf8_lossy(&bytes[..bytes.len() - 2]).into_owned())
            }
            _ => Ok(line),
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

fn count(line: &str) -> io::Result<usize> {
    line[1..].parse().map_err(io::Error::other)
}
