//! Operations on objects: put, get, head, delete.

use std::ops::Range;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use s3s::dto::{
    Checksum, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput,
    DeletedObject, ETagCondition, GetObjectAttributesInput, GetObjectAttributesOutput,
    GetObjectAttributesParts, GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput,
    PutObjectInput, PutObjectOutput, StorageClass,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use crate::s3::store::{Head, Precondition, PutOptions};

use super::backend::Backend;
use super::body::{receive, send};
use super::conditions::Conditions;
use super::convert::{
    DEFAULT_CONTENT_TYPE, attributes, checksum_of, checksum_type, condition, etag, http_date,
    parse_date, precondition, refuse_customer_keys, set_checksum, set_encryption, tags_of_header,
    timestamp,
};
use super::error::{blocking, code, convert};

pub(super) async fn put(
    backend: &Backend,
    mut request: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let input = &mut request.input;
    refuse_customer_keys!(input);
    if input.write_offset_bytes.is_some() {
        return Err(s3_error!(NotImplemented, "Appending is not implemented"));
    }
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    let options = PutOptions {
        attributes: attributes!(input),
        tags: tags_of_header(input.tagging.as_deref())?,
        precondition: precondition(input.if_match.as_ref(), input.if_none_match.as_ref())?,
    };
    let body = input.body.take();
    let sealed = receive(bucket.clone(), body, &request, None).await?;
    let key = request.input.key;
    let head = blocking(&request.extensions, move || {
        bucket.put(&key, sealed, options)
    })
    .await?;
    let mut output = PutObjectOutput {
        e_tag: Some(etag(&head.etag)),
        checksum_type: head
            .checksum
            .as_ref()
            .map(|checksum| checksum_type(checksum.kind)),
        version_id: head.version_id.clone(),
        ..PutObjectOutput::default()
    };
    set_checksum!(output, checksum_of(&head));
    set_encryption!(output, head.attributes);
    Ok(S3Response::new(output))
}

/// Answers 412 or 304 where the conditions of a read say so.
fn check(conditions: &Conditions<'_>, head: &Head) -> S3Result<()> {
    if !conditions.preconditions_hold(head) {
        return Err(s3_error!(
            PreconditionFailed,
            "At least one of the pre-conditions you specified did not hold"
        ));
    }
    if conditions.is_modified(head) {
        return Ok(());
    }
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&format!("\"{}\"", head.etag)) {
        headers.insert(header::ETAG, value);
    }
    if let Some(value) = http_date(head.last_modified) {
        headers.insert(header::LAST_MODIFIED, value);
    }
    if let Some(Ok(value)) = head.version_id.as_deref().map(HeaderValue::from_str) {
        headers.insert("x-amz-version-id", value);
    }
    let mut error = S3Error::new(S3ErrorCode::NotModified);
    error.set_headers(headers);
    Err(error)
}

/// Part of an object that is requested.
struct Selection {
    range: Range<u64>,
    partial: bool,
}

fn select(
    head: &Head,
    range: Option<&s3s::dto::Range>,
    part_number: Option<i32>,
) -> S3Result<Selection> {
    if let Some(number) = part_number {
        if range.is_some() {
            return Err(s3_error!(
                InvalidRequest,
                "Cannot specify both Range header and partNumber query parameter"
            ));
        }
        let whole = [head.size];
        let sizes = head.parts.as_deref().unwrap_or(&whole);
        let at = usize::try_from(number)
            .ok()
            .and_then(|number| number.checked_sub(1))
            .ok_or_else(|| {
                s3_error!(
                    InvalidArgument,
                    "Part number must be an integer between 1 and 10000, inclusive"
                )
            })?;
        let size = sizes.get(at).ok_or_else(|| {
            let mut error = S3Error::with_message(
                S3ErrorCode::Custom("InvalidPartNumber".into()),
                "The requested partnumber is not satisfiable",
            );
            error.set_status_code(StatusCode::RANGE_NOT_SATISFIABLE);
            error
        })?;
        let start: u64 = sizes[..at].iter().sum();
        return Ok(Selection {
            range: start..start + size,
            partial: true,
        });
    }
    let Some(range) = range else {
        return Ok(Selection {
            range: 0..head.size,
            partial: false,
        });
    };
    match range.check(head.size) {
        Ok(range) if !range.is_empty() => Ok(Selection {
            range,
            partial: true,
        }),
        _ => {
            let mut error = s3_error!(InvalidRange, "The requested range is not satisfiable");
            let mut headers = HeaderMap::new();
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/xml"),
            );
            if let Ok(value) = HeaderValue::from_str(&format!("bytes */{}", head.size)) {
                headers.insert(header::CONTENT_RANGE, value);
            }
            error.set_headers(headers);
            Err(error)
        }
    }
}

