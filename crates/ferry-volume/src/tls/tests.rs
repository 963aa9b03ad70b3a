//! Two sessions against each other, and certificates that should not be believed.

use super::*;
use proptest::prelude::*;

#[path = "../../tests/support/authority.rs"]
mod authority;

use authority::Authority;

fn signed(authority: &Authority, host: &str) -> Credentials {
    let dir = tempfile::tempdir().unwrap();
    authority.sign(dir.path(), host);
    Credentials::load(dir.path()).unwrap()
}

/// One end with what it has received.
struct End {
    session: Session,
    input: Vec<u8>,
    plain: Vec<u8>,
}

impl End {
    fn new(session: Session) -> Self {
        Self { session, input: Vec::new(), plain: Vec::new() }
    }

    /// Opens all that is here; what must be sent goes to `other`.
    fn open(&mut self, other: &mut Vec<u8>) -> Result<Then, TlsError> {
        loop {
            let opened =
                self.session.open(&mut self.input, other, |bytes| self.plain.extend_from_slice(bytes))?;
            self.input.drain(..opened.consumed);
            if opened.then != Then::Again {
                return Ok(opened.then);
            }
        }
    }
}

fn shake(client: &mut End, server: &mut End) -> Result<(), TlsError> {
    for _ in 0..8 {
        let at_client = client.open(&mut server.input)?;
        let at_server = server.open(&mut client.input)?;
        if (at_client, at_server) == (Then::Ready, Then::Ready) {
            return Ok(());
        }
    }
    panic!("the handshake has no end")
}

fn pair(of_client: &Credentials, of_server: &Credentials, host: &str) -> (End, End) {
    let client = Session::client(of_client, host).unwrap();
    (End::new(client), End::new(Session::server(of_server).unwrap()))
}

#[test]
fn only_who_is_signed_by_the_same_authority_and_is_where_it_says_is_believed() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (here, elsewhere) = (signed(&ours, "127.0.0.1"), signed(&ours, "10.0.0.9"));
    let stranger = signed(&theirs, "127.0.0.1");
    for (client, server, is_fine) in [
        (&here, &here, true),
        (&elsewhere, &here, true),
        (&here, &elsewhere, false),
        (&here, &stranger, false),
        (&stranger, &here, false),
    ] {
        let (mut client, mut server) = pair(client, server, "127.0.0.1");
        let shaken = shake(&mut client, &mut server);
        assert_eq!(shaken.is_ok(), is_fine, "{shaken:?}");
    }
}

#[test]
fn a_directory_that_lacks_a_file_or_mixes_keys_is_refused_with_its_name() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    authority.sign(dir.path(), "127.0.0.1");
    std::fs::copy(dir.path().join("client-key.pem"), dir.path().join("server-key.pem")).unwrap();
    let error = Credentials::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("server-key.pem") && error.contains("server-cert.pem"), "{error}");
    std::fs::remove_file(dir.path().join("server-key.pem")).unwrap();
    let error = Credentials::load(dir.path()).unwrap_err().to_string();
    assert!(error.starts_with("cannot read") && error.contains("server-key.pem"), "{error}");
    std::fs::write(dir.path().join("ca-cert.pem"), "").unwrap();
    let error = Credentials::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("ca-cert.pem"), "{error}");
}

