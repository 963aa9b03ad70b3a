//! Handshakes in memory between workers of one cluster, of two, and those who have only a token.

use super::*;
use crate::authority::{Authority, CERTIFICATE_MS, Request, WorkerKey};
use crate::identity::ClusterId;
use rustls::{ClientConnection, ServerConnection};
use std::time::{SystemTime, UNIX_EPOCH};

struct Cluster {
    id: ClusterId,
    authority: Authority,
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn cluster() -> Cluster {
    let id = ClusterId::of([3; 16]);
    let authority = Authority::fresh(&id, now_ms()).unwrap();
    Cluster { id, authority }
}

impl Cluster {
    fn papers(&self, worker: &str, at_ms: u64) -> (String, String) {
        let key = WorkerKey::fresh().unwrap();
        let request = Request::parse(&key.request().unwrap()).unwrap();
        let url = format!("https://{worker}.test:1");
        let name = worker.parse().unwrap();
        (self.authority.certify(&request, &self.id, &name, &url, at_ms).unwrap(), key.pem())
    }

    fn badge(&self, worker: &str, at_ms: u64) -> Badge {
        let (certificate, key) = self.papers(worker, at_ms);
        Badge::new(&certificate, &key).unwrap()
    }

    fn server(&self, badge: &Badge) -> ServerConfig {
        server(self.authority.key(), badge).unwrap()
    }

    fn client(&self, badge: &Badge, whom: &str) -> ClientConfig {
        client(self.authority.key(), Some(badge), Whom::Worker(whom.parse().unwrap())).unwrap()
    }
}

/// Shakes hands in memory; gives whom the server has seen.
fn shake(client: ClientConfig, server: ServerConfig, host: &str) -> Result<Option<Identity>, Error> {
    let host = ServerName::try_from(host.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), host).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut wire = &wire[..];
        while !wire.is_empty() {
            server.read_tls(&mut wire).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut wire = &wire[..];
        while !wire.is_empty() {
            client.read_tls(&mut wire).unwrap();
            client.process_new_packets()?;
        }
    }
    let seen = server.peer_certificates().and_then(|chain| chain.first());
    Ok(seen.map(|leaf| Identity::of(leaf).unwrap()))
}

#[test]
fn two_workers_of_a_cluster_see_who_the_other_is() {
    let cluster = cluster();
    let (w1, w2) = (cluster.badge("w1", now_ms()), cluster.badge("w2", now_ms()));
    let seen = shake(cluster.client(&w2, "w1"), cluster.server(&w1), "127.0.0.1").unwrap();
    assert_eq!(seen.unwrap().worker.as_str(), "w2");
}

#[test]
fn another_worker_than_was_called_is_refused() {
    let cluster = cluster();
    let (w1, w2) = (cluster.badge("w1", now_ms()), cluster.badge("w2", now_ms()));
    let refused = shake(cluster.client(&w2, "w3"), cluster.server(&w1), "127.0.0.1").unwrap_err();
    assert!(refused.to_string().contains("worker w1 answers where w3 should"), "{refused}");
}

#[test]
fn members_of_another_cluster_are_refused_on_either_side() {
    let (ours, theirs) = (cluster(), cluster());
    let (w1, w2) = (ours.badge("w1", now_ms()), theirs.badge("w2", now_ms()));
    assert!(shake(theirs.client(&w2, "w1"), ours.server(&w1), "127.0.0.1").is_err());
    let trusting = client(ours.authority.key(), Some(&w2), Whom::Worker("w1".parse().unwrap())).unwrap();
    assert!(shake(trusting, ours.server(&w1), "127.0.0.1").is_err());
}

#[test]
fn who_shows_a_token_knows_the_authority_by_its_fingerprint() {
    let (ours, theirs) = (cluster(), cluster());
    let server = || ours.server(&ours.badge("w1", now_ms()));
    let knowing = |cluster: &Cluster| client_with_token(cluster.authority.key().fingerprint).unwrap();
    assert_eq!(shake(knowing(&ours), server(), "w1.test"), Ok(None));
    assert!(shake(knowing(&ours), server(), "w2.test").is_err(), "it is certified for another host");
    let refused = shake(knowing(&theirs), server(), "w1.test").unwrap_err();
    assert_eq!(refused, Error::InvalidCertificate(CertificateError::UnknownIssuer));
}

#[test]
fn a_certificate_is_good_for_a_clock_that_is_hours_behind_and_not_for_one_that_is_days() {
    let cluster = cluster();
    let (hour_ms, ours) = (60 * 60 * 1000, cluster.badge("w2", now_ms()));
    let shake_with = |at_ms| {
        let server = cluster.server(&cluster.badge("w1", at_ms));
        shake(cluster.client(&ours, "w1"), server, "127.0.0.1")
    };
    assert!(shake_with(now_ms() + 20 * hour_ms).is_ok());
    let early = shake_with(now_ms() + 48 * hour_ms).unwrap_err();
    assert!(early.to_string().contains("good only in 2"), "{early}");
    let late = shake_with(now_ms() - CERTIFICATE_MS - hour_ms).unwrap_err();
    assert!(late.to_string().contains("expired 1 hours ago"), "{late}");
}

#[test]
fn a_renewed_certificate_is_shown_from_the_next_connection_on() {
    let cluster = cluster();
    let badge = cluster.badge("w1", now_ms() - CERTIFICATE_MS - 1000);
    let (config, w2) = (Arc::new(cluster.server(&badge)), cluster.badge("w2", now_ms()));
    let shake = || shake(cluster.client(&w2, "w1"), (*config).clone(), "127.0.0.1");
    assert!(shake().is_err());
    let (certificate, key) = cluster.papers("w1", now_ms());
    badge.replace(&certificate, &key).unwrap();
    assert!(shake().is_ok());
    assert!(
        badge.replace(&certificate, &cluster.papers("w1", now_ms()).1).is_err(),
        "not with another's key"
    );
}
