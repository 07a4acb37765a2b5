//! The repository that a command line names by its URL, or as a remote of the current repository.

use std::sync::Arc;

use branchline_core::remote::Remote;
use branchline_core::remote::maintenance::Maintenance;
use branchline_core::remote::url::S3Url;
use branchline_core::{Error, ErrorKind, Result};
use bstr::BString;

use crate::connection::{self, RemoteSettings, s3_url};
use crate::failure::explain;
use crate::invocation::Invocation;
use crate::local_git::{self, GitConfig};

/// Variable with the age in seconds from which a lock is abandoned.
const LOCK_TTL: &str = "GIT_REMOTE_S3_LOCK_TTL_SECONDS";

/// A repository in S3.
pub(super) struct Located {
    pub(super) url: S3Url,
    pub(super) remote: Arc<dyn Remote>,
    profile: Option<String>,
}

impl Located {
    /// Opens the repository `text`, a URL or the name of a remote. A lock is abandoned after
    /// `lock_ttl` seconds; as the environment says if `None`.
    pub(super) async fn open(
        invocation: &Invocation,
        text: &str,
        lock_ttl: Option<u64>,
    ) -> Result<Self> {
        let (name, url) = if text.contains("://") {
            (None, text.to_owned())
        } else {
            (Some(text), local_git::remote_url(text).await?)
        };
        let url = s3_url(&url)?;
        let settings = RemoteSettings::read(&GitConfig::read().await?, name)?;
        let profile = settings.profile(&url).map(str::to_owned);
        let mut invocation = invocation.clone();
        if let Some(seconds) = lock_ttl {
            let value = seconds.to_string().into();
            invocation.variables.insert(LOCK_TTL.into(), value);
        }
        match connection::open(&invocation, &url, &settings).await {
            Ok(remote) => Ok(Self {
                url,
                remote,
                profile,
            }),
            Err(error) => Err(explain(error, profile.as_deref()).await),
        }
    }

    /// Returns the upkeep of the repository.
    pub(super) fn maintenance(&self) -> Result<&dyn Maintenance> {
        self.remote.maintenance().ok_or_else(|| {
            let message = format!("`{}` is not kept by branchline", self.url);
            Error::new(ErrorKind::Config, message)
        })
    }

    /// Explains a failure about credentials.
    pub(super) async fn explained<T>(&self, result: Result<T>) -> Result<T> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => Err(explain(error, self.profile.as_deref()).await),
        }
    }
}

/// Returns the full name of a branch, which may be given as such.
///
/// # Errors
/// `Config` for a text that is not a name.
pub(super) fn branch(text: &str) -> Result<BString> {
    let name = if text.starts_with("refs/") {
        text.to_owned()
    } else {
        format!("refs/heads/{text}")
    };
    branchline_core::git::check_ref_name(name.as_str().into()).map_err(|_| {
        let message = format!("`{}` is not a name of a branch", text.escape_debug());
        Error::new(ErrorKind::Config, message).with_hint("an example is `main`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_is_named_with_or_without_its_folder() {
        assert_eq!(branch("a/b").unwrap(), "refs/heads/a/b");
        assert_eq!(branch("refs/tags/v1").unwrap(), "refs/tags/v1");
        assert!(branch("a..b").is_err() && branch("").is_err());
    }
}
