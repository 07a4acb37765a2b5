//! The real git, run hermetically: fixture repositories, and `git archive` as the oracle.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A bare repository in a temporary folder.
pub(crate) struct Repo {
    folder: TempDir,
}

/// An entry of a commit, for [`Repo::commit`].
pub(crate) enum Item<'a> {
    /// A file.
    File(&'a [u8]),
    /// An executable file.
    Executable(&'a [u8]),
    /// A symbolic link to this target.
    Link(&'a [u8]),
    /// A submodule.
    Submodule,
}

pub(crate) const DATE: &str = "1484167798 -0800";
pub(crate) const COMMITTED: &str = "1500000001 +0530";

pub(crate) fn git(folder: &Path) -> Command {
    let mut command = branchline_test_support::git::command(folder);
    command
        .env("LC_ALL", "C.UTF-8")
        .env("GIT_AUTHOR_NAME", "Ada Löv Author")
        .env("GIT_AUTHOR_EMAIL", "ada@example.org")
        .env("GIT_AUTHOR_DATE", DATE)
        .env("GIT_COMMITTER_NAME", "Carl Committer")
        .env("GIT_COMMITTER_EMAIL", "carl.c@example.com")
        .env("GIT_COMMITTER_DATE", COMMITTED);
    command
}

/// Runs `command` with `input`; returns the output.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Vec<u8> {
    branchline_test_support::git::run_with_input(command, input).unwrap()
}

pub(crate) fn line(output: &[u8]) -> String {
    String::from_utf8(output.to_vec())
        .unwrap()
        .trim()
        .to_owned()
}

impl Repo {
    pub(crate) fn new() -> Self {
        Self::with_object_format("sha1")
    }

    /// Makes a repository with the object format `format`.
    pub(crate) fn with_object_format(format: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let format = format!("--object-format={format}");
        run(
            git(folder.path()).args(["init", "-q", "--bare", &format]),
            b"",
        );
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn git<I: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = I>,
        input: &[u8],
    ) -> Vec<u8> {
        run(git(self.path()).args(args), input)
    }

    /// Commits exactly `items` by `fast-import`, which neither converts nor refuses a path.
    pub(crate) fn commit(&self, message: &[u8], items: &[(&[u8], Item<'_>)]) -> String {
        let mut stream: Vec<u8> = Vec::new();
        let mut put = |bytes: &[u8]| stream.extend_from_slice(bytes);
        put(b"commit refs/heads/main\n");
        put(format!("author Ada L\u{f6}v Author <ada@example.org> {DATE}\n").as_bytes());
        put(format!("committer Carl Committer <carl.c@example.com> {COMMITTED}\n").as_bytes());
        put(format!("data {}\n", message.len()).as_bytes());
        put(message);
        put(b"\ndeleteall\n");
        for (path, item) in items {
            let (mode, bytes) = match item {
                Item::File(bytes) => ("100644", *bytes),
                Item::Executable(bytes) => ("100755", *bytes),
                Item::Link(bytes) => ("120000", *bytes),
                Item::Submodule => ("160000", &b""[..]),
            };
            let source = if mode == "160000" {
                "1234567890123456789012345678901234567890"
            } else {
                "inline"
            };
            put(format!("M {mode} {source} \"").as_bytes());
            for &byte in *path {
                put(format!("\\{byte:03o}").as_bytes());
            }
            put(b"\"\n");
            if source == "inline" {
                put(format!("data {}\n", bytes.len()).as_bytes());
                put(bytes);
                put(b"\n");
            }
        }
        put(b"done\n");
        self.git(["fast-import", "--quiet", "--force", "--done"], &stream);
        line(&self.git(["rev-parse", "refs/heads/main"], b""))
    }

    /// Commits regular files.
    pub(crate) fn files(&self, files: &[(&str, &[u8])]) -> String {
        let items: Vec<_> = files
            .iter()
            .map(|(path, bytes)| (path.as_bytes(), Item::File(bytes)))
            .collect();
        self.commit(b"subject\n", &items)
    }

    /// Runs `git archive --format=zip`.
    pub(crate) fn archive(&self, prefix: &str, commit: &str) -> Vec<u8> {
        archive(self.path(), prefix, commit)
    }
}

pub(crate) fn archive(folder: &Path, prefix: &str, commit: &str) -> Vec<u8> {
    let prefix = format!("--prefix={prefix}");
    let args = ["archive", "--format=zip", &prefix, commit];
    run(git(folder).args(args), b"")
}
