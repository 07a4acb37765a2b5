//! From a URL to a remote.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::Remote;
use super::codecommit::{Addresses, CodeCommitRemote};
use super::local::LocalRepository;
use super::s3_bundle::{Archiver, BundleOptions, BundleRemote};
use super::s3_dumb::{self, S3Dumb};
use super::smart_http::HttpRemote;
use super::url::{CodeCommitUrl, RemoteUrl, S3Url};
use crate::aws::Aws;
use crate::codecommit::client::SdkCodeCommit;
use crate::codecommit::git_credential_source::CodeCommitCredentials;
use crate::error::{Error, ErrorKind, Result};
use crate::git::pack::PackLimits;
use crate::git::smart_http::{
    CredentialSource, Credentials, Http, HttpSettings, NoCredentials, RepositoryUrl, SmartHttp,
};
use crate::name::{KeyPrefix, ObjectKey};
use crate::pack_cache::PackCache;
use crate::retry::{RetryPolicy, Retrying};
use crate::secret::client::SdkSecrets;
use crate::secret::{SecretArn, Secrets};
use crate::storage::ObjectStore;
use crate::storage::client::SdkObjectStore;

/// How a remote lies in S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum S3Layout {
    /// What awslabs git-remote-s3 reads and writes.
    Bundle,
    /// What stock git clones over plain HTTP.
    Dumb,
    /// The same without packs, as mirror-git-to-s3 writes it.
    Loose,
}

impl S3Layout {
    /// Reads `bundle`, `dumb` or `loose`.
    pub fn new(text: &str) -> Result<Self> {
        match text {
            "bundle" => Ok(Self::Bundle),
            "dumb" => Ok(Self::Dumb),
            "loose" => Ok(Self::Loose),
            other => {
                let shown: String = other.chars().take(40).collect();
                Err(Error::new(
                    ErrorKind::Config,
                    format!("`{}` is no layout", shown.escape_debug()),
                )
                .with_hint("it is `bundle`, `dumb` or `loose`"))
            }
        }
    }

    /// The layout of a place in S3 for which `said` was given: archives are kept beside
    /// bundles alone.
    ///
    /// # Errors
    /// `Config` when something else was said of a place with archives.
    pub fn of(url: &S3Url, said: Option<Self>) -> Result<Option<Self>> {
        match said {
            None | Some(Self::Bundle) if url.zip => Ok(Some(Self::Bundle)),
            Some(_) if url.zip => Err(Error::new(
                ErrorKind::Config,
                format!("`{url}` can have no layout but `bundle`"),
            )
            .with_hint("leave the layout out, or write `s3://` where no `repo.zip` is wanted")),
            said => Ok(said),
        }
    }
}

/// A remote to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteSpec {
    /// Where it is.
    pub url: RemoteUrl,
    /// How it lies in S3; read off what is there when `None`.
    pub layout: Option<S3Layout>,
    /// What to log in with.
    pub credentials: Option<SecretArn>,
    /// Whether a repository that is not there is created.
    pub create: bool,
}

impl RemoteSpec {
    /// A place about which nothing but the URL is said.
    pub fn new(url: RemoteUrl) -> Self {
        Self {
            url,
            layout: None,
            credentials: None,
            create: false,
        }
    }
}

/// Opens remotes.
#[async_trait]
pub trait OpenRemote: Send + Sync {
    /// Opens one that may hold about `memory` bytes at once.
    async fn open(&self, place: &RemoteSpec, memory: usize) -> Result<Arc<dyn Remote>>;
}

/// What is said beside a URL.
#[derive(Debug, Clone, Default)]
pub struct OpenerConfig {
    /// How git servers are reached.
    pub http: HttpSettings,
    /// What objects in S3 are encrypted with.
    pub kms_key_id: Option<String>,
    /// The folder for copies of packs in S3, of this user alone; none are kept without.
    pub copies: Option<PathBuf>,
}

/// The most requests to S3 in flight.
const STORE_REQUESTS: usize = 64;
/// The most requests to CodeCommit's API in flight.
const API_REQUESTS: usize = 8;

/// Opens remotes over AWS and over HTTP.
pub struct RemoteOpener {
    aws: Aws,
    http: Http,
    store: Arc<dyn ObjectStore>,
    secrets: Arc<dyn Secrets>,
    paces: [RetryPolicy; 2],
    addresses: Addresses,
    kms_key_id: Option<String>,
    copies: Option<Arc<PackCache>>,
    archiver: Option<Arc<dyn Archiver>>,
}

impl std::fmt::Debug for RemoteOpener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections")
            .field("region", &self.aws.region())
            .finish_non_exhaustive()
    }
}

impl RemoteOpener {
    /// Connections that make no request before one is opened.
    ///
    /// # Errors
    /// `Config` for a proxy that is not valid.
    pub fn new(aws: Aws, settings: &OpenerConfig) -> Result<Self> {
        let paces = [
            RetryPolicy::new(STORE_REQUESTS),
            RetryPolicy::new(API_REQUESTS),
        ];
        let store = Retrying::new(SdkObjectStore::new(&aws), paces[0].clone());
        Ok(Self {
            http: Http::new(&settings.http)?,
            store: Arc::new(store),
            secrets: Arc::new(SdkSecrets::new(&aws)),
            kms_key_id: settings.kms_key_id.clone(),
            copies: settings.copies.as_deref().and_then(pack_cache),
            archiver: None,
            addresses: Addresses::default(),
            paces,
            aws,
        })
    }

