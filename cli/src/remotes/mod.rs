//! Opens remotes of every kind, each with the credentials of its own URL.

mod git_credentials;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use branchline_core::archive::ZipArchiver;
use branchline_core::aws::{Aws, AwsOverrides, HttpSettings};
use branchline_core::git::ObjectId;
use branchline_core::git::smart_http::RepositoryUrl;
use branchline_core::lfs::LfsStore;
use branchline_core::remote::Remote;
use branchline_core::remote::open::{OpenRemote, OpenerConfig, RemoteOpener, RemoteSpec};
use branchline_core::remote::url::{RemoteUrl, S3Url};
use branchline_core::{Error, Result};
use tokio::sync::Mutex;

use self::git_credentials::{GitCredentials, LfsLoginOnDemand, LoginOnDemand};
use crate::connection::{self, ARCHIVE_MEMORY_BYTES, DEFAULT_REGION, RemoteSettings};
use crate::failure::explain;
use crate::invocation::Invocation;
use crate::local_git::{self, GitConfig};

/// Opens remotes at a terminal: in AWS with the profile of the URL or of the environment, on git
/// servers with git's credential helpers, and on the disk.
pub(crate) struct TerminalRemotes {
    http: HttpSettings,
    config: OpenerConfig,
    credentials: Arc<GitCredentials>,
    openers: Mutex<HashMap<OpenerKey, Arc<RemoteOpener>>>,
    /// Settings in git's configuration, of remotes in S3 that the command line names.
    named: Mutex<HashMap<S3Url, RemoteSettings>>,
}

/// Properties of a URL that decide how its opener is made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct OpenerKey {
    profile: Option<String>,
    /// A repository in CodeCommit is in the configured region. A bucket is found from any other.
    needs_region: bool,
    /// A remote with settings of its own.
    named: Option<S3Url>,
}

impl OpenerKey {
    fn of(url: &RemoteUrl) -> Self {
        let (profile, needs_region) = match url {
            RemoteUrl::CodeCommit(url) => (url.profile.clone(), url.region.is_none()),
            RemoteUrl::S3(url) => (url.profile.clone(), false),
            RemoteUrl::Http(_) | RemoteUrl::Local(_) => (None, false),
        };
        Self {
            profile,
            needs_region,
            named: None,
        }
    }
}

impl TerminalRemotes {
    /// Reads proxies and the settings of the pack cache.
    ///
    /// # Errors
    /// `Config`, naming the variable.
    pub(crate) fn new(invocation: &Invocation) -> Result<Self> {
        let http = connection::http_settings(invocation)?;
        let (pack_cache, pack_cache_max_bytes) = connection::pack_cache(invocation)?.unzip();
        let config = OpenerConfig {
            http: http.clone(),
            encryption: connection::encryption(invocation)?,
            pack_cache,
            pack_cache_max_bytes,
            lock_lifetime: Some(connection::lock_lifetime(invocation)),
            ..OpenerConfig::default()
        };
        Ok(Self {
            http,
            config,
            credentials: Arc::default(),
            openers: Mutex::default(),
            named: Mutex::default(),
        })
    }

    /// Loads the configuration of AWS for a profile. With a `region`, the configured one is
    /// ignored.
    pub(crate) async fn aws(&self, profile: Option<&str>, region: Option<&str>) -> Result<Aws> {
        Aws::load(AwsOverrides {
            region: region.map(str::to_owned),
            default_region: None,
            profile: profile.map(str::to_owned),
            endpoint_url: None,
            http: self.http.clone(),
        })
        .await
    }

    /// Loads the configuration of AWS for S3, which finds a bucket in any region.
    pub(crate) async fn aws_of_bucket(
        &self,
        profile: Option<&str>,
        region: Option<&str>,
    ) -> Result<Aws> {
        Aws::load(AwsOverrides {
            region: region.map(str::to_owned),
            default_region: Some(DEFAULT_REGION.to_owned()),
            profile: profile.map(str::to_owned),
            endpoint_url: None,
            http: self.http.clone(),
        })
        .await
    }

