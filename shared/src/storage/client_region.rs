//! Clients of the regions that buckets are in.
//!
//! A request to a bucket of another region is answered with that region. It is recorded, and the
//! retry of the request goes there.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_sdk_s3::Client;
use aws_types::region::Region;

use super::error::{S3Request, convert};
use crate::aws::{Aws, SdkFailure};
use crate::error::{Error, ErrorKind};
use crate::name::BucketName;

/// Clients of the configured region, and of the regions of other buckets.
#[derive(Debug)]
pub(super) struct RegionalClients {
    aws: Aws,
    // For names of buckets; the name is in the path with an endpoint override, because
    // `<bucket>.<endpoint>` resolves for AWS only.
    own: Client,
    // For ARNs of access points, which are never in the path.
    access_points: Client,
    regions: Mutex<HashMap<BucketName, (String, Client)>>,
}

impl RegionalClients {
    pub(super) fn new(aws: &Aws) -> Self {
        Self {
            own: client(aws, aws.region(), aws.has_endpoint_override("S3")),
            access_points: client(aws, aws.region(), false),
            aws: aws.clone(),
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
        let Some(region) = found.filter(|region| self.learn(bucket, region)) else {
            return convert(failure, request);
        };
        tracing::debug!(bucket.name = %bucket, bucket.region = region, "following a bucket");
        failure.into_error(
            ErrorKind::Transport,
            format!("bucket `{bucket}` is in region `{region}`"),
        )
    }

    /// Records the region of a bucket; `false` if requests go there already.
    fn learn(&self, bucket: &BucketName, region: &str) -> bool {
        let mut regions = self.regions();
        let current = regions
            .get(bucket)
            .map_or(self.aws.region(), |(region, _)| region);
        if current == region {
            return false;
        }
        let path_style = self.aws.has_endpoint_override("S3") && !bucket.is_access_point();
        let client = client(&self.aws, region, path_style);
        regions.insert(bucket.clone(), (region.to_owned(), client));
        true
    }

    fn regions(&self) -> MutexGuard<'_, HashMap<BucketName, (String, Client)>> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn client(aws: &Aws, region: &str, path_style: bool) -> Client {
    let config = aws_sdk_s3::config::Builder::from(aws.sdk())
        .region(Region::new(region.to_owned()))
        .force_path_style(path_style)
        .interceptor(aws.idle_timeout())
        .build();
    Client::from_conf(config)
}
