//! Opens the remote that a URL names.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::Remote;
use super::codecommit::{CloneUrlCache, CodeCommitRemote};
use super::configured_lfs::ConfiguredLfs;
use super::dumb_http::{HttpFiles, HttpFilesLfs};
use super::dumb_remotes::DumbRemotes;
pub use super::layout::S3Layout;
use super::layout::{self, FoundLayout, ReadOnce};
use super::lfs_places::OpenedPlaces;
use super::local::LocalRepository;
use super::s3_bundle::{Archiver, BundleOptions, BundleRemote};
use super::s3_dumb::{self, DumbRemote};
use super::smart_http::HttpRemote;
use super::url::{CodeCommitUrl, RemoteUrl, S3Url};
use crate::aws::{Aws, HttpSettings, git_http};
use crate::codecommit::client::SdkCodeCommit;
use crate::codecommit::git_credential_source::CodeCommitCredentials;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::git::pack::PackLimits;
use crate::git::smart_http::{
    CredentialSource, Credentials, Http, NoCredentials, RepositoryUrl, SmartHttp,
};
use crate::lfs::{KeyScheme, LfsStore, S3Lfs, S3RepositoryLfs};
use crate::name::{BucketName, KeyPrefix};
use crate::pack_cache::PackCache;
use crate::retry::{RetryPolicy, Retrying};
use crate::role::{self, RoleArn};
use crate::secret::client::SdkSecrets;
use crate::secret::{SecretArn, Secrets};
use crate::storage::client::SdkObjectStore;
use crate::storage::{DeniedDeletions, Encryption, ObjectStore, RecordingStore, S3Settings};

/// A remote's URL and settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteSpec {
    /// URL of the remote.
    pub url: RemoteUrl,
    /// Layout in S3; detected from the objects if `None`.
    pub layout: Option<S3Layout>,
    /// Layout where nothing is stored yet, and `layout` is `None`.
    pub layout_if_empty: Option<S3Layout>,
    /// Secret with the user and password of an HTTP remote.
    pub credentials: Option<SecretArn>,
    /// Role in whose name CodeCommit or S3 is accessed; the program's own if `None`.
    pub role_arn: Option<RoleArn>,
    /// Creates a missing CodeCommit repository.
    pub create: bool,
    /// Role in which the remote is opened, for the remedies in errors.
    pub role: RemoteRole,
}

/// Role of a remote in a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RemoteRole {
    /// Refs and objects are read from the remote.
    #[default]
    Source,
    /// They are written to the remote.
    Target,
}

impl RemoteSpec {
    /// Names a remote without further settings.
    pub fn new(url: RemoteUrl) -> Self {
        Self {
            url,
            layout: None,
            layout_if_empty: None,
            credentials: None,
            role_arn: None,
            create: false,
            role: RemoteRole::default(),
        }
    }
}

/// Opens remotes.
#[async_trait]
pub trait OpenRemote: Send + Sync {
    /// Opens a remote that uses at most about `memory` bytes.
    async fn open(&self, spec: &RemoteSpec, memory: usize) -> Result<Arc<dyn Remote>>;

    /// Opens a remote to mirror from. LFS objects that the remote does not have are read from the
    /// place that its `.lfsconfig` names, where the opener supports that.
    async fn open_source(&self, spec: &RemoteSpec, memory: usize) -> Result<Arc<dyn Remote>> {
        self.open(spec, memory).await
    }

    /// Opens a remote to archive `commit` from. LFS objects are read as by
    /// [`open_source`](Self::open_source), from the place that the `.lfsconfig` of the commit names.
    async fn open_archived(
        &self,
        spec: &RemoteSpec,
        memory: usize,
        _commit: ObjectId,
    ) -> Result<Arc<dyn Remote>> {
        self.open_source(spec, memory).await
    }
}

