//! A small, strict LFS server with planned misbehaviour.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";

pub(crate) fn oid(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

/// Received request.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub method: String,
    pub target: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Seen {
    pub(crate) fn is_batch(&self) -> bool {
        self.target.ends_with("/info/lfs/objects/batch")
    }
}

/// Misbehaviour instead of serving a request.
pub(crate) enum Fault {
    /// Answers a status, headers, and a body.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Closes the connection.
    HangUp,
    /// Sends bytes as long as the client reads.
    Endless,
    /// Changes the JSON of the answer.
    Changed(fn(&mut Value)),
}

fn json_type() -> Vec<(&'static str, String)> {
    vec![("Content-Type", MEDIA_TYPE.to_owned())]
}

type Rule = dyn Fn(usize, &Seen) -> Option<Fault> + Send + Sync;

struct State {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    seen: Mutex<Vec<Seen>>,
    complaints: Mutex<Vec<String>>,
    rule: Mutex<Arc<Rule>>,
    stopped: AtomicBool,
}

pub(crate) struct LfsServer {
    address: SocketAddr,
    state: Arc<State>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl LfsServer {
    pub(crate) fn new(objects: &[&[u8]]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let objects = objects.iter().map(|body| (oid(body), body.to_vec()));
        let state = Arc::new(State {
            objects: Mutex::new(objects.collect()),
            seen: Mutex::default(),
            complaints: Mutex::default(),
            rule: Mutex::new(Arc::new(|_, _| None)),
            stopped: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let (shared, stream) = (Arc::clone(&shared), stream.unwrap());
                std::thread::spawn(move || {
                    // Ignored, because a client may close its connection.
                    let _ = shared.serve(address, stream);
                });
            }
        });
        Self {
            address,
            state,
            thread: Some(thread),
        }
    }

    /// Calls `rule` with each request and its number, from 0, before serving it.
    pub(crate) fn rule(
        &self,
        rule: impl Fn(usize, &Seen) -> Option<Fault> + Send + Sync + 'static,
    ) {
        *self.state.rule.lock().unwrap() = Arc::new(rule);
    }

    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the URL of the repository whose objects are served.
    pub(crate) fn url(&self) -> String {
        format!("{}/r", self.base())
    }

    pub(crate) fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        self.state.objects.lock().unwrap().clone()
    }

    pub(crate) fn put(&self, name: &str, body: &[u8]) {
        let mut objects = self.state.objects.lock().unwrap();
        objects.insert(name.to_owned(), body.to_vec());
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Returns the number of requests of a method, without batches.
    pub(crate) fn count(&self, method: &str) -> usize {
        let seen = self.seen();
        let counted = seen
            .iter()
            .filter(|request| request.method == method && !request.is_batch());
        counted.count()
    }

    pub(crate) fn batches(&self) -> usize {
        self.seen()
            .iter()
            .filter(|request| request.is_batch())
            .count()
    }

    /// Asserts that all requests followed git-lfs's specification.
    pub(crate) fn assert_content(&self) {
        let complaints = self.state.complaints.lock().unwrap();
        assert!(
            complaints.is_empty(),
            "the server complains: {complaints:?}"
        );
    }
}

impl Drop for LfsServer {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    fn serve(&self, address: SocketAddr, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut out = stream;
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let mut seen = Seen {
            method: words.next().unwrap_or_default().to_owned(),
            target: words.next().unwrap_or_default().to_owned(),
            headers: BTreeMap::new(),
            body: Vec::new(),
        };
        if seen.method.is_empty() {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            seen.headers
                .insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        if let Some(length) = seen.headers.get("content-length") {
            seen.body.resize(length.parse().unwrap(), 0);
            reader.read_exact(&mut seen.body)?;
        } else if seen.headers.contains_key("transfer-encoding") {
            self.complain("a body without its length");
        }
        let number = {
            let mut all = self.seen.lock().unwrap();
            all.push(seen.clone());
            all.len() - 1
        };
        let rule = Arc::clone(&self.rule.lock().unwrap());
        let (status, headers, body) = match rule(number, &seen) {
            Some(Fault::HangUp) => return Ok(()),
            Some(Fault::Answer(status, headers, body)) => (status, headers, body),
            Some(Fault::Endless) => {
                write!(out, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
                loop {
                    out.write_all(&[b'a'; 8192])?;
                }
            }
            Some(Fault::Changed(change)) => {
                let (status, body) = self.answer(address, &seen);
                let mut body: Value = serde_json::from_slice(&body).unwrap();
                change(&mut body);
                (status, json_type(), serde_json::to_vec(&body).unwrap())
            }
            None => {
                let (status, body) = self.answer(address, &seen);
                (status, json_type(), body)
            }
        };
        let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n");
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        write!(head, "Content-Length: {}\r\n\r\n", body.len()).unwrap();
        out.write_all(head.as_bytes())?;
        out.write_all(&body)
    }

    fn complain(&self, what: &str) -> (u16, Vec<u8>) {
        self.complaints.lock().unwrap().push(what.to_owned());
        (422, json!({"message": what}).to_string().into_bytes())
    }

    fn answer(&self, address: SocketAddr, seen: &Seen) -> (u16, Vec<u8>) {
        let header = |name: &str| seen.headers.get(name).map_or("", String::as_str);
        if seen.target.ends_with("/locks/verify") {
            return (404, json!({"message": "no locks"}).to_string().into_bytes());
        }
        if seen.method == "POST"
            && (!header("accept").starts_with(MEDIA_TYPE)
                || !header("content-type").starts_with(MEDIA_TYPE))
        {
            return self.complain("the media type of a POST does not match");
        }
        if seen.is_batch() {
            return self.batch(address, seen);
        }
        let path = seen.target.split('?').next().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        if header("x-token") != format!("for {name}") || !seen.target.ends_with("?sig=s") {
            return self.complain("the action's header or query is missing");
        }
        let mut objects = self.objects.lock().unwrap();
        match seen.method.as_str() {
            "GET" => match objects.get(name) {
                Some(body) => (200, body.clone()),
                None => (404, Vec::new()),
            },
            "PUT" if header("content-type").is_empty() => self.complain("a PUT without a type"),
            "PUT" if oid(&seen.body) != name => self.complain("the object does not match its name"),
            "PUT" => {
                objects.insert(name.to_owned(), seen.body.clone());
                (200, Vec::new())
            }
            "POST" => {
                let asked: Value = serde_json::from_slice(&seen.body).unwrap();
                let there = objects.get(name).map_or(0, Vec::len);
                if asked != json!({"oid": name, "size": there}) {
                    return self.complain("a wrong verification");
                }
                (200, Vec::new())
            }
            _ => self.complain("an unknown method"),
        }
    }

    fn batch(&self, address: SocketAddr, seen: &Seen) -> (u16, Vec<u8>) {
        let Ok(asked) = serde_json::from_slice::<Value>(&seen.body) else {
            return self.complain("no JSON");
        };
        let transfers = asked["transfers"].as_array().cloned().unwrap_or_default();
        let Some(objects) = asked["objects"].as_array() else {
            return self.complain("no objects");
        };
        if objects.is_empty() || objects.len() > 100 || !transfers.contains(&json!("basic")) {
            return self.complain("no batch of 1 to 100 objects by basic transfers");
        }
        let upload = asked["operation"] == "upload";
        let there = self.objects.lock().unwrap();
        // In another order than that of the request.
        let told = objects.iter().rev().map(|object| {
            let name = object["oid"].as_str().unwrap();
            let action = |path: &str| {
                json!({
                    "href": format!("http://{address}/{path}/{name}?sig=s"),
                    "header": {"X-Token": format!("for {name}")},
                    "expires_in": 3600,
                })
            };
            match (upload, there.contains_key(name)) {
                (false, true) => json!({"oid": name, "size": object["size"], "authenticated": true,
                    "actions": {"download": action("o")}}),
                (true, false) => json!({"oid": name, "size": object["size"], "authenticated": true,
                    "actions": {"upload": action("o"), "verify": action("verify")}}),
                (true, true) => json!({"oid": name, "size": object["size"]}),
                (false, false) => json!({"oid": name, "size": object["size"],
                    "error": {"code": 404, "message": "Object does not exist"}}),
            }
        });
        let told: Vec<Value> = told.collect();
        let answer = json!({"transfer": "basic", "objects": told});
        (200, answer.to_string().into_bytes())
    }
}
