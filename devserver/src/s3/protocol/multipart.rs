//! Operations on multipart uploads.

use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, ChecksumAlgorithm, ChecksumType,
    CommonPrefix, CompleteMultipartUploadInput, CompleteMultipartUploadOutput,
    CreateMultipartUploadInput, CreateMultipartUploadOutput, Initiator, ListMultipartUploadsInput,
    ListMultipartUploadsOutput, ListPartsInput, ListPartsOutput, MultipartUpload, Part,
    StorageClass, UploadPartInput, UploadPartOutput,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::s3::store::{Algorithm, Completion, Kind, NamedPart, Precondition, PutOptions};

use super::backend::Backend;
use super::body::receive;
use super::bucket::owner;
use super::convert::{
    attributes, checksum_of, checksum_type, etag, get_checksums, precondition,
    refuse_customer_keys, set_checksum, set_encryption, tags_of_header, timestamp,
};
use super::copy::parse_algorithm;
use super::error::{blocking, convert};
use super::list::{Encoding, limit};

fn algorithm_name(algorithm: Algorithm) -> ChecksumAlgorithm {
    ChecksumAlgorithm::from_static(algorithm.name())
}

fn initiator(backend: &Backend) -> Initiator {
    Initiator {
        display_name: None,
        id: Some(backend.account_id.clone()),
    }
}

fn storage_class(class: Option<&str>) -> StorageClass {
    StorageClass::from(class.unwrap_or("STANDARD").to_owned())
}

pub(super) async fn create(
    backend: &Backend,
    request: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let input = request.input;
    refuse_customer_keys!(input);
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    let kind = match input.checksum_type.as_ref().map(ChecksumType::as_str) {
        None => None,
        Some(ChecksumType::FULL_OBJECT) => Some(Kind::FullObject),
        Some(ChecksumType::COMPOSITE) => Some(Kind::Composite),
        Some(other) => {
            return Err(s3_error!(
                InvalidRequest,
                "Value for x-amz-checksum-type header is invalid: {other}"
            ));
        }
    };
    let checksum = match (&input.checksum_algorithm, kind) {
        (Some(name), kind) => {
            let algorithm = parse_algorithm(name.as_str())?;
            Some((algorithm, kind.unwrap_or(algorithm.default_kind())))
        }
        (None, Some(_)) => {
            return Err(s3_error!(
                InvalidRequest,
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header."
            ));
        }
        (None, None) => None,
    };
    let options = PutOptions {
        attributes: attributes!(input),
        tags: tags_of_header(input.tagging.as_deref())?,
        precondition: Precondition::default(),
    };
    let attributes = options.attributes.clone();
    let key = input.key.clone();
    let id = blocking(&request.extensions, move || {
        bucket.begin(&key, options, checksum)
    })
    .await?;
    let mut output = CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(id),
        checksum_algorithm: checksum.map(|(algorithm, _)| algorithm_name(algorithm)),
        checksum_type: checksum.map(|(_, kind)| checksum_type(kind)),
        ..CreateMultipartUploadOutput::default()
    };
    set_encryption!(output, attributes);
    Ok(S3Response::new(output))
}

pub(super) async fn part(
    backend: &Backend,
    mut request: S3Request<UploadPartInput>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let input = &mut request.input;
    refuse_customer_keys!(input);
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    let upload = bucket
        .upload(&input.key, &input.upload_id)
        .map_err(convert)?;
    let number = u32::try_from(input.part_number).unwrap_or_default();
    let body = input.body.take();
    let algorithm = upload.checksum.map(|(algorithm, _)| algorithm);
    let sealed = receive(bucket.clone(), body, &request, algorithm).await?;
    let input = request.input;
    let part = blocking(&request.extensions, move || {
        bucket.put_part(&input.key, &input.upload_id, number, sealed)
    })
    .await?;
    let mut output = UploadPartOutput {
        e_tag: Some(etag(&part.etag)),
        ..UploadPartOutput::default()
    };
    set_checksum!(output, part.checksum);
    set_encryption!(output, upload.attributes);
    Ok(S3Response::new(output))
}

pub(super) fn parts(
    backend: &Backend,
    input: &ListPartsInput,
) -> S3Result<S3Response<ListPartsOutput>> {
    let input = input.clone();
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    let upload = bucket
        .upload(&input.key, &input.upload_id)
        .map_err(convert)?;
    let limit = limit(input.max_parts, "max-parts")?;
    let after = u32::try_from(input.part_number_marker.unwrap_or(0)).unwrap_or_default();
    let behind: Vec<_> = upload
        .parts
        .iter()
        .filter(|part| part.number > after)
        .collect();
    let more = behind.len() > limit && limit > 0;
    let parts: Vec<Part> = behind
        .iter()
        .take(limit)
        .map(|part| {
            let mut shown = Part {
                e_tag: Some(etag(&part.etag)),
                last_modified: Some(timestamp(part.last_modified)),
                part_number: i32::try_from(part.number).ok(),
                size: i64::try_from(part.size).ok(),
                ..Part::default()
            };
            set_checksum!(shown, part.checksum.clone());
            shown
        })
        .collect();
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        checksum_algorithm: upload
            .checksum
            .map(|(algorithm, _)| algorithm_name(algorithm)),
        checksum_type: upload.checksum.map(|(_, kind)| checksum_type(kind)),
        initiator: Some(initiator(backend)),
        owner: Some(owner(backend)),
        is_truncated: Some(more),
        max_parts: i32::try_from(limit).ok(),
        part_number_marker: Some(input.part_number_marker.unwrap_or(0)),
        next_part_number_marker: Some(parts.last().and_then(|part| part.part_number).unwrap_or(0)),
        storage_class: Some(storage_class(upload.attributes.storage_class.as_deref())),
        parts: Some(parts),
        ..ListPartsOutput::default()
    }))
}

