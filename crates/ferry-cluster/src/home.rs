//! Where all of a worker's part in a cluster lies: `STATE_DIR/cluster/`, drawn in docs/formats.md.
//!
//! ```text
//!  roster.json          the newest roster, signed
//!  gossip-keys.json     by what members know each other's whispers
//!  tls/                 the five files of `ferry_volume::Credentials`
//!  ca-key.pem           the authority's key      ┐ only on the keeper
//!  ledger.json          what was given out       ┘
//! ```
//!
//! Invariant: the directory is there as a whole or not at all, and each file in it is replaced as a whole, durably.

use crate::authority::{Authority, AuthorityError, AuthorityKey, KeyError, WorkerKey};
use crate::identity::{Identity, NotAnIdentity};
use crate::ledger::Ledger;
use crate::roster::{Offered, Roster, Stranger};
use crate::signed::{self, NotBelieved};
use ferry_api::{GossipKey, Membership, SignedRoster};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const DIR: &str = "cluster";
/// Where it is made before it is there.
const DIR_MAKING: &str = "cluster.new";
/// Where a joiner keeps its key until it has joined.
const DIR_JOINING: &str = "cluster-joining";
const TLS_DIR: &str = "tls";
const AUTHORITY_KEY: &str = "ca-key.pem";
const ROSTER: &str = "roster.json";
const GOSSIP_KEYS: &str = "gossip-keys.json";
const LEDGER: &str = "ledger.json";
/// How many keys of gossip are kept: the newest, and the one before it, which others may still use.
pub(crate) const GOSSIP_KEYS_MAX: usize = 2;
/// The form of what is sealed here.
const FORM: u32 = 1;

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The system refuses.
    #[error("cannot {doing} {}; check that the agent may do that", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// A file is damaged.
    #[error("{} is damaged; restore {} from a backup, or move it away and join again", path.display(), dir.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The directory.
        dir: PathBuf,
    },
    /// The worker belongs to a cluster.
    #[error("this worker belongs to cluster {cluster} already; to leave it, have it revoked there and move {} away", dir.display())]
    There {
        /// The cluster's id.
        cluster: String,
        /// The directory.
        dir: PathBuf,
    },
    /// The roster is not believed.
    #[error(transparent)]
    Roster(#[from] NotBelieved),
    /// The certificate is not that of a worker.
    #[error(transparent)]
    Identity(#[from] NotAnIdentity),
    /// The authority cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Something that was written by us and is for us only, with a checksum.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    form: u32,
    crc32c: u32,
    body: String,
}

/// The directory of a worker's part in a cluster.
#[derive(Clone, Debug)]
pub struct Home {
    state_dir: PathBuf,
}

/// What a worker has of its cluster.
#[derive(Debug)]
pub struct Papers {
    home: Home,
    /// Whom it believes.
    pub authority: AuthorityKey,
    /// Who it is.
    pub identity: Identity,
    /// Who belongs to the cluster.
    pub roster: Roster,
    /// The same, signed.
    pub signed: SignedRoster,
    /// The newest keys of gossip, the newest first.
    pub gossip_keys: Vec<GossipKey>,
}

/// What a worker needs to begin with.
#[derive(Debug)]
pub struct Founding<'a> {
    /// The authority's certificate (PEM).
    pub authority: &'a str,
    /// The authority's key (PEM), on the keeper.
    pub authority_key: Option<&'a str>,
    /// The worker's certificate, and the authority's (PEM).
    pub certificate: &'a str,
    /// The worker's key (PEM).
    pub key: &'a str,
    /// Who belongs to the cluster.
    pub membership: &'a Membership,
}

