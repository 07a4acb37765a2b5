//! Names of temporary tags.

use bstr::{BStr, BString};

use crate::git::ObjectId;

/// Start of the names of temporary tags. `incremental-repo-migration.py` of CodeCommit's user guide
/// appends numbers from 1, and deletes all tags with this prefix.
const TAG_PREFIX: &str = "refs/tags/codecommit_migration_";
/// Continues the names of tags that the script does not make, for parts of its batches; the
/// start of the commit id follows.
const PART_PREFIX: &str = "part_";
/// Hexadecimal digits of the commit id at the end of such a name.
const PART_DIGITS: usize = 16;

/// Returns true if a ref is a temporary tag of a migration, by the script or by branchline.
pub(super) fn is_temporary(name: &BStr) -> bool {
    let Some(rest) = name.strip_prefix(TAG_PREFIX.as_bytes()) else {
        return false;
    };
    is_part_tag(name) || (!rest.is_empty() && rest.iter().all(u8::is_ascii_digit))
}

/// Returns true if a ref is a temporary tag that the script does not make.
pub(super) fn is_part_tag(name: &BStr) -> bool {
    let rest = name.strip_prefix(TAG_PREFIX.as_bytes());
    rest.and_then(|rest| rest.strip_prefix(PART_PREFIX.as_bytes()))
        .is_some_and(|id| id.len() == PART_DIGITS && id.iter().all(u8::is_ascii_hexdigit))
}

/// Returns the name of the script's `number`th tag.
pub(super) fn numbered_tag(number: usize) -> BString {
    format!("{TAG_PREFIX}{number}").into()
}

/// Returns the name of the tag for a part of a batch that ends at `commit`.
pub(super) fn part_tag(commit: ObjectId) -> BString {
    format!(
        "{TAG_PREFIX}{PART_PREFIX}{}",
        commit.to_hex_with_len(PART_DIGITS)
    )
    .into()
}
