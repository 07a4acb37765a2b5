//! The record of one target: read once in a run, and written after each change.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Mutex, MutexGuard};

use super::{LfsRecord, LfsStore, RecordStore};
use crate::error::{ErrorKind, Result};
use crate::storage::ETag;

/// Maximum number of writes of a change, while other clients write too.
const MAX_WRITES: usize = 5;

/// The store of a target, and its record. Where the store keeps none, or the target refuses it, the
/// record lives as long as the run.
pub(super) struct Inventory {
    pub(super) store: Arc<dyn LfsStore>,
    state: Mutex<Option<LoadedRecord>>,
}

#[derive(Default)]
pub(super) struct LoadedRecord {
    record: LfsRecord,
    /// Entity tag of the stored record; `None` if there is none.
    etag: Option<ETag>,
}

impl LoadedRecord {
    async fn read(records: &dyn RecordStore, store: &dyn LfsStore) -> Result<Self> {
        let (bytes, etag) = match records.read_record().await {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(Self::default()),
            // S3 answers so for a missing object if its reader may not list the bucket; a git
            // server, if the ref was deleted meanwhile.
            Err(error) if matches!(error.kind(), ErrorKind::AccessDenied | ErrorKind::NotFound) => {
                tracing::warn!(
                    error = %error.report(),
                    "the record of LFS objects of {store} cannot be read: missing objects are not \
                     requested again"
                );
                return Ok(Self::default());
            }
            Err(error) => return Err(error),
        };
        let record = match LfsRecord::parse(&bytes) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!(
                    error = %error.report(),
                    "the record of LFS objects of {store} is damaged: all history is scanned again"
                );
                let mut record = LfsRecord::default();
                record.set_unscanned(&[]);
                record
            }
            record => record.map_err(|error| error.context(store.to_string()))?,
        };
        let etag = Some(etag);
        Ok(Self { record, etag })
    }
}

impl Inventory {
    pub(super) fn new(store: Arc<dyn LfsStore>) -> Self {
        Self {
            store,
            state: Mutex::default(),
        }
    }

    /// Calls `read` with the record, which is read from the store first.
    pub(super) async fn with_record<T>(&self, read: impl FnOnce(&LfsRecord) -> T) -> Result<T> {
        let mut state = self.state.lock().await;
        Ok(read(&self.loaded(&mut state).await?.record))
    }

    /// Calls `read` with the record if it was loaded before.
    pub(super) async fn if_loaded<T>(&self, read: impl FnOnce(&LfsRecord) -> T) -> Option<T> {
        let state = self.state.lock().await;
        state.as_ref().map(|state| read(&state.record))
    }

    async fn loaded<'a>(
        &self,
        state: &'a mut MutexGuard<'_, Option<LoadedRecord>>,
    ) -> Result<&'a mut LoadedRecord> {
        if state.is_none() {
            **state = Some(match self.store.records() {
                None => LoadedRecord::default(),
                Some(records) => LoadedRecord::read(records, &*self.store).await?,
            });
        }
        Ok(state.as_mut().expect("because it was just set"))
    }

    /// Returns what the target keeps of a record: a store that cannot list its objects does not
    /// remember them, nor how far they were verified.
    fn kept(&self, record: &LfsRecord) -> LfsRecord {
        if self.store.listed().is_some() {
            return record.clone();
        }
        LfsRecord {
            missing: record.missing.clone(),
            unscanned: record.unscanned.clone(),
            ..LfsRecord::default()
        }
    }

    /// Makes a change, which must have the same effect when it is repeated, and writes the record
    /// if the change has an effect.
    pub(super) async fn update(&self, change: impl Fn(&mut LfsRecord)) -> Result<()> {
        let mut state = self.state.lock().await;
        let mut writes = 0;
        loop {
            let loaded = self.loaded(&mut state).await?;
            let mut changed = loaded.record.clone();
            change(&mut changed);
            if changed == loaded.record {
                return Ok(());
            }
            let kept = self.kept(&changed);
            let is_kept_unchanged = kept == self.kept(&loaded.record);
            let Some(records) = self.store.records().filter(|_| !is_kept_unchanged) else {
                loaded.record = changed;
                return Ok(());
            };
            let bytes: Bytes = kept.to_bytes();
            writes += 1;
            match records.write_record(bytes, loaded.etag.as_ref()).await {
                Ok(etag) => {
                    *loaded = LoadedRecord {
                        record: changed,
                        etag,
                    };
                    return Ok(());
                }
                // Another client wrote it: its facts are kept.
                Err(error) if error.kind() == ErrorKind::Conflict && writes < MAX_WRITES => {
                    *state = None;
                }
                Err(error)
                    if error.kind() == ErrorKind::AccessDenied && self.store.listed().is_none() =>
                {
                    tracing::warn!(
                        error = %error.report(),
                        "{} refuses the record of missing LFS objects: `\"lfs\": \"verify\"` finds \
                         them",
                        self.store
                    );
                    loaded.record = changed;
                    return Ok(());
                }
                Err(error) => {
                    let message = format!("writing the record of LFS objects of {}", self.store);
                    return Err(error.context(message));
                }
            }
        }
    }
}
