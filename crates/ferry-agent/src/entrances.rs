//! Where an agent is asked: at its socket by whoever may open that, over the network by whom it knows.
//!
//! Invariant: an agent that knows nobody is reached from its own host only, unless its configuration says otherwise.

use crate::config::Config;
use ferry_api::Gate;
use ferry_api::http::{Entrance, ServerTls};
use rustix::fs::{Gid, chown};
use std::fmt;
use std::fs::{Permissions, remove_file, rename, set_permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::{TcpSocket, UnixListener};

/// The agent's socket in its state directory.
pub const SOCKET: &str = "agent.sock";
/// What it is called until it has its permissions.
const SOCKET_NEW: &str = "agent.sock.new";
/// Where groups have their numbers.
const GROUPS: &str = "/etc/group";
/// Who may open the socket: the agent's user, and a group if there is one.
const MODE_ALONE: u32 = 0o600;
const MODE_WITH_GROUP: u32 = 0o660;
/// Connections that may wait to be taken.
const BACKLOG: u32 = 1024;

/// Why an agent is not to be asked.
#[derive(Debug, thiserror::Error)]
pub enum EntranceError {
    /// Nobody can be listened to.
    #[error("cannot listen on {address}; choose another `listen` in the configuration, or end what has it")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// Everybody could ask for everything.
    #[error(
        "the agent would obey whoever reaches {address}; join a cluster (ferry agent join), or let `listen` be an address like \
         127.0.0.1:7433, or say `insecure = true` in the configuration if nobody else reaches it"
    )]
    Exposed {
        /// The configured address.
        address: SocketAddr,
    },
    /// Everybody could read the volumes.
    #[error(
        "volumes would be read by whoever reaches {address}; join a cluster (ferry agent join), or give `tls`, or let \
         `export_listen` be an address like 127.0.0.1:0, or say `insecure = true` in the configuration"
    )]
    VolumesExposed {
        /// The configured address.
        address: SocketAddr,
    },
    /// The socket cannot be made.
    #[error("cannot make {}; make the directory writable", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The socket's group cannot be given to it.
    #[error(
        "cannot let the group '{group}' use the agent's socket; make the group, or change `socket_group` in the configuration"
    )]
    Group {
        /// The group.
        group: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
}

/// How callers over the network are known.
#[derive(Clone)]
pub struct Secured {
    /// What the agent shows, and whose certificates it verifies.
    pub tls: ServerTls,
    /// Who says who a caller is.
    pub gate: Arc<dyn Gate>,
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secured")
    }
}

/// Refuses a configuration with which strangers would be obeyed.
///
/// # Errors
/// It belongs to no cluster and listens beyond its host, and nobody said that this may be.
pub fn check(config: &Config, in_cluster: bool) -> Result<(), EntranceError> {
    if in_cluster || config.insecure {
        return Ok(());
    }
    if !config.listen.ip().is_loopback() {
        return Err(EntranceError::Exposed { address: config.listen });
    }
    if !config.export_listen.ip().is_loopback() && config.tls.is_none() {
        return Err(EntranceError::VolumesExposed { address: config.export_listen });
    }
    Ok(())
}

/// Opens the socket and the configured address; the caller holds the state directory.
///
/// # Errors
/// One of them is not to be had.
pub fn open(config: &Config, secured: Option<Secured>) -> Result<Vec<Entrance>, EntranceError> {
    let address = config.listen;
    let refused = |cause| EntranceError::Listen { address, cause };
    let port = bound(address).map_err(refused)?;
    let socket = socket(&config.state_dir, config.socket_group.as_deref())?;
    // Last, so that whoever reaches the agent over the network finds the socket there, too.
    let listener = port.listen(BACKLOG).map_err(refused)?;
    let network = match secured {
        Some(Secured { tls, gate }) => Entrance::Secured { listener, tls, gate },
        None => Entrance::Open(listener),
    };
    Ok(vec![Entrance::Local(socket), network])
}

