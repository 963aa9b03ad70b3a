//! Where the VMM hears of us: a second socket, for the one thing that we say unasked, that the disk has grown.
//!
//! The `vhost` crate (0.18) takes that socket but cannot send this message on it, so the message that brings the socket
//! is taken here, before that crate sees it. A message is (native-endian):
//!
//! ```text
//!  0 u32 request   4 u32 flags (1: version 1, 4: reply, 8: wants a reply)   8 u32 length of what follows
//! ```

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags};
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;

const HEADER_BYTES: usize = 12;
/// VHOST_USER_SET_BACKEND_REQ_FD
const SET_CHANNEL: u32 = 21;
/// VHOST_USER_BACKEND_CONFIG_CHANGE_MSG
const CONFIG_CHANGED: u32 = 2;
const VERSION: u32 = 1;
const REPLY: u32 = 4;
const WANTS_REPLY: u32 = 8;

fn words(header: [u8; HEADER_BYTES]) -> [u32; 3] {
    let [r0, r1, r2, r3, f0, f1, f2, f3, l0, l1, l2, l3] = header;
    [[r0, r1, r2, r3], [f0, f1, f2, f3], [l0, l1, l2, l3]].map(u32::from_ne_bytes)
}

fn header(request: u32, flags: u32, len: u32) -> Vec<u8> {
    [request, flags, len].iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Takes the next message if it is the one that brings the channel; anything else is left where it is.
///
/// # Errors
/// The message is not what it should be, or the socket failed.
pub(super) fn take(socket: &UnixStream) -> io::Result<Option<UnixStream>> {
    let mut copy = [0; HEADER_BYTES];
    let (_, len) = rustix::net::recv(socket, &mut copy[..], RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
    if len < HEADER_BYTES || words(copy)[0] != SET_CHANNEL {
        return Ok(None);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut copy)], &mut control, flags)?;
    let mut channels = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            channels.extend(descriptors);
        }
    }
    let [_, flags, body] = words(copy);
    let wrong = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    if got.bytes != HEADER_BYTES || body != 0 || got.flags.contains(ReturnFlags::CTRUNC) {
        return wrong("the message that brings the VMM's own socket is not what it should be");
    }
    let Some(channel) = channels.pop() else {
        return wrong("the message that brings the VMM's own socket brings none");
    };
    let channel = UnixStream::from(channel);
    channel.set_nonblocking(true)?;
    if flags & WANTS_REPLY != 0 {
        let mut reply = header(SET_CHANNEL, VERSION | REPLY, 8);
        reply.extend_from_slice(&0_u64.to_ne_bytes());
        (&mut &*socket).write_all(&reply)?;
    }
    Ok(Some(channel))
}

/// Says that the configuration space has changed.
pub(super) fn say_changed(channel: &UnixStream) {
    let message = header(CONFIG_CHANGED, VERSION, 0);
    if let Err(e) = rustix::net::send(channel, &message, SendFlags::NOSIGNAL) {
        tracing::warn!(error = %e, "the guest does not learn that its disk has grown");
    }
}
