//! Requests of the clients, where no service checks them.

use branchline_core::ErrorKind;
use branchline_core::codecommit::client::SdkCodeCommit;
use branchline_core::codecommit::{CodeCommit, Trigger, TriggerEvent};
use branchline_core::git::object::EntryMode;
use branchline_core::name::{BucketName, CommitId, ObjectKey, PipelineName, RepositoryName};
use branchline_core::pipeline::client::SdkPipelines;
use branchline_core::pipeline::{Pipelines, SourceRevision, StartRequest};
use branchline_core::storage::client::SdkObjectStore;
use branchline_core::storage::{
    ETag, ObjectMetadata, ObjectStore, ObjectStoreExt as _, Part, Precondition, PutOptions,
    UploadId, UploadStart,
};
use serde_json::{Value, json};

use crate::client::canned_http_server::{Request, Server, answer};

fn body(request: &Request) -> Value {
    serde_json::from_str(&request.body).unwrap()
}

#[tokio::test]
async fn triggers_without_branches_are_sent_with_an_empty_list() {
    let server = Server::answering(answer(200, &[], r#"{"configurationId":"c-1"}"#)).await;
    let client = SdkCodeCommit::new(&server.aws());
    let repository = RepositoryName::new("repo").unwrap();
    let all = Trigger {
        name: "all".into(),
        destination_arn: "arn:aws:lambda:eu-west-1:111122223333:function:f".into(),
        custom_data: None,
        branches: vec![],
        events: vec![TriggerEvent::All],
    };
    let id = client.put_triggers(&repository, &[all]).await.unwrap();
    assert_eq!(id, "c-1");
    client.put_triggers(&repository, &[]).await.unwrap();
    let requests = server.requests();
    assert_eq!(body(&requests[0])["triggers"][0]["branches"], json!([]));
    assert_eq!(body(&requests[0])["triggers"][0]["events"], json!(["all"]));
    assert_eq!(body(&requests[1])["triggers"], json!([]));
    assert_eq!(
        requests[0].header("x-amz-target"),
        Some("CodeCommit_20150413.PutRepositoryTriggers")
    );
    let agent = requests[0].header("x-amz-user-agent").unwrap_or_default();
    assert!(agent.contains("app/branchline"), "{agent}");
}

#[tokio::test]
async fn names_of_entries_do_not_depend_on_the_start_of_their_paths() {
    let id = "0123456789012345678901234567890123456789";
    for prefix in ["", "src/deep/", "/src/deep/"] {
        let body = format!(
            r#"{{"commitId":"{id}","folderPath":"src/deep","treeId":"{id}",
               "subFolders":[{{"treeId":"{id}","relativePath":"{prefix}sub/"}}],
               "files":[{{"blobId":"{id}","relativePath":"{prefix}run","fileMode":"EXECUTABLE"}}],
               "symbolicLinks":[{{"blobId":"{id}","relativePath":"{prefix}ln","fileMode":"SYMLINK",
                                 "absolutePath":"src/deep"}}],
               "subModules":[{{"commitId":"{id}","absolutePath":"src/deep/lib"}}]}}"#
        );
        let server = Server::answering(answer(200, &[], &body)).await;
        let client = SdkCodeCommit::new(&server.aws());
        let repository = RepositoryName::new("repo").unwrap();
        let commit = CommitId::new(id).unwrap();
        let folder = client.get_folder(&repository, commit, "src/deep").await;
        let folder = folder.unwrap();
        let entries = folder.entries.iter();
        let entries: Vec<_> = entries.map(|e| (e.name.as_str(), e.mode)).collect();
        assert_eq!(
            entries,
            [
                ("sub", EntryMode::Tree),
                ("run", EntryMode::BlobExecutable),
                ("ln", EntryMode::Link),
                ("lib", EntryMode::Commit),
            ]
        );
    }
}

