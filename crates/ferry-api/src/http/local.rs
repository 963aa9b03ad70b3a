//! Other programs of this host, asked over a unix socket: the API of a VMM.

use super::wire::{Http, Unanswered, Way};
use axum::http::Method;
use serde_json::Value;
use std::io;
use std::path::Path;

/// Asks a program that listens at `socket` to do something.
///
/// # Errors
/// Nobody listens there, or it refuses.
pub async fn put(socket: &Path, path: &str, body: Option<Value>) -> io::Result<()> {
    let body = body.map(|body| body.to_string().into_bytes());
    let http = Http::new(Way::Unix(socket.to_owned()));
    let answered = http.send(Method::PUT, &format!("http://localhost{path}"), body, None).await;
    let (status, why) = answered.map_err(|unanswered| match unanswered {
        Unanswered::Unconnected(why) | Unanswered::Refused(why) | Unanswered::Broken(why) => {
            io::Error::other(why)
        }
        Unanswered::TooLate => io::Error::from(io::ErrorKind::TimedOut),
    })?;
    if (200..300).contains(&status) {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&why);
    Err(io::Error::other(format!("it refuses {path} with {status}: {why}")))
}
