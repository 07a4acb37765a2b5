//! A repository in S3 that stock git clones and fetches over plain HTTP (git's "dumb"
//! protocol): the files of a bare repository after `git update-server-info`.
//!
//! Objects are written first, then `objects/info/packs`, `info/refs` and `HEAD`, each of
//! these three only if it is unchanged since it was read (`If-Match`). So a reader never sees
//! a ref whose objects are missing, and of two concurrent mirrors one gets a `Conflict`.
//!
//! | file | job |
//! |---|---|
//! | `keys` | keys, media types, cache headers |
//! | `files` | reads files for the object database |
//! | `repack` | selects and merges small packs, as `git repack --geometric` |
//! | `publish` | writes a pack and its index to the bucket |
//! | `loose` | writes a pack as loose objects |
//! | `target`, `refs` | receive a push |
//! | `maintain`, `prune` | examine, fix and repack a repository; remove objects that no ref needs |
//!
//! Packs are sent by `dumb_files`.

mod files;
mod keys;
mod loose;
mod maintain;
mod prune;
mod publish;
mod refs;
mod repack;
mod target;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bstr::BString;

use self::keys::{ObjectRole, RepositoryKeys};
use self::target::DumbTarget;
use crate::error::{Error, ErrorKind, Result};
use crate::git::HashKind;
use crate::git::dumb_http::{parse_head, parse_info_refs_and_ignored};
use crate::git::pack::PackLimits;
use crate::git::refs::{Head, Refs};
use crate::lfs::{KeyScheme, LfsStore, S3Lfs};
use crate::name::{BucketName, KeyPrefix};
pub use crate::remote::Clock;
use crate::remote::dumb_files::source;
use crate::remote::maintenance::Maintenance;
use crate::remote::{Remote, Snapshot, Source, Target, now};
use crate::storage::{ETag, ObjectStore};

/// Options of a [`DumbRemote`].
#[derive(Clone)]
pub struct DumbOptions {
    /// KMS key to encrypt with; the bucket's default when `None`.
    pub kms_key_id: Option<String>,
    /// Writes objects loose instead of in packs: the layout that mirror-git-to-s3 writes, for
    /// buckets that answer 403 for a missing object. Git requests loose objects before packs,
    /// and fails on a 403.
    pub loose: bool,
    /// Bytes of a pack that are held in memory; a larger pack is staged in the bucket.
    pub memory: usize,
    /// Limits of reading packs.
    pub limits: PackLimits,
    /// Time after which merged packs are deleted; until then readers of an older list use
    /// them. Objects that no ref needs are kept as long. Longer than any run takes.
    pub grace: Duration,
    /// Packs larger than this, in bytes, are never merged, and rewritten only to remove objects
    /// that no ref needs.
    pub largest_merged: u64,
    /// Returns the current time, in seconds since the epoch.
    pub clock: Clock,
}

impl Default for DumbOptions {
    fn default() -> Self {
        Self {
            kms_key_id: None,
            loose: false,
            memory: 64 << 20,
            limits: PackLimits::default(),
            grace: Duration::from_hours(24),
            largest_merged: 1 << 30,
            clock: Arc::new(now),
        }
    }
}

impl DumbOptions {
    /// Returns the time after which merged and pruned packs are deleted, in seconds.
    fn grace_seconds(&self) -> i64 {
        i64::try_from(self.grace.as_secs()).unwrap_or(i64::MAX)
    }

    /// Returns the limits of reading stored objects.
    fn read_limits(&self) -> PackLimits {
        self.limits.with_memory(self.limits.memory.min(self.memory))
    }
}

impl fmt::Debug for DumbOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DumbOptions")
            .field("kms_key_id", &self.kms_key_id)
            .field("loose", &self.loose)
            .field("memory", &self.memory)
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}

/// Repository below a prefix of a bucket, as files that git fetches over plain HTTP.
pub struct DumbRemote {
    keys: RepositoryKeys,
    options: Arc<DumbOptions>,
}

impl DumbRemote {
    /// Makes the remote of the repository below `prefix`, without reading it.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        bucket: BucketName,
        prefix: KeyPrefix,
        options: DumbOptions,
    ) -> Self {
        let kms_key_id = options.kms_key_id.clone();
        Self {
            keys: RepositoryKeys {
                store,
                bucket,
                prefix,
                kms_key_id,
            },
            options: Arc::new(options),
        }
    }
}

