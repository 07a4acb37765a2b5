//! Repositories whose files a web server serves as they are (git's "dumb" protocol): a mirror in a
//! bucket behind a website or a CDN, and a bare repository after `git update-server-info`.
//!
//! | file | job |
//! |---|---|
//! | `files` | requests files and ranges of them |
//! | `lfs` | LFS objects, where branchline's mirrors have them |
//!
//! Refs and `HEAD` are read when the source is opened; objects are found and sent by
//! [`dumb_files`](super::dumb_files). Nothing can be pushed.

mod files;
mod lfs;

use std::sync::Arc;

pub(super) use self::files::HttpFiles;
pub(super) use self::lfs::HttpFilesLfs;
use super::dumb_files::{RepositoryFiles, source};
use super::{Head, Refs, Snapshot, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::git::HashKind;
use crate::git::dumb_http::parse_head;
use crate::git::pack::PackLimits;
use crate::git::smart_http::DumbHttp;

/// Files that name other repositories with objects of this one.
const ALTERNATES: [&str; 2] = ["objects/info/http-alternates", "objects/info/alternates"];

/// Opens a repository for reading.
///
/// # Errors
/// `NotFound` where neither refs nor `HEAD` are there; `Config` for a repository that borrows
/// objects.
pub(super) async fn open(
    found: DumbHttp,
    files: &Arc<HttpFiles>,
    limits: PackLimits,
) -> Result<Box<dyn Source>> {
    // `HEAD` of `info/refs` is left out, because the file `HEAD` has the symbolic ref.
    let refs: Refs = found
        .refs
        .into_iter()
        .filter(|(name, _)| name != "HEAD")
        .collect();
    let head = match files.read("HEAD").await? {
        None if refs.is_empty() => {
            let message = format!("{files} is not a repository: it has no refs and no `HEAD`");
            return Err(Error::new(ErrorKind::NotFound, message).with_hint("check the URL"));
        }
        None => None,
        Some(bytes) => {
            let head = parse_head(&bytes)
                .map_err(|error| Error::from(error).context(format!("`HEAD` of {files}")))?;
            Some(head)
        }
    };
    refuse_alternates(&**files).await?;
    let detached = match &head {
        Some(Head::Detached(id)) => Some(*id),
        _ => None,
    };
    let named = refs.values().next().map(|target| target.id);
    let hash = named.or(detached).map_or(HashKind::Sha1, |id| id.kind());
    let snapshot = Snapshot {
        hash,
        refs,
        head,
        ignored: found.ignored,
    };
    let files: Arc<dyn RepositoryFiles> = Arc::clone(files) as _;
    Ok(source::open(files, limits, snapshot))
}

/// Refuses a repository with alternates, whose objects would be requested from URLs that the
/// server chooses.
async fn refuse_alternates(files: &dyn RepositoryFiles) -> Result<()> {
    for path in ALTERNATES {
        let listed = files.read(path).await?;
        if listed.is_some_and(|bytes| !bytes.trim_ascii().is_empty()) {
            let message = format!("{files} borrows objects of other repositories (`{path}`)");
            return Err(Error::new(ErrorKind::Config, message)
                .with_hint("run `git repack -a -d` in it, and delete the file"));
        }
    }
    Ok(())
}
