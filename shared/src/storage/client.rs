//! [`ObjectStore`] over the AWS SDK.

use std::collections::BTreeMap;
use std::ops::Range;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketVersioningStatus, ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart,
    ServerSideEncryption, Tag, Tagging,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::DateTime;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::error::{S3Request, convert};
use super::{
    ETag, ListPage, ObjectHead, ObjectMetadata, ObjectStore, ObjectSummary, Part, Precondition,
    PutOptions, PutResult, UploadId, VersionId,
};
use crate::aws::{Aws, SdkFailure, corrupt};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{BucketName, ObjectKey};

/// What stays as it is in `x-amz-copy-source`.
const COPY_SOURCE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The S3 of an AWS account and region, or a store that speaks its protocol.
#[derive(Debug, Clone)]
pub struct SdkObjectStore {
    client: Client,
    // Whether multipart uploads name a checksum. Stores that break on them are used with
    // AWS_REQUEST_CHECKSUM_CALCULATION=when_required.
    checksums: bool,
}

impl SdkObjectStore {
    /// Makes a client; cheap to clone. With an endpoint of its own the bucket's name goes
    /// into the path: `<bucket>.<endpoint>` resolves for AWS only.
    pub fn new(aws: &Aws) -> Self {
        let config = aws_sdk_s3::config::Builder::from(aws.sdk())
            .force_path_style(aws.has_endpoint_override("S3"))
            .interceptor(aws.idle_timeout())
            .build();
        let checksums = aws.sdk().request_checksum_calculation()
            != Some(RequestChecksumCalculation::WhenRequired);
        Self {
            client: Client::from_conf(config),
            checksums,
        }
    }

    fn checksum_algorithm(&self) -> Option<ChecksumAlgorithm> {
        self.checksums.then_some(ChecksumAlgorithm::Crc32)
    }

    /// Fails when the bucket is gone; what else the service says proves that it is there.
    async fn require_bucket(&self, place: &S3Request<'_>) -> Result<()> {
        let Err(error) = self
            .client
            .head_bucket()
            .bucket(place.bucket.as_str())
            .send()
            .await
        else {
            return Ok(());
        };
        let failure = SdkFailure::of(&error);
        match failure.status() {
            404 => Err(failure
                .into_error(
                    ErrorKind::NotFound,
                    format!("bucket `{}` does not exist", place.bucket),
                )
                .with_hint("check its name and the account")),
            401 | 403 => Ok(()),
            _ => Err(convert(failure, place)),
        }
    }
}

#[async_trait]
impl ObjectStore for SdkObjectStore {
    async fn is_versioned(&self, bucket: &BucketName) -> Result<bool> {
        let place = S3Request::bucket("GetBucketVersioning", "s3:GetBucketVersioning", bucket);
        let answer = self
            .client
            .get_bucket_versioning()
            .bucket(bucket.as_str())
            .send()
            .await
            .map_err(at(&place))?;
        Ok(answer.status == Some(BucketVersioningStatus::Enabled))
    }

