//! URLs that stand for LFS objects in S3 in git's configuration, as awslabs' `git-lfs-s3` forms them.
//!
//! git-lfs takes an `s3://` URL for one of SSH, and calls `ssh`. An alias is an `https` URL of a
//! reserved host, which is never contacted: git-lfs only finds the transfer agent by it.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::url::{RemoteUrl, S3Url};
use crate::error::{Error, ErrorKind, Result};

/// Start of all aliases; the bucket follows.
const START: &str = "https://lfs-alias.git-remote-s3.test/";
/// Bytes of a segment that are encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Returns the alias of a repository, without its profile.
pub fn lfs_alias(url: &S3Url) -> String {
    let mut alias = format!("{START}{}", url.bucket);
    let prefix = url.prefix.as_ref().map_or("", |prefix| prefix.as_str());
    let segments = prefix.trim_matches('/').split('/');
    for segment in segments.filter(|_| !prefix.is_empty()) {
        alias.push('/');
        alias.extend(utf8_percent_encode(segment, ENCODED));
    }
    alias
}

/// Returns the repository of an alias; `None` for another URL.
///
/// # Errors
/// `Config` for an alias that does not name a bucket and a prefix.
pub fn parse_lfs_alias(alias: &str) -> Option<Result<S3Url>> {
    let path = alias.strip_prefix(START)?;
    let invalid = || {
        let message = "an alias of LFS objects does not name a bucket and a prefix";
        Error::new(ErrorKind::Config, message)
            .with_hint("set it by `git-lfs-s3 install --remote <name>`")
    };
    let decoded = percent_decode_str(path).decode_utf8();
    let Ok(path) = decoded else {
        return Some(Err(invalid()));
    };
    match RemoteUrl::new(&format!("s3://{path}")) {
        Ok(RemoteUrl::S3(url)) if url.prefix.is_some() && url.profile.is_none() => Some(Ok(url)),
        Ok(_) => Some(Err(invalid())),
        Err(error) => Some(Err(invalid().with_source(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_names_the_repository_again() {
        for (url, path) in [
            ("s3://bucket/prefix", "bucket/prefix"),
            ("s3+zip://me@my.bucket/a/b/", "my.bucket/a/b"),
            (
                "s3://bucket/a b/50%/\u{e9}~(1)",
                "bucket/a%20b/50%25/%C3%A9~%281%29",
            ),
        ] {
            let Ok(RemoteUrl::S3(url)) = RemoteUrl::new(url) else {
                panic!("{url} is a URL of S3");
            };
            let alias = lfs_alias(&url);
            assert_eq!(
                alias,
                format!("https://lfs-alias.git-remote-s3.test/{path}")
            );
            let found = parse_lfs_alias(&alias).unwrap().unwrap();
            assert_eq!((found.bucket, found.prefix), (url.bucket, url.prefix));
        }
    }

    #[test]
    fn other_urls_are_not_aliases() {
        assert!(parse_lfs_alias("https://github.com/a/b.git/info/lfs").is_none());
        for rest in ["", "bucket", "x@bucket/p", "%ff/p", "bucket/a%00b"] {
            let found = parse_lfs_alias(&format!("{START}{rest}"));
            assert!(found.is_some_and(|found| found.is_err()), "{rest}");
        }
    }
}
