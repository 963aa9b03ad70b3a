//! Redis, as Debian packages it, with every write in its log on the disk before it is acknowledged (`appendfsync always`), while
//! its clients write: see [`super::house`].
//!
//! As a test it is two moves; `cargo xtask soak --what redis --moves 10` is as many as somebody wants.

use super::house::{Server, moves_there_and_back};
use super::told;
use crate::support::devices::needs_loop_devices;
use crate::support::ledger::Ledger;
use crate::support::redis::Session;
use crate::support::{E2FSCK, MKE2FS, REDIS, REDIS_BENCHMARK, needs, run};
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// So many moves are enough for a test: one cold, one warm.
const MOVES: u64 = 2;

#[test]
fn a_redis_that_moves_there_and_back_keeps_every_write_and_refuses_nobody() {
    needs!(MKE2FS, E2FSCK, REDIS, REDIS_BENCHMARK);
    needs_loop_devices!();
    moves_there_and_back(&Redis, told("FERRY_SOAK_MOVES").unwrap_or(MOVES));
}

struct Redis;

impl Server for Redis {
    type Session = Session;

    fn name(&self) -> &'static str {
        "redis"
    }

    fn place(&self) -> u32 {
        1
    }

    fn spec(&self, _dir: &Path, data: &str, port: u16) -> String {
        let words = [
            "redis-server",
            "--dir",
            data,
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
        ];
        format!("command = {words:?}\nuser = \"redis\"\n")
    }

    fn furnish(&self, session: &mut Session) -> io::Result<()> {
        session.ask(&["PING"]).map(drop)
    }

    fn load(&self, at: SocketAddr) {
        let (host, port) = (at.ip().to_string(), at.port().to_string());
        let words = [
            "-h", &host, "-p", &port, "-t", "set", "-c", "2", "-n", "1000", "-d", "4000", "-r", "2000", "-q",
        ];
        run("redis-benchmark", &words);
    }

    fn check(&self, at: SocketAddr) {
        let told = Session::open(at).unwrap().ask(&["INFO", "persistence"]).unwrap().concat();
        assert!(told.contains("aof_enabled:1") && told.contains("aof_last_write_status:ok"), "{told}");
    }
}