/// Settings for all remotes of a [`RemoteOpener`].
#[derive(Debug, Clone, Default)]
pub struct OpenerConfig {
    /// Proxies for git servers.
    pub http: HttpSettings,
    /// Encryption of objects in S3, locks and markers included.
    pub encryption: Encryption,
    /// Directory of the pack cache, owned by this user only; no pack is cached if `None`.
    pub pack_cache: Option<PathBuf>,
    /// Limit of the pack cache in bytes, below the limit that it has by itself.
    pub pack_cache_max_bytes: Option<u64>,
    /// File that records repositories in the layout `dumb`, so that the next request to them is
    /// the right one.
    pub dumb_remotes: Option<PathBuf>,
    /// Endpoint and form of the URLs of S3.
    pub s3: S3Settings,
    /// Time after which the lock of a bundle remote's ref counts as abandoned; a minute if `None`.
    pub lock_lifetime: Option<Duration>,
}

/// Maximum time to wait for another client's lock of a ref. A shorter lifetime of locks bounds the
/// wait to twice the time after which the lock of a killed client is taken over. The deadline of a
/// run may come first.
const MAX_LOCK_WAIT: Duration = Duration::from_mins(2);
/// Maximum number of concurrent requests to S3.
const CONCURRENT_S3_REQUESTS: usize = 64;
/// Maximum number of concurrent requests to CodeCommit's API.
const CONCURRENT_CODECOMMIT_REQUESTS: usize = 8;

/// Configuration and clients of one role.
#[derive(Clone)]
struct Access {
    aws: Aws,
    store: Arc<dyn ObjectStore>,
    clone_urls: CloneUrlCache,
}

impl Access {
    fn new(
        aws: Aws,
        settings: &S3Settings,
        encryption: &Encryption,
        retry: &RetryPolicy,
        denied_deletions: &DeniedDeletions,
    ) -> Self {
        let store =
            SdkObjectStore::with_settings(&aws, settings).with_encryption(encryption.clone());
        let store = RecordingStore::new(
            Retrying::new(store, retry.clone()),
            denied_deletions.clone(),
        );
        Self {
            store: Arc::new(store),
            clone_urls: CloneUrlCache::default(),
            aws,
        }
    }
}

/// Opens remotes over AWS and over HTTP.
pub struct RemoteOpener {
    own: Access,
    // Kept, because each role takes a request to STS.
    assumed: Mutex<BTreeMap<RoleArn, Access>>,
    http: Http,
    s3: S3Settings,
    encryption: Encryption,
    secrets: Arc<dyn Secrets>,
    limiters: [RetryPolicy; 2],
    denied_deletions: DeniedDeletions,
    kms_key_id: Option<String>,
    pack_cache: Option<Arc<PackCache>>,
    dumb_remotes: Option<DumbRemotes>,
    lock_lifetime: Option<Duration>,
    archiver: Option<Arc<dyn Archiver>>,
    http_credentials: Arc<dyn CredentialSource>,
    trusts_lfs_configs: bool,
}

impl std::fmt::Debug for RemoteOpener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteOpener")
            .field("region", &self.own.aws.region())
            .finish_non_exhaustive()
    }
}

impl RemoteOpener {
    /// Builds the clients; makes no request.
    ///
    /// # Errors
    /// `Config` for a proxy that is not valid.
    pub fn new(aws: Aws, config: &OpenerConfig) -> Result<Self> {
        let limiters = [
            RetryPolicy::new(CONCURRENT_S3_REQUESTS),
            RetryPolicy::new(CONCURRENT_CODECOMMIT_REQUESTS),
        ];
        let denied_deletions = DeniedDeletions::default();
        let secrets = SdkSecrets::new(&aws);
        let own = Access::new(
            aws,
            &config.s3,
            &config.encryption,
            &limiters[0],
            &denied_deletions,
        );
        Ok(Self {
            http: git_http(&config.http)?,
            secrets: Arc::new(secrets),
            kms_key_id: config.encryption.clone().into_kms_key(),
            pack_cache: open_pack_cache(config),
            dumb_remotes: config.dumb_remotes.clone().map(DumbRemotes::new),
            lock_lifetime: config.lock_lifetime,
            archiver: None,
            own,
            assumed: Mutex::default(),
            s3: config.s3.clone(),
            encryption: config.encryption.clone(),
            http_credentials: Arc::new(NoCredentials),
            trusts_lfs_configs: false,
            limiters,
            denied_deletions,
        })
    }

