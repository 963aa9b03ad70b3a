//! Who a worker is to NATS servers: what its file of credentials says.
//!
//! Invariant: what the file holds is in no argument, no log and no error.

use async_nats::ConnectOptions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Largest file that is read, in bytes: a user's JWT with many permissions is a few KiB.
const BYTES_MAX: u64 = 64 * 1024;
/// What others of the host may do with a file, of its mode.
const OTHERS: u32 = 0o007;

/// Why the credentials cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialsError {
    /// There is no such file.
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// Everybody on the host may read it.
    Open {
        /// The file.
        path: PathBuf,
    },
    /// It holds something else.
    Form {
        /// The file.
        path: PathBuf,
    },
}

impl CredentialsError {
    /// What is wrong, in half a sentence.
    #[must_use]
    pub fn what(&self) -> String {
        match self {
            Self::Missing { path } => format!("there is no file {}", path.display()),
            Self::Read { path, cause } => format!("cannot read {}: {cause}", path.display()),
            Self::Open { path } => format!("{} may be used by everybody on this host", path.display()),
            Self::Form { path } => format!("{} holds no credentials", path.display()),
        }
    }

    /// What to do about it, in half a sentence.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Self::Missing { .. } => {
                "put this worker's credentials there, or correct `credentials` in [directory]".to_owned()
            }
            Self::Read { .. } => "make it readable for the agent".to_owned(),
            Self::Open { path } => format!("do: chmod 600 {}", path.display()),
            Self::Form { .. } => {
                "it is a user's .creds file, the seed of an NKey, or one line user:password".to_owned()
            }
        }
    }
}

/// What is shown to a server.
#[derive(PartialEq, Eq)]
enum Credentials<'a> {
    /// A user's JWT, and the seed that proves it.
    User,
    /// The seed of an NKey.
    Seed(&'a str),
    /// A user and a password.
    Password(&'a str, &'a str),
}

impl<'a> Credentials<'a> {
    fn of(text: &'a str) -> Option<Self> {
        if text.contains("-----BEGIN NATS USER JWT-----") {
            return Some(Self::User);
        }
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let (line, None) = (lines.next()?, lines.next()) else { return None };
        match line.split_once(':') {
            Some((user, password)) if !user.is_empty() => Some(Self::Password(user, password)),
            Some(_) => None,
            None => line.starts_with("SU").then_some(Self::Seed(line)),
        }
    }
}

/// How a server is connected to with what is in that file.
///
/// # Errors
/// It cannot be read, others may read it, or it holds something else.
pub(super) fn options(path: &Path) -> Result<ConnectOptions, CredentialsError> {
    let path = path.to_owned();
    let looked = std::fs::metadata(&path).and_then(|meta| match meta.len() {
        0..=BYTES_MAX => Ok((meta.permissions().mode(), std::fs::read_to_string(&path)?)),
        more => Err(io::Error::other(format!("it has {more} bytes, and at most {BYTES_MAX} are read"))),
    });
    let (mode, text) = match looked {
        Ok(looked) => looked,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CredentialsError::Missing { path });
        }
        Err(error) => return Err(CredentialsError::Read { path, cause: error.to_string() }),
    };
    if mode & OTHERS != 0 {
        return Err(CredentialsError::Open { path });
    }
    match Credentials::of(&text) {
        Some(Credentials::User) => {
            ConnectOptions::with_credentials(&text).map_err(|_| CredentialsError::Form { path })
        }
        Some(Credentials::Seed(seed)) => Ok(ConnectOptions::with_nkey(seed.to_owned())),
        Some(Credentials::Password(user, password)) => {
            Ok(ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned()))
        }
        None => Err(CredentialsError::Form { path }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str, mode: u32) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nats.creds");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        options(&path).err().map_or_else(String::new, |error| format!("{}; {}", error.what(), error.advice()))
    }

    #[test]
    fn a_file_holds_a_user_a_seed_or_a_password() {
        assert!(Credentials::of("# ours\nme:se:cret\n") == Some(Credentials::Password("me", "se:cret")));
        assert!(Credentials::of(" SUAB \n") == Some(Credentials::Seed("SUAB")));
        assert!(Credentials::of("-----BEGIN NATS USER JWT-----\nx\n") == Some(Credentials::User));
        for none in ["", "one", ":x", "a:b\nc:d", "SAAB"] {
            assert!(Credentials::of(none).is_none(), "{none}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_or_that_holds_something_else_is_refused_without_telling_what() {
        assert_eq!(said("me:secret", 0o600), "");
        let open = said("me:secret", 0o604);
        assert!(open.contains("chmod 600") && !open.contains("secret"), "{open}");
        let other = said("secret", 0o600);
        assert!(other.contains("holds no credentials") && !other.contains("secret"), "{other}");
        let half = said("-----BEGIN NATS USER JWT-----\nsecret\n------END NATS USER JWT------\n", 0o600);
        assert!(half.contains("holds no credentials") && !half.contains("secret"), "{half}");
        assert!(said(&"x".repeat(70_000), 0o600).contains("at most 65536 are read"));
        let missing = options(Path::new("/not/there")).err().unwrap();
        assert_eq!(missing.what(), "there is no file /not/there");
    }
}
