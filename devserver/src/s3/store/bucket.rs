//! A bucket: one writer at a time, any number of readers.
//!
//! A write takes the writer's lock, checks its preconditions, appends to the journal and
//! synchronises it, and only then changes the index that readers see. So preconditions
//! are atomic, and acknowledged writes survive a crash.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use super::blob::{Pins, Reader, Sealed, Staged};
use super::checksum::{Algorithm, Checksum, Kind, base64};
use super::durability::Durability;
use super::error::{Context as _, Error, Result};
use super::event::{BucketEvent, Observers};
use super::index::Index;
use super::journal::{Journal, Record, snapshot};
use super::list::{self, Page, Query};
use super::object::{
    Deleted, Head, NULL_VERSION, Object, Precondition, PutOptions, Tags, Version, Versioning,
    check_key, check_tags, shown,
};

/// One bucket.
#[derive(Debug)]
pub struct Bucket {
    name: String,
    folder: PathBuf,
    durability: Durability,
    writer: Mutex<Writer>,
    index: RwLock<Index>,
    pins: Arc<Pins>,
    observers: Arc<Observers>,
}

/// State that only the one writer may change.
#[derive(Debug)]
pub(super) struct Writer {
    journal: Journal,
    deleted: bool,
}

impl Bucket {
    /// Creates the folder of a new bucket.
    pub(super) fn create(
        folder: &Path,
        name: &str,
        region: &str,
        durability: Durability,
        observers: Arc<Observers>,
    ) -> Result<Self> {
        fs::create_dir_all(folder.join("blobs")).context("creating a bucket")?;
        let record = Record::Bucket {
            created: super::now(),
            region: region.to_owned(),
        };
        let journal = Journal::create(
            &folder.join("journal"),
            std::slice::from_ref(&record),
            durability,
        )?;
        if let Some(parent) = folder.parent() {
            durability.folder(parent)?;
        }
        let mut index = Index::default();
        index.apply(record);
        Ok(Self::new(
            folder,
            name,
            journal,
            index,
            (durability, observers),
        ))
    }

    /// Opens a bucket's folder; `None` when its creation never finished.
    pub(super) fn open(
        folder: &Path,
        name: &str,
        durability: Durability,
        observers: Arc<Observers>,
    ) -> Result<Option<Self>> {
        let path = folder.join("journal");
        if !path.try_exists().context("opening a bucket")? {
            return Ok(None);
        }
        let (mut journal, records) = Journal::open(&path, durability)?;
        if !matches!(records.first(), Some(Record::Bucket { .. })) {
            return Err(Error::Corrupt {
                path,
                reason: "the first line does not describe the bucket".into(),
            });
        }
        let lines = records.len();
        let mut index = Index::default();
        for record in records {
            index.apply(record);
        }
        let head = Record::Bucket {
            created: index.created,
            region: index.region.clone(),
        };
        let compact = snapshot(head, index.versioning, &index.keys, &index.uploads);
        if lines > 100 + 2 * compact.len() {
            journal = Journal::create(&path, &compact, durability)?;
        }
        sweep(&folder.join("blobs"), &index)?;
        Ok(Some(Self::new(
            folder,
            name,
            journal,
            index,
            (durability, observers),
        )))
    }

    fn new(
        folder: &Path,
        name: &str,
        journal: Journal,
        index: Index,
        (durability, observers): (Durability, Arc<Observers>),
    ) -> Self {
        Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            durability,
            writer: Mutex::new(Writer {
                journal,
                deleted: false,
            }),
            index: RwLock::new(index),
            pins: Arc::new(Pins::new(folder.join("blobs"))),
            observers,
        }
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the time of creation, in seconds since the epoch.
    pub fn created(&self) -> i64 {
        self.index().created
    }

    /// Returns the region that the bucket was created in.
    pub fn region(&self) -> String {
        self.index().region.clone()
    }

    /// Returns the versioning state.
    pub fn versioning(&self) -> Versioning {
        self.index().versioning
    }

