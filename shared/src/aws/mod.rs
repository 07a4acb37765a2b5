//! One configuration of the AWS SDK for all clients: credentials, region, endpoints,
//! timeouts and the HTTP client that they share.
//!
//! The SDK's own retries are off: [`crate::retry`] decides. Used by the `client` modules
//! of the services and by programs; nothing else sees an SDK type.

mod connection_pool;
mod git_http;
#[cfg(feature = "event-bus")]
mod json_service;
mod profile;
mod proxied_http;
#[cfg(feature = "client")]
#[cfg_attr(
    not(feature = "codecommit"),
    expect(
        dead_code,
        reason = "the client of CodeCommit alone holds answers back"
    )
)]
mod response_body;
#[cfg(feature = "client")]
mod sdk_error;
mod server_address;

use std::time::Duration;

use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_http_client::tls;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_types::retry::RetryConfig;
#[cfg(any(feature = "event-bus", feature = "s3"))]
use aws_types::service_config::ServiceConfigKey;

use crate::error::{Error, ErrorKind, Result};
use connection_pool::Connections;

pub use git_http::{HttpSettings, git_http};
#[cfg(feature = "event-bus")]
pub(crate) use json_service::{JsonEndpoint, JsonService};
pub use profile::{CredentialSetup, Profiles};
#[cfg(feature = "codecommit")]
pub(crate) use response_body::BodyGate;
#[cfg(feature = "client")]
pub(crate) use response_body::IdleTimeout;
#[cfg(any(
    feature = "codecommit",
    feature = "codepipeline",
    feature = "kms",
    feature = "roles",
    feature = "s3"
))]
pub(crate) use sdk_error::corrupt;
#[cfg(feature = "client")]
pub use sdk_error::is_credentials_failure;
#[cfg(feature = "client")]
pub(crate) use sdk_error::{ApiCall, SdkFailure};

/// Maximum wait for a connection: longer than one lost SYN (1 s) and its repetition,
/// because a reachable host answers within milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(3_100);

/// Maximum wait from the first byte of a request to the headers of its answer. Covers
/// sending a part of 64 MiB at 10 Mbit/s, and the time that S3 needs for
/// `CompleteMultipartUpload`.
const READ_TIMEOUT: Duration = Duration::from_mins(1);

/// Maximum pause within an answer. The timer runs only while the answer is being read, so
/// that an answer that branchline itself delays (see
/// [`BlobAdmission`](crate::codecommit::BlobAdmission)) is not cut. The SDK's attempt timeout and
/// stalled-stream protection are off, because they cannot distinguish the two.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Overrides of the `AWS_*` variables.
#[derive(Debug, Clone, Default)]
pub struct AwsOverrides {
    /// Region; `AWS_REGION` or the profile's when `None`.
    pub region: Option<String>,
    /// Region where neither a variable nor the profile names one. With it, the instance metadata
    /// service is not asked for a region.
    pub default_region: Option<String>,
    /// Profile, whose credentials take precedence over those in the environment, as in boto3;
    /// `AWS_PROFILE`, which does not take precedence, when `None`.
    pub profile: Option<String>,
    /// Endpoint of all services; `AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_S3`, .. when
    /// `None`.
    pub endpoint_url: Option<String>,
    /// Proxies and certificates. Its timeouts are those of git over HTTP, and not used.
    pub http: HttpSettings,
}

/// Access key that [`Aws::fixed`] signs with.
#[derive(Clone)]
#[expect(missing_docs, reason = "the names are AWS's")]
pub struct AccessKey {
    pub id: String,
    pub secret: String,
    /// Set for temporary credentials.
    pub session_token: Option<String>,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccessKey({})", self.id)
    }
}

/// Configuration of the SDK, shared by all clients.
#[derive(Debug, Clone)]
pub struct Aws {
    sdk: SdkConfig,
    idle_timeout: Duration,
    connections: Connections,
}