    /// Returns the URL that a command line names: that of the remote of this name, if the current
    /// repository has one and nothing on the disk has the name. The remote's settings in git's
    /// configuration are used when its URL is opened.
    ///
    /// # Errors
    /// `Config`, naming the key, for a setting that is not valid.
    pub(crate) async fn resolve(&self, text: &str) -> Result<String> {
        let may_be_name =
            !text.is_empty() && !text.contains(['/', ':']) && text != "." && text != "..";
        if !may_be_name || Path::new(text).exists() {
            return Ok(text.to_owned());
        }
        let Ok(url) = local_git::remote_url(text).await else {
            return Ok(text.to_owned());
        };
        if let Ok(RemoteUrl::S3(s3)) = RemoteUrl::new(&url) {
            let settings = RemoteSettings::read(&GitConfig::read().await?, Some(text))?;
            self.named.lock().await.insert(s3, settings);
        }
        Ok(url)
    }

    /// Opens the LFS objects that a web server serves as files below the URL of a repository, and
    /// makes no request.
    pub(crate) async fn file_lfs(&self, url: &RepositoryUrl) -> Result<Arc<dyn LfsStore>> {
        let opener = self.opener(&RemoteUrl::Http(url.clone())).await?;
        let store = opener.file_lfs(url);
        if url.credentials().is_some() {
            return Ok(store);
        }
        let credentials = Arc::clone(&self.credentials);
        Ok(Arc::new(LfsLoginOnDemand::new(
            store,
            url.clone(),
            credentials,
        )))
    }

    async fn opener(&self, url: &RemoteUrl) -> Result<Arc<RemoteOpener>> {
        let mut key = OpenerKey::of(url);
        let mut settings = RemoteSettings::default();
        if let RemoteUrl::S3(s3) = url
            && let Some(found) = self.named.lock().await.get(s3)
        {
            settings = found.clone();
            key.profile = settings.profile(s3).map(str::to_owned);
            key.named = Some(s3.clone());
        }
        let mut openers = self.openers.lock().await;
        if let Some(opener) = openers.get(&key) {
            return Ok(Arc::clone(opener));
        }
        let profile = key.profile.as_deref();
        let aws = if key.needs_region {
            self.aws(profile, None).await?
        } else {
            self.aws_of_bucket(profile, settings.region()).await?
        };
        let encryption = settings.own_encryption();
        let config = OpenerConfig {
            s3: settings.s3().clone(),
            encryption: encryption.unwrap_or(&self.config.encryption).clone(),
            ..self.config.clone()
        };
        let archiver = Arc::new(ZipArchiver::new(ARCHIVE_MEMORY_BYTES));
        let credentials = Arc::clone(&self.credentials);
        let opener = RemoteOpener::new(aws, &config)?
            .with_archiver(archiver)
            .with_http_credentials(credentials)
            .with_trusted_lfs_configs();
        let opener = Arc::new(opener);
        openers.insert(key, Arc::clone(&opener));
        Ok(opener)
    }
}

#[async_trait]
impl OpenRemote for TerminalRemotes {
    async fn open(&self, spec: &RemoteSpec, memory: usize) -> Result<Arc<dyn Remote>> {
        let opener = self.opener(&spec.url).await?;
        let remote = opener.open(spec, memory).await?;
        Ok(self.with_login(spec, remote))
    }

    async fn open_source(&self, spec: &RemoteSpec, memory: usize) -> Result<Arc<dyn Remote>> {
        let opener = self.opener(&spec.url).await?;
        let remote = opener.open_source(spec, memory).await?;
        Ok(self.with_login(spec, remote))
    }

    async fn open_archived(
        &self,
        spec: &RemoteSpec,
        memory: usize,
        commit: ObjectId,
    ) -> Result<Arc<dyn Remote>> {
        let opener = self.opener(&spec.url).await?;
        let remote = opener.open_archived(spec, memory, commit).await?;
        Ok(self.with_login(spec, remote))
    }
}

impl TerminalRemotes {
    /// Has git asked for a login to a git server, once the server requires one.
    fn with_login(&self, spec: &RemoteSpec, remote: Arc<dyn Remote>) -> Arc<dyn Remote> {
        match &spec.url {
            RemoteUrl::Http(url) if spec.credentials.is_none() && url.credentials().is_none() => {
                let credentials = Arc::clone(&self.credentials);
                Arc::new(LoginOnDemand::new(remote, url.clone(), credentials))
            }
            _ => remote,
        }
    }
}

/// Replaces the hint of an error about credentials by the command that renews those of a URL.
pub(crate) async fn explain_for(error: Error, urls: &[&RemoteUrl]) -> Error {
    let profile = urls.iter().find_map(|url| OpenerKey::of(url).profile);
    explain(error, profile.as_deref()).await
}
