//! A bad link: a TCP proxy before the source that cuts each connection after some bytes. Where it leads can change,
//! so that a source may come back at another port.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::Context;

use super::dice::Dice;

const CHUNK_BYTES: usize = 64 * 1024;
/// A connection lives for at least half a chunk and at most so many.
const CHUNKS_MAX: usize = 128;

pub struct Link {
    address: SocketAddr,
    upstream: Arc<Mutex<Option<SocketAddr>>>,
}

impl Link {
    /// Listens on loopback for the rest of the process's life; leads nowhere yet.
    pub fn start(seed: u64) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot listen on loopback")?;
        let address = listener.local_addr().context("cannot listen on loopback")?;
        let upstream = Arc::new(Mutex::new(None));
        let leads_to = Arc::clone(&upstream);
        thread::spawn(move || {
            let mut dice = Dice::new(seed);
            for client in listener.incoming().flatten() {
                let to: Option<SocketAddr> = *leads_to.lock().expect("nobody panics with it");
                // Nobody there: the client is hung up on, as by a host whose server is gone.
                let Some(server) = to.and_then(|to| TcpStream::connect(to).ok()) else { continue };
                let life_bytes = CHUNK_BYTES / 2 + dice.below(CHUNKS_MAX * CHUNK_BYTES);
                join(client, server, life_bytes);
            }
        });
        Ok(Self { address, upstream })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new connections there, or nowhere.
    pub fn lead_to(&self, upstream: Option<SocketAddr>) {
        *self.upstream.lock().expect("nobody panics with it") = upstream;
    }
}

fn join(client: TcpStream, server: TcpStream, life_bytes: usize) {
    if let (Ok(from_client), Ok(to_server)) = (client.try_clone(), server.try_clone()) {
        thread::spawn(move || pass(from_client, to_server, usize::MAX));
        thread::spawn(move || pass(server, client, life_bytes));
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut left_bytes: usize) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while left_bytes > 0 {
        let most = chunk.len().min(left_bytes);
        let Ok(count @ 1..) = from.read(&mut chunk[..most]) else { break };
        if to.write_all(&chunk[..count]).is_err() {
            break;
        }
        left_bytes -= count;
    }
    // Whichever side is gone already needs no cut.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
