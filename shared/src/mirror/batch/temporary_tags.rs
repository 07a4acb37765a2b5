//! Temporary tags: their names, and their deletion.

use async_trait::async_trait;
use bstr::{BStr, BString, ByteSlice as _};
use tokio::time::Instant;

use crate::error::Result;
use crate::git::ObjectId;
use crate::mirror::MirrorResult;
use crate::mirror::attempt::{self, Attempt};
use crate::mirror::progress::RefProgress;
use crate::remote::{BatchPolicy, Push, RefTarget, RefUpdate, Remote, Target};

/// Start of the names of temporary tags. The script appends numbers from 1, and deletes all tags
/// with this prefix.
const TAG_PREFIX: &str = "refs/tags/codecommit_migration_";
/// Continues the names of tags that the script does not make, for parts of its batches; the
/// start of the commit id follows.
const PART_PREFIX: &str = "part_";
/// Hexadecimal digits of the commit id at the end of such a name.
const PART_DIGITS: usize = 16;

/// Returns true if a ref is a temporary tag of a migration, by the script or by branchline.
pub(in crate::mirror) fn is_temporary(name: &BStr) -> bool {
    let Some(rest) = name.strip_prefix(TAG_PREFIX.as_bytes()) else {
        return false;
    };
    is_part_tag(name) || (!rest.is_empty() && rest.iter().all(u8::is_ascii_digit))
}

/// Returns true if a ref is a temporary tag that the script does not make.
fn is_part_tag(name: &BStr) -> bool {
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

/// Returns the deletions of all temporary tags of a target. To a target that the script does not
/// serve, tags with its names are ordinary ones.
pub(super) fn deletions(target: &dyn Target) -> Vec<RefUpdate> {
    let is_temporary: fn(&BStr) -> bool = match target.accepts().batches {
        BatchPolicy::ByCommits => is_temporary,
        BatchPolicy::BySize => is_part_tag,
    };
    let refs = target.snapshot().refs.iter();
    refs.filter(|(name, _)| is_temporary(name.as_bstr()))
        .map(|(name, there)| RefUpdate {
            name: name.clone(),
            old: Some(there.id),
            new: None,
        })
        .collect()
}

/// Deletes all temporary tags. With `counted`, they count as deleted refs.
pub(in crate::mirror) async fn delete(
    target: &mut dyn Target,
    progress: &mut RefProgress,
    counted: bool,
) -> Result<()> {
    let mut rest = deletions(target);
    while !rest.is_empty() {
        let remaining = rest.split_off(rest.len().min(target.accepts().max_changes.max(1)));
        let changes = std::mem::replace(&mut rest, remaining);
        if counted {
            progress.record_request(&changes, &[]);
        } else {
            progress.record_request(&[], &changes);
        }
        let push = Push {
            changes,
            ..Push::default()
        };
        let report = target.push(push).await?;
        if target.accepts().batches == BatchPolicy::ByCommits {
            progress.record_report(report)?;
        } else if let Some(reason) = progress.record_temporary(report)? {
            // Not an error, because the mirrored refs are complete.
            tracing::warn!(reason, "the target rejected the deletion of temporary tags");
        }
    }
    Ok(())
}

/// Restores temporary tags whose deletions were pushed together with refs that the target has
/// rejected: it still has their objects. If that fails, the next run sends the objects again.
pub(in crate::mirror) async fn restore(
    target: &mut dyn Target,
    deletions: &[RefUpdate],
    progress: &mut RefProgress,
) {
    let existing = &target.snapshot().refs;
    let deleted = deletions
        .iter()
        .filter(|change| !existing.contains_key(&change.name));
    let changes: Vec<_> = deleted
        .map(|change| RefUpdate {
            name: change.name.clone(),
            old: None,
            new: change.old.map(|id| RefTarget { id, peeled: None }),
        })
        .collect();
    if changes.is_empty() {
        return;
    }
    progress.record_request(&[], &changes);
    let push = Push {
        changes,
        temporary: true,
        ..Push::default()
    };
    let failure = match target.push(push).await {
        Ok(report) => progress
            .record_temporary(report)
            .unwrap_or_else(|error| Some(error.report())),
        Err(error) => Some(error.report()),
    };
    if let Some(reason) = failure {
        tracing::warn!(
            reason,
            "temporary tags are lost: the next run sends their objects again"
        );
    }
}

/// The deletion of temporary tags, as work to be attempted.
struct Cleaning<'a>(&'a dyn Remote);

#[async_trait]
impl Attempt for Cleaning<'_> {
    fn target(&self) -> &dyn Remote {
        self.0
    }

    async fn attempt(&mut self, progress: &mut RefProgress) -> Result<()> {
        let mut target = self.0.target().await?;
        progress.start_attempt(target.snapshot());
        delete(&mut *target, progress, true).await
    }
}

/// Deletes the temporary tags of an unfinished migration from `target`, until done or `deadline`
/// has come; they count as deleted refs. A migration started afterwards pushes them again.
pub async fn clean(target: &dyn Remote, deadline: Option<Instant>) -> MirrorResult {
    attempt::run_until_done(&mut Cleaning(target), deadline).await
}
