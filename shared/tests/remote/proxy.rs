//! A relay between a client and a server that breaks connections.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Fault of a relay. The servers of these tests serve one request per connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// All connections are relayed.
    None,
    /// The connection of this number, from 1, is closed at once.
    Refuse(usize),
    /// Every n-th connection is closed at once.
    RefuseEvery(usize),
    /// The request of the connection of this number arrives, and its answer is lost.
    LoseAnswer(usize),
    /// The connection of this number and all later ones are closed at once.
    DieAt(usize),
    /// Nothing is relayed after this number of bytes in both directions.
    DieAfter(u64),
}

pub(crate) struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

struct State {
    to: SocketAddr,
    fault: Mutex<Fault>,
    connections: AtomicUsize,
    bytes: AtomicU64,
    stopped: AtomicBool,
}

impl Proxy {
    pub(crate) fn new(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            to,
            fault: Mutex::new(Fault::None),
            connections: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let shared = Arc::clone(&shared);
                // Ignored, because the client may close the connection.
                std::thread::spawn(move || drop(shared.relay(&stream)));
            }
        });
        Self {
            address,
            state,
            acceptor: Some(acceptor),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/r.git", self.address)
    }

    /// Resets the counts and sets the fault.
    pub(crate) fn set(&self, fault: Fault) {
        self.state.connections.store(0, Ordering::SeqCst);
        self.state.bytes.store(0, Ordering::SeqCst);
        *self.state.fault.lock().unwrap() = fault;
    }

    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.state.bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl State {
    fn relay(self: &Arc<Self>, client: &TcpStream) -> std::io::Result<()> {
        let number = self.connections.fetch_add(1, Ordering::SeqCst) + 1;
        let fault = *self.fault.lock().unwrap();
        let refused = match fault {
            Fault::Refuse(nth) => number == nth,
            Fault::RefuseEvery(nth) => number.is_multiple_of(nth),
            Fault::DieAt(nth) => number >= nth,
            _ => false,
        };
        if refused {
            return client.shutdown(Shutdown::Both);
        }
        let server = TcpStream::connect(self.to)?;
        let (from, to) = (client.try_clone()?, server.try_clone()?);
        let up = Arc::clone(self);
        let up = std::thread::spawn(move || up.copy(from, to, true));
        self.copy(
            server.try_clone()?,
            client.try_clone()?,
            fault != Fault::LoseAnswer(number),
        );
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
        let _ = up.join();
        Ok(())
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream, pass: bool) {
        let mut buffer = vec![0; 8192];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let before = self.bytes.fetch_add(read as u64, Ordering::SeqCst);
            let left = match *self.fault.lock().unwrap() {
                Fault::DieAfter(bytes) => bytes.saturating_sub(before),
                _ => u64::MAX,
            };
            let send = usize::try_from(left).unwrap_or(usize::MAX).min(read);
            if pass && to.write_all(&buffer[..send]).is_err() {
                break;
            }
            if send < read {
                let _ = from.shutdown(Shutdown::Both);
                break;
            }
        }
        if pass {
            let _ = to.shutdown(Shutdown::Write);
        }
    }
}