/// A port that is ours, and at which nobody listens yet.
fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // What a killed agent's connections have left behind is not in the way.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Takes the socket away: nobody listens there any more.
pub fn close(config: &Config) {
    // The next agent puts its own in its place.
    let _ = remove_file(config.state_dir.join(SOCKET));
}

fn socket(state_dir: &Path, group: Option<&str>) -> Result<UnixListener, EntranceError> {
    let (path, new) = (state_dir.join(SOCKET), state_dir.join(SOCKET_NEW));
    let refused = |cause| EntranceError::Socket { path: path.clone(), cause };
    match remove_file(&new) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(refused(cause)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&new).map_err(refused)?;
    if let Some(group) = group {
        let given = || -> io::Result<()> { Ok(chown(&new, None, Some(number_of(group)?))?) };
        given().map_err(|cause| EntranceError::Group { group: group.to_owned(), cause })?;
    }
    let mode = if group.is_some() { MODE_WITH_GROUP } else { MODE_ALONE };
    set_permissions(&new, Permissions::from_mode(mode)).map_err(refused)?;
    // Under its name nobody finds it before only those can open it who may.
    rename(&new, &path).map_err(refused)?;
    Ok(listener)
}

/// The number of a group, which is one already or has a line in the file of groups.
fn number_of(group: &str) -> io::Result<Gid> {
    if let Ok(number) = group.parse() {
        return Ok(Gid::from_raw(number));
    }
    let groups = std::fs::read_to_string(GROUPS)?;
    let number = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, number) = (fields.next()?, fields.next()?, fields.next()?);
        if name == group { number.parse().ok() } else { None }
    });
    let none = || io::Error::new(io::ErrorKind::NotFound, format!("{GROUPS} has none of this name"));
    number.map(Gid::from_raw).ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getgid;
    use std::os::unix::fs::MetadataExt;

    fn config(lines: &str) -> Config {
        let text = format!("name = \"w1\"\nstate_dir = \"/s\"\n{lines}\n");
        Config::parse(Path::new("/etc/ferry.toml"), &text).unwrap()
    }

    #[test]
    fn an_agent_without_a_cluster_listens_beyond_its_host_only_if_that_is_said() {
        let exposed = config("listen = \"10.0.0.1:7433\"");
        let refusal = check(&exposed, false).unwrap_err().to_string();
        assert!(refusal.contains("ferry agent join") && refusal.contains("insecure = true"), "{refusal}");
        assert!(check(&exposed, true).is_ok());
        assert!(check(&config("listen = \"10.0.0.1:7433\"\ninsecure = true"), false).is_ok());
        assert!(check(&config("listen = \"127.9.9.9:7433\""), false).is_ok());
        assert!(check(&config("listen = \"[::1]:7433\""), false).is_ok());
    }

    #[test]
    fn volumes_are_read_from_other_hosts_over_tls_unless_something_else_is_said() {
        let exposed = "listen = \"127.0.0.1:7433\"\nexport_listen = \"10.0.0.1:0\"\n";
        let refusal = check(&config(exposed), false).unwrap_err().to_string();
        assert!(refusal.contains("export_listen"), "{refusal}");
        assert!(check(&config(&format!("{exposed}tls = \"/tls\"")), false).is_ok());
        assert!(check(&config(&format!("{exposed}insecure = true")), false).is_ok());
    }

    #[tokio::test]
    async fn the_socket_is_for_its_user_and_for_the_group_that_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        let path = dir.path().join(SOCKET);
        let first = socket(dir.path(), None).unwrap();
        assert_eq!(mode(&path), MODE_ALONE);
        // As an agent finds it after a crash of the former one.
        let second = socket(dir.path(), Some(&getgid().as_raw().to_string())).unwrap();
        assert_eq!(mode(&path), MODE_WITH_GROUP);
        drop(first);
        let connected = tokio::net::UnixStream::connect(&path);
        let (connected, accepted) = tokio::join!(connected, second.accept());
        assert!(connected.is_ok() && accepted.is_ok());
        let refusal = socket(dir.path(), Some("no such group")).unwrap_err();
        assert!(refusal.to_string().contains("'no such group'"), "{refusal}");
    }
}