impl Aws {
    /// Reads the environment and the profile files as AWS documents it for its SDKs
    /// (`AWS_REGION`, `AWS_PROFILE`, `AWS_ENDPOINT_URL_S3`,
    /// `AWS_REQUEST_CHECKSUM_CALCULATION`, ..). Makes no request: credentials are resolved
    /// with the first one. With a region and keys in the environment, as in Lambda, the
    /// instance metadata service is never called.
    ///
    /// # Errors
    /// `Config` when no region is configured, when the profile of `overrides` does not exist, or
    /// for a proxy or certificate that is not valid.
    pub async fn load(overrides: AwsOverrides) -> Result<Self> {
        let connections = if overrides.http.is_direct() {
            Connections::new(direct_http_client)
        } else {
            proxied_http::connections(&overrides.http)?
        };
        let http_client = connections.http_client();
        let mut loader: ConfigLoader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http_client.clone())
            .app_name(app_name())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        let region = match (overrides.region, overrides.default_region) {
            (Some(region), _) => Some(Region::new(region)),
            (None, Some(default)) => {
                profile::configured_region(overrides.profile.as_deref(), default).await
            }
            (None, None) => None,
        };
        if let Some(region) = region.clone() {
            loader = loader.region(region);
        }
        if let Some(profile) = overrides.profile {
            let provider = profile::credentials_provider(&profile, region, http_client).await?;
            loader = loader.profile_name(profile).credentials_provider(provider);
        }
        if let Some(endpoint_url) = overrides.endpoint_url {
            loader = loader.endpoint_url(endpoint_url);
        }
        let sdk = loader.load().await;
        if sdk.region().is_none() {
            return Err(Error::new(ErrorKind::Config, "no AWS region is configured")
                .with_hint("set AWS_REGION, or `region` in the profile that AWS_PROFILE names"));
        }
        Ok(Self {
            sdk,
            idle_timeout: IDLE_TIMEOUT,
            connections,
        })
    }

    /// Makes a configuration without reading the environment: one endpoint for all services,
    /// one key.
    pub fn fixed(region: &str, endpoint_url: &str, key: &AccessKey) -> Self {
        let credentials = Credentials::new(
            &key.id,
            &key.secret,
            key.session_token.clone(),
            None,
            "fixed",
        );
        let connections = Connections::new(direct_http_client);
        let sdk = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            .endpoint_url(endpoint_url)
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(connections.http_client())
            .app_name(app_name())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .build();
        Self {
            sdk,
            idle_timeout: IDLE_TIMEOUT,
            connections,
        }
    }

    /// Returns this configuration with another region.
    #[must_use]
    pub fn with_region(&self, region: &str) -> Self {
        let builder = self.sdk.to_builder();
        Self {
            sdk: builder.region(Region::new(region.to_owned())).build(),
            idle_timeout: self.idle_timeout,
            connections: self.connections.clone(),
        }
    }

    /// Returns this configuration with other credentials.
    #[cfg(feature = "roles")]
    #[must_use]
    pub(crate) fn with_credentials(&self, credentials: SharedCredentialsProvider) -> Self {
        let builder = self.sdk.to_builder();
        Self {
            sdk: builder.credentials_provider(credentials).build(),
            idle_timeout: self.idle_timeout,
            connections: self.connections.clone(),
        }
    }

    /// Sets the maximum pause within an answer.
    #[must_use]
    pub fn with_idle_timeout(mut self, idle_timeout: Duration) -> Self {
        self.idle_timeout = idle_timeout;
        self
    }

    /// Returns the SDK's configuration, for programs that make further clients.
    pub fn sdk(&self) -> &SdkConfig {
        &self.sdk
    }

    /// Returns the region.
    pub fn region(&self) -> &str {
        self.sdk.region().map_or("", AsRef::as_ref)
    }

    /// Returns the interceptor that every client adds, which fails answers that pause too
    /// long.
    #[cfg(feature = "client")]
    pub(crate) fn idle_timeout(&self) -> IdleTimeout {
        IdleTimeout::new(self.idle_timeout, self.connections.clone())
    }

    /// Returns the endpoint of a service where requests go elsewhere than to AWS, by the SDK's
    /// rules; `id` as in `AWS_ENDPOINT_URL_<ID>`.
    #[cfg(any(feature = "event-bus", feature = "s3"))]
    pub(crate) fn endpoint_override(&self, id: &str) -> Option<String> {
        let of_service = || {
            let key = ServiceConfigKey::builder()
                .service_id(id)
                .env("AWS_ENDPOINT_URL")
                .profile("endpoint_url")
                .build()
                .ok()?;
            self.sdk.service_config()?.load_config(key)
        };
        of_service().or_else(|| self.sdk.endpoint_url().map(str::to_owned))
    }
}

fn app_name() -> AppName {
    AppName::new("branchline").expect("because letters are legal in an application's name")
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .build()
}

/// Makes the HTTP client: rustls over ring with the system's certificates, and plain HTTP
/// for endpoints with `http://`.
fn direct_http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(
            tls::rustls_provider::CryptoMode::Ring,
        ))
        .build_https()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let key = AccessKey {
            id: "AKID".into(),
            secret: "SECRET".into(),
            session_token: Some("TOKEN".into()),
        };
        let aws = Aws::fixed("eu-west-1", "http://127.0.0.1:1", &key);
        let shown = format!("{key:?} {aws:?}");
        assert!(
            !shown.contains("SECRET") && !shown.contains("TOKEN"),
            "{shown}"
        );
        assert_eq!(aws.region(), "eu-west-1");
        assert!(aws.endpoint_override("S3").is_some());
    }
}
