//! What a server says first: its capabilities and its refs, in protocol versions 0, 1
//! and 2 (`gitprotocol-pack`, `gitprotocol-v2`).

use std::collections::BTreeMap;
use std::fmt;

use bstr::{BString, ByteSlice};
use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::protocol::pkt_line::{Encoder, Packet, server_error};
use crate::refs::Head;
use crate::{
    AGENT, HashKind, ObjectId, check_ref_name, corrupt, escaped_excerpt, parse_id, split_id,
};

/// The most bytes of refs that are taken in: 64 MiB, about a million refs.
pub const MAX_BYTES: usize = 64 * 1024 * 1024;
/// The most capabilities that are taken in; git itself offers about twenty.
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
    /// Its name: `git-upload-pack` or `git-receive-pack`.
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
    /// The first one; version 1 is the same after its first line.
    V0,
    /// The one with commands.
    V2,
}

/// What a server offers. Only what is offered may be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities(Vec<(BString, Option<BString>)>);

impl Capabilities {
    /// Adds `name` or `name=value`.
    fn add(&mut self, word: &[u8]) {
        if word.is_empty() {
            return;
        }
        self.0.push(match word.split_once_str("=") {
            Some((name, value)) => (name.into(), Some(value.into())),
            None => (word.into(), None),
        });
    }

    /// Reads capabilities separated by spaces, as in versions 0 and 1.
    pub fn parse(line: &[u8]) -> Self {
        let mut capabilities = Self::default();
        for word in line.split(|&byte| byte == b' ') {
            capabilities.add(word.trim_ascii_end());
        }
        capabilities
    }

    /// Whether it is offered, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(other, _)| other == name)
    }

    /// All values that were given for a name.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0
            .iter()
            .filter(move |(other, _)| other == name)
            .filter_map(|(_, value)| value.as_ref().map(|value| value.as_slice()))
    }

    /// Whether a command of version 2 has that feature (`fetch=shallow filter`).
    pub fn has_feature(&self, command: &str, feature: &str) -> bool {
        self.values(command).any(|value| {
            value
                .split(|&byte| byte == b' ')
                .any(|word| word == feature.as_bytes())
        })
    }

    /// Each takes many times its bytes in memory, so bytes alone are no bound.
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
                "the server hashes with `{}`, which is not known",
                escaped_excerpt(other)
            ))),
        }
    }
}

/// A ref of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdvertisedRef {
    /// `HEAD`, or its full name.
    pub name: BString,
    /// The object that it names.
    pub id: ObjectId,
    /// What an annotated tag peels to.
    pub peeled: Option<ObjectId>,
    /// The ref that it stands for, when the server tells.
    pub symref_target: Option<BString>,
}

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertisement {
    /// The version that it speaks.
    pub version: Version,
    /// What it offers.
    pub capabilities: Capabilities,
    /// Its hash function.
    pub hash: HashKind,
    /// Its refs, in its order, `HEAD` included. In version 2 they come later.
    pub refs: Vec<AdvertisedRef>,
    /// Where `HEAD` points although nothing is there yet.
    pub unborn_head: Option<BString>,
    /// Commits whose parents the server itself lacks.
    pub shallow: Vec<ObjectId>,
    /// Further objects that the server has (`.have`).
    pub haves: Vec<ObjectId>,
}

impl Advertisement {
    /// The ref of that name.
    pub fn find(&self, name: &str) -> Option<&AdvertisedRef> {
        self.refs.iter().find(|r| r.name == name)
    }

