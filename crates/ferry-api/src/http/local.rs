//! Other programs of this host, asked over a unix socket: the API of a VMM.

use serde_json::Value;
use std::io;
use std::path::Path;

/// Asks a program that listens at `socket` to do something.
///
/// # Errors
/// Nobody listens there, or it refuses.
pub async fn put(socket: &Path, path: &str, body: Option<Value>) -> io::Result<()> {
    let client = reqwest::Client::builder().unix_socket(socket).build().map_err(io::Error::other)?;
    let mut asked = client.put(format!("http://localhost{path}"));
    if let Some(body) = &body {
        asked = asked.json(body);
    }
    let answer = asked.send().await.map_err(io::Error::other)?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let why = answer.text().await.unwrap_or_default();
    Err(io::Error::other(format!("it refuses {path} with {status}: {why}")))
}
