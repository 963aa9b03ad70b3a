//! Datagrams, and values of a bucket, that only members can read and make.
//!
//! ```text
//!  version 1 │ key id 4 │ epoch 8 │ count 8 │ length 1 │ sender's name │ sealed datagram │ tag 16
//! ```
//!
//! Numbers are big-endian. AES-256-GCM under a key of the sender's own (HKDF-SHA-256 of the fleet's key with name and epoch), so
//! that the count is nonce enough; all that stands before the sealed part is authenticated with it. What was opened before, or
//! is older than the last [`WINDOW`] of its sender, is refused.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use ferry_api::WorkerName;
use std::collections::BTreeMap;
use std::fmt;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 4 + 8 + 8 + 1;
const TAG_BYTES: usize = 16;
/// What sealing adds to a datagram at most, in bytes.
pub(crate) const SEAL_BYTES_MAX: usize = HEADER_BYTES + WorkerName::BYTES_MAX + TAG_BYTES;
/// How far datagrams of one sender may overtake each other.
pub(crate) const WINDOW: u64 = 64;
/// Of how many senders it is remembered what they have sent.
const SENDERS_MAX: usize = 10_000;
/// How many keys are known at once: the newest, and those that not everybody has given up yet.
const KEYS_MAX: usize = 4;

/// Which of the fleet's keys; a later one has a higher number.
pub type KeyId = u32;

/// A key that all members of the fleet have, and nobody else.
#[derive(Clone, PartialEq, Eq)]
pub struct GossipKey {
    /// Which one.
    pub id: KeyId,
    /// The key.
    pub secret: [u8; 32],
}

impl fmt::Debug for GossipKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GossipKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// On what sealed things travel. What was sealed for one is opened on no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// Datagrams between workers.
    Datagrams,
    /// Values of a bucket that others keep.
    Bucket,
}

impl Medium {
    fn salt(self) -> &'static [u8] {
        match self {
            Self::Datagrams => b"ferry gossip 1",
            Self::Bucket => b"ferry bucket 1",
        }
    }
}

/// Why a datagram is not opened. Whoever sent it gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It is none of ours, or of another version.
    #[error("it is no datagram of this version")]
    Foreign,
    /// It was sealed with a key that is not known here.
    #[error("it was sealed with key {0}, which is not known here")]
    Key(KeyId),
    /// It was changed on its way, or is by somebody who does not have the key.
    #[error("its seal is broken")]
    Broken,
    /// It was here before, or is older than what was.
    #[error("it was here before, or is too old")]
    Repeated,
}

/// Seals a worker's datagrams and opens those of others.
pub struct Sealer {
    medium: Medium,
    me: WorkerName,
    epoch: u64,
    count: u64,
    /// Newest last; it seals.
    keys: Vec<GossipKey>,
    own: Option<LessSafeKey>,
    senders: BTreeMap<WorkerName, Sender>,
}

struct Sender {
    epoch: u64,
    key_id: KeyId,
    key: LessSafeKey,
    seen: Seen,
}

/// Which counts have been opened: all up to `highest` less [`WINDOW`], and those whose bit is set.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    highest: u64,
    bits: u64,
}

impl Seen {
    fn is_fresh(self, count: u64) -> bool {
        match self.highest.checked_sub(count) {
            None => true,
            Some(back) => back < WINDOW && self.bits >> back & 1 == 0,
        }
    }

    fn note(&mut self, count: u64) {
        match count.checked_sub(self.highest) {
            Some(ahead) => {
                self.bits = if ahead < WINDOW { self.bits << ahead | 1 } else { 1 };
                self.highest = count;
            }
            None => self.bits |= 1 << (self.highest - count),
        }
    }
}

struct KeyBytes;

impl KeyType for KeyBytes {
    fn len(&self) -> usize {
        32
    }
}

/// The key of one sender in one of its lives.
fn key_of(medium: Medium, key: &GossipKey, sender: &WorkerName, epoch: u64) -> LessSafeKey {
    let salt = Salt::new(HKDF_SHA256, medium.salt()).extract(&key.secret);
    let epoch = epoch.to_be_bytes();
    let info = [sender.as_str().as_bytes(), &epoch];
    let mut bytes = [0; 32];
    let expanded = salt.expand(&info, KeyBytes).and_then(|okm| okm.fill(&mut bytes));
    expanded.expect("32 bytes are not too many for HKDF");
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes).expect("the key has its length"))
}

