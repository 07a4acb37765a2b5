//! The object `HEAD`.

use bstr::{BString, ByteSlice};
use bytes::Bytes;

use super::options::BundleLocation;
use crate::error::Result;
use crate::git::{check_ref_name, escaped_excerpt};
use crate::remote::{Head, Refs};
use crate::storage::{ETag, ObjectStoreExt as _, Precondition, PutOptions};

/// The object `HEAD`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct HeadFile {
    /// Ref that it names; `None` if the object is missing or does not contain a valid name.
    pub(super) name: Option<BString>,
    /// `ETag`; `None` if the object is missing.
    pub(super) etag: Option<ETag>,
}

/// The ref that `HEAD` is to name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChosenHead {
    pub(super) name: BString,
    /// The push names it.
    pub(super) is_requested: bool,
}

impl HeadFile {
    /// Chooses the ref that `HEAD` names after a push; `None` if `HEAD` stays. The ref that the
    /// push `requested`, if it is among `refs`; else, if `HEAD` names none yet, the first branch
    /// of the `pushed` refs, or the first of them.
    pub(super) fn choose<'a>(
        &self,
        requested: Option<Head>,
        refs: &Refs,
        pushed: impl Iterator<Item = &'a BString> + Clone,
    ) -> Option<ChosenHead> {
        let chosen = match requested {
            Some(Head::Symbolic(name)) if refs.contains_key(&name) => ChosenHead {
                name,
                is_requested: true,
            },
            _ if self.name.is_some() => return None,
            _ => {
                let mut names = pushed.clone();
                let branch = names.find(|name| name.starts_with(b"refs/heads/"));
                let mut names = pushed;
                ChosenHead {
                    name: branch.or_else(|| names.next())?.clone(),
                    is_requested: false,
                }
            }
        };
        (self.name.as_ref() != Some(&chosen.name)).then_some(chosen)
    }
}

impl BundleLocation {
    /// Reads `HEAD`.
    pub(super) async fn read_head(&self) -> Result<HeadFile> {
        let key = self.head_key()?;
        let Some((text, etag)) = self.store.get_with_etag(&self.bucket, &key).await? else {
            return Ok(HeadFile::default());
        };
        let text = text.trim();
        let name = text.strip_prefix(b"ref:").unwrap_or(text).trim();
        let name = match check_ref_name(name.as_bstr()) {
            Ok(name) if name != "HEAD" => Some(name),
            _ => {
                tracing::warn!(object.key = %key, "`HEAD` contains `{}`, which is not a valid ref name", escaped_excerpt(text));
                None
            }
        };
        Ok(HeadFile {
            name,
            etag: Some(etag),
        })
    }

    /// Writes `HEAD` if it is unchanged since it was read as `read`.
    ///
    /// # Errors
    /// `Conflict` when another client wrote it meanwhile.
    pub(super) async fn write_head(&self, name: &BString, read: &HeadFile) -> Result<HeadFile> {
        let options = PutOptions {
            precondition: match &read.etag {
                Some(etag) => Precondition::Matches(etag.clone()),
                None => Precondition::Absent,
            },
            kms_key_id: self.options.kms_key_id.clone(),
            ..PutOptions::default()
        };
        let key = self.head_key()?;
        let body = Bytes::from(Vec::from(name.clone()));
        let written = self.store.put(&self.bucket, &key, body, &options).await?;
        Ok(HeadFile {
            name: Some(name.clone()),
            etag: Some(written.etag),
        })
    }
}
