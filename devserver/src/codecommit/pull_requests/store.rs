//! All pull requests, in one file that is replaced atomically.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::model::PullRequest;
use crate::aws_json::ApiError;

/// Name of the file in the folder of the repositories.
const FILE: &str = "pull-requests.json";

/// Content of the file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Content {
    /// Highest id so far; ids are never used twice.
    last_id: u64,
    pull_requests: BTreeMap<u64, PullRequest>,
}

/// Pull requests of all repositories, by id.
#[derive(Debug)]
pub(in super::super) struct PullRequestStore {
    folder: PathBuf,
    content: RwLock<Content>,
}

impl PullRequestStore {
    /// Opens the pull requests in `folder`, and drops those of repositories that are missing.
    pub(in super::super) fn open(
        folder: &Path,
        has_repository: impl Fn(&str) -> bool,
    ) -> std::io::Result<Self> {
        let file = folder.join(FILE);
        let mut content = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| std::io::Error::other(format!("{}: {error}", file.display())))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Content::default(),
            Err(error) => return Err(error),
        };
        let all = &mut content.pull_requests;
        all.retain(|_, found| has_repository(&found.repository_id));
        Ok(Self {
            folder: folder.to_owned(),
            content: RwLock::new(content),
        })
    }

    /// Reads the pull requests.
    pub(super) fn read<T>(&self, read: impl FnOnce(&BTreeMap<u64, PullRequest>) -> T) -> T {
        let content = self.content.read();
        read(
            &content
                .unwrap_or_else(PoisonError::into_inner)
                .pull_requests,
        )
    }

    /// Adds the pull request that `make` returns for an id, unless it returns an existing one.
    pub(super) fn add(
        &self,
        make: impl FnOnce(u64, &BTreeMap<u64, PullRequest>) -> Result<PullRequest, ApiError>,
    ) -> Result<PullRequest, ApiError> {
        self.change(|content| {
            let id = content.last_id + 1;
            let added = make(id, &content.pull_requests)?;
            if added.id == id {
                content.last_id = id;
                content.pull_requests.insert(id, added.clone());
            }
            Ok(added)
        })
    }

    /// Changes all pull requests at once; the change is on disk when this returns. Nothing
    /// changes if `change` fails.
    pub(super) fn update<T>(
        &self,
        change: impl FnOnce(&mut BTreeMap<u64, PullRequest>) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        self.change(|content| change(&mut content.pull_requests))
    }

    /// Changes one pull request, and returns it with the result of `change`.
    pub(super) fn update_one<T>(
        &self,
        id: u64,
        change: impl FnOnce(&mut PullRequest) -> Result<T, ApiError>,
    ) -> Result<(PullRequest, T), ApiError> {
        self.update(|all| {
            let found = all.get_mut(&id).ok_or_else(|| super::no_pull_request(id))?;
            let result = change(found)?;
            Ok((found.clone(), result))
        })
    }

    /// Removes the pull requests of a deleted repository.
    pub(in super::super) fn forget(&self, repository_id: &str) -> Result<(), ApiError> {
        let has_any = self.read(|all| all.values().any(|one| one.repository_id == repository_id));
        if !has_any {
            return Ok(());
        }
        self.update(|all| {
            all.retain(|_, found| found.repository_id != repository_id);
            Ok(())
        })
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut Content) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let mut held = self.content.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = held.clone();
        let result = change(&mut next)?;
        self.save(&next).map_err(ApiError::internal)?;
        *held = next;
        Ok(result)
    }

    fn save(&self, content: &Content) -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        serde_json::to_writer(file.as_file_mut(), content)?;
        file.as_file_mut().flush()?;
        file.persist(self.folder.join(FILE))
            .map_err(|error| error.error)?;
        Ok(())
    }
}
