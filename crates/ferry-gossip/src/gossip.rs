//! Membership and facts, as one worker takes part in them.

use crate::fact::Supersedes;
use crate::{DATAGRAM_BYTES_MAX, Digest, Fact, Facts, Member};
use ferry_api::WorkerName;
use foca::{BroadcastHandler, Config, Foca, Notification, PostcardCodec, Runtime, Timer};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::collections::BTreeSet;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Something to be done about the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a datagram, sealed, to where a member listens. It may be lost.
    Send {
        /// To whom.
        to: Member,
        /// What.
        datagram: Vec<u8>,
    },
    /// Call [`Gossip::wake`] with this, after that time. It must come; it may come late.
    Wake {
        /// After how long.
        after: Duration,
        /// With what.
        wake: Wake,
    },
    /// A worker is there.
    Up(Member),
    /// A worker has left, or nobody has heard of it for long.
    Down(WorkerName),
    /// A worker's map of machines is in a state that was not known here.
    News(Fact),
}

/// What a worker is woken for; to be given back as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wake(Timer<Member>);

/// Why a datagram was not taken. Nothing has changed by it.
#[derive(Debug, thiserror::Error)]
#[error("a datagram of another worker is not understood ({0}); look whether its version is another one")]
pub struct NotUnderstood(#[from] foca::Error);

/// One worker's part in the gossip.
pub struct Gossip {
    foca: Foca<Member, PostcardCodec, SmallRng, Listener>,
    me: WorkerName,
    heard: Arc<Mutex<Heard>>,
    up: BTreeSet<WorkerName>,
    size: NonZeroU32,
}

/// What came with the gossip, on its way to whoever asked for effects.
#[derive(Debug, Default)]
struct Heard {
    facts: Facts,
    news: Vec<Fact>,
}

struct Listener {
    heard: Arc<Mutex<Heard>>,
}

/// Nobody panics while they hold it, and what it holds is whole at each moment.
fn locked(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BroadcastHandler<Member> for Listener {
    type Key = Supersedes;
    type Error = postcard::Error;

    fn receive_item(
        &mut self,
        data: &[u8],
        from: Option<&Member>,
    ) -> Result<Option<Supersedes>, postcard::Error> {
        let fact: Fact = postcard::from_bytes(data)?;
        let mut heard = locked(&self.heard);
        if !heard.facts.learn(&fact) {
            return Ok(None);
        }
        if from.is_some() {
            heard.news.push(fact.clone());
        }
        Ok(Some(Supersedes(fact)))
    }
}

/// Collects what foca wants done.
#[derive(Default)]
struct Wants(Vec<Effect>);

impl Runtime<Member> for Wants {
    fn notify(&mut self, notification: Notification<'_, Member>) {
        match notification {
            Notification::MemberUp(member) | Notification::Rename(_, member) => {
                self.0.push(Effect::Up(member.clone()));
            }
            Notification::MemberDown(member) => self.0.push(Effect::Down(member.name.clone())),
            Notification::Active | Notification::Idle | Notification::Defunct | Notification::Rejoin(_) => {}
        }
    }

    fn send_to(&mut self, to: Member, data: &[u8]) {
        self.0.push(Effect::Send { to, datagram: data.to_vec() });
    }

    fn submit_after(&mut self, timer: Timer<Member>, after: Duration) {
        self.0.push(Effect::Wake { after, wake: Wake(timer) });
    }
}

impl Gossip {
    /// Takes part as `me`, in a fleet of about `size` workers. The `seed` decides who is told first; two workers should not have
    /// the same.
    #[must_use]
    pub fn new(me: Member, size: NonZeroU32, seed: u64) -> Self {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let listener = Listener { heard: Arc::clone(&heard) };
        let dice = SmallRng::seed_from_u64(seed);
        let name = me.name.clone();
        let foca = Foca::with_custom_broadcast(me, config(size), dice, PostcardCodec, listener);
        Self { foca, me: name, heard, up: BTreeSet::new(), size }
    }

    /// Asks one of `all` that it misses to be let in; which one the `dice` say. To be called every [`crate::SEEK_PAUSE`], for ever: the
    /// first try may be lost, and of a fleet whose workers find each other in pairs each pair would be content with itself.
    ///
    /// # Errors
    /// None that its caller could cause.
    pub fn seek(&mut self, all: &[Member], dice: u64) -> Result<Vec<Effect>, NotUnderstood> {
        let is_missed = |member: &&Member| member.name != self.me && !self.up.contains(&member.name);
        let missed: Vec<&Member> = all.iter().filter(is_missed).collect();
        let Some(count) = NonZeroUsize::new(missed.len()) else { return Ok(Vec::new()) };
        let at = missed[usize::try_from(dice % count.get() as u64).unwrap_or_default()].clone();
        self.act(|foca, wants| foca.announce(at, wants))
    }

    /// Takes a datagram that was opened.
    ///
    /// # Errors
    /// It is none of this version.
    pub fn receive(&mut self, datagram: &[u8]) -> Result<Vec<Effect>, NotUnderstood> {
        self.act(|foca, wants| foca.handle_data(datagram, wants))
    }

    /// Does what it wanted to be woken for.
    ///
    /// # Errors
    /// None that its caller could cause.
    pub fn wake(&mut self, Wake(timer): Wake) -> Result<Vec<Effect>, NotUnderstood> {
        self.act(|foca, wants| foca.handle_timer(timer, wants))
    }

    /// Tells everybody a fact of this worker.
    ///
    /// # Errors
    /// None that its caller could cause.
    pub fn tell(&mut self, fact: &Fact) -> Result<(), NotUnderstood> {
        let bytes = postcard::to_allocvec(fact).expect("a fact is plain data and always encodes");
        self.foca.add_broadcast(&bytes)?;
        Ok(())
    }

    /// Tells everybody that this worker leaves, so that nobody waits for it.
    ///
    /// # Errors
    /// None that its caller could cause.
    pub fn leave(&mut self) -> Result<Vec<Effect>, NotUnderstood> {
        self.act(|foca, wants| foca.leave_cluster(wants))
    }

    /// What is known here of whose maps are in which state.
    #[must_use]
    pub fn digest(&self) -> Digest {
        locked(&self.heard).facts.digest()
    }

    /// Takes over what another worker knows; what is news is told as news.
    pub fn compare(&mut self, theirs: &Digest) -> Vec<Effect> {
        let mut heard = locked(&self.heard);
        let lacking = heard.facts.lacking(theirs).into_iter().filter(|fact| fact.worker != self.me);
        let news: Vec<Fact> = lacking.filter(|fact| heard.facts.learn(fact)).collect();
        news.into_iter().map(Effect::News).collect()
    }

    /// Who is there, beside this worker.
    #[must_use]
    pub fn up(&self) -> &BTreeSet<WorkerName> {
        &self.up
    }

    fn act(
        &mut self,
        act: impl FnOnce(
            &mut Foca<Member, PostcardCodec, SmallRng, Listener>,
            &mut Wants,
        ) -> Result<(), foca::Error>,
    ) -> Result<Vec<Effect>, NotUnderstood> {
        let mut wants = Wants::default();
        let done = act(&mut self.foca, &mut wants);
        // Also what came of a call that failed in the end is to be done: its timers must come.
        let Wants(mut effects) = wants;
        for effect in &effects {
            match effect {
                Effect::Up(member) => drop(self.up.insert(member.name.clone())),
                Effect::Down(name) => drop(self.up.remove(name)),
                Effect::Send { .. } | Effect::Wake { .. } | Effect::News(_) => {}
            }
        }
        effects.extend(locked(&self.heard).news.drain(..).map(Effect::News));
        self.grow();
        match done {
            Err(error) if effects.is_empty() => Err(error.into()),
            Ok(()) | Err(_) => Ok(effects),
        }
    }

    /// How often things are told depends on how many there are.
    fn grow(&mut self) {
        let now = u32::try_from(self.up.len()).unwrap_or(u32::MAX).saturating_add(1);
        if now > self.size.get().saturating_mul(2) {
            self.size = NonZeroU32::new(now).unwrap_or(self.size);
            // Refused only where it would shorten datagrams, which it does not.
            let _ = self.foca.set_config(config(self.size));
        }
    }
}

fn config(size: NonZeroU32) -> Config {
    let most = NonZeroUsize::new(DATAGRAM_BYTES_MAX).expect("it is not 0");
    Config { max_packet_size: most, ..Config::new_lan(size) }
}
