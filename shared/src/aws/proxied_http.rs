//! The HTTP client of the AWS clients behind proxies, or with certificates of its own.

use std::collections::HashMap;
use std::fmt;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext};
use aws_smithy_http_client::{Connector, ConnectorBuilder};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

use super::HttpSettings;
use super::connection_pool::Connections;
use super::git_http::{proxies, tls_context};
use crate::error::Result;

/// Hosts of the metadata services of EC2 and ECS, which no proxy reaches.
const WITHOUT_PROXY: &str = "169.254.169.254,169.254.170.2,169.254.170.23";

/// Makes the connections of the clients.
///
/// # Errors
/// `Config` for a proxy or certificate that is not valid.
pub(super) fn connections(settings: &HttpSettings) -> Result<Connections> {
    let no_proxy = match &settings.no_proxy {
        Some(hosts) => format!("{hosts},{WITHOUT_PROXY}"),
        None => WITHOUT_PROXY.to_owned(),
    };
    let settings = HttpSettings {
        no_proxy: Some(no_proxy),
        ..settings.clone()
    };
    let (http, https) = proxies(&settings)?;
    let context = tls_context(&settings)?;
    Ok(Connections::new(move || {
        SharedHttpClient::new(ProxiedClient {
            http: http.clone(),
            https: https.clone(),
            context: context.clone(),
            connectors: Mutex::default(),
        })
    }))
}

/// Timeouts of a connector: for the connection, and for reading.
type Timeouts = (Option<Duration>, Option<Duration>);

/// Client whose connectors choose the proxy by the scheme of the URL.
struct ProxiedClient {
    http: ProxyConfig,
    https: ProxyConfig,
    context: TlsContext,
    connectors: Mutex<HashMap<Timeouts, SharedHttpConnector>>,
}

impl fmt::Debug for ProxiedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Proxies may contain passwords.
        f.debug_struct("ProxiedClient").finish_non_exhaustive()
    }
}

impl HttpClient for ProxiedClient {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        _components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let timeouts = (settings.connect_timeout(), settings.read_timeout());
        let mut connectors = self
            .connectors
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let connector = connectors.entry(timeouts).or_insert_with(|| {
            let builder = |proxy: &ProxyConfig| -> ConnectorBuilder {
                Connector::builder()
                    .connector_settings(settings.clone())
                    .proxy_config(proxy.clone())
            };
            let connect = |proxy| -> LazyConnector {
                let builder = builder(proxy)
                    .tls_provider(Provider::Rustls(CryptoMode::Ring))
                    .tls_context(self.context.clone());
                LazyLock::new(Box::new(move || SharedHttpConnector::new(builder.build())))
            };
            SharedHttpConnector::new(ByScheme {
                plain: connect(&self.http),
                secure: connect(&self.https),
            })
        });
        connector.clone()
    }
}

/// Connector that is built for its first request, because reading the system's certificates
/// takes a while.
type LazyConnector = LazyLock<SharedHttpConnector, Box<dyn FnOnce() -> SharedHttpConnector + Send>>;

/// Connectors of the two schemes.
struct ByScheme {
    plain: LazyConnector,
    secure: LazyConnector,
}

impl fmt::Debug for ByScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByScheme").finish_non_exhaustive()
    }
}

impl HttpConnector for ByScheme {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        if request.uri().starts_with("https:") {
            self.secure.call(request)
        } else {
            self.plain.call(request)
        }
    }
}
