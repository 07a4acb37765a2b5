//! Temporary tags: their names, and how they go again.

use async_trait::async_trait;
use bstr::{BStr, BString, ByteSlice as _};
use tokio::time::Instant;

use crate::error::Result;
use crate::git::ObjectId;
use crate::mirror::MirrorResult;
use crate::mirror::attempt::{self, Attempt};
use crate::mirror::progress::RefProgress;
use crate::remote::{BatchPolicy as Batching, Push, RefTarget, RefUpdate, Remote, Target};

/// How temporary tags start. The script goes on with numbers from 1, and deletes all that
/// start so.
const TAG: &str = "refs/tags/codecommit_migration_";
/// How those go on that cut its batches further, with the start of the commit's id.
const PART: &str = "part_";
/// How many digits of the commit's id end such a tag.
const PART_DIGITS: usize = 16;

/// Whether a ref is a migration's temporary tag, the script's or ours.
pub(in crate::mirror) fn is_temporary(name: &BStr) -> bool {
    let Some(rest) = name.strip_prefix(TAG.as_bytes()) else {
        return false;
    };
    is_temporary_tag(name) || (!rest.is_empty() && rest.iter().all(u8::is_ascii_digit))
}

/// Whether a ref is a temporary tag that the script does not make.
fn is_temporary_tag(name: &BStr) -> bool {
    let rest = name.strip_prefix(TAG.as_bytes());
    rest.and_then(|rest| rest.strip_prefix(PART.as_bytes()))
        .is_some_and(|id| id.len() == PART_DIGITS && id.iter().all(u8::is_ascii_hexdigit))
}

/// The name of one of the script's tags.
pub(super) fn numbered(number: usize) -> BString {
    format!("{TAG}{number}").into()
}

/// The name of a tag of ours.
pub(super) fn temporary_tag(commit: ObjectId) -> BString {
    format!("{TAG}{PART}{}", commit.to_hex_with_len(PART_DIGITS)).into()
}

/// The deletions of all temporary tags of a target. Where the script is not at work, its
/// tags are somebody's.
pub(super) fn deletions(target: &dyn Target) -> Vec<RefUpdate> {
    let is_ours: fn(&BStr) -> bool = match target.accepts().batches {
        Batching::ByCommits => is_temporary,
        Batching::BySize => is_temporary_tag,
    };
    let refs = target.snapshot().refs.iter();
    refs.filter(|(name, _)| is_ours(name.as_bstr()))
        .map(|(name, there)| RefUpdate {
            name: name.clone(),
            old: Some(there.id),
            new: None,
        })
        .collect()
}

/// Deletes all temporary tags, the script's and ours; `counted` as refs that were deleted.
pub(in crate::mirror) async fn delete(
    target: &mut dyn Target,
    tally: &mut RefProgress,
    counted: bool,
) -> Result<()> {
    let mut rest = deletions(target);
    while !rest.is_empty() {
        let later = rest.split_off(rest.len().min(target.accepts().max_changes.max(1)));
        let changes = std::mem::replace(&mut rest, later);
        if counted {
            tally.record_request(&changes, &[]);
        } else {
            tally.record_request(&[], &changes);
        }
        let push = Push {
            changes,
            ..Push::default()
        };
        let report = target.push(push).await?;
        if target.accepts().batches == Batching::ByCommits {
            tally.record_report(report)?;
        } else if let Some(reason) = tally.record_sent(report)? {
            // They do no harm there, and the refs are as they should be.
            tracing::warn!(reason, "the target keeps temporary tags");
        }
    }
    Ok(())
}

/// Makes those tags again that were deleted together with refs of which the target has
/// refused some: it still has what they name. Where that fails, the next run sends it.
pub(in crate::mirror) async fn restore(
    target: &mut dyn Target,
    gone: &[RefUpdate],
    tally: &mut RefProgress,
) {
    let there = &target.snapshot().refs;
    let deleted = gone
        .iter()
        .filter(|change| !there.contains_key(&change.name));
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
    tally.record_request(&[], &changes);
    let push = Push {
        changes,
        temporary: true,
        ..Push::default()
    };
    let refused = match target.push(push).await {
        Ok(report) => tally
            .record_sent(report)
            .unwrap_or_else(|error| Some(error.report())),
        Err(error) => Some(error.report()),
    };
    if let Some(reason) = refused {
        tracing::warn!(
            reason,
            "temporary tags are gone: the next run sends what they named"
        );
    }
}

struct Cleaning<'a>(&'a dyn Remote);

#[async_trait]
impl Attempt for Cleaning<'_> {
    fn target(&self) -> &dyn Remote {
        self.0
    }

    async fn attempt(&mut self, tally: &mut RefProgress) -> Result<()> {
        let mut target = self.0.target().await?;
        tally.start_attempt(target.snapshot());
        delete(&mut *target, tally, true).await
    }
}

/// Removes what an unfinished migration left at `target`, until it is done or `deadline`
/// has come; the tags count as refs that were deleted. A migration that is begun again
/// afterwards pushes them once more.
pub async fn clean(target: &dyn Remote, deadline: Option<Instant>) -> MirrorResult {
    attempt::run_until_done(&mut Cleaning(target), deadline).await
}