pub(super) fn list(
    backend: &Backend,
    input: &ListMultipartUploadsInput,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let input = input.clone();
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    let limit = limit(input.max_uploads, "max-uploads")?;
    let prefix = input.prefix.clone().unwrap_or_default();
    let delimiter = input.delimiter.clone().filter(|text| !text.is_empty());
    let encoding = Encoding::of(input.encoding_type.as_ref());
    let uploads = bucket.uploads();
    // Uploads of one key are ordered by age, so the marker is a position, not a key.
    let start = match (&input.key_marker, &input.upload_id_marker) {
        (Some(key), Some(id)) if !id.is_empty() => uploads
            .iter()
            .position(|upload| upload.key == *key && upload.id == *id)
            .map_or_else(
                || uploads.partition_point(|upload| upload.key < *key),
                |at| at + 1,
            ),
        (Some(key), _) => uploads.partition_point(|upload| upload.key <= *key),
        (None, _) => 0,
    };
    let mut shown = Vec::new();
    let mut prefixes: Vec<String> = Vec::new();
    let mut next = None;
    let mut truncated = false;
    for upload in uploads[start..]
        .iter()
        .filter(|upload| upload.key.starts_with(&prefix))
    {
        let rolled = delimiter.as_deref().and_then(|delimiter| {
            let at = upload.key[prefix.len()..].find(delimiter)?;
            Some(&upload.key[..prefix.len() + at + delimiter.len()])
        });
        if rolled.is_some_and(|rolled| {
            prefixes.last().map(String::as_str) == Some(rolled)
                || input.key_marker.as_deref() == Some(rolled)
        }) {
            continue;
        }
        if shown.len() + prefixes.len() == limit {
            truncated = limit > 0;
            break;
        }
        if let Some(rolled) = rolled {
            prefixes.push(rolled.to_owned());
            next = Some((rolled.to_owned(), String::new()));
            continue;
        }
        next = Some((upload.key.clone(), upload.id.clone()));
        shown.push(MultipartUpload {
            checksum_algorithm: upload
                .checksum
                .map(|(algorithm, _)| algorithm_name(algorithm)),
            checksum_type: upload.checksum.map(|(_, kind)| checksum_type(kind)),
            initiated: Some(timestamp(upload.initiated)),
            initiator: Some(initiator(backend)),
            key: Some(encoding.text(&upload.key)),
            owner: Some(owner(backend)),
            storage_class: Some(storage_class(upload.attributes.storage_class.as_deref())),
            upload_id: Some(upload.id.clone()),
        });
    }
    let next = next.filter(|_| truncated);
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        common_prefixes: Some(
            prefixes
                .iter()
                .map(|prefix| CommonPrefix {
                    prefix: Some(encoding.text(prefix)),
                })
                .collect(),
        ),
        delimiter: input.delimiter.as_deref().map(|text| encoding.text(text)),
        encoding_type: input.encoding_type,
        is_truncated: Some(truncated),
        key_marker: Some(encoding.text(&input.key_marker.unwrap_or_default())),
        max_uploads: i32::try_from(limit).ok(),
        next_key_marker: next.as_ref().map(|(key, _)| encoding.text(key)),
        next_upload_id_marker: next.map(|(_, id)| id),
        prefix: Some(encoding.text(&prefix)),
        upload_id_marker: Some(input.upload_id_marker.unwrap_or_default()),
        uploads: Some(shown),
        ..ListMultipartUploadsOutput::default()
    }))
}

pub(super) async fn complete(
    backend: &Backend,
    request: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let input = request.input;
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    let named = input
        .multipart_upload
        .as_ref()
        .and_then(|upload| upload.parts.as_ref());
    let mut parts = Vec::new();
    for part in named.into_iter().flatten() {
        let (Some(number), Some(tag)) = (part.part_number, &part.e_tag) else {
            return Err(s3_error!(
                MalformedXML,
                "Each part needs a PartNumber and an ETag"
            ));
        };
        let number = u32::try_from(number)
            .map_err(|error| s3_error!(error, InvalidArgument, "PartNumber must be positive"))?;
        parts.push(NamedPart {
            number,
            etag: tag.value().to_owned(),
            checksums: get_checksums!(part),
        });
    }
    let completion = Completion {
        parts,
        precondition: precondition(input.if_match.as_ref(), input.if_none_match.as_ref())?,
        checksums: get_checksums!(input),
        size: input
            .mpu_object_size
            .and_then(|size| u64::try_from(size).ok()),
    };
    let (key, id) = (input.key.clone(), input.upload_id);
    let head = blocking(&request.extensions, move || {
        bucket.complete(&key, &id, &completion)
    })
    .await?;
    let mut output = CompleteMultipartUploadOutput {
        location: Some(format!("/{}/{}", input.bucket, input.key)),
        bucket: Some(input.bucket),
        key: Some(input.key),
        e_tag: Some(etag(&head.etag)),
        checksum_type: head.checksum.as_ref().map(|sum| checksum_type(sum.kind)),
        version_id: head.version_id.clone(),
        ..CompleteMultipartUploadOutput::default()
    };
    set_checksum!(output, checksum_of(&head));
    set_encryption!(output, head.attributes);
    Ok(S3Response::new(output))
}

pub(super) async fn abort(
    backend: &Backend,
    request: S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let input = request.input;
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    blocking(&request.extensions, move || {
        bucket.abort(&input.key, &input.upload_id)
    })
    .await?;
    Ok(S3Response::with_status(
        AbortMultipartUploadOutput::default(),
        http::StatusCode::NO_CONTENT,
    ))
}
