//! What clients of a server were promised: entries that it must still have.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;

/// A write: which client, and its number.
pub type Entry = (i64, i64);

/// A connection by which a ledger is kept.
pub trait Ledger: Sized {
    /// Connects, and returns when the server takes writes.
    fn open(at: SocketAddr) -> io::Result<Self>;
    /// Adds an entry; once this has returned it is durable.
    fn put(&mut self, entry: Entry) -> io::Result<()>;
    /// All that there are.
    fn entries(&mut self) -> io::Result<BTreeSet<Entry>>;
}

/// An entry as text.
pub fn entry_of(text: &str) -> Entry {
    let (client, number) = text.split_once(' ').unwrap();
    (client.parse().unwrap(), number.parse().unwrap())
}