/// Sets the fields that `GetObject` and `HeadObject` have in common.
macro_rules! describe {
    ($output:ident, $head:expr, $selection:expr, $input:expr) => {{
        let (head, selection) = (&$head, &$selection);
        let length = selection.range.end - selection.range.start;
        let attributes = &head.attributes;
        let mut output = $output {
            accept_ranges: Some("bytes".into()),
            cache_control: attributes.cache_control.clone(),
            content_disposition: attributes.content_disposition.clone(),
            content_encoding: attributes.content_encoding.clone(),
            content_language: attributes.content_language.clone(),
            content_length: i64::try_from(length).ok(),
            content_range: (selection.partial && length > 0).then(|| {
                format!(
                    "bytes {}-{}/{}",
                    selection.range.start,
                    selection.range.end - 1,
                    head.size
                )
            }),
            content_type: Some(
                (attributes.content_type.clone()).unwrap_or_else(|| DEFAULT_CONTENT_TYPE.into()),
            ),
            e_tag: Some(etag(&head.etag)),
            expires: attributes.expires.as_deref().and_then(parse_date),
            last_modified: Some(timestamp(head.last_modified)),
            metadata: Some(attributes.user.clone().into_iter().collect()),
            parts_count: (head.parts.as_ref())
                .filter(|_| $input.part_number.is_some())
                .and_then(|parts| i32::try_from(parts.len()).ok()),
            storage_class: attributes.storage_class.clone().map(StorageClass::from),
            version_id: head.version_id.clone(),
            website_redirect_location: attributes.website_redirect.clone(),
            ..$output::default()
        };
        let checksum_asked = $input
            .checksum_mode
            .as_ref()
            .is_some_and(|mode| mode.as_str().eq_ignore_ascii_case("ENABLED"));
        // A client would compare it with the received bytes, so it is sent only with all of
        // them.
        if checksum_asked && !selection.partial {
            output.checksum_type = (head.checksum.as_ref()).map(|sum| checksum_type(sum.kind));
            set_checksum!(output, checksum_of(head));
        }
        set_encryption!(output, attributes);
        output
    }};
}

pub(super) async fn get(
    backend: &Backend,
    request: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let input = request.input;
    refuse_customer_keys!(input);
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    let (key, version_id) = (input.key.clone(), input.version_id.clone());
    let (head, reader) = blocking(&request.extensions, move || {
        bucket.get(&key, version_id.as_deref())
    })
    .await?;
    check(
        &Conditions {
            matching: input.if_match.as_ref(),
            not_matching: input.if_none_match.as_ref(),
            modified_since: input.if_modified_since.as_ref(),
            unmodified_since: input.if_unmodified_since.as_ref(),
        },
        &head,
    )?;
    let selection = select(&head, input.range.as_ref(), input.part_number)?;
    let mut output = describe!(GetObjectOutput, head, selection, input);
    output.tag_count = i32::try_from(head.tags.len())
        .ok()
        .filter(|count| *count > 0);
    output.body = Some(send(&request.extensions, reader, selection.range).await?);
    Ok(S3Response::new(output))
}

pub(super) fn head(
    backend: &Backend,
    input: &HeadObjectInput,
) -> S3Result<S3Response<HeadObjectOutput>> {
    refuse_customer_keys!(input);
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    let head = bucket
        .head(&input.key, input.version_id.as_deref())
        .map_err(convert)?;
    check(
        &Conditions {
            matching: input.if_match.as_ref(),
            not_matching: input.if_none_match.as_ref(),
            modified_since: input.if_modified_since.as_ref(),
            unmodified_since: input.if_unmodified_since.as_ref(),
        },
        &head,
    )?;
    let selection = select(&head, input.range.as_ref(), input.part_number)?;
    let output = describe!(HeadObjectOutput, head, selection, input);
    let mut response = S3Response::new(output);
    response.status = response
        .output
        .content_range
        .is_some()
        .then_some(StatusCode::PARTIAL_CONTENT);
    Ok(response)
}

