//! Converts and compresses the contents of one blob.

use std::sync::Arc;

use super::convert::Conversion;
use super::substitutions::SubstitutionFacts;
use super::zip::{EntryDefaults, PackedEntry};
use crate::error::Result;
use crate::git::ObjectId;
use crate::git::object::{Commit, EntryMode};

/// Instructions to make one content of a blob.
#[derive(Clone, Copy)]
pub(super) struct ContentRecipe {
    pub(super) content: u32,
    pub(super) mode: EntryMode,
    pub(super) conversion: Option<Conversion>,
    /// The item with the first `%(describe)` of its repository has this content.
    pub(super) describes: bool,
    /// Number of the repository.
    pub(super) source: u32,
}

/// The contents that were made of a blob.
pub(super) struct PackedContents {
    pub(super) contents: Vec<(u32, PackedEntry)>,
    /// Those of items with the first `%(describe)` of their repositories.
    pub(super) describing: Vec<(u32, PackedEntry)>,
}

impl PackedContents {
    /// Returns the size in memory, in bytes.
    pub(super) fn len(&self) -> usize {
        let contents = self.contents.iter().chain(&self.describing);
        contents.map(|(_, packed)| packed.len()).sum()
    }
}

/// Makes contents of a blob, or of the object of git LFS that it names.
pub(super) fn pack(
    recipes: &[ContentRecipe],
    blob: ObjectId,
    bytes: &[u8],
    (commits, facts): (&[Arc<Commit>], &SubstitutionFacts),
    defaults: EntryDefaults,
) -> Result<PackedContents> {
    let packed = |recipe: &ContentRecipe, describes: bool| match recipe.conversion {
        Some(conversion) => {
            let source = recipe.source as usize;
            let context = facts.context_of(&commits[source], source, describes);
            let bytes = conversion.apply(blob, bytes, context)?;
            PackedEntry::new(&bytes, recipe.mode, defaults)
        }
        None => PackedEntry::new(bytes, recipe.mode, defaults),
    };
    let mut made = PackedContents {
        contents: Vec::with_capacity(recipes.len()),
        describing: Vec::new(),
    };
    for recipe in recipes {
        made.contents.push((recipe.content, packed(recipe, false)?));
        if recipe.describes {
            made.describing
                .push((recipe.content, packed(recipe, true)?));
        }
    }
    Ok(made)
}