    /// Sets the archiver, which `s3+zip://` remotes require.
    #[must_use]
    pub fn with_archiver(mut self, archiver: Arc<dyn Archiver>) -> Self {
        self.archiver = Some(archiver);
        self
    }

    /// Sets the source of users and passwords for `https://` and `http://` remotes without a
    /// secret; without it, these remotes are used without a login.
    #[must_use]
    pub fn with_http_credentials(mut self, credentials: Arc<dyn CredentialSource>) -> Self {
        self.http_credentials = credentials;
        self
    }

    /// Reads LFS objects in S3 that a git server's repository names. Without it, only repositories
    /// in the account or on this machine can name a bucket, because writers of a foreign server
    /// must not choose buckets that the program's role reads.
    #[must_use]
    pub fn with_trusted_lfs_configs(mut self) -> Self {
        self.trusts_lfs_configs = true;
        self
    }

    /// Returns the retry policies, with their limits, of S3 and of CodeCommit.
    pub fn limiters(&self) -> &[RetryPolicy; 2] {
        &self.limiters
    }

    /// Returns the record of deletions that S3 denied.
    pub fn denied_deletions(&self) -> &DeniedDeletions {
        &self.denied_deletions
    }

    /// Returns the users and passwords for the server of `url`; those of a secret are for no other
    /// server.
    async fn credentials(
        &self,
        url: &RepositoryUrl,
        secret: Option<&SecretArn>,
    ) -> Result<Arc<dyn CredentialSource>> {
        Ok(match secret {
            None => Arc::clone(&self.http_credentials),
            Some(arn) => {
                if !url.is_secure() && !url.is_loopback() {
                    return Err(Error::new(
                        ErrorKind::Config,
                        format!(
                            "the password of `{arn}` would be sent to {url} without encryption"
                        ),
                    )
                    .with_hint("use `https://`"));
                }
                let text = self.secrets.read(arn).await?;
                let credentials = text
                    .credentials_for(url)
                    .map_err(|error| error.context(format!("`{arn}`")))?;
                Arc::new(HostCredentials {
                    host: url.clone(),
                    credentials,
                })
            }
        })
    }

    fn http(
        &self,
        url: &RepositoryUrl,
        credentials: Arc<dyn CredentialSource>,
        memory: usize,
    ) -> HttpRemote {
        let client = SmartHttp::new(self.http.clone(), url.clone(), credentials);
        HttpRemote::new(client).with_memory(memory)
    }

    /// Returns the access that `role` has; the program's own without one.
    async fn access(&self, role: Option<&RoleArn>) -> Result<Access> {
        let Some(role) = role else {
            return Ok(self.own.clone());
        };
        // Held during the request, so that mappings that run concurrently assume a role once.
        let mut assumed = self.assumed.lock().await;
        if let Some(access) = assumed.get(role) {
            return Ok(access.clone());
        }
        let aws = role::client::assume(&self.own.aws, role).await?;
        let access = Access::new(
            aws,
            &self.s3,
            &self.encryption,
            &self.limiters[0],
            &self.denied_deletions,
        );
        assumed.insert(role.clone(), access.clone());
        Ok(access)
    }

    fn codecommit(&self, access: &Access, url: &CodeCommitUrl, create: bool) -> CodeCommitRemote {
        let aws = match &url.region {
            Some(region) => access.aws.with_region(region),
            None => access.aws.clone(),
        };
        let service = Retrying::new(SdkCodeCommit::new(&aws), self.limiters[1].clone());
        let login = Arc::new(CodeCommitCredentials::new(&aws));
        CodeCommitRemote::new(url.clone(), Arc::new(service), self.http.clone(), login)
            .with_url_cache(access.clone_urls.clone())
            .with_create(create)
    }

