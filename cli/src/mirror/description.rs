//! Descriptions of repositories, which are mirrored where both sides have one: CodeCommit, and the
//! file `description` of a repository on the disk.

use std::io::ErrorKind as IoErrorKind;
use std::path::{Path, PathBuf};

use branchline_core::codecommit::client::{MAX_DESCRIPTION_CHARS, SdkCodeCommit};
use branchline_core::mirror::MirrorTask;
use branchline_core::remote::url::{CodeCommitUrl, RemoteUrl};
use branchline_core::{Error, ErrorKind, Result};

use crate::remotes::TerminalRemotes;

/// Start of the description that git gives to a new repository.
const UNNAMED: &str = "Unnamed repository";

/// Copies the description of the source to the target: to CodeCommit if the task may create the
/// repository, and to the disk if the target has none.
///
/// # Errors
/// Failures to read or write a description.
pub(super) async fn copy(remotes: &TerminalRemotes, task: &MirrorTask) -> Result<()> {
    let writes = match &task.target.url {
        RemoteUrl::CodeCommit(_) => task.target.create,
        RemoteUrl::Local(_) => true,
        RemoteUrl::Http(_) | RemoteUrl::S3(_) => false,
    };
    if !writes {
        return Ok(());
    }
    let Some(text) = read(remotes, &task.source.url).await? else {
        return Ok(());
    };
    let present = read(remotes, &task.target.url).await?;
    match &task.target.url {
        RemoteUrl::CodeCommit(url) => {
            let text: String = text.chars().take(MAX_DESCRIPTION_CHARS).collect();
            if present.as_ref() != Some(&text) {
                let service = client(remotes, url).await?;
                service.update_description(&url.repository, &text).await?;
            }
        }
        RemoteUrl::Local(path) if present.is_none() => {
            let path = file(path);
            let written = std::fs::write(&path, format!("{text}\n"));
            written.map_err(|error| failed(&path, "written", error))?;
        }
        _ => {}
    }
    Ok(())
}

/// Reads a description; `None` where there is none, or no place for one.
async fn read(remotes: &TerminalRemotes, url: &RemoteUrl) -> Result<Option<String>> {
    match url {
        RemoteUrl::CodeCommit(url) => {
            let service = client(remotes, url).await?;
            service.description(&url.repository).await
        }
        RemoteUrl::Local(path) => {
            let path = file(path);
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    let text = text.trim();
                    let is_set = !text.is_empty() && !text.starts_with(UNNAMED);
                    Ok(is_set.then(|| text.to_owned()))
                }
                Err(error) if error.kind() == IoErrorKind::NotFound => Ok(None),
                Err(error) => Err(failed(&path, "read", error)),
            }
        }
        RemoteUrl::Http(_) | RemoteUrl::S3(_) => Ok(None),
    }
}

/// Returns the file with the description of the repository in a directory.
fn file(path: &Path) -> PathBuf {
    let below = path.join(".git");
    let directory = if below.is_dir() {
        below
    } else {
        path.to_owned()
    };
    directory.join("description")
}

async fn client(remotes: &TerminalRemotes, url: &CodeCommitUrl) -> Result<SdkCodeCommit> {
    let (profile, region) = (url.profile.as_deref(), url.region.as_deref());
    Ok(SdkCodeCommit::new(&remotes.aws(profile, region).await?))
}

fn failed(path: &Path, what: &str, error: std::io::Error) -> Error {
    let message = format!("`{}` cannot be {what}", path.display());
    Error::new(ErrorKind::Config, message).with_source(error)
}
