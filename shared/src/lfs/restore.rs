//! Copies objects that an earlier run did not: those that were missing at the source, those that
//! have vanished from the target, and those of refs that were mirrored without LFS objects.
//!
//! A run reads the target's record (one request), and one list of its objects (one request of at
//! most 1,000 keys). Of a store with more objects, each run checks one slice, chosen at random.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::inventory::Inventory;
use super::transfer::missing_error;
use super::{
    LfsRecord, LfsStore, LfsTransfer, MAX_BATCH_OBJECTS, Pointer, StoredObjects, verify_stream,
};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;

/// Maximum number of objects that one list returns with certainty: S3 lists 1,000 keys.
const MAX_LISTED: usize = 900;
/// Maximum number of digits by which slices are chosen.
const MAX_SLICE_DIGITS: usize = 3;
/// Maximum number of objects that are read at once by a verification.
const CONCURRENT_READS: usize = 8;
/// Bytes that a verification reads before its progress is recorded.
const VERIFIED_BYTES_BETWEEN_RECORDS: u64 = 1 << 30;
/// Objects that a verification reads before its progress is recorded.
const VERIFIED_OBJECTS_BETWEEN_RECORDS: usize = 20 * MAX_BATCH_OBJECTS;

impl LfsTransfer {
    /// Returns true if the target's record names stored objects, which
    /// [`restore`](Self::restore) compares with a list.
    pub async fn compares_stored_objects(&self) -> Result<bool> {
        match (&self.source, &self.target) {
            (Some(_), Some(target)) => target.with_record(|record| !record.stored.is_empty()).await,
            _ => Ok(false),
        }
    }

    /// Returns the commits from which history was scanned for pointers, if refs were mirrored
    /// without LFS objects since.
    pub async fn unscanned_since(&self) -> Result<Option<Vec<ObjectId>>> {
        match (&self.source, &self.target) {
            (Some(_), Some(target)) => target.with_record(|record| record.unscanned.clone()).await,
            _ => Ok(None),
        }
    }

    /// Copies the objects that an unscanned history names, and records that it is scanned.
    ///
    /// # Errors
    /// As [`copy`](Self::copy).
    pub async fn copy_scanned(&self, pointers: &[Pointer]) -> Result<()> {
        self.copy(pointers).await?;
        match &self.target {
            Some(target) => target.update(|record| record.unscanned = None).await,
            None => Ok(()),
        }
    }

    /// Requests objects again that were missing, and copies those that have vanished from the
    /// target.
    ///
    /// # Errors
    /// As [`copy`](Self::copy).
    pub async fn restore(&self) -> Result<()> {
        let Some(target) = &self.target else {
            return Ok(());
        };
        if self.source.is_none() {
            // Read for the count of objects left out.
            return target.with_record(|_| ()).await;
        }
        let (mut wanted, stored_count) = target
            .with_record(|record| (record.missing.clone(), record.stored.len()))
            .await?;
        let mut is_whole_store_listed = false;
        if let Some(store) = target.store.listed()
            && stored_count > 0
            && !self.skips_comparison()
        {
            let digits = slice(stored_count, rand::random());
            let listed = self.retry.run(|| store.list(&digits)).await?;
            is_whole_store_listed = digits.is_empty() && listed.is_complete;
            let vanished = target
                .with_record(|record| vanished(record, &digits, &listed))
                .await?;
            if !vanished.is_empty() {
                tracing::warn!(
                    lfs.vanished = vanished.len(),
                    "LFS objects have vanished from {}",
                    target.store
                );
            }
            wanted.extend(vanished);
            if is_whole_store_listed {
                // Another client has provided them.
                let found: Vec<Pointer> = listed
                    .objects
                    .into_iter()
                    .filter(|pointer| wanted.remove(pointer))
                    .collect();
                self.set_stored(target, &found).await?;
            }
        }
        let wanted: Vec<Pointer> = wanted.into_iter().collect();
        if wanted.is_empty() {
            return Ok(());
        }
        if !is_whole_store_listed {
            return self.copy(&wanted).await;
        }
        let Some(source) = self.source().await? else {
            return self.leave_out(wanted).await;
        };
        let unavailable = self.replace(source, &*target.store, &wanted).await?;
        self.record_copies(target, &wanted, &unavailable).await
    }

