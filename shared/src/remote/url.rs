//! URLs of remotes: the kind of remote, and its location.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::percent_decode_str;

use crate::error::{Error, ErrorKind, Result};
use crate::git::smart_http::RepositoryUrl;
use crate::name::{BucketName, KeyPrefix, RepositoryName};

/// Maximum length of a URL in bytes; a key prefix may have 1024.
const MAX_URL_BYTES: usize = 8 * 1024;

/// A CodeCommit repository: `codecommit://[profile@]repository`, or with a region
/// `codecommit::region://[profile@]repository`, as git-remote-codecommit reads them.
///
/// `Display` omits the profile.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CodeCommitUrl {
    /// Region of the repository; the caller's if `None`.
    pub region: Option<String>,
    /// AWS profile whose credentials are used; the caller's if `None`.
    pub profile: Option<String>,
    /// Name of the repository.
    pub repository: RepositoryName,
}

impl fmt::Display for CodeCommitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.region {
            Some(region) => write!(f, "codecommit::{region}://{}", self.repository),
            None => write!(f, "codecommit://{}", self.repository),
        }
    }
}

/// A prefix in S3: `s3://[profile@]bucket/prefix`, or `s3+zip://..` with an archive alongside each
/// ref, as git-remote-s3 reads them.
///
/// `Display` omits the profile.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct S3Url {
    /// AWS profile whose credentials are used; the caller's if `None`.
    pub profile: Option<String>,
    /// Bucket of the repository.
    pub bucket: BucketName,
    /// Prefix of the keys, never empty; `None` for a whole bucket.
    pub prefix: Option<KeyPrefix>,
    /// Each ref has an archive, `repo.zip`, for CodePipeline.
    pub zip: bool,
}

impl fmt::Display for S3Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.zip { "s3+zip" } else { "s3" };
        write!(f, "{scheme}://{}", self.bucket)?;
        match &self.prefix {
            Some(prefix) => write!(f, "/{}", prefix.as_str().trim_end_matches('/')),
            None => Ok(()),
        }
    }
}

/// The URL of a remote.
///
/// `Display` and `Debug` omit the user, the profile and the password, so that a URL may be
/// logged.
#[derive(Clone, PartialEq, Eq)]
pub enum RemoteUrl {
    /// A CodeCommit repository.
    CodeCommit(CodeCommitUrl),
    /// A repository on a server: `https://…` or `http://…`.
    Http(RepositoryUrl),
    /// A repository in a directory: `file:///path`, or a path.
    Local(PathBuf),
    /// A prefix in S3.
    S3(S3Url),
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CodeCommit(url) => url.fmt(f),
            Self::Http(url) => url.fmt(f),
            Self::Local(path) => path.display().fmt(f),
            Self::S3(url) => url.fmt(f),
        }
    }
}

/// Implements `Debug` by `Display`, which omits secrets.
macro_rules! debug_as_display {
    ($($type:ty),*) => {
        $(impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        })*
    };
}
debug_as_display!(RemoteUrl, CodeCommitUrl, S3Url);

