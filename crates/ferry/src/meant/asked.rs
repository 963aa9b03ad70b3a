//! Which agent is asked, and what it is shown.

use std::fs;
use std::path::Path;

use ferry_api::http::{Client, ClientTls};
use rustix::fs::{Access, access};

use super::Misuse;
use crate::args::{AGENT_SOCKET_DEFAULT, AGENT_URL_DEFAULT, Asking, CA_DEFAULT};

/// The variable that holds a token. No flag does: what is typed is seen by everybody on the host.
const TOKEN: &str = "FERRY_TOKEN";

/// The agent that is meant.
pub fn agent(asking: &Asking) -> Result<Client, Misuse> {
    let misuse = |error: &dyn std::error::Error| Misuse(error.to_string());
    let url = asking.agent.clone().unwrap_or_else(usual_agent);
    let token = token(asking)?;
    let tls = authority(asking, token.as_deref())?;
    let client = match &tls {
        Some(tls) if url.starts_with("https:") => {
            let client = Client::secured(&url, tls.clone()).map_err(|e| misuse(&e))?;
            match &token {
                Some(token) => client.with_token(token).map_err(|e| misuse(&e))?,
                None => client,
            }
        }
        Some(_) | None => Client::new(&url).map_err(|e| misuse(&e))?,
    };
    match tls {
        Some(tls) => client.with_others(tls, token.as_deref()).map_err(|e| misuse(&e)),
        None => Ok(client),
    }
}

/// The agent of this host: at its socket, where that may be opened.
pub fn usual_agent() -> String {
    match access(AGENT_SOCKET_DEFAULT, Access::WRITE_OK) {
        Ok(()) => format!("unix:{AGENT_SOCKET_DEFAULT}"),
        Err(_) => AGENT_URL_DEFAULT.to_owned(),
    }
}

fn token(asking: &Asking) -> Result<Option<String>, Misuse> {
    match &asking.token_file {
        Some(file) => Ok(Some(read(file, "the token")?)),
        None => Ok(std::env::var(TOKEN).ok().filter(|token| !token.is_empty())),
    }
}

/// Whom to believe: who was certified by the authority that is named, that of the token, or that of this host's cluster.
fn authority(asking: &Asking, token: Option<&str>) -> Result<Option<ClientTls>, Misuse> {
    let usual = Path::new(CA_DEFAULT);
    let file = match (&asking.ca, token) {
        (Some(file), _) => file,
        (None, Some(token)) => return pinned_by(token).map(Some),
        (None, None) if usual.exists() => usual,
        (None, None) => return Ok(None),
    };
    let pem = read(file, "the certificate authority")?;
    let tls = ClientTls::believing(pem.as_bytes());
    tls.map(Some).map_err(|error| Misuse(format!("{}: {error}", file.display())))
}

/// A token says whom it may be shown to.
fn pinned_by(token: &str) -> Result<ClientTls, Misuse> {
    let misuse = |error: &dyn std::error::Error| Misuse(error.to_string());
    let authority = ferry_cluster::authority_of(token).map_err(|error| misuse(&error))?;
    ferry_cluster::client_with_token(authority).map(ClientTls::new).map_err(|error| misuse(&error))
}

fn read(file: &Path, what: &str) -> Result<String, Misuse> {
    let unread = |error| Misuse(format!("cannot read {what} in {}: {error}", file.display()));
    Ok(fs::read_to_string(file).map_err(unread)?.trim().to_owned())
}
