//! A client that outlives its server, for guests that do not (fio): it takes requests on a socket of its own, passes them
//! on, and makes those again that a killed server left unanswered. What was answered never is, flushed or not: a killed
//! server loses nothing of that, and a guest which verifies all it wrote finds every answered write that is missing.
//!
//! ```text
//! fio -- NBD, oldstyle, simple replies --> reader --> lanes -- a connection each --> guest.sock
//! ```
//!
//! The protocol towards fio is the smallest that there is (NBD's doc/proto.md: oldstyle negotiation, simple replies).

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use anyhow::{Context, bail};
use ferry_volume::client::{BlockClient, BlockError};

use super::server::guest_at;

/// How many requests are under way at once, each on a connection of its own.
const LANES: usize = 8;
const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;

const GREETING: [u64; 2] = [0x4e42_444d_4147_4943, 0x0000_4202_8186_1253];
/// NBD_FLAG_HAS_FLAGS, NBD_FLAG_SEND_FLUSH.
const FLAGS: u32 = 1 | 4;
const GREETING_PAD: [u8; 124] = [0; 124];
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

/// Where guests connect, and the server behind.
pub struct Steady {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Where the server listens.
    server: PathBuf,
    /// Which life of which server that is.
    life: u64,
    /// The server is killed or not there yet: nobody begins, and who fails tries again.
    is_away: bool,
    under_way: usize,
    answered: u64,
    answered_bytes: u64,
    /// Why no guest is served any more.
    finding: Option<String>,
}

/// A request as it came, and as it is made again.
struct Request {
    cookie: [u8; 8],
    command: Command,
}

enum Command {
    Read { offset: u64, len: usize },
    Write { offset: u64, bytes: Vec<u8> },
    Flush,
}

impl Steady {
    /// Listens at `socket` for the rest of the process's life, for guests of `size_bytes`; a server is named later.
    pub fn listen(socket: &Path, size_bytes: u64) -> anyhow::Result<Self> {
        let listener = UnixListener::bind(socket).context("cannot listen for fio")?;
        let shared = Arc::new(Shared::default());
        shared.state().is_away = true;
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for guest in listener.incoming().flatten() {
                let serving = Arc::clone(&serving);
                thread::spawn(move || {
                    // fio hangs up, or is hung up on because of a finding: that is told elsewhere.
                    let _ = serving.serve(guest, size_bytes);
                });
            }
        });
        Ok(Self { shared })
    }

    /// How many requests were answered.
    pub fn answered(&self) -> u64 {
        self.shared.state().answered
    }

    /// How many bytes they read or wrote.
    pub fn answered_bytes(&self) -> u64 {
        self.shared.state().answered_bytes
    }

    /// Why no guest is served any more, if so.
    pub fn finding(&self) -> Option<String> {
        self.shared.state().finding.clone()
    }

    /// Serves nobody any more.
    pub fn give_up(&self, why: &str) {
        self.shared.state().finding.get_or_insert(why.to_owned());
        self.shared.changed.notify_all();
    }

    /// From now on the server at `socket` is asked. Nothing may be under way.
    pub fn lead_to(&self, socket: &Path) {
        let mut state = self.shared.state();
        assert_eq!(state.under_way, 0, "a server is replaced between two guests");
        socket.clone_into(&mut state.server);
        state.life += 1;
        state.is_away = false;
        self.shared.changed.notify_all();
    }

    /// Kills the server while requests are under way, and starts it; what was not answered is made again.
    pub fn outlive(&self, kill_and_start: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        self.shared.state().is_away = true;
        kill_and_start()?;
        let mut state = self.shared.state();
        while state.under_way > 0 {
            state = self.shared.changed.wait(state).expect("nobody panics with it");
        }
        state.life += 1;
        state.is_away = false;
        self.shared.changed.notify_all();
        Ok(())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// One guest, from its greeting to its end.
    fn serve(self: &Arc<Self>, mut guest: UnixStream, size_bytes: u64) -> anyhow::Result<()> {
        let mut greeting: Vec<u8> = GREETING.iter().flat_map(|word| word.to_be_bytes()).collect();
        greeting.extend(size_bytes.to_be_bytes());
        greeting.extend(FLAGS.to_be_bytes());
        greeting.extend(GREETING_PAD);
        guest.write_all(&greeting)?;
        let replies = Arc::new(Mutex::new(guest.try_clone()?));
        let (to_lanes, requests) = sync_channel(LANES);
        let requests = Arc::new(Mutex::new(requests));
        for _ in 0..LANES {
            let lane = Lane { shared: Arc::clone(self), replies: Arc::clone(&replies), connection: None };
            let requests = Arc::clone(&requests);
            thread::spawn(move || lane.run(&requests));
        }
        while let Some(request) = Request::receive(&mut guest)? {
            to_lanes.send(request).context("no lane is left")?;
        }
        Ok(())
    }

    /// Waits until there is a server; answers its life and where it listens. None after a finding.
    fn begin(&self) -> Option<(u64, PathBuf)> {
        let mut state = self.state();
        while state.is_away && state.finding.is_none() {
            state = self.changed.wait(state).expect("nobody panics with it");
        }
        if state.finding.is_some() {
            return None;
        }
        state.under_way += 1;
        Some((state.life, state.server.clone()))
    }

    /// What came of a request; whether that is an answer for the guest.
    fn end(&self, command: &Command, outcome: Result<(), anyhow::Error>) -> bool {
        let mut state = self.state();
        state.under_way -= 1;
        self.changed.notify_all();
        if let Err(error) = outcome {
            if !state.is_away {
                state
                    .finding
                    .get_or_insert(format!("a request failed though its server was not killed: {error:#}"));
            }
            return false;
        }
        state.answered += 1;
        match command {
            Command::Read { len, .. } => state.answered_bytes += *len as u64,
            Command::Write { bytes, .. } => state.answered_bytes += bytes.len() as u64,
            Command::Flush => {}
        }
        true
    }
}

