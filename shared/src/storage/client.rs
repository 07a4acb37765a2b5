//! [`ObjectStore`] over the AWS SDK.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketVersioningStatus, ChecksumAlgorithm, ServerSideEncryption, Tag, Tagging,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::DateTime;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use bytes::Bytes;

use super::client_convert::{bytes_range, conditions, etag, size, user_metadata, version_id};
use super::client_region::RegionalClients;
use super::client_upload::SdkUpload;
use super::error::S3Request;
use super::{
    Deletion, Encryption, GetOptions, ListPage, MultipartUpload, Object, ObjectHead,
    ObjectMetadata, ObjectStore, ObjectSummary, Precondition, PutOptions, PutResult, S3Settings,
    Tags, UploadId, UploadStart,
};
use crate::aws::{Aws, SdkFailure, corrupt};
use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;
use crate::name::{BucketName, ObjectKey};

/// Amazon S3 of one account, or a store with S3's protocol.
#[derive(Debug, Clone)]
pub struct SdkObjectStore {
    clients: Arc<RegionalClients>,
    encryption: Encryption,
    // Whether multipart uploads name a checksum. Stores that fail on checksums are used
    // with AWS_REQUEST_CHECKSUM_CALCULATION=when_required.
    checksums: bool,
}

impl SdkObjectStore {
    /// Makes a client, which follows buckets to their regions.
    pub fn new(aws: &Aws) -> Self {
        Self::with_settings(aws, &S3Settings::default())
    }

    /// Makes a client with `settings`.
    pub fn with_settings(aws: &Aws, settings: &S3Settings) -> Self {
        let checksums = aws.sdk().request_checksum_calculation()
            != Some(RequestChecksumCalculation::WhenRequired);
        Self {
            clients: Arc::new(RegionalClients::new(aws, settings)),
            encryption: Encryption::default(),
            checksums,
        }
    }

    /// Encrypts the objects for which [`PutOptions`] names no KMS key.
    #[must_use]
    pub fn with_encryption(self, encryption: Encryption) -> Self {
        Self { encryption, ..self }
    }

    /// Returns the encryption of an object.
    fn encryption_of(&self, options: &PutOptions) -> Encryption {
        match &options.kms_key_id {
            Some(key) => Encryption::Kms(Some(key.clone())),
            None => self.encryption.clone(),
        }
    }

    /// Returns the conversion of an SDK error of `request`, for `map_err`.
    fn failed<'a, E>(
        &'a self,
        request: &'a S3Request<'a>,
    ) -> impl Fn(SdkError<E, HttpResponse>) -> Error + 'a
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        |error| self.clients.convert(SdkFailure::of(&error), request)
    }

    fn checksum_algorithm(&self) -> Option<ChecksumAlgorithm> {
        self.checksums.then_some(ChecksumAlgorithm::Crc32)
    }

    /// Fails if the bucket is missing. An answer of 401 or 403 proves that it exists.
    async fn require_bucket(&self, request: &S3Request<'_>) -> Result<()> {
        let Err(error) = self
            .clients
            .of(request.bucket)
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
            _ => Err(self.clients.convert(failure, request)),
        }
    }
}

#[async_trait]
impl ObjectStore for SdkObjectStore {
    async fn is_versioned(&self, bucket: &BucketName) -> Result<bool> {
        let request = S3Request::bucket("GetBucketVersioning", "s3:GetBucketVersioning", bucket);
        let answer = self
            .clients
            .of(bucket)
            .get_bucket_versioning()
            .bucket(bucket.as_str())
            .send()
            .await
            .map_err(self.failed(&request))?;
        Ok(answer.status == Some(BucketVersioningStatus::Enabled))
    }

    async fn head(&self, bucket: &BucketName, key: &ObjectKey) -> Result<Option<ObjectHead>> {
        let request = S3Request::object("HeadObject", "s3:GetObject", bucket, key);
        let answer = self
            .clients
            .of(bucket)
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
                    return Err(self.clients.convert(failure, &request));
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
            .clients
            .of(bucket)
            .get_object()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .set_version_id(version.map(str::to_owned))
            .set_range(options.range.as_ref().map(bytes_range))
            .send()
            .await
            .map_err(self.failed(&request))?;
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
            .clients
            .of(bucket)
            .list_objects_v2()
            .bucket(bucket.as_str())
            .prefix(prefix)
            .set_delimiter(delimiter.map(str::to_owned))
            .set_continuation_token(next.map(str::to_owned))
            .send()
            .await
            .map_err(self.failed(&request))?;
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
        let encryption = self.encryption_of(options);
        let request = S3Request::object("PutObject", "s3:PutObject", bucket, key)
            .precondition(&options.precondition)
            .kms(encryption.is_kms());
        let metadata = &options.metadata;
        let (if_none_match, if_match) = conditions(&options.precondition);
        let answer = self
            .clients
            .of(bucket)
            .put_object()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .set_content_type(metadata.content_type.clone())
            .set_content_disposition(metadata.content_disposition.clone())
            .set_cache_control(metadata.cache_control.clone())
            .set_metadata(user_metadata(metadata))
            .set_if_none_match(if_none_match)
            .set_if_match(if_match)
            .set_server_side_encryption(algorithm(&encryption))
            .set_bucket_key_enabled(encryption.is_kms().then_some(true))
            .set_ssekms_key_id(encryption.into_kms_key())
            .body(body.into())
            .send()
            .await
            .map_err(self.failed(&request))?;
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
            .clients
            .of(bucket)
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
        Err(self.clients.convert(failure, &request))
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
        let encryption = self.encryption_of(options);
        let request = S3Request::object("CreateMultipartUpload", "s3:PutObject", bucket, key)
            .kms(encryption.is_kms());
        let metadata = &options.metadata;
        let answer = self
            .clients
            .of(bucket)
            .create_multipart_upload()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .set_content_type(metadata.content_type.clone())
            .set_content_disposition(metadata.content_disposition.clone())
            .set_cache_control(metadata.cache_control.clone())
            .set_metadata(user_metadata(metadata))
            .set_checksum_algorithm(self.checksum_algorithm())
            .set_server_side_encryption(algorithm(&encryption))
            .set_bucket_key_enabled(encryption.is_kms().then_some(true))
            .set_ssekms_key_id(encryption.into_kms_key())
            .send()
            .await
            .map_err(self.failed(&request))?;
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
            client: self.clients.of(bucket),
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
            .clients
            .of(bucket)
            .get_object_tagging()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .set_version_id(version.map(str::to_owned))
            .send()
            .await
            .map_err(self.failed(&request))?;
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
        self.clients
            .of(bucket)
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
            .map_err(self.failed(&request))?;
        Ok(())
    }
}

fn algorithm(encryption: &Encryption) -> Option<ServerSideEncryption> {
    match encryption {
        Encryption::Bucket => None,
        Encryption::Aes256 => Some(ServerSideEncryption::Aes256),
        Encryption::Kms(_) => Some(ServerSideEncryption::AwsKms),
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
