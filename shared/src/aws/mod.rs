//! One configuration of the AWS SDK for all clients: credentials, region, endpoints,
//! timeouts and the HTTP client that they share.
//!
//! The SDK's own retries are off: [`crate::retry`] decides. Used by the `client` modules
//! of the services and by programs; nothing else sees an SDK type.

mod git_http;
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

use std::time::Duration;

use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_http_client::tls;
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::retry::RetryConfig;
#[cfg(feature = "s3")]
use aws_types::service_config::ServiceConfigKey;

use crate::error::{Error, ErrorKind, Result};

pub use git_http::{HttpSettings, git_http};
#[cfg(feature = "codecommit")]
pub(crate) use response_body::BodyGate;
#[cfg(feature = "client")]
pub(crate) use response_body::IdleTimeout;
#[cfg(any(feature = "codecommit", feature = "codepipeline", feature = "s3"))]
pub(crate) use sdk_error::corrupt;
#[cfg(feature = "client")]
pub(crate) use sdk_error::{ApiCall, SdkFailure};

/// The longest wait for a connection. A host that is there answers within milliseconds;
/// longer than one lost SYN (1 s) and its repetition.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(3_100);

/// The longest wait from the first byte of a request to the headers of its answer. It
/// covers the sending of a part of 64 MiB at 10 Mbit/s and the time that S3 takes over
/// `CompleteMultipartUpload`.
const READ_TIMEOUT: Duration = Duration::from_mins(1);

/// The longest silence in the middle of an answer. It runs only while the answer is being
/// read: one that branchline itself holds back (see
/// [`BlobAdmission`](crate::codecommit::BlobAdmission)) is not cut. That is why the SDK's attempt
/// timeout and stalled-stream protection, which cannot tell the two apart, are off.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// What a program may say beside what the `AWS_*` variables say.
#[derive(Debug, Clone, Default)]
pub struct AwsOverrides {
    /// The region; `AWS_REGION` or the profile's when `None`.
    pub region: Option<String>,
    /// The profile; `AWS_PROFILE` when `None`.
    pub profile: Option<String>,
    /// The endpoint of all services; `AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_S3`, .. when
    /// `None`.
    pub endpoint_url: Option<String>,
}

/// The access key that [`Aws::fixed`] signs with.
#[derive(Clone)]
pub struct AccessKey {
    /// The access key id.
    pub id: String,
    /// The secret access key.
    pub secret: String,
    /// The session token of temporary credentials.
    pub session_token: Option<String>,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccessKey({})", self.id)
    }
}

/// The configuration of the SDK, shared by all clients.
#[derive(Debug, Clone)]
pub struct Aws {
    sdk: SdkConfig,
    idle_timeout: Duration,
}

impl Aws {
    /// Reads the environment and the profile files as AWS documents it for its SDKs
    /// (`AWS_REGION`, `AWS_PROFILE`, `AWS_ENDPOINT_URL_S3`,
    /// `AWS_REQUEST_CHECKSUM_CALCULATION`, ..). Makes no request: credentials are looked
    /// for when the first one is made. With a region and keys in the environment, as in
    /// Lambda, the instance metadata service is never asked.
    pub async fn load(settings: AwsOverrides) -> Result<Self> {
        let mut loader: ConfigLoader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http_client())
            .app_name(app_name())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(region) = settings.region {
            loader = loader.region(Region::new(region));
        }
        if let Some(profile) = settings.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(endpoint_url) = settings.endpoint_url {
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
        })
    }

    /// A configuration that reads nothing: one endpoint for all services, one key.
    pub fn fixed(region: &str, endpoint_url: &str, key: &AccessKey) -> Self {
        let credentials = Credentials::new(
            &key.id,
            &key.secret,
            key.session_token.clone(),
            None,
            "fixed",
        );
        let sdk = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            .endpoint_url(endpoint_url)
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(http_client())
            .app_name(app_name())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .build();
        Self {
            sdk,
            idle_timeout: IDLE_TIMEOUT,
        }
    }

    /// The same in another region.
    #[must_use]
    pub fn with_region(&self, region: &str) -> Self {
        let builder = self.sdk.to_builder();
        Self {
            sdk: builder.region(Region::new(region.to_owned())).build(),
            idle_timeout: self.idle_timeout,
        }
    }

    /// Shortens or lengthens the longest silence in the middle of an answer.
    #[must_use]
    pub fn with_idle_timeout(mut self, idle_timeout: Duration) -> Self {
        self.idle_timeout = idle_timeout;
        self
    }

    /// The SDK's own form, for a program that makes further clients of it.
    pub fn sdk(&self) -> &SdkConfig {
        &self.sdk
    }

    /// The region.
    pub fn region(&self) -> &str {
        self.sdk.region().map_or("", AsRef::as_ref)
    }

    /// What every client of ours adds: cuts answers that fall silent.
    #[cfg(feature = "client")]
    pub(crate) fn idle_timeout(&self) -> IdleTimeout {
        IdleTimeout(self.idle_timeout)
    }

    /// Whether requests to a service go somewhere else than to AWS, as the SDK finds it
    /// out: `id` as in `AWS_ENDPOINT_URL_<ID>`.
    #[cfg(feature = "s3")]
    pub(crate) fn has_endpoint_override(&self, id: &str) -> bool {
        let of_service = || {
            let key = ServiceConfigKey::builder()
                .service_id(id)
                .env("AWS_ENDPOINT_URL")
                .profile("endpoint_url")
                .build()
                .ok()?;
            self.sdk.service_config()?.load_config(key)
        };
        self.sdk.endpoint_url().is_some() || of_service().is_some()
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

/// The one HTTP client: rustls over ring with the system's certificates; speaks plain
/// HTTP where an endpoint says `http://`.
fn http_client() -> SharedHttpClient {
    let client = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(
            tls::rustls_provider::CryptoMode::Ring,
        ))
        .build_https();
    SharedHttpClient::new(OnFirstRequest(client))
}

/// Reads the system's certificates when the first request is made, not when a client is:
/// that is most of the time that a function's start would take. The client itself does so
/// while its configuration is validated, which is left out here.
#[derive(Debug)]
struct OnFirstRequest(SharedHttpClient);

impl HttpClient for OnFirstRequest {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        self.0.http_connector(settings, components)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.0.connector_metadata()
    }
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
        assert!(aws.has_endpoint_override("S3"));
    }
}
