//! Conversions between the types of this module and those of the AWS SDK.

use std::collections::HashMap;
use std::ops::Range;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::error::{S3Request, convert};
use super::{ETag, ObjectMetadata, Precondition, VersionId};
use crate::aws::{SdkFailure, corrupt};
use crate::error::{Error, Result};

/// Returns the conversion of an SDK error of `request`, for `map_err`.
pub(super) fn convert_for<'a, E>(
    request: &'a S3Request<'a>,
) -> impl Fn(SdkError<E, HttpResponse>) -> Error + 'a
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    |error| convert(SdkFailure::of(&error), request)
}

/// Returns the values of `If-None-Match` and `If-Match`.
pub(super) fn conditions(precondition: &Precondition) -> (Option<String>, Option<String>) {
    match precondition {
        Precondition::None => (None, None),
        Precondition::Absent => (Some("*".into()), None),
        Precondition::Matches(etag) => (None, Some(etag.to_string())),
    }
}

pub(super) fn user_metadata(metadata: &ObjectMetadata) -> Option<HashMap<String, String>> {
    let user = &metadata.user;
    (!user.is_empty()).then(|| user.clone().into_iter().collect())
}

/// Formats a range for HTTP, whose ranges include their end.
pub(super) fn bytes_range(range: &Range<u64>) -> String {
    format!("bytes={}-{}", range.start, range.end.saturating_sub(1))
}

pub(super) fn etag(request: &S3Request<'_>, etag: Option<String>) -> Result<ETag> {
    etag.and_then(|etag| ETag::new(etag).ok())
        .ok_or_else(|| corrupt(&request.call(), "no `ETag`"))
}

pub(super) fn size(request: &S3Request<'_>, size: Option<i64>) -> Result<u64> {
    let size = size.unwrap_or(0);
    u64::try_from(size).map_err(|_| corrupt(&request.call(), format!("a size of {size}")))
}

pub(super) fn version_id(id: Option<String>) -> Option<VersionId> {
    id.and_then(VersionId::new)
}
