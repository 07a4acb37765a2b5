//! The store of LFS objects that a remote of the repository names.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use branchline_core::git::smart_http::RepositoryUrl;
use branchline_core::lfs::LfsStore;
use branchline_core::lfs::agent::TransferDirection;
use branchline_core::remote::lfs_alias::parse_lfs_alias;
use branchline_core::remote::url::{RemoteUrl, S3Url};
use branchline_core::{Error, ErrorKind, Result};
use bstr::ByteSlice as _;

use super::settings;
use crate::connection::{self, RemoteSettings};
use crate::invocation::Invocation;
use crate::local_git::{self, GitConfig};
use crate::remotes::TerminalRemotes;

/// Parts of a large object that are transferred at once.
pub(super) const PARALLEL_PARTS: usize = 4;

/// An open store of LFS objects.
pub(super) struct OpenStore {
    pub(super) store: Arc<dyn LfsStore>,
    /// Profile that signs the requests, if one is named.
    pub(super) profile: Option<String>,
    /// Directory of LFS objects in the local repository.
    pub(super) directory: PathBuf,
}

/// Place of LFS objects.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LfsLocation {
    /// Beside a repository in S3, or alone below a prefix.
    S3(S3Url),
    /// Beside a `dumb` mirror on a web server, for reading.
    Files(RepositoryUrl),
}

impl OpenStore {
    /// Opens the store for transfers with `remote`, the name or the URL that git-lfs was given.
    ///
    /// # Errors
    /// `Config` for a remote without a store that the agent knows.
    pub(super) async fn open(
        invocation: &Invocation,
        direction: TransferDirection,
        remote: &str,
    ) -> Result<Self> {
        let is_upload = direction == TransferDirection::Upload;
        let push = ["remote", "get-url", "--push", "--", remote];
        let fetch = ["remote", "get-url", "--", remote];
        let get_url: &[&str] = if is_upload { &push } else { &fetch };
        let (config, url, directory, shared_url) = tokio::join!(
            GitConfig::read(),
            local_git::output(get_url, b""),
            common_directory(),
            shared_lfs_url(),
        );
        let (config, directory) = (config?, directory?);
        let (name, url) = match url {
            Ok(url) => (Some(remote), Some(url.trim().to_str_lossy().into_owned())),
            Err(_) if remote.contains("://") => (None, Some(remote.to_owned())),
            Err(_) => (None, None),
        };
        let configured = configured_url(&config, is_upload, name, shared_url.as_deref());
        let location = locate(configured, url.as_deref(), remote)?;
        let is_for_all = settings::agent_of_all(&config).is_some();
        location.check(remote, is_upload, is_for_all)?;
        let of_remote = RemoteSettings::read(&config, name)?;
        let profile = match &location {
            LfsLocation::S3(url) => of_remote.profile(url).map(str::to_owned),
            LfsLocation::Files(_) => None,
        };
        let opener = connection::opener(invocation, profile.as_deref(), &of_remote).await?;
        let store = match &location {
            LfsLocation::S3(url) => opener.s3_lfs(url, of_remote.new_layout(), PARALLEL_PARTS)?,
            LfsLocation::Files(url) => TerminalRemotes::new(invocation)?.file_lfs(url).await?,
        };
        let lfs = config.get("lfs.storage").filter(|path| !path.is_empty());
        Ok(Self {
            store,
            profile,
            directory: directory.join(lfs.unwrap_or("lfs")),
        })
    }
}

/// Returns the place of the LFS objects of a remote of the current repository, whose own URL is
/// `url`.
///
/// # Errors
/// `Config` for a remote without a place that the agent knows.
pub(super) async fn place_of_remote(
    config: &GitConfig,
    name: &str,
    url: &str,
) -> Result<LfsLocation> {
    let shared_url = shared_lfs_url().await;
    let configured = configured_url(config, false, Some(name), shared_url.as_deref());
    locate(configured, Some(url), name)
}

/// Returns the directory that all work trees of the repository share.
pub(super) async fn common_directory() -> Result<PathBuf> {
    let printed = local_git::output(["rev-parse", "--git-common-dir"], b"").await?;
    let path = PathBuf::from(printed.trim().to_os_str_lossy().into_owned());
    std::path::absolute(&path).map_err(|error| {
        let message = format!("the path `{}` of the repository", path.display());
        Error::new(ErrorKind::Config, message).with_source(error)
    })
}

/// Returns `lfs.url` of the file `.lfsconfig`, which is part of the project.
async fn shared_lfs_url() -> Option<String> {
    let place = if Path::new(".lfsconfig").is_file() {
        ["--file", ".lfsconfig"]
    } else {
        ["--blob", "HEAD:.lfsconfig"]
    };
    let arguments = ["config", place[0], place[1], "--get", "lfs.url"];
    let value = local_git::output(arguments, b"").await.ok()?;
    Some(value.trim().to_str().ok()?.to_owned())
}

/// Returns the URL of LFS objects that is configured, as git-lfs chooses it.
fn configured_url<'a>(
    config: &'a GitConfig,
    is_upload: bool,
    name: Option<&str>,
    shared: Option<&'a str>,
) -> Option<&'a str> {
    let get = |key: &str| config.get(key).filter(|url| !url.is_empty());
    let of_remote = |key: &str| get(&format!("remote.{}.{key}", name?));
    let of_uploads = is_upload.then(|| get("lfs.pushurl")).flatten();
    of_uploads
        .or_else(|| get("lfs.url"))
        .or(shared)
        .or_else(|| is_upload.then(|| of_remote("lfspushurl")).flatten())
        .or_else(|| of_remote("lfsurl"))
}

