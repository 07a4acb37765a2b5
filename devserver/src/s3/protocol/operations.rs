//! The supported operations; each calls the module of its subject.

use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput, CreateBucketInput,
    CreateBucketOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput, DeleteBucketInput,
    DeleteBucketOutput, DeleteBucketPolicyInput, DeleteBucketPolicyOutput, DeleteObjectInput,
    DeleteObjectOutput, DeleteObjectTaggingInput, DeleteObjectTaggingOutput, DeleteObjectsInput,
    DeleteObjectsOutput, GetBucketEncryptionInput, GetBucketEncryptionOutput,
    GetBucketLocationInput, GetBucketLocationOutput, GetBucketVersioningInput,
    GetBucketVersioningOutput, GetObjectAttributesInput, GetObjectAttributesOutput, GetObjectInput,
    GetObjectOutput, GetObjectTaggingInput, GetObjectTaggingOutput, HeadBucketInput,
    HeadBucketOutput, HeadObjectInput, HeadObjectOutput, ListBucketsInput, ListBucketsOutput,
    ListMultipartUploadsInput, ListMultipartUploadsOutput, ListObjectVersionsInput,
    ListObjectVersionsOutput, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
    ListObjectsV2Output, ListPartsInput, ListPartsOutput, PutBucketPolicyInput,
    PutBucketPolicyOutput, PutBucketVersioningInput, PutBucketVersioningOutput, PutObjectInput,
    PutObjectOutput, PutObjectTaggingInput, PutObjectTaggingOutput, UploadPartCopyInput,
    UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Request, S3Response, S3Result};

use super::backend::Backend;
use super::{bucket, copy, list, multipart, object, tagging};

macro_rules! operations {
    (
        immediate { $($now:ident => $now_module:ident::$now_function:ident($now_input:ident) -> $now_output:ident;)* }
        waiting { $($name:ident => $module:ident::$function:ident($input:ident) -> $output:ident;)* }
    ) => {
        #[async_trait::async_trait]
        impl S3 for Backend {
            $(
                async fn $now(&self, request: S3Request<$now_input>) -> S3Result<S3Response<$now_output>> {
                    $now_module::$now_function(self, &request.input)
                }
            )*
            $(
                async fn $name(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                    $module::$function(self, request).await
                }
            )*
        }
    };
}

operations! {
    immediate {
        list_buckets => bucket::list(ListBucketsInput) -> ListBucketsOutput;
        head_bucket => bucket::head(HeadBucketInput) -> HeadBucketOutput;
        get_bucket_location => bucket::location(GetBucketLocationInput) -> GetBucketLocationOutput;
        get_bucket_encryption => bucket::encryption(GetBucketEncryptionInput) -> GetBucketEncryptionOutput;
        get_bucket_versioning => bucket::versioning(GetBucketVersioningInput) -> GetBucketVersioningOutput;
        put_bucket_policy => bucket::set_policy(PutBucketPolicyInput) -> PutBucketPolicyOutput;
        delete_bucket_policy => bucket::delete_policy(DeleteBucketPolicyInput) -> DeleteBucketPolicyOutput;
        head_object => object::head(HeadObjectInput) -> HeadObjectOutput;
        get_object_attributes => object::describe(GetObjectAttributesInput) -> GetObjectAttributesOutput;
        get_object_tagging => tagging::get(GetObjectTaggingInput) -> GetObjectTaggingOutput;
        list_objects => list::objects_v1(ListObjectsInput) -> ListObjectsOutput;
        list_objects_v2 => list::objects_v2(ListObjectsV2Input) -> ListObjectsV2Output;
        list_object_versions => list::versions(ListObjectVersionsInput) -> ListObjectVersionsOutput;
        list_parts => multipart::parts(ListPartsInput) -> ListPartsOutput;
        list_multipart_uploads => multipart::list(ListMultipartUploadsInput) -> ListMultipartUploadsOutput;
    }
    waiting {
        create_bucket => bucket::create(CreateBucketInput) -> CreateBucketOutput;
        delete_bucket => bucket::delete(DeleteBucketInput) -> DeleteBucketOutput;
        put_bucket_versioning => bucket::set_versioning(PutBucketVersioningInput) -> PutBucketVersioningOutput;
        put_object => object::put(PutObjectInput) -> PutObjectOutput;
        get_object => object::get(GetObjectInput) -> GetObjectOutput;
        delete_object => object::delete(DeleteObjectInput) -> DeleteObjectOutput;
        delete_objects => object::delete_many(DeleteObjectsInput) -> DeleteObjectsOutput;
        copy_object => copy::object(CopyObjectInput) -> CopyObjectOutput;
        upload_part_copy => copy::part(UploadPartCopyInput) -> UploadPartCopyOutput;
        put_object_tagging => tagging::put(PutObjectTaggingInput) -> PutObjectTaggingOutput;
        delete_object_tagging => tagging::delete(DeleteObjectTaggingInput) -> DeleteObjectTaggingOutput;
        create_multipart_upload => multipart::create(CreateMultipartUploadInput) -> CreateMultipartUploadOutput;
        upload_part => multipart::part(UploadPartInput) -> UploadPartOutput;
        complete_multipart_upload => multipart::complete(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput;
        abort_multipart_upload => multipart::abort(AbortMultipartUploadInput) -> AbortMultipartUploadOutput;
    }
}
