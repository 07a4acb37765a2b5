//! Classifies a request: service, operation, and IAM action.

use http::request::Parts;
use http::{HeaderMap, Method};

use super::sts;
use crate::faults::Service;
use crate::lambda::LambdaApi;
use crate::pipeline::cbor;

/// Service and operation of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestTarget {
    pub(super) service: Service,
    pub(super) operation: String,
    pub(super) action: String,
    /// True if the body is CBOR.
    pub(super) cbor: bool,
}

impl RequestTarget {
    fn new(service: Service, operation: &str, action: String) -> Self {
        Self {
            service,
            operation: operation.to_owned(),
            action,
            cbor: false,
        }
    }
}

/// Classifies a request by method, path and headers.
pub(super) fn classify(request: &Parts) -> RequestTarget {
    let path = request.uri.path();
    if let Some(target) = text(&request.headers, "x-amz-target")
        && request.method == Method::POST
        && path == "/"
    {
        for (prefix, service) in [
            ("CodeCommit_20150413.", Service::CodeCommit),
            ("CodePipeline_20150709.", Service::CodePipeline),
            ("TrentService.", Service::Kms),
            ("AWSEvents.", Service::EventBridge),
            ("secretsmanager.", Service::SecretsManager),
            ("AmazonSSM.", Service::Ssm),
        ] {
            if let Some(operation) = target.strip_prefix(prefix) {
                return RequestTarget::new(service, operation, api_action(service, operation));
            }
        }
    }
    if let Some(operation) = path.strip_prefix(cbor::PREFIX) {
        let action = api_action(Service::CodePipeline, operation);
        return RequestTarget {
            cbor: true,
            ..RequestTarget::new(Service::CodePipeline, operation, action)
        };
    }
    if path.starts_with("/v1/repos/") {
        return git(request);
    }
    if request.method == Method::POST && path == "/" && signed_for_sts(request) {
        // The operation is in the body; the server has one.
        let operation = sts::ASSUME_ROLE;
        return RequestTarget::new(Service::Sts, operation, api_action(Service::Sts, operation));
    }
    if path.starts_with("/2015-03-31/functions") {
        let operation = LambdaApi::operation(&request.method, path);
        let action = match operation {
            "Invoke" => "lambda:InvokeFunction".to_owned(),
            other => format!("lambda:{other}"),
        };
        return RequestTarget::new(Service::Lambda, operation, action);
    }
    s3(request)
}

/// Returns whether the scope of a request's signature is STS.
fn signed_for_sts(request: &Parts) -> bool {
    text(&request.headers, "authorization").is_some_and(|value| value.contains("/sts/aws4_request"))
}

fn api_action(service: Service, operation: &str) -> String {
    // IAM calls EventBridge by its older name.
    let prefix = match service {
        Service::EventBridge => "events",
        service => service.name(),
    };
    format!("{prefix}:{operation}")
}

fn git(request: &Parts) -> RequestTarget {
    let query = request.uri.query().unwrap_or_default();
    let pushes = request.uri.path().ends_with("/git-receive-pack")
        || query.contains("service=git-receive-pack");
    if pushes {
        RequestTarget::new(
            Service::Git,
            "git-receive-pack",
            "codecommit:GitPush".into(),
        )
    } else {
        RequestTarget::new(Service::Git, "git-upload-pack", "codecommit:GitPull".into())
    }
}

/// Names of S3's operations, as its API reference lists them, with the action that its user
/// guide names for each ("Required permissions for Amazon S3 API operations").
fn s3(request: &Parts) -> RequestTarget {
    let path = request.uri.path().trim_start_matches('/');
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    let query = request.uri.query().unwrap_or_default();
    let has = |name: &str| {
        query
            .split('&')
            .any(|pair| pair.split('=').next() == Some(name))
    };
    let copies = request.headers.contains_key("x-amz-copy-source");
    let versioned = |plain: &'static str, of_version: &'static str| {
        if has("versionId") { of_version } else { plain }
    };
    let method = &request.method;
    let (operation, action) = if bucket.is_empty() {
        ("ListBuckets", "ListAllMyBuckets")
    } else if key.is_empty() {
        match *method {
            Method::HEAD => ("HeadBucket", "ListBucket"),
            Method::PUT if has("versioning") => ("PutBucketVersioning", "PutBucketVersioning"),
            Method::PUT => ("CreateBucket", "CreateBucket"),
            Method::POST if has("delete") => ("DeleteObjects", "DeleteObject"),
            Method::DELETE => ("DeleteBucket", "DeleteBucket"),
            _ if has("versioning") => ("GetBucketVersioning", "GetBucketVersioning"),
            _ if has("versions") => ("ListObjectVersions", "ListBucketVersions"),
            _ if has("uploads") => ("ListMultipartUploads", "ListBucketMultipartUploads"),
            _ if has("location") => ("GetBucketLocation", "GetBucketLocation"),
            _ if has("list-type") => ("ListObjectsV2", "ListBucket"),
            _ => ("ListObjects", "ListBucket"),
        }
    } else {
        match *method {
            Method::HEAD => ("HeadObject", versioned("GetObject", "GetObjectVersion")),
            Method::PUT if has("tagging") => (
                "PutObjectTagging",
                versioned("PutObjectTagging", "PutObjectVersionTagging"),
            ),
            Method::PUT if has("uploadId") && copies => ("UploadPartCopy", "PutObject"),
            Method::PUT if has("uploadId") => ("UploadPart", "PutObject"),
            Method::PUT if copies => ("CopyObject", "PutObject"),
            Method::PUT => ("PutObject", "PutObject"),
            Method::POST if has("uploads") => ("CreateMultipartUpload", "PutObject"),
            Method::POST => ("CompleteMultipartUpload", "PutObject"),
            Method::DELETE if has("uploadId") => ("AbortMultipartUpload", "AbortMultipartUpload"),
            Method::DELETE if has("tagging") => (
                "DeleteObjectTagging",
                versioned("DeleteObjectTagging", "DeleteObjectVersionTagging"),
            ),
            Method::DELETE => (
                "DeleteObject",
                versioned("DeleteObject", "DeleteObjectVersion"),
            ),
            _ if has("tagging") => (
                "GetObjectTagging",
                versioned("GetObjectTagging", "GetObjectVersionTagging"),
            ),
            _ if has("uploadId") => ("ListParts", "ListMultipartUploadParts"),
            _ if has("attributes") => (
                "GetObjectAttributes",
                versioned("GetObjectAttributes", "GetObjectVersionAttributes"),
            ),
            _ => ("GetObject", versioned("GetObject", "GetObjectVersion")),
        }
    };
    RequestTarget::new(Service::S3, operation, format!("s3:{action}"))
}

