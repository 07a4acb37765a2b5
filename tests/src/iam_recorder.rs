//! A proxy in front of a service with AWS JSON that records the IAM action and the resource
//! of each request.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// A request, as IAM sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedAction {
    /// IAM's name of the action.
    pub action: String,
    /// Resource, as the request names it.
    pub resource: String,
    /// True if the service answered without an error.
    pub well: bool,
}

/// The proxy, on a port that the system chose, until the process ends.
#[derive(Debug)]
pub struct IamActionRecorder {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<RecordedAction>>>,
}

impl IamActionRecorder {
    /// Passes all on to the service at `to` (`host:port`).
    pub fn start(to: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let recorder = Self {
            address: listener.local_addr()?,
            seen: Arc::default(),
        };
        let (to, seen) = (to.to_owned(), Arc::clone(&recorder.seen));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (to, seen) = (to.clone(), Arc::clone(&seen));
                // What fails is seen by the client.
                std::thread::spawn(move || pass(stream, &to, &seen).ok());
            }
        });
        Ok(recorder)
    }

    /// Returns the URL of the proxy.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the requests recorded until now.
    pub fn seen(&self) -> Vec<RecordedAction> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }
}

/// Forwards one request, and its response back.
fn pass(mut client: TcpStream, to: &str, seen: &Mutex<Vec<RecordedAction>>) -> Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    let (mut target, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            if line.trim_end().is_empty() {
                break;
            }
            head.push_str(&line);
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            "x-amz-target" => value.clone_into(&mut target),
            "content-length" => length = value.parse()?,
            "connection" => continue,
            _ => {}
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut service = TcpStream::connect(to)?;
    write!(service, "{head}Connection: close\r\n\r\n")?;
    service.write_all(&body)?;
    let mut answer = Vec::new();
    service.read_to_end(&mut answer)?;
    let well = answer.starts_with(b"HTTP/1.1 200");
    let asked = asked(&target, &body, well)?;
    seen.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(asked);
    client.write_all(&answer)?;
    Ok(())
}

fn asked(target: &str, body: &[u8], well: bool) -> Result<RecordedAction> {
    let (service, operation) = target.split_once('.').context("it has a target")?;
    let service = match service {
        "AmazonSSM" => "ssm",
        other => other,
    };
    let body: Value = serde_json::from_slice(body)?;
    let resource = body["SecretId"].as_str().or(body["Name"].as_str());
    Ok(RecordedAction {
        action: format!("{service}:{operation}"),
        resource: resource.context("it is about something")?.to_owned(),
        well,
    })
}
