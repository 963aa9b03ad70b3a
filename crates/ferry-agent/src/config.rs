//! The one configuration file of an agent.
//!
//! ```toml
//! name = "w1"
//! state_dir = "/var/lib/ferry"
//! listen = "0.0.0.0:7433"         # beyond this host only if it belongs to a cluster ...
//! insecure = true                 # ... or if whoever reaches it may do everything
//! socket_group = "ferry"          # who may use STATE_DIR/agent.sock beside this user
//! advertise = "10.0.0.1"          # where other workers reach this host
//! region = "north"               # for machines that belong to one
//! labels = { disk = "nvme" }      # for machines that ask for some
//! room_bytes = 500_000_000_000    # for all volumes together; without it, what the filesystem has free
//! cpu_millis = 16_000             # for all machines together, in thousandths of a processor; without it, what the host has
//! memory_bytes = 64_000_000_000   # the same of memory
//! retention_hours = 24
//! job_retention_days = 90         # for how long it is known what became of a job ...
//! jobs_kept = 10_000              # ... and of how many jobs at most
//! moves_at_once = 64              # moves away from this worker; further ones wait in line
//! services_listen = "0.0.0.0:7434"   # where services of machines are reached; the port is for other workers (0: any free)
//! services_hold_seconds = 60      # for how long a connection waits for its machine ...
//! services_held_max = 1000        # ... and how many of one service at once
//! dns_listen = "127.0.0.1:5353"   # answers for MACHINE.ferry.internal; without it, nobody does
//! machine_routes = true           # this host has routes to machines of other workers; without it, none
//!
//! [peers]
//! w2 = "http://10.0.0.2:7433"
//!
//! [directory]                     # in a cluster that has NATS servers already: docs/directory.md
//! nats = "tls://10.0.0.9:4222"
//! ```
//!
//! Invariant: a [`Config`] can be run; everything in it was checked when the file was read.

mod nats;

pub use nats::NatsConfig;

use ferry_api::{Generation, Labels, MoveTo, Placement, RegionName, VolumeId, VolumeKey, WorkerName};
use ferry_volume::directory;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// Where an agent listens if nothing is said.
const LISTEN_DEFAULT: &str = "127.0.0.1:7433";
/// How long a source's copy is kept if nothing is said, in hours.
const RETENTION_HOURS_DEFAULT: u64 = 24;
/// For how long a job that has ended is kept if nothing is said, in days.
const JOB_RETENTION_DAYS_DEFAULT: u64 = 90;
/// How many jobs that have ended are kept at most if nothing is said.
const JOBS_KEPT_DEFAULT: u64 = 10_000;
/// How many moves away from a worker are under way at once if nothing is said.
const MOVES_AT_ONCE_DEFAULT: NonZeroUsize = NonZeroUsize::new(64).expect("it is not 0");
/// How long a connection waits for its machine if nothing is said, in seconds.
const SERVICES_HOLD_SECONDS_DEFAULT: u64 = 60;
/// How many connections of one service wait at once if nothing is said.
const SERVICES_HELD_MAX_DEFAULT: u64 = 1_000;
/// Longest generation in the name of a volume's directory that a state directory must leave room for.
const GENERATION_RESERVED: Generation = Generation(9_999_999);

