//! The fuzz bodies of this crate on stable: seeds from valid encodings, and mutations of them.

#![allow(clippy::unwrap_used)]

#[path = "../../../../fuzz/src/nbd/mod.rs"]
mod nbd;
mod seeds;
#[path = "../../../../fuzz/src/smoke.rs"]
mod smoke;

use smoke::smoke;

#[test]
fn a_server_survives_any_client() {
    smoke("nbd_server", &seeds::server(), nbd::server::run);
}

#[test]
fn a_client_survives_any_server() {
    smoke("nbd_client", &seeds::client(), nbd::client::run);
}

#[test]
fn a_uri_that_is_understood_reads_back() {
    let texts = [
        ("ipv6", "nbd://[fe80::1%25eth0]:7000/V%403"),
        ("name", "nbd://example.com/disk%20one"),
        ("unix", "nbd+unix:///x?a=b&socket=/run/a%26b"),
    ];
    smoke("nbd_uri", &texts.map(|(name, text)| (name, text.as_bytes().to_vec())), nbd::uri::run);
}
