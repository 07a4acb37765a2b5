//! `git http-backend` behind a small HTTP server, which can also misbehave.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use super::repo::{Repo, environment};

/// What the server does with a request.
#[derive(Clone, Default)]
pub(crate) enum Answer {
    /// What git answers.
    #[default]
    Git,
    /// What git answers, compressed.
    Gzip,
    /// What git answers, with other capabilities in the first line.
    Capabilities(&'static str),
    /// What git answers, up to so many bytes; then the connection is cut.
    Cut(usize),
    /// What git answers, up to so many bytes; then silence.
    Stall(usize),
    /// A status, a media type and a body.
    Fixed(u16, &'static str, Vec<u8>),
    /// A redirect.
    Redirect(u16, String),
    /// 200 of git's type with that body.
    Bytes(Vec<u8>),
    /// The body of the request is not read, and nothing is answered.
    Silence,
}

/// A request as the server saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub method: String,
    pub target: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

type Rule = dyn Fn(&Seen) -> Answer + Send + Sync;

pub(crate) struct Server {
    address: SocketAddr,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

struct State {
    root: PathBuf,
    rule: Box<Rule>,
    seen: Mutex<Vec<Seen>>,
    stopped: AtomicBool,
    stop: (Mutex<()>, Condvar),
}

impl Server {
    /// Serves the repository as `/r.git`.
    pub(crate) fn new(repo: &Repo) -> Self {
        Self::with(repo, |_| Answer::Git)
    }

    /// Serves it as the rule says.
    pub(crate) fn with(
        repo: &Repo,
        rule: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            root: repo.path.parent().unwrap().to_owned(),
            rule: Box::new(rule),
            seen: Mutex::default(),
            stopped: AtomicBool::new(false),
            stop: Default::default(),
        });
        let shared = Arc::clone(&state);
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    // A client that hangs up is its own business.
                    let _ = shared.serve(stream);
                });
            }
        });
        Self {
            address,
            state,
            acceptor: Some(acceptor),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/r.git", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        self.state.stop.1.notify_all();
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl State {
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut out = stream;
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let method = words.next().unwrap_or_default().to_owned();
        let target = words.next().unwrap_or_default().to_owned();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let mut seen = Seen {
            method,
            target,
            headers,
            body: Vec::new(),
        };
        // The rule may look at the body, but not for silence.
        if matches!((self.rule)(&seen), Answer::Silence) {
            self.seen.lock().unwrap().push(seen);
            self.wait();
            return Ok(());
        }
        seen.body = read_body(&mut reader, &seen.headers)?;
        let answer = (self.rule)(&seen);
        self.seen.lock().unwrap().push(seen.clone());
        match answer {
            Answer::Fixed(status, media_type, body) => {
                let length = body.len();
                write!(
                    out,
                    "HTTP/1.1 {status} X\r\nContent-Type: {media_type}\r\n\
                     Content-Length: {length}\r\nConnection: close\r\n\r\n"
                )?;
                out.write_all(&body)?;
            }
            Answer::Redirect(status, to) => write!(
                out,
                "HTTP/1.1 {status} X\r\nLocation: {to}\r\nContent-Length: 0\r\n\
                 Connection: close\r\n\r\n"
            )?,
            Answer::Bytes(body) => {
                let service = service(&seen.target);
                let kind = if seen.method == "GET" {
                    "advertisement"
                } else {
                    "result"
                };
                write!(
                    out,
                    "HTTP/1.1 200 OK\r\nContent-Type: application/x-{service}-{kind}\r\n\
                     Content-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                )?;
                out.write_all(&body)?;
            }
            answer => self.git(&seen, &answer, &mut out)?,
        }
        out.flush()?;
        out.shutdown(Shutdown::Both)
    }

    fn git(&self, seen: &Seen, answer: &Answer, out: &mut TcpStream) -> std::io::Result<()> {
        // A proxy is asked for whole URLs.
        let target = match seen.target.strip_prefix("http://") {
            Some(rest) => &rest[rest.find('/').unwrap_or(rest.len())..],
            None => &seen.target,
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut cgi = Command::new("git");
        environment(&mut cgi, &self.root);
        cgi.arg("http-backend")
            .env("GIT_PROJECT_ROOT", &self.root)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("PATH_INFO", path)
            .env("QUERY_STRING", query)
            .env("REQUEST_METHOD", &seen.method)
            .env("CONTENT_LENGTH", seen.body.len().to_string())
            .env("REMOTE_USER", "tester");
        for (header, name) in [
            ("content-type", "CONTENT_TYPE"),
            ("content-encoding", "HTTP_CONTENT_ENCODING"),
            ("git-protocol", "HTTP_GIT_PROTOCOL"),
        ] {
            if let Some(value) = seen.headers.get(header) {
                cgi.env(name, value);
            }
        }
        if let Some(version) = seen.headers.get("git-protocol") {
            cgi.env("GIT_PROTOCOL", version);
        }
        let mut child = cgi
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut stdin = child.stdin.take().unwrap();
        let body = seen.body.clone();
        let feeder = std::thread::spawn(move || {
            let _ = stdin.write_all(&body);
        });
        let mut cgi = BufReader::new(child.stdout.take().unwrap());
        let sent = self.relay(&mut cgi, answer, out);
        drop(cgi);
        let _ = feeder.join();
        let _ = child.kill();
        let _ = child.wait();
        sent
    }

    fn relay(
        &self,
        cgi: &mut impl BufRead,
        answer: &Answer,
        out: &mut TcpStream,
    ) -> std::io::Result<()> {
        let mut status = "200 OK".to_owned();
        let mut headers = String::new();
        loop {
            let mut line = String::new();
            cgi.read_line(&mut line)?;
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            match line.strip_prefix("Status: ") {
                Some(text) => text.clone_into(&mut status),
                None => headers.extend([line, "\r\n"]),
            }
        }
        if matches!(answer, Answer::Gzip) {
            headers.push_str("Content-Encoding: gzip\r\n");
        }
        write!(
            out,
            "HTTP/1.1 {status}\r\n{headers}Transfer-Encoding: chunked\r\n\
             Connection: close\r\n\r\n"
        )?;
        if matches!(answer, Answer::Gzip | Answer::Capabilities(_)) {
            let mut body = Vec::new();
            cgi.read_to_end(&mut body)?;
            let body = if let Answer::Capabilities(words) = answer {
                with_capabilities(&body, words)
            } else {
                let level = flate2::Compression::fast();
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), level);
                gzip.write_all(&body)?;
                gzip.finish()?
            };
            for piece in body.chunks(1000) {
                chunk(out, piece)?;
            }
            return out.write_all(b"0\r\n\r\n");
        }
        let (mut left, stall) = match answer {
            Answer::Cut(bytes) => (*bytes, false),
            Answer::Stall(bytes) => (*bytes, true),
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
                    self.wait();
                }
                return Ok(());
            }
        }
    }

    /// Waits until the test is over.
    fn wait(&self) {
        let mut guard = self.stop.0.lock().unwrap();
        while !self.stopped.load(Ordering::SeqCst) {
            let tick = std::time::Duration::from_millis(50);
            guard = self.stop.1.wait_timeout(guard, tick).unwrap().0;
        }
    }
}

