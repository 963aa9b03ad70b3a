//! A virtual machine without a machine: memory, virtqueues and a virtio-blk driver by hand, and a VMM's end of the
//! vhost-user socket (the `vhost` crate's, which nobody here wrote).

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{Ordering, fence};
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserInflight};
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::{VhostBackend, VhostUserDirtyLogRegion, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::virtio_blk::VIRTIO_BLK_T_IN;
use virtio_bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

const QUEUE_SIZE: u16 = 128;
/// Guest memory for each queue; the VMM has it somewhere else in its own addresses.
const QUEUE_BYTES: u64 = 4 << 20;
const VMM_BASE: u64 = 0x7f00_0000_0000;
/// Requests under way in a queue; each has four descriptors and 64 KiB of memory.
pub const SLOTS: u16 = 32;
/// Data of one request.
pub const DATA_BYTES_MAX: usize = 56 << 10;

pub const OK: u8 = 0;
pub const IO_ERROR: u8 = 1;
pub const UNSUPPORTED: u8 = 2;
/// What a guest puts where the status will be.
const NOT_ANSWERED: u8 = 0xee;

/// What a guest asks.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    pub kind: u32,
    pub sector: u64,
    /// What the device reads after the header.
    pub data: Vec<u8>,
    /// How much it may write before the status.
    pub room: u32,
}

/// What the guest finds afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub slot: u16,
    pub status: u8,
    pub data: Vec<u8>,
    /// Bytes that the device says it wrote.
    pub written: u32,
}

/// How a VMM and its guest behave.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    pub event_idx: bool,
    pub indirect: bool,
}

pub const MODERN: Manners = Manners { event_idx: true, indirect: true };
pub const PLAIN: Manners = Manners { event_idx: false, indirect: false };

/// A driver's end of one queue.
pub struct Driver {
    memory: GuestMemoryMmap,
    base: u64,
    manners: Manners,
    kick: EventFd,
    pub call: Bell,
    pub error: Bell,
    available: u16,
    kicked_at: u16,
    used: u16,
    free: Vec<u16>,
    rooms: Vec<u32>,
}

/// A VMM with its guest.
pub struct Vmm {
    pub frontend: Frontend,
    pub queues: Vec<Driver>,
    memory: File,
    inflight: Option<(VhostUserInflight, File)>,
}

