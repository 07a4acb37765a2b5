//! The names of the program.

use std::ffi::OsStr;

/// A name of the program, with the behaviour of the tool that is known by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applet {
    /// `branchline`.
    Branchline,
    /// `incremental-repo-migration`.
    IncrementalRepoMigration,
    /// `mirror-git-to-s3`.
    MirrorGitToS3,
    /// `git-remote-s3` and `git-remote-s3+zip`, which git starts; the URL makes the difference.
    GitRemoteS3,
    /// `git-remote-codecommit`, which git starts.
    GitRemoteCodeCommit,
    /// `git-lfs-s3`, which git-lfs starts.
    GitLfsS3,
    /// `git-s3`, which `git s3` starts.
    GitS3,
    /// The credential helper of `git-remote-codecommit`.
    CodeCommitCredential,
}

/// Names beside `branchline`, each with its applet and, if git starts it, its scheme in URLs.
pub(crate) const NAMES: [(&str, Applet, Option<&str>); 7] = [
    ("git-remote-s3", Applet::GitRemoteS3, Some("s3")),
    ("git-remote-s3+zip", Applet::GitRemoteS3, Some("s3+zip")),
    (
        "git-remote-codecommit",
        Applet::GitRemoteCodeCommit,
        Some("codecommit"),
    ),
    ("git-lfs-s3", Applet::GitLfsS3, None),
    ("git-s3", Applet::GitS3, None),
    ("mirror-git-to-s3", Applet::MirrorGitToS3, None),
    (
        "incremental-repo-migration",
        Applet::IncrementalRepoMigration,
        None,
    ),
];

impl Applet {
    /// Finds the applet of a name.
    pub(crate) fn named(name: &OsStr) -> Option<Self> {
        let mut names = NAMES.iter();
        names
            .find(|(known, ..)| *known == name)
            .map(|(_, applet, _)| *applet)
            .or_else(|| match name.to_str() {
                Some("branchline") => Some(Self::Branchline),
                Some(crate::codecommit::CREDENTIAL) => Some(Self::CodeCommitCredential),
                _ => None,
            })
    }
}
