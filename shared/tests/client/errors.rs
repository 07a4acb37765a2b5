//! Conversion of answers to errors: kind, message, hint, AWS code and request id.

use branchline_core::codecommit::CodeCommit;
use branchline_core::codecommit::client::SdkCodeCommit;
use branchline_core::name::{
    BranchName, BucketName, CommitId, ObjectKey, PipelineName, RepositoryName,
};
use branchline_core::pipeline::client::SdkPipelines;
use branchline_core::pipeline::{Pipelines, StartRequest};
use branchline_core::storage::client::SdkObjectStore;
use branchline_core::storage::{
    ETag, ObjectStore, ObjectStoreExt as _, Precondition, PutOptions, UploadId, UploadStart,
};
use branchline_core::{Error, ErrorKind};

use crate::client::canned_http_server::{Server, answer, aws};

fn repository() -> RepositoryName {
    RepositoryName::new("repo").unwrap()
}

fn json(status: u16, code: &str, message: &str) -> String {
    let body = format!(r#"{{"__type":"com.amazonaws#{code}","message":"{message}"}}"#);
    let headers = [
        ("x-amzn-requestid", "req-1"),
        ("content-type", "application/x-amz-json-1.1"),
    ];
    answer(status, &headers, &body)
}

fn xml(status: u16, code: &str, message: &str) -> String {
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    answer(status, &[("x-amz-request-id", "req-1")], &body)
}

fn assert_no_secret(error: &Error) {
    for text in [error.report(), format!("{error:?}")] {
        assert!(!text.contains("VERYSECRET"), "a secret is shown: {text}");
    }
}

async fn get_branch(answer: String) -> Error {
    let server = Server::answering(answer).await;
    let client = SdkCodeCommit::new(&server.aws());
    let branch = BranchName::new("feature/x").unwrap();
    let result = client.get_branch(&repository(), &branch).await;
    assert_eq!(
        server.requests().len(),
        1,
        "the SDK does not try again by itself"
    );
    let error = result.expect_err("the answer is an error");
    assert_no_secret(&error);
    error
}

#[expect(clippy::too_many_lines, reason = "one table")]
#[tokio::test]
async fn codes_of_codecommit_become_kinds() {
    use ErrorKind::{AccessDenied, Config, FileTooLarge, Internal, NotFound, Throttled, Transport};
    for (status, code, kind, message) in [
        (
            400,
            "RepositoryDoesNotExistException",
            NotFound,
            "repository `repo` does not exist",
        ),
        (
            400,
            "BranchDoesNotExistException",
            NotFound,
            "branch `feature/x` of repository `repo` does not exist",
        ),
        (
            400,
            "CommitDoesNotExistException",
            NotFound,
            "does not exist",
        ),
        (
            400,
            "FolderDoesNotExistException",
            NotFound,
            "does not exist",
        ),
        (
            400,
            "BlobIdDoesNotExistException",
            NotFound,
            "does not exist",
        ),
        (
            400,
            "FileTooLargeException",
            FileTooLarge,
            "larger than the 6 MiB",
        ),
        (
            400,
            "AccessDeniedException",
            AccessDenied,
            "`codecommit:GetBranch` on branch `feature/x` of repository `repo` is not allowed",
        ),
        (403, "Whatever", AccessDenied, "`codecommit:GetBranch`"),
        (
            400,
            "EncryptionKeyAccessDeniedException",
            AccessDenied,
            "KMS key",
        ),
        (400, "EncryptionKeyDisabledException", Config, "KMS key"),
        (400, "EncryptionKeyNotFoundException", Config, "KMS key"),
        (400, "EncryptionKeyUnavailableException", Config, "KMS key"),
        (
            500,
            "EncryptionIntegrityChecksFailedException",
            Transport,
            "CodeCommit failed in `GetBranch`",
        ),
        (
            400,
            "MaximumBranchesExceededException",
            Config,
            "more branches than a trigger can",
        ),
        (
            400,
            "MaximumRepositoryTriggersExceededException",
            Config,
            "more than a repository can have",
        ),
        (
            400,
            "InvalidRepositoryTriggerNameException",
            Config,
            "does not accept",
        ),
        (
            400,
            "RepositoryTriggerBranchNameListRequiredException",
            Config,
            "does not accept",
        ),
        (
            400,
            "ThrottlingException",
            Throttled,
            "CodeCommit throttled `GetBranch`",
        ),
        (400, "TooManyRequestsException", Throttled, "throttled"),
        (400, "RequestLimitExceeded", Throttled, "throttled"),
        (429, "Whatever", Throttled, "throttled"),
        (503, "SlowDown", Throttled, "throttled"),
        (503, "ServiceUnavailable", Transport, "failed"),
        (500, "InternalFailure", Transport, "failed"),
        (
            400,
            "ExpiredTokenException",
            AccessDenied,
            "does not accept the credentials",
        ),
        (
            400,
            "UnrecognizedClientException",
            AccessDenied,
            "does not accept the credentials",
        ),
        (
            400,
            "PathRequiredException",
            Internal,
            "CodeCommit refused `GetBranch`",
        ),
    ] {
        let error = get_branch(json(status, code, "what AWS says")).await;
        assert_eq!(error.kind(), kind, "{code}: {}", error.report());
        assert!(error.to_string().contains(message), "{code}: {error}");
        assert_eq!(error.aws_code(), Some(code));
        assert_eq!(error.request_id(), Some("req-1"), "{code}");
        assert!(
            error.report().contains("what AWS says"),
            "{}",
            error.report()
        );
        if matches!(kind, NotFound | AccessDenied | FileTooLarge) {
            assert!(error.hint().is_some(), "{code} comes with a remedy");
        }
    }
}

#[tokio::test]
async fn a_refused_permission_is_named_with_its_resource() {
    let error = get_branch(json(400, "AccessDeniedException", "no")).await;
    assert_eq!(
        error.hint(),
        Some(
            "grant `codecommit:GetBranch` on `arn:aws:codecommit:<region>:<account>:repo` to the \
             caller's role"
        )
    );
}

#[tokio::test]
async fn unreadable_answers_are_corrupt() {
    let headers = [("x-amzn-requestid", "req-1")];
    let commit = r#"{"branch":{"branchName":"x","commitId":"not hex"}}"#;
    for body in ["{", "not json", "{}", r#"{"branch":{}}"#, commit] {
        let error = get_branch(answer(200, &headers, body)).await;
        assert_eq!(
            error.kind(),
            ErrorKind::Corrupt,
            "{body}: {}",
            error.report()
        );
        assert!(
            error
                .to_string()
                .contains("`GetBranch` of branch `feature/x`"),
            "{error}"
        );
    }
    // The page of a proxy.
    let error = get_branch(answer(400, &headers, "<html></html>")).await;
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.report());
    let error = get_branch(answer(502, &headers, "<html></html>")).await;
    assert_eq!(error.kind(), ErrorKind::Transport, "{}", error.report());
}

