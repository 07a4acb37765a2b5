//! The operations on repositories as a whole.

use std::sync::Arc;

use serde_json::{Value, json};

use super::input::{Input, repository_name};
use super::{CodeCommitService, Repository, page};
use crate::aws_json::{ApiError, ApiResult};

/// Maximum number of names that `BatchGetRepositories` takes.
const MAX_NAMES: usize = 100;

/// Maximum length of a description.
const MAX_DESCRIPTION_CHARS: usize = 1000;

impl CodeCommitService {
    pub(super) async fn create_repository(&self, input: Input<'_>) -> ApiResult {
        let name = input.repository_name()?;
        let description = description(input)?;
        let key = input.text("kmsKeyId")?.map(str::to_owned);
        let _membership = self.0.membership.lock().await;
        if self.find(name.as_str()).is_some() {
            return Err(ApiError::new(
                "RepositoryNameExistsException",
                format!("Repository named {name} already exists"),
            ));
        }
        let created = Repository::create(&self.0.dir, name.as_str(), description, key).await?;
        let created = Arc::new(created);
        let metadata = self.metadata_json(&created);
        self.all_mut().insert(name.to_string(), created);
        Ok(json!({ "repositoryMetadata": metadata }))
    }

    /// Deletes a repository. A missing one is not an error, because the service's model
    /// lists none.
    pub(super) async fn delete_repository(&self, input: Input<'_>) -> ApiResult {
        let name = input.repository_name()?;
        let _membership = self.0.membership.lock().await;
        let Some(repository) = self.find(name.as_str()) else {
            return Ok(json!({}));
        };
        // A push that is moving refs finishes first; later ones find the repository deleted.
        let _refs = repository.refs_lock.lock().await;
        self.all_mut().remove(name.as_str());
        repository.objects.close();
        let aside = format!(".deleted-{}", uuid::Uuid::new_v4());
        let aside = self.0.dir.join(aside);
        std::fs::rename(&repository.dir, &aside).map_err(ApiError::internal)?;
        self.0.pull_requests.forget(&repository.metadata().id)?;
        tokio::task::spawn_blocking(move || {
            // Files that cannot be removed now are removed when the server starts again.
            let _ = std::fs::remove_dir_all(aside);
        });
        Ok(json!({ "repositoryId": repository.metadata().id }))
    }

    pub(super) fn get_repository(&self, input: Input<'_>) -> ApiResult {
        let repository = self.named(input)?;
        Ok(json!({ "repositoryMetadata": self.metadata_json(&repository) }))
    }

    /// Sets the description; an empty one is removed.
    pub(super) fn update_repository_description(&self, input: Input<'_>) -> ApiResult {
        let repository = self.named(input)?;
        let description = description(input)?.filter(|text| !text.is_empty());
        repository.update(|metadata| metadata.description = description)?;
        Ok(json!({}))
    }

    pub(super) fn list_repositories(&self, input: Input<'_>) -> ApiResult {
        let sort_by = input.text("sortBy")?.unwrap_or("repositoryName");
        let order = input.text("order")?.unwrap_or("ascending");
        if !matches!(sort_by, "repositoryName" | "lastModifiedDate") {
            return Err(ApiError::new(
                "InvalidSortByException",
                "sortBy must be repositoryName or lastModifiedDate",
            ));
        }
        if !matches!(order, "ascending" | "descending") {
            return Err(ApiError::new(
                "InvalidOrderException",
                "order must be ascending or descending",
            ));
        }
        let offset = match input.text("nextToken")? {
            None => 0,
            Some(token) => page::parse::<usize>(token)?,
        };
        let mut list: Vec<(String, String, i64)> = self
            .open_repositories()
            .values()
            .map(|repository| {
                let metadata = repository.metadata();
                (repository.name.clone(), metadata.id, metadata.modified_ms)
            })
            .collect();
        if sort_by == "lastModifiedDate" {
            list.sort_by_key(|(.., modified)| *modified);
        }
        if order == "descending" {
            list.reverse();
        }
        let size = self.0.limits.repositories_page.max(1);
        let shown: Vec<Value> = list
            .iter()
            .skip(offset)
            .take(size)
            .map(|(name, id, _)| json!({ "repositoryName": name, "repositoryId": id }))
            .collect();
        let end = offset.saturating_add(shown.len());
        let mut output = json!({ "repositories": shown });
        if end < list.len() {
            output["nextToken"] = page::token(&end)?.into();
        }
        Ok(output)
    }

    pub(super) fn batch_get_repositories(&self, input: Input<'_>) -> ApiResult {
        let names = input
            .texts("repositoryNames")?
            .filter(|names| !names.is_empty());
        let names = names.ok_or_else(|| {
            ApiError::new(
                "RepositoryNamesRequiredException",
                "repositoryNames is required",
            )
        })?;
        if names.len() > MAX_NAMES {
            return Err(ApiError::new(
                "MaximumRepositoryNamesExceededException",
                format!("repositoryNames has more than {MAX_NAMES} names"),
            ));
        }
        let (mut found, mut missing, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for name in names {
            let name = repository_name(name)?;
            if let Some(repository) = self.find(name.as_str()) {
                found.push(self.metadata_json(&repository));
                continue;
            }
            errors.push(json!({
                "repositoryName": name.as_str(),
                "errorCode": "RepositoryDoesNotExistException",
                "errorMessage": format!("{name} does not exist"),
            }));
            missing.push(name.to_string());
        }
        Ok(json!({ "repositories": found, "repositoriesNotFound": missing, "errors": errors }))
    }

    /// Builds `repositoryMetadata`. There is no `cloneUrlSsh`, because the server has no SSH.
    fn metadata_json(&self, repository: &Repository) -> Value {
        let metadata = repository.metadata();
        let mut json = json!({
            "accountId": self.0.account.id,
            "repositoryId": metadata.id,
            "repositoryName": repository.name,
            "creationDate": epoch_seconds(metadata.created_ms),
            "lastModifiedDate": epoch_seconds(metadata.modified_ms),
            "cloneUrlHttp": self.clone_url(&repository.name),
            "Arn": self.0.account.repository_arn(&repository.name),
        });
        for (member, value) in [
            ("repositoryDescription", metadata.description),
            ("defaultBranch", metadata.default_branch),
            ("kmsKeyId", metadata.kms_key_id),
        ] {
            if let Some(value) = value {
                json[member] = value.into();
            }
        }
        json
    }
}

/// Reads `repositoryDescription`.
fn description(input: Input<'_>) -> Result<Option<String>, ApiError> {
    let description = input.text("repositoryDescription")?;
    if description.is_some_and(|text| text.chars().count() > MAX_DESCRIPTION_CHARS) {
        return Err(ApiError::new(
            "InvalidRepositoryDescriptionException",
            format!("repositoryDescription has more than {MAX_DESCRIPTION_CHARS} characters"),
        ));
    }
    Ok(description.map(str::to_owned))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds since 1970 need 41 of the 53 bits"
)]
fn epoch_seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1000.0
}
