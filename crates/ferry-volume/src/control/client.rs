//! The agent's side of the control socket: blocking, one request at a time.

use super::{Adopted, Answer, Check, LossPolicy, Losses, Receipt, Request, Status};
use crate::base::Base;
use crate::directory;
use crate::frontend::{Frontend, FrontendKind};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long one write to the control socket may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a server may take to tell its status, for which it waits for nothing: one that hangs must not keep a
/// thread of the agent's with every question.
const STATUS_TIMEOUT: Duration = Duration::from_secs(15);

/// Why a volume server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens: the volume server is not running.
    #[error("no volume server answers on {}: it is not running", path.display())]
    NotRunning {
        /// The control socket.
        path: PathBuf,
        /// What connecting gave.
        #[source]
        cause: std::io::Error,
    },
    /// The server went away, or the socket failed, before it answered.
    #[error("the volume server on {} went away before it answered", path.display())]
    Gone {
        /// The control socket.
        path: PathBuf,
        /// What reading or writing gave.
        #[source]
        cause: std::io::Error,
    },
    /// The answer was not one this version understands.
    #[error("the volume server on {} gave an answer this version does not understand: {line}", path.display())]
    Strange {
        /// The control socket.
        path: PathBuf,
        /// The line it sent.
        line: String,
    },
    /// The server understood and refused.
    #[error("{reason}")]
    Refused {
        /// What was wrong and what to do.
        reason: String,
    },
}

/// Brings what is asked to a volume server and its answer back, some other way than over its socket.
pub trait Courier: Send {
    /// One line there, one line back.
    ///
    /// # Errors
    /// The server went away before it answered.
    fn carry(&mut self, line: &str) -> std::io::Result<String>;
}

enum Wire {
    Socket(BufReader<UnixStream>),
    Other(Box<dyn Courier>),
}

/// A connection to one volume server.
pub struct Client {
    path: PathBuf,
    wire: Wire,
}

