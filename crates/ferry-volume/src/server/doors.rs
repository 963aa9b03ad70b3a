//! The sockets a volume server listens on, and what it offers behind each.

use crate::control::Phase;
use crate::dial::notice_dead_peers;
use crate::directory::DirectoryError;
use crate::ring::Descriptor;
use ferry_nbd::{
    CONTEXT_ALLOCATION, CONTEXT_BASE, CONTEXT_CRC32C, CONTEXT_DIRTY, CONTEXT_HEAT, ExportInfo, ExportRefusal,
    Exports,
};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::rc::Rc;

/// Through which door a peer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// The guest's unix socket.
    Guest,
    /// The TCP listener for other workers.
    Reader,
    /// The agent's control socket.
    Control,
}

/// Listens on a unix socket that only our own user may connect to, replacing a dead server's.
pub(crate) fn listen_unix(path: &Path) -> Result<OwnedFd, DirectoryError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(DirectoryError::io("remove", path)(e));
        }
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(DirectoryError::io("listen on", path))?;
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, private).map_err(DirectoryError::io("protect", path))?;
    Ok(listener.into())
}

/// Listens for other workers.
pub(crate) fn listen_tcp(address: SocketAddr) -> std::io::Result<(Descriptor, SocketAddr)> {
    let listener = TcpListener::bind(address)?;
    let bound = listener.local_addr()?;
    Ok((Rc::new(OwnedFd::from(listener)), bound))
}

/// Makes a connection from another worker answer quickly and notice a dead peer.
pub(crate) fn tune_tcp(socket: &OwnedFd) -> std::io::Result<()> {
    rustix::net::sockopt::set_tcp_nodelay(socket, true)?;
    notice_dead_peers(socket)
}

/// What a volume offers to those who come through a door, as things stand.
pub(crate) struct Offer {
    pub(crate) door: Door,
    pub(crate) id: String,
    pub(crate) generation: u64,
    pub(crate) size_bytes: u64,
    /// Name and size in bytes of each snapshot.
    pub(crate) snapshots: Vec<(String, u64)>,
    pub(crate) phase: Phase,
    /// Other workers may read it while its guest writes.
    pub(crate) is_live: bool,
    /// The marks that are kept.
    pub(crate) marks: Vec<u64>,
    /// The generation of the copy that it was made from, if it is known in what it differs from that.
    pub(crate) born_from: Option<u64>,
    /// Who may read over TLS, by what certificates name; none: whoever has one.
    pub(crate) readers: Option<Vec<String>>,
}

/// Whether an export's name is that of a snapshot of a volume of ours (see [`Offer::snapshot_name`]).
pub(crate) fn is_snapshot(export: &str) -> bool {
    export
        .split_once('~')
        .is_some_and(|(volume, id)| volume.contains('@') && id.parse::<ulid::Ulid>().is_ok())
}

impl Offer {
    /// The name under which other workers know this copy of the volume: a stale reader cannot even open it.
    pub(crate) fn export_name(&self) -> String {
        format!("{}@{}", self.id, self.generation)
    }

    /// The name of a snapshot of it, for those who read that.
    fn snapshot_name(&self, id: &str) -> String {
        format!("{}~{id}", self.export_name())
    }

    fn find_snapshot(&self, name: &str) -> Result<ExportInfo, ExportRefusal> {
        let found = self.snapshots.iter().find(|(id, _)| self.snapshot_name(id) == name);
        let Some(&(_, size_bytes)) = found else {
            return Err(ExportRefusal::Unknown(format!(
                "there is no snapshot {name} (any more): it was forgotten, or its server ended; fork again"
            )));
        };
        Ok(ExportInfo { size_bytes, ..self.info(name, true) })
    }

    /// The name under which they know it while its guest may write.
    pub(crate) fn live_name(&self) -> String {
        format!("{}+live", self.export_name())
    }

    fn info(&self, name: &str, read_only: bool) -> ExportInfo {
        let mut contexts = vec![CONTEXT_ALLOCATION.to_owned()];
        if self.door == Door::Reader {
            let live = name == self.live_name();
            contexts.extend((!live).then(|| CONTEXT_CRC32C.to_owned()));
            contexts.push(CONTEXT_HEAT.to_owned());
            // Of what a snapshot holds nothing changes.
            let marks = self.marks.iter().filter(|_| !name.contains('~'));
            contexts.extend(marks.map(|mark| format!("{CONTEXT_DIRTY}{mark}")));
            // What is not sealed may differ in more a moment later.
            let born_from = self.born_from.filter(|_| name == self.export_name());
            contexts.extend(born_from.map(|generation| format!("{CONTEXT_BASE}{generation}")));
        }
        ExportInfo {
            description: format!("Ferry volume {} at generation {}", self.id, self.generation),
            read_only,
            can_multi_conn: true,
            contexts,
            ..ExportInfo::new(name, self.size_bytes)
        }
    }
}

