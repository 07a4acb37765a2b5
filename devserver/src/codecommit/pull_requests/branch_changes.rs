//! Effects of a push on open pull requests: a new revision, a newer destination, or the end.

use jiff::Timestamp;
use serde_json::json;

use super::super::merge::merge_base;
use super::super::{CodeCommitService, Repository};
use super::model::{Merge, PullRequest, prune};
use super::notices::Notice;
use super::requests::new_revision_id;
use crate::aws_json::ApiError;
use crate::ref_observer::RefUpdate;

/// The tips of a pull request after a push, and their base.
struct Tips {
    source: Option<String>,
    destination: Option<String>,
    base: Option<String>,
}

impl CodeCommitService {
    /// Applies a change of refs to the open pull requests of a repository. The caller holds the
    /// permit for the change, so that no pull request is created meanwhile.
    ///
    /// A pull request is closed with either of its branches, and as merged when the destination
    /// is fast-forwarded to its source commit.
    pub(in super::super) async fn follow_branches(
        &self,
        repository: &Repository,
        principal_arn: &str,
        updates: &[RefUpdate],
    ) -> Result<(), ApiError> {
        let repository_id = repository.metadata().id;
        let touched: Vec<PullRequest> = self.0.pull_requests.read(|all| {
            let of_repository = all.values().filter(|found| {
                found.is_open
                    && found.repository_id == repository_id
                    && updates.iter().any(|update| {
                        update.name == found.source_reference
                            || update.name == found.destination_reference
                    })
            });
            of_repository.cloned().collect()
        });
        for found in touched {
            let tip = |name: &str, known: &str| {
                let update = updates.iter().find(|update| update.name == name);
                match update {
                    Some(update) => update.new.clone(),
                    None => Some(known.to_owned()),
                }
            };
            let source = tip(&found.source_reference, &found.source_commit);
            let destination = tip(&found.destination_reference, &found.destination_commit);
            let base = match (&source, &destination) {
                (Some(source), Some(destination)) => {
                    merge_base(repository, destination, source).await?
                }
                _ => None,
            };
            let tips = Tips {
                source,
                destination,
                base,
            };
            let id = found.id;
            let (changed, notice) = self
                .0
                .pull_requests
                .update_one(id, |found| Ok(follow(found, principal_arn, &tips)))?;
            if let Some(notice) = notice {
                self.notify(&changed, principal_arn, notice);
            }
        }
        Ok(())
    }
}

/// Applies new tips to one pull request; returns the change to report.
fn follow(found: &mut PullRequest, principal_arn: &str, tips: &Tips) -> Option<Notice<'static>> {
    let now_ms = Timestamp::now().as_millisecond();
    let (Some(source), Some(destination)) = (&tips.source, &tips.destination) else {
        found.close(now_ms, principal_arn, None);
        return Some(Notice::StatusChanged);
    };
    let is_new_source = *source != found.source_commit;
    let is_new_destination = *destination != found.destination_commit;
    let before = std::mem::replace(&mut found.source_commit, source.clone());
    found.destination_commit.clone_from(destination);
    found.merge_base.clone_from(&tips.base);
    if is_new_destination && destination == source {
        let merge = Merge {
            by_arn: principal_arn.to_owned(),
            commit: destination.clone(),
            option: "FAST_FORWARD_MERGE".to_owned(),
        };
        found.close(now_ms, principal_arn, Some(merge));
        return Some(Notice::MergeStatusUpdated);
    }
    if !is_new_source {
        return None;
    }
    found.revision_id = new_revision_id();
    let metadata = prune(json!({
        "repositoryName": found.repository,
        "beforeCommitId": before,
        "afterCommitId": source,
        "mergeBase": found.merge_base,
    }));
    found.record(
        now_ms,
        "PULL_REQUEST_SOURCE_REFERENCE_UPDATED",
        principal_arn,
        ("pullRequestSourceReferenceUpdatedEventMetadata", metadata),
    );
    Some(Notice::SourceBranchUpdated)
}
