//! Converts the store's errors to S3's error documents.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{Extensions, HeaderMap, HeaderValue};
use s3s::{S3Error, S3ErrorCode, S3Result};

use crate::s3::store::{self, Error};

use super::Progress;

/// Returns S3's code of an error.
pub(super) fn code(error: &Error) -> S3ErrorCode {
    match error {
        Error::NoSuchBucket(_) => S3ErrorCode::NoSuchBucket,
        Error::BucketExists(_) => S3ErrorCode::BucketAlreadyOwnedByYou,
        Error::BucketNotEmpty(_) => S3ErrorCode::BucketNotEmpty,
        Error::InvalidBucketName(_) => S3ErrorCode::InvalidBucketName,
        Error::NoSuchKey(_) | Error::DeleteMarker { .. } => S3ErrorCode::NoSuchKey,
        Error::MarkerVersion { .. } => S3ErrorCode::MethodNotAllowed,
        Error::NoSuchVersion { .. } => S3ErrorCode::NoSuchVersion,
        Error::PreconditionFailed(_) => S3ErrorCode::PreconditionFailed,
        Error::NoSuchUpload(_) => S3ErrorCode::NoSuchUpload,
        Error::InvalidPart(_) => S3ErrorCode::InvalidPart,
        Error::InvalidPartOrder => S3ErrorCode::InvalidPartOrder,
        Error::EntityTooSmall { .. } => S3ErrorCode::EntityTooSmall,
        Error::KeyTooLong => S3ErrorCode::KeyTooLongError,
        Error::MetadataTooLarge => S3ErrorCode::MetadataTooLarge,
        Error::InvalidRange => S3ErrorCode::InvalidRange,
        Error::BadDigest(_) => S3ErrorCode::BadDigest,
        Error::InvalidDigest(_) => S3ErrorCode::InvalidDigest,
        Error::InvalidTag(_) => S3ErrorCode::InvalidTag,
        Error::TooManyTags => S3ErrorCode::Custom("BadRequest".into()),
        Error::InvalidArgument(_) | Error::InvalidVersionId(_) => S3ErrorCode::InvalidArgument,
        Error::InvalidRequest(_) => S3ErrorCode::InvalidRequest,
        Error::MalformedXml(_) => S3ErrorCode::MalformedXML,
        Error::Incomplete => S3ErrorCode::IncompleteBody,
        Error::Locked(_) | Error::Corrupt { .. } | Error::Io { .. } => S3ErrorCode::InternalError,
    }
}

/// Builds the error document of an error, with the headers that S3 adds.
pub(super) fn convert(error: Error) -> S3Error {
    let mut converted = S3Error::with_message(code(&error), error.to_string());
    if converted.status_code().is_none() {
        converted.set_status_code(http::StatusCode::BAD_REQUEST);
    }
    let mut headers = HeaderMap::new();
    match &error {
        Error::DeleteMarker { version_id, .. } => {
            headers.insert("x-amz-delete-marker", HeaderValue::from_static("true"));
            if let Some(Ok(value)) = version_id.as_deref().map(HeaderValue::from_str) {
                headers.insert("x-amz-version-id", value);
            }
        }
        Error::MarkerVersion {
            version_id,
            last_modified,
            ..
        } => {
            headers.insert("x-amz-delete-marker", HeaderValue::from_static("true"));
            headers.insert(http::header::ALLOW, HeaderValue::from_static("DELETE"));
            if let Ok(value) = HeaderValue::from_str(version_id) {
                headers.insert("x-amz-version-id", value);
            }
            if let Some(value) = super::convert::http_date(*last_modified) {
                headers.insert(http::header::LAST_MODIFIED, value);
            }
        }
        _ => {}
    }
    if !headers.is_empty() {
        headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/xml"),
        );
        converted.set_headers(headers);
    }
    converted.set_source(Box::new(error));
    converted
}

/// Runs the store's work on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    extensions: &Extensions,
    work: impl FnOnce() -> store::Result<T> + Send + 'static,
) -> S3Result<T> {
    let progress = extensions.get::<Arc<Progress>>().cloned();
    let result = match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(convert),
        Err(error) => Err(S3Error::internal_error(error)),
    };
    if let Err(error) = &result
        && *error.code() == S3ErrorCode::InternalError
    {
        tracing::error!(
            error = error as &dyn std::error::Error,
            "the S3 store failed"
        );
        if let Some(progress) = progress {
            progress.failed.store(true, Ordering::Relaxed);
        }
    }
    result
}
