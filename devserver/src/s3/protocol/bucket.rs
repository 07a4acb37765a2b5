//! Operations on buckets.

use s3s::dto::{
    Bucket, BucketLocationConstraint, BucketVersioningStatus, CreateBucketInput,
    CreateBucketOutput, DeleteBucketInput, DeleteBucketOutput, DeleteBucketPolicyInput,
    DeleteBucketPolicyOutput, GetBucketEncryptionInput, GetBucketEncryptionOutput,
    GetBucketLocationInput, GetBucketLocationOutput, GetBucketVersioningInput,
    GetBucketVersioningOutput, HeadBucketInput, HeadBucketOutput, ListBucketsInput,
    ListBucketsOutput, Owner, PutBucketPolicyInput, PutBucketPolicyOutput,
    PutBucketVersioningInput, PutBucketVersioningOutput, ServerSideEncryption,
    ServerSideEncryptionByDefault, ServerSideEncryptionConfiguration, ServerSideEncryptionRule,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::s3::policy::Policy;
use crate::s3::store::{Error, Versioning};

use super::backend::Backend;
use super::convert::timestamp;
use super::error::{blocking, convert};

/// Returns the owner of every bucket and object.
pub(super) fn owner(backend: &Backend) -> Owner {
    Owner {
        display_name: None,
        id: Some(backend.account_id.clone()),
    }
}

pub(super) fn list(
    backend: &Backend,
    input: &ListBucketsInput,
) -> S3Result<S3Response<ListBucketsOutput>> {
    let input = input.clone();
    let prefix = input.prefix.clone().unwrap_or_default();
    let limit = input
        .max_buckets
        .map_or(10_000, |max| usize::try_from(max).unwrap_or(0));
    if limit == 0 {
        return Err(s3_error!(InvalidArgument, "max-buckets must be at least 1"));
    }
    let after = input.continuation_token.unwrap_or_default();
    let mut buckets: Vec<Bucket> = backend
        .store
        .buckets()
        .iter()
        .filter(|bucket| bucket.name().starts_with(&prefix) && bucket.name() > after.as_str())
        .take(limit + 1)
        .map(|bucket| Bucket {
            bucket_region: Some(bucket.region()),
            creation_date: Some(timestamp(bucket.created())),
            name: Some(bucket.name().to_owned()),
        })
        .collect();
    let more = buckets.len() > limit;
    buckets.truncate(limit);
    Ok(S3Response::new(ListBucketsOutput {
        continuation_token: buckets
            .last()
            .filter(|_| more)
            .and_then(|bucket| bucket.name.clone()),
        buckets: Some(buckets),
        owner: Some(owner(backend)),
        prefix: input.prefix,
    }))
}

pub(super) async fn create(
    backend: &Backend,
    request: S3Request<CreateBucketInput>,
) -> S3Result<S3Response<CreateBucketOutput>> {
    let constraint = request
        .input
        .create_bucket_configuration
        .as_ref()
        .and_then(|configuration| configuration.location_constraint.as_ref())
        .map(|constraint| constraint.as_str().to_owned());
    let region = constraint.unwrap_or_else(|| backend.region.clone());
    let store = backend.store.clone();
    let name = request.input.bucket;
    let location = format!("/{name}");
    let classic = backend.region == "us-east-1";
    blocking(&request.extensions, move || {
        match store.create_bucket(&name, &region) {
            // us-east-1 lets owners create their bucket again.
            Err(Error::BucketExists(_)) if classic => Ok(()),
            result => result.map(drop),
        }
    })
    .await?;
    Ok(S3Response::new(CreateBucketOutput {
        location: Some(location),
    }))
}

pub(super) async fn delete(
    backend: &Backend,
    request: S3Request<DeleteBucketInput>,
) -> S3Result<S3Response<DeleteBucketOutput>> {
    let store = backend.store.clone();
    let name = request.input.bucket;
    blocking(&request.extensions, move || store.delete_bucket(&name)).await?;
    Ok(S3Response::with_status(
        DeleteBucketOutput::default(),
        http::StatusCode::NO_CONTENT,
    ))
}

pub(super) fn head(
    backend: &Backend,
    input: &HeadBucketInput,
) -> S3Result<S3Response<HeadBucketOutput>> {
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    Ok(S3Response::new(HeadBucketOutput {
        bucket_region: Some(bucket.region()),
        ..HeadBucketOutput::default()
    }))
}

pub(super) fn location(
    backend: &Backend,
    input: &GetBucketLocationInput,
) -> S3Result<S3Response<GetBucketLocationOutput>> {
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    let region = Some(bucket.region()).filter(|region| region != "us-east-1");
    Ok(S3Response::new(GetBucketLocationOutput {
        location_constraint: region.map(BucketLocationConstraint::from),
    }))
}

pub(super) fn encryption(
    backend: &Backend,
    input: &GetBucketEncryptionInput,
) -> S3Result<S3Response<GetBucketEncryptionOutput>> {
    backend.store.bucket(&input.bucket).map_err(convert)?;
    Ok(S3Response::new(GetBucketEncryptionOutput {
        server_side_encryption_configuration: Some(ServerSideEncryptionConfiguration {
            rules: vec![ServerSideEncryptionRule {
                apply_server_side_encryption_by_default: Some(ServerSideEncryptionByDefault {
                    kms_master_key_id: None,
                    sse_algorithm: ServerSideEncryption::from_static(ServerSideEncryption::AES256),
                }),
                bucket_key_enabled: Some(false),
            }],
        }),
    }))
}

pub(super) fn versioning(
    backend: &Backend,
    input: &GetBucketVersioningInput,
) -> S3Result<S3Response<GetBucketVersioningOutput>> {
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    let status = match bucket.versioning() {
        Versioning::Off => None,
        Versioning::Enabled => Some(BucketVersioningStatus::ENABLED),
        Versioning::Suspended => Some(BucketVersioningStatus::SUSPENDED),
    };
    Ok(S3Response::new(GetBucketVersioningOutput {
        status: status.map(BucketVersioningStatus::from_static),
        ..GetBucketVersioningOutput::default()
    }))
}

pub(super) async fn set_versioning(
    backend: &Backend,
    request: S3Request<PutBucketVersioningInput>,
) -> S3Result<S3Response<PutBucketVersioningOutput>> {
    let bucket = backend
        .store
        .bucket(&request.input.bucket)
        .map_err(convert)?;
    let status = request.input.versioning_configuration.status;
    let status = match status.as_ref().map(BucketVersioningStatus::as_str) {
        Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
        Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
        _ => {
            return Err(s3_error!(
                MalformedXML,
                "Status must be Enabled or Suspended"
            ));
        }
    };
    blocking(&request.extensions, move || bucket.set_versioning(status)).await?;
    Ok(S3Response::new(PutBucketVersioningOutput::default()))
}

pub(super) fn set_policy(
    backend: &Backend,
    input: &PutBucketPolicyInput,
) -> S3Result<S3Response<PutBucketPolicyOutput>> {
    backend.store.bucket(&input.bucket).map_err(convert)?;
    let policy = Policy::parse(&input.policy)
        .map_err(|reason| s3_error!(MalformedPolicy, "The policy is not valid: {reason}"))?;
    backend.store.set_policy(&input.bucket, Some(policy));
    Ok(S3Response::with_status(
        PutBucketPolicyOutput::default(),
        http::StatusCode::NO_CONTENT,
    ))
}

pub(super) fn delete_policy(
    backend: &Backend,
    input: &DeleteBucketPolicyInput,
) -> S3Result<S3Response<DeleteBucketPolicyOutput>> {
    let bucket = &input.bucket;
    backend.store.bucket(bucket).map_err(convert)?;
    backend.store.set_policy(bucket, None);
    Ok(S3Response::with_status(
        DeleteBucketPolicyOutput::default(),
        http::StatusCode::NO_CONTENT,
    ))
}