impl Client {
    /// Connects to the server of the volume in `volume_dir`.
    ///
    /// # Errors
    /// [`ControlError::NotRunning`] when nobody listens there.
    pub fn connect(volume_dir: &Path) -> Result<Self, ControlError> {
        let path = volume_dir.join(directory::CONTROL_SOCKET);
        let not_running = |cause| ControlError::NotRunning { path: path.clone(), cause };
        let stream = UnixStream::connect(&path).map_err(not_running)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT)).map_err(not_running)?;
        Ok(Self { path, wire: Wire::Socket(BufReader::new(stream)) })
    }

    /// A connection by `courier` to the server of the volume in `volume_dir`.
    #[must_use]
    pub fn by_courier(volume_dir: &Path, courier: Box<dyn Courier>) -> Self {
        Self { path: volume_dir.join(directory::CONTROL_SOCKET), wire: Wire::Other(courier) }
    }

    /// How the volume stands.
    ///
    /// # Errors
    /// As every request: the server is gone, or refuses.
    pub fn status(&mut self) -> Result<Status, ControlError> {
        self.answer_within(Some(STATUS_TIMEOUT))?;
        let answer = self.ask(&Request::Status)?;
        self.answer_within(None)?;
        let Answer::Status(status) = answer else { return Err(self.strange(&answer)) };
        Ok(*status)
    }

    /// Serves the guest from now on.
    ///
    /// # Errors
    /// Refused for a sealed volume.
    pub fn open(&mut self) -> Result<(), ControlError> {
        self.done(&Request::Open)
    }

    /// Makes durable what was written so far; returns when it is.
    ///
    /// # Errors
    /// The disk failed, or the server is gone.
    pub fn flush(&mut self) -> Result<(), ControlError> {
        self.done(&Request::Flush)
    }

    /// Makes the volume unchangeable; returns when that is durable.
    ///
    /// # Errors
    /// Refused when the last writes cannot be made durable.
    pub fn seal(&mut self) -> Result<(), ControlError> {
        self.done(&Request::Seal)
    }

    /// Takes a seal back (the undo of a move that was not handed over).
    ///
    /// # Errors
    /// The server is gone, or refuses.
    pub fn unseal(&mut self) -> Result<(), ControlError> {
        self.done(&Request::Unseal)
    }

    /// Lets other workers read the volume once it is sealed; tells where.
    ///
    /// # Errors
    /// Refused when the address cannot be bound.
    pub fn export(&mut self, listen: SocketAddr) -> Result<SocketAddr, ControlError> {
        let answer = self.ask(&Request::Export { listen, live: false })?;
        let Answer::Exported { listen } = answer else { return Err(self.strange(&answer)) };
        Ok(listen)
    }

    /// Lets other workers read the volume while its guest writes, as `ULID@GENERATION+live`; tells where. Taken back by
    /// [`Client::export`] and [`Client::withdraw`], and by a restart of the server.
    ///
    /// # Errors
    /// Refused when the address cannot be bound.
    pub fn export_live(&mut self, listen: SocketAddr) -> Result<SocketAddr, ControlError> {
        let answer = self.ask(&Request::Export { listen, live: true })?;
        let Answer::Exported { listen } = answer else { return Err(self.strange(&answer)) };
        Ok(listen)
    }

    /// Has a server that was started without certificates use those in `dir`, and answer no other worker without.
    ///
    /// # Errors
    /// Refused when they cannot be read; the server is gone.
    pub fn certify(&mut self, dir: &Path) -> Result<(), ControlError> {
        self.done(&Request::Certify { dir: dir.to_owned() })
    }

    /// Lets whoever has a certificate that names the URI `reader` read over TLS, beside those who were admitted before, until
    /// the export is taken back. Nobody else may from then on.
    ///
    /// # Errors
    /// The server is gone, or cannot note it.
    pub fn admit(&mut self, reader: &str) -> Result<(), ControlError> {
        self.done(&Request::Admit { reader: reader.to_owned() })
    }

    /// Lets whoever was admitted by that URI read no more, and drops its connections.
    ///
    /// # Errors
    /// The server is gone, or cannot note it.
    pub fn expel(&mut self, reader: &str) -> Result<(), ControlError> {
        self.done(&Request::Expel { reader: reader.to_owned() })
    }

    /// Takes the export back.
    ///
    /// # Errors
    /// The server is gone.
    pub fn withdraw(&mut self) -> Result<(), ControlError> {
        self.done(&Request::Withdraw)
    }

    /// Names the source of remote blocks (durable; the server reconnects when it differs).
    ///
    /// # Errors
    /// Refused when the URI is not one Ferry can read from.
    pub fn set_source(&mut self, uri: &str) -> Result<(), ControlError> {
        self.done(&Request::SetSource { uri: uri.to_owned() })
    }

    /// Forgets the source.
    ///
    /// # Errors
    /// Refused while blocks are still remote.
    pub fn detach_source(&mut self) -> Result<(), ControlError> {
        self.done(&Request::DetachSource)
    }

    /// Reads what the source does not differ in from `base`, from there; none: from the source only.
    ///
    /// # Errors
    /// Refused for what is another volume or generation than it says, and without a source.
    pub fn set_base(&mut self, base: Option<Base>) -> Result<(), ControlError> {
        self.done(&Request::SetBase { base })
    }

    /// Fetches only what is read, or as usual again, whatever a person has paused; a restart or an unseal forgets this.
    ///
    /// # Errors
    /// The server is gone.
    pub fn hold_hydration(&mut self, held: bool) -> Result<(), ControlError> {
        self.done(&Request::HoldHydration { held })
    }

    /// Fetches only what the guest needs from now on; a restart of the server forgets this.
    ///
    /// # Errors
    /// The server is gone.
    pub fn pause_hydration(&mut self) -> Result<(), ControlError> {
        self.done(&Request::PauseHydration)
    }

    /// Fetches in the background again.
    ///
    /// # Errors
    /// The server is gone.
    pub fn resume_hydration(&mut self) -> Result<(), ControlError> {
        self.done(&Request::ResumeHydration)
    }

    /// Fetches at most so much in the background from now on; none: as much as goes. A restart remembers it.
    ///
    /// # Errors
    /// Refused when the description of the volume cannot be written; the budget is as before then.
    pub fn set_budget(&mut self, bytes_per_s: Option<NonZeroU64>) -> Result<(), ControlError> {
        self.done(&Request::SetBudget { bytes_per_s })
    }

    /// Attaches a frontend; tells where the guest finds it, which it can use at once.
    ///
    /// # Errors
    /// Refused when the volume is not open, or this host does not offer what the frontend needs.
    pub fn attach(&mut self, frontend: &Frontend) -> Result<PathBuf, ControlError> {
        let answer = self.ask(&Request::Attach { frontend: frontend.clone() })?;
        let Answer::Attached { address } = answer else { return Err(self.strange(&answer)) };
        Ok(address)
    }

    /// Takes a frontend away; returns when it is gone.
    ///
    /// # Errors
    /// Refused when the description of the volume cannot be written.
    pub fn detach(&mut self, frontend: FrontendKind) -> Result<(), ControlError> {
        self.done(&Request::Detach { frontend })
    }

    /// Takes the volume as it is now; returns when it is taken.
    ///
    /// # Errors
    /// Refused on standby, and when there are as many snapshots as there may be.
    pub fn snapshot(&mut self, id: &str) -> Result<(), ControlError> {
        self.done(&Request::Snapshot { id: id.to_owned() })
    }

    /// Ends a snapshot.
    ///
    /// # Errors
    /// The server is gone.
    pub fn forget_snapshot(&mut self, id: &str) -> Result<(), ControlError> {
        self.done(&Request::ForgetSnapshot { id: id.to_owned() })
    }

    /// Makes the volume larger while it is in use; returns when that is durable.
    ///
    /// # Errors
    /// Refused when the volume is not open, when it would shrink, or when its disk cannot hold it.
    pub fn grow(&mut self, size_bytes: u64) -> Result<(), ControlError> {
        self.done(&Request::Grow { size_bytes })
    }

    /// Hydration shall be complete at this time (milliseconds since 1970); none: whenever it comes to be. A restart
    /// remembers it.
    ///
    /// # Errors
    /// Refused when it cannot be met as things stand, or cannot be remembered; all is as before then.
    pub fn set_finish_by(&mut self, at_ms: Option<u64>) -> Result<(), ControlError> {
        self.done(&Request::SetFinishBy { at_ms })
    }

    /// Gives the volume a share of a budget that it has together with others, for a minute or until told anew; none: no
    /// share.
    ///
    /// # Errors
    /// The server is gone.
    pub fn set_share(&mut self, bytes_per_s: Option<NonZeroU64>) -> Result<(), ControlError> {
        self.done(&Request::SetShare { bytes_per_s })
    }

    /// Holds the background back from now on while 99 of 100 requests of the guest take longer than so many microseconds;
    /// none: no guard. A restart remembers it.
    ///
    /// # Errors
    /// Refused when the description of the volume cannot be written; the guard is as before then.
    pub fn set_guard(&mut self, bound_us: Option<NonZeroU64>) -> Result<(), ControlError> {
        self.done(&Request::SetGuard { bound_us })
    }

    /// Begins to copy from the live export of a source; the status tells how far it is.
    ///
    /// # Errors
    /// Refused when the volume does not stand by, holds something as of another mark, or copies already.
    pub fn precopy(&mut self, uri: &str, mark: u64, since: Option<u64>) -> Result<(), ControlError> {
        self.done(&Request::Precopy { uri: uri.to_owned(), mark, since })
    }

    /// Keeps what was copied and is right now that the source is sealed; returns when that is durable.
    ///
    /// # Errors
    /// Refused when nothing is held as of that mark, or the source does not tell what has changed.
    pub fn adopt(&mut self, uri: &str, since: u64) -> Result<Adopted, ControlError> {
        let answer = self.ask(&Request::Adopt { uri: uri.to_owned(), since })?;
        let Answer::Adopted(adopted) = answer else { return Err(self.strange(&answer)) };
        Ok(adopted)
    }

    /// What is known of the volume as it was sealed at a generation, of some of its regions (none: of all that follow the
    /// first).
    ///
    /// # Errors
    /// Refused for this copy's own generation while it is not sealed.
    pub fn receipt(
        &mut self,
        of_generation: u64,
        first_region: u64,
        regions: Option<u64>,
    ) -> Result<Receipt, ControlError> {
        let answer = self.ask(&Request::Receipt { of_generation, first_region, regions })?;
        let Answer::Receipt(receipt) = answer else { return Err(self.strange(&answer)) };
        Ok(*receipt)
    }

    /// Checks the store anew, or tells how the check under way or the last one stands.
    ///
    /// # Errors
    /// Refused when there is nothing to hold the store against, or no check to tell of.
    pub fn verify(&mut self, anew: bool) -> Result<Check, ControlError> {
        let answer = self.ask(&Request::Verify { anew })?;
        let Answer::Check(check) = answer else { return Err(self.strange(&answer)) };
        Ok(*check)
    }

    /// Says what becomes of guest requests that wait for a source that is away. A restart remembers it.
    ///
    /// # Errors
    /// Refused when the description of the volume cannot be written; the policy is as before then.
    pub fn set_loss_policy(&mut self, policy: LossPolicy) -> Result<(), ControlError> {
        self.done(&Request::SetLossPolicy { policy })
    }

    /// Tells what giving up the source would cost. Changes nothing.
    ///
    /// # Errors
    /// The server is gone.
    pub fn losses(&mut self) -> Result<Losses, ControlError> {
        let answer = self.ask(&Request::AbandonSource { lose_bytes: None, force: false })?;
        let Answer::Losing(losses) = answer else { return Err(self.strange(&answer)) };
        Ok(losses)
    }

    /// Gives up the source for good; returns when that is durable.
    ///
    /// # Errors
    /// Refused when `lose_bytes` is not what [`Client::losses`] told, and while the source is connected unless forced.
    pub fn abandon_source(&mut self, lose_bytes: u64, force: bool) -> Result<(), ControlError> {
        self.done(&Request::AbandonSource { lose_bytes: Some(lose_bytes), force })
    }

    /// Adds a source that stands in for those before it. A restart remembers it.
    ///
    /// # Errors
    /// Refused when it is another volume or generation, when there are too many, and without a source to stand beside.
    pub fn add_source(&mut self, uri: &str) -> Result<(), ControlError> {
        self.done(&Request::AddSource { uri: uri.to_owned() })
    }

    /// Takes a source that was added away; done, too, if it is none.
    ///
    /// # Errors
    /// Refused for the source itself.
    pub fn remove_source(&mut self, uri: &str) -> Result<(), ControlError> {
        self.done(&Request::RemoveSource { uri: uri.to_owned() })
    }

    /// Sets a mark; gives its id when it is durable. Each call sets a new one.
    ///
    /// # Errors
    /// Refused when there are too many, or the disk failed.
    pub fn mark(&mut self) -> Result<u64, ControlError> {
        let answer = self.ask(&Request::Mark)?;
        let Answer::Marked { mark } = answer else { return Err(self.strange(&answer)) };
        Ok(mark)
    }

    /// Forgets a mark; done, too, if it is not kept.
    ///
    /// # Errors
    /// Refused when the disk failed.
    pub fn forget_mark(&mut self, mark: u64) -> Result<(), ControlError> {
        self.done(&Request::ForgetMark { mark })
    }

    /// Ends the server after everything is durable.
    ///
    /// # Errors
    /// The server is gone.
    pub fn shutdown(&mut self) -> Result<(), ControlError> {
        self.done(&Request::Shutdown)
    }

    fn answer_within(&self, limit: Option<Duration>) -> Result<(), ControlError> {
        match &self.wire {
            Wire::Socket(stream) => {
                stream.get_ref().set_read_timeout(limit).map_err(|cause| self.gone(cause))
            }
            Wire::Other(_) => Ok(()),
        }
    }

    fn done(&mut self, request: &Request) -> Result<(), ControlError> {
        let answer = self.ask(request)?;
        let Answer::Done = answer else { return Err(self.strange(&answer)) };
        Ok(())
    }

    fn ask(&mut self, request: &Request) -> Result<Answer, ControlError> {
        let mut line = serde_json::to_string(request).expect("requests are plain data and always encode");
        line.push('\n');
        let answer = match &mut self.wire {
            Wire::Socket(stream) => over_socket(stream, &line),
            Wire::Other(courier) => courier.carry(&line),
        };
        let answer = answer.map_err(|cause| self.gone(cause))?;
        match serde_json::from_str(&answer) {
            Ok(Answer::Refused { reason }) => Err(ControlError::Refused { reason }),
            Ok(other) => Ok(other),
            Err(_) => Err(ControlError::Strange { path: self.path.clone(), line: answer.trim().to_owned() }),
        }
    }

    fn gone(&self, cause: std::io::Error) -> ControlError {
        ControlError::Gone { path: self.path.clone(), cause }
    }

    fn strange(&self, answer: &Answer) -> ControlError {
        ControlError::Strange { path: self.path.clone(), line: format!("{answer:?}") }
    }
}

fn over_socket(stream: &mut BufReader<UnixStream>, line: &str) -> std::io::Result<String> {
    stream.get_mut().write_all(line.as_bytes())?;
    let mut answer = String::new();
    match stream.read_line(&mut answer)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(answer),
    }
}
