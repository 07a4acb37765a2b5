//! A strict LFS server that misbehaves on demand.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::{BufReader, Result, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::http::{Listener, ReceivedRequest, RequestLog};

const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";

/// Returns the LFS id of `content`: its SHA-256 in hex.
pub fn oid(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

/// Misbehaviour of the server at one request.
pub enum Fault {
    /// A status, headers, and a body.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// The connection is closed without a response.
    HangUp,
    /// Bytes without an end, as long as the client reads.
    Endless,
    /// The right answer, of which this many bytes are sent before the connection is closed.
    Cut(usize),
    /// The right answer, of which this many bytes are sent, and no more.
    Stall(usize),
    /// The right JSON, changed.
    Changed(fn(&mut Value)),
}

type Rule = dyn Fn(usize, &ReceivedRequest) -> Option<Fault> + Send + Sync;

struct State {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    log: RequestLog,
    /// Violations of git-lfs's documents by clients.
    complaints: Mutex<Vec<String>>,
    rule: Mutex<Arc<Rule>>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "State({} objects)", lock(&self.objects).len())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server of one repository's LFS objects; it stops when dropped.
#[derive(Debug)]
pub struct LfsServer {
    listener: Listener,
    state: Arc<State>,
}

impl LfsServer {
    /// Serves `objects`, given by their contents.
    pub fn new(objects: &[&[u8]]) -> Self {
        let objects = objects.iter().map(|body| (oid(body), body.to_vec()));
        let state = Arc::new(State {
            objects: Mutex::new(objects.collect()),
            log: RequestLog::default(),
            complaints: Mutex::default(),
            rule: Mutex::new(Arc::new(|_, _| None)),
        });
        let shared = Arc::clone(&state);
        Self {
            listener: Listener::start(move |stream, address| shared.serve(address, stream)),
            state,
        }
    }

    /// Has `rule` choose a fault for each request, which is given with its number from 0.
    pub fn rule(
        &self,
        rule: impl Fn(usize, &ReceivedRequest) -> Option<Fault> + Send + Sync + 'static,
    ) {
        *lock(&self.state.rule) = Arc::new(rule);
    }

    /// Returns the URL of the server.
    pub fn base(&self) -> String {
        format!("http://{}", self.listener.address())
    }

    /// Returns the URL of the repository whose objects are served.
    pub fn url(&self) -> String {
        format!("{}/r", self.base())
    }

    /// Returns the stored objects by their ids.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        lock(&self.state.objects).clone()
    }

    /// Stores `body` under `name`, whether that is its id or not.
    pub fn put(&self, name: &str, body: &[u8]) {
        lock(&self.state.objects).insert(name.to_owned(), body.to_vec());
    }

    /// Returns the requests received until now.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.state.log.requests()
    }

    /// Returns the number of requests with this method that are not batch requests.
    pub fn count(&self, method: &str) -> usize {
        let requests = self.requests();
        let counted = requests
            .iter()
            .filter(|request| request.method == method && !request.is_batch());
        counted.count()
    }

    /// Returns the number of batch requests.
    pub fn batches(&self) -> usize {
        self.requests()
            .iter()
            .filter(|request| request.is_batch())
            .count()
    }

    /// Asserts that all requests were as git-lfs's documents describe them.
    pub fn assert_content(&self) {
        let complaints = lock(&self.state.complaints);
        assert!(
            complaints.is_empty(),
            "requests follow git-lfs's documents: {complaints:?}"
        );
    }
}

impl State {
    fn serve(&self, address: SocketAddr, stream: TcpStream) -> Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut out = stream;
        let Some(mut request) = ReceivedRequest::read_head(&mut reader)? else {
            return Ok(());
        };
        if request.is_chunked() {
            self.complain("a body has no declared length");
        }
        request.read_body(&mut reader)?;
        let number = self.log.push(request.clone());
        let rule = Arc::clone(&lock(&self.rule));
        let fault = rule(number, &request);
        let sent_bytes = match &fault {
            Some(Fault::Cut(sent_bytes) | Fault::Stall(sent_bytes)) => *sent_bytes,
            _ => usize::MAX,
        };
        let stalls = matches!(fault, Some(Fault::Stall(_)));
        let (status, mut headers, body) = match fault {
            Some(Fault::HangUp) => return Ok(()),
            Some(Fault::Answer(status, headers, body)) => (status, headers, body),
            Some(Fault::Endless) => {
                write!(out, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
                loop {
                    out.write_all(&[b'a'; 8192])?;
                }
            }
            Some(Fault::Changed(change)) => {
                let (status, body) = self.answer(address, &request);
                let mut body: Value = serde_json::from_slice(&body)?;
                change(&mut body);
                (status, json_type(), serde_json::to_vec(&body)?)
            }
            None | Some(Fault::Cut(_) | Fault::Stall(_)) => {
                let (status, body) = self.answer(address, &request);
                (status, json_type(), body)
            }
        };
        let (status, body) = match range(&request).filter(|_| status == 200) {
            Some(start) if start < body.len() => {
                let range = format!("bytes {start}-{}/{}", body.len() - 1, body.len());
                headers.push(("Content-Range", range));
                (206, body[start..].to_vec())
            }
            _ => (status, body),
        };
        let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n");
        for (name, value) in headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let _ = write!(head, "Content-Length: {}\r\n\r\n", body.len());
        out.write_all(head.as_bytes())?;
        out.write_all(&body[..body.len().min(sent_bytes)])?;
        if stalls {
            // Ends when the client closes the connection.
            std::io::Read::read(&mut reader, &mut [0])?;
        }
        Ok(())
    }

