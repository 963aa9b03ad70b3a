//! A NATS server that nobody here wrote, and as much of its protocol as a test needs to make a bucket and to write into it as anybody
//! could.

use super::cluster::address;
use super::{NATS, find, until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Where the first server of this test process listens; each has a port of its own.
const PORT_FIRST: u32 = 19_000;
/// The subject of answers to a [`Session`].
const INBOX: &str = "_INBOX.test";

static SERVERS: AtomicU32 = AtomicU32::new(0);

/// A server with JetStream that keeps everything in a directory; killed when dropped. It has the address of the first worker of each
/// cluster of this test process, whose certificate it may show.
pub struct Nats {
    pub address: SocketAddr,
    dir: PathBuf,
    /// Further lines of its configuration, from its next start on.
    pub config: String,
    server: Option<Child>,
}

impl Nats {
    /// A server that keeps what it has in `dir`. It does not run yet.
    pub fn configured(dir: &Path) -> Self {
        let address = address(0, PORT_FIRST + SERVERS.fetch_add(1, Ordering::Relaxed));
        Self { address, dir: dir.to_owned(), config: String::new(), server: None }
    }

    /// Starts it and returns when it has all that it kept.
    pub fn start(&mut self) {
        let file = self.dir.join("nats.conf");
        let text = format!(
            "listen: \"{}\"\njetstream {{ store_dir: {:?}, max_mem: 16M, max_file: 64M }}\n{}\n",
            self.address,
            self.dir.join("jetstream"),
            self.config
        );
        std::fs::write(&file, text).unwrap();
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("nats.log")).unwrap();
        let path = find(NATS.program).expect("it was required above");
        let mut server = Command::new(path);
        server.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut server = server.spawn().unwrap();
        until("the NATS server listens", || {
            assert!(server.try_wait().unwrap().is_none(), "the NATS server has ended:\n{}", self.log());
            TcpStream::connect(self.address).ok()
        });
        self.server = Some(server);
    }

    /// Ends it at once, as a power cut would, and returns when it is gone.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("nats.log")).unwrap_or_default()
    }

    /// A connection to it as that user, or as nobody in particular.
    pub fn session(&self, user: Option<(&str, &str)>) -> Session {
        let stream = TcpStream::connect(self.address).unwrap();
        let mut session = Session { stream: BufReader::new(stream), asked: 0 };
        assert!(session.line().starts_with("INFO "));
        let mut connect = json!({ "verbose": false, "pedantic": false, "headers": true, "protocol": 1 });
        if let Some((user, password)) = user {
            connect["user"] = user.into();
            connect["pass"] = password.into();
        }
        session.send(format!("CONNECT {connect}\r\nSUB {INBOX}.* 1\r\nPING\r\n").as_bytes());
        assert_eq!(session.line(), "PONG");
        session
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("-- the NATS server said:\n{}", self.log());
        }
        self.kill();
    }
}

/// A connection to a server.
pub struct Session {
    stream: BufReader<TcpStream>,
    asked: u32,
}

impl Session {
    /// Makes a bucket that keeps `history` values of each key, as `nats kv add` does.
    pub fn make_bucket(&mut self, bucket: &str, history: u32) {
        let config = json!({
            "name": format!("KV_{bucket}"), "subjects": [format!("$KV.{bucket}.>")], "retention": "limits", "storage": "file",
            "max_msgs_per_subject": history, "max_msg_size": 1024, "max_age": 3_600_000_000_000_u64, "discard": "new",
            "num_replicas": 1, "allow_rollup_hdrs": true, "deny_delete": true, "allow_direct": true,
        });
        let answer = self.ask(&format!("$JS.API.STREAM.CREATE.KV_{bucket}"), config.to_string().as_bytes());
        assert!(answer.get("error").is_none(), "{answer}");
    }

    /// Puts a value into a bucket.
    pub fn put(&mut self, bucket: &str, key: &str, value: &[u8]) {
        let answer = self.ask(&format!("$KV.{bucket}.{key}"), value);
        assert!(answer.get("error").is_none(), "{answer}");
    }

    /// How many values a bucket holds, and how many read it.
    pub fn holds(&mut self, bucket: &str) -> (u64, u64) {
        let state = &self.ask(&format!("$JS.API.STREAM.INFO.KV_{bucket}"), b"")["state"];
        (state["messages"].as_u64().unwrap(), state["consumer_count"].as_u64().unwrap())
    }

    /// Sends something and waits for the answer.
    fn ask(&mut self, subject: &str, payload: &[u8]) -> Value {
        self.asked += 1;
        let inbox = format!("{INBOX}.{}", self.asked);
        let head = format!("PUB {subject} {inbox} {}\r\n", payload.len());
        self.send(&[head.as_bytes(), payload, b"\r\n"].concat());
        loop {
            let line = self.line();
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["MSG", to, _, length] => {
                    let mut bytes = vec![0; length.parse::<usize>().unwrap() + 2];
                    self.stream.read_exact(&mut bytes).unwrap();
                    assert_eq!(to, inbox);
                    return serde_json::from_slice(&bytes).unwrap();
                }
                ["PING"] => self.send(b"PONG\r\n"),
                ["PONG"] => {}
                _ => panic!("{line}"),
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.stream.read_line(&mut line).unwrap() > 0, "the NATS server has closed the connection");
        line.trim_end().to_owned()
    }
}
