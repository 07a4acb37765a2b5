//! Lists of objects and versions.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::{
    ChecksumAlgorithm, CommonPrefix, DeleteMarkerEntry, EncodingType, ListObjectVersionsInput,
    ListObjectVersionsOutput, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
    ListObjectsV2Output, Object, ObjectStorageClass, ObjectVersion, ObjectVersionStorageClass,
    Owner,
};
use s3s::{S3Response, S3Result, s3_error};

use crate::s3::store::{ListedVersion, Page, Query};

use super::backend::Backend;
use super::bucket::owner;
use super::convert::{etag, timestamp};
use super::error::convert;

/// Characters that `encoding-type=url` does not escape.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/')
    .remove(b'*');

/// Encoding of the keys in an answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Encoding {
    Plain,
    Url,
}

impl Encoding {
    pub(super) fn of(given: Option<&EncodingType>) -> Self {
        match given.map(EncodingType::as_str) {
            Some(EncodingType::URL) => Self::Url,
            _ => Self::Plain,
        }
    }

    pub(super) fn text(self, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Url => utf8_percent_encode(text, PLAIN).to_string(),
        }
    }

    fn prefixes(self, page: &Page) -> Vec<CommonPrefix> {
        page.prefixes
            .iter()
            .map(|prefix| CommonPrefix {
                prefix: Some(self.text(prefix)),
            })
            .collect()
    }
}

/// Returns the size of a page: at most, and by default, 1000.
pub(super) fn limit(given: Option<i32>, name: &str) -> S3Result<usize> {
    let limit = usize::try_from(given.unwrap_or(1000)).map_err(|error| {
        s3_error!(
            error,
            InvalidArgument,
            "Argument {name} must be an integer between 0 and 2147483647"
        )
    })?;
    Ok(limit.min(1000))
}

fn number(count: usize) -> Option<i32> {
    i32::try_from(count).ok()
}

fn contents(page: &Page, encoding: Encoding, owner: Option<&Owner>) -> Vec<Object> {
    page.versions
        .iter()
        .filter_map(|listed| {
            let object = listed.object.as_ref()?;
            let class = object.storage_class.clone();
            Some(Object {
                checksum_algorithm: object
                    .algorithm
                    .map(|algorithm| vec![ChecksumAlgorithm::from_static(algorithm.name())]),
                e_tag: Some(etag(&object.etag)),
                key: Some(encoding.text(&listed.key)),
                last_modified: Some(timestamp(listed.last_modified)),
                owner: owner.cloned(),
                size: i64::try_from(object.size).ok(),
                storage_class: Some(ObjectStorageClass::from(
                    class.unwrap_or_else(|| "STANDARD".into()),
                )),
                ..Object::default()
            })
        })
        .collect()
}

pub(super) fn objects_v1(
    backend: &Backend,
    input: &ListObjectsInput,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let input = input.clone();
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    let encoding = Encoding::of(input.encoding_type.as_ref());
    let query = Query {
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone(),
        after: input.marker.clone().filter(|marker| !marker.is_empty()),
        after_version: None,
        limit: limit(input.max_keys, "max-keys")?,
    };
    let page = bucket.list(&query);
    Ok(S3Response::new(ListObjectsOutput {
        name: Some(input.bucket),
        prefix: Some(encoding.text(&query.prefix)),
        marker: Some(encoding.text(&input.marker.unwrap_or_default())),
        max_keys: number(query.limit),
        is_truncated: Some(page.next.is_some()),
        contents: Some(contents(&page, encoding, Some(&owner(backend)))),
        common_prefixes: Some(encoding.prefixes(&page)),
        next_marker: page
            .next
            .as_ref()
            .filter(|_| query.delimiter.is_some())
            .map(|(next, _)| encoding.text(next)),
        delimiter: input.delimiter.map(|text| encoding.text(&text)),
        encoding_type: input.encoding_type,
        ..ListObjectsOutput::default()
    }))
}

