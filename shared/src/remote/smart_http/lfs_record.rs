//! The record of LFS objects that a git server lacks: a blob under a ref of its own, which exists
//! only while objects are missing.
//!
//! The refs are read with every push, so that a mirror without missing objects makes no request
//! for the record.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bstr::BString;
use bytes::Bytes;
use futures_util::StreamExt as _;

use super::small_pack;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::object::{ObjectKind, id_of};
use crate::git::pack::PackWriter;
use crate::git::refs::RefOutcome;
use crate::git::smart_http::{PushRequest, RefCommand, SmartHttp};
use crate::lfs::{LfsRecord, RecordStore};
use crate::remote::{LFS_RECORD_REF, Snapshot};
use crate::storage::ETag;

/// Record of one server.
#[derive(Clone)]
pub(super) struct RecordRef {
    client: SmartHttp,
    // The ref was missing when the refs were read last.
    is_missing: Arc<AtomicBool>,
}

impl RecordRef {
    pub(super) fn new(client: SmartHttp) -> Self {
        Self {
            client,
            is_missing: Arc::default(),
        }
    }

    /// Records whether the opened target has the ref.
    pub(super) fn record_presence(&self, target: &Snapshot) {
        let is_there = target.refs.contains_key(&BString::from(LFS_RECORD_REF));
        self.set_missing(!is_there);
    }

    fn set_missing(&self, is_missing: bool) {
        self.is_missing.store(is_missing, Ordering::Relaxed);
    }

    fn moved(&self) -> Error {
        self.set_missing(false);
        let message = format!(
            "another writer changed `{LFS_RECORD_REF}` of {}",
            self.client.url()
        );
        Error::new(ErrorKind::Conflict, message)
    }
}

fn tag(id: ObjectId) -> Result<ETag> {
    ETag::new(id.to_string())
}

#[async_trait]
impl RecordStore for RecordRef {
    async fn read_record(&self) -> Result<Option<(Bytes, ETag)>> {
        if self.is_missing.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let name = BString::from(LFS_RECORD_REF);
        let server = self.client.upload_pack(std::slice::from_ref(&name)).await?;
        let found = server.advertisement.find(LFS_RECORD_REF);
        let Some(id) = found.map(|found| found.id) else {
            self.set_missing(true);
            return Ok(None);
        };
        let record = small_pack::read_blob(&server, server.advertisement.hash, id).await?;
        Ok(Some((record, tag(id)?)))
    }

    async fn write_record(&self, record: Bytes, read: Option<&ETag>) -> Result<Option<ETag>> {
        let server = self.client.receive_pack().await?;
        let hash = server.advertisement.hash;
        let found = server.advertisement.find(LFS_RECORD_REF);
        let found = found.map(|found| found.id);
        if found.map(tag).transpose()?.as_ref() != read {
            return Err(self.moved());
        }
        // A record without a fact is the absence of the ref.
        let is_empty = record == LfsRecord::default().to_bytes();
        let new = if is_empty {
            None
        } else {
            Some(id_of(hash, ObjectKind::Blob, &record)?)
        };
        if new == found {
            return new.map(tag).transpose();
        }
        let pack = match new {
            None => None,
            Some(id) => {
                let mut writer = PackWriter::new(hash, 1);
                writer.object(id, ObjectKind::Blob, &record);
                let (bytes, _) = writer.finish()?;
                Some(futures_util::stream::iter([Ok(bytes)]).boxed())
            }
        };
        let report = server
            .push(PushRequest {
                commands: vec![RefCommand {
                    name: LFS_RECORD_REF.into(),
                    old: found.unwrap_or(hash.null()),
                    new: new.unwrap_or(hash.null()),
                }],
                pack,
            })
            .await?;
        let outcome = report.refs.into_iter().next().map(|(_, outcome)| outcome);
        let reason = match (report.unpack_error, outcome) {
            (None, Some(RefOutcome::Done)) => {
                self.set_missing(new.is_none());
                return new.map(tag).transpose();
            }
            (Some(reason), _) | (None, Some(RefOutcome::Rejected(reason))) => reason,
            (None, Some(RefOutcome::Unknown) | None) => "it reported no result".to_owned(),
        };
        let server = self.client.receive_pack().await?;
        let current = server.advertisement.find(LFS_RECORD_REF);
        if current.map(|current| current.id) != found {
            return Err(self.moved());
        }
        let url = self.client.url();
        let reason = crate::git::foreign_message(reason.as_bytes());
        let message = format!("{url} rejects `{LFS_RECORD_REF}`: {reason}");
        Err(Error::new(ErrorKind::AccessDenied, message)
            .with_hint("allow pushes to refs below `refs/branchline/`"))
    }
}
