//! The repository that a `codecommit://` URL names: its region, profile, and URL at the server.

use branchline_core::aws::Profiles;
use branchline_core::git::smart_http::RepositoryUrl;
use branchline_core::remote::url::{CodeCommitUrl, RemoteUrl};
use branchline_core::{Error, ErrorKind, Result};

use super::regions::{domain, has_codecommit};
use crate::invocation::Invocation;

const EXAMPLE: &str = "an example is `codecommit://repository`, or with a region and a profile \
                       `codecommit::eu-west-1://profile@repository`";

/// A repository, and where it is served.
#[derive(Debug, Clone)]
pub(super) struct Location {
    pub(super) url: CodeCommitUrl,
    pub(super) region: String,
    /// URL of the repository over HTTP, without a user or a password.
    pub(super) server: RepositoryUrl,
}

impl Location {
    /// Finds the repository of a URL: region and profile by the rules of boto3.
    ///
    /// # Errors
    /// `Config` for a URL that is not valid, for a profile that does not exist, and where no
    /// region is configured.
    pub(super) async fn find(invocation: &Invocation, text: &str) -> Result<Self> {
        let url = parse(text)?;
        let profiles = match &url.profile {
            Some(profile) => {
                let profiles = Profiles::load().await?;
                profiles.require(profile)?;
                Some(profiles)
            }
            None => None,
        };
        let region = match region_of(invocation, &url) {
            Some(region) => region,
            None => configured_region(invocation, &url, profiles).await?,
        };
        let server = server(invocation, &url, &region)?;
        Ok(Self {
            url,
            region,
            server,
        })
    }

    /// Returns the URL that names the repository with its region and profile.
    pub(super) fn full_url(&self) -> String {
        let profile = self.url.profile.as_deref();
        let profile = profile.map(|profile| format!("{profile}@"));
        format!(
            "codecommit::{}://{}{}",
            self.region,
            profile.unwrap_or_default(),
            self.url.repository
        )
    }
}

/// Parses a URL, from which git strips `codecommit::` before a region.
fn parse(text: &str) -> Result<CodeCommitUrl> {
    let whole = if text.starts_with("codecommit:") {
        text.to_owned()
    } else {
        format!("codecommit::{text}")
    };
    let with_example = |error: Error| match error.hint() {
        None => error.with_hint(EXAMPLE),
        Some(_) => error,
    };
    if let RemoteUrl::CodeCommit(url) = RemoteUrl::new(&whole).map_err(with_example)? {
        return Ok(url);
    }
    let message = "the URL is not one of CodeCommit";
    Err(Error::new(ErrorKind::Config, message).with_hint(EXAMPLE))
}

/// Returns the region of the URL or of `AWS_DEFAULT_REGION`.
fn region_of(invocation: &Invocation, url: &CodeCommitUrl) -> Option<String> {
    let named = url.region.as_deref();
    named
        .or_else(|| invocation.text("AWS_DEFAULT_REGION"))
        .map(str::to_owned)
}

/// Returns the region of the profile, else that of `AWS_REGION`, which boto3 does
/// not read.
async fn configured_region(
    invocation: &Invocation,
    url: &CodeCommitUrl,
    profiles: Option<Profiles>,
) -> Result<String> {
    let profiles = match profiles {
        Some(profiles) => profiles,
        None => Profiles::load().await?,
    };
    let profile = url.profile.as_deref().unwrap_or(profiles.selected());
    let region = profiles
        .region(profile)
        .or_else(|| invocation.text("AWS_REGION"));
    region.map(str::to_owned).ok_or_else(|| {
        let message = format!("no AWS region is configured for `{url}`");
        let name = &url.repository;
        Error::new(ErrorKind::Config, message).with_hint(format!(
            "set AWS_DEFAULT_REGION, or `region` in the profile `{profile}`, or name the region in \
             the URL, as in `codecommit::eu-west-1://{name}`"
        ))
    })
}

