//! Keys in git's configuration by which git-lfs finds the agent.
//!
//! git-lfs searches `lfs.<url>.standalonetransferagent` with the URL of a remote's LFS objects, which
//! `remote.<name>.lfsurl` replaces. The agent is never set without such a URL, because git-lfs would
//! send it the objects of all remotes.

use branchline_core::Result;
use branchline_core::remote::lfs_alias::lfs_alias;
use branchline_core::remote::url::S3Url;

use crate::local_git::{self, GitConfig};

/// Name of the agent, and of its program.
const AGENT: &str = "git-lfs-s3";
/// Key of the program that git-lfs starts.
const PROGRAM: &str = "lfs.customtransfer.git-lfs-s3.path";
/// Key of the program's arguments.
pub(super) const ARGUMENTS: &str = "lfs.customtransfer.git-lfs-s3.args";
/// Key of the agent for URLs of S3, as git-lfs rewrites them: `https://s3///<bucket>/<prefix>`.
const AGENT_OF_S3: &str = "lfs.https://s3.standalonetransferagent";
/// Key of an agent for all remotes, which awslabs' client sets.
const AGENT_OF_ALL: &str = "lfs.standalonetransferagent";

/// Keys that `branchline install` sets in git's global configuration, with their values.
pub(crate) const GLOBAL_SETTINGS: [(&str, &str); 2] = [(PROGRAM, AGENT), (AGENT_OF_S3, AGENT)];

/// File of git's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The repository's configuration, which its work trees share.
    Repository,
    /// The user's configuration.
    Global,
}

/// Sets a key to one value.
pub(super) async fn set(scope: Scope, key: &str, value: &str) -> Result<()> {
    let file = match scope {
        Scope::Repository => "--local",
        Scope::Global => "--global",
    };
    let arguments = ["config", file, "--replace-all", key, value];
    local_git::output(arguments, b"").await.map(drop)
}

/// Sets the program of the agent.
pub(super) async fn set_program(scope: Scope) -> Result<()> {
    set(scope, PROGRAM, AGENT).await
}

/// Sets the agent for the LFS objects at a URL.
pub(super) async fn set_agent(scope: Scope, url: &str) -> Result<()> {
    let key = format!("lfs.{url}.standalonetransferagent");
    set(scope, &key, AGENT).await
}

/// Sets the agent for all URLs of S3.
pub(super) async fn set_agent_of_s3(scope: Scope) -> Result<()> {
    set(scope, AGENT_OF_S3, AGENT).await
}

/// Returns the key of the URL of a remote's LFS objects.
pub(super) fn lfs_url_key(remote: &str) -> String {
    format!("remote.{remote}.lfsurl")
}

/// Sets the URL of a remote's LFS objects, and the agent for it.
pub(super) async fn set_remote(remote: &str, lfs_url: &str) -> Result<()> {
    set_program(Scope::Repository).await?;
    set_agent(Scope::Repository, lfs_url).await?;
    // Last, because a remote that has one counts as set up.
    set(Scope::Repository, &lfs_url_key(remote), lfs_url).await
}

/// Returns the agent that is set for all remotes.
pub(super) fn agent_of_all(config: &GitConfig) -> Option<&str> {
    config.get(AGENT_OF_ALL).filter(|agent| !agent.is_empty())
}

/// Sets up git-lfs for a remote in S3, unless the user has no git-lfs, or LFS objects have a place
/// already.
pub(crate) async fn set_up_remote(config: &GitConfig, remote: &str, url: &S3Url) {
    let filters = ["process", "smudge", "clean"];
    let mut filters = filters.iter().map(|name| format!("filter.lfs.{name}"));
    let lfs_url = lfs_url_key(remote);
    let is_set = ["lfs.url", &lfs_url]
        .iter()
        .any(|key| config.get(key).is_some());
    if is_set || agent_of_all(config).is_some() || !filters.any(|key| config.get(&key).is_some()) {
        return;
    }
    // For example in a repository that cannot be written; git-lfs reports what it misses.
    if let Err(error) = set_remote(remote, &lfs_alias(url)).await {
        tracing::info!(error = %error.report(), "git-lfs was not set up");
    }
}
