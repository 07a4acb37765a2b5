//! The advertisement of a server: its capabilities and its refs, in protocol versions 0, 1
//! and 2 (`gitprotocol-pack`, `gitprotocol-v2`).

use std::collections::BTreeMap;
use std::fmt;

use bstr::{BString, ByteSlice};
use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::protocol::pkt_line::{Encoder, Packet, server_error};
use crate::refs::{Head, IgnoredRefs};
use crate::{
    AGENT, HashKind, ObjectId, check_ref_name, corrupt, escaped_excerpt, parse_id, split_id,
};

/// The most bytes of refs that are read from a server: about a million refs.
pub const MAX_REF_BYTES: usize = 64 * 1024 * 1024;
/// The most capabilities that are read from a server; git itself offers about twenty.
pub const MAX_CAPABILITIES: usize = 1000;

/// A service of a git server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Fetching.
    UploadPack,
    /// Pushing.
    ReceivePack,
}

impl Service {
    /// Returns `git-upload-pack` or `git-receive-pack`.
    pub fn name(self) -> &'static str {
        match self {
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Version 0, and version 1, which differs in its first line only.
    V0,
    /// Version 2, which has commands.
    V2,
}

/// The capabilities that a server offers. A client may request only those.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities(Vec<(BString, Option<BString>)>);

impl Capabilities {
    /// Adds a capability of the form `name` or `name=value`.
    fn add(&mut self, word: &[u8]) {
        if word.is_empty() {
            return;
        }
        self.0.push(match word.split_once_str("=") {
            Some((name, value)) => (name.into(), Some(value.into())),
            None => (word.into(), None),
        });
    }

    /// Parses capabilities that are separated by spaces, as in versions 0 and 1.
    pub fn parse(line: &[u8]) -> Self {
        let mut capabilities = Self::default();
        for word in line.split(|&byte| byte == b' ') {
            capabilities.add(word.trim_ascii_end());
        }
        capabilities
    }

    /// Returns whether `name` is offered, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(other, _)| other == name)
    }

    /// Returns the values of `name`, which may be offered several times.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0
            .iter()
            .filter(move |(other, _)| other == name)
            .filter_map(|(_, value)| value.as_ref().map(|value| value.as_slice()))
    }

    /// Returns whether a command of version 2 has `feature` (`fetch=shallow filter`).
    pub fn has_feature(&self, command: &str, feature: &str) -> bool {
        self.values(command).any(|value| {
            value
                .split(|&byte| byte == b' ')
                .any(|word| word == feature.as_bytes())
        })
    }

    /// Bounds the number of capabilities, because each takes several times its bytes in memory.
    fn check_count(&self) -> Result<()> {
        if self.0.len() <= MAX_CAPABILITIES {
            return Ok(());
        }
        Err(corrupt(format!(
            "a server offers more than {MAX_CAPABILITIES} capabilities"
        )))
    }

    fn hash(&self) -> Result<HashKind> {
        match self.values("object-format").next() {
            None | Some(b"sha1") => Ok(HashKind::Sha1),
            Some(b"sha256") => Ok(HashKind::Sha256),
            Some(other) => Err(corrupt(format!(
                "the server uses the unknown object format `{}`",
                escaped_excerpt(other)
            ))),
        }
    }
}

/// A ref that a server advertises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdvertisedRef {
    /// `HEAD`, or a full name.
    pub name: BString,
    /// The object that the ref names.
    pub id: ObjectId,
    /// The object that an annotated tag peels to.
    pub peeled: Option<ObjectId>,
    /// The target of a symbolic ref, if the server reports it.
    pub symref_target: Option<BString>,
}

/// The advertisement of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertisement {
    /// The version of the protocol.
    pub version: Version,
    /// The capabilities that the server offers.
    pub capabilities: Capabilities,
    /// The hash function of the repository.
    pub hash: HashKind,
    /// The refs in the server's order, `HEAD` included. Empty in version 2 until `ls-refs`.
    pub refs: Vec<AdvertisedRef>,
    /// The target of `HEAD` when that ref does not exist yet.
    pub unborn_head: Option<BString>,
    /// The commits whose parents the server does not have.
    pub shallow: Vec<ObjectId>,
    /// Other objects that the server has (`.have`).
    pub haves: Vec<ObjectId>,
    /// Refs whose names git does not allow; they are not in `refs`.
    pub ignored: IgnoredRefs,
}

impl Advertisement {
    /// Returns the ref called `name`.
    pub fn find(&self, name: &str) -> Option<&AdvertisedRef> {
        self.refs.iter().find(|r| r.name == name)
    }