    /// Opens the LFS objects of the repository at a prefix in S3, also where only LFS objects are
    /// stored, and makes no request. Of large objects `parallel_parts` parts are transferred at
    /// once.
    ///
    /// # Errors
    /// `Config` for a URL without a prefix.
    pub fn s3_lfs(
        &self,
        url: &S3Url,
        layout_if_empty: S3Layout,
        parallel_parts: usize,
    ) -> Result<Arc<dyn LfsStore>> {
        let keys = match layout_if_empty {
            S3Layout::Bundle => KeyScheme::Flat,
            S3Layout::Dumb | S3Layout::Loose => KeyScheme::Fanned,
        };
        let (store, bucket) = (Arc::clone(&self.own.store), url.bucket.clone());
        let prefix = url.prefix.clone().ok_or_else(|| no_prefix(url))?;
        let objects = S3Lfs::new(store, bucket, prefix, keys, self.kms_key_id.clone())
            .with_parallel_parts(parallel_parts);
        Ok(Arc::new(S3RepositoryLfs::new(objects, keys)))
    }

    /// Opens the LFS objects that a web server serves as files below the URL of a repository, and
    /// makes no request.
    pub fn file_lfs(&self, url: &RepositoryUrl) -> Arc<dyn LfsStore> {
        let credentials = Arc::clone(&self.http_credentials);
        let client = SmartHttp::new(self.http.clone(), url.clone(), credentials);
        Arc::new(HttpFilesLfs(Arc::new(HttpFiles::new(client, 0))))
    }

    /// Finds the layout of a repository in S3, and records a surprising one.
    async fn find_layout(
        &self,
        store: &Arc<dyn ObjectStore>,
        bucket: &BucketName,
        prefix: &KeyPrefix,
        spec: &RemoteSpec,
    ) -> Result<FoundLayout> {
        let mut likely = spec.layout_if_empty;
        if likely == Some(S3Layout::Bundle)
            && let Some(dumb) = &self.dumb_remotes
            && dumb.contains(bucket, prefix)
        {
            likely = Some(S3Layout::Dumb);
        }
        let found = layout::detect(store, bucket, prefix, likely).await?;
        if likely == Some(S3Layout::Bundle)
            && found.layout == Some(S3Layout::Dumb)
            && let Some(dumb) = &self.dumb_remotes
        {
            dumb.insert(bucket, prefix);
        }
        Ok(found)
    }

    async fn s3(
        &self,
        access: Access,
        url: &S3Url,
        spec: &RemoteSpec,
        memory: usize,
    ) -> Result<Arc<dyn Remote>> {
        let prefix = url.prefix.clone().ok_or_else(|| no_prefix(url))?;
        let archiver = match &self.archiver {
            _ if !url.zip => None,
            None => {
                let message = format!("`{url}` has archives, which this program cannot write");
                return Err(Error::new(ErrorKind::Config, message).with_hint("use `s3://`"));
            }
            archiver => archiver.clone(),
        };
        let mut store = access.store;
        let layout = if let Some(layout) = S3Layout::of(url, spec.layout)? {
            layout
        } else {
            let found = self.find_layout(&store, &url.bucket, &prefix, spec).await?;
            // What was read to find the layout is not read again.
            store = Arc::new(ReadOnce::new(store, found.read));
            let layout = found.layout.or(spec.layout_if_empty);
            layout.ok_or_else(|| no_repository(url, spec.role))?
        };
        let limits = PackLimits::default().with_memory(memory / 2);
        let bucket = url.bucket.clone();
        let kms_key_id = self.kms_key_id.clone();
        Ok(match layout {
            S3Layout::Bundle => {
                let mut options = BundleOptions {
                    kms_key_id,
                    limits,
                    archiver,
                    pack_cache: self.pack_cache.clone(),
                    lock_wait: MAX_LOCK_WAIT,
                    ..BundleOptions::default()
                };
                if let Some(lifetime) = self.lock_lifetime {
                    options.lock_lifetime = lifetime;
                    options.lock_wait = MAX_LOCK_WAIT.min(lifetime * 2);
                }
                Arc::new(BundleRemote::new(store, bucket, prefix, options))
            }
            S3Layout::Dumb | S3Layout::Loose => {
                let options = s3_dumb::DumbOptions {
                    kms_key_id,
                    loose: layout == S3Layout::Loose,
                    memory: memory / 8,
                    limits,
                    ..s3_dumb::DumbOptions::default()
                };
                Arc::new(DumbRemote::new(store, bucket, prefix, options))
            }
        })
    }
}

