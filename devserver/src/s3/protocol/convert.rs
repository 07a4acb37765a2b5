//! Conversions of the protocol's values: times, entity tags, attributes, checksums.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue};
use s3s::dto::{ETag, ETagCondition, Timestamp, TimestampFormat};
use s3s::{S3Result, s3_error};

use crate::s3::store::{Condition, Head, Kind, Precondition, Tags};

/// S3's media type of an object without one.
pub(super) const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

/// Sets the checksum field of a message that belongs to an algorithm.
macro_rules! set_checksum {
    ($message:expr, $checksum:expr) => {
        if let Some((algorithm, value)) = $checksum {
            let value = Some(value);
            match algorithm {
                $crate::s3::store::Algorithm::Crc32 => $message.checksum_crc32 = value,
                $crate::s3::store::Algorithm::Crc32c => $message.checksum_crc32c = value,
                $crate::s3::store::Algorithm::Crc64Nvme => $message.checksum_crc64nvme = value,
                $crate::s3::store::Algorithm::Sha1 => $message.checksum_sha1 = value,
                $crate::s3::store::Algorithm::Sha256 => $message.checksum_sha256 = value,
            }
        }
    };
}

/// Collects the checksum fields of a message.
macro_rules! get_checksums {
    ($message:expr) => {
        [
            (
                $crate::s3::store::Algorithm::Crc32,
                $message.checksum_crc32.clone(),
            ),
            (
                $crate::s3::store::Algorithm::Crc32c,
                $message.checksum_crc32c.clone(),
            ),
            (
                $crate::s3::store::Algorithm::Crc64Nvme,
                $message.checksum_crc64nvme.clone(),
            ),
            (
                $crate::s3::store::Algorithm::Sha1,
                $message.checksum_sha1.clone(),
            ),
            (
                $crate::s3::store::Algorithm::Sha256,
                $message.checksum_sha256.clone(),
            ),
        ]
        .into_iter()
        .filter_map(|(algorithm, value)| Some((algorithm, value?)))
        .collect::<Vec<_>>()
    };
}

/// Reads the attributes of a request that writes an object.
macro_rules! attributes {
    ($input:expr) => {
        $crate::s3::store::Attributes {
            content_type: $input.content_type.clone(),
            content_disposition: $input.content_disposition.clone(),
            content_encoding: $input
                .content_encoding
                .as_deref()
                .and_then($crate::s3::protocol::convert::stored_encoding),
            content_language: $input.content_language.clone(),
            cache_control: $input.cache_control.clone(),
            expires: $input
                .expires
                .as_ref()
                .and_then($crate::s3::protocol::convert::format_date),
            user: $input
                .metadata
                .clone()
                .unwrap_or_default()
                .into_iter()
                .collect(),
            encryption: $input.server_side_encryption.as_ref().map(|algorithm| {
                $crate::s3::store::Encryption {
                    algorithm: algorithm.as_str().to_owned(),
                    kms_key_id: $input.ssekms_key_id.clone(),
                    bucket_key: $input.bucket_key_enabled,
                }
            }),
            storage_class: $input
                .storage_class
                .as_ref()
                .map(|class| class.as_str().to_owned())
                .filter(|class| class != "STANDARD"),
            website_redirect: $input.website_redirect_location.clone(),
        }
    };
}

/// Writes an object's encryption into a message.
macro_rules! set_encryption {
    ($message:expr, $attributes:expr) => {
        match &$attributes.encryption {
            Some(encryption) => {
                $message.server_side_encryption = Some(encryption.algorithm.clone().into());
                $message.ssekms_key_id = encryption.kms_key_id.clone();
                $message.bucket_key_enabled = encryption.bucket_key;
            }
            None => {
                $message.server_side_encryption =
                    Some(s3s::dto::ServerSideEncryption::from_static(
                        s3s::dto::ServerSideEncryption::AES256,
                    ));
            }
        }
    };
}

/// Refuses customer-provided keys, because the server would have to encrypt for real.
macro_rules! refuse_customer_keys {
    ($input:expr) => {
        if $input.sse_customer_algorithm.is_some() || $input.sse_customer_key.is_some() {
            return Err(s3s::s3_error!(
                NotImplemented,
                "Encryption with customer-provided keys (SSE-C) is not implemented"
            ));
        }
    };
}

