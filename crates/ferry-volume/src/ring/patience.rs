//! How long to look for completions before sleeping.
//!
//! A sleeper costs whoever wakes it a wake-up, several times the work of a small request; who looks again and again costs
//! a processor. As hypervisors do with halted processors: after a sleep that was so short that looking would have caught
//! its end, look twice as long the next time; after a long one do not look at all. So an idle server never looks, and a
//! guest that asks again at once is heard at once. Where looks are in vain again and again (others want the very
//! processor that we look on) there are ever fewer of them.

use std::time::Duration;

/// Longest look before a sleep: about what a wake-up costs, so that a look in vain at most doubles the price.
const LOOK_MAX: Duration = Duration::from_micros(50);
/// The first look after a short sleep.
const LOOK_MIN: Duration = Duration::from_micros(10);
/// Most sleeps without a look after one in vain, as a power of two.
const CAUTION_MAX: u32 = 8;

/// What the last sleeps taught.
#[derive(Debug, Default)]
pub(super) struct Patience {
    look: Duration,
    /// Looks in vain, one after the other; no more than [`CAUTION_MAX`] count.
    in_vain: u32,
    /// Sleeps that are still to come without a look.
    cautious_sleeps: u32,
}

impl Patience {
    /// How long to look before sleeping.
    pub(super) fn look(&self) -> Duration {
        self.look
    }

    /// Something came while looking for so long.
    pub(super) fn found(&mut self, looked: Duration) {
        if looked < 2 * LOOK_MAX {
            self.in_vain = 0;
        } else {
            // Others had the processor for longer than they would have had it from one who is woken.
            self.looked_in_vain();
        }
    }

    /// Nothing came while looking, and then something did: `waited` in all, the look included.
    pub(super) fn slept(&mut self, waited: Duration) {
        if self.cautious_sleeps > 0 {
            self.cautious_sleeps -= 1;
        } else if waited < LOOK_MAX {
            self.look = (self.look * 2).clamp(LOOK_MIN, LOOK_MAX);
        } else if !self.look.is_zero() {
            self.looked_in_vain();
        }
    }

    fn looked_in_vain(&mut self) {
        self.look = Duration::ZERO;
        self.in_vain = (self.in_vain + 1).min(CAUTION_MAX);
        self.cautious_sleeps = 1 << self.in_vain;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(45);

    #[test]
    fn who_is_asked_again_at_once_looks_longer_each_time_and_never_too_long() {
        let mut patience = Patience::default();
        assert_eq!(patience.look(), Duration::ZERO);
        let mut looks = Vec::new();
        for _ in 0..5 {
            patience.slept(SHORT);
            looks.push(patience.look().as_micros());
        }
        assert_eq!(looks, [10, 20, 40, 50, 50]);
    }

    #[test]
    fn one_long_sleep_ends_the_looking() {
        let mut patience = Patience::default();
        patience.slept(SHORT);
        patience.slept(LOOK_MAX);
        assert_eq!(patience.look(), Duration::ZERO);
    }

    /// Looks among so many sleeps that look short until there is a look, as where the guest waits for our processor.
    fn looks_in_vain(patience: &mut Patience, sleeps: u32) -> u32 {
        let mut looks = 0;
        for _ in 0..sleeps {
            let looked = !patience.look().is_zero();
            looks += u32::from(looked);
            patience.slept(if looked { LOOK_MAX * 2 } else { SHORT });
        }
        looks
    }

    #[test]
    fn looks_in_vain_become_rare() {
        let mut patience = Patience::default();
        assert!(looks_in_vain(&mut patience, 1000) < 12);
        assert!(looks_in_vain(&mut patience, 1000) <= 4, "about one in 256");
    }

    #[test]
    fn a_look_during_which_others_had_the_processor_is_in_vain() {
        let mut patience = Patience::default();
        patience.slept(SHORT);
        patience.found(Duration::from_millis(3));
        assert_eq!(patience.look(), Duration::ZERO);
        patience.slept(SHORT);
        assert_eq!(patience.look(), Duration::ZERO, "it is cautious");
    }

    #[test]
    fn a_look_that_finds_something_ends_the_caution() {
        let mut patience = Patience::default();
        looks_in_vain(&mut patience, 10_000);
        while patience.look().is_zero() {
            patience.slept(SHORT);
        }
        patience.found(SHORT);
        assert!(looks_in_vain(&mut patience, 16) >= 2);
    }
}
