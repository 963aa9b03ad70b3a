//! What came of the demo: how long the machine was interrupted and by whom, what was copied, and the verdict.

use std::time::Duration;

use ferry_api::{Hydration, Job};
use serde::{Serialize, Serializer};

use super::acks::Entry;
use super::check::Verdict;
use crate::commands::job::{HYDRATE, step, took_ms};
use crate::commands::proof::{receipt_of, verdict};
use crate::output::Paint;
use crate::output::bytes::{Bytes, Span};

/// The gap in the machine's diary, and who made it.
///
/// ```text
///  last ack    stop        start    connected       found      first ack
///     |- stopping -|-- away --|- starting -|- reading -|- writing -|
/// ```
///
/// Stopping and starting are the machine's own. All the rest counts as Ferry's, also reading and writing: the blocks
/// the new incarnation reads are still on the source, and its first flush meets the disk that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Interruption {
    /// From the last record acknowledged before to the first one after.
    #[serde(rename = "total_us", serialize_with = "as_micros")]
    pub total: Duration,
    /// The machine's own stopping and starting.
    #[serde(rename = "machine_us", serialize_with = "as_micros")]
    pub machine: Duration,
    /// What Ferry adds.
    #[serde(rename = "ferry_us", serialize_with = "as_micros")]
    pub ferry: Duration,
    /// Of Ferry's: nothing of the machine runs anywhere.
    #[serde(rename = "away_us", serialize_with = "as_micros")]
    pub away: Duration,
    /// Of Ferry's: the machine reads where it left off.
    #[serde(rename = "reading_us", serialize_with = "as_micros")]
    pub reading: Duration,
    /// Of Ferry's: its first record becomes durable.
    #[serde(rename = "writing_us", serialize_with = "as_micros")]
    pub writing: Duration,
}

impl Interruption {
    /// Reads the gap from the diary: around the last incarnation that acknowledged anything.
    pub fn from_diary(entries: &[Entry]) -> Option<Self> {
        let start = entries.iter().rposition(|entry| matches!(entry, Entry::Start { .. }))?;
        let (before, after) = entries.split_at(start);
        let last_ack = before.iter().rev().find_map(ack_ns)?;
        let first_ack = after.iter().find_map(ack_ns)?;
        // A machine that was killed wrote no farewell: then it is gone from its last record on.
        let stop = before.last().and_then(stop_ns).unwrap_or(last_ack);
        let mut marks = Marks::default();
        after.iter().take_while(|entry| ack_ns(entry).is_none()).for_each(|entry| marks.note(entry));
        let (start, connected, found) = (marks.start?, marks.connected?, marks.found?);
        let between = |from: u64, to: u64| Duration::from_nanos(to.saturating_sub(from));
        let machine = between(last_ack, stop) + between(start, connected);
        let total = between(last_ack, first_ack);
        Some(Self {
            total,
            machine,
            ferry: total.saturating_sub(machine),
            away: between(stop, start),
            reading: between(connected, found),
            writing: between(found, first_ack),
        })
    }
}

#[derive(Default)]
struct Marks {
    start: Option<u64>,
    connected: Option<u64>,
    found: Option<u64>,
}

impl Marks {
    fn note(&mut self, entry: &Entry) {
        match entry {
            Entry::Start { at_ns, .. } => self.start = Some(*at_ns),
            // The first connection: what a lost one costs is not the machine's doing.
            Entry::Connected { at_ns } => self.connected = self.connected.or(Some(*at_ns)),
            Entry::Found { at_ns, .. } => self.found = Some(*at_ns),
            Entry::Ack(_) | Entry::Lost { .. } | Entry::Stop { .. } | Entry::Clash { .. } => {}
        }
    }
}

fn stop_ns(entry: &Entry) -> Option<u64> {
    if let Entry::Stop { at_ns } = entry { Some(*at_ns) } else { None }
}

fn ack_ns(entry: &Entry) -> Option<u64> {
    if let Entry::Ack(ack) = entry { Some(ack.at_ns) } else { None }
}

/// Everything the demo tells at its end; with `--json` exactly this.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// True if every acknowledged record and all filled data are there.
    pub ok: bool,
    /// Size of the volume.
    pub size_bytes: u64,
    /// Bytes that were in use on the source when the machine had left it, as the move's receipt has it.
    pub bytes_in_use: Option<u64>,
    /// Bytes that crossed from the source.
    pub bytes_copied: u64,
    /// Bytes that did not cross because they are empty.
    pub bytes_known_zero: u64,
    /// Copied bytes whose checksum was compared with the source's.
    pub bytes_verified: u64,
    /// Reads of the machine that had to wait for the source.
    pub cold_reads: u64,
    /// The gap the machine saw.
    pub interruption: Interruption,
    /// From the machine's start on the target until its disk was all there.
    #[serde(rename = "hydration_us", serialize_with = "as_micros")]
    pub hydration: Duration,
    /// What checking found.
    pub check: Verdict,
    /// The move.
    pub job: Job,
}