    /// Returns the value of `HEAD`. When a server reports only its id (CodeCommit), the branch
    /// is guessed as git does: `main`, `master`, or else the first branch with that id.
    pub fn head(&self) -> Option<Head> {
        let Some(head) = self.find("HEAD") else {
            return self.unborn_head.clone().map(Head::Symbolic);
        };
        if let Some(target) = &head.symref_target {
            return Some(Head::Symbolic(target.clone()));
        }
        let reports_symrefs = self.version == Version::V2 || self.capabilities.has("symref");
        let guess = ["refs/heads/main", "refs/heads/master"]
            .into_iter()
            .filter_map(|name| self.find(name))
            .chain(
                self.refs
                    .iter()
                    .filter(|r| r.name.starts_with(b"refs/heads/")),
            )
            .find(|r| r.id == head.id);
        Some(match guess {
            Some(branch) if !reports_symrefs => Head::Symbolic(branch.name.clone()),
            _ => Head::Detached(head.id),
        })
    }
}

/// Reads an advertisement, packet by packet.
#[derive(Debug)]
pub struct AdvertisementReader {
    service: Service,
    state: State,
    bytes: usize,
    read: Advertisement,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Start,
    AfterService,
    FirstRef,
    Refs,
    Capabilities,
    Done,
}

impl AdvertisementReader {
    /// Creates a reader for the advertisement of `service`.
    pub fn new(service: Service) -> Self {
        Self {
            service,
            state: State::Start,
            bytes: 0,
            read: Advertisement {
                version: Version::V0,
                capabilities: Capabilities::default(),
                hash: HashKind::Sha1,
                refs: Vec::new(),
                unborn_head: None,
                shallow: Vec::new(),
                haves: Vec::new(),
                ignored: IgnoredRefs::default(),
            },
        }
    }

    /// Reads a packet; returns `true` for the last one.
    pub fn push(&mut self, packet: &Packet) -> Result<bool> {
        let line = match packet {
            Packet::Data(data) => data.strip_suffix(b"\n").unwrap_or(data),
            Packet::Flush => {
                self.state = match self.state {
                    State::AfterService => State::FirstRef,
                    // An old server sends nothing else for an empty repository.
                    _ => State::Done,
                };
                return Ok(self.state == State::Done);
            }
            _ => {
                return Err(corrupt(
                    "the list of refs contains an unexpected special packet",
                ));
            }
        };
        if let Some(error) = server_error(line) {
            return Err(error);
        }
        count(&mut self.bytes, line)?;
        match self.state {
            State::Start if line.starts_with(b"# service=") => {
                if &line[10..] != self.service.name().as_bytes() {
                    let shown = escaped_excerpt(line);
                    let service = self.service;
                    return Err(corrupt(format!(
                        "expected `# service={service}` from the server, found `{shown}`"
                    )));
                }
                self.state = State::AfterService;
            }
            State::Start | State::FirstRef => match line {
                b"version 2" => {
                    self.read.version = Version::V2;
                    self.state = State::Capabilities;
                }
                b"version 1" => self.state = State::FirstRef,
                _ => self.first_ref(line)?,
            },
            State::Refs => self.line(line)?,
            State::Capabilities => {
                self.read.capabilities.add(line);
                self.read.capabilities.check_count()?;
            }
            State::AfterService | State::Done => {
                return Err(corrupt("the list of refs continues after its end"));
            }
        }
        Ok(false)
    }

    /// Returns the advertisement.
    ///
    /// # Errors
    /// `Transport` when the last packet is missing, `Corrupt` for an unknown hash function.
    pub fn finish(mut self) -> Result<Advertisement> {
        if self.state != State::Done {
            return Err(Error::new(
                ErrorKind::Transport,
                "the list of refs is cut off",
            ));
        }
        if self.read.version == Version::V2 {
            self.read.hash = self.read.capabilities.hash()?;
        } else {
            let mut symrefs = BTreeMap::new();
            for pair in self.read.capabilities.values("symref") {
                if let Some((name, target)) = pair.split_once_str(":")
                    && let Ok(target) = check_ref_name(target.as_bstr())
                {
                    symrefs.insert(name.to_owned(), target);
                }
            }
            for found in &mut self.read.refs {
                found.symref_target = symrefs.get(found.name.as_slice()).cloned();
            }
            if self.read.find("HEAD").is_none() {
                self.read.unborn_head = symrefs.remove(&b"HEAD"[..]);
            }
        }
        Ok(self.read)
    }

    fn first_ref(&mut self, line: &[u8]) -> Result<()> {
        self.state = State::Refs;
        if let Some((line, capabilities)) = line.split_once_str("\0") {
            self.read.capabilities = Capabilities::parse(capabilities);
            self.read.capabilities.check_count()?;
            self.read.hash = self.read.capabilities.hash()?;
            // An empty repository sends its capabilities without a ref.
            if line.ends_with(b" capabilities^{}") {
                return Ok(());
            }
            return self.line(line);
        }
        self.line(line)
    }

