//! The operations that merge pull requests, and those that say what would conflict.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::input::{Input, object_id};
use super::super::merge::{
    self, Conflict, ConflictLevel, FileVersion, Merged, Person, Strategy, merge_base,
};
use super::super::objects::{MAX_METADATA_BYTES, ReadObject};
use super::super::{CodeCommitService, Repository, contents, git, page};
use super::already_closed;
use super::model::{Merge, PullRequest, prune};
use super::notices::Notice;
use crate::aws_json::{ApiError, ApiResult};

/// Way of merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MergeOption {
    FastForward,
    Squash,
    ThreeWay,
}

impl MergeOption {
    fn name(self) -> &'static str {
        match self {
            Self::FastForward => "FAST_FORWARD_MERGE",
            Self::Squash => "SQUASH_MERGE",
            Self::ThreeWay => "THREE_WAY_MERGE",
        }
    }
}

/// A merge as the caller asks for it.
#[derive(Debug, Clone)]
struct Wish {
    option: MergeOption,
    /// Tip that the source branch must have.
    source_commit: Option<String>,
    level: ConflictLevel,
    strategy: Strategy,
    message: Option<String>,
    author: Person,
}

/// Two commits that are compared, and their base.
struct Pair {
    source: String,
    destination: String,
    base: Option<String>,
}

impl CodeCommitService {
    pub(super) async fn merge_pull_request(
        &self,
        input: Input<'_>,
        principal_arn: &str,
        option: MergeOption,
    ) -> ApiResult {
        let pull_request = self.pull_request(input)?;
        let repository = self.check_associated(input, &pull_request)?;
        let wish = wish(input, principal_arn, option)?;
        let (service, principal_arn) = (self.clone(), principal_arn.to_owned());
        // Finished even if the caller goes away, because the change of the branch must be
        // reported.
        let merging = async move {
            let merged = service.merge_now(&repository, pull_request.id, &wish, &principal_arn);
            let merged = merged.await?;
            Ok(json!({ "pullRequest": merged.json() }))
        };
        let joined = tokio::spawn(merging).await;
        joined.map_err(ApiError::internal)?
    }

    async fn merge_now(
        &self,
        repository: &Arc<Repository>,
        id: u64,
        wish: &Wish,
        principal_arn: &str,
    ) -> Result<PullRequest, ApiError> {
        let change = self.begin_ref_change(repository).await?;
        let found = self.0.pull_requests.read(|all| all.get(&id).cloned());
        let found = found.ok_or_else(|| super::no_pull_request(id))?;
        let commit = merge_commit(repository, &found, wish).await?;
        let mut command = git::command(&repository.dir);
        command.args(["update-ref", "--no-deref", &found.destination_reference]);
        command.args([&commit, &found.destination_commit]);
        git::run("update-ref", &mut command).await?;
        let merged = self.0.pull_requests.update_one(id, |found| {
            let merge = Merge {
                by_arn: principal_arn.to_owned(),
                commit: commit.clone(),
                option: wish.option.name().to_owned(),
            };
            found.destination_commit = commit;
            found.close(
                Timestamp::now().as_millisecond(),
                principal_arn,
                Some(merge),
            );
            Ok(())
        });
        // The branch has moved even if the pull request could not be stored.
        change.finish(principal_arn).await?;
        let (merged, ()) = merged?;
        self.notify(&merged, principal_arn, Notice::MergeStatusUpdated);
        Ok(merged)
    }

