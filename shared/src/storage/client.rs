//! [`ObjectStore`] over the AWS SDK.

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketVersioningStatus, ChecksumAlgorithm, ServerSideEncryption, Tag, Tagging,
};
use aws_smithy_types::DateTime;
use bytes::Bytes;

use super::client_convert::{
    bytes_range, conditions, convert_for, etag, size, user_metadata, version_id,
};
use super::client_upload::SdkUpload;
use super::error::{S3Request, convert};
use super::{
    Deletion, GetOptions, ListPage, MultipartUpload, Object, ObjectHead, ObjectMetadata,
    ObjectStore, ObjectSummary, Precondition, PutOptions, PutResult, Tags, UploadId, UploadStart,
};
use crate::aws::{Aws, SdkFailure, corrupt};
use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;
use crate::name::{BucketName, ObjectKey};

/// Settings of S3 alone, which take precedence over those of all services.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct S3Settings {
    /// Endpoint; that of all services when `None`.
    pub endpoint_url: Option<String>,
    /// Puts the bucket's name into the path of the URL instead of the host; with another
    /// endpoint than AWS's when `None`.
    pub path_style: Option<bool>,
}

/// Amazon S3 of one account and region, or a store with S3's protocol.
#[derive(Debug, Clone)]
pub struct SdkObjectStore {
    client: Client,
    // Whether multipart uploads name a checksum. Stores that fail on checksums are used
    // with AWS_REQUEST_CHECKSUM_CALCULATION=when_required.
    checksums: bool,
}

impl SdkObjectStore {
    /// Makes a client. With an endpoint override the bucket's name is put into the path,
    /// because `<bucket>.<endpoint>` resolves for AWS only.
    pub fn new(aws: &Aws) -> Self {
        Self::with_settings(aws, &S3Settings::default())
    }

    /// Makes a client with `settings`.
    pub fn with_settings(aws: &Aws, settings: &S3Settings) -> Self {
        let is_elsewhere = settings.endpoint_url.is_some() || aws.has_endpoint_override("S3");
        let mut config = aws_sdk_s3::config::Builder::from(aws.sdk());
        config.set_force_path_style(Some(settings.path_style.unwrap_or(is_elsewhere)));
        if let Some(endpoint_url) = &settings.endpoint_url {
            config = config.endpoint_url(endpoint_url);
        }
        let config = config.interceptor(aws.idle_timeout()).build();
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

    /// Fails if the bucket is missing. An answer of 401 or 403 proves that it exists.
    async fn require_bucket(&self, request: &S3Request<'_>) -> Result<()> {
        let Err(error) = self
            .client
            .head_bucket()
            .bucket(request.bucket.as_str())
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
                    format!("bucket `{}` does not exist", request.bucket),
                )
                .with_hint("check its name and the account")),
            401 | 403 => Ok(()),
            _ => Err(convert(failure, request)),
        }
    }
}

#[async_trait]
impl ObjectStore for SdkObjectStore {
    async fn is_versioned(&self, bucket: &BucketName) -> Result<bool> {
        let request = S3Request::bucket("GetBucketVersioning", "s3:GetBucketVersioning", bucket);
        let answer = self
            .client
            .get_bucket_versioning()
            .bucket(bucket.as_str())
            .send()
            .await
            .map_err(convert_for(&request))?;
        Ok(answer.status == Some(BucketVersioningStatus::Enabled))
    }

