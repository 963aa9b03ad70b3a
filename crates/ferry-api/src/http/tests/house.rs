//! An agent behind entrances: it answers each call with an empty list, and its gate knows a few callers.

use super::certificates::{Authority, Signed};
use crate::http::{Call, Carried, Client, Courier, Entrance, ServerTls, serve};
use crate::{ApiError, Caller, ErrorCode, Gate, Presented, Role};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

#[derive(Debug)]
struct Empty;

impl Courier for Empty {
    fn carry(&self, _call: Call) -> Carried<'_> {
        Box::pin(async { Ok((200, b"[]".to_vec())) })
    }
}

/// Knows tokens that are called like roles, and the certificates that it is told of.
#[derive(Default)]
pub struct Book {
    workers: Mutex<Vec<(Vec<u8>, String)>>,
    /// Who was let in last.
    pub last: Mutex<Option<Caller>>,
}

impl Book {
    pub fn knows(&self, signed: &Signed, name: &str) {
        self.workers.lock().unwrap().push((signed.certificate.to_vec(), name.to_owned()));
    }

    pub fn forget_all(&self) {
        self.workers.lock().unwrap().clear();
    }

    pub fn last(&self) -> Option<String> {
        self.last.lock().unwrap().as_ref().map(ToString::to_string)
    }
}

impl Gate for Book {
    fn admit(&self, presented: Presented<'_>) -> Result<Caller, ApiError> {
        let caller = match presented {
            Presented::Certificate(shown) => {
                let workers = self.workers.lock().unwrap();
                let known = workers.iter().find(|(certificate, _)| certificate == shown);
                known.map(|(_, name)| Caller::Worker(name.parse().unwrap()))
            }
            Presented::Token(token) => {
                token.parse::<Role>().ok().map(|role| Caller::Token { name: token.to_owned(), role })
            }
        };
        self.last.lock().unwrap().clone_from(&caller);
        caller.ok_or_else(|| ApiError::new(ErrorCode::Unauthenticated, "nobody knows that"))
    }
}

pub struct House {
    pub authority: Authority,
    pub book: Arc<Book>,
    pub tls: ServerTls,
    pub address: SocketAddr,
    pub open: SocketAddr,
    socket: PathBuf,
    serving: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Drop for House {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl House {
    pub async fn build() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (authority, book) = (Authority::new(), Arc::new(Book::default()));
        let tls = authority.server_tls(&authority.sign());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = dir.path().join("agent.sock");
        let (address, open_at) = (listener.local_addr().unwrap(), open.local_addr().unwrap());
        let gate: Arc<dyn Gate> = book.clone();
        let entrances = vec![
            Entrance::Secured { listener, tls: tls.clone(), gate },
            Entrance::Local(UnixListener::bind(&socket).unwrap()),
            Entrance::Open(open),
        ];
        let agent = Arc::new(Client::by_courier("empty", Arc::new(Empty)));
        let serving = tokio::spawn(serve(entrances, agent, std::future::pending()));
        Self { authority, book, tls, address, open: open_at, socket, serving, _dir: dir }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub fn socket_url(&self) -> String {
        format!("unix:{}", self.socket.display())
    }

    /// Somebody who shows nothing.
    pub fn stranger(&self) -> Client {
        Client::secured(&self.url(), self.authority.client_tls(None)).unwrap()
    }

    pub fn by_token(&self, token: &str) -> Client {
        self.stranger().with_token(token).unwrap()
    }

    /// A worker whom the gate knows by that name.
    pub fn worker(&self, name: &str) -> Client {
        let signed = self.authority.sign();
        self.book.knows(&signed, name);
        Client::secured(&self.url(), self.authority.client_tls(Some(&signed))).unwrap()
    }
}