    async fn head(&self, bucket: &BucketName, key: &ObjectKey) -> Result<Option<ObjectHead>> {
        let place = S3Request::object("HeadObject", "s3:GetObject", bucket, key);
        let answer = self
            .client
            .head_object()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .send()
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let failure = SdkFailure::of(&error);
                if failure.status() != 404 {
                    return Err(convert(failure, &place));
                }
                // The answer to HEAD has no body that would name what is missing.
                self.require_bucket(&place).await?;
                return Ok(None);
            }
        };
        let metadata = ObjectMetadata {
            content_type: answer.content_type,
            content_disposition: answer.content_disposition,
            cache_control: answer.cache_control,
            user: answer.metadata.unwrap_or_default().into_iter().collect(),
        };
        Ok(Some(ObjectHead {
            etag: etag(&place, answer.e_tag)?,
            size_bytes: size(&place, answer.content_length)?,
            version_id: version(answer.version_id),
            metadata,
            last_modified: answer.last_modified.as_ref().map_or(0, DateTime::secs),
        }))
    }

    async fn get(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        range: Option<Range<u64>>,
    ) -> Result<Bytes> {
        let permission = match version {
            Some(_) => "s3:GetObjectVersion",
            None => "s3:GetObject",
        };
        let place = S3Request::object("GetObject", permission, bucket, key).version(version);
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok(Bytes::new());
        }
        let answer = self
            .client
            .get_object()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .set_version_id(version.map(str::to_owned))
            .set_range(range.map(|range| bytes_range(&range)))
            .send()
            .await
            .map_err(at(&place))?;
        whole(&place, answer.body).await
    }

    async fn get_with_etag(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
    ) -> Result<Option<(Bytes, ETag)>> {
        let place = S3Request::object("GetObject", "s3:GetObject", bucket, key);
        let answer = self
            .client
            .get_object()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .send()
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let failure = SdkFailure::of(&error);
                // A delete marker is told in a header alone.
                if failure.status() == 404 && matches!(failure.code(), "NoSuchKey" | "") {
                    return Ok(None);
                }
                return Err(convert(failure, &place));
            }
        };
        let etag = etag(&place, answer.e_tag)?;
        Ok(Some((whole(&place, answer.body).await?, etag)))
    }

    async fn list(
        &self,
        bucket: &BucketName,
        prefix: &str,
        delimiter: Option<&str>,
        next: Option<&str>,
    ) -> Result<ListPage> {
        let place = S3Request::bucket("ListObjectsV2", "s3:ListBucket", bucket);
        let answer = self
            .client
            .list_objects_v2()
            .bucket(bucket.as_str())
            .prefix(prefix)
            .set_delimiter(delimiter.map(str::to_owned))
            .set_continuation_token(next.map(str::to_owned))
            .send()
            .await
            .map_err(at(&place))?;
        let mut objects = Vec::new();
        for object in answer.contents.unwrap_or_default() {
            let key = object.key.unwrap_or_default();
            let Ok(key) = ObjectKey::new(&key) else {
                tracing::warn!(
                    bucket.name = %bucket,
                    object.key = %key.escape_debug(),
                    "left out of the list: not a key that branchline would write"
                );
                continue;
            };
            objects.push(ObjectSummary {
                key,
                etag: etag(&place, object.e_tag)?,
                size_bytes: size(&place, object.size)?,
                last_modified: object.last_modified.as_ref().map_or(0, DateTime::secs),
            });
        }
        Ok(ListPage {
            objects,
            common_prefixes: answer
                .common_prefixes
                .unwrap_or_default()
                .into_iter()
                .filter_map(|common| common.prefix)
                .collect(),
            next: answer
                .next_continuation_token
                .filter(|_| answer.is_truncated == Some(true)),
        })
    }

    async fn put(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        body: Bytes,
        options: &PutOptions,
    ) -> Result<PutResult> {
        let place = S3Request::object("PutObject", "s3:PutObject", bucket, key).write(options);
        let metadata = &options.metadata;
        let (if_none_match, if_match) = conditions(&options.precondition);
        let answer = self
            .client
            .put_object()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .set_content_type(metadata.content_type.clone())
            .set_content_disposition(metadata.content_disposition.clone())
            .set_cache_control(metadata.cache_control.clone())
            .set_metadata(user_metadata(metadata))
            .set_if_none_match(if_none_match)
            .set_if_match(if_match)
            .set_server_side_encryption(
                options
                    .kms_key_id
                    .as_ref()
                    .map(|_| ServerSideEncryption::AwsKms),
            )
            .set_ssekms_key_id(options.kms_key_id.clone())
            .set_bucket_key_enabled(options.kms_key_id.as_ref().map(|_| true))
            .body(body.into())
            .send()
            .await
            .map_err(at(&place))?;
        Ok(PutResult {
            etag: etag(&place, answer.e_tag)?,
            version_id: version(answer.version_id),
        })
    }

    async fn delete(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        precondition: &Precondition,
    ) -> Result<()> {
        let place = S3Request::object("DeleteObject", "s3:DeleteObject", bucket, key)
            .precondition(precondition);
        let if_match = match precondition {
            Precondition::None => None,
            Precondition::Matches(etag) => Some(etag.0.clone()),
            Precondition::Absent => {
                return Err(Error::new(
                    ErrorKind::Internal,
                    format!("{place} cannot be deleted on the condition that it is absent"),
                ));
            }
        };
        let answer = self
            .client
            .delete_object()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .set_if_match(if_match)
            .send()
            .await;
        match answer {
            Ok(_) => Ok(()),
            Err(error) => {
                let failure = SdkFailure::of(&error);
                if failure.code() == "NoSuchKey" && *precondition == Precondition::None {
                    return Ok(());
                }
                Err(convert(failure, &place))
            }
        }
    }

    async fn delete_version(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: &str,
    ) -> Result<()> {
        let place = S3Request::object("DeleteObject", "s3:DeleteObjectVersion", bucket, key);
        let answer = self
            .client
            .delete_object()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .version_id(version)
            .send()
            .await;
        match answer {
            Ok(_) => Ok(()),
            Err(error) => {
                let failure = SdkFailure::of(&error);
                if matches!(failure.code(), "NoSuchKey" | "NoSuchVersion") {
                    return Ok(());
                }
                Err(convert(failure, &place))
            }
        }
    }

    async fn create_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        options: &PutOptions,
    ) -> Result<UploadId> {
        let place = S3Request::object("CreateMultipartUpload", "s3:PutObject", bucket, key)
            .kms(options.kms_key_id.is_some());
        let metadata = &options.metadata;
        let answer = self
            .client
            .create_multipart_upload()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .set_content_type(metadata.content_type.clone())
            .set_content_disposition(metadata.content_disposition.clone())
            .set_cache_control(metadata.cache_control.clone())
            .set_metadata(user_metadata(metadata))
            .set_checksum_algorithm(self.checksum_algorithm())
            .set_server_side_encryption(
                options
                    .kms_key_id
                    .as_ref()
                    .map(|_| ServerSideEncryption::AwsKms),
            )
            .set_ssekms_key_id(options.kms_key_id.clone())
            .set_bucket_key_enabled(options.kms_key_id.as_ref().map(|_| true))
            .send()
            .await
            .map_err(at(&place))?;
        answer
            .upload_id
            .filter(|id| !id.is_empty())
            .map(UploadId)
            .ok_or_else(|| corrupt(&place.call(), "no `UploadId`"))
    }

    async fn upload_part(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
        number: u32,
        body: Bytes,
    ) -> Result<Part> {
        let place = S3Request::object("UploadPart", "s3:PutObject", bucket, key).upload(upload);
        let answer = self
            .client
            .upload_part()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .upload_id(&upload.0)
            .part_number(part_number(number))
            .set_checksum_algorithm(self.checksum_algorithm())
            .body(body.into())
            .send()
            .await
            .map_err(at(&place))?;
        Ok(Part {
            number,
            etag: etag(&place, answer.e_tag)?,
            checksum_crc32: answer.checksum_crc32,
        })
    }

    async fn upload_part_copy(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
        number: u32,
        source: (&BucketName, &ObjectKey, Option<&str>),
        range: Range<u64>,
    ) -> Result<Part> {
        let (from_bucket, from_key, from_version) = source;
        let place = S3Request::object("UploadPartCopy", "s3:PutObject", bucket, key)
            .upload(upload)
            .copied_from(from_bucket, from_key);
        let mut copy_source = format!(
            "{from_bucket}/{}",
            utf8_percent_encode(from_key.as_str(), COPY_SOURCE)
        );
        if let Some(version) = from_version {
            copy_source.push_str("?versionId=");
            copy_source.extend(utf8_percent_encode(version, COPY_SOURCE));
        }
        let answer = self
            .client
            .upload_part_copy()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .upload_id(&upload.0)
            .part_number(part_number(number))
            .copy_source(copy_source)
            .copy_source_range(bytes_range(&range))
            .send()
            .await
            .map_err(at(&place))?;
        let part = answer
            .copy_part_result
            .ok_or_else(|| corrupt(&place.call(), "no `CopyPartResult`"))?;
        Ok(Part {
            number,
            etag: etag(&place, part.e_tag)?,
            checksum_crc32: part.checksum_crc32,
        })
    }

    async fn complete_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[Part],
        precondition: &Precondition,
    ) -> Result<PutResult> {
        let place = S3Request::object("CompleteMultipartUpload", "s3:PutObject", bucket, key)
            .upload(upload)
            .precondition(precondition);
        let parts = parts
            .iter()
            .map(|part| {
                CompletedPart::builder()
                    .part_number(part_number(part.number))
                    .e_tag(&part.etag.0)
                    .set_checksum_crc32(part.checksum_crc32.clone())
                    .build()
            })
            .collect();
        let (if_none_match, if_match) = conditions(precondition);
        let answer = self
            .client
            .complete_multipart_upload()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .upload_id(&upload.0)
            .multipart_upload(
                CompletedMultipartUpload::builder()
                    .set_parts(Some(parts))
                    .build(),
            )
            .set_if_none_match(if_none_match)
            .set_if_match(if_match)
            .send()
            .await
            .map_err(at(&place))?;
        Ok(PutResult {
            etag: etag(&place, answer.e_tag)?,
            version_id: version(answer.version_id),
        })
    }

    async fn abort_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
    ) -> Result<()> {
        let place = S3Request::object(
            "AbortMultipartUpload",
            "s3:AbortMultipartUpload",
            bucket,
            key,
        )
        .upload(upload);
        let answer = self
            .client
            .abort_multipart_upload()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .upload_id(&upload.0)
            .send()
            .await;
        match answer {
            Ok(_) => Ok(()),
            Err(error) => {
                let failure = SdkFailure::of(&error);
                if failure.code() == "NoSuchUpload" {
                    return Ok(());
                }
                Err(convert(failure, &place))
            }
        }
    }

    async fn get_tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
    ) -> Result<BTreeMap<String, String>> {
        let permission = match version {
            Some(_) => "s3:GetObjectVersionTagging",
            None => "s3:GetObjectTagging",
        };
        let place = S3Request::object("GetObjectTagging", permission, bucket, key).version(version);
        let answer = self
            .client
            .get_object_tagging()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .set_version_id(version.map(str::to_owned))
            .send()
            .await
            .map_err(at(&place))?;
        Ok(answer
            .tag_set
            .into_iter()
            .map(|tag| (tag.key, tag.value))
            .collect())
    }

    async fn put_tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        tags: &BTreeMap<String, String>,
    ) -> Result<()> {
        let permission = match version {
            Some(_) => "s3:PutObjectVersionTagging",
            None => "s3:PutObjectTagging",
        };
        let place = S3Request::object("PutObjectTagging", permission, bucket, key).version(version);
        let tags = tags
            .iter()
            .map(|(name, value)| {
                Tag::builder()
                    .key(name)
                    .value(value)
                    .build()
                    .expect("because key and value are set")
            })
            .collect();
        self.client
            .put_object_tagging()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .set_version_id(version.map(str::to_owned))
            .tagging(
                Tagging::builder()
                    .set_tag_set(Some(tags))
                    .build()
                    .expect("because the set of tags is set"),
            )
            .send()
            .await
            .map_err(at(&place))?;
        Ok(())
    }
}

