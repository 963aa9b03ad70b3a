//! One virtqueue: which requests the guest's driver made available, and which are used, that is, answered.
//!
//! Invariant: a head is under way at most once; what is under way is in the table that the VMM keeps (see
//! [`super::inflight`]) before it is begun and until it is answered.

use super::inflight::Inflight;
use super::memory::Memory;
use crate::virtio_blk::{Broken, GuestMemory, Status};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use virtio_queue::{Queue as Ring, QueueOwnedT, QueueT};
use vm_memory::GuestAddress;

/// Most descriptors of a queue.
pub(super) const QUEUE_SIZE_MAX: u16 = 1024;

/// A request under way.
pub(super) struct UnderWay {
    /// Where the status goes.
    pub(super) status: u64,
    /// Bytes that the guest finds written when all goes well, the status included.
    pub(super) written: u32,
    /// Letters to the engine without a reply.
    pub(super) letters: u32,
    /// Whether one of them failed.
    pub(super) failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Stopped,
    Running,
    /// The driver broke the rules; nothing is taken any more until the queue is started again.
    Broken,
}

/// Why nothing more is taken from a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueueBroken {
    /// A request that cannot be answered.
    #[error(transparent)]
    Request(#[from] Broken),
    /// The rings are not, or no longer, in the guest's memory.
    #[error("its rings are not in the guest's memory")]
    Unmapped,
    /// More requests are available than the queue is long.
    #[error("more requests are available than it is long")]
    Overrun,
    /// The same head twice.
    #[error("a request is made again while it is under way")]
    Twice,
    /// The status has no place in the guest's memory.
    #[error("the status of a request is not in the guest's memory")]
    NoStatus,
}

/// The addresses of a queue's parts, as the VMM knows them.
pub(super) struct Addresses {
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

pub(super) struct Queue {
    number: usize,
    ring: Ring,
    kick: Option<File>,
    call: Option<File>,
    error: Option<File>,
    enabled: bool,
    standing: Standing,
    under_way: HashMap<u16, UnderWay>,
    /// What a server before this one began and did not answer.
    again: VecDeque<u16>,
    /// Whether something was answered since the guest was last told.
    answered: bool,
}

impl Queue {
    pub(super) fn new(number: usize) -> Self {
        Self {
            number,
            ring: Ring::new(QUEUE_SIZE_MAX).expect("the longest queue is a power of two"),
            kick: None,
            call: None,
            error: None,
            enabled: false,
            standing: Standing::Stopped,
            under_way: HashMap::new(),
            again: VecDeque::new(),
            answered: false,
        }
    }

    pub(super) fn set_size(&mut self, size: u32) -> Option<()> {
        let size = u16::try_from(size).ok()?;
        self.ring.try_set_size(size).ok()
    }

    pub(super) fn set_event_idx(&mut self, event_idx: bool) {
        self.ring.set_event_idx(event_idx);
    }

    pub(super) fn set_next_available(&mut self, next: u16) {
        self.ring.set_next_avail(next);
    }

    pub(super) fn set_call(&mut self, call: Option<File>) {
        self.call = call.map(unblocking);
        // A server before this one may have died between an answer and telling the guest of it.
        ring(self.call.as_ref());
    }

    pub(super) fn set_error(&mut self, error: Option<File>) {
        self.error = error.map(unblocking);
    }

    pub(super) fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    /// Where the rings lie; none when they cannot lie there.
    pub(super) fn set_addresses(&mut self, memory: &Memory, at: &Addresses) -> Option<()> {
        let place = |vmm| memory.guest_address(vmm).map(GuestAddress);
        self.ring.try_set_desc_table_address(place(at.descriptors)?).ok()?;
        self.ring.try_set_avail_ring_address(place(at.available)?).ok()?;
        self.ring.try_set_used_ring_address(place(at.used)?).ok()?;
        let used = self.ring.used_idx(memory.mapped(), Ordering::Acquire).ok()?;
        self.ring.set_next_used(used.0);
        Some(())
    }

    /// The driver's bell is known: from now on requests are taken.
    pub(super) fn start(&mut self, kick: File, memory: &Memory, inflight: Option<&mut Inflight>) {
        self.kick = Some(unblocking(kick));
        if self.standing == Standing::Running {
            return;
        }
        self.standing = Standing::Running;
        self.ring.set_ready(true);
        self.check(memory);
        if self.standing == Standing::Running
            && let Some(inflight) = inflight
        {
            let used = self.ring.next_used();
            self.again = inflight.start(self.number, self.ring.size(), used).into();
            if !self.again.is_empty() {
                tracing::info!(queue = self.number, requests = self.again.len(), "taken up again");
                self.ring.set_next_avail(used.wrapping_add(self.again.len() as u16));
            }
        }
    }

    /// Nothing is taken any more. What is under way stays so: see [`Queue::is_idle`].
    pub(super) fn stop(&mut self) {
        self.standing = Standing::Stopped;
        self.ring.set_ready(false);
        self.again.clear();
    }

    /// Forgets the driver's bells and gives the number of the next request that it will make.
    pub(super) fn end(&mut self) -> u16 {
        (self.kick, self.call) = (None, None);
        self.ring.next_avail()
    }