#[tokio::test]
async fn truncated_and_missing_answers_are_transport_errors() {
    let whole = answer(200, &[], r#"{"branch":{"branchName":"x"}}"#);
    for cut in [&whole[..whole.len() - 5], &whole[..20], ""] {
        let error = get_branch(cut.to_owned()).await;
        assert_eq!(
            error.kind(),
            ErrorKind::Transport,
            "{cut:?}: {}",
            error.report()
        );
        assert!(
            error.to_string().contains("got no complete answer"),
            "{error}"
        );
    }
    // A port without a listener.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let client = SdkCodeCommit::new(&aws(address));
    let error = client.get_repository(&repository()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport, "{}", error.report());
    assert_no_secret(&error);
}

#[tokio::test]
async fn a_folder_of_another_commit_or_with_impossible_names_is_corrupt() {
    let id = "0123456789012345678901234567890123456789";
    let folder = |commit: &str, entry: &str| {
        let body = format!(
            r#"{{"commitId":"{commit}","folderPath":"","treeId":"{id}","subFolders":[{entry}],
               "files":[],"symbolicLinks":[],"subModules":[]}}"#
        );
        answer(200, &[], &body)
    };
    let entry =
        |path: &str, tree: &str| format!(r#"{{"treeId":"{tree}","relativePath":"{path}"}}"#);
    let other = id.replace('0', "a");
    for (what, answer) in [
        ("another commit", folder(&other, &entry("a", id))),
        ("no name", folder(id, &entry("", id))),
        ("the parent", folder(id, &entry("a/..", id))),
        ("no id", folder(id, &entry("a", "xyz"))),
    ] {
        let server = Server::answering(answer).await;
        let client = SdkCodeCommit::new(&server.aws());
        let commit = CommitId::new(id).unwrap();
        let error = client.get_folder(&repository(), commit, "").await;
        let error = error.expect_err(what);
        assert_eq!(
            error.kind(),
            ErrorKind::Corrupt,
            "{what}: {}",
            error.report()
        );
    }
}

