//! A keeper and its joiners on real directories: what is durable when, and who is let in.

use super::*;
use crate::roster::Offered;
use ferry_api::Role;
use tempfile::TempDir;

const NOW_MS: u64 = 1_800_000_000_000;
const URL: &str = "https://10.0.0.1:7433";

struct Side {
    _dir: TempDir,
    home: Home,
}

fn side() -> Side {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::new(dir.path());
    Side { _dir: dir, home }
}

fn name(text: &str) -> WorkerName {
    text.parse().unwrap()
}

/// A cluster of one worker.
fn founded() -> (Side, Keeper, Papers) {
    let side = side();
    Keeper::found(&side.home, &name("w1"), URL, NOW_MS).unwrap();
    let keeper = Keeper::at(&side.home).unwrap().unwrap();
    let papers = side.home.papers().unwrap().unwrap();
    (side, keeper, papers)
}

fn token(keeper: &mut Keeper, ask: AskJoinToken) -> JoinToken {
    JoinToken::parse(&keeper.token(ask, URL, NOW_MS).unwrap().token).unwrap()
}

fn asked(token: &JoinToken, worker: &str, key: &WorkerKey) -> Join {
    let request = key.request().unwrap();
    let url = format!("https://{worker}.test:7433");
    Join { secret: token.secret.reveal(), worker: name(worker), url, request }
}

/// A worker that has joined, as `ferry agent join` makes it.
fn join(keeper: &mut Keeper, papers: &mut Papers, worker: &str) -> (Side, Papers) {
    let side = side();
    let key = side.home.joining_key().unwrap();
    let token = token(keeper, AskJoinToken::default());
    let joined = keeper.join(papers, &asked(&token, worker, &key), NOW_MS).unwrap();
    found(&side, &joined, &key);
    let papers = side.home.papers().unwrap().unwrap();
    (side, papers)
}

fn found(side: &Side, joined: &Joined, key: &WorkerKey) {
    let founding = Founding {
        authority: &joined.authority,
        authority_key: None,
        certificate: &joined.certificate,
        key: &key.pem(),
        membership: &joined.membership,
    };
    side.home.found(&founding).unwrap();
    side.home.joining_is_over().unwrap();
}

