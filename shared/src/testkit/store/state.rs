//! Buckets, versions and uploads of a [`MemoryStore`](super::MemoryStore).

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::StoredVersion;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{BucketName, ObjectKey};
use crate::storage::{
    ETag, MAX_PARTS, Part, Precondition, PutOptions, PutResult, UploadId, VersionId,
};

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) buckets: BTreeMap<BucketName, Bucket>,
    pub(super) journal: Vec<String>,
    clock: i64,
}

#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub(super) versioned: bool,
    // Versions in the order of writing; the last one is current.
    pub(super) objects: BTreeMap<String, Vec<StoredVersion>>,
    pub(super) uploads: BTreeMap<String, Upload>,
}

#[derive(Debug)]
pub(super) struct Upload {
    pub(super) key: ObjectKey,
    pub(super) options: PutOptions,
    pub(super) parts: BTreeMap<u32, (ETag, Bytes)>,
}

impl State {
    pub(super) fn bucket(&mut self, name: &BucketName) -> Result<&mut Bucket> {
        self.buckets.get_mut(name).ok_or_else(|| {
            error(
                ErrorKind::NotFound,
                "NoSuchBucket",
                format!("bucket `{name}` does not exist"),
            )
        })
    }

    pub(super) fn advance(&mut self, seconds: i64) {
        self.clock += seconds;
    }

    /// Adds a version, or replaces the only one.
    pub(super) fn add(
        &mut self,
        (bucket, key): (&BucketName, &ObjectKey),
        verb: &str,
        mut new: StoredVersion,
    ) -> Result<PutResult> {
        self.clock += 1;
        let clock = self.clock;
        let found = self.bucket(bucket)?;
        new.last_modified = 1_700_000_000 + clock;
        new.id = if found.versioned {
            VersionId::new(format!("v{clock}"))
        } else {
            None
        };
        let written = PutResult {
            etag: new.etag.clone(),
            version_id: new.id.clone(),
        };
        let versions = found.objects.entry(key.to_string()).or_default();
        if !found.versioned {
            versions.clear();
        }
        versions.push(new);
        self.journal.push(format!("{verb} {bucket}/{key}"));
        Ok(written)
    }

    /// Deletes the current object, or adds a delete marker.
    pub(super) fn delete(
        &mut self,
        bucket: &BucketName,
        key: &ObjectKey,
        precondition: &Precondition,
    ) -> Result<()> {
        if *precondition == Precondition::Absent {
            let message =
                format!("object `{key}` cannot be deleted on the condition that it is absent");
            return Err(Error::new(ErrorKind::Internal, message));
        }
        let found = self.bucket(bucket)?;
        found.check(key, precondition)?;
        if found.versioned {
            let mut marker = new_version(Bytes::new(), etag(&[], ""), &PutOptions::default());
            marker.body = None;
            self.add((bucket, key), "delete", marker)?;
        } else {
            found.objects.remove(key.as_str());
            self.journal.push(format!("delete {bucket}/{key}"));
        }
        Ok(())
    }

    /// Deletes one version for good.
    pub(super) fn delete_version(
        &mut self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: &str,
    ) -> Result<()> {
        let found = self.bucket(bucket)?;
        if let Some(versions) = found.objects.get_mut(key.as_str()) {
            versions.retain(|other| other.id.as_deref() != Some(version));
            if versions.is_empty() {
                found.objects.remove(key.as_str());
            }
        }
        let entry = format!("delete {bucket}/{key} version {version}");
        self.journal.push(entry);
        Ok(())
    }

    /// Creates an upload; returns its id.
    pub(super) fn create_upload(
        &mut self,
        bucket: &BucketName,
        key: &ObjectKey,
        options: &PutOptions,
    ) -> Result<UploadId> {
        self.clock += 1;
        let id = format!("upload-{}", self.clock);
        let upload = Upload {
            key: key.clone(),
            options: options.clone(),
            parts: BTreeMap::new(),
        };
        self.bucket(bucket)?.uploads.insert(id.clone(), upload);
        Ok(UploadId(id))
    }
}

