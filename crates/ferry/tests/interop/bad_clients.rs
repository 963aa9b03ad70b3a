//! Clients that misbehave: they send garbage, hang up in the middle, never read their replies, or come in crowds. The
//! volume's guest must not notice. They are written by hand here because no decent client behaves like this.

use super::support::volume::{MIB, Volume};
use super::support::{QEMU_IO, needs, qemu_io, until};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

const SIZE_BYTES: u64 = 16 * MIB;
const GREETING_BYTES: usize = 18;
/// How long a bad client pushes against a full socket before it takes it for full.
const PUSH_TIMEOUT: Duration = Duration::from_millis(300);

fn connect(volume: &Volume) -> UnixStream {
    UnixStream::connect(volume.dir().join("guest.sock")).unwrap()
}

/// A connection in transmission, by the shortest handshake there is: `NBD_OPT_EXPORT_NAME` without zeroes.
fn transmission(volume: &Volume) -> UnixStream {
    let mut stream = connect(volume);
    let mut greeting = [0; GREETING_BYTES];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
    stream.write_all(&3u32.to_be_bytes()).unwrap();
    stream.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\0").unwrap();
    let mut export = [0; 10];
    stream.read_exact(&mut export).unwrap();
    assert_eq!(export[..8], SIZE_BYTES.to_be_bytes());
    stream
}

/// A request's header as the protocol draws it: magic, flags, type, cookie, offset, length.
fn header(kind: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend([0, 0]);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

const READ: u16 = 0;
const WRITE: u16 = 1;

fn assert_serves(volume: &Volume, pattern: u8) {
    let (write, read) = (format!("write -P {pattern} 5M 64k"), format!("read -P {pattern} 5M 64k"));
    qemu_io(&volume.uri(), &[&write, &read, "flush"]);
}

/// Reads until the server closes; it must.
fn assert_is_closed(mut stream: UnixStream) {
    let ended = std::io::copy(&mut stream, &mut std::io::sink());
    assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
}

#[test]
fn garbage_is_hung_up_on() {
    needs!(QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::start(dir.path(), SIZE_BYTES, None);
    for garbage in [&[0xff; 64][..], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n and more than that"] {
        let mut stream = connect(&volume);
        stream.write_all(garbage).unwrap();
        assert_is_closed(stream);
        let mut stream = transmission(&volume);
        stream.write_all(garbage).unwrap();
        assert_is_closed(stream);
    }
    assert_serves(&volume, 1);
}

#[test]
fn a_client_that_hangs_up_inside_a_write_leaves_what_was_there() {
    needs!(QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::start(dir.path(), SIZE_BYTES, None);
    qemu_io(&volume.uri(), &["write -P 7 0 1M", "flush"]);
    for sent in [0, 1, 4096, 262_143] {
        let mut stream = transmission(&volume);
        stream.write_all(&header(WRITE, 1, 0, 262_144)).unwrap();
        stream.write_all(&vec![8; sent]).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    }
    until("the clients are gone", || (volume.status().guests == 0).then_some(()));
    qemu_io(&volume.uri(), &["read -P 7 0 1M"]);
}

#[test]
fn a_client_that_hangs_up_with_reads_in_flight_costs_nobody_else() {
    needs!(QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::start(dir.path(), SIZE_BYTES, None);
    for _ in 0..8 {
        let mut stream = transmission(&volume);
        for cookie in 0..32 {
            stream.write_all(&header(READ, cookie, cookie * 65_536, 65_536)).unwrap();
        }
        drop(stream);
    }
    assert_serves(&volume, 2);
    until("the clients are gone", || (volume.status().guests == 0).then_some(()));
}

#[test]
fn a_client_that_never_reads_its_replies_is_not_fed_without_end() {
    needs!(QEMU_IO);
    const ASKED_MAX: u64 = 4096;
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::start(dir.path(), SIZE_BYTES, None);
    qemu_io(&volume.uri(), &["write -P 3 0 16M", "flush"]);
    let mut stream = transmission(&volume);
    stream.set_write_timeout(Some(PUSH_TIMEOUT)).unwrap();
    // Requests for 4 GiB; the server must stop taking them long before it holds their replies in memory.
    let asked =
        (0..ASKED_MAX).take_while(|cookie| stream.write_all(&header(READ, *cookie, 0, 1 << 20)).is_ok());
    asked.count();
    let resident = resident_bytes(volume.status().pid);
    assert!(resident < 512 * MIB, "{resident} bytes are held for a client that reads nothing");
    assert_serves(&volume, 4);
}

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib * 1024
}

#[test]
fn a_crowd_of_idle_clients_does_not_lock_the_guest_out_for_good() {
    needs!(QEMU_IO);
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::start(dir.path(), SIZE_BYTES, None);
    let guest = transmission(&volume);
    let crowd: Vec<UnixStream> = (0..200).map(|_| connect(&volume)).collect();
    // The guest that was there first is served in the middle of it.
    let mut guest = guest;
    guest.write_all(&header(READ, 1, 0, 512)).unwrap();
    let mut reply = [0; 16 + 512];
    guest.read_exact(&mut reply).unwrap();
    drop(crowd);
    assert_serves(&volume, 5);
}
