//! What a roster admits and whom it believes, also whatever is asked of it in whatever order.

use super::*;
use proptest::prelude::*;

fn name(text: &str) -> WorkerName {
    text.parse().unwrap()
}

fn key(text: &str) -> Fingerprint {
    Fingerprint::of(text.as_bytes())
}

fn first() -> Roster {
    Roster::first(ClusterId::of([1; 16]), name("w1"), "https://w1:1".to_owned(), key("k1"), 5)
}

fn with(roster: &Roster, worker: &str, of: &str) -> Roster {
    match roster.admit(&name(worker), "https://10.0.0.2:7433", key(of), false, 6).unwrap() {
        Admission::With(next) => next,
        Admission::Already => panic!("it is new"),
    }
}

#[test]
fn a_worker_belongs_to_the_cluster_by_its_name_and_its_key() {
    let roster = with(&first(), "w2", "k2");
    assert_eq!(roster.version, 2);
    assert!(roster.believe(&name("w2"), key("k2")).is_ok());
    let other = Err(Stranger::Other { name: name("w2") });
    assert_eq!(roster.believe(&name("w2"), key("k1")).map(drop), other);
    let unknown = Err(Stranger::Unknown { name: name("w3"), version: 2 });
    assert_eq!(roster.believe(&name("w3"), key("k2")).map(drop), unknown);
}

#[test]
fn a_joiner_that_asks_again_changes_nothing() {
    let roster = with(&first(), "w2", "k2");
    let again = roster.admit(&name("w2"), "https://10.0.0.2:7433", key("k2"), false, 9);
    assert_eq!(again, Ok(Admission::Already));
}

#[test]
fn two_workers_of_one_name_or_one_key_do_not_belong_to_one_cluster() {
    let roster = with(&first(), "w2", "k2");
    let admit = |worker, of| roster.admit(&name(worker), "https://10.0.0.3:1", key(of), true, 9);
    let url = "https://10.0.0.2:7433".to_owned();
    assert_eq!(admit("w2", "k3"), Err(JoinRefusal::NameTaken { name: name("w2"), url }));
    assert_eq!(admit("w3", "k2"), Err(JoinRefusal::KeyTaken { name: name("w2") }));
}

#[test]
fn a_worker_that_was_revoked_comes_back_only_when_that_is_meant_and_never_with_its_key() {
    let revoked = with(&first(), "w2", "k2").revoke(&name("w2"), Some("stolen".to_owned()), 7).unwrap();
    let told = revoked.believe(&name("w2"), key("k2")).unwrap_err();
    assert_eq!(told.to_string(), "worker w2 was revoked (stolen); it belongs to this cluster no longer");
    let admit =
        |roster: &Roster, of, again| roster.admit(&name("w2"), "https://10.0.0.9:1", key(of), again, 9);
    assert_eq!(admit(&revoked, "k3", false), Err(JoinRefusal::NameRevoked { name: name("w2") }));
    assert_eq!(admit(&revoked, "k2", true), Err(JoinRefusal::KeyRevoked { name: name("w2") }));
    let Ok(Admission::With(successor)) = admit(&revoked, "k3", true) else { panic!("it is meant") };
    assert!(successor.believe(&name("w2"), key("k3")).is_ok());
    assert!(matches!(successor.believe(&name("w2"), key("k2")), Err(Stranger::Revoked { .. })));
    let gone = successor.revoke(&name("w2"), None, 10).unwrap();
    for of in ["k2", "k3"] {
        assert_eq!(admit(&gone, of, true), Err(JoinRefusal::KeyRevoked { name: name("w2") }), "{of}");
    }
}

#[test]
fn the_keeper_and_strangers_are_not_revoked() {
    assert_eq!(first().revoke(&name("w1"), None, 7), None);
    assert_eq!(first().revoke(&name("w2"), None, 7), None);
}