    pub(super) async fn get_merge_conflicts(&self, input: Input<'_>) -> ApiResult {
        let repository = self.named(input)?;
        let option = input.required("mergeOption", "MergeOptionRequiredException")?;
        let option = [
            MergeOption::FastForward,
            MergeOption::Squash,
            MergeOption::ThreeWay,
        ]
        .into_iter()
        .find(|known| known.name() == option)
        .ok_or_else(|| {
            ApiError::new(
                "InvalidMergeOptionException",
                "mergeOption must be FAST_FORWARD_MERGE, SQUASH_MERGE or THREE_WAY_MERGE",
            )
        })?;
        let pair = pair(&repository, input).await?;
        let most = match input.integer("maxConflictFiles")? {
            None => 100,
            Some(most) => usize::try_from(most)
                .ok()
                .filter(|most| *most > 0)
                .ok_or_else(|| {
                    ApiError::new(
                        "InvalidMaxConflictFilesException",
                        "maxConflictFiles must be a positive number",
                    )
                })?,
        };
        let (level, strategy) = (level(input)?, strategy(input)?);
        let (mergeable, conflicts) = if option == MergeOption::FastForward {
            (pair.base.as_ref() == Some(&pair.destination), Vec::new())
        } else {
            let (destination, source) = (&pair.destination, &pair.source);
            let merged = merge::merge(&repository, destination, source, level, strategy).await?;
            let list = conflicts_json(&repository, &merged).await?;
            (list.is_empty(), list)
        };
        let start = match input.text("nextToken")? {
            None => 0,
            Some(token) => page::parse::<usize>(token)?,
        };
        let end = start.saturating_add(most).min(conflicts.len());
        let shown = conflicts.get(start..end).ok_or_else(page::invalid)?;
        let next = if end < conflicts.len() {
            Some(page::token(&end)?)
        } else {
            None
        };
        Ok(prune(json!({
            "mergeable": mergeable,
            "sourceCommitId": pair.source,
            "destinationCommitId": pair.destination,
            "baseCommitId": pair.base,
            "conflictMetadataList": shown,
            "nextToken": next,
        })))
    }

    pub(super) async fn get_merge_options(&self, input: Input<'_>) -> ApiResult {
        let repository = self.named(input)?;
        let pair = pair(&repository, input).await?;
        let (level, strategy) = (level(input)?, strategy(input)?);
        let (destination, source) = (&pair.destination, &pair.source);
        let merged = merge::merge(&repository, destination, source, level, strategy).await?;
        let mut options = Vec::new();
        if pair.base.as_ref() == Some(destination) {
            options.push(MergeOption::FastForward.name());
        }
        if merged.conflicts.is_empty() {
            options.extend([MergeOption::Squash.name(), MergeOption::ThreeWay.name()]);
        }
        Ok(prune(json!({
            "mergeOptions": options,
            "sourceCommitId": pair.source,
            "destinationCommitId": pair.destination,
            "baseCommitId": pair.base,
        })))
    }

    /// Returns the commit in which a pull request of these tips was merged, if there is one.
    pub(super) async fn get_merge_commit(&self, input: Input<'_>) -> ApiResult {
        let repository = self.named(input)?;
        let pair = pair(&repository, input).await?;
        let repository_id = repository.metadata().id;
        let merged = self.0.pull_requests.read(|all| {
            let mut all = all.values();
            let found = all.find(|found| {
                found.repository_id == repository_id && found.source_commit == pair.source
            });
            found.and_then(|found| found.merge.clone())
        });
        Ok(prune(json!({
            "sourceCommitId": pair.source,
            "destinationCommitId": pair.destination,
            "baseCommitId": pair.base,
            "mergedCommitId": merged.map(|merge| merge.commit),
        })))
    }
}

/// Returns the commit that the destination branch is moved to.
async fn merge_commit(
    repository: &Repository,
    found: &PullRequest,
    wish: &Wish,
) -> Result<String, ApiError> {
    if !found.is_open {
        return Err(already_closed(found));
    }
    let (source, destination) = (&found.source_commit, &found.destination_commit);
    if wish
        .source_commit
        .as_ref()
        .is_some_and(|wanted| wanted != source)
    {
        return Err(ApiError::new(
            "TipOfSourceReferenceIsDifferentException",
            "The tip of the source branch in the destination repository does not match the tip of \
             the source branch specified in your request. The pull request might have been \
             updated. Make sure that you have the latest changes",
        ));
    }
    let manual = || {
        ApiError::new(
            "ManualMergeRequiredException",
            "The pull request cannot be merged automatically into the destination branch. You \
             must manually merge the branches and resolve any conflicts",
        )
    };
    if wish.option == MergeOption::FastForward {
        let base = merge_base(repository, destination, source).await?;
        return match base {
            Some(base) if base == *destination => Ok(source.clone()),
            _ => Err(manual()),
        };
    }
    let Merged { tree, conflicts } =
        merge::merge(repository, destination, source, wish.level, wish.strategy).await?;
    if !conflicts.is_empty() {
        return Err(manual());
    }
    let short = |name: &str| name.trim_start_matches("refs/heads/").to_owned();
    let (message, parents) = match wish.option {
        MergeOption::Squash => (
            format!("{}\n\n(squashed pull request {})\n", found.title, found.id),
            vec![destination.as_str()],
        ),
        _ => (
            format!(
                "Merge branch '{}' into {}\n",
                short(&found.source_reference),
                short(&found.destination_reference)
            ),
            vec![destination.as_str(), source.as_str()],
        ),
    };
    let message = wish.message.as_ref().unwrap_or(&message);
    Ok(merge::commit(repository, &tree, &parents, &wish.author, message).await?)
}

