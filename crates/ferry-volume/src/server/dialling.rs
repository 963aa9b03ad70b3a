//! Connecting to a source, on a thread that may wait for a network: its links, and what it is asked before and after.

use super::doors::is_snapshot;
use super::requests::bytes;
use super::source::SILENCE_MAX;
use crate::SourceUri;
use crate::client::{BlockClient, BlockError};
use crate::dial::{DialError, Dialled, dial};
use crate::heat;
use crate::tls::Credentials;
use ferry_engine::{Differences, Hot};
use ferry_nbd::client::HandshakeError;
use ferry_nbd::{CONTEXT_ALLOCATION, CONTEXT_CRC32C, Uri};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

/// Connections that fetch, beside the one that asks for block status: one for the guest, one for what is read ahead of
/// it, the others for the background.
pub(super) const FETCH_LINKS: usize = 4;

/// What a dialling thread found.
pub(crate) struct DialResult {
    pub(super) attempt: u64,
    pub(super) found: Result<Found, Unreached>,
}

/// Why a source cannot be used.
pub(super) struct Unreached {
    pub(super) reason: String,
    /// It will not come back.
    pub(super) is_gone: bool,
}

impl From<String> for Unreached {
    fn from(reason: String) -> Self {
        Self { reason, is_gone: false }
    }
}

pub(super) enum Found {
    /// And in what it differs from the generation that it was asked about, if it knows.
    Links(Vec<Dialled>, Option<Differences>),
    File(OwnedFd, u64),
    /// After the links: how hot the source is.
    Heat(Vec<Hot>),
}

/// What a source is asked beside its links.
pub(super) struct Wishes {
    /// In what it differs from this generation: before it is used, since nothing that is the same shall cross.
    pub(super) differs_from: Option<u64>,
    /// How hot it is: after that, for what is read first need not wait for it.
    pub(super) heat: bool,
}

/// Connects on a thread of its own; `tell` gets each thing that is found.
///
/// # Errors
/// There is no thread to be had.
pub(super) fn begin_to_dial(
    uri: SourceUri,
    wishes: Wishes,
    credentials: Option<Credentials>,
    tell: impl Fn(Result<Found, Unreached>) + Send + 'static,
) -> io::Result<()> {
    let dialling = move || {
        let found = dial_source(&uri, wishes.differs_from, credentials.as_ref());
        let has_heat = wishes.heat && matches!(&found, Ok(Found::Links(links, _)) if links.len() > 1);
        tell(found);
        if has_heat && let SourceUri::Nbd(uri) = &uri {
            // Without it all comes in order.
            heat::ask(uri, credentials.as_ref()).into_iter().for_each(|hot| tell(Ok(Found::Heat(hot))));
        }
    };
    std::thread::Builder::new().name("dial".to_owned()).spawn(dialling).map(drop)
}

/// Connects all links of a source, or opens its file.
fn dial_source(
    uri: &SourceUri,
    differs_from: Option<u64>,
    credentials: Option<&Credentials>,
) -> Result<Found, Unreached> {
    match uri {
        SourceUri::Nbd(uri) => {
            let links = dial_links(uri, credentials).map_err(|e| {
                let is_unknown =
                    matches!(&e, DialError::Handshake { cause: HandshakeError::ExportUnknown { .. }, .. });
                Unreached { reason: e.to_string(), is_gone: is_unknown && is_snapshot(&uri.export) }
            })?;
            // One that offers a single connection may make another one wait for it to go.
            let asked = differs_from.filter(|_| links.len() > 1);
            let ask = |generation| ask_differences(uri, generation, credentials);
            let differences = asked.map(ask).transpose().map_err(|e| format!("{uri}: {e}"))?;
            Ok(Found::Links(links, differences.flatten()))
        }
        SourceUri::File(path) => {
            open_file(path).map_err(|e| format!("cannot read {}: {e}", path.display()).into())
        }
    }
}

fn dial_links(uri: &Uri, credentials: Option<&Credentials>) -> Result<Vec<Dialled>, DialError> {
    let mut links = vec![dial(uri, &[CONTEXT_ALLOCATION], credentials)?];
    // A server that does not offer several connections may make the second one wait for the first to go.
    if links[0].session.export().can_multi_conn {
        for _ in 0..FETCH_LINKS {
            links.push(dial(uri, &[CONTEXT_CRC32C], credentials)?);
        }
    }
    Ok(links)
}

/// Asks a source in what it differs from the copy of a generation that it was made from; none if it does not know.
fn ask_differences(
    uri: &Uri,
    generation: u64,
    credentials: Option<&Credentials>,
) -> Result<Option<Differences>, BlockError> {
    let mut client = BlockClient::connect_for_base(uri, generation, credentials)?;
    client.set_patience(Some(SILENCE_MAX))?;
    let mut differences = Differences::none();
    let knows = client.each_difference(generation, |range| differences.add(bytes(range)))?;
    Ok(knows.then_some(differences))
}

fn open_file(path: &std::path::Path) -> io::Result<Found> {
    let mut file = File::open(path)?;
    let size_bytes = io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
    Ok(Found::File(file.into(), size_bytes))
}
