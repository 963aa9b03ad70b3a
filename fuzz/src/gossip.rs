//! What workers hear of each other, by datagrams and in a bucket: before its seal is looked at, and from a member gone mad behind it.

use ferry_gossip::{
    Bucket, DATAGRAM_BYTES_MAX, Effect, Fleet, Gossip, GossipKey, Medium, Member, Sealer, Seen,
};
use std::num::NonZeroU32;

const FLEET: &str = "0123456789abcdef";
const KEY: GossipKey = GossipKey { id: 1, secret: [7; 32] };
/// Who speaks.
pub const FROM: (&str, u64) = ("w1", 7);
/// Who listens.
pub const TO: (&str, u64) = ("w2", 7);

/// What seals the words of a worker.
pub fn sealer(medium: Medium, (name, epoch): (&str, u64)) -> Sealer {
    Sealer::new(medium, name.parse().expect("it is a name"), epoch, vec![KEY])
}

/// The part of a worker in the bucket of a fleet of two.
pub fn bucket((name, epoch): (&str, u64)) -> Bucket {
    let members = [FROM, TO].map(|(name, _)| name.parse().expect("it is a name")).into();
    let me = (name.parse().expect("it is a name"), epoch);
    Bucket::new(me, FLEET, Fleet { members, keys: vec![KEY] })
}

/// A worker as others know it.
pub fn member((name, epoch): (&str, u64)) -> Member {
    let address = "127.0.0.1:7433".parse().expect("it is an address");
    Member { name: name.parse().expect("it is a name"), address, epoch }
}

/// Any bytes are a member's, or are refused; the same are never taken twice.
pub fn sealed(bytes: &[u8]) {
    for medium in [Medium::Datagrams, Medium::Bucket] {
        let mut to = sealer(medium, TO);
        if to.open(bytes).is_ok() {
            assert!(to.open(bytes).is_err(), "it was taken twice");
        }
    }
}

/// Whatever a member says in a datagram, the answers fit into datagrams.
pub fn datagram(bytes: &[u8]) {
    let mut to = Gossip::new(member(TO), NonZeroU32::MIN, 1);
    for effect in to.receive(bytes).into_iter().flatten() {
        match effect {
            Effect::Send { datagram, .. } => assert!(datagram.len() <= DATAGRAM_BYTES_MAX),
            Effect::Wake { wake, .. } => drop(to.wake(wake)),
            Effect::Up(_) | Effect::Down(_) | Effect::News(_) => {}
        }
    }
    assert!(!to.up().contains(&member(TO).name), "it heard that it is there itself");
}

/// Whatever a member puts at its key, and whatever somebody else puts there, it is heard of that member only.
pub fn bucket_value(bytes: &[u8]) {
    let by = member(FROM).name;
    let of_itself = sealer(Medium::Bucket, FROM).seal(bytes).expect("there is a key");
    for value in [bytes, &of_itself] {
        let mut to = bucket(TO);
        for seen in to.read(&bucket(FROM).key(), value, 0).into_iter().flatten() {
            match seen {
                Seen::Up(name) | Seen::Down(name) => assert_eq!(name, by),
                Seen::News(fact) => assert_eq!(fact.worker, by),
            }
        }
        assert!(to.digest().keys().all(|name| *name == by), "{:?}", to.digest());
    }
}
