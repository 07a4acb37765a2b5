//! Initialisation of bare repositories, as `git init --bare`.

use std::fs;
use std::path::{Path, PathBuf};

use bstr::BStr;

use super::durable_fs::{DurableFs, io_error};
use super::files::is_not_found;
use super::git_dir::GitDir;
use crate::error::{Error, ErrorKind, Result};
use crate::git::HashKind;
use crate::git::dumb_http::write_head;
use crate::remote::Head;

/// Checks that a repository can be created at `path`: nothing exists there, or an empty
/// directory.
///
/// # Errors
/// `NotFound`, because the caller has looked for a repository there.
pub(super) fn check_empty(path: &Path) -> Result<()> {
    let refused = || {
        let message = format!(
            "`{}` is not a git repository, and not empty",
            path.display()
        );
        Error::new(ErrorKind::NotFound, message)
            .with_hint("name a repository, or a directory that is empty or does not exist")
    };
    match fs::read_dir(path) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(refused()),
        },
        Err(_) if path.is_file() => Err(refused()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(io_error("listing", path, error)),
    }
}

/// Initialises a bare repository under a temporary name and renames it.
pub(super) fn init_bare(
    fs: &dyn DurableFs,
    path: &Path,
    hash: HashKind,
    head: &BStr,
) -> Result<GitDir> {
    check_empty(path)?;
    let name = path.file_name().map(|name| name.to_string_lossy());
    let name = name.ok_or_else(|| {
        let message = format!(
            "`{}` cannot be a repository: the path ends without a name",
            path.display()
        );
        Error::new(ErrorKind::Config, message)
    })?;
    let temporary = path.with_file_name(format!("{name}.tmp-{:016x}", rand::random::<u64>()));
    let created = write_skeleton(fs, &temporary, hash, head).and_then(|()| {
        fs.rename(&temporary, path)
            .map_err(|error| io_error("creating", path, error))
    });
    if let Err(error) = created {
        // Ignored, because the directory may not exist yet.
        let _ = fs.remove_dir_all(&temporary);
        return Err(error);
    }
    GitDir::find(path)?.ok_or_else(|| {
        let message = format!("`{}` was removed while it was initialised", path.display());
        Error::new(ErrorKind::Conflict, message)
    })
}

fn write_skeleton(fs: &dyn DurableFs, directory: &Path, hash: HashKind, head: &BStr) -> Result<()> {
    for part in ["objects/info", "objects/pack", "refs/heads", "refs/tags"] {
        let path = directory.join(part);
        fs.create_dir_all(&path)
            .map_err(|error| io_error("creating", &path, error))?;
    }
    let (version, extension) = match hash {
        HashKind::Sha256 => (1, "[extensions]\n\tobjectformat = sha256\n"),
        _ => (0, ""),
    };
    let config = format!(
        "[core]\n\trepositoryformatversion = {version}\n\tfilemode = true\n\tbare = true\n{extension}"
    );
    let head = write_head(&Head::Symbolic(head.to_owned()));
    for (name, bytes) in [("config", config.as_bytes()), ("HEAD", &head)] {
        let path: PathBuf = directory.join(name);
        let file = fs.create(&path);
        file.and_then(|file| {
            fs.write(&file, bytes)?;
            file.sync_all()
        })
        .map_err(|error| io_error("creating", &path, error))?;
    }
    Ok(())
}
