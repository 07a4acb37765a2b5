//! `git http-backend`, the CGI program, behind HTTP.

use std::io::{BufRead, BufReader, Read as _, Result, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::git;
use crate::http::{Listener, ReceivedRequest, next_chunk};

/// A server of one repository for measurements and for other tools: it streams bodies, keeps
/// no log, and adds the media types that some clients leave out.
#[derive(Debug)]
pub struct HttpBackend {
    listener: Listener,
    name: String,
}

impl HttpBackend {
    /// Serves the bare repository in `folder`, to read and to write.
    ///
    /// # Errors
    /// The folder's name is not UTF-8, or it is not inside of another folder.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let root = folder.parent().context("a repository is in a folder")?;
        let root = root.to_owned();
        let name = folder.file_name().and_then(|name| name.to_str());
        let name = name.context("the repository's name is not UTF-8")?;
        Ok(Self {
            name: name.to_owned(),
            listener: Listener::start(move |stream, _| serve(&root, stream)),
        })
    }

    /// Returns the repository's URL.
    pub fn url(&self) -> String {
        format!("http://{}/{}", self.listener.address(), self.name)
    }
}

fn serve(root: &Path, mut out: TcpStream) -> Result<()> {
    let mut reader = BufReader::new(out.try_clone()?);
    let Some(mut request) = ReceivedRequest::read_head(&mut reader)? else {
        return Ok(());
    };
    if request.method == "POST" {
        let media_type = format!("application/x-{}-request", request.service());
        request
            .headers
            .insert("content-type".to_owned(), media_type);
    }
    if request.headers.contains_key("expect") {
        out.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let length = request.content_length()?;
    let mut cgi = command(root, &request);
    if let Some(length) = length {
        cgi.env("CONTENT_LENGTH", length.to_string());
    }
    let mut cgi = cgi.spawn()?;
    let mut input = cgi.stdin.take().ok_or_else(not_piped)?;
    let feeder = std::thread::spawn(move || -> Result<()> {
        if request.is_chunked() {
            while let Some(length) = next_chunk(&mut reader)? {
                std::io::copy(&mut reader.by_ref().take(length), &mut input)?;
                reader.read_line(&mut String::new())?;
            }
        } else {
            std::io::copy(&mut reader.take(length.unwrap_or(0)), &mut input)?;
        }
        Ok(())
    });
    let mut answer = BufReader::new(cgi.stdout.take().ok_or_else(not_piped)?);
    let head = CgiHead::read(&mut answer)?;
    write!(
        out,
        "HTTP/1.1 {}\r\n{}Connection: close\r\n\r\n",
        head.status, head.headers
    )?;
    std::io::copy(&mut answer, &mut out)?;
    // Git may end before it has read the whole body.
    drop(feeder.join());
    cgi.wait()?;
    Ok(())
}

fn not_piped() -> std::io::Error {
    std::io::Error::other("git's standard input and output are not piped")
}

/// Returns the CGI program for `request`, its input and output piped. `CONTENT_LENGTH` is
/// left to the caller, because a body may still be on its way.
pub(crate) fn command(root: &Path, request: &ReceivedRequest) -> Command {
    // A proxy receives whole URLs.
    let target = match request.target.strip_prefix("http://") {
        Some(rest) => &rest[rest.find('/').unwrap_or(rest.len())..],
        None => &request.target,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut cgi = git::command(root);
    cgi.arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", &request.method)
        .env("REMOTE_USER", "tester")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    for (header, variable) in [
        ("content-type", "CONTENT_TYPE"),
        ("content-encoding", "HTTP_CONTENT_ENCODING"),
        ("git-protocol", "HTTP_GIT_PROTOCOL"),
        ("git-protocol", "GIT_PROTOCOL"),
    ] {
        if let Some(value) = request.headers.get(header) {
            cgi.env(variable, value);
        }
    }
    cgi
}

/// Status and headers as a CGI program prints them.
pub(crate) struct CgiHead {
    /// Code and reason, `200 OK` unless the program says otherwise.
    pub(crate) status: String,
    /// Header lines, each with its line end.
    pub(crate) headers: String,
}

impl CgiHead {
    /// Reads up to the empty line.
    pub(crate) fn read(cgi: &mut impl BufRead) -> Result<Self> {
        let mut head = Self {
            status: "200 OK".to_owned(),
            headers: String::new(),
        };
        loop {
            let mut line = String::new();
            cgi.read_line(&mut line)?;
            let line = line.trim_end();
            if line.is_empty() {
                return Ok(head);
            }
            match line.strip_prefix("Status: ") {
                Some(status) => status.clone_into(&mut head.status),
                None => head.headers.extend([line, "\r\n"]),
            }
        }
    }
}
