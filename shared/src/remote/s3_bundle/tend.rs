//! Archives that refs lack: written for what is there, whoever pushed it.

use std::collections::HashSet;
use std::sync::Arc;

use bstr::{BStr, BString, ByteSlice};
use futures_util::StreamExt as _;

use super::library::database_with;
use super::target::BundleTarget;
use super::twins::Ref;
use super::zip::{self, Zip};
use crate::error::Result;
use crate::git::{ObjectId, shown};
use crate::remote::objects::Database;

/// How many archives are looked at once.
const LOOKS_AT_ONCE: usize = 16;

impl BundleTarget {
    /// What becomes of the archive of a ref that is about to name `id`.
    pub(super) async fn zip(&self, objects: &Arc<Database>, id: ObjectId) -> Result<Zip> {
        let Some(archiver) = &self.place.options.archiver else {
            return Ok(Zip::Leave);
        };
        let archive = if objects.contains(id).await? {
            archiver.open(objects, id).await?
        } else {
            // It is a copy of a bundle that was not read.
            let books = self.opened.library.find(&[id]).await?;
            let objects = database_with(&self.place, self.hash, None, &books)?;
            archiver.open(&objects, id).await?
        };
        Ok(archive.map_or(Zip::Remove, Zip::Write))
    }

    /// Writes the archives that these refs lack: one HEAD for each that the list has shown,
    /// and no request for one that this push has written. What names no commit has no
    /// archive, which is seen by reading its bundle, each time.
    pub(super) async fn renew_archives(&self, names: &[BString]) -> Result<()> {
        if self.place.options.archiver.is_none() {
            return Ok(());
        }
        let names: HashSet<&BString> = names.iter().collect();
        let mut looks = Vec::new();
        for (name, found) in &self.opened.refs {
            // What lost its ref has no folder of its own, and so no archive.
            let has_folder = found.seen.name == *name;
            if has_folder && names.contains(name) && !self.archived.contains(name) {
                looks.push(self.look(name, found));
            }
        }
        let looks: Vec<_> = futures_util::stream::iter(looks)
            .buffered(LOOKS_AT_ONCE)
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
    async fn look<'a>(
        &self,
        name: &'a BString,
        found: &'a Ref,
    ) -> Result<Option<(&'a BString, &'a Ref)>> {
        let is_current =
            found.zip && zip::is_current(&self.place, name.as_bstr(), found.file.id).await?;
        Ok((!is_current).then_some((name, found)))
    }

    async fn renew(&self, name: &BStr, found: &Ref) -> Result<()> {
        let id = found.file.id;
        let renewed = async {
            let books = self.opened.library.find(&[id]).await?;
            let objects = database_with(&self.place, self.hash, None, &books)?;
            let zip = self.zip(&objects, id).await?;
            if matches!(zip, Zip::Remove) && !found.zip {
                return Ok(());
            }
            zip::renew(&self.place, &found.seen, id, &zip).await
        };
        renewed
            .await
            .map_err(|error| error.context(format!("the archive of `{}`", shown(name))))
    }
}
