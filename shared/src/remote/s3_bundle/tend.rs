//! Archives that refs lack: written for what is there, whoever pushed it.

use std::collections::HashSet;
use std::sync::Arc;

use bstr::{BStr, BString, ByteSlice};
use futures_util::StreamExt as _;

use super::archive::{self, ArchiveAction};
use super::catalog::database_with;
use super::competing::Ref;
use super::target::BundleTarget;
use crate::error::Result;
use crate::git::odb::Database;
use crate::git::{ObjectId, escaped_excerpt};

/// How many archives are looked at once.
const CONCURRENT_CHECKS: usize = 16;

impl BundleTarget {
    /// What becomes of the archive of a ref that is about to name `id`.
    pub(super) async fn zip(&self, objects: &Arc<Database>, id: ObjectId) -> Result<ArchiveAction> {
        let Some(archiver) = &self.place.options.archiver else {
            return Ok(ArchiveAction::Leave);
        };
        let archive = if objects.contains(id).await? {
            archiver.open(objects, id).await?
        } else {
            // It is a copy of a bundle that was not read.
            let books = self.opened.library.find(&[id]).await?;
            let objects = database_with(&self.place, self.hash, None, &books)?;
            archiver.open(&objects, id).await?
        };
        Ok(archive.map_or(ArchiveAction::Remove, ArchiveAction::Write))
    }

    /// Writes the archives that these refs lack: one HEAD for each that the list has shown,
    /// and no request for one that this push has written. What names no commit has no
    /// archive, which is seen by reading its bundle, each time.
    pub(super) async fn refresh_outdated_archives(&self, names: &[BString]) -> Result<()> {
        if self.place.options.archiver.is_none() {
            return Ok(());
        }
        let names: HashSet<&BString> = names.iter().collect();
        let mut looks = Vec::new();
        for (name, found) in &self.opened.refs {
            // What lost its ref has no folder of its own, and so no archive.
            let has_folder = found.seen.name == *name;
            if has_folder && names.contains(name) && !self.archived.contains(name) {
                looks.push(self.find_outdated(name, found));
            }
        }
        let looks: Vec<_> = futures_util::stream::iter(looks)
            .buffered(CONCURRENT_CHECKS)
            .collect()
            .await;
        let mut first = Ok(());
        for looked in looks {
            let renewed = match looked {
                Ok(None) => continue,
                Ok(Some((name, found))) => self.renew(name.as_bstr(), found).await,
                Err(error) => Err(error),
            };
            // One that fails stops no other.
            if first.is_ok() {
                first = renewed;
            }
        }
        first
    }

    /// The ref, when its archive is missing or of something else.
    async fn find_outdated<'a>(
        &self,
        name: &'a BString,
        found: &'a Ref,
    ) -> Result<Option<(&'a BString, &'a Ref)>> {
        let is_current =
            found.zip && archive::is_current(&self.place, name.as_bstr(), found.file.id).await?;
        Ok((!is_current).then_some((name, found)))
    }

    async fn renew(&self, name: &BStr, found: &Ref) -> Result<()> {
        let id = found.file.id;
        let renewed = async {
            let books = self.opened.library.find(&[id]).await?;
            let objects = database_with(&self.place, self.hash, None, &books)?;
            let zip = self.zip(&objects, id).await?;
            if matches!(zip, ArchiveAction::Remove) && !found.zip {
                return Ok(());
            }
            archive::refresh(&self.place, &found.seen, id, &zip).await
        };
        renewed
            .await
            .map_err(|error| error.context(format!("the archive of `{}`", escaped_excerpt(name))))
    }
}