/// The token of `GetDifferences` is capitalised, the list is not.
#[tokio::test]
async fn differences_are_asked_for_by_the_capitalised_token() {
    let id = "0123456789012345678901234567890123456789";
    let other = "1123456789012345678901234567890123456789";
    let answered = format!(
        r#"{{"NextToken":"t-2","nextToken":"wrong","differences":[
           {{"changeType":"A","afterBlob":{{"blobId":"{id}","path":"a/b","mode":"100755"}}}},
           {{"changeType":"M","beforeBlob":{{"blobId":"{id}","path":"c","mode":"160000"}},
             "afterBlob":{{"blobId":"{other}","path":"c","mode":"160000"}}}},
           {{"changeType":"D","beforeBlob":{{"blobId":"{id}","path":"d","mode":"120000"}}}}]}}"#
    );
    let server = Server::answering(answer(200, &[], &answered)).await;
    let client = SdkCodeCommit::new(&server.aws());
    let repository = RepositoryName::new("repo").unwrap();
    let (before, after) = (CommitId::new(id).unwrap(), CommitId::new(other).unwrap());
    let page = client.get_differences(&repository, before, after, Some("t-1"));
    let page = page.await.unwrap();
    assert_eq!(page.next.as_deref(), Some("t-2"));
    let seen: Vec<_> = page
        .items
        .iter()
        .map(|one| [&one.before, &one.after].map(|side| side.as_ref().map(|s| (&*s.path, s.mode))))
        .collect();
    assert_eq!(
        seen,
        [
            [None, Some(("a/b", EntryMode::BlobExecutable))],
            [
                Some(("c", EntryMode::Commit)),
                Some(("c", EntryMode::Commit))
            ],
            [Some(("d", EntryMode::Link)), None],
        ]
    );
    assert_eq!(
        body(&server.requests()[0]),
        json!({
            "repositoryName": "repo",
            "beforeCommitSpecifier": id,
            "afterCommitSpecifier": other,
            "NextToken": "t-1",
        })
    );

    for odd in [
        r#"{"changeType":"A"}"#.to_owned(),
        format!(r#"{{"afterBlob":{{"blobId":"{id}","path":"a","mode":"040000"}}}}"#),
        format!(r#"{{"afterBlob":{{"blobId":"{id}","mode":"100644"}}}}"#),
        r#"{"afterBlob":{"blobId":"x","path":"a","mode":"100644"}}"#.to_owned(),
    ] {
        let answered = format!(r#"{{"differences":[{odd}]}}"#);
        let server = Server::answering(answer(200, &[], &answered)).await;
        let client = SdkCodeCommit::new(&server.aws());
        let error = client
            .get_differences(&repository, before, after, None)
            .await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Corrupt, "{odd}");
    }
}

#[tokio::test]
async fn an_execution_is_pinned_to_key_and_version() {
    let server = Server::answering(answer(200, &[], r#"{"pipelineExecutionId":"e-1"}"#)).await;
    let pipelines = SdkPipelines::new(&server.aws());
    let request = StartRequest {
        pipeline: PipelineName::new("deploy").unwrap(),
        client_request_token: "token-1".into(),
        source: Some(SourceRevision {
            action_name: "Source".into(),
            object_key: Some("repo/main.zip".into()),
            object_version_id: Some("v1".into()),
            commit_id: None,
        }),
        variables: vec![("BRANCH_NAME".into(), "main".into())],
    };
    assert_eq!(pipelines.start(&request).await.unwrap(), "e-1");
    assert_eq!(
        body(&server.requests()[0]),
        json!({
            "name": "deploy",
            "clientRequestToken": "token-1",
            "variables": [{"name": "BRANCH_NAME", "value": "main"}],
            "sourceRevisions": [
                {"actionName": "Source", "revisionType": "S3_OBJECT_KEY", "revisionValue": "repo/main.zip"},
                {"actionName": "Source", "revisionType": "S3_OBJECT_VERSION_ID", "revisionValue": "v1"},
            ],
        })
    );
}

fn options(precondition: Precondition) -> PutOptions {
    PutOptions {
        metadata: ObjectMetadata {
            content_type: Some("application/zip".into()),
            ..ObjectMetadata::default()
        },
        precondition,
        kms_key_id: Some("key-1".into()),
    }
}

#[tokio::test]
async fn a_kms_key_is_sent_with_the_bucket_key() {
    let upload =
        "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>";
    let server = Server::answering(answer(200, &[("etag", "\"1\"")], upload)).await;
    let store = SdkObjectStore::new(&server.aws());
    let bucket = BucketName::new("artifacts").unwrap();
    let key = ObjectKey::new("repo/main.zip").unwrap();
    let put = options(Precondition::Matches(ETag::new("\"0\"").unwrap()));
    store.put(&bucket, &key, "zip".into(), &put).await.unwrap();
    let create = options(Precondition::Absent);
    store.create_upload(&bucket, &key, &create).await.unwrap();
    let requests = server.requests();
    for request in &requests {
        for (header, value) in [
            ("x-amz-server-side-encryption", "aws:kms"),
            ("x-amz-server-side-encryption-aws-kms-key-id", "key-1"),
            ("x-amz-server-side-encryption-bucket-key-enabled", "true"),
            ("content-type", "application/zip"),
        ] {
            assert_eq!(request.header(header), Some(value), "{header}");
        }
        assert!(
            request.head.starts_with("PUT /artifacts/repo/main.zip")
                || request.head.starts_with("POST /artifacts/repo/main.zip"),
            "an endpoint of its own gets the bucket in the path: {}",
            request.head
        );
    }
    assert_eq!(requests[0].header("if-match"), Some("\"0\""));
    assert!(requests[0].header("x-amz-checksum-crc32").is_some());
    assert_eq!(
        requests[1].header("x-amz-checksum-algorithm"),
        Some("CRC32")
    );
    assert_eq!(
        requests[1].header("if-none-match"),
        None,
        "asked on completion"
    );
}

#[tokio::test]
async fn a_completion_carries_the_checksums_of_its_parts() {
    let result =
        "<CompleteMultipartUploadResult><ETag>\"1-1\"</ETag></CompleteMultipartUploadResult>";
    let server = Server::answering(answer(200, &[("x-amz-version-id", "v9")], result)).await;
    let store = SdkObjectStore::new(&server.aws());
    let bucket = BucketName::new("artifacts").unwrap();
    let key = ObjectKey::new("repo/main.zip").unwrap();
    let part = Part {
        number: 1,
        etag: ETag::new("\"p\"").unwrap(),
        checksum_crc32: Some("AAAAAA==".into()),
    };
    let id = UploadId("u".into());
    let upload = store
        .open_upload(&bucket, &key, UploadStart::Existing(&id))
        .await
        .unwrap();
    let written = upload
        .complete(&[part], &Precondition::Absent)
        .await
        .unwrap();
    assert_eq!(written.version_id.as_deref(), Some("v9"));
    let request = &server.requests()[0];
    assert_eq!(request.header("if-none-match"), Some("*"));
    assert!(
        request
            .body
            .contains("<ChecksumCRC32>AAAAAA==</ChecksumCRC32>"),
        "{}",
        request.body
    );
}
