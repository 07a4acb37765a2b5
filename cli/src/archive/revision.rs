//! `REMOTE@REV`: the remote and the revision that a command line names.

use std::path::Path;

use branchline_core::aws::Profiles;
use branchline_core::git::server::RefSnapshot;
use branchline_core::git::{ObjectId, escaped_excerpt};
use branchline_core::remote::Snapshot;
use branchline_core::remote::url::RemoteUrl;
use branchline_core::{Error, ErrorKind, Result};

use crate::local_git;

/// Number of refs that an error names.
const MAX_NAMED_REFS: usize = 5;

/// A revision: a branch, a tag, a ref or an id, and a folder in its tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Revision {
    /// `HEAD` unless the command line names another.
    name: String,
    /// Folder in the tree, after the colon of `main:folder`.
    pub(super) folder: Option<String>,
}

impl Revision {
    pub(super) fn new(text: Option<&str>) -> Self {
        let text = text.unwrap_or("HEAD");
        let (name, folder) = match text.split_once(':') {
            Some((name, folder)) => (name, Some(folder.to_owned())),
            None => (text, None),
        };
        let name = if name.is_empty() { "HEAD" } else { name };
        Self {
            name: name.to_owned(),
            folder,
        }
    }

    /// Finds the object that the revision names.
    ///
    /// # Errors
    /// `NotFound`, with the names of some refs, for a revision that is not known.
    pub(super) async fn resolve(&self, url: &RemoteUrl, snapshot: &Snapshot) -> Result<ObjectId> {
        let refs = RefSnapshot {
            hash: snapshot.hash,
            refs: snapshot.refs.clone(),
            head: snapshot.head.clone(),
        };
        if let Some(id) = refs.resolve(self.name.as_bytes()) {
            return Ok(id);
        }
        let is_whole = self.name.len() == snapshot.hash.len_in_hex();
        if is_whole && let Ok(id) = ObjectId::from_hex(self.name.as_bytes()) {
            return Ok(id);
        }
        // Git also knows abbreviated ids and `main~3`.
        if let RemoteUrl::Local(path) = url
            && let Ok(id) = local_git::resolve_in(path, &self.name).await
        {
            return Ok(id);
        }
        let name = escaped_excerpt(self.name.as_bytes());
        let error = Error::new(
            ErrorKind::NotFound,
            format!("`{url}` has no revision `{name}`"),
        );
        let mut names: Vec<String> = snapshot
            .refs
            .keys()
            .filter(|name| name.starts_with(b"refs/heads/") || name.starts_with(b"refs/tags/"))
            .take(MAX_NAMED_REFS)
            .map(|name| format!("`{}`", escaped_excerpt(name)))
            .collect();
        if names.is_empty() {
            return Err(error.with_hint("the repository has no branch and no tag"));
        }
        if snapshot.refs.len() > names.len() {
            names.push("others".to_owned());
        }
        Err(error.with_hint(format!(
            "name a branch, a tag or a whole commit id: the repository has {}",
            names.join(", ")
        )))
    }
}

/// Splits the text into a remote and a revision. Of `codecommit://NAME@TEXT`, the name is a profile
/// if one is configured under it, else that of the repository.
pub(super) async fn split(text: &str) -> (String, Option<String>) {
    let (remote, revision) = match candidates(text) {
        Split::Whole => (text, None),
        Split::At(remote, revision) => (remote, Some(revision)),
        Split::UnlessProfile {
            profile,
            remote,
            revision,
        } => {
            let profiles = Profiles::load().await;
            // Where the profiles cannot be read, opening the remote says why.
            if profiles.is_ok_and(|profiles| profiles.require(profile).is_err()) {
                (remote, Some(revision))
            } else {
                (text, None)
            }
        }
    };
    (remote.to_owned(), revision.map(str::to_owned))
}

/// Ways to split a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Split<'a> {
    Whole,
    At(&'a str, &'a str),
    UnlessProfile {
        profile: &'a str,
        remote: &'a str,
        revision: &'a str,
    },
}

fn candidates(text: &str) -> Split<'_> {
    let start = text.find("://").map(|at| at + "://".len());
    let is_file = text.starts_with("file://");
    let Some(start) = start.filter(|_| !is_file) else {
        let path = text.strip_prefix("file://").unwrap_or(text);
        return match text.rsplit_once('@') {
            Some((remote, revision)) if !remote.is_empty() && !Path::new(path).exists() => {
                Split::At(remote, revision)
            }
            _ => Split::Whole,
        };
    };
    let rest = &text[start..];
    if text.starts_with("codecommit:") {
        let Some(first) = rest.find('@') else {
            return Split::Whole;
        };
        let second = rest[first + 1..].find('@').map(|at| first + 1 + at);
        // The name of a repository has no slash and no colon, and that of a branch may.
        let is_revision = rest[first + 1..].contains(['/', ':']);
        return match second {
            Some(second) => Split::At(&text[..start + second], &rest[second + 1..]),
            None if is_revision => Split::At(&text[..start + first], &rest[first + 1..]),
            None => Split::UnlessProfile {
                profile: &rest[..first],
                remote: &text[..start + first],
                revision: &rest[first + 1..],
            },
        };
    }
    // A user, a password or a profile is before the first slash.
    let path = rest.find('/').unwrap_or(rest.len());
    match rest[path..].rfind('@') {
        // `/@scope` is a part of a path.
        Some(at) if !rest[..path + at].ends_with('/') => {
            let at = start + path + at;
            Split::At(&text[..at], &text[at + 1..])
        }
        _ => Split::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_follows_the_last_at_sign_of_a_path() {
        for (text, expected) in [
            ("s3://bucket/a/b", Split::Whole),
            ("s3://me@bucket/a/b", Split::Whole),
            ("s3://bucket/a@v1", Split::At("s3://bucket/a", "v1")),
            ("s3://me@bucket/a@x/y", Split::At("s3://me@bucket/a", "x/y")),
            ("https://u:p@host/@scope/a.git", Split::Whole),
            (
                "https://u:p@host/@scope/a.git@v1:docs",
                Split::At("https://u:p@host/@scope/a.git", "v1:docs"),
            ),
            ("codecommit://demo", Split::Whole),
            (
                "codecommit::eu-west-1://me@demo@v1",
                Split::At("codecommit::eu-west-1://me@demo", "v1"),
            ),
            (
                "codecommit://demo@feature/x",
                Split::At("codecommit://demo", "feature/x"),
            ),
            (
                "codecommit://demo@v1",
                Split::UnlessProfile {
                    profile: "demo",
                    remote: "codecommit://demo",
                    revision: "v1",
                },
            ),
            ("origin", Split::Whole),
            ("origin@v1", Split::At("origin", "v1")),
            ("./none@main:src", Split::At("./none", "main:src")),
            ("file:///none@main", Split::At("file:///none", "main")),
        ] {
            assert_eq!(candidates(text), expected, "{text}");
        }
    }

    #[test]
    fn a_colon_separates_a_folder() {
        let revision = Revision::new(Some("v1:docs/a"));
        assert_eq!(revision.name, "v1");
        assert_eq!(revision.folder.as_deref(), Some("docs/a"));
        assert_eq!(Revision::new(None).name, "HEAD");
        assert_eq!(Revision::new(Some(":docs")).name, "HEAD");
    }
}
