//! A small blocking NBD client, one request at a time: for programs that want a few blocks of a volume.

use crate::SourceUri;
use crate::dial::{DialError, Dialled, dial};
use crate::tls::{Credentials, Wire};
use ferry_nbd::client::{Event, HandshakeError, RequestError, Session};
use ferry_nbd::limits::REPLY_BUFFER_BYTES;
use ferry_nbd::{ByteRange, CONTEXT_BASE, CONTEXT_DIRTY, Command, Extent, STATE_CHANGED, Uri};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a request to an NBD server failed.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// There is no connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It is there and is no image.
    #[error("{} is neither a file nor a block device; give a raw disk image", path.display())]
    NotAnImage {
        /// What was given.
        path: PathBuf,
    },
    /// The connection broke.
    #[error("the connection to the volume broke: {0}")]
    Broken(#[from] io::Error),
    /// The server does not keep to the protocol.
    #[error("the server does not keep to the NBD protocol: {0}")]
    Protocol(#[from] ferry_nbd::ProtocolError),
    /// The request cannot be sent.
    #[error("the request cannot be sent: {0}")]
    Request(#[from] RequestError),
    /// The server answered with an error.
    #[error("the volume answered {errno}{}", match message.is_empty() { true => String::new(), false => format!(" ({message})") })]
    Failed {
        /// Which.
        errno: ferry_nbd::Errno,
        /// Its words, may be empty.
        message: String,
    },
}

/// How a source presents itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceFacts {
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// Asks a source what it is, without keeping a connection.
///
/// # Errors
/// It is not there or cannot be read.
pub fn probe(uri: &SourceUri, credentials: Option<&Credentials>) -> Result<SourceFacts, BlockError> {
    match uri {
        SourceUri::Nbd(uri) => {
            Ok(SourceFacts { size_bytes: BlockClient::connect(uri, credentials)?.size_bytes() })
        }
        SourceUri::File(path) => {
            let unreadable = |cause| BlockError::File { path: path.clone(), cause };
            // Asked before it is opened: a pipe would wait for somebody to write.
            let kind = path.metadata().map_err(unreadable)?.file_type();
            if !kind.is_file() && !kind.is_block_device() {
                return Err(BlockError::NotAnImage { path: path.clone() });
            }
            let mut file = File::open(path).map_err(unreadable)?;
            // The end of a block device is found by going there.
            let size_bytes = io::Seek::seek(&mut file, io::SeekFrom::End(0)).map_err(unreadable)?;
            Ok(SourceFacts { size_bytes })
        }
    }
}

/// Asks whether a source is there, also one that is not to be read yet: a server that knows the export and refuses
/// it as things stand (a volume that is not sealed) has been reached.
///
/// # Errors
/// Nobody is there, or whoever is does not know the export.
pub fn reach(uri: &SourceUri, credentials: Option<&Credentials>) -> Result<(), BlockError> {
    match probe(uri, credentials) {
        Ok(_) | Err(BlockError::Dial(DialError::Handshake { cause: HandshakeError::Refused { .. }, .. })) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// A connection to one export.
pub struct BlockClient {
    wire: Wire,
    session: Session,
    input: Vec<u8>,
    cookie: u64,
}

impl BlockClient {
    /// Connects to an export.
    ///
    /// # Errors
    /// Nobody is there, or the export is not to be had.
    pub fn connect(uri: &Uri, credentials: Option<&Credentials>) -> Result<Self, BlockError> {
        Ok(Self::over(dial(uri, &[], credentials)?))
    }

    /// Connects to an export to ask for the block status of a context.
    ///
    /// # Errors
    /// As [`BlockClient::connect`].
    pub(crate) fn connect_for(
        uri: &Uri,
        context: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Self, BlockError> {
        Ok(Self::over(dial(uri, &[context], credentials)?))
    }

    /// Connects to a volume of another worker's to ask what has changed since a mark.
    ///
    /// # Errors
    /// As [`BlockClient::connect`].
    pub fn connect_for_changes(
        uri: &Uri,
        mark: u64,
        credentials: Option<&Credentials>,
    ) -> Result<Self, BlockError> {
        Self::connect_for(uri, &format!("{CONTEXT_DIRTY}{mark}"), credentials)
    }

    /// Connects to a sealed volume of another worker's to ask in what it differs from the copy that it was made from.
    ///
    /// # Errors
    /// As [`BlockClient::connect`].
    pub fn connect_for_base(
        uri: &Uri,
        generation: u64,
        credentials: Option<&Credentials>,
    ) -> Result<Self, BlockError> {
        Self::connect_for(uri, &format!("{CONTEXT_BASE}{generation}"), credentials)
    }

    fn over(dialled: Dialled) -> Self {
        let Dialled { wire, session } = dialled;
        Self { wire, session, input: Vec::new(), cookie: 0 }
    }

    /// Connects to the guest socket of a volume on this host.
    ///
    /// # Errors
    /// As [`BlockClient::connect`].
    pub fn connect_unix(socket: &Path) -> Result<Self, BlockError> {
        let address = ferry_nbd::Address::Unix { socket: socket.to_owned() };
        Self::connect(&Uri { address, export: String::new(), tls: false }, None)
    }

    /// Connects to the address a machine was given (`nbd+unix://…` or `nbd://…`).
    ///
    /// # Errors
    /// It is no NBD address, or as [`BlockClient::connect`].
    pub fn connect_text(uri: &str) -> Result<Self, BlockError> {
        let parsed: Uri = uri.parse().map_err(|e: ferry_nbd::UriError| {
            let cause = io::Error::new(io::ErrorKind::InvalidInput, e);
            DialError::Connect { uri: uri.to_owned(), cause }
        })?;
        Self::connect(&parsed, None)
    }

    /// How long the server may be silent while it owes an answer: after that a request fails, and the connection is of no
    /// more use. None, as at first: for ever, for a read may wait for a source that is away.
    ///
    /// # Errors
    /// The system refuses.
    pub fn set_patience(&self, patience: Option<Duration>) -> Result<(), BlockError> {
        Ok(self.wire.set_patience(patience)?)
    }

    /// Size of the export in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.session.export().size_bytes
    }

    /// Fills `bytes` from `offset`.
    ///
    /// # Errors
    /// The connection broke or the server refuses.
    pub fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), BlockError> {
        let Some(range) = ByteRange::new(offset, bytes.len() as u64) else { return Ok(()) };
        self.send(Command::Read { range, dont_fragment: false }, &[])?;
        let take_data = |wire: Option<&mut Wire>, input: &mut Vec<u8>, piece: ByteRange| {
            let at = (piece.offset() - offset) as usize;
            let target = &mut bytes[at..at + piece.len_bytes() as usize];
            match wire {
                Some(wire) => {
                    let here = target.len().min(input.len());
                    target[..here].copy_from_slice(&input[..here]);
                    input.drain(..here);
                    wire.read_exact(&mut target[here..])
                }
                None => {
                    target.fill(0);
                    Ok(())
                }
            }
        };
        self.finish(take_data, |_| {})
    }

    /// What a context that was agreed on says from `offset` on, as much as one answer holds; none without the context.
    ///
    /// # Errors
    /// The connection broke or the server refuses.
    pub(crate) fn block_status(
        &mut self,
        context: &str,
        offset: u64,
    ) -> Result<Option<Vec<Extent>>, BlockError> {
        if self.session.context_id(context).is_none() {
            return Ok(None);
        }
        let unit = u64::from(self.session.export().block_sizes.minimum.max(1));
        let most = self.session.range_bytes_max() - self.session.range_bytes_max() % unit;
        let len = self.size_bytes().saturating_sub(offset).min(most);
        let Some(range) = ByteRange::new(offset, len) else { return Ok(Some(Vec::new())) };
        self.send(Command::BlockStatus { range, only_one: false }, &[])?;
        let mut found = Vec::new();
        self.finish(no_data, |extents| found.extend(extents))?;
        Ok(Some(found))
    }

    /// What may have changed since a mark, in order; none if the export has no such mark. The client was connected by
    /// [`BlockClient::connect_for_changes`].
    ///
    /// # Errors
    /// The connection broke or the server refuses.
    pub fn changes(&mut self, mark: u64) -> Result<Option<Vec<ByteRange>>, BlockError> {
        let mut changes = Vec::new();
        let is_told = self.each_change(&format!("{CONTEXT_DIRTY}{mark}"), |range| changes.push(range))?;
        Ok(is_told.then_some(changes))
    }

    /// Tells each range in which the export may differ from the copy of a generation that it was made from, in order; false if
    /// it does not know. The client was connected by [`BlockClient::connect_for_base`].
    ///
    /// # Errors
    /// The connection broke or the server refuses.
    pub fn each_difference(
        &mut self,
        generation: u64,
        tell: impl FnMut(ByteRange),
    ) -> Result<bool, BlockError> {
        self.each_change(&format!("{CONTEXT_BASE}{generation}"), tell)
    }

    fn each_change(&mut self, context: &str, mut tell: impl FnMut(ByteRange)) -> Result<bool, BlockError> {
        let mut at = 0;
        while at < self.size_bytes() {
            let Some(extents) = self.block_status(context, at)? else { return Ok(false) };
            let from = at;
            for extent in extents {
                let len = extent.len_bytes.min(self.size_bytes() - at);
                let range = ByteRange::new(at, len).filter(|_| extent.flags & STATE_CHANGED != 0);
                range.into_iter().for_each(&mut tell);
                at += len;
            }
            if at == from {
                return Err(io::Error::from(io::ErrorKind::InvalidData).into());
            }
        }
        Ok(true)
    }

    /// Writes `bytes` at `offset`. Durable only after a [`BlockClient::flush`].
    ///
    /// # Errors
    /// The connection broke or the server refuses.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), BlockError> {
        let Some(range) = ByteRange::new(offset, bytes.len() as u64) else { return Ok(()) };
        self.send(Command::Write { range, fua: false }, bytes)?;
        self.finish(no_data, |_| {})
    }

    /// Makes `len_bytes` from `offset` zero, without sending them. Durable only after a [`BlockClient::flush`].
    ///
    /// # Errors
    /// The connection broke or the server refuses.
    pub fn write_zeroes(&mut self, offset: u64, len_bytes: u64) -> Result<(), BlockError> {
        let Some(range) = ByteRange::new(offset, len_bytes) else { return Ok(()) };
        self.send(Command::WriteZeroes { range, fua: false, no_hole: false, fast: false }, &[])?;
        self.finish(no_data, |_| {})
    }

    /// Says that `len_bytes` from `offset` are not needed: our own servers then read them as zeroes.
    ///
    /// # Errors
    /// The connection broke or the server refuses.
    pub fn trim(&mut self, offset: u64, len_bytes: u64) -> Result<(), BlockError> {
        let Some(range) = ByteRange::new(offset, len_bytes) else { return Ok(()) };
        self.send(Command::Trim { range, fua: false }, &[])?;
        self.finish(no_data, |_| {})
    }

    /// Makes all answered writes durable.
    ///
    /// # Errors
    /// The connection broke or the server failed.
    pub fn flush(&mut self) -> Result<(), BlockError> {
        self.send(Command::Flush, &[])?;
        self.finish(no_data, |_| {})
    }

    fn send(&mut self, command: Command, payload: &[u8]) -> Result<(), BlockError> {
        self.cookie += 1;
        let mut message = Vec::with_capacity(64 + payload.len());
        self.session.request(self.cookie, command, &mut message)?;
        message.extend_from_slice(payload);
        Ok(self.wire.write_all(&message)?)
    }

    /// Reads until the request is done; `take` gets each piece of data (with the stream) or hole (without), `tell` the
    /// extents of a block status.
    fn finish(
        &mut self,
        mut take: impl FnMut(Option<&mut Wire>, &mut Vec<u8>, ByteRange) -> io::Result<()>,
        mut tell: impl FnMut(Vec<Extent>),
    ) -> Result<(), BlockError> {
        let mut chunk = vec![0; REPLY_BUFFER_BYTES];
        loop {
            let progress = self.session.advance(&self.input)?;
            self.input.drain(..progress.consumed);
            match progress.event {
                Some(Event::Data { range, .. }) => take(Some(&mut self.wire), &mut self.input, range)?,
                Some(Event::Hole { range, .. }) => take(None, &mut self.input, range)?,
                Some(Event::BlockStatus { extents, .. }) => tell(extents),
                Some(Event::Done { result: Ok(()), .. }) => return Ok(()),
                Some(Event::Done { result: Err(failure), .. }) => {
                    return Err(BlockError::Failed { errno: failure.errno, message: failure.message });
                }
                None => {
                    let count = self.wire.read(&mut chunk)?;
                    if count == 0 {
                        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                    }
                    self.input.extend_from_slice(&chunk[..count]);
                }
            }
        }
    }
}

/// Nobody asked for data.
fn no_data(_: Option<&mut Wire>, _: &mut Vec<u8>, _: ByteRange) -> io::Result<()> {
    Err(io::ErrorKind::InvalidData.into())
}

impl Drop for BlockClient {
    fn drop(&mut self) {
        let mut message = Vec::new();
        if self.session.request(self.cookie + 1, Command::Disconnect, &mut message).is_ok() {
            // A courtesy; the server notices the close as well.
            let _ = self.wire.write_all(&message);
        }
    }
}