impl FromStr for RemoteUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl RemoteUrl {
    /// Parses `text`.
    ///
    /// # Errors
    /// `Config`, with the rule that is broken. The message does not repeat the text, which may
    /// contain a password.
    pub fn new(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(refused("it is empty"));
        }
        if text.len() > MAX_URL_BYTES {
            return Err(refused("it is longer than 8192 bytes"));
        }
        if text.chars().any(char::is_control) {
            return Err(refused("control characters are not allowed"));
        }
        if let Some(rest) = text.strip_prefix("codecommit::") {
            let (region, rest) = rest
                .split_once("://")
                .ok_or_else(|| refused("`codecommit::<region>` must be followed by `://`"))?;
            let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if region.is_empty() || region.len() > 40 || !region.chars().all(legal) {
                return Err(refused(
                    "a region has lower-case letters, digits and `-`, such as `eu-west-1`",
                ));
            }
            return codecommit(Some(region), rest);
        }
        match text.split_once("://") {
            Some(("codecommit", rest)) => codecommit(None, rest),
            Some(("https" | "http", _)) => Ok(Self::Http(RepositoryUrl::new(text)?)),
            Some(("file", rest)) => file(rest),
            Some(("s3", rest)) => s3(rest, false),
            Some(("s3+zip", rest)) => s3(rest, true),
            Some(("ssh" | "git+ssh" | "ssh+git", _)) => Err(ssh_refused()),
            Some((scheme, _)) if !scheme.contains('/') => Err(refused(
                "it must start with `codecommit://`, `codecommit::<region>://`, `https://`, \
                 `http://`, `file://`, `s3://` or `s3+zip://`, or be a path",
            )),
            _ => path(text),
        }
    }
}

fn refused(rule: &str) -> Error {
    Error::new(
        ErrorKind::Config,
        format!("the URL of a remote is not valid: {rule}"),
    )
}

/// Splits `[profile@]rest`.
fn profile(text: &str) -> Result<(Option<String>, &str)> {
    let Some((profile, rest)) = text.rsplit_once('@') else {
        return Ok((None, text));
    };
    if profile.is_empty() {
        return Err(refused("the profile before the `@` is empty"));
    }
    if profile.contains([':', '/', '@']) {
        return Err(
            refused("only the name of a profile is allowed before the `@`").with_hint(
                "requests are signed with the profile's credentials; a password is not used",
            ),
        );
    }
    Ok((Some(profile.to_owned()), rest))
}

fn codecommit(region: Option<&str>, rest: &str) -> Result<RemoteUrl> {
    let (profile, name) = profile(rest)?;
    // The error of `RepositoryName` is replaced, because it repeats the text.
    let repository = RepositoryName::new(name).map_err(|_| {
        refused(
            "a repository's name has 1 to 100 letters, digits, `.`, `_` and `-`, and does not \
             end in `.git`",
        )
    })?;
    Ok(RemoteUrl::CodeCommit(CodeCommitUrl {
        region: region.map(str::to_owned),
        profile,
        repository,
    }))
}

/// Splits `[profile@]bucket/prefix`, where the bucket may be the ARN of an access point, which
/// has a slash of its own.
fn split_bucket(rest: &str) -> (&str, &str) {
    let first = rest.find('/').unwrap_or(rest.len());
    let end = if rest[..first].ends_with(":accesspoint") {
        let name = rest[first..]
            .find(|c| c != '/')
            .map_or(first, |at| first + at);
        rest[name..].find('/').map_or(rest.len(), |at| name + at)
    } else {
        first
    };
    (
        &rest[..end],
        rest[end..].strip_prefix('/').unwrap_or_default(),
    )
}

fn s3(rest: &str, zip: bool) -> Result<RemoteUrl> {
    // Split first, because a key may contain `@` and a bucket's name may not.
    let (authority, prefix) = split_bucket(rest);
    let (profile, bucket) = profile(authority)?;
    let bucket = BucketName::new(bucket).map_err(|_| {
        refused(
            "a bucket's name has 3 to 255 letters, digits, `.`, `_` and `-`, or is the ARN of \
                 an access point",
        )
    })?;
    let prefix = KeyPrefix::new(prefix).map_err(|_| {
        refused("a prefix has at most 1024 bytes, and no `.` or `..` between slashes")
    })?;
    Ok(RemoteUrl::S3(S3Url {
        profile,
        bucket,
        prefix: Some(prefix).filter(|prefix| !prefix.as_str().is_empty()),
        zip,
    }))
}

