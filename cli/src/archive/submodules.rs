//! The repositories of submodules, opened as remotes.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use branchline_core::archive::{SubmoduleCommit, SubmoduleRepositories};
use branchline_core::git::ObjectId;
use branchline_core::git::object::{Commit, ObjectKind};
use branchline_core::git::pack::PackLimits;
use branchline_core::remote::Source;
use branchline_core::remote::open::{OpenRemote as _, RemoteSpec};
use branchline_core::remote::url::RemoteUrl;
use branchline_core::{Error, ErrorKind, Result};
use tokio::sync::OnceCell;

use super::history::SourceHistory;
use super::{ArchiveMeter, objects};
use crate::connection::MEMORY_BYTES;
use crate::remotes::TerminalRemotes;

/// Submodules of a remote, by URLs that are relative to it, or of remotes elsewhere.
pub(super) struct TerminalSubmodules {
    pub(super) remotes: Arc<TerminalRemotes>,
    /// URL of the archived repository.
    pub(super) root: String,
    pub(super) with_lfs: bool,
    pub(super) limits: PackLimits,
    pub(super) temporary: PathBuf,
    pub(super) meter: Arc<ArchiveMeter>,
}

impl fmt::Debug for TerminalSubmodules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TerminalSubmodules").finish_non_exhaustive()
    }
}

#[async_trait]
impl SubmoduleRepositories for TerminalSubmodules {
    fn root(&self) -> &str {
        &self.root
    }

    async fn open(&self, parent: &str, url: &str, commit: ObjectId) -> Result<SubmoduleCommit> {
        let name = resolved(parent, url)?;
        let url = RemoteUrl::new(&name)?;
        let read = async {
            let spec = RemoteSpec::new(url.clone());
            let remote = self
                .remotes
                .open_archived(&spec, MEMORY_BYTES, commit)
                .await?;
            let source: Arc<dyn Source> = Arc::from(remote.source(&[]).await?);
            let (limits, temporary) = (self.limits, &self.temporary);
            let objects = objects::open(&*source, commit, limits, temporary, &self.meter).await?;
            let history = SourceHistory {
                source,
                id: commit,
                limits,
                temporary: temporary.clone(),
                meter: Arc::clone(&self.meter),
                opened: OnceCell::new(),
                listed: OnceCell::new(),
            };
            let content = objects.read_kind(commit, ObjectKind::Commit).await?;
            let commit = Commit::decode(commit, &content)?;
            let lfs = match remote.lfs().filter(|_| self.with_lfs) {
                Some(store) if store.has_place().await? => Some(store),
                _ => None,
            };
            let opened = SubmoduleCommit::in_database(name, &objects, commit);
            Ok::<_, Error>(opened.with_lfs(lfs).with_history(Some(Arc::new(history))))
        };
        let read = read.await;
        read.map_err(|error| error.context(format!("reading commit {commit} of `{url}`")))
    }
}

/// Resolves the URL of a submodule against that of the repository that has it, as git does.
///
/// # Errors
/// `Config` for a relative URL that leads nowhere, and for a path of the disk, which another
/// repository must not choose.
fn resolved(parent: &str, url: &str) -> Result<String> {
    if !url.starts_with("./") && !url.starts_with("../") {
        if url.contains("://") && !url.starts_with("file:") {
            return Ok(url.to_owned());
        }
        let shown = url.escape_debug();
        return Err(Error::new(
            ErrorKind::Config,
            format!("`{shown}` is not the URL of a remote"),
        )
        .with_hint("give the submodule a relative URL in `.gitmodules`, or that of a server"));
    }
    let mut base = parent.trim_end_matches('/');
    let mut rest = url;
    loop {
        if let Some(after) = rest.strip_prefix("./") {
            rest = after;
        } else if let Some(after) = rest.strip_prefix("../") {
            rest = after;
            let start = base.find("://").map_or(0, |at| at + "://".len());
            base = match base[start..].rfind('/') {
                Some(slash) => &base[..start + slash],
                // The name alone: `codecommit://profile@name`.
                None => match base[start..].rfind('@') {
                    Some(at) => return Ok(format!("{}{rest}", &base[..=start + at])),
                    None if start > 0 && !base[start..].is_empty() => {
                        return Ok(format!("{}{rest}", &base[..start]));
                    }
                    None => {
                        let message = format!("`{}` leads out of `{parent}`", url.escape_debug());
                        return Err(Error::new(ErrorKind::Config, message));
                    }
                },
            };
        } else {
            break;
        }
    }
    Ok(format!("{base}/{}", rest.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_urls_are_resolved_against_the_parent() {
        for (parent, url, expected) in [
            ("https://h/a/b.git", "../c.git", "https://h/a/c.git"),
            ("https://h/a/b.git", "../../c", "https://h/c"),
            ("https://h/a/b", "./c", "https://h/a/b/c"),
            ("s3://bucket/team/a/", "../b/", "s3://bucket/team/b"),
            ("codecommit://demo", "../other", "codecommit://other"),
            ("codecommit://me@demo", "../other", "codecommit://me@other"),
            (
                "codecommit::eu-west-1://demo",
                "../o",
                "codecommit::eu-west-1://o",
            ),
            ("/srv/git/a", "../b", "/srv/git/b"),
            ("https://h/a", "https://x/y", "https://x/y"),
        ] {
            assert_eq!(resolved(parent, url).unwrap(), expected, "{parent} {url}");
        }
        for (parent, url) in [
            ("https://h/a", "/etc"),
            ("https://h/a", "file:///etc"),
            ("https://h/a", "ext::sh"),
            ("a", "../b"),
        ] {
            assert!(resolved(parent, url).is_err(), "{parent} {url}");
        }
    }
}