fn place() -> (BucketName, ObjectKey) {
    let bucket = BucketName::new("artifacts").unwrap();
    (bucket, ObjectKey::new("repo/main.zip").unwrap())
}

async fn put(answer: String, precondition: Precondition) -> Error {
    let server = Server::answering(answer).await;
    let store = SdkObjectStore::new(&server.aws());
    let (bucket, key) = place();
    let options = PutOptions {
        precondition,
        ..PutOptions::default()
    };
    let result = store.put(&bucket, &key, "zip".into(), &options).await;
    let error = result.expect_err("the answer is an error");
    assert_no_secret(&error);
    error
}

#[tokio::test]
async fn codes_of_s3_become_kinds() {
    use ErrorKind::{AccessDenied, Config, Conflict, Internal, NotFound, Throttled, Transport};
    for (status, code, kind, message) in [
        (
            404,
            "NoSuchBucket",
            NotFound,
            "bucket `artifacts` does not exist",
        ),
        (
            412,
            "PreconditionFailed",
            Conflict,
            "object `repo/main.zip` in bucket `artifacts`",
        ),
        (409, "ConditionalRequestConflict", Conflict, "being changed"),
        (
            403,
            "AccessDenied",
            AccessDenied,
            "`s3:PutObject` on object `repo/main.zip` in bucket `artifacts` is not allowed",
        ),
        (
            403,
            "SignatureDoesNotMatch",
            AccessDenied,
            "does not accept the credentials",
        ),
        (
            403,
            "RequestTimeTooSkewed",
            AccessDenied,
            "does not accept the credentials",
        ),
        (503, "SlowDown", Throttled, "S3 throttled `PutObject`"),
        (500, "InternalError", Transport, "S3 failed"),
        (400, "RequestTimeout", Transport, "S3 failed"),
        (400, "BadDigest", Transport, "damaged"),
        (301, "PermanentRedirect", Config, "another region"),
        (400, "KMS.DisabledException", Config, "KMS key"),
        (400, "KMS.NotFoundException", Config, "KMS key"),
        (501, "NotImplemented", Config, "does not offer"),
        (400, "InvalidArgument", Internal, "S3 refused `PutObject`"),
    ] {
        let error = put(xml(status, code, "what AWS says"), Precondition::None).await;
        assert_eq!(error.kind(), kind, "{code}: {}", error.report());
        assert!(error.to_string().contains(message), "{code}: {error}");
        assert_eq!(error.aws_code(), Some(code));
        assert_eq!(error.request_id(), Some("req-1"), "{code}");
        assert!(
            error.report().contains("what AWS says"),
            "{}",
            error.report()
        );
    }
}

#[tokio::test]
async fn a_match_with_a_deleted_object_is_a_conflict() {
    let matches = || Precondition::Matches(ETag::new("\"1\"").unwrap());
    let error = put(xml(404, "NoSuchKey", "gone"), matches()).await;
    assert_eq!(error.kind(), ErrorKind::Conflict, "{}", error.report());
    let error = put(xml(404, "NoSuchBucket", "gone"), matches()).await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());
}