/// Parses the path of a `file` URL, percent-decoded as in git.
fn file(rest: &str) -> Result<RemoteUrl> {
    let encoded = rest.strip_prefix("localhost").unwrap_or(rest);
    if !encoded.starts_with('/') {
        return Err(refused("`file://` must be followed by an absolute path"));
    }
    let decoded = percent_decode_str(encoded)
        .decode_utf8()
        .map_err(|_| refused("its path is not UTF-8"))?;
    if decoded.chars().any(char::is_control) {
        return Err(refused("control characters are not allowed"));
    }
    Ok(RemoteUrl::Local(PathBuf::from(decoded.as_ref())))
}

/// Returns the error for `ssh://host/path` and `host:path`.
fn ssh_refused() -> Error {
    refused("ssh remotes are not supported").with_hint(
        "use the repository's `https://` URL, with a secret in `credentials` if it is private \
         (`codecommit://name` for CodeCommit); write `./` before a path that contains `:`",
    )
}

fn path(text: &str) -> Result<RemoteUrl> {
    // Git reads `host:path` as an ssh remote and `helper::rest` as one of a remote helper; `./`
    // before it makes either a path.
    let first = text.split('/').next().unwrap_or_default();
    if first.contains("::") {
        return Err(refused("remote helpers are not supported")
            .with_hint("use the URL that the helper is given, such as `https://..` or `s3://..`"));
    }
    if first.contains(':') {
        return Err(ssh_refused());
    }
    Ok(RemoteUrl::Local(Path::new(text).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> RemoteUrl {
        RemoteUrl::new(text).unwrap_or_else(|error| panic!("`{text}`: {}", error.report()))
    }

    #[test]
    fn each_kind_is_parsed_and_displayed_without_user_profile_and_password() {
        for (text, shown) in [
            ("codecommit://demo", "codecommit://demo"),
            ("codecommit://me@de.mo_1-x", "codecommit://de.mo_1-x"),
            (
                "codecommit::eu-west-1://demo",
                "codecommit::eu-west-1://demo",
            ),
            (
                "codecommit::eu-west-1://me@demo",
                "codecommit::eu-west-1://demo",
            ),
            (
                "https://u:p@Git.example/a/b.git/",
                "https://git.example/a/b.git",
            ),
            ("http://127.0.0.1:8080/r", "http://127.0.0.1:8080/r"),
            ("file:///srv/a%20b.git", "/srv/a b.git"),
            ("file://localhost/srv/r.git", "/srv/r.git"),
            ("/srv/r.git", "/srv/r.git"),
            ("../r.git", "../r.git"),
            ("./a:b", "./a:b"),
            ("r", "r"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://me@bucket/a/b@c/", "s3://bucket/a/b@c"),
            ("s3://bucket/a%20b?c#d", "s3://bucket/a%20b?c#d"),
            ("s3+zip://me@bucket/a/b/", "s3+zip://bucket/a/b"),
            (
                "s3://me@arn:aws:s3:eu-west-1:111122223333:accesspoint/ap-1/a/b/",
                "s3://arn:aws:s3:eu-west-1:111122223333:accesspoint/ap-1/a/b",
            ),
            (
                "s3://arn:aws:s3:eu-west-1:111122223333:accesspoint:ap-1/a",
                "s3://arn:aws:s3:eu-west-1:111122223333:accesspoint:ap-1/a",
            ),
            (
                "s3://ap-1-0123456789abcdef-s3alias/a",
                "s3://ap-1-0123456789abcdef-s3alias/a",
            ),
        ] {
            let url = url(text);
            assert_eq!(url.to_string(), shown, "{text}");
            assert_eq!(format!("{url:?}"), shown, "{text}");
            assert_eq!(RemoteUrl::new(shown).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn the_parts_of_a_url_are_parsed() {
        let RemoteUrl::CodeCommit(parts) = url("codecommit::us-gov-west-1://my profile@demo")
        else {
            panic!("the URL is CodeCommit's");
        };
        assert_eq!(parts.region.as_deref(), Some("us-gov-west-1"));
        assert_eq!(parts.profile.as_deref(), Some("my profile"));
        assert_eq!(parts.repository.as_str(), "demo");
        let RemoteUrl::S3(parts) = url("s3://me@bucket/a//b/") else {
            panic!("the URL is S3's");
        };
        assert_eq!(parts.profile.as_deref(), Some("me"));
        assert_eq!(parts.bucket.as_str(), "bucket");
        assert_eq!(parts.prefix.as_ref().map(KeyPrefix::as_str), Some("a//b/"));
        assert!(!parts.zip);
        let RemoteUrl::S3(parts) = url("s3+zip://me@bucket/a") else {
            panic!("the URL is S3's");
        };
        assert!(parts.zip && parts.profile.as_deref() == Some("me"));
        let RemoteUrl::Http(parts) = url("https://u:p%40ss@h/r") else {
            panic!("the URL is a server's");
        };
        let credentials = parts
            .credentials()
            .expect("because the URL has credentials");
        assert_eq!((credentials.user(), credentials.password()), ("u", "p@ss"));
    }

    #[test]
    fn an_invalid_url_is_refused_with_the_rule_and_never_repeated() {
        for (text, rule) in [
            ("", "empty"),
            ("codecommit://", "repository's name"),
            ("codecommit://x:hunter2", "repository's name"),
            ("codecommit://hunter2/x", "repository's name"),
            ("codecommit://hunter2.git", "repository's name"),
            ("codecommit://me:hunter2@demo", "profile"),
            ("codecommit://@demo", "profile"),
            ("codecommit://a@hunter2@demo", "profile"),
            ("codecommit::EU://hunter2", "region"),
            ("codecommit::://demo", "region"),
            ("codecommit::hunter2:x@demo", "`://`"),
            ("s3://", "bucket's name"),
            ("s3://me:hunter2@bucket/x", "profile"),
            ("s3://hunter2:x/x", "bucket's name"),
            ("s3://bucket/a/../hunter2", "prefix"),
            ("s3://arn:aws:s3:::hunter2/x", "access point"),
            (
                "s3://arn:aws:s3:eu-west-1:1:accesspoint/hunter2/x",
                "access point",
            ),
            (
                "s3://arn:aws:s3::111122223333:accesspoint/hunter2.mrap/x",
                "access point",
            ),
            (
                "s3://arn:aws:s3:eu-west-1:111122223333:accesspoint/",
                "access point",
            ),
            ("s3+zip://hunter2:x/x", "bucket's name"),
            ("s3+zip://me:hunter2@bucket/x", "profile"),
            ("s3+tar://hunter2/x", "must start with"),
            ("ssh://u:hunter2@h/x", "ssh"),
            ("git+ssh://u:hunter2@h/x", "ssh"),
            ("git://hunter2/x", "must start with"),
            ("ftp://u:hunter2@h/x", "must start with"),
            ("HTTPS://u:hunter2@h/x", "must start with"),
            ("://hunter2", "must start with"),
            ("https://u:hunter2@/x", "not valid"),
            ("https://u:hunter2@h/x?y=z", "query"),
            ("https://u:hunter2@h/x#y", "fragment"),
            ("https://u:hunter2@h h/x", "not a URL"),
            ("git@hunter2:x/y.git", "ssh"),
            ("ext::sh -c hunter2", "helper"),
            ("file://hunter2/x", "absolute path"),
            ("file:///x%00hunter2", "control"),
            ("file:///x%ffhunter2", "UTF-8"),
            ("/x\nhunter2", "control"),
            ("https://u:hunter2@h/\r\nx", "control"),
        ] {
            let error = RemoteUrl::new(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Config, "{text:?}");
            let report = error.report();
            assert!(report.contains(rule), "{text:?}: {report}");
            assert!(!report.contains("hunter2"), "{text:?}: {report}");
        }
        assert!(RemoteUrl::new(&"x".repeat(MAX_URL_BYTES + 1)).is_err());
    }
}
