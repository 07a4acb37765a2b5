//! A repository in S3 that stock git clones and fetches over plain HTTP (git's "dumb"
//! protocol): the files of a bare repository after `git update-server-info`.
//!
//! Objects are written first, then `objects/info/packs`, `info/refs` and `HEAD`, each of
//! these three only if it still is what was read (`If-Match`). So a reader never sees a
//! ref whose objects are not there, and of two mirrors at once one is told to look again.
//!
//! | file | |
//! |---|---|
//! | `place` | keys, media types, cache headers |
//! | `pack_list` | `objects/info/packs`, and the lines in it that git passes over |
//! | `stored` | what objects the repository has |
//! | `geometry`, `merge`, `consolidate` | small packs become one |
//! | `publish` | a pack and its index into the bucket |
//! | `loose` | a pack as loose objects |
//! | `target`, `refs` | taking in a push |
//! | `source` | sending packs |

mod consolidate;
mod geometry;
mod keys;
mod loose;
mod merge;
mod odb;
mod pack_list;
mod publish;
mod refs;
mod source;
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
use crate::git::dumb_http::{parse_head, parse_info_refs};
use crate::git::pack::PackLimits;
use crate::git::refs::{Head, Refs};
use crate::lfs::{KeyScheme, LfsStore, S3Lfs};
use crate::name::{BucketName, KeyPrefix};
pub use crate::remote::Clock;
use crate::remote::{Remote, Snapshot, Source, Target, now};
use crate::storage::{ETag, ObjectStore};

/// How a repository in S3 is read and written.
#[derive(Clone)]
pub struct DumbOptions {
    /// The KMS key to encrypt with; the bucket's default when `None`.
    pub kms_key_id: Option<String>,
    /// Objects are written loose, one by one, and not in packs: the layout that
    /// mirror-git-to-s3 writes, for buckets that answer 403 where an object is missing.
    /// Git asks for loose objects before packs, and takes no 403 for an answer.
    pub loose: bool,
    /// How much of a pack is held; a larger one lies in the bucket meanwhile.
    pub memory: usize,
    /// What reading packs may use.
    pub limits: PackLimits,
    /// How long packs stay whose objects were merged into another one, for readers that
    /// know the old list. No run may take longer.
    pub grace: Duration,
    /// Packs larger than this are never rewritten.
    pub largest_merged: u64,
    /// Tells the time.
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

impl fmt::Debug for DumbOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("kms_key_id", &self.kms_key_id)
            .field("loose", &self.loose)
            .field("memory", &self.memory)
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}

/// A repository under a prefix of a bucket.
pub struct S3Dumb {
    place: RepositoryKeys,
    options: Arc<DumbOptions>,
}

impl S3Dumb {
    /// Names the repository under `prefix`, whether or not there is one.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        bucket: BucketName,
        prefix: KeyPrefix,
        options: DumbOptions,
    ) -> Self {
        let kms_key_id = options.kms_key_id.clone();
        Self {
            place: RepositoryKeys {
                store,
                bucket,
                prefix,
                kms_key_id,
            },
            options: Arc::new(options),
        }
    }
}

impl fmt::Display for S3Dumb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)
    }
}

/// What a prefix held when it was looked at.
struct DumbSnapshot {
    snapshot: Snapshot,
    /// The entity tag of `info/refs`; `None` when there is none.
    refs: Option<ETag>,
    /// The entity tag of `HEAD`; `None` when there is none.
    head: Option<ETag>,
}

impl DumbSnapshot {
    async fn read(place: &RepositoryKeys) -> Result<Self> {
        let (refs_file, head_file) = (ObjectRole::Refs, ObjectRole::Head);
        let (refs, head) = tokio::try_join!(place.read(&refs_file), place.read(&head_file))?;
        let Some((refs, refs_etag)) = refs else {
            // `HEAD` alone is what the other layout has, too.
            no_bundles(place).await?;
            return Ok(Self {
                snapshot: Snapshot::empty(HashKind::Sha1),
                refs: None,
                head: head.map(|(_, etag)| etag),
            });
        };
        let refs = parse(place, "info/refs", parse_info_refs(&refs))?;
        // Some servers' lists have it; what it stands for is said by the file `HEAD`.
        let refs: Refs = refs
            .into_iter()
            .filter(|(name, _)| name != "HEAD")
            .collect();
        let (head, head_etag) = match head {
            Some((bytes, etag)) => (Some(parse(place, "HEAD", parse_head(&bytes))?), Some(etag)),
            None => (None, None),
        };
        let named = refs.values().next().map(|target| target.id);
        let detached = match &head {
            Some(Head::Detached(id)) => Some(*id),
            _ => None,
        };
        let hash = named.or(detached).map_or(HashKind::Sha1, |id| id.kind());
        Ok(Self {
            snapshot: Snapshot { hash, refs, head },
            refs: Some(refs_etag),
            head: head_etag,
        })
    }
}

fn parse<T, E: Into<Error>>(place: &RepositoryKeys, file: &str, parsed: Result<T, E>) -> Result<T> {
    parsed.map_err(|error| error.into().context(format!("`{file}` of {place}")))
}

/// Makes sure that a prefix without `info/refs` is not a repository of bundles.
async fn no_bundles(place: &RepositoryKeys) -> Result<()> {
    let prefix = format!("{}refs/", place.prefix);
    let page = place.store.list(&place.bucket, &prefix, None, None).await?;
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
        format!("{place} holds a repository of bundles (`{}`)", found.key),
    )
    .with_hint("use layout `bundle` for it, or another prefix"))
}

#[async_trait]
impl Remote for S3Dumb {
    async fn source(&self, _prefixes: &[BString]) -> Result<Box<dyn Source>> {
        let opened = DumbSnapshot::read(&self.place).await?;
        if opened.refs.is_none() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("{} is no repository: it has no `info/refs`", self.place),
            )
            .with_hint("check the bucket and the prefix"));
        }
        let (place, options) = (self.place.clone(), Arc::clone(&self.options));
        Ok(source::open(place, options, opened.snapshot))
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        let opened = DumbSnapshot::read(&self.place).await?;
        let (place, options) = (self.place.clone(), Arc::clone(&self.options));
        Ok(Box::new(DumbTarget::new(place, options, opened)))
    }

    fn lfs(&self) -> Option<Arc<dyn LfsStore>> {
        let RepositoryKeys {
            store,
            bucket,
            prefix,
            kms_key_id,
        } = self.place.clone();
        let place = S3Lfs::new(store, bucket, prefix, KeyScheme::Fanned, kms_key_id);
        Some(Arc::new(place))
    }
}