#[test]
fn an_address_that_nobody_can_reach_is_refused() {
    for bad in [
        "",
        "http://h:1",
        "https://h",
        "https://:1",
        "https://h:0",
        "https://h:70000",
        "https://h:1/x",
        "https://a b:1",
        "https://::1:1",
        "https://[h]:1",
    ] {
        let refused = first().admit(&name("w2"), bad, key("k2"), false, 6);
        assert_eq!(refused, Err(JoinRefusal::BadUrl { url: bad.to_owned() }), "{bad}");
    }
    for (good, host) in [
        ("https://h.x-1:7433", "h.x-1"),
        ("https://[fd00::1]:1", "fd00::1"),
        ("https://10.0.0.1:1", "10.0.0.1"),
    ] {
        assert_eq!(host_of(good), Some(host));
    }
}

#[test]
fn the_highest_version_wins_and_a_fork_is_seen() {
    let (old, new) = (first(), with(&first(), "w2", "k2"));
    assert_eq!(old.judge(&new), Offered::Newer);
    assert_eq!(new.judge(&old), Offered::Older);
    assert_eq!(new.judge(&new.clone()), Offered::Same);
    assert_eq!(new.judge(&with(&first(), "w3", "k3")), Offered::Fork);
    let mut foreign = new.clone();
    foreign.cluster = ClusterId::of([2; 16]);
    assert_eq!(old.judge(&foreign), Offered::Foreign);
}

#[test]
fn a_token_that_was_revoked_is_remembered_until_it_would_have_expired() {
    let grafana: TokenName = "grafana".parse().unwrap();
    let roster = first().revoke_token(&grafana, 1000, 500);
    assert!(roster.is_token_revoked(&grafana, 500) && !roster.is_token_revoked(&grafana, 501));
    let kept = with(&roster, "w2", "k2");
    assert!(kept.is_token_revoked(&grafana, 500));
    let Ok(Admission::With(later)) =
        kept.admit(&name("w3"), "https://h:1", key("k3"), false, 1000 + TOKEN_GRACE_MS)
    else {
        panic!("it is admitted")
    };
    assert!(later.tokens_revoked.is_empty());
}

#[test]
fn a_roster_that_contradicts_itself_is_none() {
    let roster = with(&first(), "w2", "k2");
    assert_eq!(Roster::parse(&roster.text()).unwrap(), roster);
    let mut twice = roster.clone();
    twice.workers[1].key = key("k1");
    let mut same_name = roster.clone();
    same_name.workers[1].name = name("w1");
    let mut keeperless = roster.clone();
    keeperless.keeper = name("w3");
    for wrong in [twice, same_name, keeperless] {
        assert!(matches!(Roster::parse(&wrong.text()), Err(RosterError::Contradiction(_))), "{wrong:?}");
    }
    assert!(matches!(Roster::parse("{}"), Err(RosterError::Text(_))));
}

/// Something that is asked of a keeper.
#[derive(Clone, Debug)]
enum Act {
    Join { worker: u8, key: u8, again: bool },
    Revoke(u8),
}

fn act() -> impl Strategy<Value = Act> {
    let join =
        (1u8..5, 1u8..9, any::<bool>()).prop_map(|(worker, key, again)| Act::Join { worker, key, again });
    prop_oneof![3 => join, 1 => (1u8..5).prop_map(Act::Revoke)]
}

proptest! {
    #[test]
    fn whatever_is_asked_a_revoked_key_never_belongs_again(acts in prop::collection::vec(act(), 0..40)) {
        let mut roster = first();
        let mut revoked = BTreeSet::new();
        for act in acts {
            let before = roster.version;
            match act {
                Act::Join { worker, key: of, again } => {
                    let worker = name(&format!("w{worker}"));
                    if let Ok(Admission::With(next)) = roster.admit(&worker, "https://h:1", key(&format!("k{of}")), again, 7) {
                        roster = next;
                    }
                }
                Act::Revoke(worker) => {
                    let worker = name(&format!("w{worker}"));
                    let its_key = roster.member(&worker).map(|entry| entry.key);
                    if let Some(next) = roster.revoke(&worker, None, 7) {
                        revoked.extend(its_key);
                        roster = next;
                    }
                }
            }
            prop_assert!(roster.version == before || roster.version == before + 1);
            prop_assert_eq!(Roster::parse(&roster.text()).unwrap(), roster.clone());
            for entry in roster.members() {
                prop_assert!(!revoked.contains(&entry.key));
                prop_assert!(roster.believe(&entry.name, entry.key).is_ok());
            }
        }
    }
}
