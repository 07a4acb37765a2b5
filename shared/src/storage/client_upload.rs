//! Multipart uploads of [`SdkObjectStore`](super::client::SdkObjectStore).

use std::ops::Range;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::client_convert::{bytes_range, conditions, convert_for, etag, version_id};
use super::error::{S3Request, convert};
use super::{CopySource, MultipartUpload, Part, Precondition, PutResult, UploadId};
use crate::aws::{SdkFailure, corrupt};
use crate::error::Result;
use crate::name::{BucketName, ObjectKey};

/// Characters that `x-amz-copy-source` does not escape.
const COPY_SOURCE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Multipart upload of one object.
pub(super) struct SdkUpload {
    pub(super) client: Client,
    pub(super) checksum_algorithm: Option<ChecksumAlgorithm>,
    pub(super) bucket: BucketName,
    pub(super) key: ObjectKey,
    pub(super) id: UploadId,
}

#[async_trait]
impl MultipartUpload for SdkUpload {
    fn id(&self) -> UploadId {
        self.id.clone()
    }

    async fn part(&self, number: u32, body: Bytes) -> Result<Part> {
        let request = S3Request::object("UploadPart", "s3:PutObject", &self.bucket, &self.key)
            .upload(&self.id);
        let answer = self
            .client
            .upload_part()
            .bucket(self.bucket.as_str())
            .key(self.key.as_str())
            .upload_id(&self.id.0)
            .part_number(part_number(number))
            .set_checksum_algorithm(self.checksum_algorithm.clone())
            .body(body.into())
            .send()
            .await
            .map_err(convert_for(&request))?;
        Ok(Part {
            number,
            etag: etag(&request, answer.e_tag)?,
            checksum_crc32: answer.checksum_crc32,
        })
    }

    async fn part_copy(
        &self,
        number: u32,
        source: CopySource<'_>,
        range: Range<u64>,
    ) -> Result<Part> {
        let (from_bucket, from_key, from_version) = source;
        let request = S3Request::object("UploadPartCopy", "s3:PutObject", &self.bucket, &self.key)
            .upload(&self.id)
            .copied_from(from_bucket, from_key);
        let from = if from_bucket.is_access_point() {
            from_bucket.object_arn(from_key.as_str())
        } else {
            format!("{from_bucket}/{from_key}")
        };
        let mut copy_source = utf8_percent_encode(&from, COPY_SOURCE).to_string();
        if let Some(version) = from_version {
            copy_source.push_str("?versionId=");
            copy_source.extend(utf8_percent_encode(version, COPY_SOURCE));
        }
        let answer = self
            .client
            .upload_part_copy()
            .bucket(self.bucket.as_str())
            .key(self.key.as_str())
            .upload_id(&self.id.0)
            .part_number(part_number(number))
            .copy_source(copy_source)
            .copy_source_range(bytes_range(&range))
            .send()
            .await
            .map_err(convert_for(&request))?;
        let part = answer
            .copy_part_result
            .ok_or_else(|| corrupt(&request.call(), "no `CopyPartResult`"))?;
        Ok(Part {
            number,
            etag: etag(&request, part.e_tag)?,
            checksum_crc32: part.checksum_crc32,
        })
    }

    async fn complete(&self, parts: &[Part], precondition: &Precondition) -> Result<PutResult> {
        let request = S3Request::object(
            "CompleteMultipartUpload",
            "s3:PutObject",
            &self.bucket,
            &self.key,
        )
        .upload(&self.id)
        .precondition(precondition);
        let parts = parts
            .iter()
            .map(|part| {
                CompletedPart::builder()
                    .part_number(part_number(part.number))
                    .e_tag(part.etag.as_str())
                    .set_checksum_crc32(part.checksum_crc32.clone())
                    .build()
            })
            .collect();
        let (if_none_match, if_match) = conditions(precondition);
        let answer = self
            .client
            .complete_multipart_upload()
            .bucket(self.bucket.as_str())
            .key(self.key.as_str())
            .upload_id(&self.id.0)
            .multipart_upload(
                CompletedMultipartUpload::builder()
                    .set_parts(Some(parts))
                    .build(),
            )
            .set_if_none_match(if_none_match)
            .set_if_match(if_match)
            .send()
            .await
            .map_err(convert_for(&request))?;
        Ok(PutResult {
            etag: etag(&request, answer.e_tag)?,
            version_id: version_id(answer.version_id),
        })
    }

    async fn abort(&self) -> Result<()> {
        let request = S3Request::object(
            "AbortMultipartUpload",
            "s3:AbortMultipartUpload",
            &self.bucket,
            &self.key,
        )
        .upload(&self.id);
        let answer = self
            .client
            .abort_multipart_upload()
            .bucket(self.bucket.as_str())
            .key(self.key.as_str())
            .upload_id(&self.id.0)
            .send()
            .await;
        match answer {
            Ok(_) => Ok(()),
            Err(error) => {
                let failure = SdkFailure::of(&error);
                if failure.code() == "NoSuchUpload" {
                    return Ok(());
                }
                Err(convert(failure, &request))
            }
        }
    }
}

/// Converts a part's number to S3's type.
fn part_number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