/// How an agent is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The worker's name.
    pub name: WorkerName,
    /// Where the agent keeps everything; an absolute path.
    pub state_dir: PathBuf,
    /// Where the agent listens.
    pub listen: SocketAddr,
    /// Whether an agent that belongs to no cluster may listen beyond this host: whoever reaches it can do everything.
    pub insecure: bool,
    /// Which group may use the agent's socket, by name or number, beside the agent's own user.
    pub socket_group: Option<String>,
    /// Where volume servers listen for other workers; port 0 means any free one for each volume.
    pub export_listen: SocketAddr,
    /// The host under which other workers reach this one.
    pub advertise: String,
    /// The other workers, by name, with the URLs of their agents.
    pub peers: BTreeMap<WorkerName, String>,
    /// The region that the worker is in.
    pub region: Option<RegionName>,
    /// The worker's labels, for machines that ask for some.
    pub labels: Labels,
    /// Limit for all volumes together, in bytes.
    pub room_bytes: Option<u64>,
    /// What machines that come here may take of its processors all together, in thousandths of one; what the host has if none.
    pub cpu_millis: Option<u64>,
    /// The same of its memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// How long a source's copy is kept after nobody needs it, in hours.
    pub retention_hours: u64,
    /// For how long a job that has ended is kept with its journal, in days.
    pub job_retention_days: u64,
    /// How many jobs that have ended are kept at most.
    pub jobs_kept: u64,
    /// How many moves away from this worker are under way at once; further ones wait in line.
    pub moves_at_once: NonZeroUsize,
    /// Where services of machines are reached; the port is the one at which other workers hand connections on, 0 any free one.
    pub services_listen: SocketAddr,
    /// Where questions for names of machines are answered, over UDP.
    pub dns_listen: Option<SocketAddr>,
    /// Whether this host has routes to the addresses of machines of other workers.
    pub machine_routes: bool,
    /// How long a connection waits for its machine, in seconds.
    pub services_hold_seconds: u64,
    /// How many connections of one service wait at once.
    pub services_held_max: u64,
    /// Directory of certificates (see [`ferry_volume::Credentials`]); an absolute path. With it, volumes are read by
    /// other workers, and read from them, over mutual TLS only.
    pub tls: Option<PathBuf>,
    /// The bucket in which the members of a cluster tell each other who is there and has news; without it they gossip.
    pub nats: Option<NatsConfig>,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}; check the path", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// A field is wrong.
    #[error("{}:{line}: {field}{what}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The field and a colon, if it is known.
        field: String,
        /// What is wrong and what to do.
        what: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: toml::Spanned<WorkerName>,
    state_dir: toml::Spanned<PathBuf>,
    listen: Option<toml::Spanned<SocketAddr>>,
    #[serde(default)]
    insecure: bool,
    socket_group: Option<String>,
    export_listen: Option<SocketAddr>,
    advertise: Option<toml::Spanned<String>>,
    #[serde(default)]
    peers: BTreeMap<WorkerName, toml::Spanned<String>>,
    region: Option<RegionName>,
    labels: Option<toml::Spanned<Labels>>,
    room_bytes: Option<u64>,
    cpu_millis: Option<u64>,
    memory_bytes: Option<u64>,
    retention_hours: Option<u64>,
    job_retention_days: Option<u64>,
    jobs_kept: Option<u64>,
    moves_at_once: Option<NonZeroUsize>,
    services_listen: Option<SocketAddr>,
    dns_listen: Option<SocketAddr>,
    #[serde(default)]
    machine_routes: bool,
    services_hold_seconds: Option<u64>,
    services_held_max: Option<u64>,
    tls: Option<toml::Spanned<PathBuf>>,
    directory: Option<nats::Section>,
}

impl Config {
    /// Reads the configuration in a file. A relative `state_dir` is meant relative to the file.
    ///
    /// # Errors
    /// The file cannot be read, or a field is wrong: then file, line and field are named.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?;
        Self::parse(path, &text)
    }

    /// Reads the configuration `text`, which came from the file `path`.
    ///
    /// # Errors
    /// A field is wrong: then file, line and field are named.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let place = Place { path, text };
        let file: File = toml::from_str(text)
            .map_err(|e| place.wrong(e.span().map_or(0, |span| span.start), e.message().trim().to_owned()))?;
        let listen = file.listen.as_ref().map(|l| *l.get_ref());
        let listen = listen.unwrap_or_else(|| LISTEN_DEFAULT.parse().expect("the default is an address"));
        let advertise = advertise(&place, &file, listen)?;
        Ok(Self {
            state_dir: state_dir(&place, &file.state_dir)?,
            name: own_name(&place, file.name)?,
            listen,
            insecure: file.insecure,
            socket_group: file.socket_group,
            export_listen: file.export_listen.unwrap_or_else(|| SocketAddr::new(listen.ip(), 0)),
            advertise,
            peers: peers(&place, file.peers)?,
            region: file.region,
            labels: file.labels.map(|labels| few_enough(&place, labels)).transpose()?.unwrap_or_default(),
            room_bytes: file.room_bytes,
            cpu_millis: file.cpu_millis,
            memory_bytes: file.memory_bytes,
            retention_hours: file.retention_hours.unwrap_or(RETENTION_HOURS_DEFAULT),
            job_retention_days: file.job_retention_days.unwrap_or(JOB_RETENTION_DAYS_DEFAULT),
            jobs_kept: file.jobs_kept.unwrap_or(JOBS_KEPT_DEFAULT),
            moves_at_once: file.moves_at_once.unwrap_or(MOVES_AT_ONCE_DEFAULT),
            services_listen: file.services_listen.unwrap_or_else(|| SocketAddr::new(listen.ip(), 0)),
            dns_listen: file.dns_listen,
            machine_routes: file.machine_routes,
            services_hold_seconds: file.services_hold_seconds.unwrap_or(SERVICES_HOLD_SECONDS_DEFAULT),
            services_held_max: file.services_held_max.unwrap_or(SERVICES_HELD_MAX_DEFAULT),
            tls: file.tls.map(|dir| beside(&place, &dir)).transpose()?,
            nats: file.directory.map(|section| section.checked(&place)).transpose()?,
        })
    }
}

