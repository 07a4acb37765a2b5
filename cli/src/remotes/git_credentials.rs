//! Users and passwords of git servers, from git's credential helpers.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use branchline_core::git::smart_http::{CredentialSource, Credentials, RepositoryUrl};
use branchline_core::lfs::{LfsBody, LfsStore, Pointer};
use branchline_core::remote::{Remote, Source, Target};
use branchline_core::{Error, ErrorKind, Result};
use bstr::{BString, ByteSlice as _};
use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use crate::local_git;

/// Credentials by server and path, as git's helpers gave them. Empty until a server requires them.
#[derive(Default)]
pub(crate) struct GitCredentials {
    known: RwLock<HashMap<String, Credentials>>,
    /// Held while a helper runs, which may ask at the terminal.
    asking: Mutex<()>,
}

#[async_trait]
impl CredentialSource for GitCredentials {
    async fn credentials(
        &self,
        repository: &RepositoryUrl,
    ) -> branchline_core::git::Result<Option<Credentials>> {
        Ok(self.known(repository))
    }
}

impl GitCredentials {
    fn known(&self, url: &RepositoryUrl) -> Option<Credentials> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let text = url.to_string();
        // The LFS server of a repository is below its URL.
        let is_below = |place: &String| {
            let rest = text.strip_prefix(place.as_str());
            rest.is_some_and(|rest| {
                rest.is_empty() || rest.starts_with('/') || rest.starts_with(".git/")
            })
        };
        known
            .iter()
            .find(|(place, _)| is_below(place))
            .map(|(_, credentials)| credentials.clone())
    }

    /// Asks git for the user and password of a URL, unless they are known.
    ///
    /// # Errors
    /// `AccessDenied` when no helper has them and nobody can be asked.
    async fn ask(&self, url: &RepositoryUrl) -> Result<()> {
        let _asking = self.asking.lock().await;
        if self.known(url).is_some() {
            return Ok(());
        }
        let filled = local_git::credential("fill", &description(url, None)).await;
        let filled = filled.map_err(|error| {
            let message = format!("{url} requires a user and a password");
            Error::new(ErrorKind::AccessDenied, message)
                .with_source(error)
                .with_hint(
                    "set up a credential helper of git for it (`git config credential.helper`), \
                     or run the command at a terminal",
                )
        })?;
        let value = |key: &str| {
            let prefix = format!("{key}=");
            let mut lines = filled.lines();
            let line = lines.find_map(|line| line.strip_prefix(prefix.as_bytes()))?;
            Some(line.to_str_lossy().into_owned())
        };
        let (Some(user), Some(password)) = (value("username"), value("password")) else {
            let message = format!("git has no user and password for {url}");
            return Err(Error::new(ErrorKind::AccessDenied, message));
        };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(url.to_string(), Credentials::new(user, password));
        Ok(())
    }

    /// Tells git's helpers whether the server accepted the credentials.
    async fn report(&self, url: &RepositoryUrl, accepted: bool) {
        let Some(credentials) = self.known(url) else {
            return;
        };
        let verdict = if accepted { "approve" } else { "reject" };
        // A helper that cannot store credentials has no effect on this run.
        let _ = local_git::credential(verdict, &description(url, Some(&credentials))).await;
        if !accepted {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            known.remove(&url.to_string());
        }
    }
}

impl GitCredentials {
    /// Makes a request, and once more with a login if it is denied.
    async fn log_in<'a, T>(
        &self,
        url: &RepositoryUrl,
        request: impl Fn() -> BoxFuture<'a, Result<T>> + Sync,
    ) -> Result<T> {
        let was_known = self.known(url).is_some();
        match request().await {
            Err(error) if error.kind() == ErrorKind::AccessDenied && !was_known => {}
            answered => return answered,
        }
        self.ask(url).await?;
        let answered = request().await;
        match &answered {
            Ok(_) => self.report(url, true).await,
            Err(error) if error.kind() == ErrorKind::AccessDenied => {
                self.report(url, false).await;
            }
            Err(_) => {}
        }
        answered
    }
}

/// Returns the description of a URL that `git credential` reads.
fn description(url: &RepositoryUrl, credentials: Option<&Credentials>) -> Vec<u8> {
    let mut text = format!(
        "protocol={}\nhost={}\npath={}\n",
        url.scheme(),
        url.authority(),
        url.path().trim_start_matches('/')
    );
    if let Some(credentials) = credentials {
        let (user, password) = (credentials.user(), credentials.password());
        text.extend(["username=", user, "\npassword=", password, "\n"]);
    }
    text.push('\n');
    text.into_bytes()
}

/// A repository on a git server that is logged in to only if the server requires it.
pub(crate) struct LoginOnDemand {
    remote: Arc<dyn Remote>,
    url: RepositoryUrl,
    credentials: Arc<GitCredentials>,
}

impl LoginOnDemand {
    pub(crate) fn new(
        remote: Arc<dyn Remote>,
        url: RepositoryUrl,
        credentials: Arc<GitCredentials>,
    ) -> Self {
        Self {
            remote,
            url,
            credentials,
        }
    }

    async fn open<'a, T>(&self, open: impl Fn() -> BoxFuture<'a, Result<T>> + Sync) -> Result<T> {
        self.credentials.log_in(&self.url, open).await
    }
}

impl fmt::Display for LoginOnDemand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.remote.fmt(f)
    }
}

#[async_trait]
impl Remote for LoginOnDemand {
    async fn source(&self, prefixes: &[BString]) -> Result<Box<dyn Source>> {
        self.open(|| self.remote.source(prefixes)).await
    }

    async fn target(&self) -> Result<Box<dyn Target>> {
        self.open(|| self.remote.target()).await
    }

    fn lfs(&self) -> Option<Arc<dyn LfsStore>> {
        self.remote.lfs()
    }
}

/// LFS objects on a web server that is logged in to only if the server requires it.
pub(crate) struct LfsLoginOnDemand {
    store: Arc<dyn LfsStore>,
    url: RepositoryUrl,
    credentials: Arc<GitCredentials>,
}

impl LfsLoginOnDemand {
    pub(crate) fn new(
        store: Arc<dyn LfsStore>,
        url: RepositoryUrl,
        credentials: Arc<GitCredentials>,
    ) -> Self {
        Self {
            store,
            url,
            credentials,
        }
    }
}

impl fmt::Display for LfsLoginOnDemand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait]
impl LfsStore for LfsLoginOnDemand {
    async fn missing(&self, pointers: &[Pointer]) -> Result<Vec<Pointer>> {
        self.store.missing(pointers).await
    }

    async fn read(&self, pointer: &Pointer) -> Result<LfsBody> {
        let read = || self.store.read(pointer);
        self.credentials.log_in(&self.url, read).await
    }

    async fn read_from(&self, pointer: &Pointer, position: u64) -> Result<LfsBody> {
        let read = || self.store.read_from(pointer, position);
        self.credentials.log_in(&self.url, read).await
    }

    async fn write(&self, pointer: &Pointer, content: LfsBody) -> Result<()> {
        self.store.write(pointer, content).await
    }
}