    /// What `HEAD` is. A server that tells its id alone (CodeCommit) leaves the branch to
    /// be guessed as git does: `main` or `master` if they are there, else the first one.
    pub fn head(&self) -> Option<Head> {
        let Some(head) = self.find("HEAD") else {
            return self.unborn_head.clone().map(Head::Symbolic);
        };
        if let Some(target) = &head.symref_target {
            return Some(Head::Symbolic(target.clone()));
        }
        let tells_symrefs = self.version == Version::V2 || self.capabilities.has("symref");
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
            Some(branch) if !tells_symrefs => Head::Symbolic(branch.name.clone()),
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
    /// Reads what the server says of that service.
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
            },
        }
    }

    /// Takes in a packet; `true` when it was the last one.
    pub fn push(&mut self, packet: &Packet) -> Result<bool> {
        let line = match packet {
            Packet::Data(data) => data.strip_suffix(b"\n").unwrap_or(data),
            Packet::Flush => {
                self.state = match self.state {
                    State::AfterService => State::FirstRef,
                    // An empty repository of an old server says nothing at all.
                    _ => State::Done,
                };
                return Ok(self.state == State::Done);
            }
            _ => return Err(corrupt("a server's refs are broken up")),
        };
        if let Some(error) = server_error(line) {
            return Err(error);
        }
        count(&mut self.bytes, line)?;
        match self.state {
            State::Start if line.starts_with(b"# service=") => {
                if &line[10..] != self.service.name().as_bytes() {
                    let shown = escaped_excerpt(line);
                    return Err(corrupt(format!("the server answers `{shown}`")));
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
                return Err(corrupt("a server's refs do not follow the protocol"));
            }
        }
        Ok(false)
    }

    /// What was read.
    ///
    /// # Errors
    /// `Transport` when the end did not arrive, `Corrupt` when the parts do not fit.
    pub fn finish(mut self) -> Result<Advertisement> {
        if self.state != State::Done {
            return Err(Error::new(
                ErrorKind::Transport,
                "a server's refs end in their midst",
            ));
        }
        if self.read.version == Version::V2 {
            self.read.hash = self.read.capabilities.hash()?;
        } else {
            let mut symrefs = BTreeMap::new();
            for pair in self.read.capabilities.values("symref") {
                if let Some((name, target)) = pair.split_once_str(":") {
                    symrefs.insert(name.to_owned(), check_ref_name(target.as_bstr())?);
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
            // An empty repository has no ref to write them behind.
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
            let target = self.read.refs.last_mut().filter(|r| r.name == tag);
            let shown = || corrupt(format!("`{}` peels nothing", escaped_excerpt(name)));
            target.ok_or_else(shown)?.peeled = Some(id);
        } else {
            self.read.refs.push(AdvertisedRef {
                name: check_ref_name(name.as_bstr())?,
                id,
                peeled: None,
                symref_target: None,
            });
        }
        Ok(())
    }

    fn check_hash_function(&self, id: ObjectId) -> Result<ObjectId> {
        same_hash(self.read.hash, id)
    }
}

/// Counts a line with its frame, so that empty ones without end have an end too.
fn count(bytes: &mut usize, line: &[u8]) -> Result<()> {
    *bytes += line.len() + 4;
    if *bytes <= MAX_BYTES {
        return Ok(());
    }
    Err(corrupt(format!(
        "a server tells more than {MAX_BYTES} bytes of refs"
    )))
}

fn same_hash(hash: HashKind, id: ObjectId) -> Result<ObjectId> {
    if id.kind() == hash {
        Ok(id)
    } else {
        Err(corrupt(format!("a server of {hash} tells {id}")))
    }
}

/// The request for refs in version 2; of those that start with one of `prefixes`, or all.
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

/// What every request of version 2 says of itself, as far as the server wants to know.
pub(crate) fn common_lines(advertisement: &Advertisement, request: &mut Encoder) -> Result<()> {
    if advertisement.capabilities.has("agent") {
        request.line(format!("agent={AGENT}\n"))?;
    }
    if advertisement.capabilities.has("object-format") {
        request.line(format!("object-format={}\n", advertisement.hash))?;
    }
    Ok(())
}

/// Reads the answer to [`ls_refs_request`] into an advertisement, packet by packet.
#[derive(Debug, Default)]
pub struct LsRefsReader {
    bytes: usize,
}

impl LsRefsReader {
    /// A reader that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a packet; `true` when it was the last one.
    pub fn push(&mut self, packet: &Packet, into: &mut Advertisement) -> Result<bool> {
        let Some(line) = packet.text() else {
            return if *packet == Packet::Flush {
                Ok(true)
            } else {
                Err(corrupt("a server's refs are broken up"))
            };
        };
        if let Some(error) = server_error(line) {
            return Err(error);
        }
        count(&mut self.bytes, line)?;
        let mut words = line.split(|&byte| byte == b' ');
        let id = words.next().unwrap_or_default();
        let name = check_ref_name(words.next().unwrap_or_default().as_bstr())?;
        let mut peeled = None;
        let mut symref_target = None;
        for word in words {
            if let Some(id) = word.strip_prefix(b"peeled:") {
                peeled = Some(same_hash(into.hash, parse_id(id)?)?);
            } else if let Some(target) = word.strip_prefix(b"symref-target:") {
                symref_target = Some(check_ref_name(target.as_bstr())?);
            }
        }
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
