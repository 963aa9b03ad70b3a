//! A database that notes what it was promised: SQLite, each commit durable (`synchronous=FULL`) before its number goes to a diary
//! that lies outside its volume, and each start looks for all that the diary says.
//!
//! Invariant: a line `ack N` is written after commit N has returned, and never otherwise; `found N` once all up to N were found.

use rusqlite::{Connection, params};
use std::convert::Infallible;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// In its environment: its diary, and the directory that its volume is mounted at.
pub const DIARY: &str = "FERRY_GUEST_DIARY";
pub const DISK: &str = "FERRY_GUEST_DISK";
/// How a line of the diary begins that says what is not as it was promised.
pub const WRONG: &str = "wrong ";
/// Who counts its own commits, by turns: so a commit changes two places or none.
const COUNTERS: i64 = 16;
const SCHEMA: &str = "
    CREATE TABLE counters (id INTEGER PRIMARY KEY, commits INTEGER NOT NULL);
    CREATE TABLE commits (id INTEGER PRIMARY KEY, content BLOB NOT NULL);
    CREATE TABLE room (bytes BLOB);";

/// How much it does.
pub struct Work {
    /// Room that the database takes at its beginning, so that its file does not grow later, in bytes.
    pub room_bytes: i64,
    /// Between two commits.
    pub pause: Duration,
}

/// Is the database, as its environment says; never ends by itself.
pub fn live(how: &Work) -> ! {
    let told = |name| std::env::var_os(name).map(PathBuf::from).expect("the machine says where");
    let (path, disk) = (told(DIARY), told(DISK));
    let mut diary = File::options().create(true).append(true).open(&path).unwrap();
    let Err(error) = work(how, (&disk, &path), &mut diary);
    note(&mut diary, &format!("{WRONG}{error}")).unwrap();
    panic!("{error}");
}

fn work(work: &Work, (disk, path): (&Path, &Path), diary: &mut File) -> Result<Infallible, String> {
    let text = |error: rusqlite::Error| error.to_string();
    let mut database = open(disk, work.room_bytes).map_err(text)?;
    let mut last = check(&database, acknowledged(path)).map_err(text)??;
    note(diary, &format!("found {last}"))?;
    loop {
        last += 1;
        commit(&mut database, last).map_err(text)?;
        note(diary, &format!("ack {last}"))?;
        std::thread::sleep(work.pause);
    }
}

/// A line in one call, so that a kill leaves all of it or nothing.
fn note(diary: &mut File, line: &str) -> Result<(), String> {
    diary.write_all(format!("{line}\n").as_bytes()).map_err(|error| error.to_string())
}

/// Opens the database below `disk`, and makes it there if there is none.
pub fn open(disk: &Path, room_bytes: i64) -> rusqlite::Result<Connection> {
    let mut database = Connection::open(disk.join("database"))?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    database.pragma_update(None, "synchronous", "FULL")?;
    let begin = database.transaction()?;
    if begin.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))? {
        begin.execute_batch(SCHEMA)?;
        begin.execute("INSERT INTO room VALUES (randomblob(?1))", [room_bytes])?;
        begin.execute("DELETE FROM room", [])?;
        for id in 0..COUNTERS {
            begin.execute("INSERT INTO counters VALUES (?1, 0)", [id])?;
        }
    }
    begin.commit()?;
    Ok(database)
}

/// Makes commit `id`, durably.
pub fn commit(database: &mut Connection, id: i64) -> rusqlite::Result<()> {
    let both = database.transaction()?;
    both.execute("INSERT INTO commits VALUES (?1, ?2)", params![id, content(id)])?;
    both.execute("UPDATE counters SET commits = commits + 1 WHERE id = ?1", [id % COUNTERS])?;
    both.commit()
}

/// What commit `id` writes: of different lengths, and no two the same.
fn content(id: i64) -> Vec<u8> {
    let word = id.wrapping_mul(0x5851_f42d_4c95_7f2d).to_be_bytes();
    word.iter().copied().cycle().take(16 + usize::from(word[0])).collect()
}

/// The last commit that the diary says was acknowledged.
pub fn acknowledged(diary: &Path) -> i64 {
    let diary = std::fs::read_to_string(diary).unwrap_or_default();
    diary.lines().filter_map(|line| line.strip_prefix("ack ")?.parse().ok()).max().unwrap_or(0)
}

/// The last commit that is there, if all is as it must be: each one up to it whole, and none missing that was
/// acknowledged.
pub fn check(database: &Connection, acknowledged: i64) -> rusqlite::Result<Result<i64, String>> {
    let said: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    let mut commits = database.prepare("SELECT id, content FROM commits ORDER BY id")?;
    let mut rows = commits.query([])?;
    let mut last = 0;
    while let Some(row) = rows.next()? {
        last += 1;
        if row.get::<_, i64>(0)? != last || row.get_ref(1)?.as_blob()? != content(last) {
            return Ok(Err(format!("commit {last} is missing or changed")));
        }
    }
    let counted: i64 = database.query_row("SELECT sum(commits) FROM counters", [], |row| row.get(0))?;
    Ok(match () {
        () if said != "ok" => Err(format!("the integrity check says {said}")),
        () if counted != last => Err(format!("{counted} commits are counted and {last} are there")),
        () if last < acknowledged => Err(format!("of {acknowledged} commits {last} are there")),
        () => Ok(last),
    })
}
