//! Conversion of S3's errors (API reference, "Error responses").

use std::fmt;

use super::{Precondition, UploadId};
use crate::aws::{ApiCall, SdkFailure};
use crate::error::{Error, ErrorKind};
use crate::name::{BucketName, ObjectKey};

/// A request to S3, as errors describe it.
#[derive(Debug, Clone)]
pub(super) struct S3Request<'a> {
    pub(super) bucket: &'a BucketName,
    key: Option<&'a ObjectKey>,
    operation: &'static str,
    permission: &'static str,
    version: Option<&'a str>,
    upload: Option<&'a UploadId>,
    source: Option<(&'a BucketName, &'a ObjectKey)>,
    precondition: Option<&'a Precondition>,
    kms: bool,
}

impl<'a> S3Request<'a> {
    pub(super) fn bucket(
        operation: &'static str,
        permission: &'static str,
        bucket: &'a BucketName,
    ) -> Self {
        Self {
            bucket,
            key: None,
            operation,
            permission,
            version: None,
            upload: None,
            source: None,
            precondition: None,
            kms: false,
        }
    }

    pub(super) fn object(
        operation: &'static str,
        permission: &'static str,
        bucket: &'a BucketName,
        key: &'a ObjectKey,
    ) -> Self {
        Self {
            key: Some(key),
            ..Self::bucket(operation, permission, bucket)
        }
    }

    pub(super) fn version(self, version: Option<&'a str>) -> Self {
        Self { version, ..self }
    }

    pub(super) fn upload(self, upload: &'a UploadId) -> Self {
        Self {
            upload: Some(upload),
            ..self
        }
    }

    pub(super) fn copied_from(self, bucket: &'a BucketName, key: &'a ObjectKey) -> Self {
        Self {
            source: Some((bucket, key)),
            ..self
        }
    }

    pub(super) fn precondition(self, precondition: &'a Precondition) -> Self {
        Self {
            precondition: Some(precondition),
            ..self
        }
    }

    pub(super) fn kms(self, kms: bool) -> Self {
        Self { kms, ..self }
    }

    /// Returns whether S3 answers 403 where the object is missing and the caller may not list.
    fn reads_object(&self) -> bool {
        matches!(self.operation, "HeadObject" | "GetObject")
    }

    /// Returns whether the request names the encryption of a new object.
    fn starts_write(&self) -> bool {
        matches!(self.operation, "PutObject" | "CreateMultipartUpload")
    }

    pub(super) fn call(&self) -> ApiCall {
        let arn = match (self.key, self.source) {
            (Some(key), _) => format!("`{}`", self.bucket.object_arn(key.as_str())),
            (None, _) => format!("`{}`", self.bucket.arn()),
        };
        let also = match self.source {
            Some((bucket, key)) => {
                format!(", `s3:GetObject` on `{}`", bucket.object_arn(key.as_str()))
            }
            None if self.kms => ", `kms:GenerateDataKey` and `kms:Decrypt` on the KMS key".into(),
            None => String::new(),
        };
        ApiCall {
            service: "S3",
            operation: self.operation,
            permission: self.permission,
            subject: self.to_string(),
            resource: format!("{arn}{also}"),
        }
    }
}

impl fmt::Display for S3Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bucket = self.bucket;
        let Some(key) = self.key else {
            return write!(f, "bucket `{bucket}`");
        };
        if let Some(version) = self.version {
            write!(f, "version `{version}` of ")?;
        }
        write!(f, "object `{key}` in bucket `{bucket}`")
    }
}

/// Returns the permission on a KMS key that S3's message says is missing.
fn denied_key_permission(failure: &SdkFailure) -> Option<&'static str> {
    let permissions = ["kms:GenerateDataKey", "kms:Decrypt"];
    permissions
        .into_iter()
        .find(|permission| failure.mentions(permission))
}