    fn line(&mut self, line: &[u8]) -> Result<()> {
        if let Some(id) = line.strip_prefix(b"shallow ") {
            let id = self.check_hash_function(parse_id(id)?)?;
            self.read.shallow.push(id);
            return Ok(());
        }
        let (id, name) = split_id(line, b' ')?;
        let id = self.check_hash_function(id)?;
        if name == b".have" {
            self.read.haves.push(id);
        } else if let Some(tag) = name.strip_suffix(b"^{}") {
            if check_ref_name(tag.as_bstr()).is_err() {
                // It follows the line of an ignored ref.
                return Ok(());
            }
            let target = self.read.refs.last_mut().filter(|r| r.name == tag);
            let shown = || {
                corrupt(format!(
                    "`{}` does not follow the line of its tag",
                    escaped_excerpt(name)
                ))
            };
            target.ok_or_else(shown)?.peeled = Some(id);
        } else if let Ok(name) = check_ref_name(name.as_bstr()) {
            self.read.refs.push(AdvertisedRef {
                name,
                id,
                peeled: None,
                symref_target: None,
            });
        } else {
            self.read.ignored.add(name);
        }
        Ok(())
    }

    fn check_hash_function(&self, id: ObjectId) -> Result<ObjectId> {
        same_hash(self.read.hash, id)
    }
}

/// Counts a line with its four length digits, so that empty lines are bounded too.
fn count(bytes: &mut usize, line: &[u8]) -> Result<()> {
    *bytes += line.len() + 4;
    if *bytes <= MAX_REF_BYTES {
        return Ok(());
    }
    Err(corrupt(format!(
        "a server sends more than {MAX_REF_BYTES} bytes of refs"
    )))
}

fn same_hash(hash: HashKind, id: ObjectId) -> Result<ObjectId> {
    if id.kind() == hash {
        Ok(id)
    } else {
        Err(corrupt(format!(
            "a server of {hash} sends the id {id} of another hash function"
        )))
    }
}

/// Encodes the request for refs in version 2: for refs that start with one of `prefixes`, or
/// for all refs when `prefixes` is empty.
pub fn ls_refs_request(advertisement: &Advertisement, prefixes: &[BString]) -> Result<Bytes> {
    let mut request = Encoder::new();
    request.line("command=ls-refs\n")?;
    common_lines(advertisement, &mut request)?;
    request.delimiter();
    request.line("peel\n")?.line("symrefs\n")?;
    if advertisement.capabilities.has_feature("ls-refs", "unborn") {
        request.line("unborn\n")?;
    }
    for prefix in prefixes {
        request.line([b"ref-prefix ".as_slice(), prefix, b"\n"].concat())?;
    }
    request.flush();
    Ok(request.finish())
}

/// Adds the capabilities of the client that a request of version 2 carries, as far as the
/// server offers them.
pub(crate) fn common_lines(advertisement: &Advertisement, request: &mut Encoder) -> Result<()> {
    if advertisement.capabilities.has("agent") {
        request.line(format!("agent={AGENT}\n"))?;
    }
    if advertisement.capabilities.has("object-format") {
        request.line(format!("object-format={}\n", advertisement.hash))?;
    }
    Ok(())
}

/// Reads the response to [`ls_refs_request`] into an advertisement, packet by packet.
#[derive(Debug, Default)]
pub struct LsRefsReader {
    bytes: usize,
}

impl LsRefsReader {
    /// Creates a reader for one response.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a packet; returns `true` for the last one.
    pub fn push(&mut self, packet: &Packet, into: &mut Advertisement) -> Result<bool> {
        let Some(line) = packet.text() else {
            return if *packet == Packet::Flush {
                Ok(true)
            } else {
                Err(corrupt(
                    "the list of refs contains an unexpected special packet",
                ))
            };
        };
        if let Some(error) = server_error(line) {
            return Err(error);
        }
        count(&mut self.bytes, line)?;
        let mut words = line.split(|&byte| byte == b' ');
        let id = words.next().unwrap_or_default();
        let listed_name = words.next().unwrap_or_default();
        let mut peeled = None;
        let mut symref_target = None;
        for word in words {
            if let Some(id) = word.strip_prefix(b"peeled:") {
                peeled = Some(same_hash(into.hash, parse_id(id)?)?);
            } else if let Some(target) = word.strip_prefix(b"symref-target:") {
                symref_target = check_ref_name(target.as_bstr()).ok();
            }
        }
        let Ok(name) = check_ref_name(listed_name.as_bstr()) else {
            into.ignored.add(listed_name);
            return Ok(false);
        };
        if id == b"unborn" {
            if name == "HEAD" {
                into.unborn_head = symref_target;
            }
            return Ok(false);
        }
        let id = same_hash(into.hash, parse_id(id)?)?;
        into.refs.push(AdvertisedRef {
            name,
            id,
            peeled,
            symref_target,
        });
        Ok(false)
    }
}
