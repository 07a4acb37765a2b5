//! LFS objects below the URL of a repository, at the paths of branchline's mirrors and
//! mirror-git-to-s3's: `lfs/objects/aa/bb/<sha256>`.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::TryStreamExt as _;

use super::HttpFiles;
use crate::error::{Error, ErrorKind, Result};
use crate::lfs::{LfsBody, LfsStore, Pointer, missing_object};
use crate::remote::dumb_files::RepositoryFiles as _;

/// LFS objects of a repository on a web server, for reading.
pub(in crate::remote) struct HttpFilesLfs(pub(in crate::remote) Arc<HttpFiles>);

impl fmt::Display for HttpFilesLfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/lfs", self.0)
    }
}

#[async_trait]
impl LfsStore for HttpFilesLfs {
    async fn missing(&self, pointers: &[Pointer]) -> Result<Vec<Pointer>> {
        Ok(pointers.to_vec())
    }

    async fn read(&self, pointer: &Pointer) -> Result<LfsBody> {
        let path = format!("lfs/objects/{}", pointer.path());
        let body = self.0.open(&path).await?;
        let body = body.ok_or_else(|| missing_object(pointer, self))?;
        Ok(Box::pin(body.map_err(Into::into)))
    }

    async fn write(&self, pointer: &Pointer, _content: LfsBody) -> Result<()> {
        let message = format!("{self} cannot be written (LFS object {})", pointer.oid);
        Err(Error::new(ErrorKind::Config, message))
    }
}
