//! Location of the objects of git LFS that archives contain (`ARCHIVE_LFS`).

use std::sync::Arc;

use branchline_core::git::smart_http::{Http, NoCredentials, RepositoryUrl, SmartHttp};
use branchline_core::lfs::{HttpLfs, KeyScheme, LfsStore, S3Lfs, S3RepositoryLfs};
use branchline_core::name::{BucketName, KeyPrefix, RepositoryName};
use branchline_core::storage::ObjectStore;
use branchline_core::{Error, ErrorKind, Result};

const REPOSITORY: &str = "{repository}";

/// Location of objects, with a placeholder for the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LfsLocation {
    text: String,
    kind: LocationKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum LocationKind {
    /// Below a prefix of this bucket.
    Bucket(BucketName),
    /// On a server with the batch API, which needs no credentials.
    Server,
}

/// The services that have objects.
pub(crate) struct LfsServices<'a> {
    pub(crate) store: &'a Arc<dyn ObjectStore>,
    pub(crate) http: Option<&'a Http>,
}

impl LfsLocation {
    /// Parses `s3://bucket/prefix`, or the URL of a repository on a server.
    ///
    /// # Errors
    /// `Config` for another text.
    pub fn new(text: &str) -> Result<Self> {
        let shown = text.escape_debug();
        let invalid = |why: String| Error::new(ErrorKind::Config, why);
        if let Some(place) = text.strip_prefix("s3://") {
            let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
            if bucket.contains('{') {
                return Err(invalid(format!(
                    "`{shown}` has a placeholder in its bucket"
                )));
            }
            let location = Self {
                kind: LocationKind::Bucket(BucketName::new(bucket)?),
                text: prefix.to_owned(),
            };
            KeyPrefix::new(&location.filled("sample")?)?;
            return Ok(location);
        }
        if text.starts_with("https://") || text.starts_with("http://") {
            let location = Self {
                kind: LocationKind::Server,
                text: text.to_owned(),
            };
            let url = RepositoryUrl::new(&location.filled("sample")?)?;
            if url.credentials().is_some() {
                return Err(invalid(
                    "the URL has a password, which logs would show".into(),
                ));
            }
            return Ok(location);
        }
        Err(invalid(format!(
            "`{shown}` is neither `s3://bucket/prefix` nor the URL of an LFS server"
        )))
    }

    fn filled(&self, repository: &str) -> Result<String> {
        let filled = self.text.replace(REPOSITORY, repository);
        if filled.contains(['{', '}']) {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "`{}` has another placeholder than `{{repository}}`",
                    self.text.escape_debug()
                ),
            ));
        }
        Ok(filled)
    }

    /// Returns the text that decides the bytes of an archive.
    pub(crate) fn identity(&self) -> String {
        match &self.kind {
            LocationKind::Bucket(bucket) => format!("s3://{bucket}/{}", self.text),
            LocationKind::Server => self.text.clone(),
        }
    }

    /// Opens the objects of a repository.
    pub(crate) fn open(
        &self,
        repository: &RepositoryName,
        services: &LfsServices<'_>,
    ) -> Result<Arc<dyn LfsStore>> {
        let filled = self.filled(repository.as_str())?;
        match &self.kind {
            LocationKind::Bucket(bucket) => {
                let (store, bucket) = (Arc::clone(services.store), bucket.clone());
                let prefix = KeyPrefix::new(&filled)?;
                // Objects are only read, so no key encrypts them.
                let objects = S3Lfs::new(store, bucket, prefix, KeyScheme::Flat, None);
                Ok(Arc::new(S3RepositoryLfs::new(objects, KeyScheme::Flat)))
            }
            LocationKind::Server => {
                let http = services.http.ok_or_else(|| {
                    Error::new(ErrorKind::Internal, "no HTTP client reads LFS objects")
                })?;
                let url = RepositoryUrl::new(&filled)?;
                let client = SmartHttp::new(http.clone(), url, Arc::new(NoCredentials));
                Ok(Arc::new(HttpLfs::new(client)?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_and_servers_are_locations_and_other_texts_name_the_remedy() {
        for text in [
            "s3://bucket/lfs/{repository}",
            "s3://bucket",
            "https://lfs.example.com/{repository}.git",
        ] {
            assert_eq!(
                LfsLocation::new(text)
                    .map(|found| found.identity())
                    .unwrap(),
                {
                    if text == "s3://bucket" {
                        "s3://bucket/"
                    } else {
                        text
                    }
                }
            );
        }
        for text in [
            "true",
            "",
            "s3://{repository}/x",
            "s3://B",
            "s3://bucket/{branch}",
            "https://user:secret@host/x",
            "file:///x",
        ] {
            let error = LfsLocation::new(text).unwrap_err();
            assert!(!error.report().contains("secret"), "{text}");
        }
    }
}
