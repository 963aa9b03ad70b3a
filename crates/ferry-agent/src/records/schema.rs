//! The tables, and how records of earlier versions become those of this one.
//!
//! `user_version` counts the migrations that have been made. A migration is never changed once it was released.

use super::RecordsError;
use rusqlite::Connection;
use std::path::Path;
use std::time::Duration;

/// How long SQLite waits for a lock somebody else holds (a person with `sqlite3`).
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const MIGRATIONS: [&str; 6] = [
    "
    CREATE TABLE machines (
        id     TEXT PRIMARY KEY,
        name   TEXT NOT NULL,
        ours   INTEGER NOT NULL CHECK (ours IN (0, 1)),
        record TEXT NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX machines_name ON machines (name) WHERE ours = 1;
    CREATE TABLE volumes (
        id         TEXT NOT NULL,
        generation INTEGER NOT NULL,
        record     TEXT NOT NULL,
        PRIMARY KEY (id, generation)
    ) STRICT;
    CREATE TABLE jobs (
        id       TEXT PRIMARY KEY,
        finished INTEGER NOT NULL CHECK (finished IN (0, 1)),
        record   TEXT NOT NULL
    ) STRICT;
    CREATE TABLE journal (
        job   TEXT NOT NULL REFERENCES jobs (id),
        seq   INTEGER NOT NULL CHECK (seq >= 1),
        entry TEXT NOT NULL,
        PRIMARY KEY (job, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE crossings (
        job    TEXT PRIMARY KEY,
        record TEXT NOT NULL
    ) STRICT;
",
    "
    CREATE TABLE worker (
        one    INTEGER PRIMARY KEY CHECK (one = 1),
        record TEXT NOT NULL
    ) STRICT;
",
    "
    CREATE INDEX jobs_finished ON jobs (finished, id);
",
    "
    CREATE TABLE counts (
        line  TEXT NOT NULL,
        step  TEXT NOT NULL,
        what  TEXT NOT NULL,
        value INTEGER NOT NULL CHECK (value >= 0),
        PRIMARY KEY (line, step, what)
    ) STRICT, WITHOUT ROWID;
",
    "
    ALTER TABLE crossings ADD COLUMN is_over INTEGER AS
        (json_extract(record, '$.state') IN ('settled', 'released')) VIRTUAL;
    ALTER TABLE crossings ADD COLUMN machine TEXT AS (json_extract(record, '$.reserve.machine')) VIRTUAL;
    CREATE INDEX crossings_is_over ON crossings (is_over, job);
    CREATE INDEX crossings_machine ON crossings (machine);
",
    "
    ALTER TABLE jobs ADD COLUMN parent TEXT AS (json_extract(record, '$.parent')) VIRTUAL;
    CREATE INDEX jobs_parent ON jobs (parent);
",
];

/// Opens the file and brings it to the format of this version.
pub(super) fn open(path: &Path) -> Result<Connection, RecordsError> {
    let failed = |cause| RecordsError::Open { path: path.to_owned(), cause };
    prepare(Connection::open(path).map_err(failed)?, path)
}

/// Brings what was opened at `path` to the format of this version.
pub(super) fn prepare(mut connection: Connection, path: &Path) -> Result<Connection, RecordsError> {
    let failed = |cause| RecordsError::Open { path: path.to_owned(), cause };
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(failed)?;
    let found = check_known(&connection, path)?;
    let transaction = connection.transaction().map_err(failed)?;
    for (migration, number) in MIGRATIONS.iter().zip(1_i64..).skip_while(|(_, number)| *number <= found) {
        transaction.execute_batch(migration).map_err(failed)?;
        transaction.pragma_update(None, "user_version", number).map_err(failed)?;
    }
    transaction.commit().map_err(failed)?;
    Ok(connection)
}

/// The format of the records, if this version knows it.
pub(super) fn check_known(connection: &Connection, path: &Path) -> Result<i64, RecordsError> {
    let failed = |cause| RecordsError::Open { path: path.to_owned(), cause };
    let known = i64::try_from(MIGRATIONS.len()).expect("there are few migrations");
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    match found > known {
        true => Err(RecordsError::TooNew { path: path.to_owned(), found, known }),
        false => Ok(found),
    }
}