/// Returns the access key id that a request names, whether or not it is known: `SigV4`'s
/// header or query, or the user of git's Basic credentials.
pub(super) fn access_key_id(request: &Parts) -> Option<String> {
    use base64::Engine as _;
    if let Some(value) = text(&request.headers, "authorization") {
        if let Some(basic) = value.strip_prefix("Basic ") {
            let decoded = base64::engine::general_purpose::STANDARD
                .decode(basic.trim())
                .ok()?;
            let decoded = String::from_utf8(decoded).ok()?;
            let user = decoded.split(':').next()?;
            // The user is the key id, or `<key id>%<session token>`.
            return user.split('%').next().map(str::to_owned);
        }
        let credential = value.split("Credential=").nth(1)?;
        return credential.split('/').next().map(str::to_owned);
    }
    let query = request.uri.query()?;
    let value = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("X-Amz-Credential="))?;
    let value = percent_encoding::percent_decode_str(value)
        .decode_utf8()
        .ok()?;
    value.split('/').next().map(str::to_owned)
}

pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(method: &str, uri: &str, headers: &[(&str, &str)]) -> (Service, String, String) {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let target = classify(&parts);
        (target.service, target.operation, target.action)
    }

    #[expect(clippy::too_many_lines, reason = "one table")]
    #[test]
    fn every_request_finds_its_operation_and_action() {
        use Service::{
            CodeCommit, CodePipeline, EventBridge, Git, Lambda, S3, SecretsManager, Ssm, Sts,
        };
        for (method, uri, header, service, operation, action) in [
            (
                "POST",
                "/",
                ("x-amz-target", "CodeCommit_20150413.GetFolder"),
                CodeCommit,
                "GetFolder",
                "codecommit:GetFolder",
            ),
            (
                "POST",
                "/service/CodePipeline_20150709/operation/StartPipelineExecution",
                ("smithy-protocol", "rpc-v2-cbor"),
                CodePipeline,
                "StartPipelineExecution",
                "codepipeline:StartPipelineExecution",
            ),
            (
                "POST",
                "/",
                (
                    "authorization",
                    "AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/sts/aws4_request, ..",
                ),
                Sts,
                "AssumeRole",
                "sts:AssumeRole",
            ),
            (
                "POST",
                "/",
                ("x-amz-target", "AWSEvents.PutEvents"),
                EventBridge,
                "PutEvents",
                "events:PutEvents",
            ),
            (
                "POST",
                "/",
                ("x-amz-target", "secretsmanager.GetSecretValue"),
                SecretsManager,
                "GetSecretValue",
                "secretsmanager:GetSecretValue",
            ),
            (
                "POST",
                "/",
                ("x-amz-target", "AmazonSSM.GetParameter"),
                Ssm,
                "GetParameter",
                "ssm:GetParameter",
            ),
            (
                "GET",
                "/v1/repos/r/info/refs?service=git-receive-pack",
                ("a", "b"),
                Git,
                "git-receive-pack",
                "codecommit:GitPush",
            ),
            (
                "POST",
                "/v1/repos/r/git-upload-pack",
                ("a", "b"),
                Git,
                "git-upload-pack",
                "codecommit:GitPull",
            ),
            (
                "POST",
                "/2015-03-31/functions/update/invocations",
                ("a", "b"),
                Lambda,
                "Invoke",
                "lambda:InvokeFunction",
            ),
            (
                "PUT",
                "/bucket/a/b.zip?partNumber=1&uploadId=x",
                ("a", "b"),
                S3,
                "UploadPart",
                "s3:PutObject",
            ),
            (
                "PUT",
                "/bucket/key?partNumber=1&uploadId=x",
                ("x-amz-copy-source", "/b/k"),
                S3,
                "UploadPartCopy",
                "s3:PutObject",
            ),
            (
                "GET",
                "/bucket/key?versionId=1",
                ("a", "b"),
                S3,
                "GetObject",
                "s3:GetObjectVersion",
            ),
            (
                "GET",
                "/bucket/?list-type=2&prefix=a",
                ("a", "b"),
                S3,
                "ListObjectsV2",
                "s3:ListBucket",
            ),
            (
                "GET",
                "/bucket?versioning",
                ("a", "b"),
                S3,
                "GetBucketVersioning",
                "s3:GetBucketVersioning",
            ),
            (
                "DELETE",
                "/bucket/key?uploadId=1",
                ("a", "b"),
                S3,
                "AbortMultipartUpload",
                "s3:AbortMultipartUpload",
            ),
        ] {
            let found = target(method, uri, &[header]);
            assert_eq!(found, (service, operation.into(), action.into()), "{uri}");
        }
    }
}
