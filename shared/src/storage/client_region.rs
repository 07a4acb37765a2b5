//! Clients of the regions that buckets are in.
//!
//! A request to a bucket of another region is answered with that region. It is recorded, and the
//! retry of the request goes there.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_sdk_s3::Client;
use aws_types::region::Region;

use super::S3Settings;
use super::error::{S3Request, convert};
use crate::aws::{Aws, SdkFailure};
use crate::error::{Error, ErrorKind};
use crate::name::BucketName;

/// Clients of the configured region, and of the regions of other buckets.
#[derive(Debug)]
pub(super) struct RegionalClients {
    aws: Aws,
    settings: S3Settings,
    // For names of buckets; the name is in the path with an endpoint override, because
    // `<bucket>.<endpoint>` resolves for AWS only.
    own: Client,
    // For ARNs of access points, which are never in the path.
    access_points: Client,
    regions: Mutex<HashMap<BucketName, (String, Client)>>,
}

impl RegionalClients {
    pub(super) fn new(aws: &Aws, settings: &S3Settings) -> Self {
        let path_style = path_style(aws, settings);
        Self {
            own: client(aws, settings, aws.region(), path_style),
            access_points: client(aws, settings, aws.region(), false),
            aws: aws.clone(),
            settings: settings.clone(),
            regions: Mutex::default(),
        }
    }

    /// Returns the client for a bucket.
    pub(super) fn of(&self, bucket: &BucketName) -> Client {
        if let Some((_, client)) = self.regions().get(bucket) {
            return client.clone();
        }
        if bucket.is_access_point() {
            self.access_points.clone()
        } else {
            self.own.clone()
        }
    }

    /// Converts the failure of a request; `Transport` if the bucket is found to be in another
    /// region, where the retry goes.
    pub(super) fn convert(&self, failure: SdkFailure, request: &S3Request<'_>) -> Error {
        let bucket = request.bucket;
        let found = failure.bucket_region().map(str::to_owned);
        let Some(region) = found.filter(|region| self.insert(bucket, region)) else {
            return convert(failure, request);
        };
        tracing::debug!(bucket.name = %bucket, bucket.region = region, "following a bucket");
        failure.into_error(
            ErrorKind::Transport,
            format!("bucket `{bucket}` is in region `{region}`"),
        )
    }

    /// Records the region of a bucket. Returns `false` if the request went there already; a
    /// region that is known may have been inserted by a concurrent request.
    fn insert(&self, bucket: &BucketName, region: &str) -> bool {
        let mut regions = self.regions();
        match regions.get(bucket) {
            Some((known, _)) if known == region => return true,
            None if self.aws.region() == region => return false,
            _ => {}
        }
        let path_style = path_style(&self.aws, &self.settings) && !bucket.is_access_point();
        let client = client(&self.aws, &self.settings, region, path_style);
        regions.insert(bucket.clone(), (region.to_owned(), client));
        true
    }

    fn regions(&self) -> MutexGuard<'_, HashMap<BucketName, (String, Client)>> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether names of buckets are put into the path.
fn path_style(aws: &Aws, settings: &S3Settings) -> bool {
    let is_elsewhere = settings.endpoint_url.is_some() || aws.endpoint_override("S3").is_some();
    settings.path_style.unwrap_or(is_elsewhere)
}

fn client(aws: &Aws, settings: &S3Settings, region: &str, path_style: bool) -> Client {
    let mut config = aws_sdk_s3::config::Builder::from(aws.sdk())
        .region(Region::new(region.to_owned()))
        .force_path_style(path_style)
        .interceptor(aws.idle_timeout());
    if let Some(endpoint_url) = &settings.endpoint_url {
        config = config.endpoint_url(endpoint_url);
    }
    Client::from_conf(config.build())
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::config::endpoint::{DefaultResolver, Params, ResolveEndpoint as _};

    use super::*;
    use crate::aws::AccessKey;

    fn clients() -> RegionalClients {
        let key = AccessKey {
            id: "AKID".into(),
            secret: "SECRET".into(),
            session_token: None,
        };
        let aws = Aws::fixed("us-east-1", "http://127.0.0.1:1", &key);
        RegionalClients::new(&aws, &S3Settings::default())
    }

    fn region(client: &Client) -> String {
        let region = client.config().region();
        region.expect("because each client has one").to_string()
    }

    #[test]
    fn a_bucket_is_followed_to_its_region() {
        let clients = clients();
        let [here, there] = ["here", "there"].map(|name| BucketName::new(name).unwrap());
        assert!(!clients.insert(&here, "us-east-1"), "requests go there");
        assert!(clients.insert(&there, "eu-west-1"));
        assert!(
            clients.insert(&there, "eu-west-1"),
            "a request that was sent before is repeated"
        );
        assert_eq!(region(&clients.of(&there)), "eu-west-1");
        assert_eq!(region(&clients.of(&here)), "us-east-1");
    }

    #[tokio::test]
    async fn an_access_point_has_an_endpoint_of_its_own_in_the_region_of_its_arn() {
        let arn = "arn:aws:s3:eu-west-1:111122223333:accesspoint/ap-1";
        assert!(BucketName::new(arn).unwrap().is_access_point());
        let params = Params::builder()
            .bucket(arn)
            .region("us-east-1")
            .force_path_style(false)
            .build();
        let (params, rules) = (params.unwrap(), DefaultResolver::new());
        assert_eq!(
            rules.resolve_endpoint(&params).await.unwrap().url(),
            "https://ap-1-111122223333.s3-accesspoint.eu-west-1.amazonaws.com"
        );
    }
}
