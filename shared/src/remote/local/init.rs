//! New repositories.

use std::fs;
use std::path::{Path, PathBuf};

use bstr::BStr;

use super::durable_fs::{DurableFs, failed};
use super::git_dir::{GitDir, is_not_found};
use crate::error::{Error, ErrorKind, Result};
use crate::git::HashKind;
use crate::git::dumb_http::write_head;
use crate::remote::Head;

/// Makes sure that a repository can be made there: nothing is there, or an empty folder.
pub(super) fn check_empty(path: &Path) -> Result<()> {
    let refused = || {
        let message = format!("no repository at `{}`, and it is not empty", path.display());
        Error::new(ErrorKind::NotFound, message)
            .with_hint("name a repository, or a folder that is empty or does not exist")
    };
    match fs::read_dir(path) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(refused()),
        },
        Err(_) if path.is_file() => Err(refused()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(failed("listing", path, error)),
    }
}

/// Makes a bare repository, under another name until it is one.
pub(super) fn init_bare(
    disk: &DurableFs,
    path: &Path,
    hash: HashKind,
    head: &BStr,
) -> Result<GitDir> {
    check_empty(path)?;
    let name = path.file_name().map(|name| name.to_string_lossy());
    let name = name.ok_or_else(|| {
        let message = format!("`{}` is no place for a repository", path.display());
        Error::new(ErrorKind::Config, message)
    })?;
    let temporary = path.with_file_name(format!("{name}.tmp-{:016x}", rand::random::<u64>()));
    let made = write_skeleton(disk, &temporary, hash, head).and_then(|()| {
        disk.rename(&temporary, path)
            .map_err(|error| failed("creating", path, error))
    });
    if let Err(error) = made {
        // It may not be there at all.
        let _ = disk.remove_all(&temporary);
        return Err(error);
    }
    GitDir::find(path)?.ok_or_else(|| {
        let message = format!("`{}` went away while it was made", path.display());
        Error::new(ErrorKind::Conflict, message)
    })
}

fn write_skeleton(disk: &DurableFs, folder: &Path, hash: HashKind, head: &BStr) -> Result<()> {
    for part in ["objects/info", "objects/pack", "refs/heads", "refs/tags"] {
        let path = folder.join(part);
        disk.create_folders(&path)
            .map_err(|error| failed("creating", &path, error))?;
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
        let path: PathBuf = folder.join(name);
        let file = disk.create(&path);
        file.and_then(|file| {
            disk.write(&file, bytes)?;
            file.sync_all()
        })
        .map_err(|error| failed("creating", &path, error))?;
    }
    Ok(())
}