impl Vmm {
    /// A machine that has just been switched on.
    pub fn boot(socket: &Path, queues: usize, manners: Manners) -> Self {
        let memory: File = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap().into();
        let bytes = queues as u64 * QUEUE_BYTES;
        ftruncate(&memory, bytes).unwrap();
        let file = FileOffset::new(memory.try_clone().unwrap(), 0);
        let map =
            GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), bytes as usize, Some(file))]).unwrap();
        let queues =
            (0..queues).map(|number| Driver::new(&map, number as u64 * QUEUE_BYTES, manners)).collect();
        let frontend = Frontend::connect(socket, 64).unwrap();
        let mut vmm = Self { frontend, queues, memory, inflight: None };
        vmm.set_up();
        vmm
    }

    /// What QEMU does when the socket is back: the guest has noticed nothing.
    pub fn reconnect(&mut self, socket: &Path) {
        self.frontend = Frontend::connect(socket, 64).unwrap();
        self.set_up();
    }

    fn set_up(&mut self) {
        let Self { frontend, queues, memory, inflight } = self;
        frontend.set_owner().unwrap();
        let features = frontend.get_features().unwrap();
        let unwanted = if queues[0].manners.event_idx { 0 } else { 1 << VIRTIO_RING_F_EVENT_IDX };
        let offered = frontend.get_protocol_features().unwrap();
        frontend.set_protocol_features(offered).unwrap();
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let log_all = VhostUserVirtioFeatures::LOG_ALL.bits();
        frontend.set_features(features & !unwanted & !log_all).unwrap();
        let wanted = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD;
        assert!(offered.contains(wanted), "{offered:?}");
        assert!(frontend.get_queue_num().unwrap() >= queues.len() as u64);
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: queues.len() as u64 * QUEUE_BYTES,
            userspace_addr: VMM_BASE,
            mmap_offset: 0,
            mmap_handle: memory.as_raw_fd(),
        };
        frontend.set_mem_table(&[region]).unwrap();
        let (table, file) = inflight.get_or_insert_with(|| {
            frontend.get_inflight_fd(&VhostUserInflight::new(0, 0, queues.len() as u16, QUEUE_SIZE)).unwrap()
        });
        frontend.set_inflight_fd(table, file.as_raw_fd()).unwrap();
        self.start_queues();
    }

    /// Starts all queues after what has been answered.
    pub fn start_queues(&mut self) {
        let Self { frontend, queues, .. } = self;
        for (number, queue) in queues.iter().enumerate() {
            frontend.set_vring_num(number, QUEUE_SIZE).unwrap();
            let at = |offset| VMM_BASE + queue.base + offset;
            let config = VringConfigData {
                queue_max_size: QUEUE_SIZE,
                queue_size: QUEUE_SIZE,
                flags: 0,
                desc_table_addr: at(DESCRIPTORS),
                used_ring_addr: at(USED),
                avail_ring_addr: at(AVAILABLE),
                log_addr: None,
            };
            frontend.set_vring_base(number, queue.device_used()).unwrap();
            frontend.set_vring_addr(number, &config).unwrap();
            frontend.set_vring_call(number, &queue.call.event).unwrap();
            frontend.set_vring_err(number, &queue.error.event).unwrap();
            frontend.set_vring_kick(number, &queue.kick).unwrap();
            frontend.set_vring_enable(number, true).unwrap();
        }
    }

    /// Has the device keep a log of the guest's memory, as for a move of it: a bit for each 4 KiB.
    pub fn share_log(&mut self) -> File {
        let log: File = memfd_create("log", MemfdFlags::CLOEXEC).unwrap().into();
        let bytes = self.queues.len() as u64 * QUEUE_BYTES / 4096 / 8;
        ftruncate(&log, bytes).unwrap();
        let region =
            VhostUserDirtyLogRegion { mmap_size: bytes, mmap_offset: 0, mmap_handle: log.as_raw_fd() };
        self.frontend.set_log_base(0, Some(region)).unwrap();
        log
    }

    /// Has the log kept, or not, under a guest that goes on.
    pub fn keep_log(&mut self, kept: bool) {
        let log_all = VhostUserVirtioFeatures::LOG_ALL.bits();
        let features = self.frontend.get_features().unwrap();
        assert!(features & log_all != 0, "it is offered");
        self.frontend.set_features(if kept { features } else { features & !log_all }).unwrap();
    }

    /// Lets the device say something unasked.
    pub fn listen(&mut self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.frontend.set_backend_request_fd(&theirs).unwrap();
        ours
    }

    /// A part of the configuration space, as a number.
    pub fn config(&mut self, offset: u32, len: u32) -> u64 {
        let flags = vhost::vhost_user::message::VhostUserConfigFlags::empty();
        let (_, bytes) = self.frontend.get_config(offset, len, flags, &vec![0; len as usize]).unwrap();
        bytes.iter().rev().fold(0, |all, &byte| all << 8 | u64::from(byte))
    }
}

const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x1000;
pub const USED: u64 = 0x2000;
const SLOT: u64 = 0x10000;
const STATUS: u64 = 16;
const INDIRECT: u64 = 0x100;
pub const DATA: u64 = 0x1000;

impl Driver {
    fn new(memory: &GuestMemoryMmap, base: u64, manners: Manners) -> Self {
        Self {
            memory: memory.clone(),
            base,
            manners,
            kick: EventFd::new(0).unwrap(),
            call: Bell::new(),
            error: Bell::new(),
            available: 0,
            kicked_at: 0,
            used: 0,
            free: (0..SLOTS).rev().collect(),
            rooms: vec![0; usize::from(SLOTS)],
        }
    }

