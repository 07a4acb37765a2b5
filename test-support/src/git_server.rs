//! `git http-backend` behind a server that records its requests and misbehaves on demand.

use std::fmt;
use std::io::{BufRead, BufReader, Error, Result, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::http::{Listener, ReceivedRequest, RequestLog};
use crate::http_backend::{self, CgiHead};
use crate::repo::Repo;

/// Response to a request.
#[derive(Clone, Default)]
pub enum Response {
    /// Git's own.
    #[default]
    Git,
    /// Git's own, compressed.
    Gzip,
    /// Git's own, with these capabilities in the first line.
    Capabilities(&'static str),
    /// The first bytes of git's own, this many; then the connection is closed.
    Cut(usize),
    /// The first bytes of git's own, this many; then silence.
    Stall(usize),
    /// A status, a media type and a body.
    Fixed(u16, &'static str, Vec<u8>),
    /// A redirect: its status and its target.
    Redirect(u16, String),
    /// Status 200 with git's media type and this body.
    Bytes(Vec<u8>),
    /// None: the body of the request is not read, and nothing is sent.
    Silence,
}

type Rule = dyn Fn(&ReceivedRequest) -> Response + Send + Sync;

/// A server of one repository; it stops when dropped.
#[derive(Debug)]
pub struct GitServer {
    listener: Listener,
    state: Arc<State>,
}

struct State {
    root: PathBuf,
    rule: Box<Rule>,
    log: RequestLog,
    /// Set when the server is dropped, so that stalled responses end.
    stopped: (Mutex<bool>, Condvar),
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "State({})", self.root.display())
    }
}

impl GitServer {
    /// Serves the repository as `/r.git`, as git does.
    pub fn new(repo: &Repo) -> Self {
        Self::with(repo, |_| Response::Git)
    }

    /// Serves the repository as `/r.git`; `rule` chooses each response. It is called twice a
    /// request, before the body was read and after, so that silence may come early.
    pub fn with(
        repo: &Repo,
        rule: impl Fn(&ReceivedRequest) -> Response + Send + Sync + 'static,
    ) -> Self {
        let root = repo.path.parent();
        let state = Arc::new(State {
            root: root
                .expect("because a repository is in a folder")
                .to_owned(),
            rule: Box::new(rule),
            log: RequestLog::default(),
            stopped: Default::default(),
        });
        let shared = Arc::clone(&state);
        Self {
            listener: Listener::start(move |stream, _| shared.serve(stream)),
            state,
        }
    }

    /// Returns the address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Returns the repository's URL.
    pub fn url(&self) -> String {
        format!("http://{}/r.git", self.address())
    }

    /// Returns the requests received until now.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.state.log.requests()
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        let (stopped, changed) = &self.state.stopped;
        *stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }
}

