//! Repositories on servers that speak git's smart HTTP protocol.
//!
//! No request is retried here. If a server does not report the outcome of a ref, its refs are
//! read again.

mod commit_graph;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bstr::BString;
use futures_util::StreamExt as _;

use super::{
    BatchPolicy, CommitGraph, PackBody, PackRequest, Push, PushReport, RefOutcome, RefTarget,
    RefUpdate, Refs, Remote, Snapshot, Source, Target, TargetCapabilities,
};
use crate::error::{Error, ErrorKind, Result, corrupt};
use crate::git::advertisement::Advertisement;
use crate::git::pack::PackWriter;
use crate::git::smart_http::{
    FetchRequest, PushRequest, ReceivePack, RefCommand, SmartHttp, TipNegotiator, UploadPack,
};
use crate::git::{HashKind, ObjectId, escaped_excerpt};
use crate::lfs::{HttpLfs, LfsStore};

/// Maximum number of refs in one push: CodeCommit's limit.
pub const MAX_CHANGES: usize = 4000;

/// Reason that git's `receive-pack` reports for a ref with missing objects. The protocol has no
/// code for it.
const NOT_CONNECTED: &str = "missing necessary objects";

/// A repository on a smart HTTP server.
#[derive(Debug, Clone)]
pub struct HttpRemote {
    client: SmartHttp,
}

impl HttpRemote {
    /// Names the repository of `client`.
    pub fn new(client: SmartHttp) -> Self {
        Self { client }
    }
}

impl fmt::Display for HttpRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.client.url().fmt(f)
    }
}

#[async_trait]
impl Remote for HttpRemote {
    async fn source(&self, prefixes: &[BString]) -> Result<Box<dyn Source>> {
        Ok(Box::new(HttpSource::open(&self.client, prefixes).await?))
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        Ok(Box::new(HttpTarget::open(&self.client).await?))
    }

    fn lfs(&self) -> Option<Arc<dyn LfsStore>> {
        // An error is left to the request for refs, which fails for the same URL.
        let store = HttpLfs::new(self.client.clone()).ok()?;
        Some(Arc::new(store))
    }
}

/// Returns the refs of an advertisement, without `HEAD`.
fn refs(advertisement: &Advertisement) -> Result<Refs> {
    let mut refs = Refs::new();
    for advertised in &advertisement.refs {
        let target = RefTarget {
            id: advertised.id,
            peeled: advertised.peeled,
        };
        let name = &advertised.name;
        if name != "HEAD" && refs.insert(name.clone(), target).is_some() {
            let shown = escaped_excerpt(name);
            return Err(corrupt(format!("a server advertises `{shown}` twice")));
        }
    }
    Ok(refs)
}

/// A server's repository, opened for reading.
pub(super) struct HttpSource {
    server: UploadPack,
    pub(super) snapshot: Snapshot,
}

impl HttpSource {
    pub(super) async fn open(client: &SmartHttp, prefixes: &[BString]) -> Result<Self> {
        let mut prefixes = prefixes.to_vec();
        if !prefixes.is_empty() {
            prefixes.push("HEAD".into());
        }
        let server = client.upload_pack(&prefixes).await?;
        let advertisement = &server.advertisement;
        if !advertisement.shallow.is_empty() {
            return Err(shallow(client));
        }
        let snapshot = Snapshot {
            hash: advertisement.hash,
            refs: refs(advertisement)?,
            head: advertisement.head(),
            ignored: advertisement.ignored.clone(),
        };
        Ok(Self { server, snapshot })
    }

    /// Returns true if the server advertises the ref that `HEAD` names.
    pub(super) fn advertises_symref_head(&self) -> bool {
        let advertisement = &self.server.advertisement;
        let head = advertisement.find("HEAD");
        advertisement.unborn_head.is_some() || head.is_some_and(|head| head.symref_target.is_some())
    }
}

fn shallow(client: &SmartHttp) -> Error {
    Error::new(
        ErrorKind::Config,
        format!("{} is a shallow repository", client.url()),
    )
    .with_hint("its history is incomplete: run `git fetch --unshallow` in it")
}

#[async_trait]
impl Source for HttpSource {
    fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    async fn fetch(&self, pack: &PackRequest) -> Result<PackBody> {
        let request = FetchRequest {
            wants: pack.wants.clone(),
            thin: pack.thin,
            offset_deltas: pack.offset_deltas,
            ..FetchRequest::default()
        };
        let mut haves = TipNegotiator::new(pack.haves.iter().copied());
        let fetched = self.server.fetch(&request, &mut haves).await;
        let fetched = fetched
            .map_err(Error::from)
            .map_err(|error| match error.kind() {
                // The wanted objects were advertised, so a ref has moved.
                ErrorKind::NotFound => Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "the refs of {} have moved meanwhile",
                        self.server.client().url()
                    ),
                )
                .with_source(error),
                _ => error,
            })?;
        if !fetched.shallow.is_empty() {
            return Err(shallow(self.server.client()));
        }
        Ok(fetched.pack.into_stream().boxed())
    }

    fn has_cheap_history(&self) -> bool {
        self.server.can_filter()
    }

    async fn commit_graph(
        &self,
        wants: &[ObjectId],
        haves: &[ObjectId],
    ) -> Result<Option<CommitGraph>> {
        commit_graph::read(&self.server, self.snapshot.hash, wants, haves).await
    }

    async fn commits_since(&self, want: ObjectId, have: ObjectId) -> Result<Option<CommitGraph>> {
        commit_graph::read_since(&self.server, self.snapshot.hash, want, have).await
    }
}

