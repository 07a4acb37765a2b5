//! Authentication: the account's credentials, their session tokens included; and
//! anonymous requests for objects of public buckets. Then the bucket's region and policy.

use http::{HeaderMap, HeaderValue};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::path::S3Path;
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

use crate::account::Account;
use crate::s3::policy::{self, PolicyRequest};
use crate::s3::store::{PublicAccess, Store};

/// Authentication of `s3s` against the account.
pub(super) struct Access {
    account: Account,
    store: Store,
}

impl Access {
    pub(super) fn new(account: Account, store: Store) -> Self {
        Self { account, store }
    }

    /// Refuses a request that was sent to another region than the bucket's, with the bucket's.
    fn check_region(&self, cx: &S3AccessContext<'_>) -> S3Result<()> {
        let (S3Path::Bucket { bucket } | S3Path::Object { bucket, .. }) = cx.s3_path() else {
            return Ok(());
        };
        // These answer in every region.
        if matches!(cx.s3_op().name(), "CreateBucket" | "GetBucketLocation") {
            return Ok(());
        }
        let Ok(bucket) = self.store.bucket(bucket) else {
            return Ok(());
        };
        let region = bucket.region();
        if signed_region(cx).is_none_or(|signed| signed == region) {
            return Ok(());
        }
        let mut error = S3Error::with_message(
            S3ErrorCode::PermanentRedirect,
            "The bucket you are attempting to access must be addressed using the specified \
             endpoint. Please send all future requests to this endpoint.",
        );
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&region) {
            headers.insert("x-amz-bucket-region", value);
        }
        headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/xml"),
        );
        error.set_headers(headers);
        Err(error)
    }

    /// Refuses what the bucket's policy denies, and, where it denies `s3:ListBucket`, reading a
    /// missing key.
    fn check_policy(&self, cx: &S3AccessContext<'_>) -> S3Result<()> {
        let (bucket, key) = match cx.s3_path() {
            S3Path::Root => return Ok(()),
            S3Path::Bucket { bucket } => (bucket, None),
            S3Path::Object { bucket, key } => (bucket, Some(&**key)),
        };
        let bucket = &self.store.resolve_alias(bucket);
        let Some(found) = self.store.policy(bucket) else {
            return Ok(());
        };
        let operation = cx.s3_op().name();
        let header = |name: &str| {
            let value = cx.headers().get(name.trim_start_matches("s3:"))?;
            value.to_str().ok()
        };
        let denies = |action: &str, key: Option<&str>| {
            found.denies(&PolicyRequest {
                action,
                bucket,
                key,
                sse: header(policy::SSE),
                kms_key_id: header(policy::KMS_KEY_ID),
            })
        };
        // An upload keeps the encryption that it was created with, and S3 checks it there.
        let is_of_upload = matches!(
            operation,
            "UploadPart" | "UploadPartCopy" | "CompleteMultipartUpload"
        );
        let action = action(operation, query_value(cx, "versionId").is_some());
        let reads = matches!(operation, "GetObject" | "HeadObject");
        let is_denied = !is_of_upload && denies(&action, key)
            || reads
                && key.is_some_and(|key| self.store.get(bucket, key, None).is_err())
                && denies("s3:ListBucket", None);
        if is_denied {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
        Ok(())
    }

    /// Permissions that a bucket policy with `"Principal": "*"` would grant: `s3:GetObject`,
    /// and `s3:ListBucket` where that is granted as well. Without the latter S3 does not
    /// distinguish a missing key from a forbidden one: both are 403.
    fn is_public(&self, cx: &S3AccessContext<'_>) -> bool {
        let bucket = match cx.s3_path() {
            S3Path::Root => return false,
            S3Path::Bucket { bucket } | S3Path::Object { bucket, .. } => bucket,
        };
        let bucket = &self.store.resolve_alias(bucket);
        let access = self.store.public_access(bucket);
        match (cx.s3_op().name(), cx.s3_path()) {
            ("GetObject" | "HeadObject", S3Path::Object { key, .. }) => match access {
                PublicAccess::None => false,
                PublicAccess::Read => self.store.get(bucket, key, None).is_ok(),
                PublicAccess::ReadAndList => true,
            },
            ("ListObjects" | "ListObjectsV2" | "HeadBucket", _) => {
                access == PublicAccess::ReadAndList
            }
            _ => false,
        }
    }
}

#[async_trait::async_trait]
impl S3Auth for Access {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.account.find(access_key) {
            Some(credentials) => Ok(credentials.secret_access_key.into()),
            None => Err(s3_error!(
                InvalidAccessKeyId,
                "The AWS Access Key Id you provided does not exist in our records."
            )),
        }
    }
}

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(signer) = cx.credentials() else {
            if self.is_public(cx) {
                return Ok(());
            }
            return Err(s3_error!(AccessDenied, "Anonymous access is forbidden"));
        };
        let Some(known) = self.account.find(&signer.access_key) else {
            return Err(s3_error!(InvalidAccessKeyId));
        };
        let given = session_token(cx);
        if given.as_deref() != known.session_token.as_deref() {
            return Err(s3_error!(
                InvalidToken,
                "The provided token is malformed or otherwise invalid."
            ));
        }
        let owner = cx
            .headers()
            .get("x-amz-expected-bucket-owner")
            .map(http::HeaderValue::as_bytes);
        if owner.is_some_and(|owner| owner != self.account.id.as_bytes()) {
            return Err(s3_error!(
                AccessDenied,
                "The bucket does not belong to the expected owner"
            ));
        }
        self.check_region(cx)?;
        self.check_policy(cx)
    }
}

/// Returns the region that a request is signed for: that of the endpoint which the client chose.
fn signed_region(cx: &S3AccessContext<'_>) -> Option<String> {
    let scope = match cx.headers().get(http::header::AUTHORIZATION) {
        Some(value) => value.to_str().ok()?.split_once("Credential=")?.1.to_owned(),
        None => query_value(cx, "X-Amz-Credential")?,
    };
    // `<access key>/<date>/<region>/s3/aws4_request`
    scope.split('/').nth(2).map(str::to_owned)
}

/// Returns the action that a policy names for an operation.
fn action(operation: &str, has_version: bool) -> String {
    let name = match operation {
        "GetObject" | "HeadObject" if has_version => "GetObjectVersion",
        "HeadObject" => "GetObject",
        "DeleteObject" if has_version => "DeleteObjectVersion",
        "DeleteObjects" => "DeleteObject",
        "ListObjects" | "ListObjectsV2" | "HeadBucket" => "ListBucket",
        "ListObjectVersions" => "ListBucketVersions",
        "CreateMultipartUpload"
        | "UploadPart"
        | "UploadPartCopy"
        | "CompleteMultipartUpload"
        | "CopyObject" => "PutObject",
        other => other,
    };
    format!("s3:{name}")
}

/// Returns the session token of the header, or of the query of a presigned URL.
fn session_token(cx: &S3AccessContext<'_>) -> Option<String> {
    if let Some(value) = cx.headers().get("x-amz-security-token") {
        return Some(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    query_value(cx, "X-Amz-Security-Token")
}

fn query_value(cx: &S3AccessContext<'_>, wanted: &str) -> Option<String> {
    let query = cx.uri().query()?;
    query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        name.eq_ignore_ascii_case(wanted).then(|| {
            percent_encoding::percent_decode_str(value)
                .decode_utf8_lossy()
                .into_owned()
        })
    })
}
