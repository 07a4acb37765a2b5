//! The summary of an artifact's revision, which CodePipeline shows.

use crate::git::object::Commit;

/// Name of the user metadata that CodePipeline shows as the summary of an S3 source's revision.
pub const REVISION_SUMMARY: &str = "codepipeline-artifact-revision-summary";

/// Returns `<abbreviated id> <subject>`, as git's `%h %s`. The text may contain any characters,
/// so it must be encoded before it is stored as metadata.
pub fn revision_summary(abbreviated_id: &str, commit: &Commit) -> String {
    format!("{abbreviated_id} {}", commit.subject())
}
