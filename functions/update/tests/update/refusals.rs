//! Rejected settings and failed updates, and their errors.

use std::time::Instant;

use branchline_core::ErrorKind;
use branchline_core::name::{BucketName, RepositoryName};
use branchline_core::testkit::{Entry, FaultPlan, When};
use branchline_update::{Config, handle};
use serde_json::json;

use crate::fixture::*;

#[tokio::test]
async fn a_pin_to_an_unversioned_bucket_is_refused_before_anything_is_written() {
    let mut fixture = UpdateFixture::new(&[]);
    let plain = BucketName::new("plain").expect("it is valid");
    fixture.store.create_bucket(&plain, false);
    fixture.settings.insert("ARTIFACT_BUCKET", "plain");
    let tip = fixture.push("main", "hello");
    let failure = fixture.failure(moved("main", tip)).await;
    assert_eq!(failure.kind(), ErrorKind::Config);
    for part in ["`plain`", "versioning", "PIPELINE_PIN", "`main`", "`demo`"] {
        assert!(
            failure.message().contains(part),
            "{part}: {}",
            failure.message()
        );
    }
    assert_eq!(fixture.store.versions(&plain, "demo/main.zip").len(), 0);

    fixture.settings.insert("PIPELINE_PIN", "none");
    let results = fixture.results(moved("main", tip)).await;
    assert_eq!(outcomes(&results), [("main", "started")]);
    assert_eq!(fixture.executions()[0].request.source, None);
}

#[tokio::test]
async fn a_missing_branch_repository_or_bucket_is_named() {
    let mut fixture = UpdateFixture::new(&[]);
    let tip = fixture.push("main", "hello");
    let cases = [
        (json!({"repository": "demo", "branch": "nope"}), "`nope`"),
        (
            json!({"repository": "nowhere", "branch": "main"}),
            "`nowhere`",
        ),
    ];
    for (event, name) in cases {
        let failure = fixture.failure(event).await;
        assert_eq!(failure.kind(), ErrorKind::NotFound);
        assert!(failure.message().contains(name), "{}", failure.message());
    }
    let empty = RepositoryName::new("empty").expect("it is valid");
    fixture.codecommit.add_repository(&empty);
    let failure = fixture
        .failure(json!({"repository": "empty", "branch": "main"}))
        .await;
    assert_eq!(
        failure.kind(),
        ErrorKind::NotFound,
        "an empty repository has no branch"
    );

    let results = fixture.results(moved("gone", tip)).await;
    assert_eq!(
        outcomes(&results),
        [("gone", "skipped")],
        "it was deleted meanwhile"
    );

    fixture.settings.insert("ARTIFACT_BUCKET", "missing-bucket");
    let failure = fixture.failure(moved("main", tip)).await;
    assert_eq!(failure.kind(), ErrorKind::NotFound);
    assert!(
        failure.message().contains("missing-bucket"),
        "{}",
        failure.message()
    );
}

#[tokio::test]
async fn a_file_that_the_api_refuses_fails_with_its_path_and_without_an_object() {
    let fixture = UpdateFixture::new(&[]);
    let large = vec![b'x'; 6 * 1024 * 1024 + 1];
    let files = [
        ("a", Entry::file("a")),
        ("media/film.bin", Entry::file(large)),
    ];
    let tip = fixture.codecommit.commit(&repository(), "main", &files);
    let failure = fixture.failure(moved("main", tip)).await;
    assert_eq!(failure.kind(), ErrorKind::FileTooLarge);
    assert!(
        failure.message().contains("`media/film.bin`"),
        "{}",
        failure.message()
    );
    assert_eq!(fixture.versions("demo/main.zip").len(), 0);
    fixture.assert_no_upload_is_left();
}

/// "One failure does not stop the others, and fails the invocation."
#[tokio::test]
async fn one_failure_does_not_stop_the_others_and_fails_the_invocation() {
    let fixture = UpdateFixture::new(&[]);
    let tip = fixture.push("main", "hello");
    let large = Entry::file(vec![b'x'; 6 * 1024 * 1024 + 1]);
    let bad = fixture
        .codecommit
        .commit(&repository(), "large", &[("film", large)]);
    let mut event = records(&[reference("large", bad), reference("main", tip)]);
    let broken = json!({ "commit": "zz", "ref": "refs/heads/x" });
    event["Records"][0]["codecommit"]["references"]
        .as_array_mut()
        .expect("a list")
        .push(broken);
    let failure = fixture.failure(event).await;
    assert!(
        failure.message().starts_with("2 of 3 failed: "),
        "{}",
        failure.message()
    );
    assert_eq!(
        fixture.versions("demo/main.zip").len(),
        1,
        "the valid one is archived"
    );
    assert_eq!(fixture.executions().len(), 1);
}

#[tokio::test]
async fn an_exceeded_deadline_fails_and_leaves_nothing() {
    let fixture = UpdateFixture::new(&[]);
    let tip = fixture.push("main", "hello");
    let result = handle(fixture.context(), moved("main", tip), Instant::now()).await;
    assert_eq!(
        result.expect_err("the deadline is exceeded").kind(),
        ErrorKind::Deadline
    );
    assert_eq!(fixture.versions("demo/main.zip").len(), 0);
    fixture.assert_no_upload_is_left();
}

