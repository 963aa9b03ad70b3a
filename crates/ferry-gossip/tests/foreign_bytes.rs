//! The fuzz bodies of this crate on stable: seeds from what workers say, and mutations of them.

#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/src/gossip.rs"]
mod gossip;
#[path = "../../../fuzz/src/smoke.rs"]
mod smoke;

use ferry_gossip::{Effect, Fact, Gossip, Medium};
use gossip::{FROM, TO, bucket, member, sealer};
use std::num::NonZeroU32;

fn fact() -> Fact {
    Fact { worker: "w1".parse().unwrap(), epoch: 7, revision: 5 }
}

/// What a worker sends another one that it seeks, with a fact of itself, and what it is answered.
fn datagrams() -> [Vec<u8>; 2] {
    let [mut from, mut to] = [FROM, TO].map(|of| Gossip::new(member(of), NonZeroU32::MIN, 1));
    from.tell(&fact()).unwrap();
    let sent = |effects: Vec<Effect>| {
        effects.into_iter().find_map(|effect| match effect {
            Effect::Send { datagram, .. } => Some(datagram),
            Effect::Wake { .. } | Effect::Up(_) | Effect::Down(_) | Effect::News(_) => None,
        })
    };
    let asked = sent(from.seek(&[member(TO)], 0).unwrap()).unwrap();
    let answered = sent(to.receive(&asked).unwrap()).unwrap();
    // The answer goes to the one that asked; the other direction comes from it.
    let told = sent(from.receive(&answered).unwrap()).unwrap_or(answered);
    [asked, told]
}

#[test]
fn any_bytes_are_sealed_by_a_member_or_are_refused() {
    let value = bucket(FROM).say(5).unwrap();
    let datagram = sealer(Medium::Datagrams, FROM).seal(&datagrams()[0]).unwrap();
    smoke::smoke("gossip_sealed", &[("value", value), ("datagram", datagram)], gossip::sealed);
}

#[test]
fn whatever_a_member_says_in_a_datagram_the_answers_fit() {
    let [asked, told] = datagrams();
    smoke::smoke("gossip_datagram", &[("asked", asked), ("told", told)], gossip::datagram);
}

#[test]
fn whatever_lies_at_a_worker_s_key_is_heard_of_that_worker_only() {
    let plain = postcard::to_allocvec(&fact()).unwrap();
    let sealed = bucket(FROM).say(5).unwrap();
    smoke::smoke("gossip_bucket_value", &[("plain", plain), ("sealed", sealed)], gossip::bucket_value);
}
