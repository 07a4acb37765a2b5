//! Copies within the server: an object, and a range into a part.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::ops::Range;

use http::Extensions;
use s3s::dto::{
    CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopyPartResult, CopySource,
    MetadataDirective, TaggingDirective, UploadPartCopyInput, UploadPartCopyOutput,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::s3::store::{Algorithm, Bucket, Error, Head, PutOptions, Reader, Sealed, Store};

use super::backend::Backend;
use super::conditions::Conditions;
use super::convert::{
    attributes, checksum_of, checksum_type, etag, precondition_of, refuse_customer_keys,
    set_checksum, set_encryption, tags_of_header, timestamp,
};
use super::error::{blocking, convert};

/// Maximum size of an object that one copy takes, in bytes (5 GiB).
const MAX_COPY_BYTES: u64 = 5 * 1024 * 1024 * 1024;

struct Source {
    bucket: String,
    key: String,
    version_id: Option<String>,
}

impl Source {
    fn of(store: &Store, given: &CopySource) -> S3Result<Self> {
        match given {
            CopySource::Bucket {
                bucket,
                key,
                version_id,
            } => Ok(Self {
                bucket: bucket.to_string(),
                key: key.to_string(),
                version_id: version_id.as_deref().map(str::to_owned),
            }),
            CopySource::AccessPoint {
                access_point_name,
                key,
                version_id,
                ..
            } => {
                let bucket = store.bucket_of_access_point(access_point_name);
                Ok(Self {
                    bucket: bucket.ok_or_else(|| {
                        s3_error!(NoSuchBucket, "The specified accesspoint does not exist")
                    })?,
                    key: key.to_string(),
                    version_id: version_id.as_deref().map(str::to_owned),
                })
            }
            CopySource::Outpost { .. } => Err(s3_error!(
                NotImplemented,
                "The development server has no S3 on Outposts: name a bucket or an access point"
            )),
        }
    }

    async fn open(&self, backend: &Backend, extensions: &Extensions) -> S3Result<(Head, Reader)> {
        let bucket = backend.store.bucket(&self.bucket).map_err(convert)?;
        let (key, version_id) = (self.key.clone(), self.version_id.clone());
        blocking(extensions, move || {
            match bucket.get(&key, version_id.as_deref()) {
                Err(Error::MarkerVersion { .. }) => Err(Error::InvalidRequest(
                    "The source of a copy request may not specifically refer to a delete marker by version id.".into(),
                )),
                result => result,
            }
        })
        .await
    }
}

fn check_source(conditions: &Conditions<'_>, head: &Head) -> S3Result<()> {
    if conditions.preconditions_hold(head) && conditions.is_modified(head) {
        return Ok(());
    }
    Err(s3_error!(
        PreconditionFailed,
        "At least one of the pre-conditions you specified did not hold: the copy source's"
    ))
}

fn stage(
    bucket: &Bucket,
    mut reader: Reader,
    range: Range<u64>,
    algorithm: Option<Algorithm>,
) -> crate::s3::store::Result<Sealed> {
    let mut staged = bucket.stage(algorithm)?;
    reader
        .seek(SeekFrom::Start(range.start))
        .map_err(|source| Error::Io {
            action: "reading a blob",
            source,
        })?;
    staged.copy_from(&mut reader.take(range.end - range.start))?;
    let mut sealed = staged.seal()?;
    if let Some(algorithm) = algorithm {
        sealed.keep_checksum(algorithm);
    }
    Ok(sealed)
}

pub(super) async fn object(
    backend: &Backend,
    request: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let input = request.input;
    refuse_customer_keys!(input);
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    let source = Source::of(&backend.store, &input.copy_source)?;
    let (head, reader) = source.open(backend, &request.extensions).await?;
    check_source(
        &Conditions {
            matching: input.copy_source_if_match.as_ref(),
            not_matching: input.copy_source_if_none_match.as_ref(),
            modified_since: input.copy_source_if_modified_since.as_ref(),
            unmodified_since: input.copy_source_if_unmodified_since.as_ref(),
        },
        &head,
    )?;
    if head.size > MAX_COPY_BYTES {
        return Err(s3_error!(
            InvalidRequest,
            "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120"
        ));
    }
    let replace = input
        .metadata_directive
        .as_ref()
        .is_some_and(|directive| directive.as_str() == MetadataDirective::REPLACE);
    let given = attributes!(input);
    let to_itself =
        source.bucket == input.bucket && source.key == input.key && source.version_id.is_none();
    let changes = replace
        || given.encryption.is_some()
        || given.storage_class.is_some()
        || given.website_redirect.is_some();
    if to_itself && !changes {
        return Err(s3_error!(
            InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes."
        ));
    }
    let attributes = if replace {
        given
    } else {
        crate::s3::store::Attributes {
            encryption: given.encryption,
            storage_class: given.storage_class,
            website_redirect: given.website_redirect,
            ..head.attributes.clone()
        }
    };
    let replace_tags = input
        .tagging_directive
        .as_ref()
        .is_some_and(|directive| directive.as_str() == TaggingDirective::REPLACE);
    let options = PutOptions {
        attributes,
        tags: if replace_tags {
            tags_of_header(input.tagging.as_deref())?
        } else {
            head.tags.clone()
        },
        precondition: precondition_of(&request.headers)?,
    };
    let algorithm = match &input.checksum_algorithm {
        Some(name) => Some(parse_algorithm(name.as_str())?),
        None => head.checksum.as_ref().map(|checksum| checksum.algorithm),
    };
    let key = input.key;
    let copied = blocking(&request.extensions, move || {
        let sealed = stage(&bucket, reader, 0..head.size, algorithm)?;
        bucket.put(&key, sealed, options)
    })
    .await?;
    let mut result = CopyObjectResult {
        e_tag: Some(etag(&copied.etag)),
        last_modified: Some(timestamp(copied.last_modified)),
        checksum_type: copied.checksum.as_ref().map(|sum| checksum_type(sum.kind)),
        ..CopyObjectResult::default()
    };
    set_checksum!(result, checksum_of(&copied));
    let mut output = CopyObjectOutput {
        copy_object_result: Some(result),
        copy_source_version_id: head.version_id,
        version_id: copied.version_id,
        ..CopyObjectOutput::default()
    };
    set_encryption!(output, copied.attributes);
    Ok(S3Response::new(output))
}

/// Finds an algorithm by its name in a request.
pub(super) fn parse_algorithm(name: &str) -> S3Result<Algorithm> {
    Algorithm::parse(name).ok_or_else(|| {
        s3_error!(
            NotImplemented,
            "The checksum algorithm `{name}` is not implemented: use CRC32, CRC32C, CRC64NVME, SHA1 or SHA256"
        )
    })
}

pub(super) async fn part(
    backend: &Backend,
    request: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let input = request.input;
    refuse_customer_keys!(input);
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    let upload = bucket
        .upload(&input.key, &input.upload_id)
        .map_err(convert)?;
    let source = Source::of(&backend.store, &input.copy_source)?;
    let (head, reader) = source.open(backend, &request.extensions).await?;
    check_source(
        &Conditions {
            matching: input.copy_source_if_match.as_ref(),
            not_matching: input.copy_source_if_none_match.as_ref(),
            modified_since: input.copy_source_if_modified_since.as_ref(),
            unmodified_since: input.copy_source_if_unmodified_since.as_ref(),
        },
        &head,
    )?;
    let range = match input.copy_source_range.as_deref() {
        Some(text) => source_range(text, head.size)?,
        None => 0..head.size,
    };
    let number = u32::try_from(input.part_number).unwrap_or_default();
    let algorithm = upload.checksum.map(|(algorithm, _)| algorithm);
    let part = blocking(&request.extensions, move || {
        let sealed = stage(&bucket, reader, range, algorithm)?;
        bucket.put_part(&input.key, &input.upload_id, number, sealed)
    })
    .await?;
    let mut result = CopyPartResult {
        e_tag: Some(etag(&part.etag)),
        last_modified: Some(timestamp(part.last_modified)),
        ..CopyPartResult::default()
    };
    set_checksum!(result, part.checksum);
    let mut output = UploadPartCopyOutput {
        copy_part_result: Some(result),
        copy_source_version_id: head.version_id,
        ..UploadPartCopyOutput::default()
    };
    set_encryption!(output, upload.attributes);
    Ok(S3Response::new(output))
}

/// Reads `bytes=first-last`, both of which must be within the source.
fn source_range(text: &str, size: u64) -> S3Result<Range<u64>> {
    let (first, last) = text
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
        .and_then(|(first, last)| Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?)))
        .filter(|(first, last)| first <= last)
        .ok_or_else(|| {
            s3_error!(
                InvalidArgument,
                "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy"
            )
        })?;
    if last >= size {
        return Err(s3_error!(
            InvalidArgument,
            "Range specified is not valid for source object of size: {size}"
        ));
    }
    Ok(first..last + 1)
}
