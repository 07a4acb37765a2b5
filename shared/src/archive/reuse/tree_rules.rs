//! Attributes of paths by all `.gitattributes` of a tree, without its listing.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::archive::attributes::{Attributes, Rules};
use crate::archive::convert::Conversion;
use crate::archive::request::ArchiveRequest;
use crate::error::Result;
use crate::git::object::EntryMode;

/// Treatment of a path in an archive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Treatment {
    /// Below a folder that is not archived.
    InIgnoredFolder,
    /// Not archived, although its folder is.
    Ignored,
    /// Archived after this conversion.
    Archived(Conversion),
}

/// All rules of a tree.
pub(super) struct TreeRules {
    attributes: Attributes,
    built_in: Arc<Rules>,
    // Contents by folder.
    files: HashMap<String, Bytes>,
    // Rules of the folders so far; `None` for one that is not archived.
    folders: HashMap<String, Option<Arc<Rules>>>,
    // Entries with the attribute `export-ignore` are left out.
    export_ignore: bool,
    // Pointers of git LFS become their objects.
    with_lfs: bool,
}

impl TreeRules {
    /// Makes the rules of a tree from its `.gitattributes`, by the paths of their folders, for
    /// an archive of `request`.
    pub(super) fn new(files: HashMap<String, Bytes>, request: &ArchiveRequest) -> Result<Self> {
        let (attributes, built_in) = Attributes::new()?;
        let mut rules = Self {
            attributes,
            built_in: Arc::clone(&built_in),
            files,
            folders: HashMap::new(),
            export_ignore: request.export_ignore,
            with_lfs: request.lfs.is_some(),
        };
        let root = rules.with_file(built_in, "")?;
        rules.folders.insert(String::new(), Some(root));
        Ok(rules)
    }

    /// Returns the treatment of the file, link or submodule at `path`.
    ///
    /// # Errors
    /// `Config` where git fails.
    pub(super) fn find(&mut self, path: &str, mode: EntryMode) -> Result<Treatment> {
        if self.files.is_empty() {
            return Ok(Treatment::Archived(Conversion::NONE));
        }
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let Some(rules) = self.rules_of(folder)? else {
            return Ok(Treatment::InIgnoredFolder);
        };
        let is_folder = mode == EntryMode::Commit;
        let found = self.attributes.find(&rules, path, is_folder);
        if found.export_ignore && self.export_ignore {
            return Ok(Treatment::Ignored);
        }
        Ok(Treatment::Archived(match mode {
            EntryMode::Blob | EntryMode::BlobExecutable => {
                Conversion::new(&found, path, self.with_lfs)?
            }
            EntryMode::Link | EntryMode::Commit | EntryMode::Tree => Conversion::NONE,
        }))
    }

    /// Returns whether neither `folder` nor a folder above it is left out.
    pub(super) fn archives_folder(&mut self, folder: &str) -> Result<bool> {
        Ok(self.rules_of(folder)?.is_some())
    }

    fn rules_of(&mut self, folder: &str) -> Result<Option<Arc<Rules>>> {
        match self.folders.get(folder) {
            Some(rules) => Ok(rules.clone()),
            None => self.enter(folder),
        }
    }

    /// Computes the rules of `folder` and of the folders above it.
    fn enter(&mut self, folder: &str) -> Result<Option<Arc<Rules>>> {
        let root = self.folders.get("").cloned().flatten();
        let mut rules = Some(root.unwrap_or_else(|| Arc::clone(&self.built_in)));
        let ends = folder.match_indices('/').map(|(at, _)| at);
        for end in ends.chain([folder.len()]) {
            let path = &folder[..end];
            if let Some(known) = self.folders.get(path) {
                rules.clone_from(known);
                continue;
            }
            if let Some(above) = rules.take()
                && !(self.export_ignore && self.attributes.find(&above, path, true).export_ignore)
            {
                rules = Some(self.with_file(above, path)?);
            }
            self.folders.insert(path.to_owned(), rules.clone());
        }
        Ok(rules)
    }

    fn with_file(&mut self, above: Arc<Rules>, folder: &str) -> Result<Arc<Rules>> {
        match self.files.get(folder) {
            Some(bytes) => self
                .attributes
                .add(&above, folder, folder.is_empty(), bytes),
            None => Ok(above),
        }
    }
}
