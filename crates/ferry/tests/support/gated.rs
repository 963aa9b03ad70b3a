//! A source that can be held for ever at a place, and let go: it answers reads below the gate only once that is open. So
//! a clone of it surely hydrates still while a test looks, however fast or slow the host is.
//!
//! It is an NBD server of this process and no nbdkit: the one of Debian 12 aborts when a client is killed that has several
//! answers coming, and then tests failed of what dies around a source that does not.

use ferry_nbd::server::{Decoded, Handshake, Negotiated, Outcome, Part, Reply, TlsPolicy};
use ferry_nbd::{ByteRange, Command, Errno, ExportInfo, ExportRefusal, Exports};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// An image behind a gate. Dropped, it opens the gate and takes no more connections.
pub struct Gated {
    socket: PathBuf,
    image: Arc<Image>,
}

struct Image {
    file: File,
    export: ExportInfo,
    gate_bytes: u64,
    is_open: Mutex<bool>,
    opened: Condvar,
    is_over: AtomicBool,
}

impl Gated {
    /// Serves `image` of `size_bytes` from `dir`; reads that begin below `gate_bytes` wait.
    pub fn serve(dir: &Path, image: &Path, size_bytes: u64, gate_bytes: u64) -> Self {
        let socket = dir.join("source.sock");
        let export = ExportInfo { read_only: true, can_multi_conn: true, ..ExportInfo::new("", size_bytes) };
        let image = Arc::new(Image {
            file: File::open(image).unwrap(),
            export,
            gate_bytes,
            is_open: Mutex::new(false),
            opened: Condvar::new(),
            is_over: AtomicBool::new(false),
        });
        let listener = UnixListener::bind(&socket).unwrap();
        let serving = image.clone();
        std::thread::spawn(move || serving.take_connections(&listener));
        Self { socket, image }
    }

    /// Where it is.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    /// Lets everything through from now on.
    pub fn open(&self) {
        *self.image.is_open.lock().unwrap() = true;
        self.image.opened.notify_all();
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        self.image.is_over.store(true, Ordering::Relaxed);
        self.open();
        // Wakes who takes connections.
        let _ = UnixStream::connect(&self.socket);
    }
}

impl Image {
    fn take_connections(self: &Arc<Self>, listener: &UnixListener) {
        for stream in listener.incoming() {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let (image, stream) = (self.clone(), stream.unwrap());
            // That a client goes is what these tests are about.
            std::thread::spawn(move || image.serve(stream).ok());
        }
    }

    fn serve(self: Arc<Self>, mut stream: UnixStream) -> io::Result<()> {
        let Some(session) = self.shake_hands(&mut stream)? else { return Ok(()) };
        let answers = Arc::new(Mutex::new(stream.try_clone()?));
        let mut header = vec![0; session.request_header_bytes()];
        loop {
            stream.read_exact(&mut header)?;
            match session.decode(&header).map_err(io::Error::other)? {
                Decoded::Refused(refused) => {
                    let mut out = Vec::new();
                    session.refuse(&refused, &mut out);
                    answers.lock().unwrap().write_all(&out)?;
                }
                Decoded::Request(request) => {
                    let reply = session.reply(&request);
                    match request.command {
                        Command::Disconnect => return Ok(()),
                        Command::Read { range, .. } => {
                            let (image, answers) = (self.clone(), answers.clone());
                            std::thread::spawn(move || image.answer(range, reply, &answers).ok());
                        }
                        Command::Flush | Command::Cache { .. } => {
                            answers.lock().unwrap().write_all(&ended(|out| reply.done(out)))?;
                        }
                        Command::Write { .. }
                        | Command::Trim { .. }
                        | Command::WriteZeroes { .. }
                        | Command::BlockStatus { .. } => unreachable!("it is read-only and has no contexts"),
                    }
                }
            }
        }
    }

    fn shake_hands(&self, stream: &mut UnixStream) -> io::Result<Option<Negotiated>> {
        let (mut handshake, greeting) = Handshake::new(TlsPolicy::Off);
        stream.write_all(&greeting)?;
        let mut input = Vec::new();
        loop {
            // No byte too many is read: requests follow.
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            input.push(byte[0]);
            let mut out = Vec::new();
            let advance = handshake.advance(&input, self, &mut out).map_err(io::Error::other)?;
            stream.write_all(&out)?;
            input.drain(..advance.consumed);
            match advance.outcome {
                Outcome::NeedMore => {}
                Outcome::Ready(session) => return Ok(Some(*session)),
                Outcome::Closed(_) | Outcome::StartTls => return Ok(None),
            }
        }
    }

    fn answer(&self, range: ByteRange, reply: Reply, answers: &Mutex<UnixStream>) -> io::Result<()> {
        let mut bytes = vec![0; range.len_bytes() as usize];
        if range.offset() < self.gate_bytes {
            drop(self.opened.wait_while(self.is_open.lock().unwrap(), |is_open| !*is_open));
        }
        let out = match self.file.read_exact_at(&mut bytes, range.offset()) {
            Ok(()) => {
                let mut out = ended(|out| reply.data(range, Part::Last, out));
                out.extend_from_slice(&bytes);
                out
            }
            Err(e) => ended(|out| reply.error(Errno::Io, &e.to_string(), out)),
        };
        answers.lock().unwrap().write_all(&out)
    }
}

fn ended(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

impl Exports for Image {
    fn list(&self) -> Vec<String> {
        vec![self.export.name.clone()]
    }

    fn find(&self, name: &str) -> Result<ExportInfo, ExportRefusal> {
        if name == self.export.name {
            Ok(self.export.clone())
        } else {
            Err(ExportRefusal::Unknown(format!("there is no {name:?}")))
        }
    }
}
