//! History of a CodeCommit repository: refs and tags by git, commits over the API.
//!
//! CodeCommit sends no commits without their trees and files by git, so each commit is one
//! request. Tags are fetched one by one, without the commits that they name.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::BytesMut;
use tokio::sync::OnceCell;

use super::{Ancestor, AnnotatedTag, History};
use crate::archive::large_files_over_git::{GitAccess, may_pull};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::advertisement::{AdvertisedRef, Version};
use crate::git::object::ObjectKind;
use crate::git::pack::{NoBases, PackIndexer, PackLimits, PackObject};
use crate::git::refs::{Head, RefValue};
use crate::git::server::RefSnapshot;
use crate::git::smart_http::{FetchRequest, TipNegotiator, UploadPack};
use crate::name::RepositoryName;

/// Default number of digits of an abbreviated id; git prints more in a large repository, but the
/// API does not return the number of objects.
const DEFAULT_DIGITS: usize = 7;

/// Maximum size of a pack with tags, in bytes.
const MAX_TAG_PACK_BYTES: usize = 1 << 20;

/// Maximum number of commits that are read, because each is a request.
const MAX_COMMITS: usize = 20_000;

/// Refs and history of a repository.
#[derive(Debug)]
pub struct CodeCommitHistory {
    access: GitAccess,
    repository: RepositoryName,
    opened: OnceCell<(UploadPack, Arc<RefSnapshot>)>,
    known: Mutex<HashMap<ObjectId, Ancestor>>,
    requests: AtomicU64,
}

impl CodeCommitHistory {
    /// Reads the history of `repository`.
    pub fn new(access: GitAccess, repository: RepositoryName) -> Self {
        Self {
            access,
            repository,
            opened: OnceCell::new(),
            known: Mutex::default(),
            requests: AtomicU64::new(0),
        }
    }

    fn count(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    async fn opened(&self) -> Result<&(UploadPack, Arc<RefSnapshot>)> {
        let opened = self.opened.get_or_try_init(|| self.open());
        opened
            .await
            .map_err(|error| error.context("reading the refs"))
    }

    async fn open(&self) -> Result<(UploadPack, Arc<RefSnapshot>)> {
        let mut default = None;
        let client = if self.access.clone_url.is_some() {
            self.access.client(&self.repository).await?
        } else {
            self.count();
            let repository = self.access.service.get_repository(&self.repository);
            let repository = repository.await?;
            default.clone_from(&repository.default_branch);
            self.access.client_of(&repository)?
        };
        self.count();
        // Protocol v2 would list the refs in a separate request.
        let client = client.with_version(Version::V0);
        let server = client.upload_pack(&[]).await;
        let server = server.map_err(|error| may_pull(error.into()))?;
        let advertisement = &server.advertisement;
        let listed = advertisement
            .refs
            .iter()
            .filter(|found| found.name != "HEAD");
        let value = |found: &AdvertisedRef| RefValue {
            id: found.id,
            peeled: found.peeled,
        };
        let refs = listed.map(|found| (found.name.clone(), value(found)));
        let default = default.map(|name| Head::Symbolic(format!("refs/heads/{name}").into()));
        let refs = RefSnapshot {
            hash: advertisement.hash,
            refs: refs.collect(),
            head: default.or_else(|| advertisement.head()),
        };
        Ok((server, Arc::new(refs)))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<ObjectId, Ancestor>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches a tag, and names its commit to the server as one that the client has.
    async fn fetch_tag(&self, id: ObjectId, peeled: ObjectId) -> Result<Option<AnnotatedTag>> {
        let (server, refs) = self.opened().await?;
        let request = FetchRequest {
            wants: vec![id],
            ..FetchRequest::default()
        };
        self.count();
        let mut haves = TipNegotiator::new([peeled]);
        let mut fetched = server.fetch(&request, &mut haves).await?;
        let mut tag = None;
        let mut visit = |object: PackObject<'_>| {
            if object.kind == ObjectKind::Tag && object.id == id {
                tag = object.content.and_then(AnnotatedTag::decode);
            }
            Ok(())
        };
        let limits = PackLimits::default().with_memory(4 * MAX_TAG_PACK_BYTES);
        let mut indexer = PackIndexer::new(refs.hash, limits);
        let mut pack = BytesMut::new();
        while let Some(bytes) = fetched.pack.chunk().await? {
            indexer.push(&bytes, &mut visit)?;
            pack.extend_from_slice(&bytes);
            if pack.len() > MAX_TAG_PACK_BYTES {
                return Ok(None);
            }
        }
        let arrived = indexer.finish()?;
        if arrived.pending() > 0 {
            let pack = pack.freeze();
            arrived.resolve(&pack, &NoBases, &mut visit).await?;
        }
        Ok(tag)
    }
}

#[async_trait]
impl History for CodeCommitHistory {
    async fn refs(&self) -> Result<Arc<RefSnapshot>> {
        Ok(Arc::clone(&self.opened().await?.1))
    }

    async fn commit(&self, id: ObjectId) -> Result<Ancestor> {
        if let Some(known) = self.known().get(&id) {
            return Ok(known.clone());
        }
        if self.known().len() >= MAX_COMMITS {
            let message =
                format!("no tag is among the last {MAX_COMMITS} commits before the archived one");
            return Err(Error::new(ErrorKind::Config, message)
                .with_hint("tag a newer commit, or take `%(describe)` out of the file"));
        }
        self.count();
        let service = &self.access.service;
        let commit = service.get_commit(&self.repository, id.into()).await?;
        let ancestor = Ancestor {
            time: commit.committer.seconds().unwrap_or(0),
            parents: commit.parents,
        };
        self.known().insert(id, ancestor.clone());
        Ok(ancestor)
    }

    async fn tag(&self, id: ObjectId, peeled: ObjectId) -> Result<Option<AnnotatedTag>> {
        let fetched = self.fetch_tag(id, peeled).await;
        fetched.map_err(|error| error.context(format!("reading tag {id}")))
    }

    fn abbreviated(&self, id: ObjectId, digits: Option<usize>) -> String {
        let digits = digits.unwrap_or(DEFAULT_DIGITS);
        let known = self.known();
        let unique = known.keys().filter(|other| **other != id);
        let shared = unique.map(|other| common_digits(&id.to_string(), &other.to_string()) + 1);
        let digits = shared.fold(digits, usize::max);
        id.to_hex_with_len(digits.min(id.kind().len_in_hex()))
            .to_string()
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// Returns the number of digits that two ids start with.
fn common_digits(left: &str, right: &str) -> usize {
    let pairs = left.bytes().zip(right.bytes());
    pairs.take_while(|(left, right)| left == right).count()
}
