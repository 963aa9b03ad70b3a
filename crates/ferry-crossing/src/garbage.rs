//! What jobs and killed processes have left on a worker: for each kind of thing the facts that matter, and what they mean.
//!
//! ```text
//!   facts of one thing ──▶ Verdict: it goes, since … · it stays, since …
//! ```
//!
//! Invariant: a thing goes only if every fact that speaks for it is known. What somebody may still read, what may hold the
//! only writes of a machine, and what nobody can tell stays, with the reason.

use crate::target;
use ferry_api::{CrossingState, Generation, JobState, Ownership, Volume, VolumeId, VolumePhase, WorkerName};

/// Milliseconds in a minute.
const MINUTE_MS: u64 = 60_000;
/// Minutes in an hour.
const HOUR_MINUTES: u64 = 60;

/// What becomes of a thing, and why, in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody needs it.
    Goes(String),
    /// Somebody does, or nobody can tell.
    Stays(String),
}

use Verdict::{Goes, Stays};

fn goes(why: &str) -> Verdict {
    Goes(why.to_owned())
}

fn stays(why: &str) -> Verdict {
    Stays(why.to_owned())
}

/// Whether a volume is whole with whoever owns it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whole {
    /// Nobody was asked.
    NotAsked,
    /// It is, there.
    With(WorkerName),
    /// It is not, or it is not known, and why.
    Unknown(String),
}

/// What one worker tells of a volume that was handed to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// All that can be known.
    Answer(Whole),
    /// It has handed it on to that worker, who is to be asked.
    AskNext(WorkerName),
}

/// What `worker` tells by its `volumes` of a volume that it was given at a generation after `left_at`.
#[must_use]
pub fn told_by(worker: &WorkerName, volumes: &[Volume], id: VolumeId, left_at: Generation) -> Told {
    let is_set_aside =
        |volume: &Volume| matches!(volume.ownership, Ownership::Reserved { .. } | Ownership::Prepared { .. });
    let later = volumes.iter().filter(|v| v.id == id && v.generation > left_at && !is_set_aside(v));
    let unknown = |why: String| Told::Answer(Whole::Unknown(why));
    let Some(latest) = later.max_by_key(|volume| volume.generation) else {
        return unknown(format!("worker {worker} has no later copy of it"));
    };
    match (&latest.ownership, latest.hydration) {
        (Ownership::HandedOver { to, .. } | Ownership::Retired { to, .. }, _) => Told::AskNext(to.clone()),
        (_, None) => unknown(format!("its volume server on worker {worker} does not answer")),
        (_, Some(counted)) if !counted.complete => unknown(format!("it is not whole on worker {worker} yet")),
        (_, Some(counted)) if counted.bytes_abandoned > 0 => {
            unknown(format!("on worker {worker} some of it was given up, which may be here still"))
        }
        (_, Some(_)) => Told::Answer(Whole::With(worker.clone())),
    }
}

/// A copy that is kept after its volume has moved away: kept until `until_ms`, as [`crate::service::kept_until`] tells, at
/// `now_ms`. If `give_up`, it goes before its time where the volume is `whole` with its owner.
#[must_use]
pub fn retained(until_ms: Option<u64>, now_ms: u64, give_up: bool, whole: &Whole) -> Verdict {
    let left_ms = match until_ms {
        None => return stays("another copy here still reads it"),
        Some(0) => return goes("a later copy here has made it useless"),
        Some(until_ms) => until_ms.saturating_sub(now_ms),
    };
    match (left_ms, give_up, whole) {
        (0, _, _) => goes("its volume had all arrived when this copy was retired, and its time is over"),
        (_, false, _) => Stays(format!("it is kept for the way back, for {} more", in_words(left_ms))),
        (_, true, Whole::With(worker)) => {
            Goes(format!("its volume is whole on worker {worker}; a way back will copy all of it"))
        }
        (_, true, Whole::NotAsked) => stays("its owner was not asked whether the volume is whole there"),
        (_, true, Whole::Unknown(why)) => {
            Stays(format!("it is not certain that its volume is whole elsewhere: {why}"))
        }
    }
}

/// A copy that was handed over and is not retired.
#[must_use]
pub fn handed_over(to: &WorkerName) -> Verdict {
    Stays(format!("worker {to} reads it until the move is verified"))
}

/// What the source of a move to this worker says of its job; or why it says nothing, in one sentence.
pub type Asked = Result<JobState, String>;