/// A server's repository, opened for writing.
pub(super) struct HttpTarget {
    // The configured URL; `server` may be at the target of a redirect.
    client: SmartHttp,
    server: ReceivePack,
    pub(super) snapshot: Snapshot,
}

impl HttpTarget {
    pub(super) async fn open(client: &SmartHttp) -> Result<Self> {
        let server = client.receive_pack().await?;
        let advertisement = &server.advertisement;
        let snapshot = Snapshot {
            hash: advertisement.hash,
            refs: refs(advertisement)?,
            head: None,
            ignored: advertisement.ignored.clone(),
        };
        Ok(Self {
            client: client.clone(),
            server,
            snapshot,
        })
    }

    fn ref_command(&self, change: &RefUpdate) -> RefCommand {
        let null = self.snapshot.hash.null();
        RefCommand {
            name: change.name.clone(),
            old: change.old.unwrap_or(null),
            new: change.new.map_or(null, |target| target.id),
        }
    }

    /// Reads the refs again to determine the outcomes that are not `Done`.
    async fn recheck_refs(
        &self,
        changes: &[RefUpdate],
        outcomes: &mut [(BString, RefOutcome)],
    ) -> Result<()> {
        let current = refs(&self.client.receive_pack().await?.advertisement)?;
        let mut moved = None;
        let mut incomplete = None;
        for (change, (_, outcome)) in changes.iter().zip(outcomes) {
            if *outcome == RefOutcome::Done {
                continue;
            }
            let id = current.get(&change.name).map(|target| target.id);
            if id == change.new.map(|target| target.id) {
                *outcome = RefOutcome::Done;
            } else if id != change.old {
                moved.get_or_insert(&change.name);
            } else if let RefOutcome::Rejected(reason) = outcome {
                if reason == NOT_CONNECTED {
                    incomplete.get_or_insert(&change.name);
                }
            } else {
                *outcome = RefOutcome::Rejected("the server gave no reason".into());
            }
        }
        let url = self.client.url();
        if let Some(name) = incomplete {
            let name = escaped_excerpt(name);
            return Err(corrupt(format!(
                "{url} reports that objects are missing that `{name}` needs"
            )));
        }
        if let Some(name) = moved {
            let name = escaped_excerpt(name);
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("another writer changed `{name}` of {url}"),
            ));
        }
        Ok(())
    }
}

#[async_trait]
impl Target for HttpTarget {
    fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    fn accepts(&self) -> TargetCapabilities {
        let offered = &self.server.advertisement.capabilities;
        TargetCapabilities {
            batches: BatchPolicy::BySize,
            thin: !offered.has("no-thin"),
            offset_deltas: offered.has("ofs-delta"),
            head: false,
            unborn_head: false,
            sets_aside: false,
            max_changes: MAX_CHANGES,
        }
    }

    async fn haves(&self) -> Result<Vec<ObjectId>> {
        let mut haves = self.snapshot.tips();
        haves.extend(&self.server.advertisement.haves);
        haves.sort_unstable();
        haves.dedup();
        Ok(haves)
    }

    async fn push(&mut self, push: Push) -> Result<PushReport> {
        let changes = push.changes;
        if changes.is_empty() {
            return Ok(PushReport::default());
        }
        if changes.len() > MAX_CHANGES {
            return Err(Error::new(
                ErrorKind::Internal,
                format!(
                    "a push has {} refs; {MAX_CHANGES} are allowed",
                    changes.len()
                ),
            ));
        }
        let counts = Arc::new(Mutex::new((0, 0)));
        let (pack, counts) = match push.pack {
            Some(incoming) => {
                let (pack, counts) = incoming.into_outgoing(push.before_refs);
                (Some(pack), counts)
            }
            // The server has all objects, but the protocol requires a pack.
            None if changes.iter().any(|change| change.new.is_some()) => {
                (Some(empty_pack(self.snapshot.hash)?), counts)
            }
            None => (None, counts),
        };
        let request = PushRequest {
            commands: changes
                .iter()
                .map(|change| self.ref_command(change))
                .collect(),
            pack,
        };
        let report = self.server.push(request).await?;
        if let Some(reason) = report.unpack_error {
            let url = self.client.url();
            let mut error = Error::new(
                ErrorKind::Transport,
                format!("{url} did not accept the pack: `{reason}`"),
            );
            if !report.messages.is_empty() {
                error = error.with_hint(format!(
                    "the server's message: `{}`",
                    escaped_excerpt(report.messages.as_bytes())
                ));
            }
            return Err(error);
        }
        let mut outcomes = report.refs;
        if outcomes
            .iter()
            .any(|(_, outcome)| *outcome != RefOutcome::Done)
        {
            self.recheck_refs(&changes, &mut outcomes).await?;
        }
        for (change, (_, outcome)) in changes.into_iter().zip(&outcomes) {
            if *outcome == RefOutcome::Done {
                match change.new {
                    Some(target) => self.snapshot.refs.insert(change.name, target),
                    None => self.snapshot.refs.remove(&change.name),
                };
            }
        }
        let (objects, bytes) = *counts.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(PushReport {
            refs: outcomes,
            objects,
            bytes,
        })
    }
}

fn empty_pack(hash: HashKind) -> Result<PackBody> {
    let (bytes, _) = PackWriter::new(hash, 0).finish()?;
    Ok(futures_util::stream::iter([Ok(bytes)]).boxed())
}
