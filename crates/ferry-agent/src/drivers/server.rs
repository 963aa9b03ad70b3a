//! Starting volume servers.

use ferry_volume::directory;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Why a volume server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The agent does not know its own program.
    #[error("the agent cannot tell which program it is")]
    WhoAmI(#[source] io::Error),
    /// The log cannot be opened.
    #[error("cannot open {}", path.display())]
    Log {
        /// The log file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The program cannot be started.
    #[error("cannot start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
}

/// How a volume server is started: a program and its first arguments; `--dir DIR` follows them, and `--tls DIR` if it has
/// certificates.
#[derive(Clone, Debug)]
pub struct Launcher {
    program: PathBuf,
    args: Vec<String>,
    tls: Option<PathBuf>,
}

impl Launcher {
    /// `PROGRAM volume-server --dir DIR`.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: vec!["volume-server".to_owned()], tls: None }
    }

    /// The program that runs now.
    ///
    /// # Errors
    /// The system does not say which that is.
    pub fn this_program() -> Result<Self, LaunchError> {
        std::env::current_exe().map(Self::new).map_err(LaunchError::WhoAmI)
    }

    /// Another program with first arguments of its own (for tests).
    pub fn with_args(program: impl Into<PathBuf>, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { program: program.into(), args: args.into_iter().map(Into::into).collect(), tls: None }
    }

    /// The program, which is also that of machines that have namespaces of their own.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The same, with a directory of certificates.
    #[must_use]
    pub fn with_tls(self, tls: Option<PathBuf>) -> Self {
        Self { tls, ..self }
    }

    /// Starts the server of the volume in `dir` in a process group of its own, with its output in the volume's
    /// log. Tells its process number. A second server of the same volume ends by itself: the directory is locked.
    ///
    /// # Errors
    /// The log cannot be opened or the program cannot be started.
    pub fn launch(&self, dir: &Path) -> Result<u32, LaunchError> {
        let path = dir.join(directory::SERVER_LOG);
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log_failed = |cause| LaunchError::Log { path: path.clone(), cause };
        let log = log.map_err(log_failed)?;
        let tls = self.tls.iter().flat_map(|dir| [OsStr::new("--tls"), dir.as_os_str()]);
        let child = Command::new(&self.program)
            .args(&self.args)
            .arg("--dir")
            .arg(dir)
            .args(tls)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(log_failed)?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(|cause| LaunchError::Start { program: self.program.clone(), cause })?;
        Ok(child.id())
    }
}