/// Where a mistake is.
struct Place<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Place<'_> {
    fn wrong(&self, at: usize, what: String) -> ConfigError {
        let before = &self.text[..at.min(self.text.len())];
        let line = before.matches('\n').count() + 1;
        let begins = before.rfind('\n').map_or(0, |newline| newline + 1);
        let content = self.text[begins..].lines().next().unwrap_or_default();
        let field = content.split_once('=').map_or("", |(key, _)| key.trim());
        if let Some(missing) = what.strip_prefix("missing field ") {
            // Nowhere in particular, so it is told for the file's beginning.
            let what = format!("the field {missing} is missing; add it");
            return ConfigError::Field { path: self.path.to_owned(), line: 1, field: String::new(), what };
        }
        let field = if field.is_empty() || what.contains(&format!("`{field}`")) {
            String::new()
        } else {
            format!("{field}: ")
        };
        ConfigError::Field { path: self.path.to_owned(), line, field, what: for_people(&what) }
    }
}

/// What the reader of the file says, in words that need no programming.
fn for_people(what: &str) -> String {
    let what = what.replace('\n', ", ");
    match what.as_str() {
        "invalid socket address syntax" => {
            "not an address with a port; write it like 127.0.0.1:7433".to_owned()
        }
        "duplicate key" => "is there a second time; keep one".to_owned(),
        _ => what
            .replace("expected path string", "expected a path in quotes")
            .replace("expected a string", "expected text in quotes")
            .replace("expected u64", "expected a whole number, 0 or more")
            .replace("expected a nonzero usize", "expected a whole number, 1 or more"),
    }
}

fn advertise(place: &Place<'_>, file: &File, listen: SocketAddr) -> Result<String, ConfigError> {
    let begins = |spanned: Option<std::ops::Range<usize>>| spanned.map_or(0, |span| span.start);
    match &file.advertise {
        Some(host) => {
            let text = host.get_ref().trim_matches(['[', ']']);
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
            let address = text.parse::<IpAddr>().is_ok();
            if text.is_empty() || !text.chars().all(plain) || (text.contains(':') && !address) {
                let what = format!(
                    "'{}' is not a host; give a name or an IP address without a port",
                    host.get_ref()
                );
                return Err(place.wrong(host.span().start, what));
            }
            Ok(if text.contains(':') { format!("[{text}]") } else { text.to_owned() })
        }
        None if listen.ip().is_unspecified() => {
            let what = format!(
                "{listen} is every address of this host; say with `advertise` which one others reach"
            );
            Err(place.wrong(begins(file.listen.as_ref().map(toml::Spanned::span)), what))
        }
        None => Ok(match listen.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        }),
    }
}

