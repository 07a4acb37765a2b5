//! Git's smart HTTP protocol (`gitprotocol-http`), the client's side.
//!
//! | file | |
//! |---|---|
//! | `url`, `credentials`, `credential_source` | the URL of a repository, and the login for its origin |
//! | `connector`, `upload` | the HTTP stack of the caller, and streamed request bodies |
//! | `transport` | requests of the protocol, and the errors of their responses |
//! | `body` | response bodies: bytes, packets, and packs |
//! | `fetch`, `push` | the two exchanges |
//! | `call` | other requests over the same connections, as for git LFS |
//!
//! [`SmartHttp`] is a repository at a URL. [`SmartHttp::upload_pack`] requests its refs for
//! [`UploadPack::fetch`], [`SmartHttp::receive_pack`] for [`ReceivePack::push`]. Packs are
//! streamed in both directions.
//!
//! No request is retried here: callers decide by the kind of the error.

mod body;
mod call;
mod connector;
mod credential_source;
mod credentials;
mod fetch;
mod push;
mod transport;
mod upload;
mod url;

use std::sync::Arc;

use bstr::BString;

pub use body::PackStream;
pub use call::{Address, CallBody, HttpRequestSpec, HttpResponse};
pub use connector::{ConnectError, Http, HttpConnector, HttpTimeouts, ResponseStream};
pub use credential_source::{CredentialSource, NoCredentials};
pub use credentials::Credentials;
pub use fetch::{FetchFilter, FetchRequest, FetchResponse, Negotiator, TipNegotiator};
pub use push::{PushRequest, RefCommand, ReportStatus};
pub use upload::RequestBody;
pub use url::RepositoryUrl;

use crate::dumb_http::parse_info_refs_and_ignored;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::advertisement::{
    Advertisement, AdvertisementReader, LsRefsReader, MAX_REF_BYTES, Service, Version,
    ls_refs_request,
};
use crate::protocol::smart_http::body::ResponseReader;
use crate::protocol::smart_http::transport::{InfoRefs, Payload};
use crate::refs::{IgnoredRefs, Refs};

/// A repository at a URL.
#[derive(Clone)]
pub struct SmartHttp {
    http: Http,
    url: RepositoryUrl,
    // Credentials are sent to the origin of this URL only.
    origin: RepositoryUrl,
    credentials: Arc<dyn CredentialSource>,
    highest: Version,
}

impl std::fmt::Debug for SmartHttp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SmartHttp")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// A repository to fetch from, with its refs.
#[derive(Debug)]
pub struct UploadPack {
    client: SmartHttp,
    /// The advertisement of the server.
    pub advertisement: Advertisement,
}

/// A repository to push to, with its refs.
#[derive(Debug)]
pub struct ReceivePack {
    client: SmartHttp,
    /// The advertisement of the server.
    pub advertisement: Advertisement,
}

/// A repository whose files a server serves as they are (git's "dumb" protocol).
#[derive(Debug)]
pub struct DumbHttp {
    client: SmartHttp,
    /// The refs of `info/refs`.
    pub refs: Refs,
    /// Refs whose names git does not allow; they are not in `refs`.
    pub ignored: IgnoredRefs,
}

impl DumbHttp {
    /// Returns the client of the repository at its URL after redirects.
    pub fn client(&self) -> &SmartHttp {
        &self.client
    }
}

/// A repository to fetch from, as its server offers it.
#[derive(Debug)]
pub enum FetchSource {
    /// The server speaks git's protocol.
    Smart(UploadPack),
    /// The server serves files.
    Dumb(DumbHttp),
}

impl SmartHttp {
    /// Creates a client of the repository at `url`. `credentials` are requested for each
    /// request, unless `url` contains a user and password.
    pub fn new(http: Http, url: RepositoryUrl, credentials: Arc<dyn CredentialSource>) -> Self {
        Self {
            http,
            origin: url.clone(),
            url,
            credentials,
            highest: Version::V2,
        }
    }

    /// Limits the version of the protocol to `highest`.
    #[must_use]
    pub fn with_version(mut self, highest: Version) -> Self {
        self.highest = highest;
        self
    }

