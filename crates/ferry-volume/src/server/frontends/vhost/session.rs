//! One VMM on the socket: what it tells us with vhost-user messages, and the state that this leaves.
//!
//! The messages are those of the vhost-user protocol (QEMU, docs/interop/vhost-user.rst), parsed by the `vhost` crate.

use super::inflight::{self, Inflight, Shape};
use super::log::Log;
use super::memory::Memory;
use super::queue::{Addresses, QUEUE_SIZE_MAX, Queue};
use super::requests::Replies;
use super::{Disk, channel};
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    Error, GpuBackend, Result, VhostUserBackendReqHandlerMut, VhostUserProtocolFeatures,
    VhostUserVirtioFeatures,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

/// What is known of a VMM.
pub(super) struct Session {
    pub(super) disk: Arc<Disk>,
    pub(super) memory: Arc<Memory>,
    pub(super) inflight: Option<Inflight>,
    pub(super) queues: Vec<Queue>,
    pub(super) replies: Replies,
    /// The socket, to notice that the VMM is gone.
    peer: UnixStream,
    features: u64,
    /// What of the guest's memory is written, while the VMM moves it.
    log: Arc<Log>,
    /// Where the VMM hears of us.
    pub(super) channel: Option<UnixStream>,
    /// The queue that was looked at first in the last turn.
    pub(super) first: usize,
    /// The size of the disk that the VMM knows.
    known_bytes: u64,
}

impl Session {
    pub(super) fn new(disk: Arc<Disk>, replies: Replies, peer: UnixStream) -> Self {
        let queues = (0..usize::from(disk.queues)).map(Queue::new).collect();
        Self {
            known_bytes: disk.size_bytes(),
            disk,
            memory: Arc::default(),
            inflight: None,
            queues,
            replies,
            peer,
            features: 0,
            log: Arc::default(),
            channel: None,
            first: 0,
        }
    }

    fn queue(&mut self, index: u32) -> Result<&mut Queue> {
        self.queues.get_mut(index as usize).ok_or(Error::InvalidParam)
    }

    fn has_protocol_features(&self) -> bool {
        self.features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() != 0
    }

    fn offered(&self) -> u64 {
        let of_the_protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES | VhostUserVirtioFeatures::LOG_ALL;
        self.disk.device().features() | of_the_protocol.bits()
    }

    /// Stops a queue and waits until nothing of it is under way, or the VMM is gone.
    fn drain(&mut self, index: usize) -> Result<()> {
        self.queues[index].stop();
        while !self.queues[index].is_idle() {
            self.replies.wait(&self.peer).map_err(Error::SocketBroken)?;
            self.take_replies();
        }
        // While its bell is still known.
        self.tell();
        Ok(())
    }

    fn stop_all(&mut self) -> Result<()> {
        (0..self.queues.len()).try_for_each(|index| self.drain(index))
    }

    /// Tells the VMM when the disk has grown.
    pub(super) fn notice_growth(&mut self) {
        let size_bytes = self.disk.size_bytes();
        if std::mem::replace(&mut self.known_bytes, size_bytes) != size_bytes
            && let Some(channel) = &self.channel
        {
            channel::say_changed(channel);
        }
    }

    fn most_inflight(&self) -> Shape {
        Shape { queues: self.disk.queues, queue_size: QUEUE_SIZE_MAX }
    }
}

fn not_offered<T>() -> Result<T> {
    Err(Error::InvalidOperation("this was not offered"))
}

impl VhostUserBackendReqHandlerMut for Session {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.stop_all()
    }

    fn reset_device(&mut self) -> Result<()> {
        not_offered()
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.offered())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.offered() != 0 {
            return Err(Error::InvalidParam);
        }
        self.features = features;
        self.log.keep(features & VhostUserVirtioFeatures::LOG_ALL.bits() != 0);
        let event_idx = features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        let enabled = !self.has_protocol_features();
        for queue in &mut self.queues {
            queue.set_event_idx(event_idx);
            // Without protocol features there is no message that enables a queue.
            if enabled {
                queue.set_enabled(true);
            }
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        table: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        self.memory = Arc::new(Memory::map(table, files, &self.log)?);
        self.queues.iter_mut().for_each(|queue| queue.check(&self.memory));
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        self.queue(index)?.set_size(num).ok_or(Error::InvalidParam)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _log: u64, // the same as `used`, in the guest's addresses, which are noted anyway
    ) -> Result<()> {
        let memory = self.memory.clone();
        let addresses = Addresses { descriptors, available, used };
        self.queue(index)?.set_addresses(&memory, &addresses).ok_or(Error::InvalidParam)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        self.queue(index)?.set_next_available(base);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.queue(index)?;
        self.drain(index as usize)?;
        let next = self.queue(index)?.end();
        Ok(VhostUserVringState::new(index, u32::from(next)))
    }

    fn set_vring_kick(&mut self, index: u8, kick: Option<File>) -> Result<()> {
        let kick = kick.ok_or(Error::InvalidOperation("a queue without a bell would have to be polled"))?;
        let queue = self.queues.get_mut(usize::from(index)).ok_or(Error::InvalidParam)?;
        queue.start(kick, &self.memory, self.inflight.as_mut());
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, call: Option<File>) -> Result<()> {
        self.queue(u32::from(index))?.set_call(call);
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, error: Option<File>) -> Result<()> {
        self.queue(u32::from(index))?.set_error(error);
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::BACKEND_REQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD
            | VhostUserProtocolFeatures::LOG_SHMFD)
    }

    fn set_protocol_features(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.queues.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.queue(index)?.set_enabled(enable);
        Ok(())
    }

    fn get_config(&mut self, offset: u32, size: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        Ok(self.disk.device().config(offset, size))
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        Err(Error::InvalidOperation("nothing of the configuration can be set"))
    }

    fn get_inflight_fd(&mut self, wanted: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let shape = Shape::of(wanted, self.most_inflight()).map_err(Error::ReqHandlerError)?;
        inflight::create(shape).map_err(Error::ReqHandlerError)
    }

    fn set_inflight_fd(&mut self, kept: &VhostUserInflight, file: File) -> Result<()> {
        let shape = Shape::of(kept, self.most_inflight()).map_err(Error::ReqHandlerError)?;
        self.inflight = Some(Inflight::map(kept, shape, file).map_err(Error::ReqHandlerError)?);
        Ok(())
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        not_offered()
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        not_offered()
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        not_offered()
    }

    fn add_mem_region(
        &mut self,
        _: &VhostUserSingleMemoryRegion,
        _: File,
        _: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        not_offered()
    }

    fn remove_mem_region(&mut self, _: &VhostUserSingleMemoryRegion) -> Result<()> {
        not_offered()
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        not_offered()
    }

    fn check_device_state(&mut self) -> Result<()> {
        not_offered()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        not_offered()
    }

    fn set_log_base(&mut self, shared: &VhostUserLog, file: File) -> Result<()> {
        self.log.share(shared, file).map_err(Error::ReqHandlerError)
    }
}

impl From<Error> for super::End {
    fn from(error: Error) -> Self {
        match matches!(error, Error::Disconnected | Error::SocketBroken(_)) {
            true => Self::Left,
            false => Self::Refused(io::Error::other(error)),
        }
    }
}
