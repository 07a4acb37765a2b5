//! The operations that read folders, files, blobs and commits.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use branchline_core::codecommit::MAX_BLOB_BYTES;
use branchline_core::git::escaped_excerpt;
use branchline_core::name::RefName;
use serde_json::{Value, json};

use super::git::GitError;
use super::input::{Input, object_id, path};
use super::objects::{MAX_METADATA_BYTES, ObjectType, ReadObject, is_object_id};
use super::tree::{Mode, commit_json, parse_tree};
use super::{CodeCommitService, Repository};
use crate::aws_json::{ApiError, ApiResult};

/// The most ids that `BatchGetCommits` takes.
const MAX_COMMITS: usize = 100;

impl CodeCommitService {
    pub(super) async fn get_folder(&self, input: Input<'_>) -> ApiResult {
        let repository = self.named(input)?;
        let asked = input
            .text("folderPath")?
            .ok_or_else(|| ApiError::new("PathRequiredException", "folderPath is required"))?;
        let folder = path(asked, false)?;
        let (commit, root) = resolve(&repository, input.text("commitSpecifier")?).await?;
        let Some((tree, data)) = repository.folder(&root, folder).await? else {
            return Err(no_path("FolderDoesNotExistException", folder));
        };
        let entries = parse_tree(&data).map_err(|why| corrupt(&tree, why))?;
        let (mut folders, mut files, mut links, mut modules) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for entry in entries {
            let name = String::from_utf8_lossy(entry.name);
            let absolute = if folder.is_empty() {
                name.to_string()
            } else {
                format!("{folder}/{name}")
            };
            let mut json = json!({ "absolutePath": absolute, "relativePath": name });
            let (id_member, list) = match entry.mode {
                Mode::Tree => ("treeId", &mut folders),
                Mode::Submodule => ("commitId", &mut modules),
                Mode::Symlink => ("blobId", &mut links),
                Mode::Normal | Mode::Executable => ("blobId", &mut files),
            };
            json[id_member] = entry.id().into();
            if id_member == "blobId" {
                json["fileMode"] = entry.mode.word().into();
            }
            list.push(json);
        }
        Ok(json!({
            "commitId": commit,
            "folderPath": folder,
            "treeId": tree,
            "subFolders": folders,
            "files": files,
            "symbolicLinks": links,
            "subModules": modules,
        }))
    }

    pub(super) async fn get_file(&self, input: Input<'_>) -> ApiResult {
        let repository = self.named(input)?;
        let asked = input.required("filePath", "PathRequiredException")?;
        let file = path(asked, true)?;
        let (commit, root) = resolve(&repository, input.text("commitSpecifier")?).await?;
        let missing = || no_path("FileDoesNotExistException", file);
        let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
        let parent = repository.folder(&root, folder).await?;
        let (tree, data) = parent.ok_or_else(missing)?;
        let entries = parse_tree(&data).map_err(|why| corrupt(&tree, why))?;
        let entry = entries
            .iter()
            .find(|entry| entry.name == name.as_bytes())
            .filter(|entry| !matches!(entry.mode, Mode::Tree | Mode::Submodule))
            .ok_or_else(missing)?;
        let blob = entry.id();
        let content = read_blob(&repository, &blob).await?.ok_or_else(missing)?;
        Ok(json!({
            "commitId": commit,
            "blobId": blob,
            "filePath": file,
            "fileMode": entry.mode.word(),
            "fileSize": content.len(),
            "fileContent": STANDARD.encode(content),
        }))
    }

    pub(super) async fn get_blob(&self, input: Input<'_>) -> ApiResult {
        let repository = self.named(input)?;
        let id = input.required("blobId", "BlobIdRequiredException")?;
        let id = object_id(id, "InvalidBlobIdException")?;
        let content = read_blob(&repository, &id).await?;
        let content = content.ok_or_else(|| {
            ApiError::new(
                "BlobIdDoesNotExistException",
                format!("{id} does not exist"),
            )
        })?;
        Ok(json!({ "content": STANDARD.encode(content) }))
    }

    pub(super) async fn get_commit(&self, input: Input<'_>) -> ApiResult {
        let repository = self.named(input)?;
        let id = input.commit_id()?;
        let commit = read_commit(&repository, &id).await?.ok_or_else(|| {
            ApiError::new(
                "CommitIdDoesNotExistException",
                format!("{id} does not exist"),
            )
        })?;
        Ok(json!({ "commit": commit }))
    }