/// What a move to this worker has set aside, if it is not this worker's yet. `asked` matters while it is expected.
#[must_use]
pub fn reservation(state: CrossingState, asked: &Asked) -> Verdict {
    match (state, asked) {
        (CrossingState::Activated | CrossingState::Booted | CrossingState::Settled, _) => {
            stays("the machine has arrived")
        }
        (CrossingState::Released, _) => goes("the move was undone, and this was told so"),
        (_, Ok(job)) if target::is_undone(*job) => goes("the move was undone, as its source's journal says"),
        (_, Ok(JobState::Parked)) => stays("its move waits for a person"),
        (_, Ok(_)) => stays("its move goes on"),
        (_, Err(why)) => Stays(format!("nobody can tell whether its move goes on: {why}")),
    }
}

/// A copy that a move has set aside, of which no record of the move tells.
#[must_use]
pub fn orphaned_clone() -> Verdict {
    stays("the records do not tell how its move stands; they may come from a backup")
}

/// What can be known of the address of a volume that is in use here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Whether a job holds the volume's machine, or is about to.
    pub job: bool,
    /// Forks that read a snapshot.
    pub forks: usize,
    /// Connections.
    pub readers: u32,
}

/// The address at which a volume that is in use here can be read.
#[must_use]
pub fn export(exported: Exported) -> Verdict {
    match exported {
        Exported { job: true, .. } => stays("a move of its machine is under way"),
        Exported { forks: 1.., .. } => stays("forks read it"),
        Exported { readers: 1.., .. } => stays("somebody is connected to it"),
        Exported { job: false, forks: 0, readers: 0 } => {
            goes("no move and no fork reads it, and nobody is connected to it")
        }
    }
}

/// What the directory of a copy holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A creation that did not finish.
    Nothing,
    /// Bytes, and no map that tells of them.
    Bytes,
    /// A copy that was last in this phase.
    Copy(VolumePhase),
    /// It cannot be read, and why.
    Unreadable(String),
}

/// Something in the directory of volumes of which no record tells. `is_copy`: it is named like one; `is_elsewhere`: it is a
/// link, or another filesystem is mounted there.
#[must_use]
pub fn directory(is_copy: bool, is_elsewhere: bool, holds: &Holds) -> Verdict {
    if !is_copy {
        return stays("it is not named like a copy of a volume, so that it is not Ferry's");
    }
    if is_elsewhere {
        return stays("it is a link, or another filesystem is mounted there");
    }
    match holds {
        Holds::Nothing => goes("it was never finished, and no record tells of it"),
        Holds::Bytes => stays("it holds data, and the map that would tell what it is has gone missing"),
        Holds::Copy(VolumePhase::Standby) => {
            goes("no machine has ever written it, and no record tells of it")
        }
        Holds::Copy(VolumePhase::Open | VolumePhase::Sealed) => stays(
            "a machine has written it, so that it may be the real one, and the records come from a backup; ask `ferry truth`",
        ),
        Holds::Unreadable(why) => Stays(format!("what it holds cannot be read: {why}")),
    }
}

/// The directory of a copy whose deletion was noted; or is `under_way` now.
#[must_use]
pub fn half_deleted(under_way: bool) -> Verdict {
    match under_way {
        true => stays("it is being deleted now"),
        false => goes("its deletion was decided and noted, and then cut off"),
    }
}

/// What a volume server has left in the directory of a copy that is to be served by nobody; or is there, since one `serves`.
#[must_use]
pub fn left_by_server(serves: bool) -> Verdict {
    match serves {
        true => stays("its volume server has not ended yet"),
        false => goes("nobody is to serve this copy, and the server that made it was killed"),
    }
}

/// A volume server whose copy no record tells of; what its directory holds, if there is one.
#[must_use]
pub fn volume_server(directory: Option<&Verdict>) -> Verdict {
    match directory {
        None => goes("the directory of its volume is gone, and no record tells of it"),
        Some(Goes(why)) => Goes(format!("it serves a volume that goes: {why}")),
        Some(Stays(why)) => Stays(format!("it serves a volume that stays: {why}")),
    }
}

/// A process of a machine that no record tells of. `has_ground`: the machine's directory is there, or a disk of it.
#[must_use]
pub fn machine_process(has_ground: bool) -> Verdict {
    match has_ground {
        true => {
            stays("its machine's directory or disk is still there, and the records may come from a backup")
        }
        false => goes("no record tells of its machine, whose directory and disks are gone"),
    }
}

/// The directory of a machine that no record tells of. `holds_files`: there is more in it than its log.
#[must_use]
pub fn machine_directory(holds_files: bool, is_elsewhere: bool) -> Verdict {
    match (is_elsewhere, holds_files) {
        (true, _) => stays("it is a link, or another filesystem is mounted there"),
        (false, true) => stays("the machine has left files in it that nobody else may have"),
        (false, false) => goes("no record tells of its machine, and it holds nothing but a log"),
    }
}