#[tokio::test]
async fn an_error_in_an_answer_of_200_is_an_error() {
    let error =
        "<?xml version=\"1.0\"?>\n<Error><Code>InternalError</Code><Message>m</Message></Error>";
    let server = Server::answering(answer(200, &[], error)).await;
    let store = SdkObjectStore::new(&server.aws());
    let (bucket, key) = place();
    let id = UploadId("u".into());
    let upload = store
        .open_upload(&bucket, &key, UploadStart::Existing(&id))
        .await
        .unwrap();
    let result = upload.complete(&[], &Precondition::None).await;
    let error = result.expect_err("the completion failed");
    assert_eq!(error.kind(), ErrorKind::Transport, "{}", error.report());
}

#[tokio::test]
async fn a_head_without_permission_names_the_permissions_to_grant() {
    let server = Server::answering(answer(403, &[("x-amz-request-id", "req-1")], "")).await;
    let store = SdkObjectStore::new(&server.aws());
    let (bucket, key) = place();
    let error = store.head(&bucket, &key).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied);
    assert_eq!(error.request_id(), Some("req-1"));
    let hint = error.hint().unwrap();
    assert!(
        hint.contains("s3:GetObject") && hint.contains("s3:ListBucket"),
        "{hint}"
    );
    assert!(
        hint.contains("clock") && hint.contains("kms:Decrypt"),
        "the answer to HEAD has other possible causes: {hint}"
    );
}

#[tokio::test]
async fn a_denied_kms_key_of_the_bucket_is_named() {
    let message = "User: arn:aws:sts::1:assumed-role/r/s is not authorized to perform: \
                   kms:GenerateDataKey on resource: arn:aws:kms:eu-west-1:1:key/k because no \
                   resource-based policy allows it";
    let error = put(xml(403, "AccessDenied", message), Precondition::None).await;
    assert_eq!(error.kind(), ErrorKind::AccessDenied);
    assert!(
        error.to_string().contains("`kms:GenerateDataKey`"),
        "{error}"
    );
    let hint = error.hint().unwrap_or_default();
    assert!(
        hint.contains("`kms:GenerateDataKey`") && hint.contains("default key of bucket"),
        "{hint}"
    );
}

#[tokio::test]
async fn a_truncated_object_is_a_transport_error() {
    let whole = answer(200, &[("etag", "\"1\"")], "0123456789");
    let server = Server::answering(&whole.as_bytes()[..whole.len() - 3]).await;
    let store = SdkObjectStore::new(&server.aws());
    let (bucket, key) = place();
    let error = store.get(&bucket, &key, None, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport, "{}", error.report());
}

#[tokio::test]
async fn codes_of_codepipeline_become_kinds() {
    use ErrorKind::{AccessDenied, Config, Conflict, NotFound, Throttled};
    for (status, code, kind) in [
        (400, "PipelineNotFoundException", NotFound),
        (400, "ConflictException", Conflict),
        (
            400,
            "ConcurrentPipelineExecutionsLimitExceededException",
            Throttled,
        ),
        (400, "ThrottlingException", Throttled),
        (400, "ValidationException", Config),
        (400, "AccessDeniedException", AccessDenied),
    ] {
        let server = Server::answering(json(status, code, "what AWS says")).await;
        let pipelines = SdkPipelines::new(&server.aws());
        let request = StartRequest {
            pipeline: PipelineName::new("deploy").unwrap(),
            client_request_token: "token".into(),
            source: None,
            variables: Vec::new(),
        };
        let error = pipelines.start(&request).await.expect_err("an error");
        assert_eq!(error.kind(), kind, "{}", error.report());
        assert!(error.to_string().contains("pipeline `deploy`"), "{error}");
        assert_eq!(error.aws_code(), Some(code));
        assert_eq!(error.request_id(), Some("req-1"));
        assert_no_secret(&error);
    }
}