impl State {
    fn serve(&self, stream: TcpStream) -> Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut out = stream;
        let Some(mut request) = ReceivedRequest::read_head(&mut reader)? else {
            return Ok(());
        };
        if matches!((self.rule)(&request), Response::Silence) {
            self.log.push(request);
            self.wait_for_stop();
            return Ok(());
        }
        request.read_body(&mut reader)?;
        let response = (self.rule)(&request);
        self.log.push(request.clone());
        match response {
            Response::Fixed(status, media_type, body) => {
                send(&mut out, &format!("{status} X"), media_type, &body)?;
            }
            Response::Redirect(status, to) => write!(
                out,
                "HTTP/1.1 {status} X\r\nLocation: {to}\r\nContent-Length: 0\r\n\
                 Connection: close\r\n\r\n"
            )?,
            Response::Bytes(body) => {
                let kind = if request.method == "GET" {
                    "advertisement"
                } else {
                    "result"
                };
                let media_type = format!("application/x-{}-{kind}", request.service());
                send(&mut out, "200 OK", &media_type, &body)?;
            }
            response => self.run_git(request, &response, &mut out)?,
        }
        out.flush()?;
        out.shutdown(Shutdown::Both)
    }

    fn run_git(
        &self,
        request: ReceivedRequest,
        response: &Response,
        out: &mut TcpStream,
    ) -> Result<()> {
        let mut child = http_backend::command(&self.root, &request)
            .env("CONTENT_LENGTH", request.body.len().to_string())
            .spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
            return Err(Error::other(
                "git's standard input and output are not piped",
            ));
        };
        let feeder = std::thread::spawn(move || {
            // Git may end before it has read everything.
            let _ = stdin.write_all(&request.body);
        });
        let mut cgi = BufReader::new(stdout);
        let sent = self.relay(&mut cgi, response, out);
        drop(cgi);
        let _ = feeder.join();
        let _ = child.kill();
        let _ = child.wait();
        sent
    }

    fn relay(
        &self,
        cgi: &mut impl BufRead,
        response: &Response,
        out: &mut TcpStream,
    ) -> Result<()> {
        let mut head = CgiHead::read(cgi)?;
        if matches!(response, Response::Gzip) {
            head.headers.push_str("Content-Encoding: gzip\r\n");
        }
        write!(
            out,
            "HTTP/1.1 {}\r\n{}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
            head.status, head.headers
        )?;
        let rewritten = match response {
            Response::Gzip => {
                let level = flate2::Compression::fast();
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), level);
                std::io::copy(cgi, &mut gzip)?;
                Some(gzip.finish()?)
            }
            Response::Capabilities(words) => {
                let mut body = Vec::new();
                cgi.read_to_end(&mut body)?;
                Some(with_capabilities(&body, words))
            }
            _ => None,
        };
        if let Some(body) = rewritten {
            for piece in body.chunks(1000) {
                chunk(out, piece)?;
            }
            return out.write_all(b"0\r\n\r\n");
        }
        let (mut left, stall) = match response {
            Response::Cut(bytes) => (*bytes, false),
            Response::Stall(bytes) => (*bytes, true),
            _ => (usize::MAX, false),
        };
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let read = cgi.read(&mut buffer)?;
            if read == 0 {
                return out.write_all(b"0\r\n\r\n");
            }
            let send = read.min(left);
            chunk(out, &buffer[..send])?;
            left -= send;
            if left == 0 {
                out.flush()?;
                if stall {
                    self.wait_for_stop();
                }
                return Ok(());
            }
        }
    }

    /// Waits until the server is dropped.
    fn wait_for_stop(&self) {
        let (stopped, changed) = &self.stopped;
        let mut guard = stopped.lock().unwrap_or_else(PoisonError::into_inner);
        while !*guard {
            guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn send(out: &mut TcpStream, status: &str, media_type: &str, body: &[u8]) -> Result<()> {
    write!(
        out,
        "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    )?;
    out.write_all(body)
}

fn chunk(out: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    write!(out, "{:x}\r\n", bytes.len())?;
    out.write_all(bytes)?;
    out.write_all(b"\r\n")
}

/// Replaces the capabilities in the first line of an advertisement: the words between its
/// NUL and its newline.
fn with_capabilities(body: &[u8], words: &str) -> Vec<u8> {
    let find = |from: usize, part: &[u8]| {
        let at = body[from..]
            .windows(part.len())
            .position(|seen| seen == part);
        at.map(|at| from + at)
    };
    let Some(nul) = find(0, b"\0") else {
        return body.to_vec();
    };
    let end = find(nul, b"\n").expect("because the line ends") + 1;
    // The first line follows the flush packet of the service line.
    let start = find(0, b"0000").expect("because a flush packet follows the service") + 4;
    let line = [&body[start + 4..=nul], words.as_bytes(), b"\n"].concat();
    let digits = format!("{:04x}", line.len() + 4);
    [&body[..start], digits.as_bytes(), &line, &body[end..]].concat()
}
