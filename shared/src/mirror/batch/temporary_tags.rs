//! Deletion and restoration of temporary tags.

use std::sync::Arc;

use bstr::{BStr, ByteSlice as _};

use crate::error::Result;
use crate::mirror::progress::RefProgress;
use crate::mirror::temporary_tag::{is_part_tag, is_temporary};
use crate::remote::{BatchPolicy, Push, RefUpdate, RefValue, Target};

/// Returns the deletions of all temporary tags of a target. To a target that the script does not
/// serve, tags with its names are ordinary ones.
pub(super) fn deletions(target: &dyn Target) -> Vec<RefUpdate> {
    let is_temporary: fn(&BStr) -> bool = match target.capabilities().batches {
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
        let remaining = rest.split_off(rest.len().min(target.capabilities().max_changes.max(1)));
        let changes = std::mem::replace(&mut rest, remaining);
        if counted {
            progress.record_request(Arc::new(changes.clone()), &[]);
        } else {
            progress.record_request(Arc::default(), &changes);
        }
        let push = Push {
            changes,
            ..Push::default()
        };
        let report = target.push(push).await?;
        if target.capabilities().batches == BatchPolicy::ByCommits {
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
            new: change.old.map(|id| RefValue { id, peeled: None }),
        })
        .collect();
    if changes.is_empty() {
        return;
    }
    progress.record_request(Arc::default(), &changes);
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
