//! Requests in AWS' JSON protocol to services of which no SDK crate is linked: signed by the SDK's
//! signer, with its credentials, endpoints and HTTP stack.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Connector, tls};
use aws_smithy_runtime_api::client::http::{
    HttpConnector as _, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use serde_json::Value;

use super::connection_pool::ConnectionPool;
use super::{Aws, CONNECT_TIMEOUT};

/// Maximum wait for an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses and names of a service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JsonEndpoint {
    /// Id of the service, as in `AWS_ENDPOINT_URL_<ID>`.
    pub(crate) id: &'static str,
    /// First part of its host, `events`.
    pub(crate) host: &'static str,
    /// Name of the service in signatures.
    pub(crate) signing_name: &'static str,
    /// Prefix of `X-Amz-Target`.
    pub(crate) target: &'static str,
}

/// A failed request.
#[derive(Debug)]
pub(crate) struct JsonFailure {
    /// The HTTP status; 0 without an answer.
    pub(crate) status: u16,
    /// The service's error code; empty without one.
    pub(crate) code: String,
    /// Description of the failed request.
    pub(crate) message: String,
}

/// A service of one region.
#[derive(Debug)]
pub(crate) struct JsonService {
    sdk: SdkConfig,
    endpoint: JsonEndpoint,
    url: String,
    pool: Arc<ConnectionPool<SharedHttpConnector>>,
}

impl JsonService {
    /// Makes a client.
    pub(crate) fn new(aws: &Aws, endpoint: JsonEndpoint) -> Self {
        let settings = HttpConnectorSettings::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .build();
        let pool = ConnectionPool::new(move || {
            let connector = Connector::builder()
                .connector_settings(settings.clone())
                .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
                .build();
            SharedHttpConnector::new(connector)
        });
        let url = aws.endpoint_override(endpoint.id);
        let url = url.unwrap_or_else(|| regional_url(aws.sdk(), endpoint.host));
        Self {
            sdk: aws.sdk().clone(),
            endpoint,
            url,
            pool,
        }
    }

    /// Calls one operation.
    pub(crate) async fn call(&self, operation: &str, input: &Value) -> Result<Value, JsonFailure> {
        let request = self.signed(operation, input.to_string()).await?;
        let (connector, guard) = self.pool.client();
        let response = connector.call(request).await;
        let response = response.map_err(|error| unsent(format!("no answer: {error}")))?;
        let status = response.status().as_u16();
        let body = ByteStream::new(response.into_body()).collect().await;
        let body = body.map_err(|error| unsent(format!("the answer ends early: {error}")))?;
        guard.complete();
        let answer: Value = serde_json::from_slice(&body.into_bytes()).unwrap_or_default();
        if status == 200 {
            return Ok(answer);
        }
        // `com.amazonaws.events#InternalException`, with a URI behind it in some services.
        let code = answer["__type"].as_str().unwrap_or_default();
        let code = code.rsplit('#').next().unwrap_or_default();
        let code: String = code
            .chars()
            .take(80)
            .filter(char::is_ascii_graphic)
            .collect();
        Err(JsonFailure {
            status,
            message: format!("{operation} was answered with status {status}"),
            code,
        })
    }

    async fn signed(&self, operation: &str, body: String) -> Result<HttpRequest, JsonFailure> {
        let provider = self.sdk.credentials_provider();
        let provider = provider.ok_or_else(|| unsent("there are no credentials"))?;
        let credentials = provider.provide_credentials().await;
        // The cause may be a secret's.
        let credentials = credentials.map_err(|_| unsent("there are no usable credentials"))?;
        let identity = Identity::from(credentials);
        let region = self.sdk.region().map_or("", AsRef::as_ref);
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(self.endpoint.signing_name)
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(unsent)?;
        let target = format!("{}.{operation}", self.endpoint.target);
        let headers = [
            ("content-type", "application/x-amz-json-1.1"),
            ("x-amz-target", target.as_str()),
        ];
        let url = format!("{}/", self.url.trim_end_matches('/'));
        let signable = SignableBody::Bytes(body.as_bytes());
        let signable = SignableRequest::new("POST", &url, headers.into_iter(), signable);
        let signable = signable.map_err(unsent)?;
        let signed = sign(signable, &parameters.into()).map_err(unsent)?;
        let mut request = http::Request::post(&url);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let mut request = request.body(SdkBody::from(body)).map_err(unsent)?;
        signed.into_parts().0.apply_to_request_http1x(&mut request);
        HttpRequest::try_from(request).map_err(unsent)
    }
}

fn unsent(message: impl std::fmt::Display) -> JsonFailure {
    JsonFailure {
        status: 0,
        code: String::new(),
        message: message.to_string(),
    }
}

/// Returns the service's address in the region, as the SDK's endpoint rules have it.
fn regional_url(sdk: &SdkConfig, host: &str) -> String {
    let region = sdk.region().map_or("", AsRef::as_ref);
    let host = if sdk.use_fips().unwrap_or_default() {
        format!("{host}-fips")
    } else {
        host.to_owned()
    };
    let suffix = match (sdk.use_dual_stack().unwrap_or_default(), region) {
        (true, region) if region.starts_with("cn-") => "api.amazonwebservices.com.cn",
        (true, _) => "api.aws",
        (false, region) if region.starts_with("cn-") => "amazonaws.com.cn",
        (false, region) if region.starts_with("us-isob-") => "sc2s.sgov.gov",
        (false, region) if region.starts_with("us-iso-") => "c2s.ic.gov",
        (false, region) if region.starts_with("eusc-") => "amazonaws.eu",
        (false, _) => "amazonaws.com",
    };
    format!("https://{host}.{region}.{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_the_partition_and_the_options_of_the_sdk() {
        let url = |region: &str, fips: bool, dual: bool| {
            let sdk = SdkConfig::builder()
                .region(aws_config::Region::new(region.to_owned()))
                .use_fips(fips)
                .use_dual_stack(dual)
                .build();
            regional_url(&sdk, "events")
        };
        for (region, fips, dual, wanted) in [
            (
                "eu-west-1",
                false,
                false,
                "https://events.eu-west-1.amazonaws.com",
            ),
            (
                "cn-north-1",
                false,
                false,
                "https://events.cn-north-1.amazonaws.com.cn",
            ),
            (
                "us-east-1",
                true,
                false,
                "https://events-fips.us-east-1.amazonaws.com",
            ),
            ("us-east-1", false, true, "https://events.us-east-1.api.aws"),
        ] {
            assert_eq!(url(region, fips, dual), wanted);
        }
    }
}