pub(super) fn objects_v2(
    backend: &Backend,
    input: &ListObjectsV2Input,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let input = input.clone();
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    let encoding = Encoding::of(input.encoding_type.as_ref());
    let resumed = input
        .continuation_token
        .as_deref()
        .map(read_token)
        .transpose()?;
    let query = Query {
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone(),
        after: resumed.or_else(|| input.start_after.clone().filter(|text| !text.is_empty())),
        after_version: None,
        limit: limit(input.max_keys, "max-keys")?,
    };
    let page = bucket.list(&query);
    let owner = owner(backend);
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(encoding.text(&query.prefix)),
        max_keys: number(query.limit),
        key_count: number(page.versions.len() + page.prefixes.len()),
        continuation_token: input.continuation_token,
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page
            .next
            .as_ref()
            .map(|(next, _)| URL_SAFE_NO_PAD.encode(next)),
        contents: Some(contents(
            &page,
            encoding,
            Some(&owner).filter(|_| input.fetch_owner.unwrap_or(false)),
        )),
        common_prefixes: Some(encoding.prefixes(&page)),
        delimiter: input.delimiter.map(|text| encoding.text(&text)),
        encoding_type: input.encoding_type,
        start_after: input.start_after.map(|text| encoding.text(&text)),
        ..ListObjectsV2Output::default()
    }))
}

fn read_token(token: &str) -> S3Result<String> {
    URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| {
            s3_error!(
                InvalidArgument,
                "The continuation token provided is incorrect"
            )
        })
}

pub(super) fn versions(
    backend: &Backend,
    input: &ListObjectVersionsInput,
) -> S3Result<S3Response<ListObjectVersionsOutput>> {
    let input = input.clone();
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    let encoding = Encoding::of(input.encoding_type.as_ref());
    let key_marker = input.key_marker.clone().filter(|text| !text.is_empty());
    let version_marker = input
        .version_id_marker
        .clone()
        .filter(|text| !text.is_empty());
    if version_marker.is_some() && key_marker.is_none() {
        return Err(s3_error!(
            InvalidArgument,
            "A version-id marker cannot be specified without a key marker."
        ));
    }
    let query = Query {
        prefix: input.prefix.clone().unwrap_or_default(),
        delimiter: input.delimiter.clone(),
        after: key_marker,
        after_version: version_marker,
        limit: limit(input.max_keys, "max-keys")?,
    };
    let page = bucket.list_versions(&query);
    let owner = owner(backend);
    let (objects, markers): (Vec<_>, Vec<_>) = page
        .versions
        .iter()
        .partition(|listed| listed.object.is_some());
    Ok(S3Response::new(ListObjectVersionsOutput {
        common_prefixes: Some(encoding.prefixes(&page)),
        delete_markers: Some(
            markers
                .into_iter()
                .map(|listed| DeleteMarkerEntry {
                    is_latest: Some(listed.latest),
                    key: Some(encoding.text(&listed.key)),
                    last_modified: Some(timestamp(listed.last_modified)),
                    owner: Some(owner.clone()),
                    version_id: Some(listed.version_id.clone()),
                })
                .collect(),
        ),
        delimiter: input.delimiter.map(|text| encoding.text(&text)),
        encoding_type: input.encoding_type,
        is_truncated: Some(page.next.is_some()),
        key_marker: Some(encoding.text(&input.key_marker.unwrap_or_default())),
        max_keys: number(query.limit),
        name: Some(input.bucket),
        next_key_marker: page.next.as_ref().map(|(key, _)| encoding.text(key)),
        next_version_id_marker: page.next.as_ref().and_then(|(_, version)| version.clone()),
        prefix: Some(encoding.text(&query.prefix)),
        version_id_marker: Some(input.version_id_marker.unwrap_or_default()),
        versions: Some(
            objects
                .into_iter()
                .filter_map(|listed| object_version(listed, encoding, &owner))
                .collect(),
        ),
        ..ListObjectVersionsOutput::default()
    }))
}

fn object_version(
    listed: &ListedVersion,
    encoding: Encoding,
    owner: &Owner,
) -> Option<ObjectVersion> {
    let object = listed.object.as_ref()?;
    let class = object.storage_class.clone();
    Some(ObjectVersion {
        checksum_algorithm: object
            .algorithm
            .map(|algorithm| vec![ChecksumAlgorithm::from_static(algorithm.name())]),
        e_tag: Some(etag(&object.etag)),
        is_latest: Some(listed.latest),
        key: Some(encoding.text(&listed.key)),
        last_modified: Some(timestamp(listed.last_modified)),
        owner: Some(owner.clone()),
        size: i64::try_from(object.size).ok(),
        storage_class: Some(ObjectVersionStorageClass::from(
            class.unwrap_or_else(|| "STANDARD".into()),
        )),
        version_id: Some(listed.version_id.clone()),
        ..ObjectVersion::default()
    })
}