    async fn set_stored(&self, target: &Inventory, pointers: &[Pointer]) -> Result<()> {
        let update = target.update(|record| {
            for pointer in pointers {
                record.set_stored(pointer.clone());
            }
        });
        update.await
    }

    /// Returns true if a verification was interrupted, so that [`verify`](Self::verify) continues
    /// with the recorded objects.
    pub async fn has_begun_verification(&self) -> Result<bool> {
        match &self.target {
            Some(target) => target.with_record(|record| record.verified.is_some()).await,
            None => Ok(false),
        }
    }

    /// Reads the recorded objects and `pointers` at the target, and copies those that are missing
    /// or have wrong content. If `is_all`, `pointers` are all that the target's refs name, and
    /// others are dropped from the record.
    ///
    /// # Errors
    /// As [`copy`](Self::copy).
    pub async fn verify(&self, pointers: &[Pointer], is_all: bool) -> Result<()> {
        let (Some(source), Some(target)) = (self.source().await?, &self.target) else {
            return self.copy(pointers).await;
        };
        let pointers: BTreeSet<Pointer> = pointers
            .iter()
            .filter(|pointer| pointer.size_bytes > 0)
            .cloned()
            .collect();
        let update = target.update(|record| {
            if is_all {
                record.stored.retain(|pointer| pointers.contains(pointer));
                record.missing.retain(|pointer| pointers.contains(pointer));
            }
            for pointer in &pointers {
                if !record.missing.contains(pointer) {
                    record.stored.insert(pointer.clone());
                }
            }
        });
        update.await?;
        let unverified: Vec<Pointer> = target
            .with_record(|record| {
                let all = record.stored.iter().chain(&record.missing);
                let is_left = |pointer: &&Pointer| {
                    let verified = record.verified.as_ref();
                    verified.is_none_or(|verified| pointer.oid > *verified)
                };
                let unverified: BTreeSet<_> = all.filter(is_left).cloned().collect();
                unverified.into_iter().collect()
            })
            .await?;
        let (mut read_bytes, mut read_objects) = (0, 0);
        for batch in unverified.chunks(MAX_BATCH_OBJECTS) {
            let (missing, wrong) = self.find_wrong(&*target.store, batch).await?;
            if let (None, Some(first)) = (target.store.listed(), wrong.first()) {
                return Err(irreplaceable(first, &wrong, &*target.store));
            }
            let wrong: Vec<Pointer> = missing.into_iter().chain(wrong).collect();
            let unavailable = self.replace(source, &*target.store, &wrong).await?;
            self.record_copies(target, &wrong, &unavailable).await?;
            read_bytes += batch.iter().map(|pointer| pointer.size_bytes).sum::<u64>();
            read_objects += batch.len();
            if (read_bytes >= VERIFIED_BYTES_BETWEEN_RECORDS
                || read_objects >= VERIFIED_OBJECTS_BETWEEN_RECORDS)
                && let Some(last) = batch.last()
            {
                (read_bytes, read_objects) = (0, 0);
                let verified = Some(last.oid.clone());
                let update = target.update(|record| record.verified.clone_from(&verified));
                update.await?;
            }
        }
        target
            .update(|record| {
                record.verified = None;
                record.unscanned = None;
            })
            .await
    }

    /// Reads objects; returns those that are missing, and those with wrong content.
    async fn find_wrong(
        &self,
        store: &dyn LfsStore,
        batch: &[Pointer],
    ) -> Result<(Vec<Pointer>, Vec<Pointer>)> {
        let missing = self.retry.run(|| store.missing(batch)).await?;
        let present: Vec<Pointer> = batch
            .iter()
            .filter(|pointer| !missing.contains(pointer))
            .cloned()
            .collect();
        if present.is_empty() {
            return Ok((missing, Vec::new()));
        }
        self.retry.run(|| store.prepare(&present)).await?;
        let reads = stream::iter(present).map(|pointer| async move {
            match self.retry.run(|| read_all(store, &pointer)).await {
                Ok(()) => Ok(None),
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                    tracing::warn!(
                        lfs.oid = pointer.oid,
                        size_bytes = pointer.size_bytes,
                        error = %error.report(),
                        "an LFS object at the target is wrong"
                    );
                    Ok(Some(pointer))
                }
                Err(error) => Err(error),
            }
        });
        let wrong: Vec<Pointer> = reads
            .buffered(CONCURRENT_READS)
            .try_filter_map(async |wrong| Ok(wrong))
            .try_collect()
            .await?;
        Ok((missing, wrong))
    }

    /// Fails if objects are missing although they are required.
    ///
    /// # Errors
    /// `NotFound`, naming the objects.
    pub async fn check_required(&self) -> Result<()> {
        let (true, Some(target)) = (self.is_required(), &self.target) else {
            return Ok(());
        };
        let missing = target.if_loaded(|record| {
            let missing = record.missing.iter().map(|pointer| {
                let error = Error::new(ErrorKind::NotFound, "an earlier run did not find them");
                (pointer.clone(), error)
            });
            missing.collect()
        });
        let missing: BTreeMap<_, _> = missing.await.unwrap_or_default();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(missing_error(&missing))
        }
    }
}