fn nonce(count: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&count.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl Sealer {
    /// For the worker `me` in a life that no earlier one of it had, with the fleet's keys.
    #[must_use]
    pub fn new(medium: Medium, me: WorkerName, epoch: u64, keys: Vec<GossipKey>) -> Self {
        let (keys_known, senders) = (Vec::new(), BTreeMap::new());
        let mut sealer = Self { medium, me, epoch, count: 0, keys: keys_known, own: None, senders };
        sealer.rekey(keys);
        sealer
    }

    /// Takes other keys. The highest seals from now on; what was sealed with one that is not among them is refused.
    pub fn rekey(&mut self, mut keys: Vec<GossipKey>) {
        keys.sort_by_key(|key| key.id);
        keys.drain(..keys.len().saturating_sub(KEYS_MAX));
        self.senders.retain(|_, sender| keys.iter().any(|key| key.id == sender.key_id));
        self.own = keys.last().map(|key| key_of(self.medium, key, &self.me, self.epoch));
        self.keys = keys;
    }

    /// Forgets what a worker has sent. For those that are no members any more.
    pub fn forget(&mut self, sender: &WorkerName) {
        self.senders.remove(sender);
    }

    /// Seals a datagram; nothing without a key.
    #[must_use]
    pub fn seal(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        let (own, newest) = (self.own.as_ref()?, self.keys.last()?);
        self.count = self.count.checked_add(1)?;
        let name = self.me.as_str().as_bytes();
        let mut sealed = Vec::with_capacity(datagram.len() + SEAL_BYTES_MAX);
        sealed.push(VERSION);
        sealed.extend(newest.id.to_be_bytes());
        sealed.extend(self.epoch.to_be_bytes());
        sealed.extend(self.count.to_be_bytes());
        sealed.push(u8::try_from(name.len()).expect("names are short"));
        sealed.extend(name);
        let mut body = datagram.to_vec();
        let tag = own.seal_in_place_separate_tag(nonce(self.count), Aad::from(&sealed), &mut body);
        let tag = tag.expect("a datagram is not too long to be sealed");
        sealed.extend(body);
        sealed.extend(tag.as_ref());
        Some(sealed)
    }

    /// Opens a datagram: who sealed it, and what it says.
    ///
    /// # Errors
    /// It is none of a member's, or was here before.
    pub fn open(&mut self, sealed: &[u8]) -> Result<(WorkerName, Vec<u8>), SealError> {
        let Header { key_id, epoch, count, name, length } = Header::read(sealed).ok_or(SealError::Foreign)?;
        let (head, body) = sealed.split_at(length);
        let open = |key: &LessSafeKey| {
            let mut body = body.to_vec();
            let plain = key.open_in_place(nonce(count), Aad::from(head), &mut body).map(|plain| plain.len());
            body.truncate(plain.map_err(|_| SealError::Broken)?);
            Ok(body)
        };
        // Another of the fleet's keys is no new life: its counts go on.
        let mut seen = Seen::default();
        if let Some(known) = self.senders.get_mut(&name) {
            if epoch < known.epoch || epoch == known.epoch && !known.seen.is_fresh(count) {
                return Err(SealError::Repeated);
            }
            if (known.epoch, known.key_id) == (epoch, key_id) {
                let body = open(&known.key)?;
                known.seen.note(count);
                return Ok((name, body));
            }
            if known.epoch == epoch {
                seen = known.seen;
            }
        }
        let key = self.keys.iter().find(|key| key.id == key_id).ok_or(SealError::Key(key_id))?;
        let key = key_of(self.medium, key, &name, epoch);
        let body = open(&key)?;
        seen.note(count);
        if self.senders.len() < SENDERS_MAX || self.senders.contains_key(&name) {
            self.senders.insert(name.clone(), Sender { epoch, key_id, key, seen });
        }
        Ok((name, body))
    }
}

struct Header {
    key_id: KeyId,
    epoch: u64,
    count: u64,
    name: WorkerName,
    /// Bytes before the sealed part.
    length: usize,
}

impl Header {
    fn read(sealed: &[u8]) -> Option<Self> {
        let (version, rest) = sealed.split_first()?;
        let (key_id, rest) = rest.split_first_chunk()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        let (count, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first()?;
        let (name, body) = rest.split_at_checked(usize::from(*length))?;
        if *version != VERSION || body.len() < TAG_BYTES {
            return None;
        }
        Some(Self {
            key_id: KeyId::from_be_bytes(*key_id),
            epoch: u64::from_be_bytes(*epoch),
            count: u64::from_be_bytes(*count),
            name: std::str::from_utf8(name).ok()?.parse().ok()?,
            length: HEADER_BYTES + usize::from(*length),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(id: KeyId) -> GossipKey {
        GossipKey { id, secret: [u8::try_from(id).unwrap(); 32] }
    }

    fn sealer(name: &str, epoch: u64, keys: &[KeyId]) -> Sealer {
        let keys = keys.iter().map(|id| key(*id)).collect();
        Sealer::new(Medium::Datagrams, name.parse().unwrap(), epoch, keys)
    }

    fn opened(sealer: &mut Sealer, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        sealer.open(sealed).map(|(_, body)| body)
    }

    #[test]
    fn a_member_reads_who_has_sent_what() {
        let (mut w1, mut w2) = (sealer("w1", 7, &[1]), sealer("w2", 7, &[1]));
        let sealed = w1.seal(b"hello").unwrap();
        assert_eq!(w2.open(&sealed), Ok(("w1".parse().unwrap(), b"hello".to_vec())));
        assert!(!sealed.windows(5).any(|bytes| bytes == b"hello"));
    }

    #[test]
    fn whoever_lacks_the_key_or_changes_a_byte_is_not_heard() {
        let (mut w1, mut w2) = (sealer("w1", 7, &[1]), sealer("w2", 7, &[2]));
        let sealed = w1.seal(b"hello").unwrap();
        assert_eq!(opened(&mut w2, &sealed), Err(SealError::Key(1)));
        let mut w3 = sealer("w3", 7, &[1]);
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert!(opened(&mut w3, &bad).is_err(), "byte {at}");
        }
        assert_eq!(opened(&mut w3, &sealed), Ok(b"hello".to_vec()));
    }

    #[test]
    fn what_was_here_before_is_refused_also_in_another_order_and_of_an_earlier_life() {
        let (mut w1, mut w2) = (sealer("w1", 7, &[1]), sealer("w2", 7, &[1]));
        let sealed: Vec<Vec<u8>> = (0..70).map(|_| w1.seal(b"x").unwrap()).collect();
        for at in [1, 0, 69, 68, 6] {
            assert!(opened(&mut w2, &sealed[at]).is_ok(), "{at}");
            assert_eq!(opened(&mut w2, &sealed[at]), Err(SealError::Repeated), "{at}");
        }
        assert_eq!(opened(&mut w2, &sealed[5]), Err(SealError::Repeated), "it is older than the window");
        let later = sealer("w1", 8, &[1]).seal(b"y").unwrap();
        assert!(opened(&mut w2, &later).is_ok());
        assert_eq!(opened(&mut w2, &w1.seal(b"z").unwrap()), Err(SealError::Repeated));
    }

    #[test]
    fn a_new_key_seals_at_once_and_the_old_one_opens_until_it_is_given_up() {
        let (mut w1, mut w2) = (sealer("w1", 7, &[1]), sealer("w2", 7, &[1]));
        let old = w1.seal(b"old").unwrap();
        w2.rekey(vec![key(2), key(1)]);
        assert_eq!(opened(&mut w2, &old), Ok(b"old".to_vec()));
        w1.rekey(vec![key(1), key(2)]);
        let new = w1.seal(b"new").unwrap();
        assert_eq!(opened(&mut w2, &new), Ok(b"new".to_vec()));
        assert_eq!(opened(&mut w2, &old), Err(SealError::Repeated));
        let late = sealer("w3", 1, &[1]).seal(b"late").unwrap();
        w2.rekey(vec![key(2)]);
        assert_eq!(opened(&mut w2, &late), Err(SealError::Key(1)));
        assert_eq!(sealer("w4", 1, &[]).seal(b"none"), None);
    }

    #[test]
    fn what_was_sealed_for_a_bucket_is_no_datagram() {
        let in_a_bucket = Sealer::new(Medium::Bucket, "w1".parse().unwrap(), 7, vec![key(1)]).seal(b"hello");
        assert_eq!(opened(&mut sealer("w2", 7, &[1]), &in_a_bucket.unwrap()), Err(SealError::Broken));
    }

    proptest! {
        #[test]
        fn no_bytes_from_outside_do_any_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut w1 = sealer("w1", 7, &[1]);
            prop_assert!(w1.open(&bytes).is_err());
            prop_assert!(w1.senders.is_empty());
        }
    }
}