fn chunk(out: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    write!(out, "{:x}\r\n", bytes.len())?;
    out.write_all(bytes)?;
    out.write_all(b"\r\n")
}

pub(crate) fn service(target: &str) -> &'static str {
    if target.contains("git-receive-pack") {
        "git-receive-pack"
    } else {
        "git-upload-pack"
    }
}

/// Replaces what follows the NUL in the first line with refs.
fn with_capabilities(body: &[u8], words: &str) -> Vec<u8> {
    let Some(nul) = body.iter().position(|&byte| byte == 0) else {
        return body.to_vec();
    };
    let end = nul + body[nul..].iter().position(|&byte| byte == b'\n').unwrap() + 1;
    // The line starts behind the service line's flush.
    let start = body.windows(4).position(|four| four == b"0000").unwrap() + 4;
    let line = [&body[start + 4..=nul], words.as_bytes(), b"\n"].concat();
    let digits = format!("{:04x}", line.len() + 4);
    [&body[..start], digits.as_bytes(), &line, &body[end..]].concat()
}

fn read_body(
    reader: &mut impl BufRead,
    headers: &BTreeMap<String, String>,
) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if let Some(length) = headers.get("content-length") {
        body.resize(length.parse().unwrap(), 0);
        reader.read_exact(&mut body)?;
    } else if headers.contains_key("transfer-encoding") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let length = usize::from_str_radix(line.trim(), 16)
                .map_err(|_| std::io::Error::other("the client hung up"))?;
            let start = body.len();
            body.resize(start + length, 0);
            reader.read_exact(&mut body[start..])?;
            reader.read_line(&mut line)?;
            if length == 0 {
                break;
            }
        }
    }
    Ok(body)
}