#[test]
fn a_bit_that_turned_on_the_way_ends_the_connection() {
    let credentials = signed(&Authority::new(), "127.0.0.1");
    let (mut client, mut server) = pair(&credentials, &credentials, "127.0.0.1");
    shake(&mut client, &mut server).unwrap();
    let mut records = vec![0; sealed_bytes_max(5)];
    let count = client.session.seal(b"hello", &mut records).unwrap();
    records[count - 1] ^= 1;
    server.input.extend_from_slice(&records[..count]);
    server.open(&mut Vec::new()).unwrap_err();
    assert!(server.plain.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_is_sealed_is_opened_however_it_is_cut(
        pieces in prop::collection::vec(1_usize..40_000, 1..6),
        cuts in prop::collection::vec(1_usize..20_000, 1..20),
    ) {
        let credentials = signed(&Authority::new(), "127.0.0.1");
        let (mut client, mut server) = pair(&credentials, &credentials, "127.0.0.1");
        shake(&mut client, &mut server).unwrap();
        let (mut sent, mut wire) = (Vec::new(), Vec::new());
        for (number, len) in pieces.into_iter().enumerate() {
            let plain: Vec<u8> = (0..len).map(|at| (at * 7 + number) as u8).collect();
            let mut records = vec![0; sealed_bytes_max(len)];
            let count = client.session.seal(&plain, &mut records).unwrap();
            wire.extend_from_slice(&records[..count]);
            sent.extend(plain);
        }
        let mut cuts = cuts.into_iter().cycle();
        while !wire.is_empty() {
            let count = cuts.next().unwrap().min(wire.len());
            server.input.extend(wire.drain(..count));
            server.open(&mut Vec::new()).unwrap();
        }
        prop_assert_eq!(server.plain, sent);
    }
}

mod between_servers {
    use super::{Authority, PLAINTEXT_BYTES_MAX};
    use crate::client::BlockClient;
    use crate::control::{Client, Phase, Status};
    use crate::{
        CreateOptions, Credentials, IoBackend, REGION_BYTES_DEFAULT, ServeError, ServeOptions, SourceUri,
    };
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::thread::JoinHandle;

    const ID: &str = "01JD9Z6M4Q5R6S7T8V9WAXBYCZ";
    const SIZE_BYTES: u64 = 24 << 20;

    /// A server on a thread, with certificates.
    struct Server {
        dir: PathBuf,
        thread: Option<JoinHandle<Result<(), ServeError>>>,
    }

    impl Server {
        fn start(dir: PathBuf, generation: u64, source: Option<SourceUri>, tls: &Path) -> Self {
            let options = CreateOptions {
                dir: dir.clone(),
                id: ID.to_owned(),
                size_bytes: SIZE_BYTES,
                region_bytes: REGION_BYTES_DEFAULT,
                generation,
                phase: Phase::Open,
                source,
                born_from: None,
                base: None,
                device: None,
                direct: false,
            };
            crate::create(&options).unwrap();
            let options = ServeOptions {
                dir: dir.clone(),
                io: IoBackend::Auto,
                tls: Some(tls.to_owned()),
                count_heat: true,
            };
            let thread = std::thread::spawn(move || crate::serve(&options));
            while Client::connect(&dir).is_err() {
                assert!(!thread.is_finished(), "the server ended: {:?}", thread.join());
                std::thread::yield_now();
            }
            Self { dir, thread: Some(thread) }
        }

        fn control(&self) -> Client {
            Client::connect(&self.dir).unwrap()
        }

        fn until(&self, condition: impl Fn(&Status) -> bool) -> Status {
            let mut control = self.control();
            loop {
                let status = control.status().unwrap();
                if condition(&status) {
                    return status;
                }
                std::thread::yield_now();
            }
        }

        /// Fills the volume, seals it and gives the address from which others may read it.
        fn fill_and_seal(&self) -> (Vec<u8>, SourceUri) {
            let bytes: Vec<u8> = (0..SIZE_BYTES).map(|at| (at / 509 * 31) as u8 | 1).collect();
            let mut guest = BlockClient::connect_unix(&self.dir.join("guest.sock")).unwrap();
            guest.write_at(0, &bytes).unwrap();
            drop(guest);
            let listen = self.control().export("127.0.0.1:0".parse().unwrap()).unwrap();
            self.control().seal().unwrap();
            (bytes, format!("nbds://{listen}/{ID}@1").parse().unwrap())
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            if let Some(thread) = self.thread.take()
                && !std::thread::panicking()
            {
                self.control().shutdown().unwrap();
                thread.join().unwrap().unwrap();
            }
        }
    }

    fn uri(source: &SourceUri) -> &ferry_nbd::Uri {
        match source {
            SourceUri::Nbd(uri) => uri,
            SourceUri::File(_) => panic!("an export is read over NBD"),
        }
    }

    #[test]
    fn a_clone_hydrates_over_tls_and_every_byte_is_checked() {
        let tmp = tempfile::tempdir().unwrap();
        Authority::new().sign(tmp.path(), "127.0.0.1");
        let home = Server::start(tmp.path().join("home"), 1, None, tmp.path());
        let (bytes, source) = home.fill_and_seal();
        let clone = Server::start(tmp.path().join("clone"), 2, Some(source), tmp.path());
        let mut guest = BlockClient::connect_unix(&clone.dir.join("guest.sock")).unwrap();
        let mut cold = vec![0; 3 * PLAINTEXT_BYTES_MAX];
        guest.read_at(SIZE_BYTES / 2 + 77, &mut cold).unwrap();
        assert_eq!(cold, bytes[(SIZE_BYTES / 2 + 77) as usize..][..cold.len()]);
        let status = clone.until(|status| status.hydration.complete);
        assert_eq!((status.hydration.bytes_verified, status.hydration.checksum_errors), (SIZE_BYTES, 0));
        let mut all = vec![0; bytes.len()];
        guest.read_at(0, &mut all).unwrap();
        assert!(all == bytes, "the clone differs");
    }

    #[test]
    fn who_comes_without_tls_or_from_another_authority_reads_nothing() {
        let (tmp, stranger) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (ours, theirs) = (Authority::new(), Authority::new());
        ours.sign(tmp.path(), "127.0.0.1");
        theirs.sign(stranger.path(), "127.0.0.1");
        let [ours, theirs] = [&tmp, &stranger].map(|dir| Credentials::load(dir.path()).unwrap());
        let home = Server::start(tmp.path().join("home"), 1, None, tmp.path());
        let (_, source) = home.fill_and_seal();
        let secure = uri(&source);
        let plain = ferry_nbd::Uri { tls: false, ..secure.clone() };
        let refusal = |uri: &ferry_nbd::Uri, credentials: Option<&Credentials>| {
            let connected = BlockClient::connect(uri, credentials)
                .and_then(|mut client| client.read_at(0, &mut [0; 4096]));
            connected.unwrap_err().to_string()
        };
        assert!(refusal(&plain, Some(&ours)).contains("insists on TLS"), "{}", refusal(&plain, Some(&ours)));
        assert!(refusal(secure, None).contains("no certificates"), "{}", refusal(secure, None));
        assert!(refusal(secure, Some(&theirs)).contains("not secure"), "{}", refusal(secure, Some(&theirs)));
        let mut client = BlockClient::connect(secure, Some(&ours)).unwrap();
        client.read_at(0, &mut [0; 4096]).unwrap();
    }

    #[test]
    fn only_the_worker_for_whom_it_is_exported_reads_a_volume() {
        let authority = Authority::new();
        let [w1, w2, w3] = ["w1", "w2", "w3"].map(|name| {
            let dir = tempfile::tempdir().unwrap();
            authority.sign_as(dir.path(), "127.0.0.1", Some(&format!("spiffe://c/worker/{name}")));
            dir
        });
        let nameless = tempfile::tempdir().unwrap();
        authority.sign(nameless.path(), "127.0.0.1");
        let home = Server::start(w1.path().join("home"), 1, None, w1.path());
        let (_, source) = home.fill_and_seal();
        let read = |dir: &tempfile::TempDir| {
            let credentials = Credentials::load(dir.path()).unwrap();
            let connected = BlockClient::connect(uri(&source), Some(&credentials));
            connected.and_then(|mut client| client.read_at(0, &mut [0; 4096])).is_ok()
        };
        assert!([&w2, &w3, &nameless].into_iter().all(read), "nobody is named yet");
        home.control().admit("spiffe://c/worker/w2").unwrap();
        home.control().admit("spiffe://c/worker/w2").unwrap();
        assert!(read(&w2) && !read(&w3) && !read(&nameless));
        home.control().admit("spiffe://c/worker/w3").unwrap();
        assert!(read(&w2) && read(&w3) && !read(&nameless));
        let described = crate::directory::VolumeConfig::read(&home.dir).unwrap();
        let both = ["w2", "w3"].map(|name| format!("spiffe://c/worker/{name}"));
        assert_eq!(described.readers, Some(both.to_vec()), "a restart keeps them");
        let credentials = Credentials::load(w3.path()).unwrap();
        let mut open = BlockClient::connect(uri(&source), Some(&credentials)).unwrap();
        open.read_at(0, &mut [0; 4096]).unwrap();
        both.iter().for_each(|reader| home.control().expel(reader).unwrap());
        assert!(open.read_at(0, &mut [0; 4096]).is_err(), "what was open is closed");
        assert!(![&w2, &w3, &nameless].into_iter().any(read), "nobody may any more");
        home.control().withdraw().unwrap();
        assert_eq!(crate::directory::VolumeConfig::read(&home.dir).unwrap().readers, None);
    }

    #[test]
    fn certificates_that_are_replaced_are_used_from_the_next_connection_on() {
        let (tmp, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (before, after) = (Authority::new(), Authority::new());
        before.sign(tmp.path(), "127.0.0.1");
        after.sign(other.path(), "127.0.0.1");
        let home = Server::start(tmp.path().join("home"), 1, None, tmp.path());
        let (bytes, source) = home.fill_and_seal();
        let later = Credentials::load(other.path()).unwrap();
        assert!(BlockClient::connect(uri(&source), Some(&later)).is_err(), "nobody knows it yet");
        let held = Credentials::load(tmp.path()).unwrap();
        let mut open = BlockClient::connect(uri(&source), Some(&held)).unwrap();
        // A key that is not the certificate's: what was read before counts.
        replace(other.path(), tmp.path(), "server-key.pem");
        assert!(BlockClient::connect(uri(&source), Some(&held)).is_ok());
        for file in ["server-cert.pem", "client-key.pem", "client-cert.pem", "ca-cert.pem"] {
            replace(other.path(), tmp.path(), file);
        }
        assert!(BlockClient::connect(uri(&source), Some(&later)).is_ok());
        assert!(BlockClient::connect(uri(&source), Some(&held)).is_ok(), "it has read them again, too");
        let mut all = vec![0; bytes.len()];
        open.read_at(0, &mut all).unwrap();
        assert!(all == bytes, "what is open goes on");
    }

    /// As whoever renews does it: whole, under a name of its own, then renamed.
    fn replace(from: &Path, to: &Path, file: &str) {
        std::fs::copy(from.join(file), to.join("new")).unwrap();
        std::fs::rename(to.join("new"), to.join(file)).unwrap();
    }

    /// Whether a program is here; in CI it must be.
    fn is_here(program: &str) -> bool {
        let here =
            Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
        assert!(here || std::env::var_os("CI").is_none(), "CI must install {program}");
        if !here {
            eprintln!("SKIP: {program} is not installed");
        }
        here
    }

    #[test]
    fn foreign_clients_and_servers_speak_tls_with_us() {
        if !["nbdinfo", "nbdcopy", "qemu-nbd"].into_iter().all(is_here) {
            return;
        }
        let tmp = tempfile::tempdir().unwrap();
        Authority::new().sign(tmp.path(), "127.0.0.1");
        let home = Server::start(tmp.path().join("home"), 1, None, tmp.path());
        let (bytes, source) = home.fill_and_seal();
        let foreign = format!("{source}?tls-certificates={}&tls-hostname=127.0.0.1", tmp.path().display());
        let info = Command::new("nbdinfo").args(["--size", &foreign]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&info.stdout).trim(), SIZE_BYTES.to_string(), "{info:?}");
        let image = tmp.path().join("image");
        let copied = Command::new("nbdcopy").arg(&foreign).arg(&image).output().unwrap();
        assert!(copied.status.success(), "{copied:?}");
        assert!(std::fs::read(&image).unwrap() == bytes, "the copy differs");

        let mut server = foreign_server(tmp.path(), &image);
        let port = server.1;
        let source: SourceUri = format!("nbds://127.0.0.1:{port}/").parse().unwrap();
        let clone = Server::start(tmp.path().join("clone"), 2, Some(source), tmp.path());
        let status = clone.until(|status| status.hydration.complete);
        assert_eq!(status.hydration.bytes_fetched, SIZE_BYTES);
        let mut all = vec![0; bytes.len()];
        BlockClient::connect_unix(&clone.dir.join("guest.sock")).unwrap().read_at(0, &mut all).unwrap();
        assert!(all == bytes, "the clone differs");
        drop(clone);
        server.0.kill().unwrap();
        server.0.wait().unwrap();
    }

    /// qemu-nbd with TLS on a port that was free a moment ago; the next is tried if it no longer is.
    fn foreign_server(tls: &Path, image: &Path) -> (std::process::Child, u16) {
        loop {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            let object =
                format!("tls-creds-x509,id=tls,endpoint=server,verify-peer=on,dir={}", tls.display());
            let mut server = Command::new("qemu-nbd")
                .args(["--object", &object, "--tls-creds", "tls", "--bind", "127.0.0.1", "--persistent"])
                .args(["--read-only", "--format", "raw", "--shared", "8", "--port", &port.to_string()])
                .arg(image)
                .spawn()
                .unwrap();
            loop {
                if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return (server, port);
                }
                if server.try_wait().unwrap().is_some() {
                    break;
                }
                std::thread::yield_now();
            }
        }
    }
}
