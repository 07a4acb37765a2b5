//! Opens the place of LFS objects that a repository names: an LFS server, or a prefix in S3.

use std::sync::Arc;

use super::configured_lfs::LfsPlaces;
use super::lfs_alias::parse_lfs_alias;
use super::url::{RemoteUrl, S3Url};
use crate::error::{Error, ErrorKind, Result};
use crate::git::smart_http::{CredentialSource, Http, SmartHttp};
use crate::lfs::{HttpLfs, KeyScheme, LfsStore, S3Lfs, S3RepositoryLfs};
use crate::storage::ObjectStore;

/// Clients for the places that one source may name.
pub(super) struct OpenedPlaces {
    pub(super) http: Http,
    /// Users and passwords, each for its own server.
    pub(super) credentials: Arc<dyn CredentialSource>,
    /// Objects in S3; `None` if the source must not choose what is read there.
    pub(super) store: Option<Arc<dyn ObjectStore>>,
}

impl LfsPlaces for OpenedPlaces {
    fn open(&self, url: &str) -> Result<Arc<dyn LfsStore>> {
        let url = match parse_lfs_alias(url) {
            Some(alias) => RemoteUrl::S3(alias?),
            None => RemoteUrl::new(url)?,
        };
        match url {
            RemoteUrl::Http(url) => {
                let credentials = Arc::clone(&self.credentials);
                let client = SmartHttp::new(self.http.clone(), url, credentials);
                Ok(Arc::new(HttpLfs::at_server(client)?))
            }
            RemoteUrl::S3(url) => self.in_s3(&url),
            url => {
                let message = format!("`{url}` is not a place of LFS objects that a mirror reads");
                Err(Error::new(ErrorKind::Config, message)
                    .with_hint("`lfs.url` must start with `https://` or `s3://`"))
            }
        }
    }
}

impl OpenedPlaces {
    fn in_s3(&self, url: &S3Url) -> Result<Arc<dyn LfsStore>> {
        let Some(store) = &self.store else {
            let message = format!(
                "the repository of a git server names `{url}`, which is not read with the \
                 permissions of this function"
            );
            return Err(Error::new(ErrorKind::Config, message).with_hint(
                "copy its LFS objects with `branchline mirror`, with your own permissions",
            ));
        };
        let Some(prefix) = url.prefix.clone() else {
            let message = format!("`{url}` has no prefix");
            return Err(Error::new(ErrorKind::Config, message)
                .with_hint("`lfs.url` must be `s3://bucket/prefix`"));
        };
        let (store, bucket) = (Arc::clone(store), url.bucket.clone());
        let objects = S3Lfs::new(store, bucket, prefix, KeyScheme::Flat, None);
        Ok(Arc::new(S3RepositoryLfs::new(objects, KeyScheme::Flat)))
    }
}
