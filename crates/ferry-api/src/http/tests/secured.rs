//! Who is let in, and who is not.

use super::certificates::Authority;
use super::house::House;
use crate::http::Client;
use crate::{AgentApi, ErrorCode, ImportVolume};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_worker_is_known_by_its_certificate_and_a_person_by_a_token() {
    let house = House::build().await;
    house.worker("w2").machines().await.unwrap();
    assert_eq!(house.book.last().unwrap(), "worker w2");
    house.by_token("view").machines().await.unwrap();
    assert_eq!(house.book.last().unwrap(), "the token view (view)");
}

#[tokio::test]
async fn a_token_counts_also_on_the_connection_of_a_worker() {
    let house = House::build().await;
    let both = house.worker("w2").with_token("operate").unwrap();
    both.machines().await.unwrap();
    assert_eq!(house.book.last().unwrap(), "the token operate (operate)");
}

#[tokio::test]
async fn whoever_shows_nothing_is_told_nothing() {
    let house = House::build().await;
    let refusal = house.stranger().machines().await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::Unauthenticated);
    assert!(refusal.message.contains("answers only whom it knows"), "{refusal}");
    let refusal = house.by_token("a guess").machines().await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::Unauthenticated);
}

#[tokio::test]
async fn what_is_no_tls_is_not_answered() {
    let house = House::build().await;
    let mut stream = TcpStream::connect(house.address).await.unwrap();
    stream.write_all(b"GET /v1/worker HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // An alert, or a connection that was reset.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    let plain = Client::new(&format!("http://{}", house.address)).unwrap();
    assert_eq!(plain.machines().await.unwrap_err().code, ErrorCode::Unreachable);
}

#[tokio::test]
async fn an_authority_that_is_not_believed_is_named_as_the_reason_on_either_side() {
    let (house, other) = (House::build().await, Authority::new());
    // Who signed the agent's certificate is not believed here ...
    let doubting = Client::secured(&house.url(), other.client_tls(None)).unwrap();
    // ... and who signed this one's is not believed there.
    let house_of_others = House::build().await;
    let signed = house_of_others.authority.sign();
    let doubted = Client::secured(&house.url(), house.authority.client_tls(Some(&signed))).unwrap();
    for client in [doubting, doubted] {
        let refusal = client.machines().await.unwrap_err();
        assert_eq!(refusal.code, ErrorCode::Unreachable);
        assert!(refusal.message.contains("do not accept each other"), "{refusal}");
        assert!(refusal.message.ends_with("look at both sides' certificates and clocks"), "{refusal}");
    }
    assert_eq!(house.book.last(), None, "the gate was never asked");
}

#[tokio::test]
async fn who_is_believed_no_longer_is_refused_on_an_open_connection() {
    let house = House::build().await;
    let worker = house.worker("w2");
    worker.machines().await.unwrap();
    house.book.forget_all();
    assert_eq!(worker.machines().await.unwrap_err().code, ErrorCode::Unauthenticated);
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_from_the_next_call_on() {
    let house = House::build().await;
    let (first, second) = (house.authority.sign(), house.authority.sign());
    house.book.knows(&first, "first");
    house.book.knows(&second, "second");
    let tls = house.authority.client_tls(Some(&first));
    let client = Client::secured(&house.url(), tls.clone()).unwrap();
    client.machines().await.unwrap();
    assert_eq!(house.book.last().unwrap(), "worker first");
    tls.replace(house.authority.client(Some(&second)));
    client.machines().await.unwrap();
    assert_eq!(house.book.last().unwrap(), "worker second");
}

#[tokio::test]
async fn a_renewed_certificate_of_the_agent_is_shown_to_whoever_connects_later() {
    let house = House::build().await;
    let before = house.by_token("view");
    before.machines().await.unwrap();
    let other = Authority::new();
    house.tls.replace(other.server(&other.sign()));
    before.machines().await.unwrap();
    let refusal = house.by_token("view").machines().await.unwrap_err();
    assert!(refusal.message.contains("do not accept each other"), "{refusal}");
    let later = Client::secured(&house.url(), other.client_tls(None)).unwrap();
    later.with_token("view").unwrap().machines().await.unwrap();
}

#[tokio::test]
async fn whoever_is_silent_keeps_nobody_out() {
    let house = House::build().await;
    let _silent =
        [TcpStream::connect(house.address).await.unwrap(), TcpStream::connect(house.address).await.unwrap()];
    house.by_token("view").machines().await.unwrap();
}

#[tokio::test]
async fn a_socket_of_this_host_needs_no_token() {
    let house = House::build().await;
    let client = Client::new(&house.socket_url()).unwrap();
    assert_eq!(client.url(), house.socket_url());
    client.machines().await.unwrap();
    assert_eq!(house.book.last(), None, "the gate is not asked");
    let gone = Client::new("unix:/nowhere/agent.sock").unwrap().machines().await.unwrap_err();
    assert_eq!(gone.code, ErrorCode::Unreachable);
    assert!(gone.message.contains("unix:/nowhere/agent.sock cannot be reached"), "{gone}");
}

#[test]
fn a_token_never_crosses_in_the_clear() {
    let plain = Client::new("http://127.0.0.1:7433").unwrap();
    assert!(plain.with_token("view").unwrap_err().to_string().contains("in the clear"));
}

#[tokio::test]
async fn another_agent_is_called_with_what_is_said_of_others() {
    let house = House::build().await;
    let here = Client::new(&house.socket_url()).unwrap();
    let refusal = here.toward(&house.url()).unwrap_err();
    assert!(refusal.to_string().contains("--ca"), "{refusal}");
    let here = here.with_others(house.authority.client_tls(None), Some("operate")).unwrap();
    here.toward(&house.url()).unwrap().machines().await.unwrap();
    assert_eq!(house.book.last().unwrap(), "the token operate (operate)");
    *house.book.last.lock().unwrap() = None;
    here.toward(&format!("http://{}", house.open)).unwrap().machines().await.unwrap();
    assert_eq!(house.book.last(), None, "what is not secured is told no token");
}

#[tokio::test]
async fn a_worker_has_another_one_import_what_is_read_over_a_network_only() {
    let house = House::build().await;
    let import = |source: &str| ImportVolume {
        id: None,
        name: "copy".parse().unwrap(),
        source: source.to_owned(),
        size_bytes: None,
        region_bytes: None,
        store: None,
        direct: false,
    };
    let worker = house.worker("w2");
    for source in ["/etc/shadow", "file:///dev/sda", "nbd+unix:///?socket=/run/x"] {
        let refusal = worker.volume_import(import(source)).await.unwrap_err();
        assert_eq!(refusal.code, ErrorCode::Forbidden, "{source}");
    }
    let passed = worker.volume_import(import("nbds://10.0.0.1:7000/V@1~S")).await.unwrap_err();
    assert_eq!(passed.code, ErrorCode::VersionMismatch, "it is answered with an empty list: {passed}");
    let passed = house.by_token("admin").volume_import(import("/srv/disk.raw")).await.unwrap_err();
    assert_eq!(passed.code, ErrorCode::VersionMismatch, "{passed}");
}

#[test]
fn an_address_over_tls_asks_whom_to_believe() {
    let refusal = Client::new("https://127.0.0.1:7433").unwrap_err();
    assert!(refusal.to_string().contains("--ca"), "{refusal}");
}