pub(super) use {attributes, get_checksums, refuse_customer_keys, set_checksum, set_encryption};

/// Converts a time of the store.
pub(super) fn timestamp(seconds: i64) -> Timestamp {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    Timestamp::from(
        UNIX_EPOCH
            .checked_add(since)
            .unwrap_or(SystemTime::UNIX_EPOCH),
    )
}

/// Formats a time as an HTTP date.
pub(super) fn format_date(time: &Timestamp) -> Option<String> {
    let mut text = Vec::new();
    time.format(TimestampFormat::HttpDate, &mut text).ok()?;
    String::from_utf8(text).ok()
}

/// Parses an HTTP date.
pub(super) fn parse_date(text: &str) -> Option<Timestamp> {
    Timestamp::parse(TimestampFormat::HttpDate, text).ok()
}

/// Formats a time of the store as a header.
pub(super) fn http_date(seconds: i64) -> Option<HeaderValue> {
    HeaderValue::from_str(&format_date(&timestamp(seconds))?).ok()
}

/// Converts an entity tag of the store.
pub(super) fn etag(text: &str) -> ETag {
    ETag::Strong(text.to_owned())
}

/// Converts a condition on an entity tag.
pub(super) fn condition(given: &ETagCondition) -> Condition {
    match given {
        ETagCondition::Any => Condition::Any,
        ETagCondition::ETag(etag) => Condition::ETag(etag.value().to_owned()),
    }
}

/// Converts the preconditions of a write.
pub(super) fn precondition(
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<Precondition> {
    if if_none_match.is_some_and(|given| !given.is_any()) {
        return Err(s3_error!(
            NotImplemented,
            "If-None-Match of a write takes `*` only"
        ));
    }
    Ok(Precondition {
        if_match: if_match.map(condition),
        if_absent: if_none_match.is_some(),
    })
}

/// Reads the preconditions of a write that `s3s` leaves in the headers.
pub(super) fn precondition_of(headers: &HeaderMap) -> S3Result<Precondition> {
    let read = |name: http::HeaderName| -> S3Result<Option<ETagCondition>> {
        headers
            .get(&name)
            .map(|value| {
                ETagCondition::parse_http_header(value.as_bytes())
                    .map_err(|error| s3_error!(error, InvalidArgument, "invalid header: {name}"))
            })
            .transpose()
    };
    precondition(
        read(http::header::IF_MATCH)?.as_ref(),
        read(http::header::IF_NONE_MATCH)?.as_ref(),
    )
}

/// Returns `Content-Encoding` without `aws-chunked`, which describes the request and not the
/// object.
pub(super) fn stored_encoding(given: &str) -> Option<String> {
    let kept: Vec<&str> = given
        .split(',')
        .map(str::trim)
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("aws-chunked"))
        .collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

/// Returns S3's name of a checksum's type.
pub(super) fn checksum_type(kind: Kind) -> s3s::dto::ChecksumType {
    s3s::dto::ChecksumType::from_static(match kind {
        Kind::FullObject => s3s::dto::ChecksumType::FULL_OBJECT,
        Kind::Composite => s3s::dto::ChecksumType::COMPOSITE,
    })
}

/// Converts the checksum of an object.
pub(super) fn checksum_of(head: &Head) -> Option<(crate::s3::store::Algorithm, String)> {
    head.checksum
        .as_ref()
        .map(|checksum| (checksum.algorithm, checksum.value.clone()))
}

/// Reads `x-amz-tagging`: `key=value&..`, form-encoded.
pub(super) fn tags_of_header(text: Option<&str>) -> S3Result<Tags> {
    let decode = |text: &str| {
        percent_encoding::percent_decode_str(&text.replace('+', " "))
            .decode_utf8()
            .map(std::borrow::Cow::into_owned)
            .map_err(|error| s3_error!(error, InvalidArgument, "invalid header: x-amz-tagging"))
    };
    let mut tags = Tags::new();
    for pair in text
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
    {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if tags.insert(decode(key)?, decode(value)?).is_some() {
            return Err(s3_error!(
                InvalidTag,
                "Cannot provide multiple Tags with the same key"
            ));
        }
    }
    Ok(tags)
}