#[test]
fn a_cluster_begins_with_one_worker_that_keeps_its_key_for_itself() {
    use std::os::unix::fs::PermissionsExt;
    let (side, keeper, papers) = founded();
    assert_eq!((papers.roster.version, papers.roster.keeper.as_str()), (1, "w1"));
    assert_eq!(papers.standing(), Ok(()));
    assert_eq!(papers.authority, *keeper.key());
    assert_eq!(papers.gossip_keys.len(), 1);
    for file in ["ca-key.pem", "gossip-keys.json", "tls/client-key.pem", "tls/server-key.pem"] {
        let path = side.home.tls_dir().parent().unwrap().join(file);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    let again = Keeper::found(&side.home, &name("w1"), URL, NOW_MS);
    assert!(matches!(again, Err(KeeperError::Home(HomeError::There { .. }))), "{again:?}");
}

#[test]
fn a_worker_joins_and_both_sides_believe_each_other() {
    let (_first, mut keeper, mut papers) = founded();
    let (second, theirs) = join(&mut keeper, &mut papers, "w2");
    assert_eq!(theirs.roster, papers.roster);
    assert_eq!(theirs.gossip_keys, papers.gossip_keys);
    assert_eq!(theirs.identity.worker, name("w2"));
    assert_eq!(
        papers.roster.believe(&name("w2"), theirs.identity.key).map(|entry| &entry.url[..]),
        Ok("https://w2.test:7433")
    );
    assert!(Keeper::at(&second.home).unwrap().is_none(), "the key stays with the keeper");
}

#[test]
fn a_joiner_whose_answer_was_lost_asks_again_also_after_the_keeper_was_restarted() {
    let (first, mut keeper, mut papers) = founded();
    let joiner = side();
    let key = joiner.home.joining_key().unwrap();
    let token = token(&mut keeper, AskJoinToken::default());
    let lost = keeper.join(&mut papers, &asked(&token, "w2", &key), NOW_MS).unwrap();
    let (mut keeper, mut papers) =
        (Keeper::at(&first.home).unwrap().unwrap(), first.home.papers().unwrap().unwrap());
    let kept = joiner.home.joining_key().unwrap();
    assert_eq!(kept.fingerprint(), key.fingerprint());
    let answer = keeper.join(&mut papers, &asked(&token, "w2", &kept), NOW_MS + 5).unwrap();
    assert_eq!(answer.membership, lost.membership, "nothing has changed by it");
    found(&joiner, &answer, &kept);
    assert_ne!(joiner.home.joining_key().unwrap().fingerprint(), key.fingerprint(), "its key is forgotten");
}

#[test]
fn a_spent_token_is_spent_also_for_a_keeper_that_was_killed_right_then() {
    let (first, mut keeper, mut papers) = founded();
    let token = token(&mut keeper, AskJoinToken::default());
    let key = WorkerKey::fresh().unwrap();
    keeper.join(&mut papers, &asked(&token, "w2", &key), NOW_MS).unwrap();
    let (mut keeper, mut papers) =
        (Keeper::at(&first.home).unwrap().unwrap(), first.home.papers().unwrap().unwrap());
    let other = WorkerKey::fresh().unwrap();
    let refused = keeper.join(&mut papers, &asked(&token, "w3", &other), NOW_MS).unwrap_err();
    assert!(refused.to_string().contains("used already, by worker w2"), "{refused}");
    assert!(papers.roster.member(&name("w3")).is_none());
}

#[test]
fn a_join_that_is_refused_spends_no_token() {
    let (_first, mut keeper, mut papers) = founded();
    let token = token(&mut keeper, AskJoinToken::default());
    let key = WorkerKey::fresh().unwrap();
    let refused = keeper.join(&mut papers, &asked(&token, "w1", &key), NOW_MS).unwrap_err();
    assert!(matches!(refused, KeeperError::Join(JoinRefusal::NameTaken { .. })), "{refused}");
    keeper.join(&mut papers, &asked(&token, "w2", &key), NOW_MS).unwrap();
}

#[test]
fn a_revoked_worker_gets_no_certificate_and_its_successor_joins_when_that_is_meant() {
    let (_first, mut keeper, mut papers) = founded();
    let (second, theirs) = join(&mut keeper, &mut papers, "w2");
    let key = WorkerKey::from_pem(&second.home.certificate_and_key().unwrap().1).unwrap();
    let renew = Renew { worker: name("w2"), request: key.request().unwrap() };
    assert!(keeper.renew(&papers, &renew, NOW_MS).is_ok());
    let revoke = Revoke { what: Revoked::Worker(name("w2")), reason: Some("sold".to_owned()) };
    keeper.revoke(&mut papers, revoke.clone(), NOW_MS).unwrap();
    assert!(matches!(keeper.renew(&papers, &renew, NOW_MS), Err(KeeperError::Stranger(_))));
    assert!(matches!(keeper.revoke(&mut papers, revoke, NOW_MS), Err(KeeperError::NoWorker(_))));
    assert_ne!(papers.gossip_keys[0], theirs.gossip_keys[0], "it hears no whispers any more");
    assert_eq!(papers.gossip_keys[1], theirs.gossip_keys[0]);

    let fresh = WorkerKey::fresh().unwrap();
    let plain = token(&mut keeper, AskJoinToken::default());
    let refused = keeper.join(&mut papers, &asked(&plain, "w2", &fresh), NOW_MS).unwrap_err();
    assert!(refused.to_string().contains("--worker w2 --again"), "{refused}");
    let meant = AskJoinToken { worker: Some(name("w2")), again: true, ttl_ms: None };
    let meant = token(&mut keeper, meant);
    keeper.join(&mut papers, &asked(&meant, "w2", &fresh), NOW_MS).unwrap();
}

#[test]
fn a_worker_hears_of_its_revocation_and_keeps_no_older_roster() {
    let (_first, mut keeper, mut papers) = founded();
    let (second, mut theirs) = join(&mut keeper, &mut papers, "w2");
    let before = theirs.membership();
    keeper.revoke(&mut papers, Revoke { what: Revoked::Worker(name("w2")), reason: None }, NOW_MS).unwrap();
    assert_eq!(theirs.hear(&papers.membership()).unwrap(), Offered::Newer);
    assert!(matches!(theirs.standing(), Err(Stranger::Revoked { .. })));
    let mut restarted = second.home.papers().unwrap().unwrap();
    assert_eq!(restarted.hear(&before).unwrap(), Offered::Older);
    assert_eq!(restarted.roster, papers.roster);
}

#[test]
fn a_roster_that_somebody_else_signed_is_not_heard() {
    let (_first, _, mut papers) = founded();
    let (_other, _, theirs) = founded();
    assert!(matches!(papers.hear(&theirs.membership()), Err(HomeError::Roster(_))));
    let mut changed = papers.membership();
    changed.roster.body = changed.roster.body.replace("\"version\":1", "\"version\":9");
    assert!(matches!(papers.hear(&changed), Err(HomeError::Roster(_))));
}

#[test]
fn a_renewed_certificate_is_kept_and_one_of_another_key_is_not() {
    let (_first, mut keeper, mut papers) = founded();
    let (second, mut theirs) = join(&mut keeper, &mut papers, "w2");
    let key = WorkerKey::from_pem(&second.home.certificate_and_key().unwrap().1).unwrap();
    let later_ms = NOW_MS + 5 * DAY_MS;
    let renew = Renew { worker: name("w2"), request: key.request().unwrap() };
    let renewed = keeper.renew(&papers, &renew, later_ms).unwrap().certificate;
    theirs.keep_certificate(&renewed).unwrap();
    assert_eq!(theirs.identity.until_ms, later_ms + crate::CERTIFICATE_MS);
    assert_eq!(second.home.papers().unwrap().unwrap().identity, theirs.identity);
    assert!(papers.keep_certificate(&renewed).is_err(), "it is not w1's");
}

#[test]
fn api_tokens_are_made_revoked_by_name_and_made_again() {
    let (first, mut keeper, mut papers) = founded();
    let ask = AskApiToken { name: "grafana".parse().unwrap(), role: Role::View, ttl_ms: None };
    let made = keeper.api_token(&papers, ask.clone(), NOW_MS).unwrap();
    let believe =
        |papers: &Papers, text: &str| Bearer::believe(text, &papers.authority, &papers.roster, NOW_MS);
    assert_eq!(believe(&papers, &made.token).unwrap().role, Role::View);
    assert_eq!(Keeper::at(&first.home).unwrap().unwrap().api_tokens(NOW_MS), [made.told]);
    let revoke = Revoke { what: Revoked::ApiToken(ask.name.clone()), reason: None };
    keeper.revoke(&mut papers, revoke.clone(), NOW_MS).unwrap();
    assert!(believe(&papers, &made.token).unwrap_err().to_string().contains("was revoked"));
    assert!(matches!(keeper.revoke(&mut papers, revoke, NOW_MS), Err(KeeperError::NoToken(_))));
    let another = keeper.api_token(&papers, ask, NOW_MS).unwrap();
    assert!(believe(&papers, &another.token).is_ok());
}

#[test]
fn who_tries_wrong_tokens_is_soon_heard_no_longer_and_others_are_later() {
    let (_first, mut keeper, mut papers) = founded();
    let good = token(&mut keeper, AskJoinToken::default());
    let key = WorkerKey::fresh().unwrap();
    let wrong = JoinToken { secret: Secret::from_bytes([0; 32]), ..good.clone() };
    for _ in 0..WRONG_PER_MINUTE_MAX {
        let refused = keeper.join(&mut papers, &asked(&wrong, "w2", &key), NOW_MS).unwrap_err();
        assert!(matches!(refused, KeeperError::Ticket(TicketRefusal::Unknown)), "{refused}");
    }
    let refused = keeper.join(&mut papers, &asked(&good, "w2", &key), NOW_MS).unwrap_err();
    assert!(matches!(refused, KeeperError::TooMany), "{refused}");
    keeper.join(&mut papers, &asked(&good, "w2", &key), NOW_MS + MINUTE_MS).unwrap();
}

#[test]
fn a_file_that_is_damaged_is_told_and_a_home_that_was_begun_is_none() {
    let (side, ..) = founded();
    let dir = side.home.tls_dir().parent().unwrap().to_owned();
    let path = dir.join("gossip-keys.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\\\"version\\\":1", "\\\"version\\\":2")).unwrap();
    let damaged = side.home.papers().unwrap_err();
    assert!(damaged.to_string().contains("gossip-keys.json is damaged"), "{damaged}");

    let begun = super::tests::side();
    let making = dir.with_file_name("cluster.new");
    std::fs::rename(&dir, &making).unwrap();
    assert!(side.home.papers().unwrap().is_none());
    assert!(begun.home.papers().unwrap().is_none());
    Keeper::found(&side.home, &name("w1"), URL, NOW_MS).unwrap();
}