    /// Returns id and message of the commit that an id or a full ref names.
    pub async fn commit(
        &self,
        repository: &str,
        specifier: &str,
    ) -> Result<(String, String), ApiError> {
        let repository = self.find(repository).ok_or_else(|| {
            ApiError::new(
                "RepositoryDoesNotExistException",
                format!("{repository} does not exist"),
            )
        })?;
        let (id, _) = resolve(&repository, Some(specifier)).await?;
        let commit = read_commit(&repository, &id).await?;
        let message = commit.and_then(|commit| Some(commit["message"].as_str()?.to_owned()));
        Ok((id, message.unwrap_or_default()))
    }

    pub(super) async fn batch_get_commits(&self, input: Input<'_>) -> ApiResult {
        let repository = self.named(input)?;
        let ids = input.texts("commitIds")?.filter(|ids| !ids.is_empty());
        let ids = ids.ok_or_else(|| {
            ApiError::new("CommitIdsListRequiredException", "commitIds is required")
        })?;
        if ids.len() > MAX_COMMITS {
            return Err(ApiError::new(
                "CommitIdsLimitExceededException",
                format!("commitIds has more than {MAX_COMMITS} ids"),
            ));
        }
        let (mut commits, mut errors) = (Vec::new(), Vec::new());
        for id in ids {
            let found = match object_id(id, "InvalidCommitIdException") {
                Err(error) => Err(error),
                Ok(full) => read_commit(&repository, &full).await?.ok_or_else(|| {
                    let message = format!("{id} does not exist");
                    ApiError::new("CommitIdDoesNotExistException", message)
                }),
            };
            match found {
                Ok(commit) => commits.push(commit),
                Err(error) => errors.push(json!({
                    "commitId": id,
                    "errorCode": error.code,
                    "errorMessage": error.message,
                })),
            }
        }
        Ok(json!({ "commits": commits, "errors": errors }))
    }
}

/// Resolves a commit specifier to a commit and its tree: a full commit id, a branch, a
/// tag, a full ref or `HEAD`; without one, the tip of the default branch.
pub(super) async fn resolve(
    repository: &Repository,
    specifier: Option<&str>,
) -> Result<(String, String), ApiError> {
    let missing = |what: &str| {
        ApiError::new(
            "CommitDoesNotExistException",
            format!("The commit {what} does not exist"),
        )
    };
    let candidates = match specifier {
        None | Some("HEAD") => {
            let branch = repository.default_branch();
            let branch = branch.ok_or_else(|| missing("of the default branch"))?;
            vec![format!("refs/heads/{branch}")]
        }
        Some(id) if is_object_id(id) => vec![id.to_ascii_lowercase()],
        Some(full) if full.starts_with("refs/") => vec![full.to_owned()],
        Some(short) => vec![format!("refs/heads/{short}"), format!("refs/tags/{short}")],
    };
    for candidate in &candidates {
        // Git's revision syntax (`main~1`, `@{1}`) cannot occur in a valid ref name.
        if !is_object_id(candidate) && RefName::new(candidate).is_err() {
            let shown = escaped_excerpt(specifier.unwrap_or_default().as_bytes());
            return Err(ApiError::new(
                "InvalidCommitException",
                format!("{shown} names no commit, branch or tag"),
            ));
        }
        if let Some(found) = repository.commit_and_tree(candidate).await? {
            return Ok(found);
        }
    }
    Err(missing(specifier.unwrap_or("HEAD")))
}

async fn read_blob(repository: &Repository, id: &str) -> Result<Option<Vec<u8>>, ApiError> {
    match repository.objects.read(id, MAX_BLOB_BYTES).await? {
        ReadObject::Object(object) if object.kind == ObjectType::Blob => Ok(Some(object.data)),
        ReadObject::TooLarge(ObjectType::Blob, size) => Err(ApiError::new(
            "FileTooLargeException",
            format!("{id} has {size} bytes, more than {MAX_BLOB_BYTES}"),
        )),
        _ => Ok(None),
    }
}

async fn read_commit(repository: &Repository, id: &str) -> Result<Option<Value>, ApiError> {
    match repository.objects.read(id, MAX_METADATA_BYTES).await? {
        ReadObject::Object(object) if object.kind == ObjectType::Commit => {
            let commit = commit_json(&object.id, &object.data);
            commit
                .map(Some)
                .ok_or_else(|| corrupt(id, "a commit has no tree"))
        }
        _ => Ok(None),
    }
}

fn no_path(code: &str, path: &str) -> ApiError {
    ApiError::new(code, format!("Could not find path {path}"))
}

fn corrupt(id: &str, why: &'static str) -> ApiError {
    GitError::new("cat-file", format!("{id}: {why}")).into()
}