/// The conversion of an SDK error at a place, for `map_err`.
fn at<'a, E>(place: &'a S3Request<'a>) -> impl Fn(SdkError<E, HttpResponse>) -> Error + 'a
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    |error| convert(SdkFailure::of(&error), place)
}

/// Reads an answer to its end.
async fn whole(place: &S3Request<'_>, body: ByteStream) -> Result<Bytes> {
    let body = body.collect().await.map_err(|error| {
        Error::new(
            ErrorKind::Transport,
            format!("`GetObject` of {place} got no whole answer"),
        )
        .with_source(error)
    })?;
    Ok(body.into_bytes())
}

/// `If-None-Match` and `If-Match`.
fn conditions(precondition: &Precondition) -> (Option<String>, Option<String>) {
    match precondition {
        Precondition::None => (None, None),
        Precondition::Absent => (Some("*".into()), None),
        Precondition::Matches(etag) => (None, Some(etag.0.clone())),
    }
}

fn user_metadata(metadata: &ObjectMetadata) -> Option<std::collections::HashMap<String, String>> {
    let user = &metadata.user;
    (!user.is_empty()).then(|| user.clone().into_iter().collect())
}

/// HTTP's ranges include their end.
fn bytes_range(range: &Range<u64>) -> String {
    format!("bytes={}-{}", range.start, range.end.saturating_sub(1))
}

fn part_number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn etag(place: &S3Request<'_>, etag: Option<String>) -> Result<ETag> {
    etag.filter(|etag| !etag.is_empty())
        .map(ETag)
        .ok_or_else(|| corrupt(&place.call(), "no `ETag`"))
}

fn size(place: &S3Request<'_>, size: Option<i64>) -> Result<u64> {
    let size = size.unwrap_or(0);
    u64::try_from(size).map_err(|_| corrupt(&place.call(), format!("a size of {size}")))
}

/// Objects written while versions are off have the version `null`.
fn version(id: Option<String>) -> VersionId {
    id.filter(|id| id != "null" && !id.is_empty())
}
