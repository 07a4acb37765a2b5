//! Which keys a remote's objects have, and what a list of keys says.

use std::collections::BTreeMap;

use bstr::{BStr, BString, ByteSlice};

use super::BundleLocation;
use crate::error::{Error, ErrorKind, Result, corrupt};
use crate::git::{HashKind, ObjectId, check_ref_name, escaped_excerpt};
use crate::name::ObjectKey;
use crate::storage::{ETag, ObjectStoreExt as _, ObjectSummary};

/// The last segment of a lock's key.
const LOCK: &str = "LOCK#.lock";
/// The last segment of the key that protects a ref.
const PROTECTED: &str = "PROTECTED#";
/// The last segment of an archive's key.
const ZIP: &str = "repo.zip";

/// A bundle as a list tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BundleFile {
    pub(super) key: ObjectKey,
    /// What the ref names, by the key alone.
    pub(super) id: ObjectId,
    pub(super) etag: ETag,
    pub(super) size_bytes: u64,
    pub(super) last_modified: i64,
}

/// A lock as a list tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LockFile {
    pub(super) last_modified: i64,
}

/// What lies in the folder of one ref.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct RefFolder {
    /// In the order of their keys. More than one where a push is under way, or was left
    /// half done, or where two writers of the Python client have met.
    pub(super) bundles: Vec<BundleFile>,
    pub(super) lock: Option<LockFile>,
    pub(super) protected: bool,
    /// The archive's `ETag`, where there is one.
    pub(super) zip: Option<ETag>,
}

/// The folders of refs, by the refs' full names.
pub(super) type Folders = BTreeMap<BString, RefFolder>;

impl BundleLocation {
    fn key(&self, rest: &str) -> Result<ObjectKey> {
        ObjectKey::new(&format!("{}{rest}", self.prefix))
    }

    /// The key of something in the folder of a ref.
    fn key_in(&self, name: &BStr, last: &str) -> Result<ObjectKey> {
        let refused = |error: Error| {
            Error::new(
                ErrorKind::Config,
                format!("`{}` cannot be stored in S3", escaped_excerpt(name)),
            )
            .with_source(error)
            .with_hint("keys are UTF-8, at most 1,024 bytes long")
        };
        let name = name.to_str().map_err(|error| {
            refused(Error::new(ErrorKind::Config, "it is not UTF-8").with_source(error))
        })?;
        self.key(&format!("{name}/{last}")).map_err(refused)
    }

    pub(super) fn bundle_key(&self, name: &BStr, id: ObjectId) -> Result<ObjectKey> {
        self.key_in(name, &format!("{id}.bundle"))
    }

    pub(super) fn lock_key(&self, name: &BStr) -> Result<ObjectKey> {
        self.key_in(name, LOCK)
    }

    pub(super) fn zip_key(&self, name: &BStr) -> Result<ObjectKey> {
        self.key_in(name, ZIP)
    }

    pub(super) fn head_key(&self) -> Result<ObjectKey> {
        self.key("HEAD")
    }

    /// Lists the folders of all refs, or of those that start with `start`.
    pub(super) async fn folders(&self, start: &BStr) -> Result<Folders> {
        let start = start.to_str().unwrap_or("refs/");
        let mut folders = Folders::new();
        self.list(start, |rest, listed| {
            if let Some((name, last)) = rest.rsplit_once('/')
                && let Ok(name) = check_ref_name(name.into())
            {
                folders.entry(name).or_default().add(last, listed);
            }
        })
        .await?;
        folders.retain(|_, folder| *folder != RefFolder::default());
        Ok(folders)
    }

    /// Lists the folder of one ref.
    pub(super) async fn folder(&self, name: &BStr) -> Result<RefFolder> {
        let mut folder = RefFolder::default();
        self.list(&format!("{name}/"), |rest, listed| {
            // A ref may be the start of another's name.
            if let Some((other, last)) = rest.rsplit_once('/')
                && other.as_bytes() == name
            {
                folder.add(last, listed);
            }
        })
        .await?;
        Ok(folder)
    }

    async fn list(
        &self,
        start: &str,
        mut found: impl FnMut(&str, ObjectSummary) + Send,
    ) -> Result<()> {
        let prefix = format!("{}{start}", self.prefix);
        let mut next = None;
        loop {
            let page = self
                .store
                .list(&self.bucket, &prefix, None, next.as_deref())
                .await?;
            for listed in page.objects {
                let key = listed.key.clone();
                if let Some(rest) = key.as_str().strip_prefix(self.prefix.as_str()) {
                    found(rest, listed);
                }
            }
            next = page.next;
            if next.is_none() {
                return Ok(());
            }
        }
    }

    /// The ref that `HEAD` names; `None` when there is no `HEAD`, or it names none.
    pub(super) async fn read_head(&self) -> Result<Option<BString>> {
        let key = self.head_key()?;
        let body = match self.store.get(&self.bucket, &key, None, None).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            body => body?,
        };
        let text = body.trim();
        let name = text.strip_prefix(b"ref:").unwrap_or(text).trim();
        match check_ref_name(name.as_bstr()) {
            Ok(name) if name != "HEAD" => Ok(Some(name)),
            _ => {
                tracing::warn!(object.key = %key, "`HEAD` says `{}`, which is no ref", escaped_excerpt(text));
                Ok(None)
            }
        }
    }
}

impl RefFolder {
    fn add(&mut self, last: &str, listed: ObjectSummary) {
        match last {
            LOCK => {
                self.lock = Some(LockFile {
                    last_modified: listed.last_modified,
                });
            }
            PROTECTED => self.protected = true,
            ZIP => self.zip = Some(listed.etag),
            _ => {
                let Some(id) = last.strip_suffix(".bundle").and_then(parse_id) else {
                    return;
                };
                self.bundles.push(BundleFile {
                    key: listed.key,
                    id,
                    etag: listed.etag,
                    size_bytes: listed.size_bytes,
                    last_modified: listed.last_modified,
                });
            }
        }
    }
}

/// An id as the Python client writes it: lower-case digits.
fn parse_id(text: &str) -> Option<ObjectId> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    ObjectId::from_hex(text.as_bytes()).ok()
}

/// Makes sure that all bundles use one hash function.
pub(super) fn one_hash(folders: &Folders) -> Result<HashKind> {
    let files = folders.values().flat_map(|folder| &folder.bundles);
    let first = |kind| files.clone().find(|file| file.id.kind() == kind);
    match (first(HashKind::Sha1), first(HashKind::Sha256)) {
        (Some(one), Some(other)) => {
            let (one, other) = (&one.key, &other.key);
            let message = format!("`{one}` is of SHA-1 and `{other}` of SHA-256");
            let hint = "two repositories were pushed to one prefix: move the keys of one of \
                        them to another prefix";
            Err(corrupt(message).with_hint(hint))
        }
        (None, Some(_)) => Ok(HashKind::Sha256),
        _ => Ok(HashKind::Sha1),
    }
}