fn own_name(place: &Place<'_>, name: toml::Spanned<WorkerName>) -> Result<WorkerName, ConfigError> {
    let (at, name) = (name.span().start, name.into_inner());
    match name.as_str() == MoveTo::AUTO {
        false => Ok(name),
        true => {
            Err(place
                .wrong(at, format!("'{name}' means any worker (`ferry move --to {name}`); choose another")))
        }
    }
}

fn few_enough(place: &Place<'_>, labels: toml::Spanned<Labels>) -> Result<Labels, ConfigError> {
    let (at, labels) = (labels.span().start, labels.into_inner());
    match labels.len() {
        0..=Placement::LABELS_MAX => Ok(labels),
        count => {
            let most = Placement::LABELS_MAX;
            Err(place.wrong(at, format!("{count} labels are given and at most {most} allowed; remove some")))
        }
    }
}

/// A path that is meant relative to the file.
fn beside(place: &Place<'_>, given: &toml::Spanned<PathBuf>) -> Result<PathBuf, ConfigError> {
    let dir = place.path.parent().unwrap_or(Path::new("")).join(given.get_ref());
    std::path::absolute(dir).map_err(|e| place.wrong(given.span().start, e.to_string()))
}

fn state_dir(place: &Place<'_>, given: &toml::Spanned<PathBuf>) -> Result<PathBuf, ConfigError> {
    let wrong = |what| place.wrong(given.span().start, what);
    let dir = beside(place, given)?;
    let longest = longest_volume_dir(&dir);
    directory::check_socket_paths(&longest).map_err(|_| {
        let spare = directory::SOCKET_PATH_BYTES_MAX + dir.as_os_str().len();
        let needed = longest.join(directory::CONTROL_SOCKET).as_os_str().len();
        let (length, most) = (dir.as_os_str().len(), spare.saturating_sub(needed));
        wrong(format!(
            "{} has {length} bytes, at most {most} leave room for the sockets in it; choose a shorter path",
            dir.display()
        ))
    })?;
    Ok(dir)
}

fn peers(
    place: &Place<'_>,
    given: BTreeMap<WorkerName, toml::Spanned<String>>,
) -> Result<BTreeMap<WorkerName, String>, ConfigError> {
    given
        .into_iter()
        .map(|(name, url)| {
            let at = url.span().start;
            match ferry_api::http::Client::new(url.get_ref()) {
                Ok(client) if client.is_beyond_this_host() => Ok((name, url.into_inner())),
                Ok(_) => {
                    Err(place.wrong(at, "a socket is this host's own; give an http:// address".to_owned()))
                }
                Err(e) => Err(place.wrong(at, e.to_string())),
            }
        })
        .collect()
}

/// Whether the paths of all sockets in a state directory are short enough.
#[must_use]
pub fn sockets_fit(state_dir: &Path) -> bool {
    directory::check_socket_paths(&longest_volume_dir(state_dir)).is_ok()
}

fn longest_volume_dir(state_dir: &Path) -> PathBuf {
    volume_dir(state_dir, VolumeKey { id: VolumeId::fresh(), generation: GENERATION_RESERVED })
}

/// The directory of a copy of a volume in a state directory.
#[must_use]
pub fn volume_dir(state_dir: &Path, key: VolumeKey) -> PathBuf {
    volumes_dir(state_dir).join(key.to_string())
}

