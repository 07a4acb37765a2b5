//! HTTP/1.1 as test servers need it: requests, and the loop that accepts them.

use std::collections::BTreeMap;
use std::io::{BufRead, Error, Read as _, Result};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A request as a server received it.
#[derive(Debug, Clone, Default)]
pub struct ReceivedRequest {
    /// The method, in upper case.
    pub method: String,
    /// Path and query; for a proxy, the whole URL.
    pub target: String,
    /// The headers, their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body, decoded if it was chunked.
    pub body: Vec<u8>,
}

impl ReceivedRequest {
    /// Reads the first line and the headers; `None` if the client sent nothing.
    ///
    /// # Errors
    /// The connection fails.
    pub fn read_head(reader: &mut impl BufRead) -> Result<Option<Self>> {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let Some(method) = words.next() else {
            return Ok(None);
        };
        let mut request = Self {
            method: method.to_owned(),
            target: words.next().unwrap_or_default().to_owned(),
            ..Self::default()
        };
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                return Ok(Some(request));
            };
            request
                .headers
                .insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }

    /// Reads the body, of a declared length or in chunks.
    ///
    /// # Errors
    /// The connection fails or ends early.
    pub fn read_body(&mut self, reader: &mut impl BufRead) -> Result<()> {
        if let Some(length) = self.content_length()? {
            // Grows with what arrives: the length is only declared.
            let read = reader.take(length).read_to_end(&mut self.body)?;
            if read as u64 != length {
                return Err(Error::other("the client closed the connection early"));
            }
        } else if self.is_chunked() {
            while let Some(length) = next_chunk(reader)? {
                reader.by_ref().take(length).read_to_end(&mut self.body)?;
                reader.read_line(&mut String::new())?;
            }
        }
        Ok(())
    }

    /// Returns the declared length of the body, in bytes.
    ///
    /// # Errors
    /// The header is not a number.
    pub fn content_length(&self) -> Result<Option<u64>> {
        let length = self.headers.get("content-length");
        let length = length.map(|length| length.parse().map_err(Error::other));
        length.transpose()
    }

    /// Returns true if the body comes in chunks.
    pub fn is_chunked(&self) -> bool {
        self.headers.contains_key("transfer-encoding")
    }

    /// Returns true for a batch request of git-lfs.
    pub fn is_batch(&self) -> bool {
        self.target.ends_with("/info/lfs/objects/batch")
    }

    /// Returns the git service that the target names; `git-upload-pack` if it names none.
    pub fn service(&self) -> &'static str {
        service(&self.target)
    }
}

/// Returns the git service that `target` names; `git-upload-pack` if it names none.
pub fn service(target: &str) -> &'static str {
    if target.contains("git-receive-pack") {
        "git-receive-pack"
    } else {
        "git-upload-pack"
    }
}

/// Reads the length of the next chunk in bytes; `None` after the last chunk.
///
/// # Errors
/// The connection fails, or the line is not a length.
pub fn next_chunk(reader: &mut impl BufRead) -> Result<Option<u64>> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let length = u64::from_str_radix(line.trim(), 16)
        .map_err(|_| Error::other("the client closed the connection early"))?;
    if length == 0 {
        reader.read_line(&mut line)?;
        return Ok(None);
    }
    Ok(Some(length))
}

/// The requests that a server received, in order.
#[derive(Debug, Default)]
pub struct RequestLog(Mutex<Vec<ReceivedRequest>>);

impl RequestLog {
    /// Appends a request and returns its number, from 0.
    pub fn push(&self, request: ReceivedRequest) -> usize {
        let mut requests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        requests.push(request);
        requests.len() - 1
    }

    /// Returns a copy of all requests.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        let requests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        requests.clone()
    }
}

/// A listener on a port of `127.0.0.1` that the system chose; it stops when dropped.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Listener {
    /// Calls `serve` for each connection, in a thread of its own. Its errors are ignored:
    /// the client observes the broken connection.
    pub fn start(
        serve: impl Fn(TcpStream, SocketAddr) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("because the system has free ports");
        let address = listener.local_addr();
        let address = address.expect("because the listener is bound");
        let stopped = Arc::new(AtomicBool::new(false));
        let (serve, stop) = (Arc::new(serve), Arc::clone(&stopped));
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || {
                    let _ = serve(stream, address);
                });
            }
        });
        Self {
            address,
            stopped,
            acceptor: Some(acceptor),
        }
    }

    /// Returns the address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for a connection.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}