#[tokio::test]
async fn denied_access_keeps_its_kind() {
    let fixture = UpdateFixture::new(&[]);
    let tip = fixture.push("main", "hello");
    let script = FaultPlan::new();
    script.fail_method("get_folder", 1, ErrorKind::AccessDenied, When::Before);
    let result = handle(fixture.failing_context(&script), moved("main", tip), soon()).await;
    assert_eq!(
        result.expect_err("it is denied").kind(),
        ErrorKind::AccessDenied
    );
    fixture.assert_no_upload_is_left();
}

#[test]
fn each_invalid_setting_is_named_at_init() {
    let long = "x".repeat(101);
    let cases = [
        ("ARTIFACT_BUCKET", ""),
        ("ARTIFACT_BUCKET", "a/b"),
        ("ARTIFACT_KEY", "{branch}/{what}.zip"),
        ("ARTIFACT_KEY", "{branch"),
        ("ARTIFACT_KEY", "../x.zip"),
        ("ARTIFACT_KEY", "/x.zip"),
        ("ARCHIVE_PREFIX", "/etc/"),
        ("ARCHIVE_PREFIX", "../"),
        ("ARCHIVE_COMMIT_INFO", "yes"),
        ("ARCHIVE_SOURCE", "GIT"),
        ("BRANCHES_INCLUDE", "a[b"),
        ("BRANCHES_EXCLUDE", "a\\"),
        ("REPOSITORIES", "a[b"),
        ("PIPELINE_NAME", "a/b"),
        ("PIPELINE_NAME", &long),
        ("PIPELINE_SOURCE_ACTION", "a b"),
        ("PIPELINE_PIN", "latest"),
        ("PIPELINE_VARIABLES", "1"),
        ("DELETE_ARTIFACTS", "TRUE"),
        ("KMS_KEY_ID", "arn:aws:s3:eu-west-1:111122223333:key/k"),
        ("CODECOMMIT_CONCURRENCY", "0"),
        ("CODECOMMIT_CONCURRENCY", "many"),
    ];
    for (name, value) in cases {
        let settings = [("ARTIFACT_BUCKET", "artifacts"), (name, value)];
        let error = Config::read(&settings.into_iter().collect()).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Config, "{name}={value}");
        assert!(
            error.to_string().contains(&format!("`{name}`")),
            "{name}={value}: {error}"
        );
    }
    let contradictions = [
        [("ARTIFACT_KEY", "x.zip"), ("DELETE_ARTIFACTS", "true")],
        [
            ("AWS_REGION", "us-east-1"),
            ("KMS_KEY_ID", "arn:aws:kms:eu-west-1:111122223333:key/k"),
        ],
    ];
    for contradiction in contradictions {
        let settings = [("ARTIFACT_BUCKET", "abc")]
            .into_iter()
            .chain(contradiction);
        let error = Config::read(&settings.collect()).expect_err("they contradict");
        let [_, (named, _)] = contradiction;
        assert!(error.report().contains(&format!("`{named}`")), "{error}");
    }
}

/// A source action reads the configured key, unless the start overrides it: an artifact whose
/// key depends on the commit is never stored at the configured key.
#[test]
fn a_pin_to_the_version_alone_is_refused_for_keys_with_the_commit() {
    let read = |pin, key, pipeline| {
        let settings = [
            ("ARTIFACT_BUCKET", "abc"),
            ("ARTIFACT_KEY", key),
            ("PIPELINE_PIN", pin),
            ("PIPELINE_NAME", pipeline),
        ];
        Config::read(&settings.into_iter().collect())
    };
    let error =
        read("version", "{branch}/{commit}.zip", "p").expect_err("the configured key never exists");
    for named in ["`PIPELINE_PIN`", "`ARTIFACT_KEY`"] {
        assert!(error.report().contains(named), "{error}");
    }
    for (pin, key, pipeline) in [
        ("key-and-version", "{branch}/{commit}.zip", "p"),
        // A pipeline with another source.
        ("none", "{branch}/{commit}.zip", "p"),
        // Each branch has a pipeline that is configured with the key of the branch.
        ("version", "{branch}.zip", "p-{branch}"),
        ("version", "{branch}/{commit}.zip", ""),
    ] {
        read(pin, key, pipeline).expect("it can work");
    }
}

/// "A commit that the repository never had is `branchline.NotFound`."
#[tokio::test]
async fn a_commit_that_never_existed_is_an_error_and_not_superseded() {
    let fixture = UpdateFixture::new(&[]);
    let old = fixture.push("main", "hello");
    fixture.push("main", "more");
    let results = fixture.results(moved("main", old)).await;
    assert_eq!(outcomes(&results), [("main", "superseded")]);
    let never = "5".repeat(40);
    let event = json!({"repository": "demo", "branch": "main", "commit": never});
    let failure = fixture.failure(event).await;
    assert_eq!(failure.kind(), ErrorKind::NotFound);
    for part in [never.as_str(), "hint:", "the branch's tip"] {
        assert!(failure.message().contains(part), "{}", failure.message());
    }
    assert_eq!(fixture.store.journal(), Vec::<String>::new());
}
