//! What is taken of what lies in a bucket, and what is not.

use super::*;
use proptest::prelude::*;

const FLEET: &str = "0123456789abcdef";

fn name(of: &str) -> WorkerName {
    of.parse().unwrap()
}

fn fleet(members: &[&str], key: u8) -> Fleet {
    let keys = vec![GossipKey { id: u32::from(key), secret: [key; 32] }];
    Fleet { members: members.iter().map(|of| name(of)).collect(), keys }
}

fn bucket(me: &str, epoch: u64) -> Bucket {
    Bucket::new((name(me), epoch), FLEET, fleet(&["w1", "w2", "w3"], 1))
}

fn news(of: &str, epoch: u64, revision: u64) -> Seen {
    Seen::News(Fact { worker: name(of), epoch, revision })
}

#[test]
fn what_a_worker_puts_there_the_others_hear_once() {
    let (mut w1, mut w2) = (bucket("w1", 7), bucket("w2", 7));
    let value = w1.say(5).unwrap();
    assert_eq!(w2.read(&w1.key(), &value, 0), Ok(vec![Seen::Up(name("w1")), news("w1", 7, 5)]));
    assert_eq!(w2.read(&w1.key(), &value, 0), Ok(vec![]), "it was read before");
    let again = w1.say(5).unwrap();
    assert_eq!(w2.read(&w1.key(), &again, 0), Ok(vec![]), "it is there still, and has no news");
    assert_eq!(w2.digest(), [(name("w1"), (7, 5))].into());
    let own = w2.say(1).unwrap();
    assert_eq!(w2.read(&w2.key(), &own, 0), Ok(vec![]));
    assert_eq!(w2.ignored(), 0);
}

#[test]
fn who_is_silent_is_missed_once_and_back_with_its_next_word() {
    let (mut w1, mut w2) = (bucket("w1", 7), bucket("w2", 7));
    w2.read(&w1.key(), &w1.say(5).unwrap(), 1_000).unwrap();
    assert_eq!(w2.look(1_000 + SILENT_MS_MAX), []);
    assert_eq!(w2.look(1_001 + SILENT_MS_MAX), [Seen::Down(name("w1"))]);
    assert_eq!(w2.look(u64::MAX), []);
    let back = w1.say(5).unwrap();
    assert_eq!(w2.read(&w1.key(), &back, 90_000), Ok(vec![Seen::Up(name("w1"))]));
}

#[test]
fn nobody_was_silent_while_the_bucket_was_not_read() {
    let (mut w1, mut w2) = (bucket("w1", 7), bucket("w2", 7));
    let value = w1.say(5).unwrap();
    w2.read(&w1.key(), &value, 0).unwrap();
    w2.begin(500_000);
    assert_eq!(w2.read(&w1.key(), &value, 500_000), Ok(vec![]), "the same lies there still");
    assert_eq!(w2.look(500_000 + SILENT_MS_MAX), []);
    assert_eq!(w2.look(500_001 + SILENT_MS_MAX), [Seen::Down(name("w1"))]);
}

#[test]
fn an_old_word_that_somebody_puts_back_is_nobody_s_life() {
    let (mut w1, mut w2) = (bucket("w1", 7), bucket("w2", 7));
    let old = w1.say(5).unwrap();
    w2.read(&w1.key(), &old, 0).unwrap();
    w2.read(&w1.key(), &w1.say(6).unwrap(), 0).unwrap();
    assert_eq!(w2.look(u64::MAX), [Seen::Down(name("w1"))]);
    assert_eq!(w2.read(&w1.key(), &old, u64::MAX), Ok(vec![]));
    let mut anew = bucket("w1", 8);
    let first = anew.say(1).unwrap();
    assert_eq!(w2.read(&anew.key(), &first, 0), Ok(vec![Seen::Up(name("w1")), news("w1", 8, 1)]));
}

#[test]
fn nobody_speaks_for_another_worker_or_without_being_a_member() {
    let (mut w1, mut w2) = (bucket("w1", 7), bucket("w2", 7));
    let value = w1.say(5).unwrap();
    let at_another = bucket("w3", 7).key();
    assert_eq!(w2.read(&at_another, &value, 0), Err(NotTaken::Elsewhere(name("w1"))));
    let mut stranger = bucket("w9", 7);
    let value = stranger.say(1).unwrap();
    assert_eq!(w2.read(&stranger.key(), &value, 0), Err(NotTaken::Stranger(name("w9"))));
    let mut of_another_fleet = Bucket::new((name("w3"), 7), FLEET, fleet(&["w3"], 2));
    let value = of_another_fleet.say(1).unwrap();
    assert_eq!(w2.read(&at_another, &value, 0), Err(NotTaken::Seal(SealError::Key(2))));
    assert_eq!(w2.read(&at_another, &[0; 4_096], 0), Err(NotTaken::Large(4_096)));
    assert_eq!(w2.ignored(), 4);
    assert_eq!(w2.digest(), Digest::new());
}

#[test]
fn who_is_no_member_any_more_is_gone_and_not_heard() {
    let (mut w1, mut w2) = (bucket("w1", 7), bucket("w2", 7));
    w2.read(&w1.key(), &w1.say(5).unwrap(), 0).unwrap();
    assert_eq!(w2.follow(fleet(&["w2", "w3"], 1)), [Seen::Down(name("w1"))]);
    assert_eq!(w2.digest(), Digest::new());
    let value = w1.say(6).unwrap();
    assert_eq!(w2.read(&w1.key(), &value, 0), Err(NotTaken::Stranger(name("w1"))));
    assert_eq!(w2.look(u64::MAX), []);
}

#[test]
fn a_bucket_that_would_lose_or_hoard_facts_is_unfit() {
    let kept = Kept { history: 1, for_at_most: Duration::from_secs(3_600), value_bytes_max: Some(1_024) };
    assert_eq!(kept.check(), Ok(()));
    assert_eq!(Kept { for_at_most: Duration::ZERO, value_bytes_max: None, ..kept }.check(), Ok(()));
    assert_eq!(Kept { history: 5, ..kept }.check(), Err(Unfit::History(5)));
    let short = Duration::from_secs(30);
    assert_eq!(Kept { for_at_most: short, ..kept }.check(), Err(Unfit::Short(short)));
    assert_eq!(Kept { value_bytes_max: Some(64), ..kept }.check(), Err(Unfit::Small(64)));
}

#[test]
fn the_largest_value_is_as_large_as_is_said() {
    let longest = "w".repeat(WorkerName::BYTES_MAX);
    let mut worker = Bucket::new((name(&longest), u64::MAX), FLEET, fleet(&[], 1));
    assert_eq!(worker.say(u64::MAX).unwrap().len(), VALUE_BYTES_MAX);
}

proptest! {
    #[test]
    fn whatever_lies_in_the_bucket_changes_nothing_but_the_count(
        key in proptest::collection::vec(any::<char>(), 0..40),
        value in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let (mut w1, key) = (bucket("w1", 7), key.into_iter().collect::<String>());
        prop_assert!(w1.read(&key, &value, 0).is_err());
        prop_assert_eq!((w1.ignored(), w1.digest(), w1.look(u64::MAX)), (1, Digest::new(), vec![]));
    }
}
