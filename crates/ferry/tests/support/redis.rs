//! A client of Redis that keeps a ledger.

use super::ledger::{Entry, Ledger, entry_of};
use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// A connection to Redis: as much of its protocol (RESP 2) as a ledger needs.
pub struct Session(BufReader<TcpStream>);

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
    pub fn ask(&mut self, words: &[&str]) -> io::Result<Vec<String>> {
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