#[async_trait]
impl OpenRemote for RemoteOpener {
    async fn open(&self, spec: &RemoteSpec, memory: usize) -> Result<Arc<dyn Remote>> {
        let access = self.access(spec.role_arn.as_ref());
        Ok(match &spec.url {
            RemoteUrl::CodeCommit(url) => {
                Arc::new(self.codecommit(&access.await?, url, spec.create))
            }
            RemoteUrl::Http(url) => {
                let credentials = self.credentials(url, spec.credentials.as_ref()).await?;
                Arc::new(self.http(url, credentials, memory))
            }
            RemoteUrl::S3(url) => self.s3(access.await?, url, spec, memory).await?,
            RemoteUrl::Local(path) => {
                let limits = PackLimits::default().with_memory(memory / 2);
                Arc::new(LocalRepository::new(path, limits))
            }
        })
    }

    async fn open_source(&self, spec: &RemoteSpec, memory: usize) -> Result<Arc<dyn Remote>> {
        let remote = self.with_configured_lfs(spec, memory).await?;
        Ok(Arc::new(remote))
    }

    async fn open_archived(
        &self,
        spec: &RemoteSpec,
        memory: usize,
        commit: ObjectId,
    ) -> Result<Arc<dyn Remote>> {
        let remote = self.with_configured_lfs(spec, memory).await?;
        Ok(Arc::new(remote.of_commit(Some(commit))))
    }
}

impl RemoteOpener {
    /// Opens a remote whose LFS objects may be elsewhere.
    async fn with_configured_lfs(&self, spec: &RemoteSpec, memory: usize) -> Result<ConfiguredLfs> {
        let (remote, credentials): (Arc<dyn Remote>, _) = if let RemoteUrl::Http(url) = &spec.url {
            let credentials = self.credentials(url, spec.credentials.as_ref()).await?;
            let remote = self.http(url, Arc::clone(&credentials), memory);
            (Arc::new(remote), credentials)
        } else {
            let remote = self.open(spec, memory).await?;
            (remote, Arc::clone(&self.http_credentials))
        };
        let is_foreign = matches!(spec.url, RemoteUrl::Http(_));
        let store = if is_foreign && !self.trusts_lfs_configs {
            None
        } else {
            Some(self.access(spec.role_arn.as_ref()).await?.store)
        };
        let places = OpenedPlaces {
            http: self.http.clone(),
            credentials,
            store,
        };
        Ok(ConfiguredLfs::new(remote, Arc::new(places)))
    }
}

fn no_prefix(url: &S3Url) -> Error {
    Error::new(ErrorKind::Config, format!("`{url}` has no prefix"))
        .with_hint("add the prefix of the repository, as in `s3://bucket/repository`")
}

/// Returns the error of a location in S3 without refs.
fn no_repository(url: &S3Url, role: RemoteRole) -> Error {
    let message = format!("a repository at `{url}` does not exist");
    Error::new(ErrorKind::NotFound, message).with_hint(match role {
        RemoteRole::Source => "check the bucket and the prefix; a source must exist",
        RemoteRole::Target => {
            "set `layout` for a new repository: `dumb` (git clones it over plain HTTP), `bundle` \
             (git-remote-s3 reads and writes it), or `loose` (`dumb` for a bucket that its \
             readers may not list)"
        }
    })
}

/// Opens the pack cache; `None`, with a warning, if that fails.
fn open_pack_cache(config: &OpenerConfig) -> Option<Arc<PackCache>> {
    match PackCache::open(config.pack_cache.as_deref()?) {
        Ok(cache) => Some(Arc::new(match config.pack_cache_max_bytes {
            Some(max_bytes) => cache.with_max_bytes(max_bytes),
            None => cache,
        })),
        Err(error) => {
            tracing::warn!(error = %error.report(), "packs are not cached");
            None
        }
    }
}

/// A user and password for the server of one URL.
struct HostCredentials {
    host: RepositoryUrl,
    credentials: Credentials,
}

#[async_trait]
impl CredentialSource for HostCredentials {
    async fn credentials(
        &self,
        repository: &RepositoryUrl,
    ) -> crate::git::Result<Option<Credentials>> {
        let is_same = self.host.is_same_server(repository);
        Ok(is_same.then(|| self.credentials.clone()))
    }
}