/// What something in the directory of unpacked images is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// An image, named after its digest.
    Unpacked,
    /// One whose unpacking or removal was cut off, or is under way.
    HalfUnpacked,
    /// Something else.
    Otherwise,
}

/// Something in the directory of unpacked images. `in_use`: a machine that the records tell of, or that is on its way here, is made
/// of it. `under_way`: an image is being unpacked.
#[must_use]
pub fn image(named: Named, is_elsewhere: bool, in_use: bool, under_way: bool) -> Verdict {
    match named {
        _ if is_elsewhere => stays("it is a link, or another filesystem is mounted there"),
        Named::Otherwise => stays("it is not named like an unpacked image, so that it is not Ferry's"),
        Named::Unpacked if in_use => stays("a machine is made of it"),
        Named::Unpacked => goes("no machine here is made of it; one that needs it will unpack it again"),
        Named::HalfUnpacked if under_way => stays("an image is being unpacked now"),
        Named::HalfUnpacked => goes("its unpacking or its removal was cut off"),
    }
}

/// A time for people, never shorter than it is.
fn in_words(left_ms: u64) -> String {
    let minutes = left_ms.div_ceil(MINUTE_MS);
    match (minutes / HOUR_MINUTES, minutes % HOUR_MINUTES) {
        (0, minutes) => format!("{minutes} min"),
        (hours, 0) => format!("{hours} h"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stopping::tests::volume;
    use ferry_api::{Hydration, JobId};

    const HOUR_MS: u64 = 60 * MINUTE_MS;

    fn w(name: &str) -> WorkerName {
        name.parse().unwrap()
    }

    fn is_going(verdict: &Verdict) -> bool {
        matches!(verdict, Goes(_))
    }

    fn why(verdict: Verdict) -> String {
        let (Goes(why) | Stays(why)) = verdict;
        why
    }

    #[test]
    fn a_kept_copy_stays_until_its_time_and_says_how_long_that_is() {
        let at = |now_ms| retained(Some(3 * HOUR_MS), now_ms, false, &Whole::NotAsked);
        assert!(is_going(&at(3 * HOUR_MS)));
        for (now_ms, left) in [(0, "3 h"), (30 * MINUTE_MS, "2 h 30 min"), (3 * HOUR_MS - 1, "1 min")] {
            assert!(!is_going(&at(now_ms)));
            assert_eq!(why(at(now_ms)), format!("it is kept for the way back, for {left} more"));
        }
    }

    #[test]
    fn a_kept_copy_is_given_up_before_its_time_only_where_the_volume_is_known_to_be_whole() {
        let unknown = Whole::Unknown("w2 is silent".to_owned());
        for give_up in [false, true] {
            for whole in [Whole::NotAsked, Whole::With(w("w2")), unknown.clone()] {
                let verdict = retained(Some(HOUR_MS), 0, give_up, &whole);
                assert_eq!(is_going(&verdict), give_up && whole == Whole::With(w("w2")), "{verdict:?}");
            }
        }
        assert!(why(retained(Some(HOUR_MS), 0, true, &unknown)).ends_with("w2 is silent"));
    }

    #[test]
    fn a_volume_is_whole_with_its_owner_only_if_that_one_says_so_of_its_latest_copy() {
        let copy = |generation, ownership, hydration| Volume {
            generation: Generation(generation),
            hydration,
            ..volume(ownership)
        };
        let whole = Hydration { complete: true, ..Hydration::default() };
        let lossy = Hydration { bytes_abandoned: 4096, ..whole };
        let told = |volumes: Vec<Volume>| {
            let id = volumes.first().map_or_else(VolumeId::fresh, |volume| volume.id);
            let of_one: Vec<_> = volumes.into_iter().map(|volume| Volume { id, ..volume }).collect();
            told_by(&w("w2"), &of_one, id, Generation(4))
        };
        let is_unknown = |told| matches!(told, Told::Answer(Whole::Unknown(_)));
        let there = Told::Answer(Whole::With(w("w2")));
        assert_eq!(told(vec![copy(5, Ownership::Ours, Some(whole))]), there);
        assert!(is_unknown(told(vec![copy(5, Ownership::Ours, Some(Hydration::default()))])));
        assert!(is_unknown(told(vec![copy(5, Ownership::Ours, Some(lossy))])));
        assert!(is_unknown(told(vec![copy(5, Ownership::Ours, None)])));
        assert!(is_unknown(told(vec![copy(4, Ownership::Ours, Some(whole))])), "an earlier one");
        assert!(is_unknown(told(Vec::new())));
        // It has handed it on, and perhaps expects it back.
        let (job, to) = (JobId::fresh(), w("w3"));
        let on = copy(5, Ownership::HandedOver { to: to.clone(), job }, Some(whole));
        let back = copy(7, Ownership::Prepared { job, from: to.clone() }, None);
        assert_eq!(told(vec![on, back]), Told::AskNext(to));
    }

    #[test]
    fn a_kept_copy_that_another_one_reads_never_goes_and_one_that_is_useless_goes_at_once() {
        for whole in [Whole::NotAsked, Whole::With(w("w2"))] {
            assert!(!is_going(&retained(None, u64::MAX, true, &whole)));
            assert!(is_going(&retained(Some(0), 0, false, &whole)));
        }
    }

    #[test]
    fn what_a_move_set_aside_goes_only_when_its_source_says_that_it_was_undone() {
        use CrossingState::{Activated, Booted, Prepared, Released, Reserved, Settled};
        let said = [
            Ok(JobState::Waiting),
            Ok(JobState::Running),
            Ok(JobState::Unwinding),
            Ok(JobState::Parked),
            Ok(JobState::Succeeded),
            Ok(JobState::Failed),
            Ok(JobState::Cancelled),
            Err("it does not answer".to_owned()),
        ];
        for asked in &said {
            let undone = matches!(asked, Ok(JobState::Failed | JobState::Cancelled));
            for state in [Reserved, Prepared] {
                assert_eq!(is_going(&reservation(state, asked)), undone, "{asked:?}");
            }
            assert!(is_going(&reservation(Released, asked)));
            for state in [Activated, Booted, Settled] {
                assert!(!is_going(&reservation(state, asked)), "{state:?} {asked:?}");
            }
        }
        assert!(!is_going(&orphaned_clone()) && !is_going(&handed_over(&w("w2"))));
    }

    #[test]
    fn an_address_goes_only_when_nobody_has_a_use_for_it() {
        for job in [false, true] {
            for forks in [0, 1] {
                for readers in [0, 1] {
                    let verdict = export(Exported { job, forks, readers });
                    assert_eq!(is_going(&verdict), !job && forks == 0 && readers == 0, "{verdict:?}");
                }
            }
        }
    }

    #[test]
    fn a_directory_that_a_machine_may_have_written_stays_whatever_the_records_say() {
        let goes = [Holds::Nothing, Holds::Copy(VolumePhase::Standby)];
        let stays = [
            Holds::Bytes,
            Holds::Copy(VolumePhase::Open),
            Holds::Copy(VolumePhase::Sealed),
            Holds::Unreadable("it is damaged".to_owned()),
        ];
        assert!(goes.iter().all(|holds| is_going(&directory(true, false, holds))));
        assert!(stays.iter().all(|holds| !is_going(&directory(true, false, holds))));
        for holds in goes.iter().chain(&stays) {
            assert!(!is_going(&directory(false, false, holds)), "a name that is no copy's: {holds:?}");
            assert!(!is_going(&directory(true, true, holds)), "it is elsewhere: {holds:?}");
        }
    }

    #[test]
    fn a_volume_server_goes_with_its_volume_and_stays_with_it() {
        assert!(is_going(&volume_server(None)));
        assert!(is_going(&volume_server(Some(&directory(true, false, &Holds::Nothing)))));
        let open = directory(true, false, &Holds::Copy(VolumePhase::Open));
        assert!(!is_going(&volume_server(Some(&open))));
    }

    #[test]
    fn an_image_goes_only_if_no_machine_is_made_of_it_and_it_is_ferrys() {
        for bits in 0..8 {
            let [elsewhere, used, under_way] = [1, 2, 4].map(|bit| bits & bit != 0);
            let goes = |named| is_going(&image(named, elsewhere, used, under_way));
            assert_eq!(goes(Named::Unpacked), !elsewhere && !used);
            assert_eq!(goes(Named::HalfUnpacked), !elsewhere && !under_way);
            assert!(!goes(Named::Otherwise));
        }
    }

    #[test]
    fn what_is_under_way_or_still_has_its_ground_stays() {
        assert!(is_going(&half_deleted(false)) && !is_going(&half_deleted(true)));
        assert!(is_going(&left_by_server(false)) && !is_going(&left_by_server(true)));
        assert!(is_going(&machine_process(false)) && !is_going(&machine_process(true)));
        assert!(is_going(&machine_directory(false, false)));
        assert!(!is_going(&machine_directory(true, false)) && !is_going(&machine_directory(false, true)));
    }
}
