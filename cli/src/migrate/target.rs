//! The URL of the target of a migration.

use branchline_core::remote::url::RemoteUrl;
use branchline_core::{Error, ErrorKind, Result};

use crate::local_git;

/// Returns the URL that `remote` names: a URL, or the remote of this name in a local source.
///
/// # Errors
/// `Config` for an unknown remote.
pub(super) async fn url(source: &RemoteUrl, remote: &str) -> Result<String> {
    if remote.contains("://") {
        return Ok(over_https(remote).unwrap_or_else(|| remote.to_owned()));
    }
    let RemoteUrl::Local(path) = source else {
        let message = format!("`{remote}` is not a URL");
        return Err(Error::new(ErrorKind::Config, message).with_hint(
            "give the URL of the target with `--remote`, as in `codecommit::eu-west-1://project`",
        ));
    };
    let shown = path.display();
    let url = local_git::push_url_in(path, remote).await;
    let url = url.map_err(|error| {
        let message = format!("the remote `{remote}` of `{shown}` is not known");
        Error::new(ErrorKind::Config, message)
            .with_source(error)
            .with_hint(format!(
                "add it by `git -C {shown} remote add {remote} codecommit::REGION://REPOSITORY`, or \
                 name another one with `--remote`"
            ))
    })?;
    if let Some(url) = over_https(&url) {
        return Ok(url);
    }
    // Git reads a relative path from the repository.
    match RemoteUrl::new(&url) {
        Ok(RemoteUrl::Local(below)) if below.is_relative() => {
            let joined = path.join(below);
            let joined = joined.to_str().map(str::to_owned);
            joined.ok_or_else(|| Error::new(ErrorKind::Config, "a path is not UTF-8"))
        }
        _ => Ok(url),
    }
}

/// Returns the URL, over HTTPS and with AWS's credentials, of a CodeCommit repository that a URL
/// names over SSH; `None` for other URLs.
fn over_https(url: &str) -> Option<String> {
    let rest = url.strip_prefix("ssh://")?;
    let (host, path) = rest.split_once('/')?;
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let region = host.strip_prefix("git-codecommit.")?;
    let region = region
        .strip_suffix(".amazonaws.com")
        .or_else(|| region.strip_suffix(".amazonaws.com.cn"))?;
    let name = path.strip_prefix("v1/repos/")?;
    Some(format!("codecommit::{region}://{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_of_codecommit_over_ssh_is_one_over_https() {
        for (url, expected) in [
            (
                "ssh://git-codecommit.us-east-2.amazonaws.com/v1/repos/Demo",
                Some("codecommit::us-east-2://Demo"),
            ),
            (
                "ssh://APKA@git-codecommit.cn-north-1.amazonaws.com.cn/v1/repos/a",
                Some("codecommit::cn-north-1://a"),
            ),
            ("ssh://host/v1/repos/a", None),
            (
                "https://git-codecommit.us-east-2.amazonaws.com/v1/repos/a",
                None,
            ),
        ] {
            assert_eq!(over_https(url).as_deref(), expected, "{url}");
        }
    }
}