fn wish(input: Input<'_>, principal_arn: &str, option: MergeOption) -> Result<Wish, ApiError> {
    let source_commit = input
        .text("sourceCommitId")?
        .map(|id| object_id(id, "InvalidCommitIdException"))
        .transpose()?;
    if input
        .0
        .get("conflictResolution")
        .is_some_and(|given| !given.is_null())
    {
        return Err(ApiError::new(
            "InvalidConflictResolutionException",
            "The development server resolves no conflicts file by file; use \
             conflictResolutionStrategy ACCEPT_SOURCE or ACCEPT_DESTINATION",
        ));
    }
    let mut author = Person::of_principal(principal_arn);
    if let Some(name) = input.text("authorName")?.filter(|name| !name.is_empty()) {
        name.clone_into(&mut author.name);
    }
    if !author.has_short_name() {
        return Err(ApiError::new(
            "NameLengthExceededException",
            "The user name is not valid because it has exceeded the character limit",
        ));
    }
    if let Some(email) = input.text("email")? {
        if email
            .chars()
            .any(|c| c.is_control() || matches!(c, '<' | '>'))
        {
            return Err(ApiError::new(
                "InvalidEmailException",
                "The specified email address contains characters that are not allowed",
            ));
        }
        email.clone_into(&mut author.email);
    }
    let message = input.text("commitMessage")?.filter(|text| !text.is_empty());
    Ok(Wish {
        option,
        source_commit,
        level: level(input)?,
        strategy: strategy(input)?,
        message: message.map(str::to_owned),
        author,
    })
}

async fn pair(repository: &Repository, input: Input<'_>) -> Result<Pair, ApiError> {
    let commit = |member: &'static str| async move {
        let specifier = input.required(member, "CommitRequiredException")?;
        let (commit, _) = contents::resolve(repository, Some(specifier)).await?;
        Ok::<_, ApiError>(commit)
    };
    let source = commit("sourceCommitSpecifier").await?;
    let destination = commit("destinationCommitSpecifier").await?;
    let base = merge_base(repository, &destination, &source).await?;
    Ok(Pair {
        source,
        destination,
        base,
    })
}

fn level(input: Input<'_>) -> Result<ConflictLevel, ApiError> {
    match input.text("conflictDetailLevel")? {
        None | Some("FILE_LEVEL") => Ok(ConflictLevel::File),
        Some("LINE_LEVEL") => Ok(ConflictLevel::Line),
        Some(_) => Err(ApiError::new(
            "InvalidConflictDetailLevelException",
            "conflictDetailLevel must be FILE_LEVEL or LINE_LEVEL",
        )),
    }
}

fn strategy(input: Input<'_>) -> Result<Strategy, ApiError> {
    match input.text("conflictResolutionStrategy")? {
        None | Some("NONE") => Ok(Strategy::None),
        Some("ACCEPT_SOURCE") => Ok(Strategy::AcceptSource),
        Some("ACCEPT_DESTINATION") => Ok(Strategy::AcceptDestination),
        Some("AUTOMERGE") => Ok(Strategy::Automerge),
        Some(_) => Err(ApiError::new(
            "InvalidConflictResolutionStrategyException",
            "conflictResolutionStrategy must be NONE, ACCEPT_SOURCE, ACCEPT_DESTINATION or \
             AUTOMERGE",
        )),
    }
}