    /// Enables or suspends versioning.
    pub fn set_versioning(&self, status: Versioning) -> Result<()> {
        let mut writer = self.writer()?;
        if self.versioning() == status {
            return Ok(());
        }
        if status == Versioning::Off {
            return Err(Error::InvalidArgument(
                "versioning can be suspended, but never switched off again".into(),
            ));
        }
        self.commit(&mut writer, vec![Record::Versioning { status }])
    }

    /// Starts a blob for an object or a part; computes `algorithm` while it is written.
    pub fn stage(&self, algorithm: Option<Algorithm>) -> Result<Staged> {
        let staged = Staged::create(&self.folder.join("blobs"), algorithm, self.durability);
        // A deleted bucket has no folder, which is not a failure of the disk.
        if staged.is_err() {
            drop(self.writer()?);
        }
        staged
    }

    /// Makes a blob the current object of a key.
    pub fn put(&self, key: &str, sealed: Sealed, options: PutOptions) -> Result<Head> {
        check_key(key)?;
        check_tags(&options.tags)?;
        options.attributes.check()?;
        let algorithm = sealed.asked.unwrap_or(Algorithm::Crc64Nvme);
        let object = Object {
            etag: sealed.etag(),
            size: sealed.size,
            segments: vec![sealed.segment()],
            upload: None,
            attributes: options.attributes,
            tags: options.tags,
            checksum: sealed.digest(algorithm).map(|digest| Checksum {
                algorithm,
                kind: Kind::FullObject,
                value: base64(digest),
            }),
        };
        let mut writer = self.writer()?;
        let record = {
            let index = self.index();
            let current = index.current(key).map(|(_, object)| object.etag.as_str());
            options.precondition.check(key, current)?;
            Record::Put {
                key: key.to_owned(),
                version: Version {
                    id: index.next_version_id(),
                    modified: super::now(),
                    object: Some(object),
                },
                upload: None,
            }
        };
        self.commit(&mut writer, vec![record])?;
        sealed.guard.keep();
        self.written(key)
    }

    /// Describes the object that was just written to a key, and notifies the observers. The
    /// caller holds the writer's lock, so no other write happened in between.
    pub(super) fn written(&self, key: &str) -> Result<Head> {
        let head = self.head(key, None)?;
        self.observers.notify(&BucketEvent::Written {
            bucket: self.name.clone(),
            key: key.to_owned(),
            version_id: head.version_id.clone(),
            etag: head.etag.clone(),
            size: head.size,
        });
        Ok(head)
    }

    /// Describes the current object, or a version of it.
    pub fn head(&self, key: &str, version_id: Option<&str>) -> Result<Head> {
        let index = self.index();
        let (version, object) = index.object(key, version_id)?;
        Ok(Head::new(key, version, object, index.versioning))
    }

    /// Describes an object and opens its bytes.
    pub fn get(&self, key: &str, version_id: Option<&str>) -> Result<(Head, Reader)> {
        // Pinned under the lock, because a blob is only removed after the index dropped it.
        let index = self.index();
        let (version, object) = index.object(key, version_id)?;
        let reader = Reader::new(&self.pins, &object.segments);
        Ok((Head::new(key, version, object, index.versioning), reader))
    }

    /// Deletes the current object (if versioned: by a delete marker) or one version.
    /// A missing object is not an error, unless the precondition requires one.
    pub fn delete(
        &self,
        key: &str,
        version_id: Option<&str>,
        precondition: &Precondition,
    ) -> Result<Deleted> {
        check_key(key)?;
        let mut writer = self.writer()?;
        let (record, deleted) = {
            let index = self.index();
            let target = match version_id {
                Some(_) => match index.find(key, version_id) {
                    Ok(version) => Some(version),
                    Err(Error::NoSuchVersion { .. }) => None,
                    Err(error) => return Err(error),
                },
                None => index.keys.get(key).and_then(|versions| versions.last()),
            };
            let etag = target
                .and_then(|version| version.object.as_ref())
                .map(|object| object.etag.as_str());
            precondition.check(key, etag)?;
            plan_delete(&index, key, version_id, target)
        };
        if let Some(record) = record {
            self.commit(&mut writer, vec![record])?;
            self.observers.notify(&BucketEvent::Removed {
                bucket: self.name.clone(),
                key: key.to_owned(),
                version_id: deleted.version_id.clone(),
                marker: deleted.marker && version_id.is_none(),
            });
        }
        Ok(deleted)
    }

