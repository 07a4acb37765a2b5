//! A bucket in memory: the sum of its journal.

use std::collections::BTreeMap;

use super::error::{Error, Result};
use super::journal::Record;
use super::multipart::MultipartUpload;
use super::object::{NULL_VERSION, Object, Version, Versioning};

/// All keys and uploads of a bucket.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) created: i64,
    pub(super) region: String,
    pub(super) versioning: Versioning,
    /// Versions of each key, the latest last; never empty.
    pub(super) keys: BTreeMap<String, Vec<Version>>,
    pub(super) uploads: BTreeMap<String, MultipartUpload>,
}

impl Index {
    /// Applies a change; returns the blobs that are no longer needed.
    pub(super) fn apply(&mut self, record: Record) -> Vec<String> {
        let mut freed = Vec::new();
        match record {
            Record::Bucket { created, region } => {
                self.created = created;
                self.region = region;
            }
            Record::Versioning { status } => self.versioning = status,
            Record::Put {
                key,
                version,
                upload,
            } => {
                if let Some(done) = upload.and_then(|id| self.uploads.remove(&id)) {
                    let used: Vec<&str> = blobs(&version).collect();
                    freed.extend(
                        done.blobs()
                            .filter(|blob| !used.contains(blob))
                            .map(str::to_owned),
                    );
                }
                let versions = self.keys.entry(key).or_default();
                if version.id == NULL_VERSION {
                    remove(versions, NULL_VERSION, &mut freed);
                }
                versions.push(version);
            }
            Record::Remove { key, version_id } => {
                if let Some(versions) = self.keys.get_mut(&key) {
                    remove(versions, &version_id, &mut freed);
                    if versions.is_empty() {
                        self.keys.remove(&key);
                    }
                }
            }
            Record::Tags {
                key,
                version_id,
                tags,
            } => {
                let version = self
                    .keys
                    .get_mut(&key)
                    .and_then(|versions| versions.iter_mut().find(|v| v.id == version_id));
                if let Some(object) = version.and_then(|version| version.object.as_mut()) {
                    object.tags = tags;
                }
            }
            Record::Begin { id, upload } => {
                self.uploads.insert(id, upload);
            }
            Record::Part {
                upload,
                number,
                part,
            } => {
                if let Some(upload) = self.uploads.get_mut(&upload) {
                    freed.extend(upload.parts.insert(number, part).map(|old| old.blob));
                }
            }
            Record::Abort { upload } => {
                if let Some(upload) = self.uploads.remove(&upload) {
                    freed.extend(upload.blobs().map(str::to_owned));
                }
            }
        }
        freed
    }

    /// Returns every blob that is needed.
    pub(super) fn blobs(&self) -> impl Iterator<Item = &str> {
        self.keys
            .values()
            .flatten()
            .flat_map(blobs)
            .chain(self.uploads.values().flat_map(MultipartUpload::blobs))
    }

    /// Returns the current object of a key; a delete marker counts as none.
    pub(super) fn current(&self, key: &str) -> Option<(&Version, &Object)> {
        let version = self.keys.get(key)?.last()?;
        Some((version, version.object.as_ref()?))
    }

    /// Returns the current version of a key, or the named one.
    pub(super) fn find(&self, key: &str, version_id: Option<&str>) -> Result<&Version> {
        let versions = self.keys.get(key).map_or(&[][..], Vec::as_slice);
        let Some(wanted) = version_id else {
            return versions
                .last()
                .ok_or_else(|| Error::NoSuchKey(key.to_owned()));
        };
        let form = wanted == NULL_VERSION
            || (wanted.len() == 32 && wanted.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if !form {
            return Err(Error::InvalidVersionId(wanted.to_owned()));
        }
        versions
            .iter()
            .find(|version| version.id == wanted)
            .ok_or_else(|| Error::NoSuchVersion {
                key: key.to_owned(),
                version_id: wanted.to_owned(),
            })
    }

    /// Like [`find`](Self::find), refusing delete markers.
    pub(super) fn object(
        &self,
        key: &str,
        version_id: Option<&str>,
    ) -> Result<(&Version, &Object)> {
        let version = self.find(key, version_id)?;
        match (&version.object, version_id) {
            (Some(object), _) => Ok((version, object)),
            (None, None) => Err(Error::DeleteMarker {
                key: key.to_owned(),
                version_id: super::object::shown(version, self.versioning),
            }),
            (None, Some(_)) => Err(Error::MarkerVersion {
                key: key.to_owned(),
                version_id: version.id.clone(),
                last_modified: version.modified,
            }),
        }
    }
}

fn blobs(version: &Version) -> impl Iterator<Item = &str> {
    version
        .object
        .iter()
        .flat_map(|object| &object.segments)
        .map(|segment| segment.blob.as_str())
}

fn remove(versions: &mut Vec<Version>, id: &str, freed: &mut Vec<String>) {
    versions.retain(|version| {
        let gone = version.id == id;
        if gone {
            freed.extend(blobs(version).map(str::to_owned));
        }
        !gone
    });
}
