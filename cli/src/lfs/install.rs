//! `git-lfs-s3 install`, `enable-debug` and `disable-debug`.

use branchline_core::remote::lfs_alias::{lfs_alias, parse_lfs_alias};
use branchline_core::remote::url::{RemoteUrl, S3Url};
use branchline_core::{Error, ErrorKind, Result};
use bstr::ByteSlice as _;

use super::settings::{self, Scope};
use crate::local_git::{self, GitConfig};

/// Sets up git-lfs for all remotes in S3, also for those that are added later.
pub(super) async fn install_all() -> Result<()> {
    in_repository().await?;
    let remotes = local_git::output(["remote"], b"").await?;
    let remotes: Vec<String> = remotes
        .lines()
        .map(|name| name.to_str_lossy().into_owned())
        .collect();
    settings::set_program(Scope::Repository).await?;
    settings::set_agent_of_s3(Scope::Repository).await?;
    let config = GitConfig::read().await?;
    for name in &remotes {
        let text = local_git::remote_url(name).await?;
        if let Ok(RemoteUrl::S3(url)) = RemoteUrl::new(&text) {
            if url.prefix.is_none() {
                continue;
            }
            if let Err(error) = set_remote(&config, name, &lfs_alias(&url)).await {
                eprintln!("warning: {}", error.report());
            }
        } else if remotes.len() > 1 {
            eprintln!(
                "warning: remote `{name}` is not in S3, and its LFS objects stay with it; \
                 `git-lfs-s3 install --remote <name>` sets up a single remote"
            );
        }
    }
    warn_of_agent_of_all(&config);
    println!("git-lfs-s3 installed");
    Ok(())
}

/// Sets up git-lfs for a remote: its LFS objects are below the remote itself, in S3, or at `place`.
pub(super) async fn install_remote(name: &str, place: Option<&RemoteUrl>) -> Result<()> {
    in_repository().await?;
    let text = local_git::remote_url(name).await.map_err(|error| {
        let message = format!("remote `{}` is not configured", name.escape_debug());
        Error::new(ErrorKind::NotFound, message)
            .with_source(error)
            .with_hint("`git remote` lists the remotes")
    })?;
    let own = match RemoteUrl::new(&text) {
        Ok(RemoteUrl::S3(url)) => Some(url),
        _ => None,
    };
    let (lfs_url, profile) = match (place, own) {
        (None, Some(own)) => (s3_place(&own)?, None),
        (None, None) => {
            let message = format!("remote `{name}` is not an s3 remote");
            return Err(Error::new(ErrorKind::Config, message).with_hint(format!(
                "`branchline lfs install --remote {name} --url s3://bucket/prefix` puts its LFS \
                 objects into S3"
            )));
        }
        (Some(RemoteUrl::S3(url)), own) => {
            let alias = s3_place(url)?;
            if let Some(own) = own
                && lfs_alias(&own) != alias
            {
                let message = format!("remote `{name}` is in S3 itself, at `{own}`");
                return Err(Error::new(ErrorKind::Config, message)
                    .with_hint("its LFS objects are stored there; leave `--url` out"));
            }
            (alias, url.profile.as_deref())
        }
        (Some(RemoteUrl::Http(url)), _) if url.credentials().is_none() => (url.to_string(), None),
        (Some(place), _) => {
            let message = format!("`{place}` cannot have LFS objects for git-lfs");
            return Err(Error::new(ErrorKind::Config, message).with_hint(
                "use `s3://bucket/prefix`, or the URL of a `dumb` mirror on a web server, \
                 without a user",
            ));
        }
    };
    let config = GitConfig::read().await?;
    set_remote(&config, name, &lfs_url).await?;
    if let Some(profile) = profile {
        let key = format!("remote.{name}.s3-profile");
        settings::set(Scope::Repository, &key, profile).await?;
    }
    warn_of_agent_of_all(&config);
    println!("git-lfs-s3 installed for remote '{name}' ({lfs_url})");
    Ok(())
}

/// Sets up git-lfs for all repositories below a URL of a web server, for this user.
pub(super) async fn install_global(place: &RemoteUrl) -> Result<()> {
    let RemoteUrl::Http(url) = place else {
        return Err(Error::new(
            ErrorKind::Config,
            format!("`{place}` is not at a web server"),
        )
        .with_hint("`branchline install` sets up git-lfs for `s3://`"));
    };
    let url = url.to_string();
    settings::set_program(Scope::Global).await?;
    settings::set_agent(Scope::Global, &url).await?;
    println!("git-lfs-s3 installed for repositories below {url}");
    Ok(())
}

/// Returns the URL that stands for the LFS objects of a repository in S3.
fn s3_place(url: &S3Url) -> Result<String> {
    if url.prefix.is_none() {
        return Err(
            Error::new(ErrorKind::Config, format!("`{url}` has no prefix"))
                .with_hint("add the prefix of the repository, as in `s3://bucket/repository`"),
        );
    }
    Ok(lfs_alias(url))
}

async fn set_remote(config: &GitConfig, name: &str, lfs_url: &str) -> Result<()> {
    let key = settings::lfs_url_key(name);
    if let Some(found) = config.get(&key)
        && found != lfs_url
    {
        // An alias names no user and no password; another URL may.
        let shown = match (parse_lfs_alias(found), RemoteUrl::new(found)) {
            (Some(_), _) => found.to_owned(),
            (None, Ok(url)) => url.to_string(),
            (None, Err(_)) => "a URL that is not valid".to_owned(),
        };
        let message = format!("`{key}` is already set to `{shown}`");
        return Err(Error::new(ErrorKind::Config, message)
            .with_hint(format!("`git config --unset {key}` removes it")));
    }
    settings::set_remote(name, lfs_url).await
}

fn warn_of_agent_of_all(config: &GitConfig) {
    if let Some(agent) = settings::agent_of_all(config) {
        eprintln!(
            "warning: `lfs.standalonetransferagent` is `{}`, which transfers the LFS objects of \
             all other remotes; hint: `git config --unset lfs.standalonetransferagent` leaves \
             them to git-lfs",
            agent.escape_debug()
        );
    }
}

/// Fails outside a repository, with git's message.
async fn in_repository() -> Result<()> {
    local_git::output(["rev-parse", "--git-dir"], b"")
        .await
        .map(drop)
}

/// Turns the agent's log on.
pub(super) async fn enable_debug() -> Result<()> {
    in_repository().await?;
    settings::set(Scope::Repository, settings::ARGUMENTS, "debug").await?;
    println!("debug enabled");
    Ok(())
}

/// Turns the agent's log off.
pub(super) async fn disable_debug() -> Result<()> {
    in_repository().await?;
    let arguments = ["config", "--local", "--get-all", settings::ARGUMENTS];
    if local_git::output(arguments, b"").await.is_ok() {
        let arguments = ["config", "--local", "--unset-all", settings::ARGUMENTS];
        local_git::output(arguments, b"").await?;
    }
    println!("debug disabled");
    Ok(())
}
