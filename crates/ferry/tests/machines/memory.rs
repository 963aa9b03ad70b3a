//! Whose memory a VM takes, asked of two drivers with certificates as a cluster's.

use super::authority::Authority;
use super::drivers::{run, vm, wait_until_logged};
use super::support::test_name;
use ferry_agent::drivers::{Channel, Gates, Launch, Live, Memory, QemuDriver};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What a machine is told to end by (SIGTERM).
const SIGNAL: i32 = 15;

/// The memory of a machine, once it is not on its way any more.
async fn come_to_rest(live: &dyn Live, dir: &Path) -> Memory {
    loop {
        match live.memory(dir).await.unwrap() {
            Memory::Leaving(_) | Memory::Finishing => {}
            rest @ (Memory::Here
            | Memory::Paused(_)
            | Memory::Left
            | Memory::Failed { .. }
            | Memory::Awaited) => return rest,
        }
    }
}

#[tokio::test]
async fn memory_is_taken_from_the_worker_that_the_machine_comes_from_and_from_no_other_member() {
    let Some(subject) = vm(test_name!()) else { return };
    let authority = Authority::new();
    let driver = |name: &str| {
        let dir = subject.dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        authority.sign_as(&dir, "127.0.0.1", Some(&format!("spiffe://c/worker/{name}")));
        let (listen, tls) = (std::net::Ipv4Addr::LOCALHOST.into(), Some(dir));
        QemuDriver::new(Arc::new(Gates::default()), Channel { listen, tls, names_workers: true })
    };
    let (source, target) = (driver("w1"), driver("w2"));
    let leaving = subject.launch("echo up; while :; do sleep 0.02; done");
    let left = run(&subject, &leaving).await;
    wait_until_logged(&leaving, "up\n");
    let facts = source.runs_as(&leaving.dir).await.unwrap();
    for (awaited, is_taken) in [("w3", false), ("w1", true)] {
        let arriving = Launch { dir: subject.launch("").dir, ..leaving.clone() };
        let arrives = target.expect(&arriving, &facts).await.unwrap().release().unwrap();
        let port = target.listen(&arriving.dir, &awaited.parse().unwrap()).await.unwrap();
        source.send(&leaving.dir, &format!("127.0.0.1:{port}")).await.unwrap();
        let stands = come_to_rest(&source, &leaving.dir).await;
        assert_eq!(matches!(stands, Memory::Paused(_)), is_taken, "{stands:?}");
        assert_eq!(matches!(stands, Memory::Failed { .. }), !is_taken, "{stands:?}");
        source.keep(&leaving.dir).await.unwrap();
        arrives.stop(SIGNAL, Duration::ZERO).await;
    }
    left.stop(SIGNAL, Duration::ZERO).await;
}
