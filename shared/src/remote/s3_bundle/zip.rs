//! The archive beside a bundle, for CodePipeline.

use super::{Archive, Place};
use crate::error::{Error, Result};
use crate::git::{ObjectId, shown};
use crate::storage::{ObjectMetadata, Precondition, PutOptions};

/// What CodePipeline shows as the revision's summary.
const SUMMARY: &str = "codepipeline-artifact-revision-summary";
/// The longest summary: S3 allows 2 KB of user metadata in all.
const MAX_SUMMARY: usize = 1024;

/// Writes `repo.zip`.
///
/// # Errors
/// They say that the ref has moved all the same.
pub(super) async fn put(
    place: &Place,
    name: &bstr::BStr,
    id: ObjectId,
    archive: &Archive,
) -> Result<()> {
    let mut metadata = ObjectMetadata {
        content_disposition: Some(format!(
            "attachment; filename=repo-{}.zip",
            id.to_hex_with_len(8)
        )),
        ..ObjectMetadata::default()
    };
    metadata
        .user
        .insert(SUMMARY.to_owned(), printable(&archive.summary));
    let options = PutOptions {
        metadata,
        precondition: Precondition::None,
        kms_key_id: place.options.kms_key_id.clone(),
    };
    let key = place.zip_key(name)?;
    let body = archive.body.clone();
    let written = place.store.put(&place.bucket, &key, body, &options).await;
    let context = |error: Error| {
        error.context(format!(
            "`{}` was moved, but its archive could not be written",
            shown(name)
        ))
    };
    written.map(drop).map_err(context)
}

/// User metadata are printable US-ASCII, in one line: other characters become `?`.
fn printable(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars().take(MAX_SUMMARY) {
        out.push(match character {
            ' '..='~' => character,
            _ if character.is_whitespace() => ' ',
            _ => '?',
        });
    }
    out.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_subject_makes_a_header_value() {
        assert_eq!(printable("1a2b3c4 plain ~"), "1a2b3c4 plain ~");
        assert_eq!(
            printable("1a gr\u{f6}\u{df}er\r\n\t\u{1f600} "),
            "1a gr??er   ?"
        );
        assert_eq!(printable(&"x".repeat(5000)).len(), MAX_SUMMARY);
    }
}
