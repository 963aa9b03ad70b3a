//! PostgreSQL, as Debian packages it, while its clients commit: see [`super::house`]. Once as a process of the worker, once as a
//! container of an image that is made of the same files.
//!
//! As a test it is two moves; `cargo xtask soak --what postgres --moves 10`, or `postgres-oci`, is as many as somebody wants.

use super::house::{Server, moves_there_and_back};
use super::told;
use crate::support::devices::needs_loop_devices;
use crate::support::ledger::{Entry, Ledger, entry_of};
use crate::support::peers::path_text;
use crate::support::{E2FSCK, MKE2FS, RUNC, needs, oci, run, skip, succeed, test_name};
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

/// So many moves are enough for a test: one cold, one warm.
const MOVES: u64 = 2;

#[test]
fn a_postgres_that_moves_there_and_back_keeps_every_commit_and_refuses_nobody() {
    needs!(MKE2FS, E2FSCK);
    needs_loop_devices!();
    moves(test_name!(), false);
}

#[test]
fn a_postgres_in_a_container_that_moves_there_and_back_keeps_every_commit_and_refuses_nobody() {
    needs!(MKE2FS, E2FSCK, RUNC);
    needs_loop_devices!();
    moves(test_name!(), true);
}

fn moves(test: &str, is_container: bool) {
    let Some(bin) = programs() else {
        return skip(test, "PostgreSQL below /usr/lib/postgresql (apt-get install postgresql)");
    };
    moves_there_and_back(&Postgres { bin, is_container }, told("FERRY_SOAK_MOVES").unwrap_or(MOVES));
}

/// Where the programs of the newest PostgreSQL here are.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let has_all = |bin: &PathBuf| {
        ["initdb", "postgres", "pgbench", "pg_amcheck"].iter().all(|name| bin.join(name).exists())
    };
    versions.map(|version| version.path().join("bin")).filter(has_all).max()
}

/// PostgreSQL, by its programs.
struct Postgres {
    bin: PathBuf,
    is_container: bool,
}

impl Postgres {
    fn words(at: SocketAddr) -> [String; 6] {
        ["-h", &at.ip().to_string(), "-p", &at.port().to_string(), "-U", "postgres"].map(str::to_owned)
    }

    /// Makes an image layout at `layout` of as much of it as a server needs.
    fn pack(&self, layout: &Path) {
        let root = layout.with_extension("root");
        let version = self.bin.parent().unwrap();
        let inside = |path: &Path| path.strip_prefix("/").unwrap().to_owned();
        let place = inside(&self.bin);
        let programs = ["postgres", "initdb"].map(|name| self.bin.join(name));
        let programs = programs.iter().map(|program| (program.as_path(), place.as_path()));
        let shell = [(Path::new("/bin/sh"), Path::new("bin"))];
        oci::copy_programs(&root, &shell.into_iter().chain(programs).collect::<Vec<_>>());
        let share = Path::new("/usr/share/postgresql").join(version.file_name().unwrap());
        let modules =
            ["plpgsql.so", "dict_snowball.so", "amcheck.so"].map(|name| version.join("lib").join(name));
        for copied in modules.iter().map(PathBuf::as_path).chain([share.as_path(), Path::new("/etc/passwd")])
        {
            let into = root.join(inside(copied.parent().unwrap()));
            std::fs::create_dir_all(&into).unwrap();
            succeed("cp", &["-RL", path_text(copied), path_text(&into)]);
        }
        // It is large, and this is a slow build of what unpacks it.
        oci::pack(&root, layout, oci::Layer::Plain);
        std::fs::remove_dir_all(&root).unwrap();
    }

    fn program(&self, name: &str, at: SocketAddr, words: &[&str]) {
        let own = Self::words(at);
        let words: Vec<&str> = own.iter().map(String::as_str).chain(words.iter().copied()).collect();
        succeed(path_text(&self.bin.join(name)), &words);
    }
}

impl Server for Postgres {
    type Session = Session;

