//! LFS objects below the URL of a repository, at the paths of branchline's mirrors and
//! mirror-git-to-s3's: `lfs/objects/aa/bb/<sha256>`.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::HttpFiles;
use crate::error::{Error, ErrorKind, Result};
use crate::lfs::{LfsBody, LfsStore, Pointer, missing_object, skip};
use crate::remote::dumb_files::RepositoryFiles as _;

/// Maximum number of concurrent requests for sizes.
const CONCURRENT_REQUESTS: usize = 8;

/// LFS objects of a repository on a web server, for reading.
pub(in crate::remote) struct HttpFilesLfs(pub(in crate::remote) Arc<HttpFiles>);

/// Returns the path of an object below the URL of the repository.
fn path(pointer: &Pointer) -> String {
    format!("lfs/objects/{}", pointer.path())
}

impl fmt::Display for HttpFilesLfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/lfs", self.0)
    }
}

#[async_trait]
impl LfsStore for HttpFilesLfs {
    async fn missing(&self, pointers: &[Pointer]) -> Result<Vec<Pointer>> {
        let checks = stream::iter(pointers.to_vec()).map(|pointer| async move {
            let size = match self.0.size(&path(&pointer)).await {
                // A bucket that its readers may not list answers so for a missing file.
                Err(error) if error.kind() == ErrorKind::AccessDenied => None,
                size => size?,
            };
            Ok((size != Some(pointer.size_bytes)).then_some(pointer))
        });
        let missing = checks.buffered(CONCURRENT_REQUESTS);
        missing
            .try_filter_map(async |missing| Ok(missing))
            .try_collect()
            .await
    }

    async fn read(&self, pointer: &Pointer) -> Result<LfsBody> {
        let body = self.0.open(&path(pointer)).await?;
        let body = body.ok_or_else(|| missing_object(pointer, self))?;
        Ok(Box::pin(body.map_err(Into::into)))
    }

    async fn read_from(&self, pointer: &Pointer, position: u64) -> Result<LfsBody> {
        if position == 0 {
            return self.read(pointer).await;
        }
        if position >= pointer.size_bytes {
            return Ok(Box::pin(stream::empty()));
        }
        let range = position..pointer.size_bytes;
        let opened = self.0.open_range(&path(pointer), range).await?;
        let (body, before) = opened.ok_or_else(|| missing_object(pointer, self))?;
        Ok(skip(Box::pin(body.map_err(Into::into)), before))
    }

    async fn write(&self, pointer: &Pointer, _content: LfsBody) -> Result<()> {
        let message = format!("{self} cannot be written (LFS object {})", pointer.oid);
        Err(Error::new(ErrorKind::Config, message))
    }
}