/// Returns the place of LFS objects, from the URL that is configured for them and the one of the
/// remote itself.
fn locate(configured: Option<&str>, own: Option<&str>, remote: &str) -> Result<LfsLocation> {
    let own = own.map(RemoteUrl::new);
    match (configured, own) {
        // An alias stands for the remote itself, whose URL also names a profile.
        (Some(alias), Some(Ok(RemoteUrl::S3(url)))) if parse_lfs_alias(alias).is_some() => {
            Ok(LfsLocation::S3(url))
        }
        (Some(configured), _) => match parse_lfs_alias(configured) {
            Some(url) => Ok(LfsLocation::S3(url?)),
            None => of_url(RemoteUrl::new(configured)?, remote),
        },
        (None, Some(own)) => of_url(own?, remote),
        (None, None) => {
            let message = format!("remote `{}` is not configured", remote.escape_debug());
            Err(Error::new(ErrorKind::Config, message).with_hint("`git remote` lists the remotes"))
        }
    }
}

fn of_url(url: RemoteUrl, remote: &str) -> Result<LfsLocation> {
    match url {
        RemoteUrl::S3(url) => Ok(LfsLocation::S3(url)),
        RemoteUrl::Http(url) => Ok(LfsLocation::Files(url)),
        url => Err(not_in_s3(&url, remote)),
    }
}

impl LfsLocation {
    /// Refuses uploads to a web server, and a server that git-lfs names only because the agent is
    /// set for all remotes.
    fn check(&self, remote: &str, is_upload: bool, is_for_all: bool) -> Result<()> {
        match self {
            Self::Files(url) if is_for_all => Err(not_in_s3(url, remote)),
            Self::Files(url) if is_upload => {
                let message =
                    format!("LFS objects cannot be uploaded to the web server of `{url}`");
                Err(Error::new(ErrorKind::Config, message).with_hint(
                    "`git remote set-url --push <name> s3://bucket/prefix` names the bucket",
                ))
            }
            _ => Ok(()),
        }
    }
}

fn not_in_s3(url: &dyn fmt::Display, remote: &str) -> Error {
    let remote = remote.escape_debug();
    let message = format!("remote `{remote}` at `{url}` is not in S3");
    Error::new(ErrorKind::Config, message).with_hint(
        "`git config --unset lfs.standalonetransferagent` leaves its LFS objects to git-lfs",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(configured: Option<&str>, own: &str, is_upload: bool) -> Result<String> {
        let location = locate(configured, Some(own), "origin")?;
        location.check("origin", is_upload, false)?;
        Ok(match location {
            LfsLocation::S3(url) => format!("{url} {}", url.profile.as_deref().unwrap_or("-")),
            LfsLocation::Files(url) => url.to_string(),
        })
    }

    #[test]
    fn the_place_follows_from_the_configured_url_and_the_remote() {
        let alias = "https://lfs-alias.git-remote-s3.test/bucket/a%20b";
        for (configured, own, found) in [
            (None, "s3://me@bucket/a b", "s3://bucket/a b me"),
            (Some(alias), "s3://me@bucket/a b", "s3://bucket/a b me"),
            // The remote was moved after it was set up.
            (Some(alias), "s3://bucket/new", "s3://bucket/new -"),
            (Some(alias), "https://host/r.git", "s3://bucket/a b -"),
            (Some("s3://x@store/p"), "s3://bucket/r", "s3://store/p x"),
            (None, "https://host/mirror", "https://host/mirror"),
            (Some("https://host/m"), "git@host:x/y", "https://host/m"),
        ] {
            let place = place(configured, own, false).expect(own);
            assert_eq!(place, found, "{configured:?} {own}");
        }
    }

    #[test]
    fn a_place_that_the_agent_does_not_know_is_refused_with_a_remedy() {
        for (configured, own, is_upload, part) in [
            (None, "/srv/r.git", false, "is not in S3"),
            (None, "https://host/m", true, "cannot be uploaded"),
            (None, "codecommit://r", false, "is not in S3"),
            (
                Some("https://lfs-alias.git-remote-s3.test/bucket"),
                "https://host/r",
                false,
                "alias",
            ),
        ] {
            let error = place(configured, own, is_upload).expect_err(own);
            assert!(error.report().contains(part), "{}", error.report());
            assert!(error.hint().is_some(), "{}", error.report());
        }
        let error = locate(None, None, "gone").expect_err("it is not configured");
        assert!(error.report().contains("`gone`"), "{}", error.report());
        // Neither is the place of another server, which an agent for all remotes would get.
        let hosted = locate(None, Some("https://host/r.git"), "hosted").expect("a web server");
        for is_upload in [false, true] {
            let error = hosted
                .check("hosted", is_upload, true)
                .expect_err("for all remotes");
            assert!(error.report().contains("`hosted`"), "{}", error.report());
            assert!(
                error.report().contains("is not in S3"),
                "{}",
                error.report()
            );
        }
    }

    #[test]
    fn the_url_is_chosen_as_by_git_lfs() {
        let config = GitConfig::parse(
            b"remote.o.lfsurl\nof remote\0remote.o.lfspushurl\nof its uploads\0\
              lfs.pushurl\nof uploads\0remote.p.lfsurl\nof p\0",
        );
        for (is_upload, name, shared, url) in [
            (false, Some("o"), None, Some("of remote")),
            (true, Some("o"), None, Some("of uploads")),
            (false, Some("o"), Some("shared"), Some("shared")),
            (false, Some("p"), None, Some("of p")),
            (false, None, None, None),
        ] {
            assert_eq!(configured_url(&config, is_upload, name, shared), url);
        }
    }
}