    pub fn slot(&self, slot: u16) -> u64 {
        self.base + SLOT * (1 + u64::from(slot))
    }

    fn word(&self, at: u64) -> u16 {
        self.memory.load(GuestAddress(self.base + at), Ordering::Acquire).unwrap()
    }

    fn set_word(&self, at: u64, value: u16) {
        self.memory.store(value, GuestAddress(self.base + at), Ordering::Release).unwrap();
    }

    /// How many requests the device has answered, ever.
    pub fn device_used(&self) -> u16 {
        self.word(USED + 2)
    }

    /// Writes a descriptor: its address, length, flags and next.
    pub fn describe(&self, at: u64, descriptor: (u64, u32, u32, u16)) {
        let (address, len, flags, next) = descriptor;
        let bytes = [
            &address.to_le_bytes()[..],
            &len.to_le_bytes(),
            &(flags as u16).to_le_bytes(),
            &next.to_le_bytes(),
        ]
        .concat();
        self.memory.write_slice(&bytes, GuestAddress(at)).unwrap();
    }

    /// Writes a descriptor into the queue's own table.
    pub fn describe_direct(&self, index: u16, descriptor: (u64, u32, u32, u16)) {
        self.describe(self.base + DESCRIPTORS + 16 * u64::from(index), descriptor);
    }

    /// Makes a head available.
    pub fn make_available(&mut self, head: u16) {
        self.set_word(AVAILABLE + 4 + 2 * u64::from(self.available % QUEUE_SIZE), head);
        self.available = self.available.wrapping_add(1);
        self.set_word(AVAILABLE + 2, self.available);
    }

    /// Says that more are available than there are.
    pub fn claim(&mut self, more: u16) {
        self.set_word(AVAILABLE + 2, self.available.wrapping_add(more));
        self.kick.write(1).unwrap();
    }

    /// Makes a request available without ringing; none when all slots are taken.
    pub fn submit(&mut self, ask: &Ask) -> Option<u16> {
        let slot = self.free.pop()?;
        let at = self.slot(slot);
        let header =
            [&ask.kind.to_le_bytes()[..], &[0; 4], &ask.sector.to_le_bytes(), &[NOT_ANSWERED]].concat();
        self.memory.write_slice(&header, GuestAddress(at)).unwrap();
        self.memory.write_slice(&ask.data, GuestAddress(at + DATA)).unwrap();
        self.rooms[usize::from(slot)] = ask.room;
        // Data is cut in two, so that no piece is what one expects.
        let (data, room) = (ask.data.len() as u32, ask.room);
        let mut pieces = vec![(at, 16, 0)];
        for (len, flags) in [(data, 0), (room, VRING_DESC_F_WRITE)] {
            let cut = len / 2;
            pieces.extend([(at + DATA, cut, flags), (at + DATA + u64::from(cut), len - cut, flags)]);
        }
        pieces.push((at + STATUS, 1, VRING_DESC_F_WRITE));
        pieces.retain(|&(_, len, _)| len > 0);
        let indirect = self.manners.indirect || pieces.len() > 4;
        let head = 4 * slot;
        let last = pieces.len() - 1;
        for (index, &(address, len, flags)) in pieces.iter().enumerate() {
            let (table, first) = if indirect { (at + INDIRECT, 0) } else { (self.base + DESCRIPTORS, head) };
            let index = index as u16;
            let next = if usize::from(index) == last { 0 } else { VRING_DESC_F_NEXT };
            let place = table + 16 * u64::from(first + index);
            self.describe(place, (address, len, flags | next, first + index + 1));
        }
        if indirect {
            let bytes = 16 * pieces.len() as u32;
            self.describe_direct(head, (at + INDIRECT, bytes, VRING_DESC_F_INDIRECT, 0));
        }
        self.make_available(head);
        Some(slot)
    }

