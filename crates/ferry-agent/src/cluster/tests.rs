//! A worker's part in its cluster, on a real state directory and without a network.

use super::*;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ferry_api::{Caller, Gate, Presented};
use ferry_cluster::{Authority, Request, WorkerKey};
use std::path::Path;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

fn config(dir: &Path, name: &str, lines: &str) -> Config {
    let text = format!("name = \"{name}\"\nstate_dir = \"{}\"\n{lines}\n", dir.display());
    Config::parse(Path::new("/etc/ferry.toml"), &text).unwrap()
}

fn founded(dir: &Path) -> Config {
    let config = config(dir, "w1", "listen = \"10.0.0.1:7433\"");
    found(&config).unwrap();
    config
}

fn refused(config: &Config) -> String {
    Cluster::open(config).err().unwrap().to_string()
}

#[test]
fn a_worker_without_a_cluster_has_no_part_in_one() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Cluster::open(&config(dir.path(), "w1", "")).unwrap().is_none());
}

#[test]
fn a_state_directory_of_another_worker_and_certificates_of_ones_own_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    founded(dir.path());
    let why = refused(&config(dir.path(), "w2", ""));
    assert!(why.contains("belongs to worker w1") && why.contains("names w2"), "{why}");
    let why = refused(&config(dir.path(), "w1", "tls = \"/etc/ferry/tls\""));
    assert!(why.contains("remove `tls`"), "{why}");
}

#[tokio::test]
async fn an_agent_that_listens_elsewhere_than_others_call_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let at_home = Cluster::open(&founded(dir.path())).unwrap().unwrap();
    assert_eq!(at_home.status().await.troubles, Vec::<String>::new());
    let moved = Cluster::open(&config(dir.path(), "w1", "listen = \"10.0.0.2:7433\"")).unwrap().unwrap();
    let troubles = moved.status().await.troubles;
    assert!(
        troubles[0].contains("https://10.0.0.1:7433") && troubles[0].contains("https://10.0.0.2:7433"),
        "{troubles:?}"
    );
}

#[test]
fn a_caller_is_a_member_whose_certificate_is_good_now_also_on_a_connection_that_was_made_before() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::open(&founded(dir.path())).unwrap().unwrap();
    let (certificate, key) = cluster.0.home.certificate_and_key().unwrap();
    let authority_key = std::fs::read_to_string(dir.path().join("cluster/ca-key.pem")).unwrap();
    let authority = std::fs::read_to_string(cluster.tls_dir().join("ca-cert.pem")).unwrap();
    let authority = Authority::from_pem(&authority, &authority_key).unwrap();
    // The first certificate of the file.
    let leaf = |pem: &str| {
        let lines = pem.lines().skip(1).take_while(|line| !line.starts_with('-'));
        STANDARD.decode(lines.collect::<String>()).unwrap()
    };
    let admit = |pem: &str| cluster.admit(Presented::Certificate(&leaf(pem)));
    assert_eq!(admit(&certificate), Ok(Caller::Worker("w1".parse().unwrap())));

    let certify = |key: &WorkerKey, name: &str, at_ms| {
        let request = Request::parse(&key.request().unwrap()).unwrap();
        let id = cluster.held().papers.roster.cluster.clone();
        authority.certify(&request, &id, &name.parse().unwrap(), "https://h:1", at_ms).unwrap()
    };
    let expired = certify(&WorkerKey::from_pem(&key).unwrap(), "w1", now_ms() - 30 * DAY_MS);
    assert!(admit(&expired).unwrap_err().message.contains("has expired"));
    let twin = certify(&WorkerKey::fresh().unwrap(), "w1", now_ms());
    assert!(admit(&twin).unwrap_err().message.contains("another one of that name"));
    let unheard = admit(&certify(&WorkerKey::fresh().unwrap(), "w9", now_ms())).unwrap_err();
    assert_eq!(unheard.code, ErrorCode::Unauthenticated);
    assert!(unheard.message.contains("not in version 1"), "{unheard}");
    assert!(cluster.admit(Presented::Token("nonsense")).is_err());
}