/// Builds `ConflictMetadata` of each conflicting file.
async fn conflicts_json(repository: &Repository, merged: &Merged) -> Result<Vec<Value>, ApiError> {
    let mut list = Vec::new();
    for (path, conflict) in &merged.conflicts {
        let marked = format!("{}:{path}", merged.tree);
        let hunks = match read(repository, &marked).await? {
            Some(data) => count_hunks(&data),
            None => 0,
        };
        list.push(conflict_json(repository, path, conflict, hunks).await?);
    }
    Ok(list)
}

async fn conflict_json(
    repository: &Repository,
    path: &str,
    conflict: &Conflict,
    hunks: usize,
) -> Result<Value, ApiError> {
    let versions = [
        ("base", &conflict.base),
        ("destination", &conflict.destination),
        ("source", &conflict.source),
    ];
    let (mut sizes, mut modes, mut types, mut binary) =
        (json!({}), json!({}), json!({}), json!({}));
    for (side, version) in versions {
        let Some(version) = version else {
            continue;
        };
        let (kind, mode) = kind_and_mode(version);
        types[side] = kind.into();
        if let Some(mode) = mode {
            modes[side] = mode.into();
        }
        if let Some(data) = read(repository, &version.id).await? {
            sizes[side] = data.len().into();
            binary[side] = is_binary(&data).into();
        }
    }
    let (ours, theirs) = (conflict.destination.as_ref(), conflict.source.as_ref());
    let differs = |of: fn(&FileVersion) -> &str| match (ours, theirs) {
        (Some(ours), Some(theirs)) => of(ours) != of(theirs),
        _ => false,
    };
    let has_content = differs(|version| &version.id) || ours.is_none() || theirs.is_none();
    let has_mode = differs(|version| &version.mode);
    let has_type = types["destination"] != types["source"] && ours.is_some() && theirs.is_some();
    let operation = |side: Option<&FileVersion>| match (&conflict.base, side) {
        (None, Some(_)) => Some("A"),
        (Some(_), None) => Some("D"),
        (Some(_), Some(_)) => Some("M"),
        (None, None) => None,
    };
    Ok(json!({
        "filePath": path,
        "fileSizes": sizes,
        "fileModes": modes,
        "objectTypes": types,
        "numberOfConflicts": hunks + usize::from(has_mode) + usize::from(has_type),
        "isBinaryFile": binary,
        "contentConflict": has_content,
        "fileModeConflict": has_mode,
        "objectTypeConflict": has_type,
        "mergeOperations": prune(json!({ "source": operation(theirs), "destination": operation(ours) })),
    }))
}

/// Returns the type of an object and the mode of a file, as the service names them.
fn kind_and_mode(version: &FileVersion) -> (&'static str, Option<&'static str>) {
    match version.mode.as_str() {
        "100755" => ("FILE", Some("EXECUTABLE")),
        "120000" => ("SYMBOLIC_LINK", Some("SYMLINK")),
        "160000" => ("GIT_LINK", None),
        "040000" => ("DIRECTORY", None),
        _ => ("FILE", Some("NORMAL")),
    }
}

async fn read(repository: &Repository, spec: &str) -> Result<Option<Vec<u8>>, ApiError> {
    if spec.contains('\n') {
        return Ok(None);
    }
    match repository.objects.read(spec, MAX_METADATA_BYTES).await? {
        ReadObject::Object(object) => Ok(Some(object.data)),
        ReadObject::Missing | ReadObject::TooLarge(..) => Ok(None),
    }
}

/// Returns whether git takes content as binary: there is a null byte in its first 8,000.
fn is_binary(data: &[u8]) -> bool {
    data.iter().take(8000).any(|byte| *byte == 0)
}

/// Counts the hunks that git marked as conflicts.
fn count_hunks(data: &[u8]) -> usize {
    let lines = data.split(|byte| *byte == b'\n');
    lines.filter(|line| line.starts_with(b"<<<<<<< ")).count()
}
