//! The `config` file of a repository: the settings that decide whether and how the repository
//! can be used.
//!
//! Includes are not followed, because git writes these settings into the file itself.

use std::path::{Path, PathBuf};

use bstr::BString;
use gix_config::{Boolean, File, Source, file};

use super::files::{config_error, read_file};
use crate::error::Result;
use crate::git::HashKind;

/// Extensions of repository format 1 that are understood, in lower case.
const EXTENSIONS: [&str; 7] = [
    "objectformat",
    "refstorage",
    "noop",
    "noop-v1",
    "worktreeconfig",
    "preciousobjects",
    "relativeworktrees",
];

/// The settings in a repository's `config`.
pub(super) struct RepositoryConfig {
    git_dir: PathBuf,
    file: File,
}

impl RepositoryConfig {
    /// Reads the file at `path`; a missing file is an empty one. Errors name `git_dir`.
    pub(super) fn read(git_dir: &Path, path: &Path) -> Result<Self> {
        Self::parse(git_dir, &read_file(path)?.unwrap_or_default())
    }

    fn parse(git_dir: &Path, text: &[u8]) -> Result<Self> {
        let file = File::from_bytes_no_includes(
            text,
            file::Metadata::from(Source::Local),
            file::init::Options {
                lossy: true,
                ..file::init::Options::default()
            },
        )
        .map_err(|error| {
            config_error(git_dir, "has a `config` that git cannot read").with_source(error)
        })?;
        Ok(Self {
            git_dir: git_dir.to_owned(),
            file,
        })
    }

    /// Returns `core.bare`; `None` if not set.
    ///
    /// # Errors
    /// `Config` for a value that is not a boolean.
    pub(super) fn bare(&self) -> Result<Option<bool>> {
        self.file.boolean("core.bare").map_err(|error| {
            config_error(&self.git_dir, "has a `core.bare` that is not a boolean")
                .with_source(error)
        })
    }

    /// Returns false if `receive.denyCurrentBranch` allows updates of a checked-out branch.
    pub(super) fn denies_current_branch(&self) -> bool {
        self.file
            .string("receive.denyCurrentBranch")
            .is_none_or(|value| {
                !value.eq_ignore_ascii_case(b"warn")
                    && !value.eq_ignore_ascii_case(b"ignore")
                    && Boolean::try_from(value).map_or(true, |value| value.0)
            })
    }

    /// Returns `lfs.url`, the place of the LFS objects of all remotes; `None` if not set.
    pub(super) fn lfs_url(&self) -> Option<String> {
        let url = self.file.string("lfs.url")?;
        let url = String::from_utf8(url.into()).ok()?;
        Some(url).filter(|url| !url.is_empty())
    }

    /// Returns the hash function of the object ids.
    ///
    /// # Errors
    /// `Config` for a repository that cannot be used: of an unknown format, with refs in
    /// another storage than files, or a partial clone.
    pub(super) fn object_format(&self) -> Result<HashKind> {
        let string = |key: &str| self.file.string(key);
        let version = string("core.repositoryFormatVersion").unwrap_or_else(|| "0".into());
        if version != "0" && version != "1" {
            return Err(config_error(
                &self.git_dir,
                &format!("has format version `{version}`; versions 0 and 1 are supported"),
            ));
        }
        let storage = string("extensions.refStorage").unwrap_or_else(|| "files".into());
        if storage != "files" {
            let what = format!("stores its refs as `{storage}`; only `files` is supported");
            return Err(config_error(&self.git_dir, &what)
                .with_hint("run `git refs migrate --ref-format=files` in it first"));
        }
        if self.is_partial_clone() {
            return Err(
                config_error(&self.git_dir, "is a partial clone: objects are missing")
                    .with_hint("run `git fetch --refetch --no-filter` in it first"),
            );
        }
        if version == "1"
            && let Some(name) = self.unknown_extension()
        {
            let what = format!("uses the extension `{name}`, which is not supported");
            return Err(config_error(&self.git_dir, &what));
        }
        match string("extensions.objectFormat") {
            None => Ok(HashKind::Sha1),
            Some(format) if format == "sha1" => Ok(HashKind::Sha1),
            Some(format) if format == "sha256" => Ok(HashKind::Sha256),
            Some(format) => {
                let what = format!("has object ids of `{format}`; use `sha1` or `sha256`");
                Err(config_error(&self.git_dir, &what))
            }
        }
    }

    fn is_partial_clone(&self) -> bool {
        let is_true = |value: Option<BString>| {
            value.is_none_or(|value| Boolean::try_from(value).is_ok_and(|value| value.0))
        };
        let mut remotes = self.file.sections_by_name("remote").into_iter().flatten();
        self.file
            .string_implicit("extensions.partialClone")
            .is_some()
            || remotes.any(|remote| remote.value_implicit("promisor").is_some_and(is_true))
    }

    fn unknown_extension(&self) -> Option<String> {
        let sections = self.file.sections_by_name("extensions");
        sections
            .into_iter()
            .flatten()
            .flat_map(|section| section.value_names().collect::<Vec<_>>())
            .find(|name| !EXTENSIONS.contains(&name.to_ascii_lowercase().as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn parse(text: &str) -> RepositoryConfig {
        RepositoryConfig::parse(Path::new("/r"), text.as_bytes()).unwrap()
    }

    #[test]
    fn settings_are_read_as_git_reads_them() {
        let config = parse(
            "# c\n[core]\n\tbare = true ; c\n[Extensions] ObjectFormat = \"sha256\"\n\
             [receive]\n denyCurrentBranch\n[remote \"a\"]\n url = \"x # y\" # z\n",
        );
        assert_eq!(config.bare().unwrap(), Some(true));
        assert!(config.denies_current_branch(), "a bare key is true");
        assert_eq!(
            config.file.string("remote.a.url"),
            Some(BString::from("x # y"))
        );
        assert_eq!(config.object_format().unwrap(), HashKind::Sha256);
        let empty = parse("");
        assert_eq!(empty.bare().unwrap(), None);
        assert!(empty.denies_current_branch());
        assert_eq!(empty.object_format().unwrap(), HashKind::Sha1);
    }

    #[test]
    fn only_warn_ignore_and_false_allow_updates_of_a_checked_out_branch() {
        for (value, denies) in [
            ("warn", false),
            ("Ignore", false),
            ("false", false),
            ("no", false),
            ("", false),
            ("refuse", true),
            ("updateInstead", true),
            ("true", true),
        ] {
            let config = parse(&format!("[receive]\ndenyCurrentBranch = {value}\n"));
            assert_eq!(config.denies_current_branch(), denies, "`{value}`");
        }
    }

    #[test]
    fn a_repository_that_cannot_be_used_is_refused() {
        for text in [
            "[core]\nrepositoryformatversion = 2",
            "[extensions]\nrefstorage = reftable",
            "[extensions]\npartialclone = origin",
            "[remote \"origin\"]\npromisor = true",
            "[core]\nrepositoryformatversion = 1\n[extensions]\nnew = 1",
            "[extensions]\nobjectformat = md5",
        ] {
            let error = parse(text).object_format().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{text}");
        }
        let broken = RepositoryConfig::parse(Path::new("/r"), b"[core\nbare = true");
        assert_eq!(
            broken.err().map(|error| error.kind()),
            Some(ErrorKind::Config)
        );
        let error = parse("[core]\nbare = perhaps").bare().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}