    fn complain(&self, what: &str) -> (u16, Vec<u8>) {
        lock(&self.complaints).push(what.to_owned());
        (422, json!({"message": what}).to_string().into_bytes())
    }

    fn answer(&self, address: SocketAddr, request: &ReceivedRequest) -> (u16, Vec<u8>) {
        let header = |name: &str| request.headers.get(name).map_or("", String::as_str);
        if request.target.ends_with("/locks/verify") {
            return (404, json!({"message": "no locks"}).to_string().into_bytes());
        }
        if request.method == "POST"
            && (!header("accept").starts_with(MEDIA_TYPE)
                || !header("content-type").starts_with(MEDIA_TYPE))
        {
            return self.complain("the media type of a POST is not git-lfs's");
        }
        if request.is_batch() {
            return self.batch(address, request);
        }
        let path = request.target.split('?').next().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        if header("x-token") != format!("for {name}") || !request.target.ends_with("?sig=s") {
            return self.complain("the action's header or query is missing");
        }
        let mut objects = lock(&self.objects);
        match request.method.as_str() {
            "GET" => match objects.get(name) {
                Some(body) => (200, body.clone()),
                None => (404, Vec::new()),
            },
            "PUT" if header("content-type").is_empty() => self.complain("a PUT without a type"),
            "PUT" if oid(&request.body) != name => {
                self.complain("the content of a PUT does not match its id")
            }
            "PUT" => {
                objects.insert(name.to_owned(), request.body.clone());
                (200, Vec::new())
            }
            "POST" => {
                let verified: Value = serde_json::from_slice(&request.body).unwrap_or_default();
                let size = objects.get(name).map_or(0, Vec::len);
                if verified != json!({"oid": name, "size": size}) {
                    return self.complain("a verification does not match the stored object");
                }
                (200, Vec::new())
            }
            _ => self.complain("an unknown method"),
        }
    }

    fn batch(&self, address: SocketAddr, request: &ReceivedRequest) -> (u16, Vec<u8>) {
        let Ok(batch) = serde_json::from_slice::<Value>(&request.body) else {
            return self.complain("a batch request is not JSON");
        };
        let transfers = batch["transfers"].as_array().cloned().unwrap_or_default();
        let Some(objects) = batch["objects"].as_array() else {
            return self.complain("a batch request has no list of objects");
        };
        if objects.is_empty() || objects.len() > 100 || !transfers.contains(&json!("basic")) {
            return self.complain("a batch request is not for 1 to 100 objects by basic transfers");
        }
        let upload = batch["operation"] == "upload";
        let stored = lock(&self.objects);
        // In reverse, because clients may not rely on the order of their request.
        let listed = objects.iter().rev().map(|object| {
            let name = object["oid"].as_str().unwrap_or_default();
            let action = |path: &str| {
                json!({
                    "href": format!("http://{address}/{path}/{name}?sig=s"),
                    "header": {"X-Token": format!("for {name}")},
                    "expires_in": 3600,
                })
            };
            match (upload, stored.contains_key(name)) {
                (false, true) => json!({"oid": name, "size": object["size"], "authenticated": true,
                    "actions": {"download": action("o")}}),
                (true, false) => json!({"oid": name, "size": object["size"], "authenticated": true,
                    "actions": {"upload": action("o"), "verify": action("verify")}}),
                (true, true) => json!({"oid": name, "size": object["size"]}),
                (false, false) => json!({"oid": name, "size": object["size"],
                    "error": {"code": 404, "message": "Object does not exist"}}),
            }
        });
        let listed: Vec<Value> = listed.collect();
        let answer = json!({"transfer": "basic", "objects": listed});
        (200, answer.to_string().into_bytes())
    }
}

/// Returns the start of the range that a download requests: `bytes=START-`.
fn range(request: &ReceivedRequest) -> Option<usize> {
    let range = request
        .headers
        .get("range")
        .filter(|_| request.method == "GET")?;
    range
        .strip_prefix("bytes=")?
        .strip_suffix('-')?
        .parse()
        .ok()
}

fn json_type() -> Vec<(&'static str, String)> {
    vec![("Content-Type", MEDIA_TYPE.to_owned())]
}
