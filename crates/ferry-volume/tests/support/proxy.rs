//! A network in between, that can hang without closing anything, or let only little through.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What is let through of the source's answers at a time when it is slow, and the pause after it.
const DRIP: (usize, Duration) = (2048, Duration::from_millis(50));

/// Passes connections on to a source.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    hangs: Mutex<bool>,
    goes_on: Condvar,
    is_slow: AtomicBool,
    connections: AtomicUsize,
}

impl Proxy {
    pub fn before(source: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let proxy = Proxy { address, shared: shared.clone() };
        std::thread::spawn(move || {
            for near in listener.incoming() {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let (near, far) = (near.unwrap(), TcpStream::connect(source).unwrap());
                pass_on(near.try_clone().unwrap(), far.try_clone().unwrap(), None);
                pass_on(far, near, Some(shared.clone()));
            }
        });
        proxy
    }

    /// From now on connections are taken, questions go through, and no answer comes.
    pub fn hang(&self) {
        *self.shared.hangs.lock().unwrap() = true;
    }

    pub fn go_on(&self) {
        *self.shared.hangs.lock().unwrap() = false;
        self.shared.goes_on.notify_all();
    }

    pub fn be_slow(&self) {
        self.shared.is_slow.store(true, Ordering::SeqCst);
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

/// Of the two directions only the one with `answers` can hang.
fn pass_on(mut from: TcpStream, mut to: TcpStream, answers: Option<Arc<Shared>>) {
    std::thread::spawn(move || {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let is_slow = answers.as_ref().is_some_and(|shared| shared.is_slow.load(Ordering::SeqCst));
            let most = if is_slow { DRIP.0 } else { bytes.len() };
            let count = from.read(&mut bytes[..most]).unwrap_or(0);
            if let Some(shared) = &answers {
                let hangs = shared.hangs.lock().unwrap();
                drop(shared.goes_on.wait_while(hangs, |hangs| *hangs).unwrap());
            }
            if count == 0 || to.write_all(&bytes[..count]).is_err() {
                break;
            }
            if is_slow {
                std::thread::sleep(DRIP.1);
            }
        }
        // Whoever is at the other end may be gone already.
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    });
}
