//! A web server for the files of a repository, as a bucket's website, a CDN or `python -m
//! http.server` serves them.

use std::io::{BufReader, Result, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use crate::http::{Listener, ReceivedRequest, RequestLog};

/// Deviations of a server.
#[derive(Clone, Copy)]
pub struct FileServerOptions {
    /// Serves ranges of files.
    pub ranges: bool,
    /// Status for a missing file.
    pub missing: u16,
    /// Status instead of a file, for the request of this number and method `GET`.
    pub fails: fn(usize) -> Option<u16>,
    /// Further headers, each with its line end.
    pub headers: &'static str,
    /// The value of `Authorization` that each request needs.
    pub authorization: Option<&'static str>,
}

impl Default for FileServerOptions {
    fn default() -> Self {
        Self {
            ranges: true,
            missing: 404,
            fails: |_| None,
            headers: "",
            authorization: None,
        }
    }
}

type Files = dyn Fn(&str) -> Option<Vec<u8>> + Send + Sync;

/// A server of files below `/r.git`; it stops when dropped.
#[derive(Debug)]
pub struct FileServer {
    listener: Listener,
    log: Arc<RequestLog>,
}

impl FileServer {
    /// Serves what `files` returns for a path.
    pub fn new(
        options: FileServerOptions,
        files: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let log = Arc::new(RequestLog::default());
        let seen = Arc::clone(&log);
        let listener =
            Listener::start(move |stream, _| serve(stream, options, &files as &Files, &seen));
        Self { listener, log }
    }

    /// Serves the files of a folder.
    pub fn of_folder(folder: &Path, options: FileServerOptions) -> Self {
        let folder = folder.to_owned();
        Self::new(options, move |path| std::fs::read(folder.join(path)).ok())
    }

    /// Returns the URL of the files.
    pub fn url(&self) -> String {
        format!("http://{}/r.git", self.listener.address())
    }

    /// Returns the requests received until now.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.log.requests()
    }
}

fn serve(
    stream: TcpStream,
    options: FileServerOptions,
    files: &Files,
    log: &RequestLog,
) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    let Some(request) = ReceivedRequest::read_head(&mut reader)? else {
        return Ok(());
    };
    let path = request.target.split('?').next().unwrap_or_default();
    let path = path.strip_prefix("/r.git/").unwrap_or_default().to_owned();
    let range = request.headers.get("range").cloned();
    let authorization = request.headers.get("authorization").map(String::as_str);
    let is_known = options.authorization.is_none() || authorization == options.authorization;
    let number = log.push(request);
    if !is_known {
        return out.write_all(
            b"HTTP/1.1 401 X\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\
              Connection: close\r\n\r\n",
        );
    }
    let found = match (options.fails)(number) {
        Some(status) => Err(status),
        None => files(&path).ok_or(options.missing),
    };
    let (status, extra, body) = match found {
        Err(status) => (status, String::new(), Vec::new()),
        Ok(body) => match range.filter(|_| options.ranges) {
            None => (200, String::new(), body),
            Some(range) => partial(&range, &body),
        },
    };
    write!(
        out,
        "HTTP/1.1 {status} X\r\nContent-Type: application/octet-stream\r\n\
         Content-Length: {}\r\n{extra}{}Connection: close\r\n\r\n",
        body.len(),
        options.headers,
    )?;
    out.write_all(&body)?;
    out.flush()
}

/// Returns status, headers and body for a range `bytes=<first>-<last>`.
fn partial(range: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
    let parsed = range
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
        .and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    let (first, last): (usize, usize) = parsed.unwrap_or((0, usize::MAX));
    if first >= body.len() {
        return (416, String::new(), Vec::new());
    }
    let last = last.min(body.len() - 1);
    let header = format!("Content-Range: bytes {first}-{last}/{}\r\n", body.len());
    (206, header, body[first..=last].to_vec())
}
