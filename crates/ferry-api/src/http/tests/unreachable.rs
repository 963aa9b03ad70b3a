//! What a client says when there is no agent, or something else, at the other end.

use crate::http::Client;
use crate::{AgentApi, ErrorCode};
use std::io::{Read, Write};
use std::net::TcpListener;

#[tokio::test]
async fn an_agent_that_is_not_there_is_named_with_what_to_do() {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let refusal = Client::new(&url).unwrap().worker().await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::Unreachable);
    assert!(refusal.message.contains(&url) && refusal.message.contains("cannot be reached"), "{refusal}");
    assert!(refusal.message.ends_with("start it there, or give the right address"), "{refusal}");
}

#[tokio::test]
async fn something_else_at_the_address_is_not_taken_for_an_agent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let n = stream.read(&mut request).unwrap();
        assert!(request[..n].starts_with(b"GET /v1/worker HTTP/1.1\r\n"));
        stream
            .write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
            .unwrap();
    });
    let refusal = Client::new(&url).unwrap().worker().await.unwrap_err();
    other.join().unwrap();
    assert_eq!(refusal.code, ErrorCode::VersionMismatch);
    assert!(refusal.message.contains("HTTP 404"), "{refusal}");
}

#[test]
fn only_the_address_of_an_agent_is_taken() {
    assert_eq!(Client::new("http://[::1]:7433/").unwrap().url(), "http://[::1]:7433");
    for bad in ["", "127.0.0.1:7433", "http://h/v1", "nbd://h/x"] {
        assert!(Client::new(bad).is_err(), "{bad}");
    }
}