/// Makes the error for objects that a server has with wrong content, and does not accept again.
fn irreplaceable(first: &Pointer, wrong: &[Pointer], store: &dyn LfsStore) -> Error {
    let message = format!(
        "{store} has wrong content for {} LFS objects, such as {}",
        wrong.len(),
        first.oid
    );
    Error::new(ErrorKind::Corrupt, message)
        .with_hint("delete them at that server, and mirror again")
}

/// Reads an object, and verifies its content.
///
/// # Errors
/// `NotFound` for a missing object, `Corrupt` for wrong content.
pub async fn read_all(store: &dyn LfsStore, pointer: &Pointer) -> Result<()> {
    let mut content = verify_stream(pointer, store.read(pointer).await?);
    while content.try_next().await?.is_some() {}
    Ok(())
}

/// Returns the digits that start the ids of a slice, such that a slice of `count` objects fits
/// into one list; `random` chooses the slice.
fn slice(count: usize, random: u16) -> String {
    let mut digits = 0;
    let mut in_slice = count;
    // Half of what fits, because slices are not equally large.
    while in_slice > MAX_LISTED && digits < MAX_SLICE_DIGITS {
        digits += 1;
        in_slice = count * 2 / 16_usize.pow(u32::try_from(digits).unwrap_or_default());
    }
    format!("{:03x}", random & 0xfff)[..digits].to_owned()
}

/// Returns the recorded objects of a slice that are not in its list.
fn vanished(record: &LfsRecord, digits: &str, listed: &StoredObjects) -> Vec<Pointer> {
    let found: BTreeSet<&Pointer> = listed.objects.iter().collect();
    let last = found.last().map(|pointer| pointer.oid.as_str());
    let is_listed = |pointer: &&Pointer| {
        pointer.oid.starts_with(digits) && (listed.is_complete || Some(pointer.oid.as_str()) < last)
    };
    let recorded = record.stored.iter().filter(is_listed);
    recorded
        .filter(|pointer| !found.contains(pointer))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_fits_into_one_list() {
        for (count, digits) in [
            (1, 0),
            (900, 0),
            (901, 1),
            (7200, 1),
            (7300, 2),
            (100_000, 2),
        ] {
            assert_eq!(slice(count, 0xabc).len(), digits, "{count}");
        }
        assert_eq!(slice(10_000_000, 0xfabc), "abc");
    }

    #[test]
    fn only_objects_that_the_list_covers_have_vanished() {
        let pointer = |start: &str| Pointer {
            oid: format!("{start:0<64}"),
            size_bytes: 1,
        };
        let mut record = LfsRecord::default();
        for start in ["a1", "a2", "a3", "b1"] {
            record.set_stored(pointer(start));
        }
        let mut listed = StoredObjects {
            objects: vec![pointer("a2")],
            is_complete: true,
        };
        let starts = |found: Vec<Pointer>| -> Vec<String> {
            let starts = found.iter().map(|found| found.oid[..2].to_owned());
            starts.collect()
        };
        assert_eq!(starts(vanished(&record, "a", &listed)), ["a1", "a3"]);
        assert_eq!(starts(vanished(&record, "", &listed)), ["a1", "a3", "b1"]);
        listed.is_complete = false;
        assert_eq!(starts(vanished(&record, "a", &listed)), ["a1"]);
        listed.objects.clear();
        assert_eq!(starts(vanished(&record, "a", &listed)), [""; 0]);
    }
}