    /// The same, with what makes the archives of `s3+zip://` remotes, which cannot be
    /// opened without.
    #[must_use]
    pub fn with_archiver(mut self, archiver: Arc<dyn Archiver>) -> Self {
        self.archiver = Some(archiver);
        self
    }

    /// What requests to AWS run under: S3's, and CodeCommit's.
    pub fn limiters(&self) -> &[RetryPolicy; 2] {
        &self.paces
    }

    async fn http(&self, url: &RepositoryUrl, secret: Option<&SecretArn>) -> Result<HttpRemote> {
        let credentials: Arc<dyn CredentialSource> = match secret {
            None => Arc::new(NoCredentials),
            Some(arn) => {
                if !url.is_secure() && !is_loopback(url.host()) {
                    return Err(Error::new(
                        ErrorKind::Config,
                        format!("{url} would get the password of `{arn}` in the clear"),
                    )
                    .with_hint("use `https://`"));
                }
                let text = self.secrets.read(arn).await?;
                let (user, password) = text
                    .user_and_password()
                    .map_err(|error| error.context(format!("`{arn}`")))?;
                Arc::new(StaticCredentials(Credentials::new(user, password)))
            }
        };
        let client = SmartHttp::new(self.http.clone(), url.clone(), credentials);
        Ok(HttpRemote::new(client))
    }

    fn codecommit(&self, url: &CodeCommitUrl, create: bool) -> CodeCommitRemote {
        let aws = match &url.region {
            Some(region) => self.aws.with_region(region),
            None => self.aws.clone(),
        };
        let service = Retrying::new(SdkCodeCommit::new(&aws), self.paces[1].clone());
        let login = Arc::new(CodeCommitCredentials::new(&aws));
        CodeCommitRemote::new(url.clone(), Arc::new(service), self.http.clone(), login)
            .with_url_cache(self.addresses.clone())
            .with_create(create)
    }

    async fn s3(
        &self,
        url: &S3Url,
        said: Option<S3Layout>,
        memory: usize,
    ) -> Result<Arc<dyn Remote>> {
        let prefix = url.prefix.clone().ok_or_else(|| {
            Error::new(ErrorKind::Config, format!("`{url}` names no prefix"))
                .with_hint("name the folder of the repository, as in `s3://bucket/repository`")
        })?;
        let archiver = match &self.archiver {
            _ if !url.zip => None,
            None => {
                let message = format!("no archives are made here, and `{url}` keeps some");
                return Err(Error::new(ErrorKind::Config, message).with_hint("write `s3://`"));
            }
            archiver => archiver.clone(),
        };
        let layout = match S3Layout::of(url, said)? {
            Some(layout) => layout,
            None => layout_of(&*self.store, url, &prefix).await?,
        };
        let limits = PackLimits::default().with_memory(memory / 2);
        let store = Arc::clone(&self.store);
        let bucket = url.bucket.clone();
        let kms_key_id = self.kms_key_id.clone();
        Ok(match layout {
            S3Layout::Bundle => {
                let options = BundleOptions {
                    kms_key_id,
                    limits,
                    archiver,
                    pack_cache: self.copies.clone(),
                    ..BundleOptions::default()
                };
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
                Arc::new(S3Dumb::new(store, bucket, prefix, options))
            }
        })
    }
}

#[async_trait]
impl OpenRemote for RemoteOpener {
    async fn open(&self, place: &RemoteSpec, memory: usize) -> Result<Arc<dyn Remote>> {
        Ok(match &place.url {
            RemoteUrl::CodeCommit(url) => Arc::new(self.codecommit(url, place.create)),
            RemoteUrl::Http(url) => Arc::new(self.http(url, place.credentials.as_ref()).await?),
            RemoteUrl::S3(url) => self.s3(url, place.layout, memory).await?,
            RemoteUrl::Local(path) => {
                let limits = PackLimits::default().with_memory(memory / 2);
                Arc::new(LocalRepository::new(path, limits))
            }
        })
    }
}

/// The copies in a folder. Where there can be none, everything is read from S3.
fn pack_cache(folder: &Path) -> Option<Arc<PackCache>> {
    match PackCache::open(folder) {
        Ok(copies) => Some(Arc::new(copies)),
        Err(error) => {
            tracing::warn!(error = %error.report(), "no copies of packs are kept");
            None
        }
    }
}

/// Whether a host is this machine, where nobody listens in.
fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Reads off what lies under a prefix how it is laid out.
async fn layout_of(store: &dyn ObjectStore, url: &S3Url, prefix: &KeyPrefix) -> Result<S3Layout> {
    let prefix = prefix.as_str().trim_end_matches('/');
    let key = ObjectKey::new(&format!("{prefix}/info/refs"))?;
    if store.head(&url.bucket, &key).await?.is_some() {
        return Ok(S3Layout::Dumb);
    }
    let refs = format!("{prefix}/refs/");
    let listed = store.list(&url.bucket, &refs, None, None).await?;
    if !listed.objects.is_empty() {
        return Ok(S3Layout::Bundle);
    }
    Err(Error::new(
        ErrorKind::NotFound,
        format!("there is no repository at `{url}`"),
    )
    .with_hint("for a new one, say its `layout`: `bundle` or `dumb`"))
}

/// One user and password.
struct StaticCredentials(Credentials);

#[async_trait]
impl CredentialSource for StaticCredentials {
    async fn credentials(&self, _repository: &RepositoryUrl) -> Result<Option<Credentials>> {
        Ok(Some(self.0.clone()))
    }
}
