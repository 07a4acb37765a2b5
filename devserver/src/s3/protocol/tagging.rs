//! Operations on object tags.

use s3s::dto::{
    DeleteObjectTaggingInput, DeleteObjectTaggingOutput, GetObjectTaggingInput,
    GetObjectTaggingOutput, PutObjectTaggingInput, PutObjectTaggingOutput, Tag,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::s3::store::Tags;

use super::backend::Backend;
use super::error::{blocking, convert};

pub(super) fn get(
    backend: &Backend,
    input: &GetObjectTaggingInput,
) -> S3Result<S3Response<GetObjectTaggingOutput>> {
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    let head = bucket
        .head(&input.key, input.version_id.as_deref())
        .map_err(convert)?;
    Ok(S3Response::new(GetObjectTaggingOutput {
        tag_set: head
            .tags
            .into_iter()
            .map(|(key, value)| Tag {
                key: Some(key),
                value: Some(value),
            })
            .collect(),
        version_id: head.version_id,
    }))
}

pub(super) async fn put(
    backend: &Backend,
    request: S3Request<PutObjectTaggingInput>,
) -> S3Result<S3Response<PutObjectTaggingOutput>> {
    let input = request.input;
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    let mut tags = Tags::new();
    for tag in input.tagging.tag_set {
        let (Some(key), Some(value)) = (tag.key, tag.value) else {
            return Err(s3_error!(MalformedXML, "A tag needs a key and a value"));
        };
        if tags.insert(key, value).is_some() {
            return Err(s3_error!(
                InvalidTag,
                "Cannot provide multiple Tags with the same key"
            ));
        }
    }
    let version_id = blocking(&request.extensions, move || {
        bucket.set_tags(&input.key, input.version_id.as_deref(), tags)
    })
    .await?;
    Ok(S3Response::new(PutObjectTaggingOutput { version_id }))
}

pub(super) async fn delete(
    backend: &Backend,
    request: S3Request<DeleteObjectTaggingInput>,
) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
    let input = request.input;
    let bucket = backend.store.bucket(&input.bucket).map_err(convert)?;
    let version_id = blocking(&request.extensions, move || {
        bucket.set_tags(&input.key, input.version_id.as_deref(), Tags::new())
    })
    .await?;
    Ok(S3Response::with_status(
        DeleteObjectTaggingOutput { version_id },
        http::StatusCode::NO_CONTENT,
    ))
}