/// Returns the URL of the repository at `CODE_COMMIT_ENDPOINT`, or at AWS.
fn server(invocation: &Invocation, url: &CodeCommitUrl, region: &str) -> Result<RepositoryUrl> {
    let name = &url.repository;
    let Some(endpoint) = invocation.text("CODE_COMMIT_ENDPOINT") else {
        let domain = domain(region);
        if !has_codecommit(region) {
            let shown = region.escape_debug();
            let message =
                format!("CodeCommit is not known to be available in the region `{shown}`");
            return Err(Error::new(ErrorKind::Config, message).with_hint(format!(
                "correct the region, or set CODE_COMMIT_ENDPOINT to \
                 `git-codecommit.{shown}.{domain}` if AWS has added it"
            )));
        }
        let text = format!("https://git-codecommit.{region}.{domain}/v1/repos/{name}");
        return Ok(RepositoryUrl::new(&text)?);
    };
    let invalid = || {
        let message = "`CODE_COMMIT_ENDPOINT` is not a host";
        Error::new(ErrorKind::Config, message)
            .with_hint("an example is `git-codecommit.eu-west-1.amazonaws.com`")
    };
    let base = endpoint.trim_end_matches('/');
    let text = if base.contains("://") {
        format!("{base}/v1/repos/{name}")
    } else {
        format!("https://{base}/v1/repos/{name}")
    };
    let server = RepositoryUrl::new(&text).map_err(|error| invalid().with_source(error))?;
    if server.credentials().is_some() || server.path() != format!("/v1/repos/{name}") {
        return Err(invalid());
    }
    if !server.is_secure() && !server.is_loopback() {
        let message = "`CODE_COMMIT_ENDPOINT` would send a password over plain HTTP";
        return Err(Error::new(ErrorKind::Config, message).with_hint("use `https://`"));
    }
    Ok(server)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn with(variables: &[(&str, &str)]) -> Invocation {
        let variables = variables.iter();
        Invocation {
            arguments: Vec::new(),
            variables: variables
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect::<HashMap<_, _>>(),
            program: None,
        }
    }

    #[tokio::test]
    async fn a_url_names_its_server_by_region_and_endpoint() {
        let default = ("AWS_DEFAULT_REGION", "us-east-1");
        let endpoint = |value| ("CODE_COMMIT_ENDPOINT", value);
        for (variables, url, expected) in [
            (
                &[default][..],
                "codecommit://r",
                "https://git-codecommit.us-east-1.amazonaws.com/v1/repos/r",
            ),
            (
                &[default],
                "eu-west-1://r",
                "https://git-codecommit.eu-west-1.amazonaws.com/v1/repos/r",
            ),
            (
                &[],
                "codecommit::cn-north-1://r",
                "https://git-codecommit.cn-north-1.amazonaws.com.cn/v1/repos/r",
            ),
            (
                &[default, endpoint("vpce.example")],
                "codecommit://r",
                "https://vpce.example/v1/repos/r",
            ),
            (
                &[default, endpoint("http://127.0.0.1:8080/")],
                "codecommit://r",
                "http://127.0.0.1:8080/v1/repos/r",
            ),
        ] {
            let found = Location::find(&with(variables), url).await;
            let found = found.unwrap_or_else(|error| panic!("{url}: {}", error.report()));
            assert_eq!(found.server.to_string(), expected, "{url}");
        }
    }

    #[tokio::test]
    async fn an_invalid_url_or_endpoint_is_refused_and_never_repeated() {
        let default = ("AWS_DEFAULT_REGION", "us-east-1");
        let endpoint = |value| ("CODE_COMMIT_ENDPOINT", value);
        for (variables, url, part) in [
            (&[default][..], "codecommit://", "repository's name"),
            (&[default], "codecommit://a:hunter2@r", "profile"),
            (&[default], "hunter2://", "repository's name"),
            (&[default], "https://hunter2/x", "repository's name"),
            (
                &[default, endpoint("http://hunter2")],
                "codecommit://r",
                "plain HTTP",
            ),
            (
                &[default, endpoint("u:hunter2@h")],
                "codecommit://r",
                "not a host",
            ),
            (
                &[default, endpoint("h/hunter2")],
                "codecommit://r",
                "not a host",
            ),
            (
                &[("AWS_DEFAULT_REGION", "a/b")],
                "codecommit://r",
                "region `a/b`",
            ),
            (&[], "eu-west-9://r", "region `eu-west-9`"),
        ] {
            let found = Location::find(&with(variables), url).await;
            let error = found.expect_err(url);
            let report = error.report();
            assert!(report.contains(part), "{url}: {report}");
            assert!(!report.contains("hunter2"), "{url}: {report}");
        }
    }
}
