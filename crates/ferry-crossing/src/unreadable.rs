//! What the source of a machine that has moved cannot give of its disks, or gives slowly, told to a person.
//!
//! Nothing is given up here: a block that cannot be read is tried again for ever, and only a person knows whether it may become
//! zeroes.

use ferry_api::{BadRanges, Crossing, CrossingVolume, Volume};

use crate::reckoning::is_whole;

/// So many ranges are named in a sentence.
const NAMED_MAX: usize = 4;
/// A source that lets those wait for less, in milliseconds, is not spoken of here: its machine hardly notices.
const SLOW_MS: u64 = 1_000;

/// What cannot be read, and, of a volume that lacks nothing else any more, what can be done; and which source is slow. None while all can
/// be read in good time.
#[must_use]
pub fn unreadable(crossing: &Crossing) -> Option<String> {
    let volumes = crossing.volumes.iter().filter_map(|volume| volume.volume.as_ref());
    let told: Vec<String> =
        volumes.flat_map(|volume| of_volume(volume).into_iter().chain(slow(volume))).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

/// Whether all that is left cannot be read, so that nothing more comes before that has changed. One whose source is only slow, or away, is not
/// meant: it goes on with the others.
#[must_use]
pub fn is_held_up(crossing: &Crossing) -> bool {
    let mut left = crossing.volumes.iter().filter(|volume| !is_whole(volume)).peekable();
    let only_bad = |volume: &CrossingVolume| volume.volume.as_ref().is_some_and(lacks_only_bad);
    left.peek().is_some() && left.all(only_bad)
}

fn lacks_only_bad(volume: &Volume) -> bool {
    let (Some(source), Some(counted)) = (&volume.source, volume.hydration) else { return false };
    source.bad.count > 0 && counted.bytes_remote <= source.bad.bytes
}

fn of_volume(volume: &Volume) -> Option<String> {
    let bad = &volume.source.as_ref().filter(|source| source.bad.count > 0)?.bad;
    let counted = volume.hydration.filter(|counted| !counted.complete)?;
    let (name, what) = (&volume.name, in_words(bad));
    if !lacks_only_bad(volume) {
        return Some(format!(
            "the source cannot give {what} of volume {name} so far; all else is copied meanwhile"
        ));
    }
    // What is left is just that, so giving up the source gives up nothing else.
    Some(format!(
        "the source cannot give {what} of volume {name}, and all else has arrived on {at}: mend the source, name another one \
         (ferry volume source add {id} URI), let the machine write these blocks, or give them up, as zeroes, for good \
         (ferry volume abandon-source {id} --lose {lose} --force)",
        at = volume.worker,
        // By its id: the volumes of many machines are named alike.
        id = volume.id,
        lose = counted.bytes_remote,
    ))
}

fn slow(volume: &Volume) -> Option<String> {
    let slow_ms = volume.source.as_ref()?.slow_ms.filter(|slow_ms| *slow_ms >= SLOW_MS)?;
    volume.hydration.filter(|counted| !counted.complete)?;
    Some(format!(
        "the source of volume {} is slow, and lately sent nothing for up to {}.{} s: reads of what only it has wait so long, and the \
         rest follows as it comes",
        volume.name,
        slow_ms / 1_000,
        slow_ms % 1_000 / 100
    ))
}

/// `8192 bytes (4096+4096, 40960+4096)`, each range as `OFFSET+LENGTH`.
fn in_words(bad: &BadRanges) -> String {
    let named = bad.listed.iter().take(NAMED_MAX);
    let mut ranges: Vec<String> = named.map(|span| format!("{}+{}", span.offset, span.len_bytes)).collect();
    let more = bad.count.saturating_sub(ranges.len() as u64);
    if more > 0 {
        ranges.push(format!("{more} more"));
    }
    format!("{} bytes ({})", bad.bytes, ranges.join(", "))
}

#[cfg(test)]
mod tests {
    use ferry_api::{
        CrossingState, CrossingVolume, Hydration, JobId, MachineId, Span, VolumeKey, VolumeSource,
    };

    use super::*;

    fn copy(remote: u64, bad: BadRanges) -> Volume {
        let hydration = Hydration { bytes_remote: remote, ..Hydration::default() };
        let source = VolumeSource {
            uri: "nbd://w1:1/db".to_owned(),
            worker: None,
            connected: Some(true),
            last_error: None,
            is_gone: false,
            mismatches: Vec::new(),
            bad,
            away_ms: None,
            requests_waiting: 0,
            slow_ms: None,
            more: Vec::new(),
        };
        Volume {
            hydration: Some(hydration),
            source: Some(source),
            ..crate::stopping::tests::volume(ferry_api::Ownership::Ours)
        }
    }

    fn crossing(volumes: Vec<Volume>) -> Crossing {
        let clone = |volume: Volume| CrossingVolume {
            key: VolumeKey { id: volume.id, generation: volume.generation },
            volume: Some(volume),
        };
        Crossing {
            job: JobId::fresh(),
            from: "w1".parse().unwrap(),
            machine: MachineId::fresh(),
            state: CrossingState::Booted,
            activated_at_ms: None,
            booted_at_ms: None,
            memory_to: None,
            arrival: None,
            after_move: None,
            judged: None,
            machine_now: None,
            volumes: volumes.into_iter().map(clone).collect(),
        }
    }

    fn bad(count: u64) -> BadRanges {
        let listed = (0..count.min(64)).map(|at| Span { offset: at << 20, len_bytes: 4096 }).collect();
        BadRanges { bytes: count * 4096, count, listed }
    }

    #[test]
    fn what_can_be_read_or_is_not_asked_for_yet_is_no_trouble() {
        assert_eq!(unreadable(&crossing(vec![copy(1 << 20, bad(0))])), None);
        let mut whole = copy(0, bad(1));
        whole.hydration = Some(Hydration { complete: true, ..Hydration::default() });
        assert_eq!(unreadable(&crossing(vec![whole])), None);
    }

    #[test]
    fn giving_up_is_offered_only_once_nothing_else_would_be_lost_with_it() {
        let still = unreadable(&crossing(vec![copy(8193, bad(2))])).unwrap();
        assert_eq!(
            still,
            "the source cannot give 8192 bytes (0+4096, 1048576+4096) of volume data so far; all else is copied meanwhile"
        );
        let volume = copy(8192, bad(2));
        let command = format!("ferry volume abandon-source {} --lose 8192 --force", volume.id);
        let left = unreadable(&crossing(vec![volume, copy(1 << 20, bad(0))])).unwrap();
        assert!(left.contains(&command), "{left}");
    }

    #[test]
    fn a_slow_source_is_told_until_the_volume_is_whole() {
        let after = |slow_ms, complete| {
            let mut volume = copy(1 << 20, bad(0));
            volume.source.as_mut().unwrap().slow_ms = slow_ms;
            volume.hydration.as_mut().unwrap().complete = complete;
            unreadable(&crossing(vec![volume]))
        };
        assert_eq!(
            (after(None, false), after(Some(999), false), after(Some(5_000), true)),
            (None, None, None)
        );
        let told = after(Some(2_345), false).unwrap();
        assert!(
            told.contains("the source of volume data is slow, and lately sent nothing for up to 2.3 s"),
            "{told}"
        );
    }

    #[test]
    fn a_move_is_held_up_when_all_that_is_left_cannot_be_read() {
        let mut hangs = copy(1 << 20, bad(1));
        hangs.source.as_mut().unwrap().slow_ms = Some(60_000);
        let held_up = |volumes| is_held_up(&crossing(volumes));
        assert!(held_up(vec![copy(8192, bad(2))]), "all else has arrived");
        assert!(!held_up(vec![copy(8193, bad(2))]), "the rest comes");
        assert!(!held_up(vec![hangs]), "the rest may come");
        assert!(!held_up(vec![copy(8192, bad(2)), copy(1 << 20, bad(0))]), "another volume follows");
        let mut whole = copy(0, bad(0));
        whole.hydration = Some(Hydration { complete: true, ..Hydration::default() });
        assert!(held_up(vec![copy(8192, bad(2)), whole.clone()]) && !held_up(vec![whole]));
        assert!(!held_up(Vec::new()));
    }

    #[test]
    fn a_sentence_names_few_ranges_and_counts_the_rest() {
        let told = unreadable(&crossing(vec![copy(1 << 30, bad(100))])).unwrap();
        assert!(
            told.contains("409600 bytes (0+4096, 1048576+4096, 2097152+4096, 3145728+4096, 96 more)"),
            "{told}"
        );
    }
}