    /// Whether its rings are still where the memory is.
    pub(super) fn check(&mut self, memory: &Memory) {
        if self.standing == Standing::Running && !self.ring.is_valid(memory.mapped()) {
            self.breaks(QueueBroken::Unmapped);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// What is readable when the driver has made a request.
    pub(super) fn bell(&self) -> Option<&File> {
        self.is_taking().then_some(self.kick.as_ref()).flatten()
    }

    /// Takes note of a kick.
    pub(super) fn kicked(&mut self) {
        // All that counts is that it was readable; a bell that is none is the driver's own problem.
        let _ = self.kick.as_ref().map(|mut kick| kick.read(&mut [0; 8]));
    }

    fn is_taking(&self) -> bool {
        self.standing == Standing::Running && self.enabled
    }

    /// Where the descriptors lie, and how many there are.
    pub(super) fn table(&self) -> (u64, u16) {
        (self.ring.desc_table(), self.ring.size())
    }

    /// The head of the next request. When there is none, the driver will ring its bell for the next one.
    pub(super) fn next(&mut self, memory: &Memory) -> Option<u16> {
        if !self.is_taking() {
            return None;
        }
        if let Some(head) = self.again.pop_front() {
            return Some(head);
        }
        match self.next_available(memory) {
            Ok(head) => head,
            Err(broken) => {
                self.breaks(broken);
                None
            }
        }
    }

    fn next_available(&mut self, memory: &Memory) -> Result<Option<u16>, QueueBroken> {
        let memory = memory.mapped();
        loop {
            let broken = |error| match matches!(error, virtio_queue::Error::InvalidAvailRingIndex) {
                true => QueueBroken::Overrun,
                false => QueueBroken::Unmapped,
            };
            if let Some(chain) = self.ring.iter(memory).map_err(broken)?.next() {
                return Ok(Some(chain.head_index()));
            }
            // One may have come after the look and before the wish to be told: then look again.
            if !self.ring.enable_notification(memory).map_err(|_| QueueBroken::Unmapped)? {
                return Ok(None);
            }
        }
    }

    /// Asks the driver not to ring while its requests are being taken anyway.
    pub(super) fn be_quiet(&mut self, memory: &Memory) {
        if self.is_taking() && self.ring.disable_notification(memory.mapped()).is_err() {
            self.breaks(QueueBroken::Unmapped);
        }
    }

    /// A request was taken and is begun.
    pub(super) fn begin(&mut self, head: u16, inflight: Option<&mut Inflight>) -> Result<(), QueueBroken> {
        if self.under_way.contains_key(&head) {
            return Err(QueueBroken::Twice);
        }
        if let Some(inflight) = inflight {
            inflight.begin(self.number, head);
        }
        Ok(())
    }

    /// A request waits for replies.
    pub(super) fn wait(&mut self, head: u16, request: UnderWay) {
        self.under_way.insert(head, request);
    }

    /// A letter of a request was replied to; the request when that was the last one.
    pub(super) fn replied(&mut self, head: u16, ok: bool) -> Option<UnderWay> {
        let request = self.under_way.get_mut(&head)?;
        request.letters -= 1;
        request.failed |= !ok;
        if request.letters > 0 { None } else { self.under_way.remove(&head) }
    }

    /// Answers a request: `written` bytes were written for it, the status, which goes to `at`, included.
    pub(super) fn answer(
        &mut self,
        head: u16,
        (status, at): (Status, u64),
        written: u32,
        memory: &Memory,
        inflight: Option<&Inflight>,
    ) {
        if memory.write(at, &[status as u8]).is_err() {
            return self.breaks(QueueBroken::NoStatus);
        }
        if let Some(inflight) = inflight {
            inflight.ending(self.number, head);
        }
        if self.ring.add_used(memory.mapped(), head, written).is_err() {
            return self.breaks(QueueBroken::Unmapped);
        }
        if let Some(inflight) = inflight {
            inflight.ended(self.number, head, self.ring.next_used());
        }
        self.answered = true;
    }

    /// Tells the guest of the answers since the last time, if it wants to know.
    pub(super) fn tell(&mut self, memory: &Memory) {
        if !std::mem::take(&mut self.answered) {
            return;
        }
        match self.ring.needs_notification(memory.mapped()) {
            Ok(true) => ring(self.call.as_ref()),
            Ok(false) => {}
            Err(_) => self.breaks(QueueBroken::Unmapped),
        }
    }

    /// The driver broke the rules: nothing more is taken from this queue.
    pub(super) fn breaks(&mut self, why: QueueBroken) {
        if self.standing != Standing::Broken {
            tracing::warn!(queue = self.number, "a queue of the guest is of no further use: {why}");
            self.standing = Standing::Broken;
            ring(self.error.as_ref());
        }
    }
}

/// A bell must not make us wait, whatever the VMM says it is.
fn unblocking(bell: File) -> File {
    if let Err(e) = rustix::io::ioctl_fionbio(&bell, true) {
        tracing::debug!(error = %e, "a bell of the VMM stays as it is");
    }
    bell
}

fn ring(bell: Option<&File>) {
    // A bell that cannot be rung rings already, or nobody listens.
    let _ = bell.map(|mut bell| bell.write(&1_u64.to_ne_bytes()));
}