    /// Rings the device's bell if it wants to hear it.
    pub fn kick(&mut self) {
        fence(Ordering::SeqCst);
        let (new, old) = (self.available, std::mem::replace(&mut self.kicked_at, self.available));
        let wants = if self.manners.event_idx {
            let event = self.word(USED + 4 + 8 * u64::from(QUEUE_SIZE));
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.word(USED) & 1 == 0
        };
        if wants {
            self.kick.write(1).unwrap();
        }
    }

    /// Wants to be told of the next answer.
    pub fn want_call(&self) {
        self.set_word(AVAILABLE + 4 + 2 * u64::from(QUEUE_SIZE), self.used);
        fence(Ordering::SeqCst);
    }

    /// Waits until the device has answered something, and takes one answer.
    pub fn wait(&mut self) -> Answer {
        loop {
            self.want_call();
            if let Some(answer) = self.take() {
                return answer;
            }
            self.call.wait();
        }
    }

    /// Takes an answer if there is one.
    pub fn take(&mut self) -> Option<Answer> {
        if self.device_used() == self.used {
            return None;
        }
        let element = self.base + USED + 4 + 8 * u64::from(self.used % QUEUE_SIZE);
        let head: u32 = self.memory.read_obj(GuestAddress(element)).unwrap();
        let written = self.memory.read_obj(GuestAddress(element + 4)).unwrap();
        self.used = self.used.wrapping_add(1);
        let slot = head as u16 / 4;
        let at = self.slot(slot);
        let mut data = vec![0; self.rooms[usize::from(slot)] as usize];
        self.memory.read_slice(&mut data, GuestAddress(at + DATA)).unwrap();
        let status = self.memory.read_obj(GuestAddress(at + STATUS)).unwrap();
        self.free.push(slot);
        Some(Answer { slot, status, data, written })
    }

    /// Asks one thing and waits for the answer.
    pub fn ask(&mut self, ask: &Ask) -> Answer {
        let slot = self.submit(ask).unwrap();
        self.kick();
        let answer = self.wait();
        assert_eq!(answer.slot, slot);
        answer
    }

    /// Rings the bell and waits for an answer.
    pub fn wait_after_kick(&mut self) -> Answer {
        self.kick();
        self.wait()
    }

    /// Whether something was made available that has not been answered.
    pub fn is_waiting(&self) -> bool {
        self.available != self.used
    }

    pub fn read(&mut self, sector: u64, len: u32) -> Vec<u8> {
        let answer = self.ask(&Ask { kind: VIRTIO_BLK_T_IN, sector, room: len, ..Ask::default() });
        assert_eq!((answer.status, answer.written), (OK, len + 1));
        answer.data
    }

    /// Asks for something of which only the status matters.
    pub fn status(&mut self, kind: u32, sector: u64, data: &[u8]) -> u8 {
        self.ask(&Ask { kind, sector, data: data.to_vec(), room: 0 }).status
    }
}

/// An eventfd that can be waited for. The device makes it unblocking, whatever it was.
pub struct Bell {
    pub event: EventFd,
    epoll: Epoll,
}

impl Bell {
    fn new() -> Self {
        let event = EventFd::new(0).unwrap();
        let epoll = Epoll::new().unwrap();
        let readable = EpollEvent::new(EventSet::IN, 0);
        epoll.ctl(ControlOperation::Add, event.as_raw_fd(), readable).unwrap();
        Self { event, epoll }
    }

    /// Takes note of whatever it was rung for.
    pub fn quiet(&self) {
        // Fails when it was not rung.
        let _ = self.event.read();
    }

    /// Waits until it has been rung, and takes note.
    pub fn wait(&self) {
        while self.epoll.wait(-1, &mut [EpollEvent::default()]).unwrap() == 0 {}
        self.event.read().unwrap();
    }
}
