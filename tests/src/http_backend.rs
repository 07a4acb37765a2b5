//! `git http-backend` behind a small HTTP server, for programs that measure and show: it
//! serves whoever asks, and fills in the media types that some clients leave out.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

/// A server of one repository, on a port that the system chose. It ends with the process.
#[derive(Debug)]
pub struct HttpBackend {
    address: SocketAddr,
    name: String,
}

impl HttpBackend {
    /// Serves the bare repository in `folder`, to read and to write.
    pub fn start(folder: &Path) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let root = folder.parent().context("it lies in a folder")?.to_owned();
        let name = folder.file_name().and_then(|name| name.to_str());
        let name = name.context("its name is text")?.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let root = root.clone();
                // What fails is seen by the client.
                std::thread::spawn(move || serve(root, stream).ok());
            }
        });
        Ok(Self { address, name })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}/{}", self.address, self.name)
    }
}

fn serve(root: PathBuf, mut out: TcpStream) -> Result<()> {
    let mut reader = BufReader::new(out.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let method = words.next().unwrap_or_default();
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let service = if target.contains("git-receive-pack") {
        "git-receive-pack"
    } else {
        "git-upload-pack"
    };
    let mut cgi = Command::new("git");
    cgi.arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", method)
        .env("REMOTE_USER", "anyone");
    if method == "POST" {
        cgi.env("CONTENT_TYPE", format!("application/x-{service}-request"));
    }
    let mut length: Option<u64> = None;
    let mut chunked = false;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else {
            break;
        };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = Some(value.parse()?),
            "transfer-encoding" => chunked = true,
            "content-encoding" => {
                cgi.env("HTTP_CONTENT_ENCODING", value);
            }
            "git-protocol" => {
                cgi.env("GIT_PROTOCOL", value);
            }
            "expect" => out.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?,
            _ => {}
        }
    }
    if let Some(length) = length {
        cgi.env("CONTENT_LENGTH", length.to_string());
    }
    let mut cgi = cgi
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("git cannot be started")?;
    let mut input = cgi.stdin.take().context("it is piped")?;
    let feeder = std::thread::spawn(move || -> Result<()> {
        if chunked {
            while let Some(length) = chunk_length(&mut reader)? {
                std::io::copy(&mut (&mut reader).take(length), &mut input)?;
                reader.read_line(&mut String::new())?;
            }
        } else {
            std::io::copy(&mut reader.take(length.unwrap_or(0)), &mut input)?;
        }
        Ok(())
    });
    let mut answer = BufReader::new(cgi.stdout.take().context("it is piped")?);
    let mut status = "200 OK".to_owned();
    let mut headers = String::new();
    loop {
        let mut line = String::new();
        answer.read_line(&mut line)?;
        match (line.trim_end(), line.strip_prefix("Status: ")) {
            ("", _) => break,
            (_, Some(told)) => told.trim_end().clone_into(&mut status),
            (header, None) => headers.extend([header, "\r\n"]),
        }
    }
    write!(
        out,
        "HTTP/1.1 {status}\r\n{headers}Connection: close\r\n\r\n"
    )?;
    std::io::copy(&mut answer, &mut out)?;
    // It may have ended before it was told everything.
    drop(feeder.join());
    cgi.wait()?;
    Ok(())
}

/// The length of the next chunk; `None` after the last one.
fn chunk_length(reader: &mut impl BufRead) -> Result<Option<u64>> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let length = u64::from_str_radix(line.trim(), 16).context("the client hung up")?;
    Ok((length > 0).then_some(length))
}
