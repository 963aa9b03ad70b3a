//! A way on which bytes go wrong.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// What goes wrong whenever it passes.
pub const MARK: &[u8; 16] = b"wrong on the way";

/// Passes bytes on, except that it changes the mark while it is told to; `by` is never the same twice if `varied`.
pub struct Wire {
    /// Whether they do.
    pub breaks: Arc<AtomicBool>,
    pub address: SocketAddr,
}

impl Wire {
    pub fn to(source: SocketAddr, varied: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let breaks = Arc::new(AtomicBool::new(true));
        let (told, by) = (breaks.clone(), Arc::new(AtomicU8::new(1)));
        std::thread::spawn(move || {
            for reader in listener.incoming() {
                let reader = reader.unwrap();
                let Ok(server) = TcpStream::connect(source) else { continue };
                let (mut from, mut to) = (reader.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
                let (told, by) = (told.clone(), by.clone());
                std::thread::spawn(move || pass_on(server, reader, &told, &by, varied));
            }
        });
        Self { breaks, address }
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, breaks: &AtomicBool, by: &AtomicU8, varied: bool) {
    let (mut chunk, mut seen) = (vec![0; 1 << 16], 0);
    while let Ok(count) = from.read(&mut chunk)
        && count > 0
    {
        for byte in &mut chunk[..count] {
            seen = match *byte == MARK[seen] {
                true => seen + 1,
                false => usize::from(*byte == MARK[0]),
            };
            if seen == MARK.len() {
                seen = 0;
                if breaks.load(Ordering::SeqCst) {
                    *byte ^= if varied { by.fetch_add(1, Ordering::SeqCst) | 1 } else { 1 };
                }
            }
        }
        if to.write_all(&chunk[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}