impl Summary {
    /// Puts together what the parts say.
    pub fn new(
        size_bytes: u64,
        hydration: Hydration,
        interruption: Interruption,
        check: Verdict,
        job: Job,
    ) -> Self {
        Self {
            ok: check.is_good(),
            size_bytes,
            bytes_in_use: bytes_in_use(&job),
            bytes_copied: hydration.bytes_fetched,
            bytes_known_zero: hydration.bytes_zero,
            bytes_verified: hydration.bytes_verified,
            cold_reads: hydration.cold_reads,
            interruption,
            hydration: step(&job, HYDRATE).and_then(took_ms).map_or(Duration::ZERO, Duration::from_millis),
            check,
            job,
        }
    }

    /// The summary for people.
    pub fn for_people(&self, paint: Paint) -> String {
        let gap = &self.interruption;
        let mut lines = vec![
            format!(
                "interruption  {} from the last record acknowledged on the source to the first on the target",
                paint.strong(&Span(gap.total).to_string())
            ),
            format!(
                "              {} of it by Ferry, {} the machine's own stop and start",
                Span(gap.ferry),
                Span(gap.machine)
            ),
            format!(
                "disk          {} copied of {} in use on a volume of {}, in {}",
                paint.strong(&Bytes(self.bytes_copied).to_string()),
                self.bytes_in_use.map_or_else(|| "what was".to_owned(), |bytes| Bytes(bytes).to_string()),
                Bytes(self.size_bytes),
                Span(self.hydration)
            ),
            format!("cold reads    {} (answered from the source while the disk followed)", self.cold_reads),
        ];
        lines.extend(receipt_of(&self.job).map(|receipt| format!("receipt       {}", verdict(&receipt))));
        lines.extend(verdict_lines(&self.check, paint));
        lines.join("\n")
    }
}

fn verdict_lines(check: &Verdict, paint: Paint) -> Vec<String> {
    let overwritten = match check.records_overwritten {
        0 => String::new(),
        count => format!(" ({count} more were replaced by later ones, as they may)"),
    };
    if check.is_good() {
        return vec![format!(
            "verdict       {} all {} acknowledged records and {} of data are there{overwritten}",
            paint.good("✓"),
            check.records_intact,
            Bytes(check.fill_bytes_checked)
        )];
    }
    let mut lines = vec![format!(
        "verdict       {} {} of {} acknowledged records and {} filled blocks are not what they must be",
        paint.bad("✗"),
        check.records_wrong,
        check.records_acknowledged,
        check.fill_blocks_wrong
    )];
    lines.extend(check.faults.iter().map(|fault| format!("              {}", fault)));
    lines
}

/// What `Verify` counted on the source.
fn bytes_in_use(job: &Job) -> Option<u64> {
    let receipt = receipt_of(job)?;
    receipt.volumes.iter().map(|volume| volume.bytes_in_use_on_source).sum()
}

fn as_micros<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(span.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::acks::Ack;

    fn ack(at_ms: u64) -> Entry {
        Entry::Ack(Ack { at_ns: at_ms * 1_000_000, number: at_ms, offset: 0, checksum: 0 })
    }

    fn ms(at_ms: u64) -> u64 {
        at_ms * 1_000_000
    }

    fn two_lives() -> Vec<Entry> {
        vec![
            Entry::Start { at_ns: ms(1), pid: 1, writer: 1 },
            Entry::Connected { at_ns: ms(2) },
            Entry::Found { at_ns: ms(3), next: 0 },
            ack(10),
            ack(20),
            Entry::Stop { at_ns: ms(22) },
            Entry::Start { at_ns: ms(52), pid: 2, writer: 2 },
            Entry::Connected { at_ns: ms(53) },
            Entry::Found { at_ns: ms(60), next: 2 },
            ack(61),
            ack(62),
        ]
    }

    #[test]
    fn the_gap_is_split_into_the_machines_part_and_ferrys() {
        let gap = Interruption::from_diary(&two_lives()).unwrap();
        assert_eq!(gap.total, Duration::from_millis(41));
        assert_eq!(gap.machine, Duration::from_millis(2 + 1));
        assert_eq!(gap.ferry, Duration::from_millis(30 + 7 + 1));
        let parts = [gap.away, gap.reading, gap.writing];
        assert_eq!(parts, [30, 7, 1].map(Duration::from_millis));
    }

    #[test]
    fn a_machine_that_was_killed_is_gone_from_its_last_record_on() {
        let mut entries = two_lives();
        entries.remove(5);
        assert_eq!(Interruption::from_diary(&entries).unwrap().away, Duration::from_millis(32));
    }

    #[test]
    fn without_a_second_life_there_is_no_interruption_to_tell() {
        let entries = two_lives();
        assert_eq!(Interruption::from_diary(&entries[..6]), None);
        assert_eq!(Interruption::from_diary(&entries[..9]), None);
        assert_eq!(Interruption::from_diary(&[]), None);
    }

    #[test]
    fn a_bad_verdict_names_its_faults() {
        use crate::demo::check::Fault;
        let check = Verdict {
            records_acknowledged: 3,
            records_intact: 2,
            records_wrong: 1,
            faults: vec![Fault::RecordWrong { number: 2, offset: 8192, found: None }],
            ..Verdict::default()
        };
        let text = verdict_lines(&check, Paint::none()).join("\n");
        assert!(text.contains("1 of 3 acknowledged records"), "{text}");
        assert!(text.contains("record 2 at byte 8192"), "{text}");
    }
}
