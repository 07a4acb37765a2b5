//! Keys of a remote's objects, and folders of refs as a list shows them.

use std::collections::BTreeMap;

use bstr::{BStr, BString, ByteSlice};

use super::options::BundleLocation;
use crate::error::{Error, ErrorKind, Result, corrupt};
use crate::git::{HashKind, ObjectId, check_ref_name, escaped_excerpt};
use crate::name::ObjectKey;
use crate::storage::{ETag, ObjectSummary};

/// Last segment of a lock's key.
const LOCK: &str = "LOCK#.lock";
/// Last segment of the key that protects a ref.
const PROTECTED: &str = "PROTECTED#";
/// Last segment of an archive's key.
const ARCHIVE: &str = "repo.zip";

/// A bundle in a list of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BundleFile {
    pub(super) key: ObjectKey,
    /// Id that the ref names, taken from the key.
    pub(super) id: ObjectId,
    pub(super) etag: ETag,
    pub(super) size_bytes: u64,
    pub(super) last_modified: i64,
}

/// A lock in a list of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LockFile {
    pub(super) last_modified: i64,
}

/// Objects in the folder of one ref.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct RefFolder {
    /// In the order of their keys. Several during a push, after an interrupted one, and after
    /// concurrent pushes of the Python client.
    pub(super) bundles: Vec<BundleFile>,
    pub(super) lock: Option<LockFile>,
    pub(super) protected: bool,
    /// `ETag` of the archive.
    pub(super) archive: Option<ETag>,
}

/// Folders by the full names of their refs.
pub(super) type Folders = BTreeMap<BString, RefFolder>;

impl BundleLocation {
    fn key(&self, rest: &str) -> Result<ObjectKey> {
        ObjectKey::new(&format!("{}{rest}", self.prefix))
    }

    /// Returns the key of `last` in the folder of a ref.
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

    pub(super) fn protected_key(&self, name: &BStr) -> Result<ObjectKey> {
        self.key_in(name, PROTECTED)
    }

    pub(super) fn archive_key(&self, name: &BStr) -> Result<ObjectKey> {
        self.key_in(name, ARCHIVE)
    }

    /// Returns the start of the keys of packs that are being received.
    pub(super) fn incoming_prefix(&self) -> String {
        format!("{}branchline/incoming-", self.prefix)
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
            // The prefix also matches longer ref names.
            if let Some((found, last)) = rest.rsplit_once('/')
                && found.as_bytes() == name
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
            ARCHIVE => self.archive = Some(listed.etag),
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

/// Parses an id as the Python client writes it: with lower-case digits.
fn parse_id(text: &str) -> Option<ObjectId> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    ObjectId::from_hex(text.as_bytes()).ok()
}

/// Returns the hash function of all bundles; SHA-1 if there are none.
///
/// # Errors
/// `Corrupt` when the bundles use different ones.
pub(super) fn common_hash(folders: &Folders) -> Result<HashKind> {
    let files = folders.values().flat_map(|folder| &folder.bundles);
    let first = |kind| files.clone().find(|file| file.id.kind() == kind);
    match (first(HashKind::Sha1), first(HashKind::Sha256)) {
        (Some(sha1), Some(sha256)) => {
            let (sha1, sha256) = (&sha1.key, &sha256.key);
            let message = format!("`{sha1}` uses SHA-1 and `{sha256}` uses SHA-256");
            let hint = "two repositories were pushed to one prefix: move the keys of one of \
                        them to another prefix";
            Err(corrupt(message).with_hint(hint))
        }
        (None, Some(_)) => Ok(HashKind::Sha256),
        _ => Ok(HashKind::Sha1),
    }
}

/// Returns the name under which a bundle that lost the ref is kept.
pub(super) fn conflict_name(name: &BStr, id: ObjectId) -> BString {
    format!("{name}__{}", id.to_hex_with_len(7)).into()
}

/// Returns the name to use when [`conflict_name`] is the name of another ref.
pub(super) fn unique_conflict_name(name: &BStr, id: ObjectId) -> BString {
    format!("{name}__{id}").into()
}