    /// Replaces a version's tags; returns the version.
    pub fn set_tags(
        &self,
        key: &str,
        version_id: Option<&str>,
        tags: Tags,
    ) -> Result<Option<String>> {
        check_tags(&tags)?;
        let mut writer = self.writer()?;
        let (id, answer) = {
            let index = self.index();
            let (version, _) = index.object(key, version_id)?;
            (version.id.clone(), shown(version, index.versioning))
        };
        self.commit(
            &mut writer,
            vec![Record::Tags {
                key: key.to_owned(),
                version_id: id,
                tags,
            }],
        )?;
        Ok(answer)
    }

    /// Lists current objects.
    pub fn list(&self, query: &Query) -> Page {
        list::objects(&self.index().keys, query)
    }

    /// Lists all versions and delete markers.
    pub fn list_versions(&self, query: &Query) -> Page {
        list::versions(&self.index().keys, query)
    }

    /// Locks the bucket against other writers.
    pub(super) fn writer(&self) -> Result<MutexGuard<'_, Writer>> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.deleted {
            return Err(Error::NoSuchBucket(self.name.clone()));
        }
        Ok(writer)
    }

    pub(super) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes changes durable, then visible, then removes the blobs that they replaced.
    pub(super) fn commit(&self, writer: &mut Writer, records: Vec<Record>) -> Result<()> {
        writer.journal.append(&records)?;
        let mut freed = Vec::new();
        {
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            for record in records {
                freed.extend(index.apply(record));
            }
        }
        for blob in freed {
            self.pins.remove(blob);
        }
        Ok(())
    }

    /// Deletes the bucket if it is empty, by renaming its folder to `trashed`.
    pub(super) fn schedule_delete(&self, trashed: &Path) -> Result<()> {
        let mut writer = self.writer()?;
        if !self.index().keys.is_empty() {
            return Err(Error::BucketNotEmpty(self.name.clone()));
        }
        fs::rename(&self.folder, trashed).context("deleting a bucket")?;
        writer.deleted = true;
        if let Some(parent) = self.folder.parent() {
            self.durability.folder(parent)?;
        }
        Ok(())
    }
}

impl Index {
    /// Creates the id of the next version.
    pub(super) fn next_version_id(&self) -> String {
        match self.versioning {
            Versioning::Enabled => uuid::Uuid::new_v4().simple().to_string(),
            Versioning::Off | Versioning::Suspended => NULL_VERSION.to_owned(),
        }
    }
}

fn plan_delete(
    index: &Index,
    key: &str,
    version_id: Option<&str>,
    target: Option<&Version>,
) -> (Option<Record>, Deleted) {
    let remove = |version: &Version| Record::Remove {
        key: key.to_owned(),
        version_id: version.id.clone(),
    };
    if let Some(wanted) = version_id {
        let deleted = Deleted {
            version_id: Some(wanted.to_owned()),
            marker: target.is_some_and(|version| version.object.is_none()),
        };
        return (target.map(remove), deleted);
    }
    if index.versioning == Versioning::Off {
        let deleted = Deleted {
            version_id: None,
            marker: false,
        };
        return (target.map(remove), deleted);
    }
    let marker = Version {
        id: index.next_version_id(),
        modified: super::now(),
        object: None,
    };
    let deleted = Deleted {
        version_id: Some(marker.id.clone()),
        marker: true,
    };
    let record = Record::Put {
        key: key.to_owned(),
        version: marker,
        upload: None,
    };
    (Some(record), deleted)
}

/// Removes blobs that no record names, after an interrupted upload or a crash.
fn sweep(blobs: &Path, index: &Index) -> Result<()> {
    let needed: HashSet<&str> = index.blobs().collect();
    for entry in fs::read_dir(blobs).context("opening a bucket")? {
        let entry = entry.context("opening a bucket")?;
        let name = entry.file_name();
        if !name.to_str().is_some_and(|name| needed.contains(name)) {
            fs::remove_file(entry.path()).context("sweeping a bucket")?;
        }
    }
    Ok(())
}