impl fmt::Display for DumbRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.keys.fmt(f)
    }
}

/// Refs and `HEAD` of a repository, with their entity tags.
struct DumbSnapshot {
    snapshot: Snapshot,
    /// Entity tag of `info/refs`; `None` if it is missing.
    refs: Option<ETag>,
    /// Entity tag of `HEAD`; `None` if it is missing.
    head: Option<ETag>,
}

impl DumbSnapshot {
    async fn read(keys: &RepositoryKeys) -> Result<Self> {
        let (refs_file, head_file) = (ObjectRole::Refs, ObjectRole::Head);
        let (refs, head) = tokio::try_join!(keys.read(&refs_file), keys.read(&head_file))?;
        let Some((refs, refs_etag)) = refs else {
            // A repository of bundles has a `HEAD` too.
            check_no_bundles(keys).await?;
            return Ok(Self {
                snapshot: Snapshot::empty(HashKind::Sha1),
                refs: None,
                head: head.map(|(_, etag)| etag),
            });
        };
        let parsed = parse_info_refs_and_ignored(&refs);
        let (refs, ignored) = parse(keys, "info/refs", parsed)?;
        // Left out, because the file `HEAD` has the symbolic ref.
        let refs: Refs = refs
            .into_iter()
            .filter(|(name, _)| name != "HEAD")
            .collect();
        let (head, head_etag) = match head {
            Some((bytes, etag)) => (Some(parse(keys, "HEAD", parse_head(&bytes))?), Some(etag)),
            None => (None, None),
        };
        let named = refs.values().next().map(|target| target.id);
        let detached = match &head {
            Some(Head::Detached(id)) => Some(*id),
            _ => None,
        };
        let hash = named.or(detached).map_or(HashKind::Sha1, |id| id.kind());
        Ok(Self {
            snapshot: Snapshot {
                hash,
                refs,
                head,
                ignored,
            },
            refs: Some(refs_etag),
            head: head_etag,
        })
    }
}

fn parse<T, E: Into<Error>>(keys: &RepositoryKeys, file: &str, parsed: Result<T, E>) -> Result<T> {
    parsed.map_err(|error| error.into().context(format!("`{file}` of {keys}")))
}

/// Refuses a repository of bundles.
async fn check_no_bundles(keys: &RepositoryKeys) -> Result<()> {
    let prefix = format!("{}refs/", keys.prefix);
    let page = keys.store.list(&keys.bucket, &prefix, None, None).await?;
    let is_bundle = |key: &str| key.ends_with(".bundle");
    let Some(found) = page
        .objects
        .iter()
        .find(|found| is_bundle(found.key.as_str()))
    else {
        return Ok(());
    };
    Err(Error::new(
        ErrorKind::Config,
        format!("{keys} is a repository of bundles (`{}`)", found.key),
    )
    .with_hint("use layout `bundle`, or another prefix"))
}

#[async_trait]
impl Remote for DumbRemote {
    async fn source(&self, _prefixes: &[BString]) -> Result<Box<dyn Source>> {
        let opened = DumbSnapshot::read(&self.keys).await?;
        if opened.refs.is_none() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("{} is not a repository: `info/refs` is missing", self.keys),
            )
            .with_hint("check the bucket and the prefix"));
        }
        let limits = self.options.read_limits();
        let files = self.keys.files();
        Ok(source::open(files, limits, opened.snapshot))
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        let opened = DumbSnapshot::read(&self.keys).await?;
        let (keys, options) = (self.keys.clone(), Arc::clone(&self.options));
        Ok(Box::new(DumbTarget::new(keys, options, opened)))
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        Some(self)
    }

    fn lfs(&self) -> Option<Arc<dyn LfsStore>> {
        let RepositoryKeys {
            store,
            bucket,
            prefix,
            kms_key_id,
        } = self.keys.clone();
        let lfs = S3Lfs::new(store, bucket, prefix, KeyScheme::Fanned, kms_key_id);
        Some(Arc::new(lfs))
    }
}
