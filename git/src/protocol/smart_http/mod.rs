//! Git's smart HTTP protocol (`gitprotocol-http`), the client's side.
//!
//! [`SmartHttp`] is a repository at a URL. [`SmartHttp::upload_pack`] asks for its refs,
//! and what it answers can [`UploadPack::fetch`]; [`SmartHttp::receive_pack`] likewise
//! leads to [`ReceivePack::push`]. Packs go by as streams in both directions: nothing is
//! held but what is under way.
//!
//! Nothing is tried again here: errors carry the kind by which callers decide that.

mod body;
mod call;
mod connector;
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
pub use connector::{ConnectError, Http, HttpConnector, HttpTimeouts, RequestBody, ResponseStream};
pub use credentials::{CredentialSource, Credentials, NoCredentials};
pub use fetch::{FetchRequest, FetchResponse, Negotiator, TipNegotiator};
pub use push::{PushRequest, RefCommand, ReportStatus};
pub use url::RepositoryUrl;

use crate::error::{Error, ErrorKind, Result};
use crate::protocol::advertisement::{
    Advertisement, AdvertisementReader, LsRefsReader, Service, Version, ls_refs_request,
};
use crate::protocol::smart_http::body::PacketReader;
use crate::protocol::smart_http::transport::Payload;

/// A repository at a URL.
#[derive(Clone)]
pub struct SmartHttp {
    http: Http,
    url: RepositoryUrl,
    // Credentials never leave for another origin than this URL's.
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

/// A repository whose refs are known, to fetch from.
#[derive(Debug)]
pub struct UploadPack {
    client: SmartHttp,
    /// What the server said.
    pub advertisement: Advertisement,
}

/// A repository whose refs are known, to push to.
#[derive(Debug)]
pub struct ReceivePack {
    client: SmartHttp,
    /// What the server said.
    pub advertisement: Advertisement,
}

impl SmartHttp {
    /// The repository at `url`. `credentials` are asked anew for each request; user and
    /// password in the URL go before them.
    pub fn new(http: Http, url: RepositoryUrl, credentials: Arc<dyn CredentialSource>) -> Self {
        Self {
            http,
            origin: url.clone(),
            url,
            credentials,
            highest: Version::V2,
        }
    }

    /// Speaks no newer version of the protocol than that one.
    #[must_use]
    pub fn with_version(mut self, highest: Version) -> Self {
        self.highest = highest;
        self
    }

    /// Where the repository is, after redirects.
    pub fn url(&self) -> &RepositoryUrl {
        &self.url
    }

    /// Asks for the refs to fetch from: all, or (where the server can) those that start
    /// with one of `prefixes`. Version 0 always answers all of them.
    pub async fn upload_pack(&self, prefixes: &[BString]) -> Result<UploadPack> {
        let (client, mut advertisement) = self.info_refs(Service::UploadPack).await?;
        if advertisement.version == Version::V2 {
            if !advertisement.capabilities.has("ls-refs") {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!("{} does not list its refs", client.url),
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

    /// Asks for the refs to push to.
    pub async fn receive_pack(&self) -> Result<ReceivePack> {
        let (client, advertisement) = self.info_refs(Service::ReceivePack).await?;
        if advertisement.version != Version::V0 {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{} takes no pushes in this protocol", client.url),
            ));
        }
        Ok(ReceivePack {
            client,
            advertisement,
        })
    }

    async fn info_refs(&self, service: Service) -> Result<(Self, Advertisement)> {
        let version = match service {
            Service::UploadPack => self.highest,
            Service::ReceivePack => Version::V0,
        };
        let (url, body) = transport::get_info_refs(self, service, version).await?;
        let mut packets = PacketReader::new(body);
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
    ) -> Result<PacketReader> {
        let body = transport::post(self, service, version, payload).await?;
        Ok(PacketReader::new(body))
    }
}