/// Converts an answer of 403. The answer to HEAD has no body, and so no code.
fn denied(failure: SdkFailure, request: &S3Request<'_>) -> Error {
    let bucket = request.bucket;
    if let Some(permission) = denied_key_permission(&failure) {
        let message = format!("`{permission}` on the KMS key of {request} is not allowed");
        let error = failure.into_error(ErrorKind::AccessDenied, message);
        return error.with_hint(format!(
            "grant `{permission}` to the caller's role, in its policy and in that of the key, \
             which may be the default key of bucket `{bucket}`"
        ));
    }
    let is_unexplained = failure.code().is_empty();
    let has_code = failure.code() == "AccessDenied";
    let error = failure.into_common_error(&request.call());
    if request.reads_object() {
        let unexplained = if is_unexplained {
            "; S3 gives no reason here: a clock that is more than 15 minutes wrong, or the policy \
             of the object's KMS key (`kms:Decrypt`), has the same answer"
        } else {
            ""
        };
        return error.with_hint(format!(
            "grant `{}` on `{}` and `s3:ListBucket` on `{}` to the caller's role; without the \
             latter S3 answers 403 for a missing object{unexplained}",
            request.permission,
            bucket.object_arn("*"),
            bucket.arn(),
        ));
    }
    if has_code && request.starts_write() {
        let hint = error.hint().unwrap_or_default();
        let hint = format!(
            "{hint}, or set `SSE` (at a terminal `BRANCHLINE_SSE`) if the bucket's policy \
                 demands a header of encryption"
        );
        return error.with_hint(hint);
    }
    error
}

/// Converts the failure of a request.
pub(super) fn convert(failure: SdkFailure, request: &S3Request<'_>) -> Error {
    let bucket = request.bucket;
    let matches = matches!(request.precondition, Some(Precondition::Matches(_)));
    match (failure.status(), failure.code()) {
        (_, "NoSuchBucket") => failure
            .into_error(
                ErrorKind::NotFound,
                match request.source {
                    Some((source, _)) if source != bucket => {
                        format!("bucket `{bucket}` or bucket `{source}` does not exist")
                    }
                    _ => format!("bucket `{bucket}` does not exist"),
                },
            )
            .with_hint("check its name and the account"),
        (_, "NoSuchUpload") => {
            let upload = request.upload.map_or("", |upload| upload.0.as_str());
            failure
                .into_error(
                    ErrorKind::NotFound,
                    format!("multipart upload `{upload}` of {request} does not exist"),
                )
                .with_hint("it was completed or aborted; start a new one")
        }
        (_, "PreconditionFailed") | (412, _) => {
            let what = match request.precondition {
                Some(Precondition::Absent) => "exists already",
                _ => "was changed by someone else",
            };
            failure.into_error(ErrorKind::Conflict, format!("{request} {what}"))
        }
        (_, "ConditionalRequestConflict" | "OperationAborted") => failure.into_error(
            ErrorKind::Conflict,
            format!("{request} is being changed by someone else"),
        ),
        (404, _) if matches => failure.into_error(
            ErrorKind::Conflict,
            format!("{request} was deleted by someone else"),
        ),
        (404, "NoSuchKey" | "NoSuchVersion" | "NotFound" | "") | (405, _) => {
            let what = match request.source {
                Some((bucket, key)) => format!("object `{key}` in bucket `{bucket}`"),
                None => request.to_string(),
            };
            failure
                .into_error(ErrorKind::NotFound, format!("{what} does not exist"))
                .with_hint("it was deleted, or never written")
        }
        (_, "InvalidRange") | (416, _) => failure.into_error(
            ErrorKind::Corrupt,
            format!("{request} is shorter than the requested range"),
        ),
        (301 | 307, _) | (_, "PermanentRedirect" | "AuthorizationHeaderMalformed") => failure
            .into_error(
                ErrorKind::Config,
                format!("bucket `{bucket}` is in another region"),
            )
            .with_hint("set AWS_REGION to the bucket's region, which S3 did not name"),
        (_, code) if code.starts_with("KMS.") => failure
            .into_error(
                ErrorKind::Config,
                format!("the KMS key of {request} cannot be used"),
            )
            .with_hint("check KMS_KEY_ID: the key's region, its state and its policy"),
        (_, "BadDigest" | "XAmzContentChecksumMismatch") => failure.into_error(
            ErrorKind::Transport,
            format!(
                "the body of `{}` of {request} was damaged in transit",
                request.operation
            ),
        ),
        (_, "NotImplemented") => failure.into_error(
            ErrorKind::Config,
            format!("the store does not offer `{}`", request.operation),
        ),
        (403, "" | "AccessDenied" | "Forbidden") => denied(failure, request),
        _ => failure.into_common_error(&request.call()),
    }
}