/// One request at a time.
struct Lane {
    shared: Arc<Shared>,
    replies: Arc<Mutex<UnixStream>>,
    /// With the life of the server that it leads to.
    connection: Option<(u64, BlockClient)>,
}

impl Lane {
    fn run(mut self, requests: &Mutex<Receiver<Request>>) {
        loop {
            let request = requests.lock().expect("nobody panics with it").recv();
            // The guest has gone.
            let Ok(request) = request else { return };
            let reply = self.answer(&request);
            let mut replies = self.replies.lock().expect("nobody panics with it");
            let is_sent = reply.is_some_and(|reply| replies.write_all(&reply).is_ok());
            if !is_sent {
                // A guest without an answer would wait for ever.
                let _ = replies.shutdown(Shutdown::Both);
                return;
            }
        }
    }

    /// The reply, however many lives of the server that takes; none after a finding.
    fn answer(&mut self, request: &Request) -> Option<Vec<u8>> {
        loop {
            let (life, server) = self.shared.begin()?;
            let mut reply = [&REPLY_MAGIC.to_be_bytes()[..], &[0; 4], &request.cookie].concat();
            let outcome = self.make(&request.command, life, &server, &mut reply);
            if self.shared.end(&request.command, outcome) {
                return Some(reply);
            }
        }
    }

    fn make(
        &mut self,
        command: &Command,
        life: u64,
        server: &Path,
        reply: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        let client = match self.connection.take() {
            Some((of, client)) if of == life => client,
            _ => guest_at(server)?,
        };
        let (_, client) = self.connection.insert((life, client));
        Ok(command.make(client, reply)?)
    }
}

impl Command {
    fn make(&self, client: &mut BlockClient, reply: &mut Vec<u8>) -> Result<(), BlockError> {
        match self {
            Self::Read { offset, len } => {
                let at = reply.len();
                reply.resize(at + len, 0);
                client.read_at(*offset, &mut reply[at..])
            }
            Self::Write { offset, bytes } => client.write_at(*offset, bytes),
            Self::Flush => client.flush(),
        }
    }
}

impl Request {
    /// The guest's next request; none when it says goodbye or is gone.
    fn receive(guest: &mut UnixStream) -> anyhow::Result<Option<Self>> {
        let mut header = [0; 28];
        match guest.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let (magic, rest) = header.split_first_chunk().expect("28 bytes");
        let (_flags, rest) = rest.split_first_chunk::<2>().expect("24 bytes");
        let (kind, rest) = rest.split_first_chunk().expect("22 bytes");
        let (cookie, rest) = rest.split_first_chunk().expect("20 bytes");
        let (offset, len) = rest.split_first_chunk().expect("12 bytes");
        let (offset, kind) = (u64::from_be_bytes(*offset), u16::from_be_bytes(*kind));
        let len = u32::from_be_bytes(len.try_into().expect("the last four")) as usize;
        if u32::from_be_bytes(*magic) != REQUEST_MAGIC || len > REQUEST_BYTES_MAX {
            bail!("fio sends no request");
        }
        let command = match kind {
            0 => Command::Read { offset, len },
            1 => {
                let mut bytes = vec![0; len];
                guest.read_exact(&mut bytes)?;
                Command::Write { offset, bytes }
            }
            2 => return Ok(None),
            3 => Command::Flush,
            other => bail!("fio asks for what it was not offered (command {other})"),
        };
        Ok(Some(Self { cookie: *cookie, command }))
    }
}
