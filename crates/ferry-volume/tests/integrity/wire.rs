//! A source whose bytes go wrong on the way.

use crate::volume::{MIB, Volume, pattern};
use ferry_volume::SourceUri;
use ferry_volume::control::Span;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// What goes wrong whenever it passes.
const MARK: &[u8; 16] = b"wrong on the way";

/// Passes bytes on, except that it changes the mark while it is told to; `by` is never the same twice if `varied`.
struct Wire {
    breaks: Arc<AtomicBool>,
    address: std::net::SocketAddr,
}

impl Wire {
    fn to(source: std::net::SocketAddr, varied: bool) -> Self {
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

fn bytes_that_go_wrong(varied: bool) {
    let tmp = tempfile::tempdir().unwrap();
    let home = Volume::create(tmp.path().join("home"), 8 * MIB, 1, None);
    let mut content = pattern(1, 8 * MIB);
    let at = 5 * MIB + 8192 + 100;
    content[at as usize..][..16].copy_from_slice(MARK);
    home.guest().write_at(0, &content).unwrap();
    let SourceUri::Nbd(uri) = home.seal_and_export() else { panic!("an export is read over NBD") };
    let source = home.control().status().unwrap().export.unwrap();
    let wire = Wire::to(source, varied);
    let through: SourceUri =
        uri.to_string().replace(&source.to_string(), &wire.address.to_string()).parse().unwrap();
    let away = Volume::create(tmp.path().join("away"), 8 * MIB, 2, Some(through));
    // The guest waits for that very block, and gets an error in the end; all others are there.
    away.guest().read_at(at, &mut [0; 16]).unwrap_err();
    away.until(|s| s.hydration.bytes_remote == 4096);
    let status = away.until(|s| s.mismatches.len() == 1);
    let mismatch = status.mismatches[0];
    assert_eq!(mismatch.span, Span { offset: 5 * MIB + 8192, len_bytes: 4096 }, "{status:?}");
    assert!(mismatch.times >= 3 && mismatch.same_bytes != varied, "{status:?}");
    wire.breaks.store(false, Ordering::SeqCst);
    let mut found = vec![0; 8 * MIB as usize];
    away.guest().read_at(0, &mut found).unwrap();
    assert!(found == content);
    let status = away.until(|s| s.hydration.complete);
    assert!(status.mismatches.is_empty(), "{status:?}");
    assert!(status.hydration.checksum_errors >= 3);
    assert_eq!(away.root(), home.root());
}

#[test]
fn what_goes_wrong_on_the_way_is_fetched_again_then_reported_and_forgotten_when_it_came_right() {
    bytes_that_go_wrong(true);
}

#[test]
fn a_source_that_gives_the_same_wrong_bytes_again_is_told_from_a_bad_way() {
    bytes_that_go_wrong(false);
}