impl Exports for Offer {
    fn list(&self) -> Vec<String> {
        let snapshots = self.snapshots.iter().map(|(id, _)| self.snapshot_name(id));
        let live = self.is_live.then(|| self.live_name());
        match (self.door, self.phase) {
            (Door::Reader, Phase::Sealed) => {
                std::iter::once(self.export_name()).chain(live).chain(snapshots).collect()
            }
            (Door::Reader, Phase::Open) => live.into_iter().chain(snapshots).collect(),
            (Door::Guest, Phase::Open | Phase::Sealed) => vec![self.id.clone()],
            (Door::Guest | Door::Reader, Phase::Standby) | (Door::Control, _) => Vec::new(),
        }
    }

    fn find(&self, name: &str) -> Result<ExportInfo, ExportRefusal> {
        if self.door == Door::Reader && name.contains('~') {
            return self.find_snapshot(name);
        }
        let known = match self.door {
            Door::Guest => name.is_empty() || name == self.id,
            Door::Reader => name == self.export_name() || (self.is_live && name == self.live_name()),
            Door::Control => false,
        };
        if !known {
            return Err(ExportRefusal::Unknown(format!("there is no export {name:?} here")));
        }
        match (self.door, self.phase) {
            (_, Phase::Standby) => {
                Err(ExportRefusal::Policy(format!("volume {} is not this worker's yet", self.id)))
            }
            (Door::Reader, Phase::Open) if self.is_live && name == self.live_name() => {
                Ok(self.info(name, true))
            }
            (Door::Reader, Phase::Open) => Err(ExportRefusal::Policy(format!(
                "volume {} is not sealed: its guest may still write",
                self.id
            ))),
            (Door::Guest, Phase::Open) => Ok(self.info(name, false)),
            (Door::Guest | Door::Reader | Door::Control, Phase::Open | Phase::Sealed) => {
                Ok(self.info(name, true))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(door: Door, phase: Phase) -> Offer {
        let snapshots = vec![("S".to_owned(), 2048)];
        Offer {
            door,
            id: "V".to_owned(),
            generation: 3,
            size_bytes: 4096,
            snapshots,
            phase,
            is_live: false,
            marks: Vec::new(),
            born_from: None,
            readers: None,
        }
    }

    #[test]
    fn while_it_is_asked_for_a_volume_that_changes_may_be_read_under_a_name_of_its_own() {
        for phase in [Phase::Open, Phase::Sealed] {
            assert!(offer(Door::Reader, phase).find("V@3+live").is_err());
            let live = Offer { is_live: true, marks: vec![2, 7], ..offer(Door::Reader, phase) };
            let info = live.find("V@3+live").unwrap();
            assert!(info.read_only);
            assert!(
                !info.contexts.iter().any(|context| context == CONTEXT_CRC32C),
                "it may change meanwhile"
            );
            assert!(info.contexts.iter().any(|context| context == "ferry:dirty:7"));
            assert!(live.find("V@2+live").is_err());
            assert_eq!(live.find("V@3").is_ok(), phase == Phase::Sealed);
        }
        let early = Offer { is_live: true, ..offer(Door::Reader, Phase::Standby) };
        assert!(early.find("V@3+live").is_err());
    }

    #[test]
    fn only_what_is_sealed_tells_what_it_differs_in_from_what_it_was_made_from() {
        let born = Offer { born_from: Some(2), is_live: true, ..offer(Door::Reader, Phase::Sealed) };
        let tells = |offer: &Offer, name| {
            offer.find(name).unwrap().contexts.iter().any(|context| context == "ferry:base:2")
        };
        assert!(tells(&born, "V@3"));
        assert!(!tells(&born, "V@3+live") && !tells(&born, "V@3~S"));
        assert!(!tells(&offer(Door::Reader, Phase::Sealed), "V@3"));
        assert!(!tells(&Offer { door: Door::Guest, ..born }, "V"));
    }

    #[test]
    fn another_worker_may_only_open_a_sealed_volume_at_its_very_generation() {
        assert!(offer(Door::Reader, Phase::Sealed).find("V@3").unwrap().read_only);
        assert!(offer(Door::Reader, Phase::Sealed).find("V@2").is_err());
        assert!(offer(Door::Reader, Phase::Sealed).find("").is_err());
        assert!(offer(Door::Reader, Phase::Open).find("V@3").is_err());
    }

    #[test]
    fn a_snapshot_is_read_while_the_volume_is_open_and_by_its_very_name() {
        let offer = offer(Door::Reader, Phase::Open);
        assert_eq!(offer.list(), ["V@3~S"]);
        let found = offer.find("V@3~S").unwrap();
        assert!(found.read_only && found.size_bytes == 2048);
        for name in ["V@2~S", "V@3~T", "V@3~", "~S"] {
            let refusal = offer.find(name).unwrap_err();
            assert!(matches!(&refusal, ExportRefusal::Unknown(why) if why.contains("fork again")), "{name}");
        }
    }

    #[test]
    fn a_guest_writes_to_an_open_volume_only() {
        assert!(!offer(Door::Guest, Phase::Open).find("").unwrap().read_only);
        assert!(offer(Door::Guest, Phase::Sealed).find("V").unwrap().read_only);
        assert!(offer(Door::Guest, Phase::Standby).find("").is_err());
    }
}