pub(super) fn describe(
    backend: &Backend,
    input: &GetObjectAttributesInput,
) -> S3Result<S3Response<GetObjectAttributesOutput>> {
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    let head = bucket
        .head(&input.key, input.version_id.as_deref())
        .map_err(convert)?;
    // Some clients send one header with commas, others one header for each attribute.
    let wanted = |name: &str| {
        let mut given = input.object_attributes.iter();
        given.any(|given| given.as_str().split(',').any(|given| given.trim() == name))
    };
    let mut output = GetObjectAttributesOutput {
        last_modified: Some(timestamp(head.last_modified)),
        version_id: head.version_id.clone(),
        ..GetObjectAttributesOutput::default()
    };
    if wanted("ETag") {
        output.e_tag = Some(etag(&head.etag));
    }
    if wanted("ObjectSize") {
        output.object_size = i64::try_from(head.size).ok();
    }
    if wanted("StorageClass") {
        let class = head.attributes.storage_class.clone();
        output.storage_class = Some(class.unwrap_or_else(|| "STANDARD".into()).into());
    }
    if wanted("Checksum") && head.checksum.is_some() {
        let mut checksum = Checksum {
            checksum_type: head.checksum.as_ref().map(|sum| checksum_type(sum.kind)),
            ..Checksum::default()
        };
        set_checksum!(checksum, checksum_of(&head));
        output.checksum = Some(checksum);
    }
    if wanted("ObjectParts")
        && let Some(parts) = &head.parts
    {
        output.object_parts = Some(GetObjectAttributesParts {
            total_parts_count: i32::try_from(parts.len()).ok(),
            ..GetObjectAttributesParts::default()
        });
    }
    Ok(S3Response::new(output))
}

pub(super) async fn delete(
    backend: &Backend,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let input = request.input;
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    let precondition = precondition(input.if_match.as_ref(), None)?;
    let deleted = blocking(&request.extensions, move || {
        bucket.delete(&input.key, input.version_id.as_deref(), &precondition)
    })
    .await?;
    Ok(S3Response::with_status(
        DeleteObjectOutput {
            delete_marker: deleted.marker.then_some(true),
            version_id: deleted.version_id,
            ..DeleteObjectOutput::default()
        },
        StatusCode::NO_CONTENT,
    ))
}

pub(super) async fn delete_many(
    backend: &Backend,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let input = request.input;
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    if input.delete.objects.is_empty() || input.delete.objects.len() > 1000 {
        return Err(s3_error!(
            MalformedXML,
            "One to 1000 objects can be deleted at once"
        ));
    }
    let quiet = input.delete.quiet.unwrap_or(false);
    let output = blocking(&request.extensions, move || {
        let (mut done, mut errors) = (Vec::new(), Vec::new());
        for object in input.delete.objects {
            let precondition = Precondition {
                if_match: object.e_tag.as_ref().map(|etag| {
                    condition(&match etag.value() {
                        "*" => ETagCondition::Any,
                        _ => ETagCondition::ETag(etag.clone()),
                    })
                }),
                if_absent: false,
            };
            match bucket.delete(&object.key, object.version_id.as_deref(), &precondition) {
                Ok(deleted) => done.push(DeletedObject {
                    delete_marker: deleted.marker.then_some(true),
                    delete_marker_version_id: deleted.version_id.filter(|_| deleted.marker),
                    key: Some(object.key),
                    version_id: object.version_id,
                }),
                Err(error) => errors.push(s3s::dto::Error {
                    code: Some(code(&error).as_str().to_owned()),
                    key: Some(object.key),
                    message: Some(error.to_string()),
                    version_id: object.version_id,
                }),
            }
        }
        Ok((done, errors))
    })
    .await
    .map(|(done, errors)| DeleteObjectsOutput {
        deleted: Some(if quiet { Vec::new() } else { done }),
        errors: Some(errors),
        ..DeleteObjectsOutput::default()
    })?;
    Ok(S3Response::new(output))
}