    fn name(&self) -> &'static str {
        if self.is_container { "postgres in a container" } else { "postgres" }
    }

    fn place(&self) -> u32 {
        if self.is_container { 2 } else { 0 }
    }

    fn spec(&self, dir: &Path, data: &str, port: u16) -> String {
        let script = format!(
            "d={data}/db; [ -e $d/PG_VERSION ] || {bin}/initdb -A trust -U postgres -E UTF8 --locale=C -D $d || exit 1\n\
             exec {bin}/postgres -D $d -p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
             -c shared_buffers=16MB -c max_connections=30",
            bin = self.bin.display()
        );
        let spec =
            format!("command = [\"sh\", \"-c\", {script:?}]\nuser = \"postgres\"\nstop_signal = \"INT\"\n");
        if !self.is_container {
            return spec;
        }
        let layout = dir.join("layout");
        self.pack(&layout);
        format!("{spec}driver = \"oci\"\n[oci]\nimage = {layout:?}\n")
    }

    fn furnish(&self, session: &mut Session) -> io::Result<()> {
        session
            .ask("CREATE TABLE IF NOT EXISTS ledger (client bigint, n bigint, PRIMARY KEY (client, n))")?;
        self.program("pgbench", session.0.peer_addr()?, &["-i", "-q", "-s", "1", "postgres"]);
        Ok(())
    }

    fn load(&self, at: SocketAddr) {
        let own = Self::words(at);
        let words: Vec<&str> =
            own.iter().map(String::as_str).chain(["-n", "-c", "2", "-T", "1", "postgres"]).collect();
        run(path_text(&self.bin.join("pgbench")), &words);
    }

    fn check(&self, at: SocketAddr) {
        // Something came through, and each transaction whole: pgbench adds the same to an account and to what it notes.
        let sums = "SELECT (SELECT count(*) FROM pgbench_history) > 0 AND \
                    (SELECT sum(delta) FROM pgbench_history) = (SELECT sum(abalance) FROM pgbench_accounts)";
        assert_eq!(Session::open(at).unwrap().ask(sums).unwrap(), ["t"]);
        self.program("pg_amcheck", at, &["--install-missing", "--heapallindexed", "postgres"]);
    }
}

/// A connection to PostgreSQL: as much of its protocol (version 3) as a ledger needs.
struct Session(TcpStream);

impl Ledger for Session {
    fn open(at: SocketAddr) -> io::Result<Self> {
        let mut stream = TcpStream::connect(at)?;
        stream.set_nodelay(true)?;
        let words = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
        let length = u32::try_from(words.len() + 4).unwrap();
        stream.write_all(&[&length.to_be_bytes(), &words[..]].concat())?;
        let mut session = Self(stream);
        session.until_ready()?;
        Ok(session)
    }

    fn put(&mut self, (client, number): Entry) -> io::Result<()> {
        self.ask(&format!("INSERT INTO ledger VALUES ({client}, {number})")).map(drop)
    }

    fn entries(&mut self) -> io::Result<BTreeSet<Entry>> {
        let rows = self.ask("SELECT client || ' ' || n FROM ledger")?;
        Ok(rows.iter().map(|row| entry_of(row)).collect())
    }
}

impl Session {
    /// Runs a statement; once it has returned the statement is committed. Answers the first column of all rows.
    fn ask(&mut self, statement: &str) -> io::Result<Vec<String>> {
        let length = u32::try_from(statement.len() + 5).unwrap();
        let message = [b"Q", &length.to_be_bytes()[..], statement.as_bytes(), b"\0"].concat();
        self.0.write_all(&message)?;
        self.until_ready()
    }

    /// Reads up to where the server is ready for the next statement.
    fn until_ready(&mut self) -> io::Result<Vec<String>> {
        let mut rows = Vec::new();
        let mut failed = None;
        loop {
            let mut head = [0; 5];
            self.0.read_exact(&mut head)?;
            let [kind, length @ ..] = head;
            let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
            self.0.read_exact(&mut body)?;
            match kind {
                // A row: how many columns, then the length of the first, and the first.
                b'D' => rows.push(String::from_utf8_lossy(&body[6..]).into_owned()),
                b'E' => failed = Some(io::Error::other(String::from_utf8_lossy(&body).into_owned())),
                b'Z' => return failed.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }
}