/// Where the directories of copies are in a state directory.
pub(crate) fn volumes_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("volumes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        Config::parse(Path::new("/etc/ferry.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn a_name_and_a_directory_are_enough() {
        let config =
            Config::parse(Path::new("/etc/ferry.toml"), "name = \"w1\"\nstate_dir = \"/var/lib/ferry\"");
        let config = config.unwrap();
        assert_eq!(config.listen, LISTEN_DEFAULT.parse().unwrap());
        assert_eq!(config.export_listen, "127.0.0.1:0".parse().unwrap());
        assert_eq!(config.advertise, "127.0.0.1");
        assert_eq!(config.retention_hours, 24);
        assert_eq!((config.room_bytes, config.tls, config.machine_routes), (None, None, false));
    }

    #[test]
    fn the_word_for_any_worker_is_the_name_of_none() {
        let said = refusal("name = \"auto\"\nstate_dir = \"/a\"");
        assert!(said.contains("'auto' means any worker"), "{said}");
    }

    #[test]
    fn a_worker_has_a_region_and_labels_and_not_too_many() {
        let begin = "name = \"w1\"\nstate_dir = \"/s\"\nregion = \"north\"\n";
        let text = format!("{begin}labels = {{ disk = \"nvme\" }}\n");
        let config = Config::parse(Path::new("/etc/ferry.toml"), &text).unwrap();
        assert_eq!(config.region, Some("north".parse().unwrap()));
        assert_eq!(config.labels[&"disk".parse().unwrap()], "nvme".parse().unwrap());
        let many: String = (0..=Placement::LABELS_MAX).map(|n| format!("l{n} = \"x\"\n")).collect();
        assert!(refusal(&format!("{begin}[labels]\n{many}")).contains("33 labels are given"));
    }

    #[test]
    fn a_wrong_field_is_named_with_its_file_and_line() {
        let text = "name = \"w1\"\nstate_dir = \"/s\"\nretention_days = 3\n";
        let said = refusal(text);
        assert!(said.starts_with("/etc/ferry.toml:3: unknown field `retention_days`"), "{said}");
    }

    #[test]
    fn a_wrong_value_is_named_with_its_file_line_and_field() {
        let said = refusal("name = \"w1\"\nstate_dir = \"/s\"\n\nroom_bytes = \"big\"\n");
        assert!(said.starts_with("/etc/ferry.toml:4: room_bytes: invalid type"), "{said}");
        let said = refusal("name = \"W 1\"\nstate_dir = \"/s\"\n");
        assert!(said.starts_with("/etc/ferry.toml:1: name: 'W 1' is not a name"), "{said}");
        let said = refusal("name = \"w1\"\nstate_dir = \"/s\"\n[peers]\nw2 = \"10.0.0.2:7433\"\n");
        assert!(said.starts_with("/etc/ferry.toml:4: w2: "), "{said}");
    }

    #[test]
    fn a_missing_field_is_named() {
        let said = refusal("name = \"w1\"\n");
        assert_eq!(said, "/etc/ferry.toml:1: the field `state_dir` is missing; add it");
    }

    #[test]
    fn what_is_expected_is_said_without_names_of_types() {
        let begin = "name = \"w1\"\nstate_dir = \"/s\"\n";
        for (line, part) in [
            ("listen = \"here\"", ":3: listen: not an address with a port; write it like"),
            ("room_bytes = -1", ":3: room_bytes: invalid value: integer `-1`, expected a whole number"),
            ("retention_hours = \"1d\"", "expected a whole number"),
            ("moves_at_once = 0", "expected a whole number, 1 or more"),
            ("name = \"w2\"", ":3: name: is there a second time"),
        ] {
            let said = refusal(&format!("{begin}{line}\n"));
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn a_refusal_is_one_line() {
        assert_eq!(refusal("name = \"w1\nstate_dir = 3").lines().count(), 1);
    }

    #[test]
    fn a_state_directory_too_deep_for_sockets_is_refused_with_the_limit() {
        let deep = "d".repeat(80);
        let said = refusal(&format!("name = \"w1\"\nstate_dir = \"/{deep}\"\n"));
        assert!(said.contains("state_dir: ") && said.contains("choose a shorter path"), "{said}");
        let most: usize = said.split("at most ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        let fits = format!("name = \"w1\"\nstate_dir = \"/{}\"\n", "d".repeat(most - 1));
        assert!(Config::parse(Path::new("/etc/f.toml"), &fits).is_ok());
        assert!(
            refusal(&format!("name = \"w1\"\nstate_dir = \"/{}\"\n", "d".repeat(most))).contains("shorter")
        );
    }

    #[test]
    fn listening_everywhere_needs_an_address_for_others() {
        let text = "name = \"w1\"\nstate_dir = \"/s\"\nlisten = \"0.0.0.0:7433\"\n";
        assert!(refusal(text).contains(":3: listen: "));
        let config = Config::parse(Path::new("/f"), &format!("{text}advertise = \"fd00::1\"\n")).unwrap();
        assert_eq!(config.advertise, "[fd00::1]");
    }
}
