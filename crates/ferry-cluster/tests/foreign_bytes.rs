//! The fuzz bodies of this crate on stable: seeds from what it writes itself, and mutations of them.

#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/src/cluster.rs"]
mod cluster;
#[path = "../../../fuzz/src/smoke.rs"]
mod smoke;

use ferry_cluster::{Admission, ClusterId, Fingerprint, JoinToken, Roster, Secret};

fn token(url: &str) -> Vec<u8> {
    let secret = Secret::from_bytes([7; Secret::BYTES]);
    let authority = Fingerprint::of(b"ca");
    JoinToken { secret, authority, url: url.to_owned(), expires_ms: 1_800_000_000_000 }.text().into_bytes()
}

fn roster() -> Roster {
    let key = |text: &str| Fingerprint::of(text.as_bytes());
    let (w1, w2) = ("w1".parse().unwrap(), "w2".parse().unwrap());
    let roster = Roster::first(ClusterId::of([1; 16]), w1, "https://10.0.0.1:7433".to_owned(), key("1"), 5);
    let Ok(Admission::With(roster)) = roster.admit(&w2, "https://[fd00::2]:7433", key("2"), false, 6) else {
        panic!("it is admitted")
    };
    let roster = roster.revoke(&w2, Some("sold".to_owned()), 7).unwrap();
    let Ok(Admission::With(roster)) = roster.admit(&w2, "https://w2.test:7433", key("3"), true, 8) else {
        panic!("it is admitted")
    };
    roster.revoke_token(&"grafana".parse().unwrap(), 100, 9)
}

#[test]
fn any_line_is_a_token_or_is_refused() {
    let api = br#"ferry-api-1.eyJuYW1lIjoiZyIsInJvbGUiOiJ2aWV3In0.AAAA"#;
    let seeds = [
        ("v4", token("https://10.0.0.1:7433")),
        ("v6", token("https://[fd00::1]:7433")),
        ("api", api.to_vec()),
    ];
    smoke::smoke("cluster_join_token", &seeds, cluster::join_token);
}

#[test]
fn any_text_is_a_roster_that_does_not_contradict_itself_or_is_refused() {
    let seeds = [("whole", roster().text().into_bytes())];
    smoke::smoke("cluster_roster", &seeds, cluster::roster);
}

#[test]
fn any_certificate_is_that_of_one_worker_or_of_none() {
    // The seed there was made by OpenSSL: keys are never made twice.
    smoke::smoke("cluster_certificate", &[], cluster::certificate);
}
