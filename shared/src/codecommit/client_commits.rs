//! `GetCommit` and `BatchGetCommits` over the AWS SDK.

use aws_sdk_codecommit::Client;
use aws_sdk_codecommit::types::{Commit as SdkCommit, UserInfo};

use super::client_error::convert_in;
use super::client_fields::{of_repository, parse};
use crate::aws::{ApiCall, corrupt};
use crate::error::Result;
use crate::git::object::{Commit, Signature};
use crate::name::{CommitId, RepositoryName, TreeId};

/// Reads a commit.
pub(super) async fn get_commit(
    client: &Client,
    repository: &RepositoryName,
    commit: CommitId,
) -> Result<Commit> {
    let call = || ApiCall {
        subject: format!("commit {commit} of repository `{repository}`"),
        ..of_repository("GetCommit", "codecommit:GetCommit", repository)
    };
    let answer = client
        .get_commit()
        .repository_name(repository.as_str())
        .commit_id(commit.to_string())
        .send()
        .await
        .map_err(|error| convert_in(&error, &call(), repository))?
        .commit
        .ok_or_else(|| corrupt(&call(), "no `commit`"))?;
    read(&call, answer)
}

/// Reads several commits; those that are missing are left out.
pub(super) async fn get_commits(
    client: &Client,
    repository: &RepositoryName,
    commits: &[CommitId],
) -> Result<Vec<Commit>> {
    let call = || ApiCall {
        subject: format!("{} commits of repository `{repository}`", commits.len()),
        ..of_repository("BatchGetCommits", "codecommit:BatchGetCommits", repository)
    };
    if commits.is_empty() {
        return Ok(Vec::new());
    }
    let answer = client
        .batch_get_commits()
        .repository_name(repository.as_str())
        .set_commit_ids(Some(commits.iter().map(CommitId::to_string).collect()))
        .send()
        .await
        .map_err(|error| convert_in(&error, &call(), repository))?;
    let found = answer.commits.unwrap_or_default();
    found
        .into_iter()
        .map(|commit| read(&call, commit))
        .collect()
}

fn read(call: &impl Fn() -> ApiCall, answer: SdkCommit) -> Result<Commit> {
    Ok(Commit {
        id: parse(call, "commitId", answer.commit_id, CommitId::new)?.object_id(),
        tree: parse(call, "treeId", answer.tree_id, TreeId::new)?.object_id(),
        parents: answer
            .parents
            .unwrap_or_default()
            .into_iter()
            .map(|id| parse(call, "parents", Some(id), CommitId::new).map(CommitId::object_id))
            .collect::<Result<_>>()?,
        message: answer.message.unwrap_or_default(),
        author: signature(answer.author),
        committer: signature(answer.committer),
        extra_headers: answer.additional_data.unwrap_or_default(),
    })
}

fn signature(person: Option<UserInfo>) -> Signature {
    let (name, email, date) = person.map_or((None, None, None), |person| {
        (person.name, person.email, person.date)
    });
    Signature {
        name: name.unwrap_or_default(),
        email: email.unwrap_or_default(),
        date: date.unwrap_or_default(),
    }
}