    /// Returns the URL of the repository, after redirects.
    pub fn url(&self) -> &RepositoryUrl {
        &self.url
    }

    /// Requests the refs to fetch from: all refs, or (in version 2) those that start with one
    /// of `prefixes`.
    ///
    /// # Errors
    /// `Config` for a server that does not speak git's protocol.
    pub async fn upload_pack(&self, prefixes: &[BString]) -> Result<UploadPack> {
        let found = self.info_refs(Service::UploadPack).await?;
        match found.other_type {
            None => self.list_refs(found, prefixes).await,
            Some(error) => Err(error),
        }
    }

    /// Like [`upload_pack`](Self::upload_pack), also from a server that serves files.
    ///
    /// # Errors
    /// `Config` for a response that is neither in git's protocol nor the file `info/refs`.
    pub async fn fetch_source(&self, prefixes: &[BString]) -> Result<FetchSource> {
        let found = self.info_refs(Service::UploadPack).await?;
        let Some(error) = found.other_type else {
            let smart = self.list_refs(found, prefixes).await?;
            return Ok(FetchSource::Smart(smart));
        };
        let bytes = found.body.read(MAX_REF_BYTES).await?;
        let (refs, ignored) = parse_info_refs_and_ignored(&bytes).map_err(|cause| {
            error
                .with_source(cause)
                .with_hint("is this the URL of a git repository?")
        })?;
        let client = Self {
            url: found.url,
            ..self.clone()
        };
        Ok(FetchSource::Dumb(DumbHttp {
            client,
            refs,
            ignored,
        }))
    }

    async fn list_refs(&self, found: InfoRefs, prefixes: &[BString]) -> Result<UploadPack> {
        let (client, mut advertisement) =
            self.read_advertisement(Service::UploadPack, found).await?;
        if advertisement.version == Version::V2 {
            if !advertisement.capabilities.has("ls-refs") {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!("{} does not offer the command `ls-refs`", client.url),
                ));
            }
            let request = ls_refs_request(&advertisement, prefixes)?;
            let mut packets = client
                .post(Service::UploadPack, Version::V2, Payload::Bytes(request))
                .await?;
            let mut reader = LsRefsReader::new();
            loop {
                let packet = packets.expect_packet().await?;
                if reader.push(&packet, &mut advertisement)? {
                    break;
                }
            }
        }
        Ok(UploadPack {
            client,
            advertisement,
        })
    }

    /// Requests the refs to push to.
    pub async fn receive_pack(&self) -> Result<ReceivePack> {
        let found = self.info_refs(Service::ReceivePack).await?;
        if let Some(error) = found.other_type {
            return Err(error.with_hint("only a server that speaks smart HTTP can be pushed to"));
        }
        let (client, advertisement) = self.read_advertisement(Service::ReceivePack, found).await?;
        if advertisement.version != Version::V0 {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "{} offers pushes only in a version of the protocol that git does not define",
                    client.url
                ),
            ));
        }
        Ok(ReceivePack {
            client,
            advertisement,
        })
    }

    async fn info_refs(&self, service: Service) -> Result<InfoRefs> {
        let version = match service {
            Service::UploadPack => self.highest,
            Service::ReceivePack => Version::V0,
        };
        transport::get_info_refs(self, service, version).await
    }

    async fn read_advertisement(
        &self,
        service: Service,
        found: InfoRefs,
    ) -> Result<(Self, Advertisement)> {
        let InfoRefs { url, body, .. } = found;
        let mut packets = ResponseReader::new(body);
        let mut reader = AdvertisementReader::new(service);
        loop {
            let packet = packets.expect_packet().await?;
            if reader.push(&packet)? {
                break;
            }
        }
        let advertisement = reader.finish()?;
        let client = Self {
            url,
            ..self.clone()
        };
        Ok((client, advertisement))
    }

    async fn post(
        &self,
        service: Service,
        version: Version,
        payload: Payload,
    ) -> Result<ResponseReader> {
        let body = transport::post(self, service, version, payload).await?;
        Ok(ResponseReader::new(body))
    }
}