    async fn head(&self, bucket: &BucketName, key: &ObjectKey) -> Result<Option<ObjectHead>> {
        let request = S3Request::object("HeadObject", "s3:GetObject", bucket, key);
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
                    return Err(convert(failure, &request));
                }
                // The answer to HEAD has no body, so that it does not say whether the key or
                // the bucket is missing.
                self.require_bucket(&request).await?;
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
            etag: etag(&request, answer.e_tag)?,
            size_bytes: size(&request, answer.content_length)?,
            version_id: version_id(answer.version_id),
            metadata,
            last_modified: answer.last_modified.as_ref().map_or(0, DateTime::secs),
        }))
    }

    async fn get_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        options: &GetOptions<'_>,
    ) -> Result<Object> {
        let version = options.version;
        let permission = match version {
            Some(_) => "s3:GetObjectVersion",
            None => "s3:GetObject",
        };
        let request = S3Request::object("GetObject", permission, bucket, key).version(version);
        let answer = self
            .client
            .get_object()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .set_version_id(version.map(str::to_owned))
            .set_range(options.range.as_ref().map(bytes_range))
            .send()
            .await
            .map_err(convert_for(&request))?;
        let etag = etag(&request, answer.e_tag)?;
        let body = read_body(&request, answer.body).await?;
        Ok(Object { body, etag })
    }

    async fn list(
        &self,
        bucket: &BucketName,
        prefix: &str,
        delimiter: Option<&str>,
        next: Option<&str>,
    ) -> Result<ListPage> {
        let request = S3Request::bucket("ListObjectsV2", "s3:ListBucket", bucket);
        let answer = self
            .client
            .list_objects_v2()
            .bucket(bucket.as_str())
            .prefix(prefix)
            .set_delimiter(delimiter.map(str::to_owned))
            .set_continuation_token(next.map(str::to_owned))
            .send()
            .await
            .map_err(convert_for(&request))?;
        let mut objects = Vec::new();
        for object in answer.contents.unwrap_or_default() {
            let key = object.key.unwrap_or_default();
            let Ok(key) = ObjectKey::new(&key) else {
                tracing::warn!(
                    bucket.name = %bucket,
                    object.key = %escaped_excerpt(key.as_bytes()),
                    "left out of the list: not a valid object key"
                );
                continue;
            };
            objects.push(ObjectSummary {
                key,
                etag: etag(&request, object.e_tag)?,
                size_bytes: size(&request, object.size)?,
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
        let request = S3Request::object("PutObject", "s3:PutObject", bucket, key).write(options);
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
            .map_err(convert_for(&request))?;
        Ok(PutResult {
            etag: etag(&request, answer.e_tag)?,
            version_id: version_id(answer.version_id),
        })
    }

    async fn delete_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        deletion: Deletion<'_>,
    ) -> Result<()> {
        let permission = match deletion {
            Deletion::Current(_) => "s3:DeleteObject",
            Deletion::Version(_) => "s3:DeleteObjectVersion",
        };
        let request = S3Request::object("DeleteObject", permission, bucket, key);
        let (version, if_match, request) = match deletion {
            Deletion::Version(version) => (Some(version.to_owned()), None, request),
            Deletion::Current(Precondition::None) => (None, None, request),
            Deletion::Current(precondition @ Precondition::Matches(etag)) => {
                let if_match = Some(etag.to_string());
                (None, if_match, request.precondition(precondition))
            }
            Deletion::Current(Precondition::Absent) => {
                return Err(Error::new(
                    ErrorKind::Internal,
                    format!("{request} cannot be deleted on the condition that it is absent"),
                ));
            }
        };
        let is_conditional = if_match.is_some();
        let deleted = self
            .client
            .delete_object()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .set_version_id(version)
            .set_if_match(if_match)
            .send()
            .await;
        let Err(error) = deleted else {
            return Ok(());
        };
        let failure = SdkFailure::of(&error);
        let is_missing = match (failure.code(), deletion) {
            ("NoSuchKey", _) => !is_conditional,
            ("NoSuchVersion", Deletion::Version(_)) => true,
            _ => false,
        };
        if is_missing {
            return Ok(());
        }
        Err(convert(failure, &request))
    }

    async fn open_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        start: UploadStart<'_>,
    ) -> Result<Box<dyn MultipartUpload>> {
        match start {
            UploadStart::New(options) => self.create_upload(bucket, key, options).await,
            UploadStart::Existing(id) => Ok(self.upload(bucket, key, id.clone())),
        }
    }

    async fn tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        replacement: Option<&Tags>,
    ) -> Result<Tags> {
        match replacement {
            None => self.get_object_tags(bucket, key, version).await,
            Some(tags) => {
                self.put_object_tags(bucket, key, version, tags).await?;
                Ok(tags.clone())
            }
        }
    }
}

impl SdkObjectStore {
    async fn create_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        options: &PutOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let request = S3Request::object("CreateMultipartUpload", "s3:PutObject", bucket, key)
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
            .map_err(convert_for(&request))?;
        let id = answer
            .upload_id
            .filter(|id| !id.is_empty())
            .ok_or_else(|| corrupt(&request.call(), "no `UploadId`"))?;
        Ok(self.upload(bucket, key, UploadId(id)))
    }

    fn upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        id: UploadId,
    ) -> Box<dyn MultipartUpload> {
        Box::new(SdkUpload {
            client: self.client.clone(),
            checksum_algorithm: self.checksum_algorithm(),
            bucket: bucket.clone(),
            key: key.clone(),
            id,
        })
    }

    async fn get_object_tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
    ) -> Result<Tags> {
        let permission = match version {
            Some(_) => "s3:GetObjectVersionTagging",
            None => "s3:GetObjectTagging",
        };
        let request =
            S3Request::object("GetObjectTagging", permission, bucket, key).version(version);
        let answer = self
            .client
            .get_object_tagging()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .set_version_id(version.map(str::to_owned))
            .send()
            .await
            .map_err(convert_for(&request))?;
        Ok(answer
            .tag_set
            .into_iter()
            .map(|tag| (tag.key, tag.value))
            .collect())
    }

    async fn put_object_tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        tags: &Tags,
    ) -> Result<()> {
        let permission = match version {
            Some(_) => "s3:PutObjectVersionTagging",
            None => "s3:PutObjectTagging",
        };
        let request =
            S3Request::object("PutObjectTagging", permission, bucket, key).version(version);
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
            .map_err(convert_for(&request))?;
        Ok(())
    }
}

async fn read_body(request: &S3Request<'_>, body: ByteStream) -> Result<Bytes> {
    let body = body.collect().await.map_err(|error| {
        Error::new(
            ErrorKind::Transport,
            format!("the answer to `GetObject` of {request} ended early"),
        )
        .with_source(error)
    })?;
    Ok(body.into_bytes())
}
