//! What workers that join, and those that belong to a cluster, are told.

use ferry_cluster::{Identity, JoinToken, Roster, authority_of};

/// Any line is a token for joining that says the same when it is printed again, or is refused.
pub fn join_token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = JoinToken::parse(text) {
        assert_eq!(JoinToken::parse(&token.text()), Ok(token), "it says something else when it is printed");
    }
    // Nothing of it is believed before its signature is; so it must only not break who looks whom to show it to.
    let _ = authority_of(text);
}

/// Any text is a roster that says the same when it is written again and does not contradict itself, or is refused.
pub fn roster(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(roster) = Roster::parse(text) else { return };
    assert_eq!(Roster::parse(&roster.text()).expect("it was one"), roster);
    for entry in roster.members() {
        assert_eq!(roster.member(&entry.name), Some(entry), "two members have one name");
        assert_eq!(roster.believe(&entry.name, entry.key), Ok(entry));
    }
    for entry in roster.workers.iter().filter(|entry| !entry.is_member()) {
        assert!(roster.believe(&entry.name, entry.key).is_err(), "{} was revoked", entry.name);
    }
    assert!(roster.member(&roster.keeper).is_some());
}

/// Any certificate is that of one worker, or of none.
pub fn certificate(bytes: &[u8]) {
    if let Ok(identity) = Identity::of(bytes) {
        assert!(identity.from_ms <= u64::MAX - 1000 && !identity.worker.as_str().is_empty());
    }
}