impl Home {
    /// That in a state directory.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned() }
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.state_dir.join(DIR)
    }

    /// The directory of certificates, as volume servers, QEMU and libnbd take it.
    #[must_use]
    pub fn tls_dir(&self) -> PathBuf {
        self.dir().join(TLS_DIR)
    }

    /// Whether the worker belongs to a cluster.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.dir().exists()
    }

    /// What the worker has of its cluster; none if it belongs to none.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub fn papers(&self) -> Result<Option<Papers>, HomeError> {
        if !self.is_there() {
            return Ok(None);
        }
        let authority = AuthorityKey::from_pem(&self.read(&self.tls_dir().join("ca-cert.pem"))?)?;
        let path = self.tls_dir().join("client-cert.pem");
        let leaf = CertificateDer::from_pem_slice(self.read(&path)?.as_bytes());
        let identity = Identity::of(&leaf.map_err(|_| self.damaged(&path))?)?;
        let path = self.dir().join(ROSTER);
        let signed: SignedRoster =
            serde_json::from_str(&self.read(&path)?).map_err(|_| self.damaged(&path))?;
        let roster = signed::open(&signed, &authority)?;
        let gossip_keys = self.open_sealed(GOSSIP_KEYS)?;
        Ok(Some(Papers { home: self.clone(), authority, identity, roster, signed, gossip_keys }))
    }

    /// The authority and what it has given out, on the keeper.
    ///
    /// # Errors
    /// They cannot be read, or are damaged.
    pub fn authority(&self) -> Result<Option<(Authority, Ledger)>, HomeError> {
        let path = self.dir().join(AUTHORITY_KEY);
        if !path.exists() {
            return Ok(None);
        }
        let certificate = self.read(&self.tls_dir().join("ca-cert.pem"))?;
        let authority = Authority::from_pem(&certificate, &self.read(&path)?)?;
        let ledger = match self.dir().join(LEDGER).exists() {
            true => self.open_sealed(LEDGER)?,
            false => Ledger::default(),
        };
        Ok(Some((authority, ledger)))
    }

    /// Makes the directory, with all that belongs in it.
    ///
    /// # Errors
    /// There is one; the system refuses.
    pub fn found(&self, with: &Founding<'_>) -> Result<(), HomeError> {
        if let Some(papers) = self.papers()? {
            let cluster = papers.roster.cluster.to_string();
            return Err(HomeError::There { cluster, dir: self.dir() });
        }
        let making = self.state_dir.join(DIR_MAKING);
        match fs::remove_dir_all(&making) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                return Err(refused("remove", &making)(cause));
            }
            Ok(()) | Err(_) => {}
        }
        let tls = making.join(TLS_DIR);
        make_private(&tls)?;
        write_new(&tls.join("ca-cert.pem"), with.authority.as_bytes())?;
        for side in ["server", "client"] {
            write_new(&tls.join(format!("{side}-cert.pem")), with.certificate.as_bytes())?;
            write_new(&tls.join(format!("{side}-key.pem")), with.key.as_bytes())?;
        }
        if let Some(key) = with.authority_key {
            write_new(&making.join(AUTHORITY_KEY), key.as_bytes())?;
        }
        write_new(&making.join(ROSTER), &json(&with.membership.roster))?;
        write_new(&making.join(GOSSIP_KEYS), &sealed(&with.membership.gossip_keys))?;
        sync_dir(&tls)?;
        sync_dir(&making)?;
        fs::rename(&making, self.dir()).map_err(refused("make", &self.dir()))?;
        sync_dir(&self.state_dir)
    }

    /// The key with which this worker joins: one that was kept from an attempt before, or a fresh one, which is kept.
    ///
    /// # Errors
    /// The system refuses.
    pub fn joining_key(&self) -> Result<WorkerKey, HomeError> {
        let path = self.state_dir.join(DIR_JOINING).join("key.pem");
        if path.exists() {
            return Ok(WorkerKey::from_pem(&self.read(&path)?)?);
        }
        let dir = self.state_dir.join(DIR_JOINING);
        make_private(&dir)?;
        let key = WorkerKey::fresh()?;
        replace(&path, key.pem().as_bytes())?;
        sync_dir(&self.state_dir)?;
        Ok(key)
    }

    /// Forgets that key: the worker has joined.
    ///
    /// # Errors
    /// The system refuses.
    pub fn joining_is_over(&self) -> Result<(), HomeError> {
        let dir = self.state_dir.join(DIR_JOINING);
        match fs::remove_dir_all(&dir) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(refused("remove", &dir)(cause)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The worker's certificate with those that signed it (PEM), and its key (PEM).
    ///
    /// # Errors
    /// They cannot be read.
    pub fn certificate_and_key(&self) -> Result<(String, String), HomeError> {
        let tls = self.tls_dir();
        Ok((self.read(&tls.join("client-cert.pem"))?, self.read(&tls.join("client-key.pem"))?))
    }

    pub(crate) fn keep_ledger(&self, ledger: &Ledger) -> Result<(), HomeError> {
        replace(&self.dir().join(LEDGER), &sealed(ledger))
    }

    fn read(&self, path: &Path) -> Result<String, HomeError> {
        fs::read_to_string(path).map_err(refused("read", path))
    }

    fn open_sealed<T: DeserializeOwned>(&self, name: &str) -> Result<T, HomeError> {
        let path = self.dir().join(name);
        let opened = serde_json::from_str::<Sealed>(&self.read(&path)?).ok();
        let opened = opened
            .filter(|sealed| sealed.form == FORM && sealed.crc32c == crc32c::crc32c(sealed.body.as_bytes()));
        let value = opened.and_then(|sealed| serde_json::from_str(&sealed.body).ok());
        value.ok_or_else(|| self.damaged(&path))
    }

    fn damaged(&self, path: &Path) -> HomeError {
        HomeError::Damaged { path: path.to_owned(), dir: self.dir() }
    }
}

impl Papers {
    /// What is told to other members.
    #[must_use]
    pub fn membership(&self) -> Membership {
        Membership { roster: self.signed.clone(), gossip_keys: self.gossip_keys.clone(), now_ms: 0 }
    }

    /// Whether this worker still belongs to the cluster, by the newest roster that it has.
    ///
    /// # Errors
    /// It does not, and why.
    pub fn standing(&self) -> Result<(), Stranger> {
        self.roster.believe(&self.identity.worker, self.identity.key).map(drop)
    }

    /// Takes what a member tells, if it is newer: durable when answered.
    ///
    /// # Errors
    /// It is not believed, or cannot be kept.
    pub fn hear(&mut self, told: &Membership) -> Result<Offered, HomeError> {
        let roster = signed::open(&told.roster, &self.authority)?;
        let offered = self.roster.judge(&roster);
        match offered {
            Offered::Newer => {
                self.keep_gossip_keys(told.gossip_keys.clone())?;
                self.keep_roster(roster, told.roster.clone())?;
            }
            Offered::Same => self.keep_gossip_keys(told.gossip_keys.clone())?,
            Offered::Older | Offered::Fork | Offered::Foreign => {}
        }
        Ok(offered)
    }

    /// Keeps a new certificate of the same key (PEM, with those that signed it).
    ///
    /// # Errors
    /// It is for another worker or key; it cannot be kept.
    pub fn keep_certificate(&mut self, pem: &str) -> Result<(), HomeError> {
        let leaf = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| NotAnIdentity::NotOne)?;
        let identity = Identity::of(&leaf)?;
        if (&identity.worker, identity.key) != (&self.identity.worker, self.identity.key) {
            return Err(NotAnIdentity::Nobody.into());
        }
        for side in ["server", "client"] {
            replace(&self.home.tls_dir().join(format!("{side}-cert.pem")), pem.as_bytes())?;
        }
        self.identity = identity;
        Ok(())
    }

    pub(crate) fn keep_roster(&mut self, roster: Roster, signed: SignedRoster) -> Result<(), HomeError> {
        replace(&self.home.dir().join(ROSTER), &json(&signed))?;
        (self.roster, self.signed) = (roster, signed);
        Ok(())
    }

    /// Keeps keys of gossip, those it has included, as far as they are the newest.
    pub(crate) fn keep_gossip_keys(&mut self, keys: Vec<GossipKey>) -> Result<(), HomeError> {
        let mut all: Vec<GossipKey> = keys.into_iter().chain(self.gossip_keys.clone()).collect();
        all.sort_by_key(|key| std::cmp::Reverse(key.version));
        all.dedup_by_key(|key| key.version);
        all.truncate(GOSSIP_KEYS_MAX);
        if all != self.gossip_keys {
            replace(&self.home.dir().join(GOSSIP_KEYS), &sealed(&all))?;
            self.gossip_keys = all;
        }
        Ok(())
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("it is plain data and always encodes")
}

fn sealed(value: &impl Serialize) -> Vec<u8> {
    let body = serde_json::to_string(value).expect("it is plain data and always encodes");
    json(&Sealed { form: FORM, crc32c: crc32c::crc32c(body.as_bytes()), body })
}

fn refused(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HomeError {
    let path = path.to_owned();
    move |cause| HomeError::Io { doing, path, cause }
}

fn make_private(dir: &Path) -> Result<(), HomeError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(refused("make", dir))
}

/// Writes a file that only its owner reads, durably but for its name.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), HomeError> {
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    open.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .map_err(refused("write", path))
}

/// Replaces a file as a whole, durably.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), HomeError> {
    let fresh = path.with_extension("new");
    write_new(&fresh, bytes)?;
    fs::rename(&fresh, path).map_err(refused("write", path))?;
    path.parent().map_or(Ok(()), sync_dir)
}

fn sync_dir(dir: &Path) -> Result<(), HomeError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(refused("write", dir))
}