impl Bucket {
    pub(super) fn current(&self, key: &ObjectKey) -> Option<&StoredVersion> {
        let versions = self.objects.get(key.as_str())?;
        versions.last().filter(|version| version.body.is_some())
    }

    pub(super) fn check(&self, key: &ObjectKey, precondition: &Precondition) -> Result<()> {
        let current = self.current(key);
        let (holds, code) = match precondition {
            Precondition::None => (true, ""),
            Precondition::Absent => (current.is_none(), "PreconditionFailed"),
            Precondition::Matches(etag) => match current {
                Some(version) => (version.etag == *etag, "PreconditionFailed"),
                None => (false, "NoSuchKey"),
            },
        };
        if holds {
            return Ok(());
        }
        let message = format!("object `{key}` was changed by someone else");
        Err(error(ErrorKind::Conflict, code, message))
    }

    pub(super) fn find(
        &mut self,
        key: &ObjectKey,
        version: Option<&str>,
    ) -> Result<&mut StoredVersion> {
        let versions = self.objects.get_mut(key.as_str());
        let found = versions.and_then(|versions| match version {
            None => versions.last_mut(),
            Some(id) => versions.iter_mut().find(|v| v.id.as_deref() == Some(id)),
        });
        found
            .filter(|version| version.body.is_some())
            .ok_or_else(|| {
                let code = if version.is_some() {
                    "NoSuchVersion"
                } else {
                    "NoSuchKey"
                };
                error(
                    ErrorKind::NotFound,
                    code,
                    format!("object `{key}` does not exist"),
                )
            })
    }

    pub(super) fn upload(&mut self, key: &ObjectKey, upload: &UploadId) -> Result<&mut Upload> {
        let found = self.uploads.get_mut(&upload.0);
        found.filter(|found| found.key == *key).ok_or_else(|| {
            let message = format!(
                "multipart upload `{}` of object `{key}` does not exist",
                upload.0
            );
            error(ErrorKind::NotFound, "NoSuchUpload", message)
        })
    }
}

impl Upload {
    pub(super) fn add(&mut self, number: u32, body: Bytes) -> Result<Part> {
        if !(1..=MAX_PARTS).contains(&number) {
            return Err(refused("InvalidArgument", &self.key));
        }
        let part = Part {
            number,
            etag: etag(&[&body], ""),
            checksum_crc32: None,
        };
        self.parts.insert(number, (part.etag.clone(), body));
        Ok(part)
    }
}

pub(super) fn new_version(body: Bytes, etag: ETag, options: &PutOptions) -> StoredVersion {
    StoredVersion {
        id: None,
        body: Some(body),
        etag,
        metadata: options.metadata.clone(),
        kms_key_id: options.kms_key_id.clone(),
        tags: BTreeMap::new(),
        last_modified: 0,
    }
}

/// Makes an entity tag that is equal for equal bytes.
pub(super) fn etag(bytes: &[&[u8]], suffix: &str) -> ETag {
    let mut hasher = Sha256::new();
    for bytes in bytes {
        hasher.update(bytes);
    }
    let digest = hex::encode(&hasher.finalize()[..16]);
    ETag::new(format!("\"{digest}{suffix}\"")).expect("because it is hexadecimal")
}

pub(super) fn slice(key: &ObjectKey, body: &Bytes, range: &Range<u64>) -> Result<Bytes> {
    if range.is_empty() {
        return Ok(Bytes::new());
    }
    let length = body.len() as u64;
    if range.start >= length {
        let message = format!("object `{key}` is shorter than the requested range");
        return Err(error(ErrorKind::Corrupt, "InvalidRange", message));
    }
    let index = |at: u64| usize::try_from(at.min(length)).unwrap_or(body.len());
    Ok(body.slice(index(range.start)..index(range.end)))
}

pub(super) fn refused(code: &str, key: &ObjectKey) -> Error {
    let message = format!("S3 refused a part or the completion of object `{key}`");
    error(ErrorKind::Internal, code, message)
}

pub(super) fn error(kind: ErrorKind, code: &str, message: String) -> Error {
    Error::new(kind, message).with_aws(Some(code), None)
}
