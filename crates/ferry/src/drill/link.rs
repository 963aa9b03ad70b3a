//! The link between the two workers: a small TCP proxy that can be cut, stalled and reset.
//!
//! Invariant: while nothing is done to it, every byte crosses unchanged and in order.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes that one direction of a connection holds at most.
const BUFFER_BYTES: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    /// New connections are closed at once.
    is_cut: bool,
    /// Nothing crosses.
    is_stalled: bool,
    /// Connections that were made before this rose are to end.
    breaks: u64,
    /// The last of these was a reset.
    is_reset: bool,
}

/// All connections between two workers.
pub struct Link {
    state: watch::Sender<State>,
    listening: Vec<JoinHandle<()>>,
}

impl Link {
    /// A link that is well, with no way across yet.
    pub fn new() -> Self {
        Self { state: watch::Sender::new(State::default()), listening: Vec::new() }
    }

    /// Whoever connects to `near` is connected with `far`.
    ///
    /// # Errors
    /// Nobody can listen at `near`.
    pub async fn bridge(&mut self, near: SocketAddr, far: SocketAddr) -> Result<()> {
        let listener =
            TcpListener::bind(near).await.with_context(|| format!("the drill cannot listen at {near}"))?;
        let state = self.state.subscribe();
        self.listening.push(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, far, state.clone()));
            }
        }));
        Ok(())
    }

    /// Closes every connection, and lets none be made.
    pub fn cut(&self) {
        self.state.send_modify(|state| {
            *state = State { is_cut: true, is_stalled: false, breaks: state.breaks + 1, is_reset: false };
        });
    }

    /// Lets nothing cross.
    pub fn stall(&self) {
        self.state.send_modify(|state| state.is_stalled = true);
    }

    /// Resets every connection.
    pub fn reset(&self) {
        self.state.send_modify(|state| {
            *state = State { breaks: state.breaks + 1, is_reset: true, ..*state };
        });
    }

    /// Ends it, and returns when its addresses are free again.
    pub async fn close(&mut self) {
        for listening in self.listening.drain(..) {
            listening.abort();
            // That it was aborted is what was wanted.
            let _ = listening.await;
        }
    }

    /// All is well again.
    pub fn mend(&self) {
        self.state.send_modify(|state| {
            *state = State { is_cut: false, is_stalled: false, ..*state };
        });
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.listening.iter().for_each(JoinHandle::abort);
    }
}

async fn carry(mut near: TcpStream, far: SocketAddr, mut state: watch::Receiver<State>) {
    let State { is_cut, breaks, .. } = *state.borrow();
    if is_cut {
        return;
    }
    let Ok(mut far) = TcpStream::connect(far).await else { return };
    // Fails only for what is no TCP socket; the same below.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_out, near_in), (far_out, far_in)) = (near.split(), far.split());
    let there = pump(near_out, far_in, state.clone());
    let back = pump(far_out, near_in, state.clone());
    let broken = tokio::select! {
        _ = async { tokio::join!(there, back) } => None,
        broken = state.wait_for(|state| state.breaks != breaks) => broken.ok().map(|state| *state),
    };
    if broken.is_some_and(|state| state.is_reset) {
        let _ = (near.set_zero_linger(), far.set_zero_linger());
    }
}

/// Carries one direction to its end.
async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut state: watch::Receiver<State>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let can_cross = state.wait_for(|state| !state.is_stalled).await.is_ok();
        if !can_cross || to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    // The other side may have gone first.
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets, and a link to it.
    async fn echo() -> (Link, SocketAddr, SocketAddr) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = server.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        let near = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut link = Link::new();
        link.bridge(near, far).await.unwrap();
        (link, near, far)
    }

    async fn ask(stream: &mut TcpStream, byte: u8) -> std::io::Result<u8> {
        stream.write_all(&[byte]).await?;
        stream.read_u8().await
    }

    #[tokio::test]
    async fn what_crosses_a_link_that_is_well_comes_back_and_so_does_its_end() {
        let (_link, near, _) = echo().await;
        let mut stream = TcpStream::connect(near).await.unwrap();
        assert_eq!(ask(&mut stream, 7).await.unwrap(), 7);
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_link_that_is_cut_lets_nothing_cross_until_it_is_mended() {
        let (link, near, _) = echo().await;
        let mut before = TcpStream::connect(near).await.unwrap();
        assert_eq!(ask(&mut before, 7).await.unwrap(), 7);
        link.cut();
        assert_eq!(before.read(&mut [0]).await.unwrap(), 0);
        let mut meanwhile = TcpStream::connect(near).await.unwrap();
        assert!(ask(&mut meanwhile, 7).await.is_err());
        link.mend();
        let mut after = TcpStream::connect(near).await.unwrap();
        assert_eq!(ask(&mut after, 8).await.unwrap(), 8);
    }

    #[tokio::test]
    async fn a_reset_is_seen_as_one_and_new_connections_are_made_at_once() {
        let (link, near, _) = echo().await;
        let mut before = TcpStream::connect(near).await.unwrap();
        assert_eq!(ask(&mut before, 7).await.unwrap(), 7);
        link.reset();
        let error = before.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let mut after = TcpStream::connect(near).await.unwrap();
        assert_eq!(ask(&mut after, 8).await.unwrap(), 8);
    }

    #[tokio::test]
    async fn what_a_stalled_link_holds_crosses_when_it_is_mended() {
        let (link, near, far) = echo().await;
        let mut stream = TcpStream::connect(near).await.unwrap();
        assert_eq!(ask(&mut stream, 7).await.unwrap(), 7);
        link.stall();
        stream.write_all(&[8]).await.unwrap();
        // Long enough for an answer, if there were one.
        let mut direct = TcpStream::connect(far).await.unwrap();
        for byte in 0..100 {
            assert_eq!(ask(&mut direct, byte).await.unwrap(), byte);
        }
        let mut answer = [0];
        let early = stream.try_read(&mut answer);
        assert_eq!(early.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        link.mend();
        assert_eq!(stream.read_u8().await.unwrap(), 8);
    }
}
